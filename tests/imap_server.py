"""Servers to test against: our own Dovecot, and where a folder with the tools for it is at hand, Cyrus and faults.

MAILTAGGER_IMAP_TOOLS names that folder (`cyrus-up`, `dovecot-up`, `faultproxy.py`); the default is `../shared/imap`.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import pytest
from imapclient import IMAPClient

from mailtagger import dovecot
from mailtagger.dovecot import PASSWORD
from mailtagger.imap import Mailbox
from mailtagger.secret import Secret

TOOLS = Path(os.environ.get("MAILTAGGER_IMAP_TOOLS") or Path(__file__).parents[2] / "shared" / "imap")
needs_dovecot = pytest.mark.skipif(bool(dovecot.missing()), reason=dovecot.missing() or "-")
needs_tools = pytest.mark.skipif(
    not (TOOLS / "faultproxy.py").exists(), reason=f"no IMAP tools in {TOOLS} (MAILTAGGER_IMAP_TOOLS)"
)


class Place(Protocol):
    """What a Mailbox needs to know of a server."""

    host: str
    port: int


@dataclass(frozen=True)
class Login:
    """An account's settings, as `config.Account` has them."""

    host: str
    port: int
    tls: Literal["implicit", "starttls", "none"] = "none"
    ca_file: Path | None = None
    username: str = "alice"
    connect_timeout: float = 5
    read_timeout: float = 10


def mailbox(server: Place, secret: Callable[[], Secret] | str = PASSWORD, **settings: Any) -> Mailbox:
    """A mailbox of alice's, not yet connected."""
    own = (lambda: Secret("password", secret)) if isinstance(secret, str) else secret
    return Mailbox(Login(**{"host": server.host, "port": server.port, **settings}), own)


class Tool:
    """A server that one of the tools starts: `Tool("cyrus-up", "--altoff")`."""

    def __init__(self, program: str, *options: str) -> None:
        self._program, self._options, self._directory = program, options, tempfile.mkdtemp(prefix="imap-")
        said = self._up()
        if said.returncode:
            shutil.rmtree(self._directory)
            pytest.skip(f"{program}: {said.stderr.strip()[-200:]}")
        self.env = dict(line.split("=", 1) for line in said.stdout.splitlines() if "=" in line)
        self.host, self.port, self.imaps_port = "127.0.0.1", int(self.env["IMAP_PORT"]), int(self.env["IMAPS_PORT"])
        self.ca_file = Path(self.env["CA_FILE"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._down("--purge")

    def start(self) -> None:
        """Answers when this returns; where it ran before, with the same mail on the same ports."""
        said = self._up()
        assert not said.returncode, said.stderr
        self.env = dict(line.split("=", 1) for line in said.stdout.splitlines() if "=" in line)

    def _up(self) -> "subprocess.CompletedProcess[str]":
        command = [TOOLS / self._program, *self._options, self._directory]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def _down(self, *how: str) -> None:
        subprocess.run([TOOLS / self._program.replace("-up", "-down"), *how, self._directory], check=True)

    def deliver(self, user: str, raw: bytes, folder: str = "INBOX") -> None:
        """A message stored as it is."""
        with self.client(user) as client:
            client.append(folder, raw)

    def client(self, user: str) -> IMAPClient:
        """Another mail program."""
        client = IMAPClient(self.host, self.port, ssl=False, timeout=20)
        client.login(user, PASSWORD)
        return client


def fault_proxy(server: Place, *rules: tuple[str, ...], **options: Any) -> Any:
    """A proxy in front of the server that makes faults; its `port` and `host` are for the client."""
    spec = importlib.util.spec_from_file_location("faultproxy", TOOLS / "faultproxy.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    proxy = module.FaultProxy(server.host, server.port, rules=rules, **options)
    proxy.host = "127.0.0.1"
    return proxy
