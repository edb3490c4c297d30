"""Faults 76 and 77: the clock is set, the machine sleeps; and the watchdog, which lives by the clock."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from mailtagger import artifact
from mailtagger.decide import Decision
from mailtagger.imap import Address
from mailtagger.journal import FILE, Journal
from mailtagger.lessons import Lesson, Lessons
from mailtagger.score import open_scorer
from tests.faults.house import House
from tests.running import SOON, Daemon, account
from tests.tiny_model import tiny_model

FAKETIME = next(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"), None)
SOONER = "daemon.MODEL_SECONDS = 1"
YEAR = 365 * 86400
needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed: apt-get install faketime")

Set = Callable[[int], None]


@pytest.fixture
def clock(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Set]:
    """Sets the clock of daemons that are started from now on, and of no other process, by so many seconds."""
    file = house.bench.directory / "clock"

    def set_by(seconds: int) -> None:
        aside = file.with_suffix(".new")
        aside.write_text(f"{seconds:+d}\n")
        aside.replace(file)

    set_by(0)
    start_with = house.bench.start_with

    def start(change: str) -> Daemon:
        with monkeypatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(FAKETIME))
            patch.setenv("FAKETIME_TIMESTAMP_FILE", str(file))
            patch.setenv("FAKETIME_NO_CACHE", "1")
            patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            patch.setenv("NO_FAKE_STAT", "1")
            return start_with(change)

    monkeypatch.setattr(house.bench, "start_with", start)
    yield set_by


def promote(house: House, name: str) -> None:
    """Another model is the current one."""
    (house.bench.directory / name).mkdir()
    artifact.install(tiny_model(house.bench.directory / name, name), house.bench.directory / "state", open_scorer)


def cpu(daemon: Daemon) -> float:
    """Seconds of CPU that it has used."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@needs_faketime
@pytest.mark.fault(76)
@pytest.mark.parametrize("jump", [
    pytest.param(YEAR, id="forward a year"), pytest.param(-86400, id="back a day"),
    pytest.param(-YEAR, id="back a year"), pytest.param(20 * YEAR, id="forward twenty years"),
])
@pytest.mark.parametrize("idle", [True, False])
def test_76_the_clock_is_set(house: House, clock: Set, jump: int, idle: bool) -> None:
    """New mail is found as before, by IDLE and without, a new model within its interval, and nothing is made up for."""
    promote(house, "tiny-1")
    house.configure(idle=idle, model=None)
    daemon = house.bench.start_with(SOONER).ready()
    clock(jump)
    before = cpu(daemon)
    for name in "tiny-2", "tiny-3":
        [one] = house.drop(house.spam())
        daemon.until(lambda one=one: one in house.inside("Junk") and house.settled())  # type: ignore[misc]
        promote(house, name)
        daemon.until(lambda name=name: f"model {name} scores from now on" in daemon.log, 3 * SOON)  # type: ignore[misc]
    assert cpu(daemon) - before < 8
    assert "ERROR" not in daemon.log
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]
    assert daemon.end() < 5


@needs_faketime
@pytest.mark.quick
@pytest.mark.fault(76)
def test_76_the_clock_is_set_while_a_job_runs(house: House, clock: Set) -> None:
    """Back by a day between the moment in which the clock has looked and the one in which it goes to sleep: it wakes up
    all the same."""
    promote(house, "tiny-1")
    house.configure(model=None, poll_seconds=60)
    slow = "refresh = daemon.Model.refresh; daemon.Model.refresh = lambda *a: " \
           "(refresh(*a), daemon.log.info('at work'), daemon.threading.Event().wait(0.5))"
    daemon = house.bench.start_with(f"{SOONER}; {slow}").ready()
    daemon.until(lambda: "at work" in daemon.log)
    jobs = daemon.log.count("at work")
    daemon.until(lambda: daemon.log.count("at work") > jobs)
    clock(-86400)
    promote(house, "tiny-2")
    daemon.until(lambda: "model tiny-2 scores from now on" in daemon.log)


@needs_faketime
@pytest.mark.quick
@pytest.mark.fault(76)
def test_76_nothing_grows_old_at_once(house: House, clock: Set) -> None:
    """Set forward by two years while it runs: no verdict and no text of a lesson is thrown away for its age."""
    month = datetime.now(UTC) - timedelta(days=30)
    text, ident = "a text that was taught", sha256(b"x").hexdigest()
    with Journal(house.bench.directory / "state" / FILE, clock=month.timestamp) as journal:
        journal.record("home", Address("INBOX", 1, 1), ident, "old", 0.9, Decision("spam", "model", 0.9), (), "m")
        lesson = Lesson("home", ident, "old", "spam", "moved", "a@b", "INBOX", 0.0, np.array([1], np.uint32), text)
        Lessons(journal).learn(lesson)
    promote(house, "tiny-1")
    house.configure(model=None)
    daemon = house.bench.start_with(SOONER).ready()
    clock(2 * YEAR)
    promote(house, "tiny-2")
    daemon.until(lambda: "model tiny-2 scores from now on" in daemon.log)  # and what else is due then is done
    assert daemon.end() < 5
    with house.journal() as journal:
        assert [lesson.text for lesson in Lessons(journal).all()] == [text]
        assert [judged.message_id for judged in journal.called("home", "old")] == ["old"]


@pytest.mark.fault(76)
@pytest.mark.parametrize(("before", "after"), [
    ("Pacific/Kiritimati", "Pacific/Pago_Pago"), ("Pacific/Pago_Pago", "Pacific/Kiritimati"),
])
def test_76_another_time_zone(house: House, before: str, after: str) -> None:
    """From one end of the earth to the other: nothing is judged twice, and what the server itself files in Junk is not
    taken for the user's word."""
    house.configure()
    house.deliver(house.spam(), folder="Junk")
    daemon = house.start(TZ=before)
    [one] = house.drop(house.spam())
    daemon.until(lambda: one in house.inside("Junk") and house.settled())
    daemon.end()
    [two] = house.drop(house.spam(), folder="Junk")
    house.drop(house.ham())
    daemon = house.start(TZ=after)
    daemon.until(lambda: " ham by" in daemon.log and followed(house, 3))
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]
    assert two in house.inside("Junk")
    assert house.rows("SELECT message_id, count(*) FROM messages GROUP BY 1 HAVING count(*) > 1") == []


def followed(house: House, messages: int) -> bool:
    """Whether all these messages have been seen in Junk."""
    return house.rows("SELECT count(*) FROM sightings WHERE folder = 'Junk'") == [(messages,)]


# 77


@pytest.mark.quick
@pytest.mark.fault(77)
def test_77_suspended_and_the_connections_gone(house: House) -> None:
    """It wakes up, connects again and catches up with what came meanwhile."""
    proxy = house.proxy()
    house.configure(proxy)
    daemon = house.start()
    daemon.process.send_signal(signal.SIGSTOP)
    proxy.cut_all()
    ids = house.drop(house.spam(), house.ham(), house.spam())
    daemon.process.send_signal(signal.SIGCONT)
    daemon.until(lambda: house.inside("Junk") == {ids[0], ids[2]} and house.settled())


@pytest.mark.fault(77)
def test_77_suspended_and_the_server_knows_nothing_of_it(house: House) -> None:
    """The connections are half-open when it wakes up: after a time-out it connects again and catches up."""
    proxy = house.proxy()
    house.configure(proxy, read_timeout=2)
    daemon = house.start()
    daemon.process.send_signal(signal.SIGSTOP)
    proxy.frozen = True
    ids = house.drop(house.spam(), house.ham())
    daemon.process.send_signal(signal.SIGCONT)
    daemon.until(lambda: "did not answer in time" in daemon.log)
    proxy.frozen = False
    daemon.until(lambda: house.inside("Junk") == {ids[0]} and house.settled())


# The watchdog


def fed(daemon: Daemon, seconds: float) -> bool:
    """Whether systemd hears within this time that it is alive."""
    daemon.hears("")
    daemon.told.clear()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if daemon.hears("WATCHDOG=1"):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.fault(14)
def test_14_the_watchdog_hears_of_a_dead_link(house: House) -> None:
    """It is fed while the server answers, though nothing happens; not while the link is half-open; and again after."""
    proxy = house.proxy()
    house.configure(proxy, poll_seconds=3600, read_timeout=1)
    daemon = house.start(WATCHDOG_USEC="3000000")
    assert all(fed(daemon, 3) for _ in range(3))
    proxy.frozen = True
    fed(daemon, 2)
    assert not fed(daemon, 4)
    proxy.frozen = False
    assert fed(daemon, 15)


@pytest.mark.fault(16)
def test_16_the_watchdog_is_fed_while_one_of_two_answers(dovecot_house: House) -> None:
    """A server that is away for days is no reason to kill what works for the other."""
    house = dovecot_house
    proxy = house.proxy()
    house.configure(proxy, account(house.server, name="work", username="bob", poll_seconds=3600), poll_seconds=3600)
    daemon = house.start(WATCHDOG_USEC="3000000")
    proxy.closed = True
    proxy.cut_all()
    daemon.until(lambda: "home" in daemon.log and "lost" in daemon.log)
    assert all(fed(daemon, 3) for _ in range(4))
    assert daemon.process.poll() is None


@pytest.mark.fault(15)
def test_15_the_watchdog_is_fed_in_a_long_pass(dovecot_house: House) -> None:
    """Each message that is dealt with is an answer of the server: a slow pass of hundreds is not taken for a hang."""
    house = dovecot_house
    house.configure(poll_seconds=3600, brake={"messages": 1000})
    house.start().end()
    house.drop(*(house.spam() if number % 4 else house.ham() for number in range(150)))
    slow = "import time; from mailtagger.score import Scorer; score = Scorer.score; " \
           "Scorer.score = lambda self, text: (time.sleep(0.05), score(self, text))[1]"
    os.environ["WATCHDOG_USEC"] = "4000000"
    try:
        daemon = house.bench.start_with(slow)
    finally:
        del os.environ["WATCHDOG_USEC"]
    daemon.until(lambda: house.rows("SELECT count(*) FROM messages") > [(20,)])
    while house.rows("SELECT count(*) FROM messages") < [(150,)]:
        assert fed(daemon, 4), daemon.log
    daemon.until(lambda: len(house.inside("INBOX")) < 60 and house.settled(), 60)
