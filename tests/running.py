"""`mailtagger run` as a process, on a configuration in a directory of its own, beside a mail program of the user's."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mailtagger.dovecot import PASSWORD
from mailtagger.imap import Mailbox
from mailtagger.journal import FILE, Journal
from tests.tiny_model import GOLDEN, HAM_TEXT, tiny_model

WON = GOLDEN[2]  # spam in words that the tiny model knows
SOON = 20.0  # seconds to wait for what takes less than one on an idle machine
# The daemon, with other waits than its own, which nobody has the time for.
WITH = """
import sys
from pathlib import Path
from mailtagger import cli, daemon, imap_reader, worker
exec(sys.argv[2])
cli.leave(daemon.run(Path(sys.argv[1])))
"""


def message(text: str, id_: str, subject: str = "a word") -> bytes:
    return (
        f"Message-ID: <{id_}@test>\r\nFrom: a@example.org\r\nTo: alice@example.org\r\nSubject: {subject}\r\n"
        f"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n{text}\r\n"
    ).encode()


def spam(id_: str) -> bytes:
    return message(WON, f"spam-{id_}", "A free prize")


def ham(id_: str) -> bytes:
    return message(HAM_TEXT, f"ham-{id_}", "Lunch on Tuesday")


class Daemon:
    """A running `mailtagger run`; `log` grows, `told` is what systemd heard."""

    def __init__(self, path: Path, command: Sequence[str], environment: dict[str, str]) -> None:
        self._log = path.with_suffix(".log")
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"mailtagger-test-{os.getpid()}-{random.randrange(1 << 30)}"
        self._heard.bind(f"\0{name}")
        self._heard.setblocking(False)
        self.told: list[str] = []
        passwords = {"MAILTAGGER_HOME_PASSWORD": PASSWORD, "MAILTAGGER_WORK_PASSWORD": PASSWORD}
        own = passwords | {"NOTIFY_SOCKET": f"@{name}", "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], stderr=log, env=os.environ | own | environment
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], Any], seconds: float = SOON) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < end, f"in vain:\n{self.log}"
            time.sleep(0.02)

    def hears(self, word: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told += self._heard.recv(4096).decode().splitlines()
        return word in self.told

    def ready(self) -> "Daemon":
        self.until(lambda: self.hears("READY=1"))
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Seconds until it ended, with status 0."""
        began = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(SOON) == 0, self.log
        return time.monotonic() - began

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._heard.close()


class Bench:
    """A directory with a model and a configuration, and the daemons started on it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / "config.yaml"
        self.model = tiny_model(directory)
        self.started: list[Daemon] = []

    def configure(self, *accounts: dict[str, Any], **settings: Any) -> Path:
        own = {"state_dir": str(self.directory / "state"), "model": str(self.model)}
        self.path.write_text(yaml.safe_dump(own | settings | {"accounts": list(accounts)}))
        return self.path

    def start(self, **environment: str) -> Daemon:
        command = ("-m", "mailtagger", "--config", str(self.path), "run")
        self.started.append(Daemon(self.path, command, environment))
        return self.started[-1]

    def start_to_die(self, point: str = "", *options: str) -> Daemon:
        """The daemon by way of `tests.dying`, which kills it at that point, as by a power cut."""
        command = ("-m", "tests.dying", *options, str(self.path), *point.split())
        self.started.append(Daemon(self.path, command, {"PYTHONPATH": str(Path(__file__).parents[1])}))
        return self.started[-1]

    def start_with(self, change: str) -> Daemon:
        """The daemon under a change of its constants, as `worker.LONGEST_WAIT = 2.0`."""
        self.started.append(Daemon(self.path, ("-c", WITH, str(self.path), change), {}))
        return self.started[-1]

    @contextlib.contextmanager
    def journal(self) -> Iterator[Journal]:
        with Journal(self.directory / "state" / FILE) as opened:
            yield opened


def account(server: Any, **settings: Any) -> dict[str, Any]:
    own = {"name": "home", "host": "127.0.0.1", "port": server.port, "tls": "none", "username": "alice"}
    return own | {"mode": "apply", "poll_seconds": 5} | settings


def found(alice: Mailbox, folder: str) -> dict[str, set[str]]:
    """Message-ID → flags of all messages in a folder; a doubled message fails."""
    alice.select(folder)
    messages = list(alice.fetch(alice.uids()))
    ids = [re.search(rb"Message-ID: <(.*)@test>", message.raw)[1].decode() for message in messages]  # type: ignore[index]
    assert sorted(ids) == sorted(set(ids)), f"doubled in {folder}"
    return {id_: set(message.flags) - {"\\Recent"} for id_, message in zip(ids, messages, strict=True)}
