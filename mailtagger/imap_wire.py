"""The transport below imap.py: TCP, TLS and lines, in the two classes that imaplib and IMAPClient let one override."""

import imaplib
import re
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Literal, Protocol

from imapclient import IMAPClient, SocketTimeout
from imapclient.exceptions import ProtocolError

from mailtagger.errors import TryLater
from mailtagger.imap_syntax import printable, quoted

# imaplib.IMAP4.readonly is an `abort` too, but no lost connection: Mailbox, where it can occur, catches it first.
LOST = (imaplib.IMAP4.abort, OSError, ProtocolError)
MAX_LITERAL = 1 << 26  # 64 times the biggest message that is fetched whole: the size that a server tells may be a guess
MAX_LINE = 1 << 20  # bodies come as literals; the longest line is a SEARCH of imap.WINDOW messages, 0.55 MB
# What imaplib quotes when an answer is none: a literal cut short goes on as lines, and those are of a mail.
GARBLED = re.compile("unexpected (?:tagged )?response|unterminated line")
LITERAL = re.compile(rb"\{(\d+)\}\r?\n\Z")
ALERT = re.compile(rb"\S+ (?:OK|NO|BAD|BYE|PREAUTH) \[ALERT\] ?(.*)", re.IGNORECASE)


class Server(Protocol):
    """What is read of an account's settings."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def tls(self) -> Literal["implicit", "starttls", "none"]: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def username(self) -> str: ...
    @property
    def connect_timeout(self) -> float: ...
    @property
    def read_timeout(self) -> float: ...


class Wire(imaplib.IMAP4):
    """imaplib with a buffer of its own, so that waiting sees what has already come and a time-out loses nothing.

    imaplib reads through a buffered file. A line that came together with the one before it shows in no poll of the
    socket (an EXISTS right behind "+ idling" would wait for the next news), and after a time-out the file is useless.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, timeout: SocketTimeout) -> None:
        self._context, self._read_timeout, self._buffer = context, timeout.read, bytearray()
        self.alerts: list[str] = []  # RFC 3501, 7.1: these texts must reach the user
        super().__init__(host, port, timeout.connect)

    def _create_socket(self, timeout: float | None = None) -> socket.socket:
        sock = socket.create_connection((self.host, self.port), timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # halves the time of a small command
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._context:
                sock = self._context.wrap_socket(sock, server_hostname=self.host)
            sock.settimeout(self._read_timeout)
        except BaseException:
            sock.close()
            raise
        return sock

    def starttls(self, ssl_context: ssl.SSLContext | None = None) -> tuple[str, list[Any]]:  # type: ignore[override]
        """TLS from here on; nothing that was said before the handshake counts after it (RFC 3501, 6.2.1)."""
        assert ssl_context is not None
        kind, data = self._simple_command("STARTTLS")
        if kind == "OK":
            self._buffer.clear()  # what a man in the middle sent ahead of the handshake
            self.sock = ssl_context.wrap_socket(self.sock, server_hostname=self.host)
            self._tls_established = True
            self._get_capabilities()
        return kind, data

    def login(self, user: str, password: str) -> tuple[Literal["OK"], list[bytes]]:
        """As imaplib's, with the user name quoted too: it may have spaces or a backslash."""
        kind, data = self._simple_command("LOGIN", quoted(user), quoted(password))
        if kind != "OK":
            raise self.error(printable(data[-1]))
        self.state = "AUTH"
        return "OK", data

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def readline(self) -> bytes:
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            if (seen := len(self._buffer)) > MAX_LINE:
                raise self.abort(f"a line of more than {MAX_LINE} bytes")
            self._receive()
        line = self.read(end + 1)
        # Before imaplib sees it: of 4,301 digits Python makes no number, and memory is not for whoever asks for it.
        if (literal := LITERAL.search(line)) and (len(literal[1]) > 19 or int(literal[1]) > MAX_LITERAL):
            raise self.abort(f"a literal of more than {MAX_LITERAL} bytes")
        if alert := ALERT.match(line):
            self.alerts.append(printable(alert[1]))
        return line

    def wait(self, seconds: float) -> bool:
        """True as soon as there is a whole line to read, False when the time has passed without one."""
        end = time.monotonic() + seconds
        try:
            while b"\n" not in self._buffer:
                if (left := end - time.monotonic()) <= 0:
                    return False
                self.sock.settimeout(left)
                self._receive()
        except TimeoutError:
            return False
        finally:
            self.sock.settimeout(self._read_timeout)
        return True

    def start_idle(self) -> bytes:
        """The tag of an IDLE that the server has taken up (RFC 2177); news may come before its "+"."""
        tag: bytes = self._command("IDLE")
        while self._get_response() is not None:
            if self.tagged_commands[tag]:
                raise self.error(f"IDLE: {self.tagged_commands.pop(tag)}")
        return tag

    def heed(self) -> None:
        """One line of news, into `untagged_responses`; BYE is a lost connection that announces itself."""
        self._get_response()
        self._check_bye()

    def stop_idle(self, tag: bytes, patience: float) -> None:
        """Back to commands, or TimeoutError: on a dead link the answer to DONE never comes."""
        self.sock.settimeout(min(patience, self._read_timeout))
        try:
            self.send(b"DONE\r\n")
            self._command_complete("IDLE", tag)
        finally:
            self.sock.settimeout(self._read_timeout)

    def uid_command(self, command: str, *arguments: str) -> tuple[str, str]:
        """("OK" or "NO", the server's words); what it told besides is in `untagged_responses`, COPYUID included.

        IMAPClient drops COPYUID, and with it the only proof of a copy (RFC 4315, 3).
        """
        kind, data = self._simple_command("UID", command, *arguments)
        return kind, printable(data[-1])

    def _receive(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise self.abort("the server closed the connection")
        self._buffer += data


class Client(IMAPClient):  # type: ignore[misc]
    """IMAPClient over a Wire, which is its `wire`."""

    def __init__(self, server: Server, context: ssl.SSLContext | None) -> None:
        implicit = context if server.tls == "implicit" else None
        timeout = SocketTimeout(connect=server.connect_timeout, read=server.read_timeout)
        super().__init__(server.host, server.port, ssl=bool(implicit), ssl_context=implicit, timeout=timeout)
        self.wire.debug = 0  # at IMAPClient's 5 every body is formatted for a log line, whether that is wanted or not

    def _create_IMAP4(self) -> Wire:
        return Wire(self.host, self.port, self.ssl_context, self._timeout)

    @property
    def wire(self) -> Wire:
        wire: Wire = self._imap
        return wire

    def hang_up(self) -> None:
        """Disconnected, whatever state the connection was in."""
        try:
            self.shutdown()
        except OSError:
            self.wire.sock.close()


def lost(error: Exception, server: Server, doing: str) -> TryLater:
    """What a cut, stalled or garbled connection is for the rest of the program."""
    where = f"{server.host}:{server.port}"
    if isinstance(error, TimeoutError):
        return TryLater(f"{where} did not answer in time ({doing}).")
    return TryLater(f"The connection to {where} was lost ({doing}): {reason(error)}.")


def reason(error: Exception) -> str:
    """Why it failed, in the words of the operating system, OpenSSL or the server."""
    if isinstance(error, ssl.SSLError):
        return printable(error.reason or str(error))
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror)
    if isinstance(error, ProtocolError) or GARBLED.search(str(error)):
        return "its answer makes no sense"
    return clean(str(error)) or type(error).__name__


def clean(text: str) -> str:
    """The server's own words, at most 200 characters, out of what imaplib and IMAPClient wrap round them."""
    text = re.sub(r"^(?:command: \w+ => |\w+ command error: \w+ |\w+ failed: |socket error: )+", "", text)
    text = re.sub(r"""^\[?b(['"])(.*)\1\]?$""", r"\2", text)
    return printable(text)[:200].rstrip(".")
