"""journal.py: what was judged and done survives crashes, and every trouble of the disk is a sentence."""

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailtagger.errors import StateError
from mailtagger.journal import MIGRATIONS, Counts, Intent, Journal


@dataclass(frozen=True)
class At:
    folder: str = "INBOX"
    uidvalidity: int = 1
    uid: int = 7


@dataclass(frozen=True)
class Decided:
    verdict: str = "spam"
    decided_by: str = "model"
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def _locked_by_another_process(path: Path, seconds: float) -> Iterator[int]:
    code = (
        "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); time.sleep(float(sys.argv[2]))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, path, str(seconds)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        yield child.pid
    finally:
        child.kill()
        child.communicate()


INTENT = Intent("home", "INBOX", 1, 7, "ident", "<a@b>", "move", "Junk", batch="b1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as journal:
        yield journal


def record(journal: Journal, address: At = At(), decision: Decided = Decided(), **changes: object) -> None:
    given: dict[str, object] = {"ident": "ident", "message_id": "a@b", "score": 0.98, "flags": {r"\Seen"}, "model": "m"}
    given |= changes
    journal.record("home", address, decision=decision, **given)  # type: ignore[arg-type]


# What it remembers


def test_watermark_of_a_folder(journal: Journal) -> None:
    """A folder is unknown until its first visit; then the last watermark stands, for its account alone."""
    assert journal.folder("home", "INBOX") is None
    journal.watermark("home", "INBOX", 5, 100)
    journal.watermark("home", "INBOX", 5, 130, modseq=2**63 - 1)
    row = journal.folder("home", "INBOX")
    assert row is not None
    assert (row.uidvalidity, row.uidnext, row.modseq) == (5, 130, 2**63 - 1)
    assert journal.folder("work", "INBOX") is None
    assert [row.name for row in journal.folders("home")] == ["INBOX"]


def test_judged_again_keeps_the_flags_from_before_the_first_act(journal: Journal) -> None:
    """The second verdict replaces the first, but our own keywords never become what was there before us."""
    record(journal, flags={r"\Seen"})
    record(journal, decision=Decided("ham", "user", ("rescued",)), score=None, flags={r"\Seen", "MailtaggerSpam"})
    judged = journal.judged("home", At())
    assert judged is not None
    assert (judged.verdict, judged.decided_by, judged.score, judged.notes) == ("ham", "user", None, ("rescued",))
    assert judged.flags_before == {r"\Seen"}


def test_another_uidvalidity_is_another_message(journal: Journal) -> None:
    """UID 7 under a new UIDVALIDITY was not judged; by ident and Message-ID together the message is known still."""
    record(journal)
    assert journal.judged("home", At(uidvalidity=2)) is None
    known = journal.known("home", "ident", "a@b")
    assert known is not None
    assert known.verdict == "spam"
    assert journal.known("home", "ident", "forged@b") is None
    assert journal.known("home", "other", "a@b") is None


def test_last_verdict_on_a_message_seen_twice(path: Path) -> None:
    """Of two places the younger verdict is the known one."""
    times = iter([100.0, 200.0])
    with Journal(path, clock=lambda: next(times)) as journal:
        record(journal, At("INBOX"), Decided("unsure"))
        record(journal, At("Lists"), Decided("ham"))
        known = journal.known("home", "ident", "a@b")
    assert known is not None
    assert (known.folder, known.at) == ("Lists", datetime(1970, 1, 1, 0, 3, 20, tzinfo=UTC))


def test_largest_uid(journal: Journal) -> None:
    """UIDs and UIDVALIDITY are unsigned 32-bit numbers (RFC 3501)."""
    top = At(uidvalidity=2**32 - 1, uid=2**32 - 1)
    record(journal, top)
    judged = journal.judged("home", top)
    assert judged is not None
    assert (judged.uid, judged.uidvalidity) == (2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize("text", ["\udce4\ud800", "a\0b", "Größe & Maß 📨", "' OR 1=1 --", ""])
def test_odd_text_survives(journal: Journal, text: str) -> None:
    """Lone surrogates, NUL and quotes come back as they went in, and are found again."""
    address = At(folder=text)
    record(journal, address, Decided(notes=(text,)), message_id=text, flags={text})
    judged = journal.judged("home", address)
    assert judged is not None
    assert (judged.folder, judged.message_id, judged.notes, judged.flags_before) == (text, text, (text,), {text})
    assert journal.known("home", "ident", text) == judged
    [id_] = journal.open_intents([replace(INTENT, message_id=text, target=text)])
    journal.close_intents([id_], "done")
    assert journal.moves("home", "ident", text)


# Intents


def test_an_intent_is_open_until_its_outcome(journal: Journal) -> None:
    """Opened in one go, in order; closed with the new UIDs; only those without an outcome are looked up later."""
    ids = journal.open_intents([replace(INTENT, uid=uid) for uid in (7, 8, 9)])
    journal.close_intents(ids[:1], "done", {7: 70})
    journal.close_intents(ids[1:2], "failed", why="NO [OVERQUOTA]")
    assert [intent.uid for intent in journal.open_intents_of("home")] == [9]
    assert journal.open_intents_of("work") == []
    assert ids == sorted(ids)


def test_only_a_done_move_of_that_very_message_is_a_rescue(journal: Journal) -> None:
    """An open or failed move, a keyword, a forged Message-ID or another account's move do not count."""
    move, keyword = journal.open_intents([INTENT, replace(INTENT, act="keyword", ident="tagged")])
    assert not journal.moves("home", "ident", "<a@b>")
    journal.close_intents([move, keyword], "failed", why="gone")
    assert not journal.moves("home", "ident", "<a@b>")
    journal.close_intents([move, keyword], "done")
    assert journal.moves("home", "ident", "<a@b>")
    assert not journal.moves("home", "ident", "<forged@b>")
    assert not journal.moves("home", "tagged", "<a@b>")
    assert not journal.moves("work", "ident", "<a@b>")


def test_intents_survive_a_kill(path: Path) -> None:
    """What `open_intents` returned for is on the disk, though the process is killed without closing anything."""
    code = (
        "import os, signal, sys; from pathlib import Path; from mailtagger.journal import Intent, Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.open_intents([Intent('home', 'INBOX', 1, uid, 'i', 'm', 'move', 'Junk') for uid in range(1000)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    with Journal(path) as journal:
        assert len(journal.open_intents_of("home")) == 1000


def test_a_log_cut_short_loses_only_the_end(path: Path, tmp_path: Path) -> None:
    """After a power cut in the middle of a write the journal opens, is whole, and has every earlier commit."""
    with Journal(path) as journal:
        journal.open_intents([INTENT])
        journal.open_intents([replace(INTENT, uid=8)])
        log = path.with_name(path.name + "-wal").read_bytes()
        copy = tmp_path / "copy" / path.name
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())
        copy.with_name(copy.name + "-wal").write_bytes(log[:-100])
    with Journal(copy) as journal:
        assert [intent.uid for intent in journal.open_intents_of("home")] == [7]
    assert sqlite3.connect(copy).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_transaction_is_all_or_nothing(journal: Journal) -> None:
    """An error inside takes back every write inside, and the journal works on."""
    with pytest.raises(RuntimeError), journal.transaction():
        record(journal)
        journal.watermark("home", "INBOX", 1, 8)
        raise RuntimeError
    assert journal.judged("home", At()) is None
    assert journal.folder("home", "INBOX") is None
    record(journal)
    assert journal.judged("home", At()) is not None


def test_threads_share_one_journal(journal: Journal) -> None:
    """Eight threads write at once, some in transactions; nothing is lost and nothing mixed up."""
    def work(n: int) -> None:
        for uid in range(20):
            with journal.transaction():
                record(journal, At(f"F{n}", uid=uid))
                journal.open_intents([replace(INTENT, folder=f"F{n}", uid=uid)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.counts("home") == Counts(spam=160, open=160)


# What it tells


def test_history_is_newest_first_with_the_act_that_weighs_most(path: Path) -> None:
    """A move outweighs the keywords set before it; a message that was only judged has no act."""
    times = iter(range(100, 200))
    with Journal(path, clock=lambda: float(next(times))) as journal:
        record(journal, At(uid=7))
        record(journal, At(uid=8), Decided("ham"))
        ids = journal.open_intents([INTENT, replace(INTENT, act="keyword", target="MailtaggerSpam")])
        journal.close_intents(ids, "done", {7: 70})
        events = journal.history()
        assert [event.judged.uid for event in events] == [8, 7]
        assert events[0].intent is None
        assert events[1].intent is not None
        assert (events[1].intent.act, events[1].intent.target, events[1].intent.new_uid) == ("move", "Junk", 70)
        assert [event.judged.uid for event in journal.history(limit=1)] == [8]
        assert [event.judged.uid for event in journal.history(since=datetime.fromtimestamp(101, UTC))] == [8]
        assert journal.history(account="work") == []


def test_counts(journal: Journal) -> None:
    """Messages by verdict and by what was done; a failure that was made good is no failure any more."""
    for uid, verdict in enumerate(["spam", "spam", "unsure", "ham", "ham", "ham"], start=7):
        record(journal, At(uid=uid), Decided(verdict))
    first, second, third = journal.open_intents([INTENT, replace(INTENT, uid=8), replace(INTENT, uid=7, act="keyword")])
    journal.close_intents([first, second], "failed", why="NO [OVERQUOTA]")
    journal.close_intents([third], "done")
    assert journal.counts("home") == Counts(ham=3, unsure=1, spam=2, keyworded=1, failed=2)
    journal.close_intents(journal.open_intents([INTENT]), "done")
    assert journal.counts("home") == Counts(ham=3, unsure=1, spam=2, keyworded=1, moved=1, failed=1)
    assert journal.counts("home").judged == 6
    assert journal.counts("home", since=datetime(2100, 1, 1, tzinfo=UTC)) == Counts()
    assert journal.counts("work") == Counts()


def test_a_note_stands_until_it_is_taken_back(journal: Journal) -> None:
    """Kinds do not overwrite each other; an empty text removes its own kind alone."""
    journal.note("home", "INBOX", "would move 40 of 50 messages", "brake")
    journal.note("home", "INBOX", "no keywords here", "keywords")
    journal.note("home", "INBOX", "would move 41 of 50 messages", "brake")
    journal.note("work", "", "login refused")
    assert sorted(note.text for note in journal.notes("home")) == ["no keywords here", "would move 41 of 50 messages"]
    journal.note("home", "INBOX", "", "brake")
    assert [(note.account, note.text) for note in journal.notes()] == [
        ("home", "no keywords here"), ("work", "login refused"),
    ]


# The file and the directory


def test_nobody_else_can_read_it(path: Path) -> None:
    """Directory 0700, every file 0600, whatever the umask; a file that was open to others is closed to them."""
    old = os.umask(0)
    try:
        with Journal(path) as journal:
            record(journal)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == {path.name: 0o600, path.name + "-wal": 0o600, path.name + "-shm": 0o600}
    path.chmod(0o644)
    with Journal(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_users_directory_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even root does not write there: the owner could not use the files afterwards. The way out names the owner."""
    path.parent.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: path.parent.stat().st_uid + 1)
    with pytest.raises(StateError, match=r"state belongs to \w+") as caught:
        Journal(path)
    assert "sudo -u" in caught.value.way_out
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_user_without_a_name_is_refused_by_number(path: Path) -> None:
    """The user of a DynamicUser service exists only while that runs; setpriv works all the same."""
    path.parent.mkdir()
    os.chown(path.parent, 61234, 61234)
    with pytest.raises(StateError, match=r"belongs to user 61234.*setpriv --reuid=61234"):
        Journal(path)


def test_no_text_of_a_mail_can_get_in(journal: Journal) -> None:
    """The tables have no column for a subject, an address or a body, but for what the user has taught."""
    db = sqlite3.connect(journal.path)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {(table, row[1]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")}
    telling = {"subject", "body", "text", "cleaned", "sender", "address", "raw"}
    assert {(table, name) for table, name in columns if name in telling} == {
        ("notes", "text"), ("lessons", "cleaned"), ("lessons", "sender"), ("correspondents", "address"),
    }
    assert [row[1] for row in db.execute("PRAGMA table_info(notes)")] == ["account", "folder", "kind", "text", "at"]


def test_settings_that_survive_a_power_cut(journal: Journal) -> None:
    """Write-ahead log, and every commit waits for the disk."""
    assert journal._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_what_need_not_be_synced_leaves_the_rest_so(journal: Journal) -> None:
    """After a note that may be lost with the machine, also one that failed, each commit waits for the disk again."""
    for error in (None, RuntimeError):
        with contextlib.suppress(RuntimeError), journal.unsynced():
            assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 1
            if error:
                raise error
        assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2


# Versions


def test_a_newer_journal_is_left_alone(path: Path) -> None:
    """It is refused with both numbers, and not a byte of it changes."""
    with Journal(path) as journal:
        record(journal)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StateError, match=rf"newer mailtagger \(format {len(MIGRATIONS) + 1}, not {len(MIGRATIONS)}\)"):
        Journal(path)
    assert path.read_bytes() == before


def test_an_older_journal_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing migrations run once, in one transaction, and the rows stay."""
    with Journal(path) as journal:
        record(journal)
    monkeypatch.setattr("mailtagger.journal.MIGRATIONS", (*MIGRATIONS, "CREATE TABLE later (x); CREATE TABLE last (x)"))
    for _ in range(2):
        with Journal(path) as journal:
            assert journal._version() == len(MIGRATIONS) + 1
            assert journal.judged("home", At()) is not None


def test_a_broken_migration_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a migration is none."""
    Journal(path).close()
    broken = "CREATE TABLE later (x); CREATE TABLE notes (x)"
    monkeypatch.setattr("mailtagger.journal.MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(StateError):
        Journal(path)
    monkeypatch.undo()
    with Journal(path) as journal:
        assert journal._version() == len(MIGRATIONS)
        assert journal._db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'later'").fetchone()[0] == 0


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
@pytest.mark.parametrize("cut", [False, True])
def test_a_journal_of_every_earlier_format(path: Path, version: int, cut: bool) -> None:
    """Brought up to date it has the tables of a new one and all rows; killed in the middle of that, the next start does
    it again."""
    path.parent.mkdir(mode=0o700)
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("PRAGMA journal_mode = WAL")
    for statements in MIGRATIONS[:version]:
        old.executescript(statements)
    rows = _filled(old)
    old.execute(f"PRAGMA user_version = {version}")
    old.close()
    if cut:
        code = (
            "import os, signal, sys; from pathlib import Path; from mailtagger import journal\n"
            "class Dying(str):\n"
            "    def split(self, *by): yield from str.split(self, *by)[:1]; os.kill(os.getpid(), signal.SIGKILL)\n"
            "journal.MIGRATIONS = (*journal.MIGRATIONS[:-1], Dying(journal.MIGRATIONS[-1]))\n"
            "journal.Journal(Path(sys.argv[1]))\n"
        )
        assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    with Journal(path) as journal, Journal(path.parent / "new") as new:
        tables = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY type, name"
        assert [tuple(row) for row in journal._db.execute(tables)] == [tuple(row) for row in new._db.execute(tables)]
        for (name,) in new._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            mine, its = (one._db.execute(f"PRAGMA table_info({name})").fetchall() for one in (journal, new))
            assert list(map(tuple, mine)) == list(map(tuple, its))
        assert journal._version() == len(MIGRATIONS)
        for name, row in rows.items():
            assert list(map(dict, journal._db.execute(f"SELECT {', '.join(row)} FROM {name}"))) == [row]
        record(journal)


def _filled(db: sqlite3.Connection) -> dict[str, dict[str, object]]:
    """Table → its one row, a value of its own in each column."""
    rows: dict[str, dict[str, object]] = {}
    tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'").fetchall()
    for (name,) in tables:
        columns = [(column[1], column[2]) for column in db.execute(f"PRAGMA table_info({name})")]
        values: dict[str, object] = {"INTEGER": 7, "REAL": 0.5, "BLOB": b"b"}
        rows[name] = {column: values.get(kind, f"{column} of {name}") for column, kind in columns}
        db.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", list(rows[name].values()))
    return rows


# Trouble


def test_a_locked_journal_is_waited_for(path: Path) -> None:
    """A backup that holds the lock for a moment delays a write and does not fail it."""
    with Journal(path) as journal, _locked_by_another_process(path, seconds=0.5):
        record(journal)
        assert journal.judged("home", At()) is not None


def test_a_journal_that_stays_locked_names_the_process(path: Path) -> None:
    """After the wait the sentence says who holds the lock, where the kernel tells."""
    with Journal(path, wait=0.2) as journal, _locked_by_another_process(path, seconds=30) as pid:
        with pytest.raises(StateError) as caught:
            record(journal)
        if any(f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines()):
            assert f"is locked by process {pid} (python" in caught.value.problem
        else:
            assert "is locked by another process" in caught.value.problem
        assert journal.judged("home", At()) is None


def test_a_full_disk_stops_the_intent_and_nothing_else(journal: Journal) -> None:
    """No intent, so no act; what was written before stays, and once there is room the work goes on."""
    record(journal)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite answers as on a full disk: SQLITE_FULL
    with pytest.raises(StateError, match="disk is full"):
        journal.open_intents([replace(INTENT, uid=uid, why="x") for uid in range(5000)])
    assert journal.open_intents_of("home") == []
    assert journal.judged("home", At()) is not None
    journal._db.execute("PRAGMA max_page_count = 1000000")
    assert len(journal.open_intents([INTENT])) == 1


def test_a_file_that_may_not_grow(path: Path) -> None:
    """The system's own limit (ulimit -f) ends in a sentence, not in a traceback."""
    code = (
        "import resource, sys; from pathlib import Path; from mailtagger.errors import StateError\n"
        "from mailtagger.journal import Intent, Journal\n"
        "journal = Journal(Path(sys.argv[1])); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try: journal.open_intents([Intent('home', 'INBOX', 1, n, 'i' * 64, 'm', 'move', 'J') for n in range(9000)])\n"
        "except StateError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert "journal.sqlite3 cannot be" in done.stdout
    with Journal(path) as journal:
        assert journal.open_intents_of("home") == []


@pytest.mark.parametrize("garbage", [b"this is not a database, however long it may be" * 200, b"\0" * 8192])
def test_a_file_that_is_no_journal(path: Path, garbage: bytes) -> None:
    """Refused with what to do about it, and left as it is."""
    path.parent.mkdir(mode=0o700)
    path.write_bytes(garbage)
    with pytest.raises(StateError, match="damaged") as caught:
        Journal(path)
    assert "move journal.sqlite3* aside" in caught.value.way_out
    assert path.read_bytes() == garbage


def test_a_damaged_journal(path: Path) -> None:
    """Pages overwritten by something else end in a sentence on use."""
    with Journal(path) as journal, journal.transaction():
        for uid in range(2000):
            record(journal, At(uid=uid))
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StateError, match="damaged"), Journal(path) as journal:
        journal.history()


def test_a_journal_removed_while_in_use(journal: Journal) -> None:
    """SQLite would go on writing into the unlinked file; the next intent is refused instead."""
    journal.path.unlink()
    with pytest.raises(StateError, match="removed or replaced"):
        journal.open_intents([INTENT])
    journal.path.write_bytes(b"")
    with pytest.raises(StateError, match="removed or replaced"):
        journal.open_intents([INTENT])


def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    """One sentence that names it."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match=r"state cannot be opened.*state_dir"):
        Journal(tmp_path / "state" / "journal.sqlite3")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_directory_without_write_access(tmp_path: Path) -> None:
    """The sentence says what cannot be written."""
    tmp_path.parent.parent.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path; from mailtagger.errors import StateError\n"
        "from mailtagger.journal import Journal\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Journal(Path(sys.argv[1]))\n"
        "except StateError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "new" / "j"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "new cannot be written: Permission denied. Give this user write access" in done.stdout


def test_a_journal_of_the_first_format_is_brought_up_with_what_it_holds(path: Path) -> None:
    """Verdicts from before there were lessons are read and written as before."""
    path.parent.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(MIGRATIONS[0])
        db.execute("INSERT INTO messages VALUES ('home','INBOX',1,7,'ident','a@b',0.9,'spam','model','m','[]','[]',5)")
        db.execute("PRAGMA user_version = 1")
        db.commit()
    with Journal(path) as journal:
        assert (row := journal.judged("home", At())) is not None
        assert (row.verdict, row.taught) == ("spam", "")
        record(journal, decision=Decided("ham"))
        assert [one.verdict for one in journal.called("home", "a@b")] == ["ham"]
