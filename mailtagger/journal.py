"""What was judged, what was intended and what came of it: one SQLite file, written before and after every act.

An intent is journalled before its act and closed after it. An intent that is still open when the daemon starts may or
may not have happened: look where the message is, never repeat blindly. No text of a mail is ever stored, save what the
user has taught (lessons.py).
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from mailtagger.errors import StateError
from mailtagger.state import explained, private_directory, private_file

FILE = "journal.sqlite3"

BLOBS = frozenset({"terms", "cleaned"})
TAUGHT = ("lessons", "correspondents")  # the tables that `forget` takes from
PARTING = 0.2  # seconds for what another thread does in the journal when it is closed
UNDO = "undo-"  # so begin the batches that take others back
FAILED = "it could not be judged"  # so begins the note on a message that is set aside
TAKEN_BACK = "undone"  # so begins the note on a message whose acts `undo` took back
GONE = "it was gone: moved or deleted by somebody else"  # why an act failed that nobody misses
UNSEEN = "it is here again, and nobody saw where it was"  # why a move counts as done whose answer never came

Act = Literal["keyword", "move", "unmark"]  # only `undo` takes keywords off
State = Literal["open", "done", "failed"]
Row = TypeVar("Row")

# Entry N leads from version N to N + 1. An entry that was once released is never edited: add another.
MIGRATIONS = (
    """
    CREATE TABLE folders (
        account TEXT NOT NULL, name TEXT NOT NULL, uidvalidity INTEGER NOT NULL, uidnext INTEGER NOT NULL,
        modseq INTEGER, checked_at REAL NOT NULL,
        PRIMARY KEY (account, name)
    );
    CREATE TABLE messages (
        account TEXT NOT NULL, folder TEXT NOT NULL, uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL,
        ident TEXT NOT NULL, message_id TEXT NOT NULL, score REAL, verdict TEXT NOT NULL, decided_by TEXT NOT NULL,
        model TEXT NOT NULL, flags_before TEXT NOT NULL, notes TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (account, folder, uidvalidity, uid)
    );
    CREATE INDEX messages_ident ON messages (account, ident);
    CREATE INDEX messages_at ON messages (at);
    CREATE TABLE intents (
        id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, folder TEXT NOT NULL,
        uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL, ident TEXT NOT NULL, message_id TEXT NOT NULL,
        act TEXT NOT NULL, target TEXT NOT NULL, batch TEXT NOT NULL, state TEXT NOT NULL, new_uid INTEGER,
        why TEXT NOT NULL, opened_at REAL NOT NULL, closed_at REAL
    );
    CREATE INDEX intents_address ON intents (account, folder, uidvalidity, uid);
    CREATE INDEX intents_ident ON intents (account, ident);
    CREATE INDEX intents_open ON intents (account) WHERE state = 'open';
    CREATE TABLE notes (
        account TEXT NOT NULL, folder TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (account, folder, kind)
    );
    """,
    # Learning: the lessons, and where to look for more of them.
    """
    ALTER TABLE messages ADD COLUMN taught TEXT NOT NULL DEFAULT '';
    CREATE INDEX messages_message_id ON messages (account, message_id);
    CREATE TABLE lessons (
        id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, ident TEXT NOT NULL, message_id TEXT NOT NULL,
        label TEXT NOT NULL, source TEXT NOT NULL, sender TEXT NOT NULL, folder TEXT NOT NULL, score REAL, verdict TEXT,
        model TEXT, base REAL NOT NULL, terms BLOB NOT NULL, cleaned BLOB, at REAL NOT NULL, learned_by TEXT,
        UNIQUE (account, ident, message_id)
    );
    CREATE INDEX lessons_account ON lessons (account, id);
    CREATE TABLE followed (
        account TEXT NOT NULL, name TEXT NOT NULL, uidvalidity INTEGER NOT NULL, uidnext INTEGER NOT NULL,
        modseq INTEGER, checked_at REAL NOT NULL,
        PRIMARY KEY (account, name)
    );
    CREATE TABLE sightings (
        account TEXT NOT NULL, folder TEXT NOT NULL, uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL,
        message_id TEXT NOT NULL, size INTEGER NOT NULL, ident TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (account, folder, uidvalidity, uid)
    );
    CREATE INDEX sightings_message ON sightings (account, message_id);
    CREATE TABLE marks (
        account TEXT NOT NULL, folder TEXT NOT NULL, uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL,
        word TEXT NOT NULL,
        PRIMARY KEY (account, folder, uidvalidity, uid, word)
    );
    CREATE TABLE correspondents (
        account TEXT NOT NULL, address TEXT NOT NULL, source TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (account, address)
    );
    CREATE TABLE retrainings (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, parent TEXT NOT NULL, candidate TEXT NOT NULL,
        promoted INTEGER NOT NULL, why TEXT NOT NULL, figures TEXT NOT NULL
    );
    """,
    # Which model said what a lesson starts from: another model says something else.
    """
    ALTER TABLE lessons ADD COLUMN base_of TEXT NOT NULL DEFAULT '';
    """,
    # What a process had in hand when it died.
    """
    CREATE TABLE begun (
        account TEXT NOT NULL, folder TEXT NOT NULL, uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL,
        deaths INTEGER NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (account, folder, uidvalidity, uid)
    );
    """,
    # When a message was delivered (INTERNALDATE): moved it keeps that, and one delivered again has another.
    """
    ALTER TABLE messages ADD COLUMN arrived REAL;
    ALTER TABLE sightings ADD COLUMN arrived REAL;
    """,
)


class Place(Protocol):
    """Where a message is: what the journal reads of `imap.Address`."""

    @property
    def folder(self) -> str: ...
    @property
    def uidvalidity(self) -> int: ...
    @property
    def uid(self) -> int: ...


class Verdict(Protocol):
    """What the journal reads of `decide.Decision`."""

    @property
    def verdict(self) -> str: ...
    @property
    def decided_by(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class FolderRow:
    """How far a folder has been read: every UID below `uidnext` is dealt with, under this `uidvalidity`."""

    account: str
    name: str
    uidvalidity: int
    uidnext: int
    modseq: int | None
    checked_at: datetime


@dataclass(frozen=True)
class Judged:
    """One message as it was judged last; `flags_before` is from before our first act on it."""

    account: str
    folder: str
    uidvalidity: int
    uid: int
    ident: str
    message_id: str
    score: float | None
    verdict: str
    decided_by: str
    model: str
    flags_before: frozenset[str]
    notes: tuple[str, ...]
    at: datetime
    taught: str = ""  # what the personal layer had learned by then (`Lessons.stand`)
    arrived: datetime | None = None  # INTERNALDATE, where that was noted


def may_be_one(arrived: datetime | None, other: datetime | None) -> bool:
    """Whether what was delivered at these times can be one message, and not one delivered again."""
    return arrived is None or other is None or arrived == other


@dataclass(frozen=True)
class Intent:
    """One act on one message; `target` is a folder for a move, the keywords with spaces between for a keyword act.

    The fields from `state` on are the journal's: leave them out when opening one.
    """

    account: str
    folder: str
    uidvalidity: int
    uid: int
    ident: str
    message_id: str
    act: Act
    target: str
    batch: str = ""
    state: State = "open"
    new_uid: int | None = None
    why: str = ""
    id: int = 0
    opened_at: datetime | None = None
    closed_at: datetime | None = None


@dataclass(frozen=True)
class Event:
    """One line of the history: a judged message and, if there was one, the act that weighs most (move over keyword)."""

    judged: Judged
    intent: Intent | None


@dataclass(frozen=True)
class Counts:
    """What one account's journal holds, for `status`; the acts are counted in messages."""

    ham: int = 0
    unsure: int = 0
    spam: int = 0
    keyworded: int = 0
    moved: int = 0
    failed: int = 0
    open: int = 0

    @property
    def judged(self) -> int:
        return self.ham + self.unsure + self.spam


@dataclass(frozen=True)
class Note:
    """Something a person should know about a folder ("" = the whole account) until it is taken back."""

    account: str
    folder: str
    kind: str
    text: str
    at: datetime


class Journal:
    """The open journal at `path`, safe to share between threads; every method raises only StateError.

    A commit is on the disk when the method returns (WAL, synchronous=FULL); many writes inside one `transaction()` cost
    one wait for the disk instead of one each.
    """

    def __init__(self, path: Path, wait: float = 5.0, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.now = clock  # seconds since 1970
        self._lock = threading.RLock()
        private_directory(path.parent)
        private_file(path)  # the -wal and -shm files take their mode from it
        with explained(path):
            self._db = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
            try:
                self._db.row_factory = sqlite3.Row
                self._prepare()
                self._inodes = _inodes(path)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        mode = self._db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StateError(f"{self.path} cannot keep a write-ahead log.", "Put state_dir on a local disk.")
        self._synchronous("FULL")
        # The log is folded in at 0.4 MB, not at 4: on a small disk it took all the room, and left none to fold it in.
        self._db.execute("PRAGMA wal_autocheckpoint = 100")
        self._db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
        self._db.execute("PRAGMA temp_store = MEMORY")  # or pages with text might lie in /var/tmp for a while
        if self._version() == len(MIGRATIONS):
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            version = self._version()  # again, now that no other process can be migrating
            if version > len(MIGRATIONS):
                raise StateError(
                    f"{self.path} was written by a newer mailtagger (format {version}, not {len(MIGRATIONS)}).",
                    "Install that version again, or set another state_dir.",
                )
            for statements in MIGRATIONS[version:]:
                for statement in statements.split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Closes the file; SQLite folds its log into it.

        Not while a thread that nobody could stop waits in it for another process: then the end of ours closes it, and
        no commit is lost.
        """
        if not self._lock.acquire(timeout=PARTING):
            return
        try:
            with explained(self.path):
                self._db.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside become one commit, or none; other threads wait meanwhile, so talk to no server inside."""
        with self._lock:
            if self._db.in_transaction:
                yield  # the outer one commits
                return
            self.still_there()
            with explained(self.path):
                self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                with explained(self.path):
                    self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:  # at times SQLite has rolled back by itself when the disk is full
                    with explained(self.path):
                        self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def unsynced(self) -> Iterator[None]:
        """A transaction that does not wait for the disk: it outlives the process, and need not outlive the machine."""
        with self._lock:
            self._synchronous("NORMAL")
            try:
                with self.transaction():
                    yield
            finally:
                self._synchronous("FULL")

    def _synchronous(self, level: Literal["FULL", "NORMAL"]) -> None:
        with explained(self.path):
            self._db.execute(f"PRAGMA synchronous = {level}")

    def still_there(self) -> None:
        """StateError when the file, or its log, was removed: SQLite would go on writing where nothing is kept."""
        with explained(self.path):
            if _inodes(self.path) != self._inodes:
                raise StateError(f"{self.path} was removed or replaced while in use.", "Start mailtagger again.")

    def _execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        with explained(self.path):
            return self._db.execute(sql, [_stored(value) for value in values])

    def rows(self, make: Callable[..., Row], sql: str, *values: object) -> list[Row]:
        """What a query finds, each row made by `make` from its columns by name; times are datetimes in UTC."""
        with self._lock, explained(self.path):
            rows = self._execute(sql, *values).fetchall()
        return [make(**{name: _loaded(name, row[name]) for name in row.keys()}) for row in rows]  # noqa: SIM118

    def write(self, sql: str, *values: object) -> sqlite3.Cursor:
        """One change, on the disk when this returns, or with the transaction that it stands in."""
        with self.transaction():
            return self._execute(sql, *values)

    def wipe(self) -> bool:
        """Whether what was taught and deleted until now is gone from the file and its log; not while others read.

        SQLite overwrites what it deletes, but not what it had copied to another page before: whole rows stay in the
        gaps. So the tables are written anew, into pages that are cleared first.
        """
        with self.transaction():
            for table in TAUGHT:
                self._execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {table}")
                self._execute(f"DELETE FROM {table}")
                self._execute(f"INSERT INTO {table} SELECT * FROM kept")
                self._execute("DROP TABLE kept")
        with self._lock, explained(self.path):
            return not self._db.in_transaction and not self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    def folder(self, account: str, name: str) -> FolderRow | None:
        """How far this folder was read, or None on the very first visit."""
        rows = self.rows(FolderRow, "SELECT * FROM folders WHERE account = ? AND name = ?", account, name)
        return rows[0] if rows else None

    def folders(self, account: str) -> list[FolderRow]:
        """Every folder of the account that was ever watched, by name."""
        return self.rows(FolderRow, "SELECT * FROM folders WHERE account = ? ORDER BY name", account)

    def watermark(self, account: str, name: str, uidvalidity: int, uidnext: int, modseq: int | None = None) -> None:
        """From now on the folder counts as read below `uidnext`."""
        self.write("REPLACE INTO folders VALUES (?, ?, ?, ?, ?, ?)",
                    account, name, uidvalidity, uidnext, modseq, self.now())

    def void(self, account: str, name: str, uidvalidity: int, first: int) -> None:
        """The UIDs from `first` on are given out again: what had them is known by its content alone."""
        with self.transaction():
            for table in ("messages", "intents"):
                self.write(f"UPDATE OR REPLACE {table} SET uidvalidity = 0 WHERE account = ? AND folder = ?"
                           " AND uidvalidity = ? AND uid >= ?", account, name, uidvalidity, first)

    def record(self, account: str, address: Place, ident: str, message_id: str, score: float | None, decision: Verdict,
               flags: Iterable[str], model: str, taught: str = "", arrived: datetime | None = None) -> None:
        """The message at this address is judged; judged again, the new verdict replaces the old, the flags do not."""
        self.write(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET ident = excluded.ident, message_id = excluded.message_id,"
            " score = excluded.score, verdict = excluded.verdict, decided_by = excluded.decided_by,"
            " model = excluded.model, notes = excluded.notes, at = excluded.at, taught = excluded.taught,"
            " arrived = coalesce(excluded.arrived, arrived)",
            account, address.folder, address.uidvalidity, address.uid, ident, message_id, score, decision.verdict,
            decision.decided_by, model, json.dumps(sorted(flags)), json.dumps(list(decision.notes)), self.now(),
            taught, arrived.timestamp() if arrived else None,
        )

    def judged(self, account: str, address: Place) -> Judged | None:
        """The verdict on the message at this address."""
        rows = self.rows(
            Judged, "SELECT * FROM messages WHERE account = ? AND folder = ? AND uidvalidity = ? AND uid = ?",
            account, address.folder, address.uidvalidity, address.uid,
        )
        return rows[0] if rows else None

    def known(self, account: str, ident: str, message_id: str) -> Judged | None:
        """The last verdict on this very message wherever it was: after a change of UIDVALIDITY nothing is judged anew.

        Both have to agree: anybody can forge a Message-ID.
        """
        rows = self.rows(
            Judged, "SELECT * FROM messages WHERE account = ? AND ident = ? AND message_id = ?"
            " ORDER BY at DESC LIMIT 1", account, ident, message_id,
        )
        return rows[0] if rows else None

    def set_aside(self, account: str) -> list[Judged]:
        """The messages that could not be judged, however often it was tried, newest first."""
        return self.rows(
            Judged, "SELECT * FROM messages WHERE account = ? AND instr(notes, ?) > 0 ORDER BY at DESC, rowid DESC",
            account, json.dumps(FAILED)[:-1],
        )

    def called(self, account: str, message_id: str) -> list[Judged]:
        """The verdicts on all messages with this Message-ID, oldest first; they need not be the same message."""
        return self.rows(
            Judged, "SELECT * FROM messages WHERE account = ? AND message_id = ? ORDER BY at, rowid",
            account, message_id,
        )

    def moving(self, account: str, ident: str, message_id: str, target: str) -> list[Intent]:
        """The moves of this very message to that folder which are done, or may be under way, oldest first."""
        return self.rows(
            Intent, "SELECT * FROM intents WHERE account = ? AND ident = ? AND message_id = ? AND act = 'move'"
            " AND target = ? AND state <> 'failed' ORDER BY id", account, ident, message_id, target,
        )

    def open_intents(self, intents: Sequence[Intent]) -> list[int]:
        """The intents' ids, in order, once all are safely on the disk; now they may be carried out."""
        with self.transaction():
            return [self._open(intent) for intent in intents]

    def _open(self, intent: Intent) -> int:
        cursor = self._execute(
            "INSERT INTO intents (account, folder, uidvalidity, uid, ident, message_id, act, target, batch, state, why,"
            " opened_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', '', ?)",
            intent.account, intent.folder, intent.uidvalidity, intent.uid, intent.ident, intent.message_id, intent.act,
            intent.target, intent.batch, self.now(),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def copied(self, ids: Mapping[int, int | None]) -> None:
        """These moves have got as far as a copy, id → its UID in the target; what is left is to delete the original."""
        with self.transaction():
            for id_, new_uid in ids.items():
                self._execute("UPDATE intents SET new_uid = ? WHERE id = ?", new_uid, id_)

    def close_intents(self, ids: Iterable[int], state: Literal["done", "failed"],
                      new_uids: Mapping[int, int | None] | None = None, why: str = "") -> None:
        """The outcome of these intents; `new_uids` leads from a message's old UID to its new one."""
        new = new_uids or {}
        with self.transaction():
            for id_ in ids:
                row = self._execute("SELECT uid FROM intents WHERE id = ?", id_).fetchone()
                self._execute("UPDATE intents SET state = ?, new_uid = ?, why = ?, closed_at = ? WHERE id = ?",
                              state, new.get(row["uid"]) if row else None, why, self.now(), id_)

    def open_intents_of(self, account: str) -> list[Intent]:
        """The account's intents without an outcome, oldest first: look before repeating any; an undo's are its own."""
        return self.rows(
            Intent, "SELECT * FROM intents WHERE account = ? AND state = 'open' AND substr(batch, 1, ?) <> ?"
            " ORDER BY id", account, len(UNDO), UNDO,
        )

    def moves(self, account: str, ident: str, message_id: str) -> list[Intent]:
        """The done moves of this very message: back in a watched folder, the user rescued it.

        An undo's count from the start on: the message is back before the journal can know.
        """
        return self.rows(
            Intent, "SELECT * FROM intents WHERE account = ? AND ident = ? AND message_id = ? AND act = 'move'"
            " AND (state = 'done' OR (state = 'open' AND substr(batch, 1, ?) = ?)) ORDER BY id",
            account, ident, message_id, len(UNDO), UNDO,
        )

    def acts(self, account: str, address: Place) -> list[Intent]:
        """What was to be done with the message at this address, oldest first."""
        return self.rows(
            Intent, "SELECT * FROM intents WHERE account = ? AND folder = ? AND uidvalidity = ? AND uid = ?"
            " ORDER BY id", account, address.folder, address.uidvalidity, address.uid,
        )

    def prune(self, before: datetime) -> int:
        """How many messages judged before then were forgotten; done moves and the user's word are kept for good.

        Done moves tell a rescued message from a new one, and an open intent is still to be looked up.
        """
        with self.transaction():
            gone = self._execute("DELETE FROM messages WHERE at < ? AND decided_by <> 'user'", before.timestamp())
            self._execute("DELETE FROM begun WHERE at < ?", before.timestamp())
            self._execute(
                "DELETE FROM intents WHERE closed_at < ? AND NOT (act = 'move' AND state = 'done')", before.timestamp()
            )
            return gone.rowcount

    def history(self, limit: int = 50, account: str | None = None, since: datetime | None = None) -> list[Event]:
        """The messages judged last, newest first."""
        judged = self.rows(
            Judged, "SELECT * FROM messages WHERE (?1 IS NULL OR account = ?1) AND at >= ?2"
            " ORDER BY at DESC, rowid DESC LIMIT ?3", account, since.timestamp() if since else 0.0, limit,
        )
        return [Event(row, self._weightiest(row)) for row in judged]

    def _weightiest(self, row: Judged) -> Intent | None:
        intents = self.rows(
            Intent, "SELECT * FROM intents WHERE account = ? AND folder = ? AND uidvalidity = ? AND uid = ?"
            " AND substr(batch, 1, ?) <> ? ORDER BY act = 'move' DESC, id DESC LIMIT 1",
            row.account, row.folder, row.uidvalidity, row.uid, len(UNDO), UNDO,
        )
        return intents[0] if intents else None

    def counts(self, account: str, since: datetime | None = None) -> Counts:
        """How many messages of the account were judged what, and what was done with them."""
        start = since.timestamp() if since else 0.0
        rows = self.rows(
            _pair,
            "SELECT verdict AS name, COUNT(*) AS n FROM messages WHERE account = ?1 AND at >= ?2 GROUP BY verdict"
            " UNION ALL"
            " SELECT CASE state WHEN 'done' THEN act ELSE state END AS name,"
            " COUNT(DISTINCT folder || char(0) || uidvalidity || char(0) || uid) AS n"
            " FROM intents AS i WHERE account = ?1 AND opened_at >= ?2 AND substr(batch, 1, ?3) <> ?4 AND why <> ?5"
            " AND NOT (state = 'failed' AND EXISTS (SELECT 1 FROM intents AS later WHERE later.account = i.account"
            " AND later.folder = i.folder AND later.uidvalidity = i.uidvalidity AND later.uid = i.uid"
            " AND later.act = i.act AND later.id > i.id AND later.state = 'done'))"
            " GROUP BY name", account, start, len(UNDO), UNDO, GONE,
        )
        numbers = dict(rows)
        return Counts(
            ham=numbers.get("ham", 0), unsure=numbers.get("unsure", 0), spam=numbers.get("spam", 0),
            keyworded=numbers.get("keyword", 0), moved=numbers.get("move", 0), failed=numbers.get("failed", 0),
            open=numbers.get("open", 0),
        )

    def note(self, account: str, folder: str, text: str, kind: str = "") -> None:
        """Shown in `status` until the same kind of note is set again; an empty text takes it back."""
        if text:
            self.write("REPLACE INTO notes VALUES (?, ?, ?, ?, ?)", account, folder, kind, text, self.now())
        else:
            self.write("DELETE FROM notes WHERE account = ? AND folder = ? AND kind = ?", account, folder, kind)

    def notes(self, account: str | None = None) -> list[Note]:
        """The notes that stand, oldest first."""
        return self.rows(Note, "SELECT * FROM notes WHERE ?1 IS NULL OR account = ?1 ORDER BY at, rowid", account)


def _inodes(path: Path) -> list[int]:
    """Which files stand under the names of a journal and its write-ahead log; 0 for none."""
    files = path, path.with_name(f"{path.name}-wal")
    return [file.stat().st_ino if file.exists() else 0 for file in files]


def _pair(name: str, n: int) -> tuple[str, int]:
    return name, n


def _stored(value: object) -> object:
    # A lone surrogate has no UTF-8; such a text is kept as a blob, which compares equal to itself only.
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value


def _loaded(column: str, value: Any) -> Any:
    if isinstance(value, bytes) and column not in BLOBS:
        value = value.decode("utf-8", "surrogatepass")
    if column in ("at", "checked_at", "opened_at", "closed_at", "arrived") and value is not None:
        return datetime.fromtimestamp(value, UTC)
    if column == "flags_before":
        return frozenset(json.loads(value))
    if column == "notes":
        return tuple(json.loads(value))
    return value
