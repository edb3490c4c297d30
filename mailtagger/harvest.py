"""Where mail to learn from lies: a folder on the server, or files. Surveyed first, so that only what is new is read.

A survey of a folder reads flags and Message-IDs; one of files reads the files and compares contents. Of what is new the
newest is taken: a folder's UIDs, an mbox's order and a Maildir's names are those of time. Folders are opened read-only.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mailtagger import files
from mailtagger.apply import left_alone
from mailtagger.decide import Word
from mailtagger.errors import TryLater
from mailtagger.imap import Mailbox
from mailtagger.imap_reader import Head
from mailtagger.imap_syntax import lower
from mailtagger.parse import identify, parse

CHUNK = 25  # messages in memory at a time


@dataclass
class Tally:
    """What came of one place: messages learned, known from before, and skipped for this reason or that."""

    learned: int = 0
    known: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: bool = False  # something could not be read


class Harvest(Protocol):
    """Mail of one label in one place."""

    label: Word
    kind: str  # "folder" or "file"
    place: str
    only: str  # which of the mail there, "" for all
    tally: Tally

    def survey(self, limit: int, stop: Callable[[], bool]) -> int:
        """How many of the newest `limit` messages are new."""

    def take(self, number: int) -> Iterator[bytes]:
        """The newest so many of those, oldest first."""


class Folder:
    """Mail in a folder on the server."""

    kind = "folder"

    def __init__(
        self, mailbox: Mailbox, place: str, label: Word, known: Collection[str],
        fit: Callable[[Head], str] = lambda head: "", only: Literal["", "read", "answered"] = "",
    ) -> None:
        """`known`: Message-IDs of what need not be read again; `fit`: why a message is to be skipped, or nothing."""
        self._mailbox, self.place, self.label = mailbox, place, label
        self._known, self._fit = known, fit
        self.only: str = only
        self._uidvalidity, self._new = 0, list[int]()
        self.tally = Tally()

    def survey(self, limit: int, stop: Callable[[], bool]) -> int:
        self._uidvalidity = self._mailbox.examine(self.place).uidvalidity
        uids = self._mailbox.answered() if self.only == "answered" else self._mailbox.uids()
        for head in self._mailbox.heads(uids[-limit:]):
            if stop():
                break
            if why := self._why_not(head):
                self.tally.skipped[why] += 1
            elif parse(head.header).message_id in self._known:
                self.tally.known += 1
            else:
                self._new.append(head.address.uid)
        return len(self._new)

    def _why_not(self, head: Head) -> str:
        if left_alone(head.flags):
            return "marked as deleted or a draft"
        return "never read" if self.only == "read" and "\\seen" not in lower(head.flags) else self._fit(head)

    def take(self, number: int) -> Iterator[bytes]:
        uids = self._new[len(self._new) - number :]
        for start in range(0, len(uids), CHUNK):  # another folder may have been opened since the last chunk
            chunk = uids[start : start + CHUNK]
            if self._mailbox.examine(self.place).uidvalidity != self._uidvalidity:
                raise TryLater(f"The server has renumbered {self.place} meanwhile.")
            found = [message.raw for message in self._mailbox.fetch(chunk)]
            if len(found) < len(chunk):
                self.tally.skipped["gone meanwhile"] += len(chunk) - len(found)
            yield from found


class Files:
    """Mail in a file or a directory, in all forms that `score` takes save standard input."""

    kind, only = "file", ""

    def __init__(self, place: str, label: Word, known: Collection[str]) -> None:
        """`known`: idents of what need not be learned again."""
        self.place, self.label, self._known = place, label, known
        self._new: list[int] = []
        self.tally = Tally()

    def survey(self, limit: int, stop: Callable[[], bool]) -> int:
        new, known = list[int](), list[int]()
        for number, source in enumerate(files.read([self.place])):
            if stop():
                break
            if source.error:
                self.tally.skipped[f"cannot be read: {source.error}"] += 1
                self.tally.failed = True
            else:
                (known if identify(source.raw) in self._known else new).append(number)
        newest = set(sorted(new + known)[-limit:])
        self.tally.known = len(newest.intersection(known))
        self._new = [number for number in new if number in newest]
        return len(self._new)

    def take(self, number: int) -> Iterator[bytes]:
        wanted = set(self._new[len(self._new) - number :])
        for place, source in enumerate(files.read([self.place])):
            if place in wanted and not source.error:
                wanted.remove(place)
                yield source.raw
            if not wanted:
                return
        self.tally.skipped["gone meanwhile"] += len(wanted)


def shares(sizes: Sequence[int], room: int) -> list[int]:
    """How many to take of each: `room` in all, and of none more than of another that has more to give."""
    taken = [0] * len(sizes)
    for rank, place in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        taken[place] = min(sizes[place], (room - sum(taken)) // (len(sizes) - rank))
    return taken


def evenly(harvests: Sequence[Harvest], numbers: Sequence[int]) -> Iterator[tuple[Harvest, bytes]]:
    """The messages of all places, so mixed that each is done with at the same time: the last word has most weight."""
    streams = {n: harvests[n].take(numbers[n]) for n in range(len(harvests)) if numbers[n]}
    done = dict.fromkeys(streams, 0)
    while streams:
        n = min(streams, key=lambda n: (done[n] + 1) / numbers[n])
        done[n] += 1
        raw = next(streams[n], None)
        if raw is None:
            del streams[n]
        else:
            yield harvests[n], raw
