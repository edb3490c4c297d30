"""One logged-in session: one thing is asked at a time, and what goes wrong comes out as one of our errors."""

import contextlib
import imaplib
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mailtagger import imap_login
from mailtagger.errors import LoginRefused, MailboxError, TryLater
from mailtagger.imap_syntax import Entry, printable, response_code
from mailtagger.imap_wire import LOST, Client, Server, clean, lost
from mailtagger.secret import Secret

log = logging.getLogger(__name__)

PARTING = 2.0  # seconds for the answer to LOGOUT
BUSY = {"UNAVAILABLE", "INUSE", "SERVERBUG"}  # RFC 5530: the same command may succeed later
WAYS_OUT = {
    "NOPERM": "The account lacks the right to do this in that folder.",
    "OVERQUOTA": "There is no room left: make some on the server.",
    "TRYCREATE": "Create the folder, or name another.",
    "NONEXISTENT": "Create the folder, or name another.",
}


class Refused(MailboxError):
    """The server answered NO or BAD; `code` is its response code (RFC 5530), if it gave one."""

    def __init__(self, problem: str, way_out: str = "", code: str = "") -> None:
        super().__init__(problem, way_out)
        self.code = code


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything the server said to one command: a NO may come with results, as after a move that stopped half-way."""

    refusal: Refused | None
    untagged: dict[str, list[Entry]]

    def get(self, kind: str) -> list[Entry]:
        """The untagged responses of one kind, as `FETCH`."""
        return self.untagged.get(kind, [])

    def check(self) -> "Answer":
        """Itself, or the refusal raised."""
        if self.refusal:
            raise self.refusal
        return self


class Session:
    """A connection that may be lost, and made again."""

    def __init__(
        self, account: Server, secret: Callable[[], Secret], told: set[str] | None, answered: Callable[[], object]
    ) -> None:
        self._account, self._secret, self._answered = account, secret, answered
        self._client: Client | None = None
        self._told = set[str]() if told is None else told  # alerts that are in the log, of all the account's sessions
        self.news = False  # an EXISTS came along with an answer: IDLE does not tell it again
        self.capabilities: frozenset[str] = frozenset()

    @property
    def connected(self) -> bool:
        """Whether commands can be sent, as far as we know."""
        return self._client is not None

    def connect(self) -> None:
        """Connected, over verified TLS, and logged in."""
        try:
            self._client = imap_login.connect(self._account, self._secret)
        except LoginRefused:
            self._answered()
            raise
        with self.exchange("asking what it can do") as client:
            _, data = client.wire.capability()  # only after login does Dovecot announce MOVE
            self.capabilities = frozenset(printable(data[-1]).upper().split())
            if {"ENABLE", "CONDSTORE"} <= self.capabilities:  # or Dovecot 2.3 tells no HIGHESTMODSEQ (RFC 7162)
                client.wire.xatom("ENABLE", "CONDSTORE")

    def close(self) -> None:
        """Logged out if the server answers soon, and disconnected in any case."""
        if self._client is not None:
            with contextlib.suppress(imaplib.IMAP4.error, OSError):
                self._client.wire.sock.settimeout(PARTING)
                self._client.logout()
            self.drop()

    def drop(self) -> None:
        """Disconnected without a word."""
        client, self._client = self._client, None
        if client is not None:
            client.hang_up()

    def interrupt(self) -> None:
        """From another thread: what is being waited for comes to an end, as a lost connection."""
        if (client := self._client) is not None:
            with contextlib.suppress(OSError):
                client.wire.sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def exchange(self, doing: str) -> Iterator[Client]:
        """The client, to ask one thing of; `doing` is how an error will name it."""
        if self._client is None:
            raise TryLater(f"There is no connection to {self._account.host}.")
        wire = self._client.wire
        try:
            yield self._client
            self._answered()
        except LOST as error:
            self.drop()
            raise lost(error, self._account, doing) from error
        except imaplib.IMAP4.error as error:
            self._answered()
            raise self._refusal(doing, str(error)) from error
        finally:
            self.news = self.news or "EXISTS" in wire.untagged_responses
            for text in set(wire.alerts) - self._told:
                log.warning("%s says: %s", self._account.host, text)
            self._told.update(wire.alerts)
            wire.alerts.clear()
            wire.untagged_responses.clear()  # imaplib would keep them, bodies too, and old news answers no new question

    def ask(self, doing: str, command: str, *arguments: str) -> Answer:
        """The answer to one UID command in the selected folder."""
        with self.exchange(doing) as client:
            kind, words = client.wire.uid_command(command, *arguments)
            refusal = None if kind == "OK" else self._refusal(doing, words)
            return Answer(refusal, dict(client.wire.untagged_responses))

    def _refusal(self, doing: str, text: str) -> Refused:
        code, words = response_code(text), clean(text)
        if code in BUSY:
            raise TryLater(f"{self._account.host} is busy ({doing}): {words}.")
        return Refused(f"{self._account.host} refuses ({doing}): {words}.", WAYS_OUT.get(code, ""), code)
