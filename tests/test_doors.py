"""The door to a server: TLS 1.2 or later with a verified certificate, or no word, whatever the server does."""

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from mailtagger import config
from mailtagger.dovecot import certify
from mailtagger.errors import ConfigError, MailboxError, MailtaggerError
from mailtagger.imap_login import _context
from tests.imap_server import Login, mailbox
from tests.scripted_server import CAPABILITIES, Scripted

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is missing: apt-get install openssl")
HANDSHAKE = 0x16  # the first byte of a TLS record that begins a handshake (RFC 8446, 5.1)
TLS1_1 = ssl.TLSVersion.TLSv1_1
OLD = "ALL:@SECLEVEL=0"  # OpenSSL 3 does not speak TLS 1.1 otherwise


class Asked(Exception):
    """The password was asked for."""


def asked() -> Any:
    raise Asked


class Listening:
    """A server of a few lines; `heard` has what each connection said, and the port is on 127.0.0.1."""

    def __init__(self, serve: Callable[[socket.socket, bytearray], None]) -> None:
        self.host, self.heard, self._serve = "localhost", list[bytearray](), serve
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.heard.append(bytearray())
                sock.settimeout(5)
                with contextlib.suppress(OSError), sock:
                    self._serve(sock, self.heard[-1])

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listening]]:
    """Makes servers that end with the test."""
    started: list[Listening] = []

    def start(serve: Callable[[socket.socket, bytearray], None]) -> Listening:
        started.append(Listening(serve))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a certificate for localhost and its authority."""
    directory = tmp_path_factory.mktemp("certificate")
    certify(directory)
    return directory


def speaks(certificate: Path, newest: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context that speaks no later version than this."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "server.pem", certificate / "server.key")
    context.set_ciphers(OLD)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
    return context


def everything(sock: socket.socket, heard: bytearray) -> None:
    """All that the client says until it hangs up."""
    while data := sock.recv(4096):
        heard += data


Listen = Callable[..., Listening]


@needs_openssl
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, TLS1_1])
def test_tls_before_1_2_is_refused(certificate: Path, listen: Listen, tls: str, newest: ssl.TLSVersion) -> None:
    """A server that knows nothing later, with a good certificate, gets no word; another client may talk to it."""
    context = speaks(certificate, newest)

    def serve(sock: socket.socket, heard: bytearray) -> None:
        if tls == "starttls":
            greet(sock)
        with context.wrap_socket(sock, server_side=True) as secure:
            secure.sendall(b"* OK in\r\n")
            everything(secure, heard)

    server = listen(serve)
    with pytest.raises(MailboxError, match=r"no version of TLS in common; it takes 1\.2 or later"):
        mailbox(server, asked, tls=tls, ca_file=certificate / "ca.pem").connect()
    assert not any(server.heard)
    if tls == "implicit":  # the server is not just broken
        careless = ssl.create_default_context(cafile=certificate / "ca.pem")
        careless.set_ciphers(OLD)
        careless.minimum_version = ssl.TLSVersion.TLSv1
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            careless.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            assert secure.recv(7) == b"* OK in"


@needs_openssl
def test_tls_1_2_is_enough(certificate: Path, listen: Listen) -> None:
    """Old servers that are still maintained have it; after the handshake comes the greeting, then the password."""
    context = speaks(certificate, ssl.TLSVersion.TLSv1_2)

    def serve(sock: socket.socket, heard: bytearray) -> None:
        with context.wrap_socket(sock, server_side=True) as secure, secure.makefile("rb") as lines:
            secure.sendall(b"* OK in\r\n")
            secure.sendall(b"* CAPABILITY IMAP4rev1\r\n" + lines.readline().split()[0] + b" OK done\r\n")
            everything(secure, heard)

    with pytest.raises(Asked):
        mailbox(listen(serve), asked, tls="implicit", ca_file=certificate / "ca.pem").connect()


@needs_openssl
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("private", [True, False])
def test_the_context_verifies(
    certificate: Path, tls: Literal["implicit", "starttls"], private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chain and name, from 1.2 on, with a private authority and without, whatever the environment says."""
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    context = _context(Login("imap.example.org", 993, tls, certificate / "ca.pem" if private else None))
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("line", [
    "tls: insecure", "tls: optional", "tls: none", "tls: false", "verify: false", "check_hostname: false",
    "tls_minimum: 1.0",
])
def test_nothing_in_the_configuration_switches_it_off(tmp_path: Path, line: str) -> None:
    """Only a server on this machine may be talked to without TLS."""
    path = tmp_path / "config.yaml"
    path.write_text(f"accounts:\n  - name: home\n    host: imap.example.org\n    username: alice\n    {line}\n")
    with pytest.raises(ConfigError):
        config.load(path)


@pytest.mark.parametrize("answer", [
    b"* OK [CAPABILITY IMAP4rev1] plain is fine\r\n",
    b"\x15\x03\x03\x00\x02\x02\x28",  # alert: handshake_failure
    b"\x15\x03\x03\x00\x02\x02\x46",  # alert: protocol_version
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\0" * 100,
    b"",
], ids=["imap", "handshake-failure", "version", "http", "zeros", "nothing"])
def test_after_a_failed_handshake_there_is_no_plain_one(listen: Listen, answer: bytes) -> None:
    """Whatever a server answers, each connection to it begins with a handshake, however often it is tried."""
    def serve(sock: socket.socket, heard: bytearray) -> None:
        heard += sock.recv(4096)
        sock.sendall(answer)
        if answer:
            everything(sock, heard)

    server = listen(serve)
    for _ in range(3):
        with pytest.raises(MailtaggerError):
            mailbox(server, asked, tls="implicit").connect()
    assert len(server.heard) >= 3
    assert {heard[0] for heard in server.heard} == {HANDSHAKE}
    assert not any(b"LOGIN" in heard or b"CAPABILITY" in heard for heard in server.heard)


@pytest.mark.parametrize("answer", ["{tag} NO not today", "{tag} BAD unknown", "* BYE\n{tag} NO", "{tag} OK and now?"])
def test_starttls_that_comes_to_nothing_is_the_end(answer: str) -> None:
    """Refused, or granted and not done: the password is not asked for, and nothing is said in the clear."""
    with Scripted({"^STARTTLS": answer}, capabilities=f"{CAPABILITIES} STARTTLS") as server:
        for _ in range(2):
            with pytest.raises(MailtaggerError):
                mailbox(server, asked, tls="starttls", read_timeout=2).connect()
    assert "STARTTLS" in server.heard
    assert not [line for line in server.heard if line.startswith(("LOGIN", "AUTHENTICATE")) or "alice" in line]


@needs_openssl
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_a_stranger_in_between_hears_nothing(certificate: Path, tmp_path: Path, listen: Listen, tls: str) -> None:
    """With a certificate for the right name from another authority he gets a handshake and no more."""
    certify(tmp_path)
    context = speaks(tmp_path, ssl.TLSVersion.TLSv1_3)

    def serve(sock: socket.socket, heard: bytearray) -> None:
        if tls == "starttls":
            greet(sock)
        with context.wrap_socket(sock, server_side=True) as secure:
            everything(secure, heard)

    server = listen(serve)
    for _ in range(2):
        with pytest.raises(MailboxError, match="not trusted"):
            mailbox(server, asked, tls=tls, ca_file=certificate / "ca.pem").connect()
    assert not any(server.heard)


def greet(sock: socket.socket) -> None:
    """Up to the handshake of STARTTLS, without a byte read too many."""
    def tag() -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += sock.recv(1)
        return line.split()[0]

    sock.sendall(b"* OK ready\r\n")
    sock.sendall(b"* CAPABILITY IMAP4rev1 STARTTLS\r\n" + tag() + b" OK done\r\n")
    sock.sendall(tag() + b" OK begin\r\n")
