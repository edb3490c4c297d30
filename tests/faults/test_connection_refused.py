"""Faults 16 to 19: the door is shut, or the connection is cut in the login or again and again."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailtagger import worker
from tests.faults.conftest import kept
from tests.faults.house import House, Tap
from tests.imap_server import Tool, needs_tools
from tests.running import Bench, Daemon, account, spam

pytestmark = needs_tools

SOME_TIME = 60.0  # seconds to wait for what is meant to be slow


def warnings(daemon: Daemon) -> list[str]:
    """The log lines of this level."""
    return [line for line in daemon.log.splitlines() if " WARNING " in line]


def cpu(daemon: Daemon) -> float:
    """Seconds that the daemon has spent computing (proc(5), utime and stime)."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    daemon.until(lambda: house.moved(2))
    assert house.inside("Junk") == {one}
    assert len(warnings(daemon)) <= 2 * 2  # of each connection the first reason, and what it was after that
    daemon.until(lambda: daemon.log.count("no longer so") == 2)
    with house.journal() as journal:
        assert journal.notes() == []


@pytest.mark.fault(16)
def test_16_server_stopped_and_started(house: House) -> None:
    """An orderly end and a new start of the server are survived; mail that comes then is dealt with."""
    house.configure()
    daemon = house.start()
    house.server.stop()
    try:
        daemon.until(lambda: "cannot be reached" in daemon.log)
    finally:
        house.server.start()
    [one] = house.drop(house.spam())
    house.check_moved(daemon, one)
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
    house.check_moved(daemon, one)
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
    house.check_moved(daemon, one)
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
    assert len(warnings(daemon)) <= 2  # at most one a connection
    proxy.rules.clear()
    [one] = house.drop(house.spam())
    house.check_moved(daemon, one)
