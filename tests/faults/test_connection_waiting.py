"""Faults 11 to 19: the connection is silent, slow, refused, or cut again and again."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailtagger import imap_reader, worker
from tests.faults.conftest import kept
from tests.faults.house import House, Tap
from tests.imap_server import Tool, needs_tools
from tests.running import Bench, Daemon, account, message, spam
from tests.tiny_model import HAM_TEXT

pytestmark = needs_tools

SOME_TIME = 60.0  # seconds to wait for what is meant to be slow


def moved(house: House, number: int = 1) -> bool:
    """Whether so many moves are done."""
    return house.rows("SELECT count(*) FROM intents WHERE act = 'move' AND state = 'done'") == [(number,)]


def said(daemon: Daemon, level: str) -> list[str]:
    """The log lines of this level."""
    return [line for line in daemon.log.splitlines() if f" {level} " in line]


def cpu(daemon: Daemon) -> float:
    """Seconds that the daemon has spent computing (proc(5), utime and stime)."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_in_junk(house: House, daemon: Daemon, one: str) -> None:
    """In Junk by one move that is done, and nobody's lesson."""
    daemon.until(lambda: moved(house))
    daemon.until(lambda: house.rows("SELECT 1 FROM sightings WHERE folder = 'Junk'"))
    assert house.inside("Junk") == {one}
    assert house.settled()
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]


# IDLE


@pytest.mark.quick
@pytest.mark.fault(11)
def test_11_bye_to_a_client_that_idles(house: House) -> None:
    """A quiet reconnect, without a warning, and the mail that came in between is found at once."""
    said_bye = ("server", "sub@1", r"^\+ idling\r\n", "+ idling\r\n* BYE Disconnected for inactivity\r\n")
    house.configure(house.proxy(said_bye, ("server", "cutpast", "BYE")), poll_seconds=3600)
    daemon = house.start()
    daemon.until(lambda: "was lost (waiting for news)" in daemon.log)
    [one] = house.drop(house.spam())
    daemon.until(lambda: moved(house))
    assert house.inside("Junk") == {one}
    assert said(daemon, "WARNING") == said(daemon, "ERROR") == []


@pytest.mark.fault(11)
def test_11_idle_is_renewed(house: House) -> None:
    """Long before 29 minutes IDLE is ended and begun anew on the same connection, and still tells of new mail."""
    assert imap_reader.RENEW < 29 * 60 / 2
    proxy = house.proxy(tap=(tap := Tap()))
    house.configure(proxy, poll_seconds=3600)
    daemon = house.bench.start_with("imap_reader.RENEW = 0.5").ready()
    daemon.until(lambda: len(tap.commands("^IDLE")) > 3 and sum(tag == "DONE" for tag, _, _ in tap.heard) >= 3)
    [one] = house.drop(house.spam())
    daemon.until(lambda: moved(house))
    assert house.inside("Junk") == {one}
    assert proxy.count == 2  # one to watch, one to follow


@pytest.mark.quick
@pytest.mark.fault(12)
def test_12_idle_that_never_notifies(house: House) -> None:
    """Within the poll interval the mail is found without IDLE's help, which stays in use."""
    silent = ("server", "drop*", r"^\* \d+ (EXISTS|RECENT)")
    house.configure(house.proxy(silent, tap=(tap := Tap())), poll_seconds=2)
    daemon = house.start()
    daemon.until(lambda: tap.commands("^IDLE"))
    [one] = house.drop(house.spam())
    daemon.until(lambda: moved(house), seconds=10)
    assert house.inside("Junk") == {one}


@pytest.mark.quick
@pytest.mark.fault(13)
def test_13_no_idle(house: House) -> None:
    """Polling alone finds the mail; IDLE is not asked for."""
    house.configure(house.proxy(strip=["IDLE"], tap=(tap := Tap())))
    daemon = house.start()
    [one] = house.drop(house.spam())
    check_in_junk(house, daemon, one)
    assert tap.commands("^IDLE") == []


@pytest.fixture
def plain_house(bench: Bench) -> Iterator[House]:
    """A house on a Dovecot that offers IMAP4rev1, UIDPLUS and no more."""
    with Tool("dovecot-up", "--capability", "IMAP4rev1 UIDPLUS AUTH=PLAIN") as server:
        yield from kept(server, bench)


@pytest.mark.fault(13)
def test_13_hardly_any_capability(plain_house: House) -> None:
    """Without IDLE, MOVE, CONDSTORE, SPECIAL-USE and NAMESPACE the mail is found by polling, and copied to Junk."""
    plain_house.configure(spam_folder="Junk")
    daemon = plain_house.start()
    [one] = plain_house.drop(plain_house.spam())
    check_in_junk(plain_house, daemon, one)


# Silence, and little speech


@pytest.mark.fault(14)
def test_14_half_open_while_it_waits(house: House) -> None:
    """After the read time-out the connection is given up, and as soon as the network is back there is a new one."""
    proxy = house.proxy()
    house.configure(proxy, read_timeout=2, connect_timeout=2)
    daemon = house.start()
    before, began, proxy.frozen = proxy.count, time.monotonic(), True
    daemon.until(lambda: "did not answer in time" in daemon.log)
    daemon.until(lambda: proxy.count > before)
    assert time.monotonic() - began < 15
    daemon.until(lambda: "does not answer" in daemon.log)  # nor is the greeting of the next one waited for any longer
    [one] = house.drop(house.spam())
    proxy.frozen = False
    check_in_junk(house, daemon, one)


@pytest.mark.fault(14)
@pytest.mark.parametrize("act", ["UID MOVE", "UID STORE"])
def test_14_half_open_in_an_act(house: House, act: str) -> None:
    """What is still under way when it is given up reaches the server late: the message is moved once all the same."""
    proxy = house.proxy()
    proxy.rules.append(Tap(act, lambda: setattr(proxy, "frozen", True)))
    house.configure(proxy, read_timeout=2, connect_timeout=2)
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: f"did not answer in time ({act[4:]} in INBOX)" in daemon.log)
    proxy.rules.clear()
    proxy.frozen = False
    check_in_junk(house, daemon, one)


@pytest.mark.fault(15)
def test_15_slow_line(house: House) -> None:
    """At 8 kB a second a message takes longer than the read time-out, which is for silence: no time-out, no cut."""
    proxy = house.proxy()
    house.configure(proxy, read_timeout=2)
    daemon = house.start()
    proxy.throttle = 8000
    one, other = house.drop(message(400 * HAM_TEXT, "ham-long"), house.spam())
    daemon.until(lambda: moved(house), SOME_TIME)
    assert (house.inside("INBOX"), house.inside("Junk")) == ({one}, {other})
    assert proxy.count == 2
    assert "in time" not in daemon.log


@pytest.mark.fault(15)
def test_15_slow_server(house: House) -> None:
    """Every line comes late, and an answer of several takes longer than the read time-out: no time-out, no cut."""
    proxy = house.proxy(delay=0.4)
    house.configure(proxy, read_timeout=2)
    daemon = house.bench.start()
    daemon.until(lambda: daemon.hears("READY=1"), SOME_TIME)
    [one] = house.drop(house.spam())
    daemon.until(lambda: moved(house), SOME_TIME)
    assert house.inside("Junk") == {one}
    assert proxy.count == 2
    assert "in time" not in daemon.log


# The door is shut


@pytest.mark.fault(16)
def test_16_connections_refused(house: House) -> None:
    """Tried again up to a longest wait; the other account is unaffected; when the door opens, it recovers by itself."""
    assert worker.LONGEST_WAIT == 300
    proxy = house.proxy()
    house.configure(proxy, account(house.server, name="work", username="bob"))
    daemon = house.bench.start_with("worker.LONGEST_WAIT = 2.0").ready()
    proxy.closed = True
    proxy.cut_all()
    before = proxy.count
    daemon.until(lambda: proxy.count >= before + 12, SOME_TIME)  # two connections: six tries, 1, 2, 2, 2, 2 seconds
    house.server.deliver("bob", spam(house.bench.directory.name))
    daemon.until(lambda: "work/INBOX UID" in daemon.log and "moved" in daemon.log)
    [one] = house.drop(house.spam())
    proxy.closed = False
    daemon.until(lambda: moved(house, 2))
    assert house.inside("Junk") == {one}
    assert len(said(daemon, "WARNING")) <= 2 * 2  # of each connection the first reason, and what it was after that
    daemon.until(lambda: daemon.log.count("no longer so") == 2)
    with house.journal() as journal:
        assert journal.notes() == []


@pytest.mark.fault(16)
def test_16_server_stopped_and_started(house: House) -> None:
    """An orderly end and a new start of the server are survived, and mail that came meanwhile is dealt with."""
    house.configure()
    daemon = house.start()
    house.server.stop()
    try:
        daemon.until(lambda: "cannot be reached" in daemon.log)
    finally:
        house.server.start()
    [one] = house.drop(house.spam())
    check_in_junk(house, daemon, one)
    assert "password" not in daemon.log


# Turned away


def four(where: str, action: str, *what: str) -> list[tuple[str, ...]]:
    """Rules for the first four times; the last stands first, so that none hides a line from the others."""
    return [(where, f"{action}@{n}", *what) for n in (4, 3, 2, 1)]


def not_a_wrong_password(house: House, daemon: Daemon) -> None:
    """Nothing was said of a password, and nobody has to wait as after one."""
    assert "password" not in daemon.log
    assert "refuses" not in daemon.log
    daemon.until(lambda: not house.rows("SELECT 1 FROM notes"))


@pytest.mark.fault(17)
def test_17_limit_of_connections(house: House) -> None:
    """[LIMIT] at four logins in a row means later, not a wrong password: the fifth is made soon, and all is well."""
    limit = "NO [LIMIT] Maximum number of connections from user+IP exceeded"
    house.configure(house.proxy(*four("client", "refuse", "LOGIN", limit)))
    daemon = house.start()
    [one] = house.drop(house.spam())
    check_in_junk(house, daemon, one)
    assert "does not let alice in at the moment: " in daemon.log
    not_a_wrong_password(house, daemon)


@pytest.fixture
def narrow_house(bench: Bench) -> Iterator[House]:
    """A house on a Dovecot that allows two connections of a user."""
    with Tool("dovecot-up", "--max-conn", "2") as server:
        yield from kept(server, bench)


@pytest.mark.fault(17)
def test_17_two_connections_and_the_user_has_one(narrow_house: House) -> None:
    """Two are enough for one folder; while the user holds one, the other is tried for, and had when he is gone."""
    house = narrow_house
    user = house.server.client("alice")
    house.configure()
    daemon = house.bench.start()
    daemon.until(lambda: "does not let alice in at the moment: " in daemon.log)
    user.append("INBOX", content := house.spam())
    user.logout()
    house.expects(content)
    daemon.until(lambda: daemon.hears("READY=1"))
    daemon.until(lambda: house.rows("SELECT 1 FROM followed WHERE name = 'Junk'"))
    not_a_wrong_password(house, daemon)


@pytest.mark.fault(18)
@pytest.mark.parametrize("rules", [
    four("server", "cut", "^. OK.*ready"), four("client", "cut", "LOGIN"), four("reply", "cut", "LOGIN"),
    four("server", "sub", "^. OK.*ready", "* BYE Too busy") + four("server", "cutpast", "BYE Too busy"),
], ids=["greeting cut", "login cut", "answer cut", "BYE"])
def test_18_cut_in_the_login(house: House, rules: list[tuple[str, ...]]) -> None:
    """Four times in a row, and still not taken for a wrong password: it logs in soon after."""
    proxy = house.proxy(*rules)
    house.configure(proxy)
    daemon = house.start()
    [one] = house.drop(house.spam())
    check_in_junk(house, daemon, one)
    not_a_wrong_password(house, daemon)
    assert proxy.rules[0].seen == 6  # two connections, and four that came to nothing


@pytest.mark.fault(19)
@pytest.mark.parametrize("command", ["SELECT", "IDLE"])
def test_19_cut_again_and_again(house: House, command: str) -> None:
    """The waits grow, the processor has nearly nothing to do, and the log stays short; in the end it works again."""
    proxy = house.proxy(tap=(tap := Tap()))
    house.configure(proxy)
    daemon = house.start()
    before = len(daemon.log.splitlines())
    proxy.add("client", "cut*", f" {command}")
    tap.heard.clear()
    proxy.cut_all()

    def tries() -> list[float]:
        return [at for _, heard, at in tap.heard if heard.startswith(command)]

    daemon.until(tries)
    began, spent = time.monotonic(), cpu(daemon)
    daemon.until(lambda: len(tries()) == 4, SOME_TIME)
    first, second, third = (after - before for before, after in itertools.pairwise(tries()))
    assert first < second < third
    assert third >= 2
    assert cpu(daemon) - spent < 0.1 * (time.monotonic() - began)
    assert len(daemon.log.splitlines()) - before < 3 * len(tries())
    assert len(said(daemon, "WARNING")) <= 2  # at most one a connection
    proxy.rules.clear()
    [one] = house.drop(house.spam())
    check_in_junk(house, daemon, one)
