"""Whom the user writes to: the recipients of his sent mail, and nobody else; kept in the journal's file.

A sender is not in here for having written, nor for having been answered by a program.
"""

import email
import re
from collections.abc import Iterable
from email.policy import compat32
from email.utils import getaddresses

from mailtagger.journal import Journal

FIELDS = ("To", "Cc", "Auto-Submitted", "Content-Type")  # what is read of a sent message
RECIPIENTS = 100  # a message
ADDRESS = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]{2,63}")


def recipients(header: bytes) -> list[str]:
    """The addresses in To and Cc of a sent message, in lower case; none where no person sent it.

    An automatic reply (RFC 3834) or a receipt (RFC 3798) goes to whoever wrote, a spammer included.
    """
    message = email.message_from_bytes(header[:100_000], policy=compat32)
    if str(message.get("Auto-Submitted", "no")).strip().lower() != "no":
        return []
    if message.get_content_type() == "multipart/report":
        return []
    fields = [str(value) for name in ("To", "Cc") for value in message.get_all(name, [])]
    found = (address.lower() for _, address in getaddresses(fields))
    return list(dict.fromkeys(address for address in found if ADDRESS.fullmatch(address)))[:RECIPIENTS]


def add(journal: Journal, account: str, addresses: Iterable[str], source: str) -> int:
    """How many of these addresses are new; all are on the disk when this returns."""
    with journal.transaction():
        return sum(
            journal.write("INSERT OR IGNORE INTO correspondents VALUES (?, ?, ?, ?)",
                          account, address, source, journal.now()).rowcount
            for address in addresses
        )


def writes_to(journal: Journal, account: str, address: str) -> bool:
    """Whether the user has written to this address, which is in lower case."""
    return bool(journal.rows(
        _one, "SELECT 1 AS one FROM correspondents WHERE account = ? AND address = ?", account, address
    ))


def _one(one: int) -> int:
    return one
