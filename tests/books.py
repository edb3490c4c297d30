"""The books on an account: what was delivered to it, what its user did, and what therefore must be true in the end.

Certain is what the daemon could know: a move into Junk of a message that it had judged, a move out of Junk of one that
it had put or seen there, a $NotJunk on one that it had seen without. Of any other deed it may or may not learn. Nothing
else teaches, and no deed teaches anything else.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mailtagger.journal import FAILED, FILE
from mailtagger.parse import identify, parse
from tests.faults.house import MARKS, same

FOLDERS = ("INBOX", "Junk", "Archive", "Trash")
LOOKED = 0.5  # seconds at most between our last look at a folder and an intent to act there
OURS = {mark.lower() for mark in MARKS}


@dataclass
class Word:
    """What the user said of a message by a deed, and what the daemon had to know before to understand it."""

    at: float
    label: str
    place: tuple[str, int, int] | None = None  # of a mark: where the message was
    end: float = field(default_factory=time.time)  # by when the server had carried it out


@dataclass
class Entry:
    """One message, or several of the same content."""

    raw: bytes
    copies: list[str] = field(default_factory=list)  # where each was delivered
    arrivals: list[float] = field(default_factory=list)  # and when
    deleted_copies: int = 0
    flags: Counter[str] = field(default_factory=Counter)  # of the user's
    settings: list[tuple[float, float, int, str]] = field(default_factory=list)  # from when to when, which UID and flag
    words: list[Word] = field(default_factory=list)
    moves: list[tuple[float, float, int]] = field(default_factory=list)  # of the user's: from when to when, which UID
    left: set[tuple[str, int]] = field(default_factory=set)  # folder and UID from where the user moved it
    put: set[tuple[str, int]] = field(default_factory=set)  # and where to
    where: str = ""  # where to last
    story: list[str] = field(default_factory=list)

    def flagged(self, at: float, place: tuple[str, int, int], flag: str) -> None:
        self.flags[flag.lower()] += 1
        self.settings.append((at, time.time(), place[2], flag.lower()))
        if flag == "$NotJunk":
            self.words.append(Word(at, "ham", place))
        self._tell(at, f"{flag} at {place}")

    def moved(self, at: float, folder: str, uid: int, target: str, new: int) -> None:
        self.moves.append((at, time.time(), uid))
        self.left.add((folder, uid))
        self.put.add((target, new))
        if target == "Junk":
            self.words.append(Word(at, "spam"))
        elif folder == "Junk" and target != "Trash":
            self.words.append(Word(at, "ham"))
        self.where = target
        self._tell(at, f"{folder} UID {uid} → {target} UID {new}")

    def deleted(self, at: float) -> None:
        self.deleted_copies += 1
        self._tell(at, "deleted")

    def _tell(self, at: float, deed: str) -> None:
        self.story.append(f"{clock(at)} {deed}")


@dataclass(frozen=True)
class Found:
    """One message on the server."""

    folder: str
    uid: int
    raw: bytes
    flags: frozenset[str]


class Books:
    """All entries, and the journal they are compared with."""

    def __init__(self, state: Path, server: Any, atomic: bool) -> None:
        self._file, self._server, self._atomic = state / FILE, server, atomic
        self._entries: dict[str, Entry] = {}
        self._settled_at = 0.0
        self._certain = self.at_once = self.twice = 0

    @property
    def count(self) -> int:
        return sum(len(entry.copies) for entry in self._entries.values())

    def delivered(self, raw: bytes, folder: str) -> None:
        entry = self._entries.setdefault(identify(raw), Entry(raw))
        entry.copies.append(folder)
        entry.arrivals.append(time.time())
        entry.story.append(f"{clock(time.time())} delivered to {folder}")

    def entry(self, raw: bytes) -> Entry:
        return self._entries[identify(raw)]

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """What the journal holds, asked directly."""
        with closing(sqlite3.connect(self._file)) as journal:
            journal.row_factory = sqlite3.Row
            return journal.execute(sql, values).fetchall()

    def followed(self) -> set[str]:
        """The folders at which the follower has had its first look."""
        return {row["name"] for row in self.rows("SELECT name FROM followed")} if self._file.exists() else set()

    def settled(self) -> bool:
        """Whether all mail is judged, all that was begun has ended, and each folder was looked at since then."""
        [[read]] = self.rows("SELECT uidnext FROM folders WHERE name = 'INBOX'")
        with self._server.client("alice") as client:
            client.select_folder("INBOX", readonly=True)
            last = max(client.search(), default=0)
        if last >= read or self.rows("SELECT id FROM intents WHERE state = 'open'"):
            self._settled_at = 0.0
        elif not self._settled_at:
            self._settled_at = time.time()
        looks = [row[0] for row in self.rows("SELECT checked_at FROM followed")]
        time.sleep(0.2)
        return bool(self._settled_at) and min(looks) > self._settled_at

    def figures(self) -> dict[str, int]:
        """What happened, as the journal and the user know it."""
        moved = self.rows("SELECT count(*) FROM intents WHERE act = 'move' AND state = 'done'")[0][0]
        deeds = sum(" → " in deed for entry in self._entries.values() for deed in entry.story)
        lessons = self.rows("SELECT count(*) FROM lessons")[0][0]
        return {"moved by us": moved, "moved by the user": deeds, "by both at once": self.at_once,
                "copied twice": self.twice, "lessons": lessons, "certain": self._certain}

    def differences(self) -> list[str]:
        """Everything that is not as it must be."""
        wrong = [f"{row[0]}" for row in self.rows("PRAGMA integrity_check") if row[0] != "ok"]
        found: dict[str, list[Found]] = {}
        for one in self._everything():
            found.setdefault(identify(one.raw), []).append(one)
        strange = found.keys() - self._entries.keys()
        wrong += [f"nobody sent this, in {found[ident][0].folder}: {found[ident][0].raw[:200]!r}" for ident in strange]
        for ident, entry in self._entries.items():
            if differs := list(self._differs(ident, entry, found.get(ident, []))):
                wrong += [f"{ident[:8]} {parse(entry.raw).message_id}: {'; '.join(differs)}"]
                wrong += self._story(ident, entry)
        return wrong

    def _differs(self, ident: str, entry: Entry, found: list[Found]) -> Iterator[str]:
        places = sorted(one.folder for one in found)
        touched = bool(entry.where)
        acts = self.rows("SELECT * FROM intents WHERE ident = ? ORDER BY id", ident)
        alive = len(entry.copies) - entry.deleted_copies
        if len(places) > alive and any(act["act"] == "move" and _at_once(act, entry) for act in acts):
            self.at_once += 1  # MOVE is not atomic: of two at the same time, servers may carry out both
            return
        if not self._atomic and len(places) > alive and (
            self._alike(ident, entry) or self._unseen(ident, entry, acts)
        ):
            self.twice += 1
            return
        if len(places) != alive:
            yield f"delivered {len(entry.copies)} times, deleted {entry.deleted_copies} times, and now in {places}"
        if not all(same(one.raw, entry.raw) for one in found):
            yield "its bytes have changed"
        flags = Counter(flag.lower() for one in found for flag in one.flags)
        theirs = Counter({flag: n for flag, n in flags.items() if flag not in OURS})
        # Dovecot says OK to a flag on what we move away at that moment, and shows it.
        lost = Counter(flag for start, end, uid, flag in entry.settings if any(
            act["act"] == "move" and act["uid"] == uid and _while(act, start, end) for act in acts))
        missing = entry.flags - lost - theirs if self._atomic else Counter[str]()
        if not entry.deleted_copies and (theirs - entry.flags or missing):
            yield f"flags {dict(theirs)}, the user's are {dict(entry.flags)}"
        if waiting := [act["act"] for act in acts if act["state"] == "open"]:
            yield f"open: {waiting}"
        moves = [act for act in acts if act["act"] == "move" and act["state"] == "done"]
        junk = entry.copies.count("Junk") + len(moves)
        if not touched and places.count("Junk") != junk:
            yield f"{junk} should be in Junk, and it is in {places}"
        single = len(entry.copies) == 1
        # Dovecot says OK to a mark on what another client has just moved away, and shows it. Nor does one reach a copy
        # that was made before, its answer lost.
        copied = min((act["opened_at"] for act in moves), default=time.time()) if not self._atomic else time.time()
        marks = {mark.lower() for act in acts if act["act"] == "keyword" and act["state"] == "done"
                 and act["opened_at"] < copied and not _at_once(act, entry) for mark in act["target"].split()}
        if single and found and not marks <= set(flags):
            yield f"marked {sorted(marks)}, and it shows {sorted(flags)}"
        if single and len({act["uid"] for act in moves}) < len(moves):
            yield "moved twice from one place"
        for word in entry.words if single else ():
            # A move that finds the message where the user has put it meanwhile did nothing.
            again = [m for m in moves if m["opened_at"] > word.at and (m["target"], m["new_uid"]) not in entry.put]
            if word.label == "ham" and not word.place and again and self._knew(ident, entry, word):
                yield f"filed again after the user took it out at {clock(word.at)}"
        lessons = [row["label"] for row in self.rows("SELECT label FROM lessons WHERE ident = ?", ident)]
        expected = self._expected(ident, entry, found)
        if len(lessons) > 1 or (lessons[0] if lessons else None) not in expected:
            yield f"learned as {lessons}, and not as {expected}"

    def _expected(self, ident: str, entry: Entry, found: list[Found]) -> set[str | None]:
        """The labels that its lesson may have; None: there may be none."""
        twins = len(entry.copies) > 1
        said = {None, *(word.label for word in entry.words), *({"ham"} if twins and entry.deleted_copies else ())}
        if twins or entry.deleted_copies or not entry.words:  # a twin may seem to be back when the other was deleted
            return said
        last = entry.words[-1]
        stayed = last.place is None or [(one.folder, one.uid) for one in found] == [(last.place[0], last.place[2])]
        here = entry.where in (("Junk",) if last.label == "spam" else ("INBOX", "Archive")) or last.place is not None
        # Three cuts in a row while one message was read, and it is set aside: what it says was never seen.
        aside = {(row["folder"], row["uid"])
                 for row in self.rows("SELECT folder, uid FROM messages WHERE notes LIKE ?", f"%{FAILED}%")}
        read = not any((one.folder, one.uid) in aside for one in found)
        if not (stayed and here and read and self._knew(ident, entry, last)):
            return said
        self._certain += 1
        return {last.label}

    def _knew(self, ident: str, entry: Entry, word: Word) -> bool:
        """Whether the daemon had seen, before the user's deed, what it takes to understand it."""
        judged = self.rows("SELECT * FROM messages WHERE ident = ? AND at < ?", ident, word.at)
        if word.place:
            return any((row["folder"], row["uidvalidity"], row["uid"]) == word.place for row in judged)
        if word.label == "spam":  # not when we were about to move it there: then it may have been our own move
            ours = self.rows("SELECT * FROM intents WHERE ident = ? AND act = 'move' AND state = 'done'", ident)
            return any(row["folder"] != "Junk" for row in judged) and not any(
                (act["folder"], act["uid"]) in entry.left
                or (act["opened_at"] < word.end and act["closed_at"] > word.at) for act in ours)
        return bool(self.rows(
            "SELECT uid FROM sightings WHERE folder = 'Junk' AND ident = ?1 AND at < ?2 UNION SELECT uid FROM intents"
            " WHERE act = 'move' AND state = 'done' AND ident = ?1 AND closed_at < ?2", ident, word.at,
        ))

    def _alike(self, ident: str, entry: Entry) -> bool:
        """Whether a cut COPY may not be finished, as a twin of the same second, or where it lay before, makes the proof
        too weak."""
        close = any(later - at < 1.5 for at, later in pairwise(entry.arrivals))
        return close or len(self.rows("SELECT uid FROM messages WHERE ident = ?", ident)) > 1

    def _unseen(self, ident: str, entry: Entry, acts: list[Any]) -> bool:
        """Whether the user took a copy away of which nobody had told us, while the move that it belongs to was open."""
        seen = {row["uid"] for row in self.rows("SELECT uid FROM sightings WHERE ident = ?", ident)}
        return any(act["act"] == "move" and uid not in {act["uid"], act["new_uid"], *seen} and act["opened_at"] < start
                   and end < (act["closed_at"] or end) for act in acts for start, end, uid in entry.moves)

    def _story(self, ident: str, entry: Entry) -> Iterator[str]:
        """What a person needs to see why."""
        told = list(entry.story)
        for row in self.rows("SELECT * FROM messages WHERE ident = ?", ident):
            told.append(f"{clock(row['at'])} judged {row['verdict']} by {row['decided_by']}"
                        f" at {row['folder']} UID {row['uid']}")
        for row in self.rows("SELECT * FROM intents WHERE ident = ?", ident):
            told.append(f"{clock(row['opened_at'])} {row['act']} of {row['folder']} UID {row['uid']} {row['state']}"
                        f" {row['why']} at {clock(row['closed_at'] or 0)}, new UID {row['new_uid']}")
        for row in self.rows("SELECT * FROM sightings WHERE ident = ?", ident):
            told.append(f"{clock(row['at'])} sighted in {row['folder']} UID {row['uid']}")
        for row in self.rows("SELECT * FROM lessons WHERE ident = ?", ident):
            told.append(f"{clock(row['at'])} learned {row['label']} in {row['folder']} ({row['source']})")
        yield from (f"    {line}" for line in sorted(told))

    def _everything(self) -> Iterator[Found]:
        with self._server.client("alice") as client:
            for _, _, name in client.list_folders():
                client.select_folder(name, readonly=True)
                for uid, data in client.fetch(client.search(), ["BODY.PEEK[]", "FLAGS"]).items():
                    flags = frozenset(flag.decode() for flag in data[b"FLAGS"]) - {"\\Recent"}
                    yield Found(name, uid, data[b"BODY[]"], flags)


def _at_once(act: Any, entry: Entry) -> bool:
    """Whether the user moved the message away while we did this with it, or after our last look before."""
    return any(act["uid"] == uid and _while(act, start, end) for start, end, uid in entry.moves)


def _while(act: Any, start: float, end: float) -> bool:
    return bool(act["opened_at"] - LOOKED < end and start < (act["closed_at"] or end))


def clock(at: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at % 1 * 1000):03}"
