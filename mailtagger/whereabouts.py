"""Where messages are now: looked for where they were left first, then everywhere, and proven by their content.

A UID alone proves nothing, as the server may have renumbered the folder, and anybody can forge a Message-ID.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mailtagger.errors import MailboxError
from mailtagger.imap import Address, FolderInfo, FolderState, RawMessage
from mailtagger.parse import identify


class Mailbox(Protocol):
    """What is needed of `imap.Mailbox`."""

    def folders(self) -> list[FolderInfo]: ...
    def examine(self, folder: str) -> FolderState: ...
    def fetch(self, uids: Iterable[int]) -> Iterator[RawMessage]: ...
    def flags(self, uids: Iterable[int]) -> dict[int, frozenset[str]]: ...
    def locate(
        self, folder: str, message_id: str, digest: Callable[[bytes], str], ident: str,
        arrived: datetime | None = ..., shown: Iterable[str] = ...,
    ) -> list[int]: ...


@dataclass(frozen=True)
class Wanted:
    """A message to be found: what it is, and where it was left (`uid` None where the server did not tell)."""

    ident: str
    message_id: str
    folder: str
    uid: int | None
    home: str  # the folder where it is looked for next


@dataclass(frozen=True)
class Found:
    """Where it is."""

    address: Address
    flags: frozenset[str]


def find(mailbox: Mailbox, wanted: Sequence[Wanted]) -> list[Found | None]:
    """Where each message is, in the order given; None for one that is nowhere. Of equal ones each has its own place."""
    found: dict[int, Found] = {}
    taken: set[Address] = set()

    def take(number: int, place: Found) -> None:
        if number not in found and place.address not in taken:
            taken.add(place.address)
            found[number] = place

    def look(folder: str, numbers: Iterable[int]) -> None:
        try:
            state = mailbox.examine(folder)
        except MailboxError:  # the folder is gone, or closed to this account
            return
        for number in numbers:
            one = wanted[number]
            uids = mailbox.locate(state.name, one.message_id, proof(one.ident), one.ident)
            for uid, flags in mailbox.flags(uids).items() if uids else ():
                take(number, Found(Address(state.name, state.uidvalidity, uid), flags))

    for folder in dict.fromkeys(one.folder for one in wanted):
        here = [number for number, one in enumerate(wanted) if one.folder == folder]
        for number, place in _at_uid(mailbox, folder, wanted, here):
            take(number, place)
        look(folder, [number for number in here if number not in found])
    if len(found) < len(wanted):
        homes = {one.home for one in wanted}
        for name in sorted((info.name for info in mailbox.folders()), key=lambda name: name not in homes):
            missing = [number for number, one in enumerate(wanted) if number not in found and one.folder != name]
            if missing:
                look(name, missing)
    return [found.get(number) for number in range(len(wanted))]


def proof(ident: str) -> Callable[[bytes], str]:
    """The digest that gives this ident for its message: `identify`, or of one that could not be parsed plain sha256."""
    def digest(raw: bytes) -> str:
        plain = hashlib.sha256(raw).hexdigest()
        return plain if plain == ident else identify(raw)

    return digest


def _at_uid(
    mailbox: Mailbox, folder: str, wanted: Sequence[Wanted], numbers: Sequence[int]
) -> Iterator[tuple[int, Found]]:
    by_uid: dict[int, list[int]] = {}
    for number in numbers:
        if (uid := wanted[number].uid) is not None:
            by_uid.setdefault(uid, []).append(number)
    try:
        mailbox.examine(folder)
    except MailboxError:
        return
    for message in mailbox.fetch(sorted(by_uid)):
        for number in by_uid[message.address.uid]:
            if proof(wanted[number].ident)(message.raw) == wanted[number].ident:
                yield number, Found(message.address, message.flags)
