"""Faults 69 and 80: SIGTERM whatever is being waited for, and SIGHUP with a configuration that cannot be used."""

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mailtagger.dovecot import PASSWORD
from mailtagger.lessons import Lesson, Lessons
from tests.faults.house import House
from tests.running import SOON, Bench, Daemon, account
from tests.scripted_server import Scripted
from tests.test_retrain import made

SLOW = "import time; from mailtagger import judge; opinion = judge.opinion; " \
       "judge.opinion = lambda *a: (time.sleep(0.2), opinion(*a))[1]"


# A wait that nothing ends


class Silent:
    """A server that never says a word; a full one takes no connection either."""

    def __init__(self, full: bool = False) -> None:
        self._open = [socket.create_server(("127.0.0.1", 0), backlog=0 if full else 5)]
        self.port = self._open[0].getsockname()[1]
        for _ in range(3 if full else 0):
            self._open.append(socket.socket())
            self._open[-1].setblocking(False)
            self._open[-1].connect_ex(("127.0.0.1", self.port))

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            one.close()


def connections(port: int) -> bool:
    """Whether a client is connected to this port, or tries to be."""
    end = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(end) and row[3] in ("01", "02") for row in rows)


def in_a_wait(bench: Bench, server: Any, until: Callable[[Daemon], bool], change: str = "", **settings: Any) -> float:
    """Seconds that the daemon takes to end from a wait of minutes, with status 0."""
    long = {"connect_timeout": 120, "read_timeout": 120}
    bench.configure(account(server, **long, **settings))
    daemon = bench.start_with(change or "pass")
    daemon.until(lambda: until(daemon))
    return daemon.end()


@pytest.mark.fault(69)
@pytest.mark.parametrize(("what", "settings"), [
    pytest.param("greeting", {}, marks=pytest.mark.quick), ("TLS handshake", {"tls": "implicit"}), ("connection", {}),
])
def test_69_terminated_while_it_connects(bench: Bench, what: str, settings: dict[str, str]) -> None:
    """The server takes no connection, or says no word in it: status 0 within five seconds."""
    with Silent(full=what == "connection") as server:
        assert in_a_wait(bench, server, lambda daemon: watching(daemon) and connections(server.port), **settings) < 5


@pytest.mark.fault(69)
@pytest.mark.parametrize("command", [
    "^LOGIN", "^CAPABILITY", "^SELECT", "^LIST", "^UID SEARCH", "^STATUS", "^NOOP", "^IDLE", "^STARTTLS",
])
def test_69_terminated_while_a_command_stalls(bench: Bench, command: str) -> None:
    """An answer that never comes, to whatever was asked: status 0 within five seconds."""
    tls = {"tls": "starttls"} if command == "^STARTTLS" else {}
    capabilities = "IMAP4rev1 STARTTLS IDLE MOVE UIDPLUS NAMESPACE SPECIAL-USE AUTH=PLAIN"
    rules = {"^UID SEARCH": "* SEARCH\n{tag} OK done"} if command != "^UID SEARCH" else {}
    with Scripted({command: "", **rules}, capabilities=capabilities) as server:
        heard = lambda daemon: any(re.search(command, line) for line in server.heard)  # noqa: E731
        assert in_a_wait(bench, server, heard, poll_seconds=1, **tls) < 5


@pytest.mark.fault(69)
def test_69_terminated_in_a_name_lookup(bench: Bench) -> None:
    """A resolver that does not answer: status 0 within five seconds."""
    asked = "import os, socket, time; socket.getaddrinfo = lambda *a, **k: (os.write(2, b'asked'), time.sleep(99))"
    with Silent() as server:
        assert in_a_wait(bench, server, lambda daemon: "asked" in daemon.log, asked, host="localhost") < 5


@pytest.mark.fault(69)
def test_69_terminated_while_a_password_command_hangs(bench: Bench) -> None:
    """A password store that waits for somebody: status 0 within five seconds."""
    marker = bench.directory / "asked"
    command = ["sh", "-c", f"touch {marker}; exec sleep 20"]
    with Scripted() as server:
        settings = {"name": "store", "password_command": command}
        assert in_a_wait(bench, server, lambda daemon: marker.exists(), **settings) < 5


@pytest.mark.quick
@pytest.mark.fault(69)
def test_69_terminated_in_a_long_batch(dovecot_house: House) -> None:
    """A minute of scoring lies before it: it ends after the message in hand, and the rest is done at the next start."""
    house = dovecot_house
    house.configure(poll_seconds=5)
    daemon = house.bench.start_with(SLOW).ready()
    contents = [house.ham() for _ in range(60)]
    house.expects(*contents)
    with house.server.client("alice") as client:
        client.multiappend("INBOX", contents)
    time.sleep(1)
    assert daemon.end() < 5
    daemon = house.start()
    daemon.until(lambda: house.rows("SELECT count(*) FROM messages") == [(60,)])


@pytest.mark.fault(69)
def test_69_terminated_while_another_process_acts(dovecot_house: House) -> None:
    """A `scan --apply` holds the folder and hangs: the daemon that waits for it ends with status 0 in five seconds."""
    house = dovecot_house
    house.configure()
    daemon = house.start()
    name = f"folder-{hashlib.sha256(chr(0).join(['home', 'INBOX']).encode()).hexdigest()[:16]}.lock"
    with (house.bench.directory / "state" / name).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        [one] = house.drop(house.spam())
        daemon.until(lambda: house.rows("SELECT count(*) FROM messages") == [(1,)])
        assert daemon.end() < 5
        assert house.inside("INBOX") == {one}
    house.start().until(lambda: house.inside("Junk") == {one} and house.settled())


@pytest.mark.fault(69)
@pytest.mark.parametrize("arguments", [
    ("scan", "--folder", "INBOX", "--apply", "--yes"), ("learn", "--ham", "folder:Archive"),
])
@pytest.mark.parametrize("stalled", [False, True])
def test_69_terminated_commands(dovecot_house: House, arguments: tuple[str, ...], stalled: bool) -> None:
    """`scan` and `learn` in the middle of their work, or before a server that says no more: gone within five seconds;
    the next one does the rest."""
    house = dovecot_house
    learning = arguments[0] == "learn"
    contents = [house.ham() if learning or number % 4 else house.spam() for number in range(120)]
    house.expects(*contents)
    with house.server.client("alice") as client:
        client.multiappend("Archive" if learning else "INBOX", contents)
    proxy = house.proxy(("client", "stall", "UID FETCH.*BODY")) if stalled else None
    house.configure(proxy, read_timeout=120)
    process = subprocess.Popen(
        [sys.executable, "-m", "mailtagger", "--config", house.bench.path, *arguments], stdout=subprocess.DEVNULL,
        env=environment(),
    )
    table = "lessons" if learning else "messages"
    end = time.monotonic() + SOON
    while time.monotonic() < end and (not done(house, table) if not stalled else not proxy.open):
        time.sleep(0.01)
    began = time.monotonic()
    process.terminate()
    assert process.wait(SOON) != 0
    assert time.monotonic() - began < 5
    house.configure()
    subprocess.run(
        [sys.executable, "-m", "mailtagger", "--config", house.bench.path, *arguments], check=True, env=environment(),
        stdout=subprocess.DEVNULL,
    )
    assert house.rows(f"SELECT count(*) FROM {table}") == [(120,)]
    assert house.inside("Junk") == {id_ for id_ in house.delivered if id_.startswith("spam") and not learning}
    assert house.settled()


# `mailtagger retrain` of the packaged model, on a sample that is soon rehearsed; its training would take hours.
TRAINING = """
import sys
from pathlib import Path
from mailtagger import cli, replay
from mailtagger.ulmfit import finetune
replay.FILE = Path(sys.argv.pop(1))
finetune.STEPS = finetune.MOST_STEPS = 100_000
fit = finetune._fit
finetune._fit = lambda *given: fit(*given[:-1], lambda share: (print("a step", flush=True), given[-1](share)))
cli.main()
"""


@pytest.mark.train
@pytest.mark.fault(69)
def test_69_terminated_in_a_training(dovecot_house: House) -> None:
    """Between two steps or in one: status 130 within five seconds, no trace of a candidate, all lessons still to be
    learned; the daemon beside it has gone on with the old model, and goes on."""
    pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")
    house = dovecot_house
    house.configure(model=None)
    daemon = house.start()
    sample = house.bench.directory / "sample"
    made(sample)
    with house.journal() as journal:
        for text in ("a word to every shareholder of the company " * 100, "the minutes of our meeting " * 100):
            ident = hashlib.sha256(text.encode()).hexdigest()
            terms = np.array([1, 2, 3], np.uint32)
            Lessons(journal).learn(Lesson("home", ident, ident, "ham", "moved", "a@b", "INBOX", 1.0, terms, text))
    command = [sys.executable, "-c", TRAINING, str(sample), "--config", str(house.bench.path), "retrain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as training:
        assert training.stdout
        assert [training.stdout.readline() for _ in range(2)] == [b"a step\n"] * 2
        [one] = house.drop(house.ham())
        daemon.until(lambda: house.rows("SELECT 1 FROM messages"))
        began = time.monotonic()
        training.terminate()
        assert training.wait(SOON) == 130
        assert time.monotonic() - began < 5
    assert list((house.bench.directory / "state").glob("models/*")) == []
    assert house.rows("SELECT learned_by, COUNT(*) FROM lessons GROUP BY 1") == [(None, 2)]
    assert house.rows("SELECT * FROM retrainings") == []
    [two] = house.drop(house.ham())
    daemon.until(lambda: house.rows("SELECT COUNT(*) FROM messages") == [(2,)])
    assert house.inside("INBOX") == {one, two}
    assert daemon.end() < 5


def environment() -> dict[str, str]:
    own = {"MAILTAGGER_HOME_PASSWORD": PASSWORD, "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    return os.environ | own


def done(house: House, table: str) -> bool:
    """Whether anything stands in a table of the journal yet."""
    with contextlib.suppress(sqlite3.OperationalError):  # it is not there yet
        return house.rows(f"SELECT count(*) FROM {table}") > [(0,)]
    return False


def watching(daemon: Daemon) -> bool:
    return "mailtagger " in daemon.log


# 80: the configuration is read again

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no YAML": (lambda path: path.write_text("accounts: [\n"), r"config.yaml:\d+"),
    "unknown key": (lambda path: path.write_text(path.read_text() + "colour: red\n"), r"config.yaml:\d+: colour"),
    "no account": (lambda path: path.write_text("accounts: []\n"), "accounts"),
    "empty": (lambda path: path.write_text(""), "config.yaml is empty"),
    "not text": (lambda path: path.write_bytes(b"\xff\xfe\0"), "config.yaml"),
    "removed": (lambda path: path.unlink(), "config.yaml"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "config.yaml"),
    "another state_dir": (
        lambda path: path.write_text(re.sub("state_dir: (.*)", r"state_dir: \1x", path.read_text())),
        "state_dir cannot be changed while mailtagger runs",
    ),
    "no such model": (
        lambda path: path.write_text(re.sub("model: (.*)", r"model: \1x", path.read_text())), "cannot be used",
    ),
}


@pytest.mark.fault(80)
@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.quick if how == "unknown key" else ()) for how in BROKEN]
)
def test_80_reload_of_what_cannot_be_used(dovecot_house: House, how: str) -> None:
    """The old one goes on, with the same connections, and the log says which line is wrong."""
    house = dovecot_house
    proxy = house.proxy()
    path = house.configure(proxy)
    daemon = house.start()
    daemon.until(lambda: proxy.count == 2)
    spoil, said = BROKEN[how]
    spoil(path)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: "the configuration was not reloaded, the old one stays" in daemon.log)
    daemon.until(lambda: re.search(said, daemon.log.partition("the old one stays")[2]))
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert proxy.count == 2
    assert "Traceback" not in daemon.log
    if path.is_dir():
        path.rmdir()


@pytest.mark.quick
@pytest.mark.fault(80)
def test_80_an_account_is_removed_while_it_works(house: House) -> None:
    """It ends after the message in hand, its connections are closed, and nothing of it is touched any more; back in the
    file it goes on where it was."""
    proxy = house.proxy()
    bob = account(house.server, name="work", username="bob")
    house.configure(proxy, bob)
    daemon = house.start()
    ids = house.drop(*(house.spam() for _ in range(8)))
    house.bench.configure(bob)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: "1 folder is watched" in daemon.log)
    daemon.until(lambda: not proxy.open)
    later = house.drop(house.spam())
    assert later[0] in house.inside("INBOX")
    house.configure(proxy, bob)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: house.inside("Junk") == {*ids, *later} and house.settled())


@pytest.mark.fault(80)
def test_80_an_account_is_removed_whose_server_hangs(dovecot_house: House) -> None:
    """The others go on meanwhile, and SIGTERM in the middle of that ends it within five seconds."""
    house = dovecot_house
    with Silent() as server:
        hangs = account(server, name="work", read_timeout=120, connect_timeout=120)
        house.configure(None, hangs)
        daemon = house.bench.start()
        daemon.until(lambda: "watched from now on" in daemon.log and connections(server.port))
        house.configure()
        daemon.process.send_signal(signal.SIGHUP)
        [one] = house.drop(house.spam())
        daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
        daemon.until(lambda: "1 folder is watched" in daemon.log)
        house.configure(None, hangs)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: "2 folders are watched" in daemon.log)
        house.configure(None, hangs | {"poll_seconds": 77}, poll_seconds=2)
        daemon.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert daemon.end() < 5
