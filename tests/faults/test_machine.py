"""Faults 69 to 71: ended, killed and cut off from power in the middle of the work."""

import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailtagger.journal import FILE, Intent, Journal
from tests.faults.house import House
from tests.running import SOON, Bench, Daemon

SPAM_MARKS = {"MailtaggerSpam", "$Junk"}
INTENT = Intent("home", "INBOX", 1, 7, "ident", "<a@b>", "move", "Junk", batch="b1")
# Where the daemon dies: in the second portion that it reads, at the 1st or nth time of each other step.
POINTS = [
    "Mailbox fetch before 2", "Scorer score after 1", "Scorer score after 30", "Journal record before 30",
    "Journal record after 30", "Journal open_intents before 1", "Journal open_intents after 1",
    "Mailbox add_keywords before 1", "Mailbox add_keywords after 1", "Journal close_intents before 1",
    "Journal close_intents after 1", "Mailbox move before 1", "Mailbox move after 1", "Journal close_intents after 2",
    "Journal watermark before 2",
]


def watched(house: House) -> None:
    """The folder was watched before, up to here."""
    with house.server.client("alice") as client, house.journal() as journal:
        state = client.select_folder("INBOX", readonly=True)
        journal.watermark("home", "INBOX", state[b"UIDVALIDITY"], state[b"UIDNEXT"])


def load(house: House, count: int) -> list[bytes]:
    """Mail that waits for the next start, a quarter of it spam."""
    contents = [house.spam() if number % 4 == 0 else house.ham() for number in range(count)]
    house.expects(*contents)
    with house.server.client("alice") as client:
        for content in contents:
            client.append("INBOX", content)
    return contents


def begun(house: House) -> Daemon:
    """A daemon that has said its first word."""
    daemon = house.bench.start()
    before = daemon.log.count("mailtagger ")
    daemon.until(lambda: daemon.log.count("mailtagger ") > before)
    return daemon


def ledger(house: House) -> None:
    """Started once more it finishes: spam in Junk with its marks, ham in INBOX with none; each judged and acted on
    once."""
    daemon = house.start()
    wanted = {id_ for id_ in house.delivered if id_.startswith("spam")}
    daemon.until(lambda: house.inside("INBOX") == house.delivered.keys() - wanted and house.settled(), 3 * SOON)
    daemon.until(lambda: judged(house) == len(house.delivered))
    assert daemon.end() < 5
    flags = {id_: flags - {"\\Seen"} for _, id_, _, flags in house.everything()}
    assert flags == {id_: SPAM_MARKS if id_ in wanted else set() for id_ in house.delivered}
    with house.journal() as journal:
        counts = journal.counts("home")
    assert (counts.spam, counts.moved, counts.failed) == (len(wanted), len(wanted), 0)
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]


def judged(house: House) -> int:
    with house.journal() as journal:
        return journal.counts("home").judged


# SIGTERM and SIGKILL


def at_random_moments(house: House, times: int) -> Iterator[Daemon]:
    """A daemon at work on twelve new messages, so often, each time at another moment; the seed is printed."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    draw = random.Random(seed)
    house.configure(brake={"messages": 1000})
    watched(house)
    for _ in range(times):
        load(house, 12)
        daemon = begun(house)
        time.sleep(draw.uniform(0, 0.8))
        yield daemon


@pytest.mark.fault(69)
def test_69_terminated_at_random_moments(house: House) -> None:
    """Status 0 within five seconds, every time; in sum exactly one act a message."""
    for daemon in at_random_moments(house, 32):
        assert daemon.end() < 5
    ledger(house)


@pytest.mark.fault(70)
@pytest.mark.parametrize("point", POINTS)
def test_70_killed_at_each_step(house: House, point: str) -> None:
    """After SIGKILL the next start looks before it repeats anything: exactly one act a message."""
    die_at(house, point)
    ledger(house)


@pytest.mark.quick
@pytest.mark.fault(70)
@pytest.mark.parametrize("point", ["Mailbox move before 1", "Mailbox move after 1"])
def test_70_killed_round_the_move(house: House, point: str) -> None:
    """Whether the move had happened or not, the next start finds out where the message is."""
    die_at(house, point, 8)
    ledger(house)


@pytest.mark.fault(70)
def test_70_killed_again_and_again(house: House) -> None:
    """Killed at random moments, a dozen times in a row: exactly one act a message."""
    for daemon in at_random_moments(house, 12):
        daemon.process.kill()
        daemon.process.wait()
    ledger(house)


def die_at(house: House, point: str, count: int = 60) -> None:
    """A daemon with mail to work on, killed at this point."""
    house.configure(brake={"messages": 1000})
    watched(house)
    load(house, count)
    dead = house.bench.start_to_die(point)
    assert dead.process.wait(SOON) == -signal.SIGKILL, dead.log


# Power loss: what was written last may be on the disk in part


@pytest.mark.fault(71)
@pytest.mark.parametrize("point", [
    "Journal record after 10", "Journal open_intents after 1", "Journal close_intents after 1",
    "Journal close_intents after 2", "Journal watermark after 2",
])
def test_71_power_lost_while_the_last_commit_is_written(house: House, point: str) -> None:
    """Of the last transaction any part is missing: the daemon starts from what is left and does the rest, once."""
    die_at(house, point)
    log = house.bench.directory / "state" / (FILE + "-wal")
    content = log.read_bytes()
    *_, before, last = 0, 0, *commits(content)
    log.write_bytes(content[: random.randint(before, last)])
    ledger(house)


@pytest.mark.fault(71)
@pytest.mark.parametrize(("how", "step"), [
    pytest.param("cut", 1 << 20, marks=pytest.mark.quick), ("cut", 97), ("zeros", 997), ("garbage", 997),
])
def test_71_log_broken_at_any_byte(tmp_path: Path, how: str, step: int) -> None:
    """Cut, or overwritten with zeros or garbage, at any byte: the journal opens, passes SQLite's own check, and has
    each commit that was whole by then."""
    db, log = written(tmp_path / "whole" / FILE)
    ends = list(commits(log))
    assert len(ends) == 4
    for cut in places(log, ends, step):
        rest = len(log) - cut
        tail = {"cut": b"", "zeros": bytes(rest), "garbage": random.Random(cut).randbytes(rest)}[how]
        copy = tmp_path / "copy" / FILE
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir(mode=0o700)
        copy.write_bytes(db)
        copy.with_name(FILE + "-wal").write_bytes(log[:cut] + tail)
        whole = sum(end <= cut for end in ends)
        with Journal(copy) as journal:
            assert journal.rows(str_of, "PRAGMA integrity_check") == ["ok"], cut
            assert len(journal.open_intents_of("home")) == 3 * whole, cut
            if cut % 7 == 0:
                journal.open_intents([INTENT])  # and it goes on
        assert sqlite3.connect(copy).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.fault(71)
@pytest.mark.parametrize("point", ["Journal open_intents after 1", "Journal close_intents after 2"])
def test_71_snapshots_of_a_running_daemons_journal(dovecot_house: House, tmp_path: Path, point: str) -> None:
    """The files as a daemon left them when it was killed, the log cut at a hundred places: none is beyond repair."""
    die_at(dovecot_house, point)
    state = dovecot_house.bench.directory / "state"
    db, log = (state / FILE).read_bytes(), (state / (FILE + "-wal")).read_bytes()
    for cut in [*random.sample(range(len(log)), 100), 0, len(log)]:
        copy = tmp_path / "copy" / FILE
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir(mode=0o700)
        copy.write_bytes(db)
        copy.with_name(FILE + "-wal").write_bytes(log[:cut])
        with Journal(copy) as journal:
            assert journal.rows(str_of, "PRAGMA integrity_check") == ["ok"], cut
    ledger(dovecot_house)


@pytest.mark.fault(71)
def test_71_every_commit_waits_for_the_disk(bench: Bench) -> None:
    """A write-ahead log with synchronous=FULL, as what is in the journal must be there after the power is back."""
    with bench.journal() as journal:
        assert journal.rows(str_of, "PRAGMA journal_mode") == ["wal"]
        assert [str(value) for value in journal.rows(str_of, "PRAGMA synchronous")] == ["2"]


def str_of(**columns: object) -> str:
    return str(next(iter(columns.values())))


def written(path: Path) -> tuple[bytes, bytes]:
    """The files of a journal after four transactions of three intents each, none of them folded into the database."""
    with Journal(path) as journal:
        journal.wipe()
        db = path.read_bytes()
        for _ in range(4):
            journal.open_intents([INTENT] * 3)
        log = path.with_name(FILE + "-wal").read_bytes()
    return db, log


def frames(log: bytes) -> Iterator[tuple[int, bool]]:
    """(end, whether it ends a transaction) of each valid frame (SQLite's file format, 4.1)."""
    size, salts = int.from_bytes(log[8:12]), log[16:24]
    for start in range(32, len(log), 24 + size):
        if log[start + 8 : start + 16] != salts:
            return
        yield start + 24 + size, log[start + 4 : start + 8] != bytes(4)


def commits(log: bytes) -> Iterator[int]:
    """Where each transaction ends."""
    return (end for end, last in frames(log) if last)


def places(log: bytes, ends: list[int], step: int) -> list[int]:
    """Every `step`th byte, and what lies round the borders of the header, of frames and of pages."""
    borders = [0, 32, *(end for end, _ in frames(log))]
    near = {border + by for border in borders for by in (-1, 0, 24)}
    return sorted(cut for cut in {*range(0, len(log), step), *near, *ends} if 0 <= cut <= len(log))
