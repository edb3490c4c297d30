"""Which messages were being read when the process died: one that killed it TRIES times is not read again.

A process that runs out of memory, or dies in native code, raises nothing and remembers nothing. So what is about to be
read is noted first, and the note goes however the reading ends; a note that is still there belongs to a process that
died with that message in hand. From then on it is read alone, which clears those that were only read beside it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mailtagger.journal import FAILED, Journal

TRIES = 3
DEADLY = f"{FAILED}: the program ended each time that it was read"


class Begun:
    """The messages of one folder that are in hand, or were when a process died."""

    def __init__(self, journal: Journal, account: str, folder: str, uidvalidity: int) -> None:
        self._journal, self._place = journal, (account, folder, uidvalidity)

    def portions(self, uids: Sequence[int]) -> Iterator[tuple[Sequence[int], bool]]:
        """The UIDs in order, in portions to be read together, and whether they must not be read at all."""
        deaths = dict(self._journal.rows(
            _pair, "SELECT uid, deaths FROM begun WHERE account = ? AND folder = ? AND uidvalidity = ?", *self._place
        ))
        portion: list[int] = []
        for uid in uids:
            if uid not in deaths:
                portion.append(uid)
                continue
            if portion:
                yield portion, False
                portion = []
            yield [uid], deaths[uid] >= TRIES
        if portion:
            yield portion, False

    @contextmanager
    def in_hand(self, uids: Sequence[int]) -> Iterator[None]:
        """Should the process die meanwhile, that counts against each of these."""
        with self._journal.unsynced():
            for uid in uids:
                self._journal.write("INSERT INTO begun VALUES (?, ?, ?, ?, 1, ?)"
                                    " ON CONFLICT DO UPDATE SET deaths = deaths + 1, at = excluded.at",
                                    *self._place, uid, self._journal.now())
        try:
            yield
        finally:
            with self._journal.unsynced():
                for uid in uids:
                    self._journal.write("DELETE FROM begun WHERE account = ? AND folder = ? AND uidvalidity = ?"
                                        " AND uid = ?", *self._place, uid)


def _pair(uid: int, deaths: int) -> tuple[int, int]:
    return uid, deaths
