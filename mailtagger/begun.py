"""Which message was being read when the process died: one that killed it TRIES times is not read again.

A process that runs out of memory, or dies in native code, raises nothing and remembers nothing. So a message is noted
before it is parsed, and the note is taken back however that ends; one that stays belongs to a process that died with
this message in hand. Little of what a server is asked belongs in between: it takes long, and who kills the process then
was not driven to it by the message.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mailtagger.journal import FAILED, Journal, Place

TRIES = 3
DEADLY = f"{FAILED}: the program ended each time that it was read"


class Deadly(Exception):
    """The message has killed the process TRIES times."""


@contextmanager
def in_hand(journal: Journal, account: str, at: Place) -> Iterator[None]:
    """Should the process die meanwhile, that counts against this message; Deadly where it has been enough."""
    place = account, at.folder, at.uidvalidity, at.uid
    one = "account = ? AND folder = ? AND uidvalidity = ? AND uid = ?"
    if journal.rows(_number, f"SELECT deaths FROM begun WHERE {one}", *place) >= [TRIES]:
        raise Deadly
    with journal.unsynced():
        journal.write("INSERT INTO begun VALUES (?, ?, ?, ?, 1, ?)"
                      " ON CONFLICT DO UPDATE SET deaths = deaths + 1, at = excluded.at", *place, journal.now())
    try:
        yield
    finally:
        with journal.unsynced():
            journal.write(f"UPDATE begun SET deaths = deaths - 1 WHERE {one}", *place)
            journal.write(f"DELETE FROM begun WHERE deaths = 0 AND {one}", *place)


def _number(deaths: int) -> int:
    return deaths
