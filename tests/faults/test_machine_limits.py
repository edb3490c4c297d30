"""Faults 78, 79 and 81: names, descriptors, memory and the log, each at its end."""

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailtagger.dovecot import PASSWORD
from tests.faults.house import House
from tests.running import SOON, Daemon

COMMAND = "sys.argv = ['mailtagger', '--config', sys.argv[1], 'run']; from mailtagger import cli; cli.main()"
SOONER = "worker.STATE_WAIT = 1.0; worker.STUCK_WAIT = 1.0; worker.FIRST_WAIT = 0.5"


def threads(daemon: Daemon) -> set[str]:
    """The kernel's numbers of its threads."""
    return {task.name for task in Path(f"/proc/{daemon.process.pid}/task").iterdir()}


# 78: names


@pytest.mark.quick
@pytest.mark.fault(78)
def test_78_a_name_that_does_not_resolve(dovecot_house: House) -> None:
    """It is tried again and again, a line says why, once, and the other account is served all the while."""
    house = dovecot_house
    lost = {"name": "lost", "host": "x.invalid", "username": "x", "tls": "implicit"}
    house.configure(None, lost)
    daemon = house.bench.start_with(f"import os; os.environ['MAILTAGGER_LOST_PASSWORD'] = 'x'; {SOONER}").ready()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    daemon.until(lambda: "The host name x.invalid cannot be resolved" in daemon.log)
    assert daemon.log.count("WARNING lost") <= 2  # its watcher, and its follower


# What a resolver answers for `localhost` on many machines, before and after the name server has come back.
NAMES = """
import socket, time
real, began = socket.getaddrinfo, time.monotonic()
def getaddrinfo(host, port, *more, **other):
    if time.monotonic() - began < {silent}:
        raise socket.gaierror(-3, "Temporary failure in name resolution")
    dead = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ({dead!r}, port, 0, 0))
    return [dead, *real("127.0.0.1", port, *more, **other)]
socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.fault(78)
def test_78_the_name_server_comes_back(dovecot_house: House) -> None:
    """A failure is temporary: when the name can be resolved, the daemon finds its server by itself."""
    house = dovecot_house
    house.configure(host="localhost")
    daemon = house.bench.start_with(NAMES.format(silent=2.5, dead="::1") + SOONER)
    daemon.until(lambda: "The host name localhost cannot be resolved: Temporary failure" in daemon.log)
    daemon.ready()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())


@pytest.mark.fault(78)
@pytest.mark.parametrize("dead", ["::1", "2001:db8::1"])
def test_78_a_dead_ipv6_address_comes_first(house: House, dead: str) -> None:
    """Refused or without a route, the next address is tried at once."""
    house.configure(host="localhost")
    daemon = house.bench.start_with(NAMES.format(silent=0, dead=dead)).ready()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert "WARNING" not in daemon.log


# 79: descriptors and memory


@pytest.mark.quick
@pytest.mark.fault(79)
def test_79_thirty_two_descriptors(house: House) -> None:
    """They are enough for an account."""
    house.configure()
    daemon = house.bench.start_with("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))").ready()
    ids = house.drop(house.spam(), house.ham(), house.spam())
    daemon.until(lambda: house.inside("Junk") == {ids[0], ids[2]} and house.settled())


@pytest.mark.fault(79)
def test_79_out_of_descriptors_while_running(dovecot_house: House) -> None:
    """A clear sentence, no thread ends, and when there are some again, the work goes on."""
    house = dovecot_house
    proxy = house.proxy()
    house.configure(proxy)
    daemon = house.bench.start_with(SOONER).ready()
    before = threads(daemon)
    used = len([*Path(f"/proc/{daemon.process.pid}/fd").iterdir()])
    _, most = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (used - 3, most))  # none is free when one is closed
    proxy.cut_all()
    daemon.until(lambda: daemon.log.count("Too many open files") >= 1)
    [one] = house.drop(house.spam())
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(3)
    assert before <= threads(daemon)
    assert "Traceback" not in daemon.log
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (most, most))
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert daemon.end() < 5


@pytest.mark.fault(79)
@pytest.mark.parametrize("descriptors", [5, 8, 11, 14, 17])
def test_79_too_few_descriptors_to_start(dovecot_house: House, descriptors: int) -> None:
    """It ends with another status than 0 and says why, or it works; it does not hang without a word."""
    house = dovecot_house
    house.configure()
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors})); {SOONER}"
    daemon = house.bench.start_with(f"{limit}; {COMMAND}")
    with contextlib.suppress(AssertionError):
        daemon.until(lambda: daemon.hears("READY=1") or "Too many open files" in daemon.log)
    assert daemon.told or "Too many open files" in daemon.log or daemon.process.poll() not in (None, 0), daemon.log
    print(daemon.process.poll(), daemon.log)
    daemon.close()
    house.start().end()


@pytest.mark.fault(79)
@pytest.mark.parametrize("spare", [0, 4, 16, 64])
def test_79_out_of_memory(dovecot_house: House, spare: int) -> None:
    """With so many megabytes to spare it works, or says that memory is out and goes on, or ends with another status
    than 0; no mail is lost whichever, and with memory again all is done."""
    house = dovecot_house
    house.configure()
    daemon = house.bench.start_with(SOONER).ready()
    pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[0])
    used = pages * os.sysconf("SC_PAGE_SIZE")
    _, most = resource.prlimit(daemon.process.pid, resource.RLIMIT_AS)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, (used + (spare << 20), most))
    big = house.ham() + b"a line of a long message, again and again\r\n" * 100_000  # 4 MB
    ids = house.drop(house.spam(), big, house.spam())
    with contextlib.suppress(subprocess.TimeoutExpired):
        assert daemon.process.wait(4) != 0
    if daemon.process.poll() is None:
        resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, (most, most))
    else:
        daemon = house.start()
    daemon.until(lambda: house.inside("Junk") == {ids[0], ids[2]} and house.settled())
    print(daemon.log)


# 81: the log


def run_into(house: House, log: int | str) -> "subprocess.Popen[bytes]":
    """The daemon with its standard error there; `closed` for none."""
    command = [sys.executable, "-m", "mailtagger", "--log-level", "debug", "--config", str(house.bench.path), "run"]
    own = {"MAILTAGGER_HOME_PASSWORD": PASSWORD, "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    if log == "closed":
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    error = None if isinstance(log, str) else log
    return subprocess.Popen(command, env=os.environ | own, stdin=subprocess.DEVNULL, stderr=error)


@contextlib.contextmanager
def broken_log(how: str) -> Iterator[int | str]:
    """A log that takes nothing."""
    if how == "full":
        with Path("/dev/full").open("wb") as full:
            yield full.fileno()
    elif how == "closed pipe":
        out, into = os.pipe()
        os.close(out)
        yield into
        os.close(into)
    else:
        yield "closed"


@pytest.mark.fault(81)
@pytest.mark.parametrize("how", [pytest.param("full", marks=pytest.mark.quick), "closed pipe", "closed"])
def test_81_a_log_that_takes_nothing(dovecot_house: House, how: str) -> None:
    """It works as ever, reloads, and ends with status 0 when it is told to."""
    house = dovecot_house
    house.configure()
    with broken_log(how) as log:
        daemon = run_into(house, log)
        try:
            until(lambda: watched(house))
            [one] = house.drop(house.spam())
            until(lambda: house.inside("Junk") == {one} and house.settled())
            house.configure(poll_seconds=2)
            daemon.send_signal(signal.SIGHUP)
            [two] = house.drop(house.spam())
            until(lambda: house.inside("Junk") == {one, two} and house.settled())
            daemon.terminate()
            assert daemon.wait(SOON) == 0
        finally:
            daemon.kill()
            daemon.wait()


@pytest.mark.fault(81)
def test_81_a_log_that_nobody_reads(dovecot_house: House) -> None:
    """A pipe that is full: it waits for its reader, as any program does, loses nothing, and is gone within five seconds
    when it is told so."""
    house = dovecot_house
    house.configure()
    out, into = os.pipe()
    daemon = run_into(house, into)
    try:
        until(lambda: watched(house))
        os.set_blocking(into, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(into, bytes(512))
        os.set_blocking(into, True)
        house.drop(house.spam())
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.wait(2)
        daemon.terminate()
        assert daemon.wait(5) is not None
    finally:
        daemon.kill()
        daemon.wait()
        os.close(out)
        os.close(into)
    house.start().until(lambda: len(house.inside("Junk")) == 1 and house.settled())


def watched(house: House) -> bool:
    """Whether the daemon has looked at the folder."""
    with contextlib.suppress(sqlite3.OperationalError):  # there is no journal yet
        return house.rows("SELECT * FROM folders") != []
    return False


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
