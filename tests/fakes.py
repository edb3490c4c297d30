"""MemoryMailbox: the methods of imap.Mailbox over a server in memory, for tests of what is done, not of how it is said.

    server = MemoryServer()                         INBOX, and Junk with \\Junk
    uid = server.deliver(b"Subject: x\\r\\n\\r\\ny")     as an MTA would
    mailbox = MemoryMailbox(server)                 any number of connections to one server
    mailbox.fail("move", TryLater("cut"), after=1)  the next move is carried out, and its answer lost

It keeps the properties the daemon relies on: a move gives a new UID, UIDs never return, an expunged message is
skipped, keywords compare without case and the folder's first spelling wins, a folder may keep no keywords.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Self, TypeVar

from mailtagger.errors import MailboxError, MailtaggerError, TryLater
from mailtagger.imap import BIG, PARTIAL, Address, CannotMove, FolderInfo, FolderState, Moved, Proven, RawMessage
from mailtagger.imap_reader import Head, Status
from mailtagger.imap_syntax import lower

T = TypeVar("T")


@dataclass
class Stored:
    """One message on the server."""

    raw: bytes
    flags: set[str] = field(default_factory=set)
    day: date = field(default_factory=lambda: datetime.now(UTC).date())
    arrived: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Folder:
    """One folder on the server."""

    attributes: frozenset[str] = frozenset()
    uidvalidity: int = 1
    uidnext: int = 1
    keywords_ok: bool = True
    permanent: frozenset[str] = frozenset()  # without keywords_ok: the keywords that it keeps all the same
    writable: bool = True
    refuse: str = ""  # what a move to it is answered with, e.g. "[OVERQUOTA] full"
    messages: dict[int, Stored] = field(default_factory=dict)

    def add(self, message: Stored) -> int:
        uid, self.uidnext = self.uidnext, self.uidnext + 1
        self.messages[uid] = message
        return uid


class MemoryServer:
    """Folders of one account; its methods are what happens without the daemon: delivery, the user, other clients."""

    def __init__(self) -> None:
        self.folders = {"INBOX": Folder(), "Junk": Folder(frozenset({"\\Junk"}))}
        self.changed = threading.Condition(threading.RLock())
        self.changes = 0
        self.can_move = self.can_idle = self.moves_whole = True

    def deliver(self, raw: bytes, folder: str = "INBOX", flags: Iterable[str] = (), day: date | None = None) -> int:
        """A new message; its UID."""
        with self.changed:
            message = Stored(raw, set(flags))
            message.day = day or message.day
            return self._tell(self.folders[folder].add(message))

    def user_moves(self, uid: int, folder: str, target: str) -> int:
        """The user drags a message to another folder; its new UID."""
        with self.changed:
            return self._tell(self.folders[target].add(self.folders[folder].messages.pop(uid)))

    def user_deletes(self, uid: int, folder: str = "INBOX") -> None:
        """The user expunges a message."""
        with self.changed:
            self._tell(self.folders[folder].messages.pop(uid))

    def renumber(self, folder: str) -> None:
        """The server gives every message a new UID under a new UIDVALIDITY."""
        with self.changed:
            old = self.folders[folder]
            old.uidvalidity += 1
            old.messages = {uid + 1000: message for uid, message in old.messages.items()}
            old.uidnext += 1000
            self._tell(None)

    def raws(self, folder: str) -> list[bytes]:
        """The messages of a folder in the order of their UIDs, byte for byte."""
        with self.changed:
            return [message.raw for _, message in sorted(self.folders[folder].messages.items())]

    def flags(self, uid: int, folder: str = "INBOX") -> set[str]:
        """The flags and keywords of one message."""
        with self.changed:
            return set(self.folders[folder].messages[uid].flags)

    def _tell(self, value: T) -> T:
        self.changes += 1
        self.changed.notify_all()
        return value


class MemoryMailbox:
    """A connection to a MemoryServer; `calls` lists the methods used, `fail` makes one of them fail."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        self.server = server or MemoryServer()
        self.calls: list[str] = []
        self.connected = False
        self._selected = ""
        self._seen = self.server.changes
        self._failures: list[tuple[str, MailtaggerError, bool]] = []

    def fail(self, method: str, error: MailtaggerError, *, after: bool = False, times: int = 1) -> None:
        """The next `times` calls of `method` raise `error`; with `after`, once the server has carried them out."""
        self._failures += [(method, error, after)] * times

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        self._run("connect", lambda: setattr(self, "connected", True), online=False)

    def close(self) -> None:
        self.connected, self._selected = False, ""

    def interrupt(self) -> None:
        with self.server.changed:
            self.close()
            self.server.changed.notify_all()

    @property
    def can_idle(self) -> bool:
        return self.server.can_idle

    @property
    def can_move(self) -> bool:
        return self.server.can_move

    @property
    def moves_whole(self) -> bool:
        return self.server.moves_whole

    def folders(self) -> list[FolderInfo]:
        return self._run(
            "folders", lambda: [FolderInfo(name, folder.attributes) for name, folder in self.server.folders.items()]
        )

    def spam_folder(self, wanted: str | None, create: bool = False) -> str:
        def find() -> str:
            folders = self.server.folders
            for name, folder in folders.items():
                if name == wanted or (wanted is None and "\\junk" in {flag.lower() for flag in folder.attributes}):
                    return name
            if create:
                folders[wanted or "Junk"] = Folder()
                return wanted or "Junk"
            raise MailboxError(f"There is no spam folder {wanted or ''}.", f"There are: {', '.join(folders)}.")

        return self._run("spam_folder", find)

    def select(self, folder: str) -> FolderState:
        def state() -> FolderState:
            self._selected = ""
            if folder not in self.server.folders:
                raise MailboxError(f"There is no folder {folder}.", f"There are: {', '.join(self.server.folders)}.")
            self._selected, it = folder, self.server.folders[folder]
            return FolderState(
                folder, it.uidvalidity, it.uidnext, len(it.messages), keywords_ok=it.keywords_ok and it.writable,
                writable=it.writable, modseq=None, permanent=it.permanent,
            )

        return self._run("select", state)

    def examine(self, folder: str) -> FolderState:
        return replace(self.select(folder), writable=False)

    def status(self, folder: str) -> Status:
        def told() -> Status:
            if folder not in self.server.folders:
                raise MailboxError(f"There is no folder {folder}.")
            it = self.server.folders[folder]
            return Status(it.uidvalidity, it.uidnext, len(it.messages), None)

        return self._run("status", told)

    def heads(self, uids: Iterable[int]) -> Iterator[Head]:
        for message in self.fetch(uids):
            field = re.search(rb"^message-id:.*\r\n", message.raw, re.IGNORECASE | re.MULTILINE)
            yield Head(message.address, field[0] if field else b"", message.size, message.flags, message.arrived)

    def keyworded(self, names: Sequence[str]) -> set[int]:
        wanted = {name.lower() for name in names}
        return self._run("keyworded", lambda: {
            uid for uid, message in self._here.messages.items() if wanted & {flag.lower() for flag in message.flags}
        })

    def uids(self, first: int = 1, since: date | None = None) -> list[int]:
        with self.server.changed:
            self._seen = self.server.changes
        return self._run("uids", lambda: sorted(
            uid for uid, message in self._here.messages.items()
            if uid >= first and (since is None or message.day >= since)
        ))

    def fetch(self, uids: Iterable[int]) -> Iterator[RawMessage]:
        for uid in list(uids):
            message = self._run("fetch", lambda uid=uid: self._here.messages.get(uid))  # type: ignore[misc]
            if message is not None:
                size = len(message.raw)
                raw = message.raw[:PARTIAL] if size > BIG else message.raw
                address = Address(self._selected, self._here.uidvalidity, uid)
                yield RawMessage(address, raw, frozenset(message.flags), size, size > BIG, message.arrived)

    def flags(self, uids: Iterable[int]) -> dict[int, frozenset[str]]:
        wanted = list(uids)
        return self._run("flags", lambda: {
            uid: frozenset(self._here.messages[uid].flags) for uid in wanted if uid in self._here.messages
        })

    def subjects(self, uids: Iterable[int]) -> dict[int, bytes]:
        wanted = list(uids)
        field = re.compile(rb"(?:(?:.+\r\n)*?)(subject:.*\r\n)", re.IGNORECASE)

        def read(raw: bytes) -> bytes:
            found = field.match(raw)
            return (found[1] if found else b"") + b"\r\n"

        return self._run("subjects", lambda: {
            uid: read(self._here.messages[uid].raw) for uid in wanted if uid in self._here.messages
        })

    def add_keywords(self, uids: Iterable[int], names: Iterable[str]) -> set[int]:
        wanted, keywords = set(uids), list(names)

        def store() -> set[int]:
            here = self._here
            known = {flag.lower(): flag for message in here.messages.values() for flag in message.flags}
            kept = [name for name in keywords
                    if here.keywords_ok or name.startswith("\\") or name.lower() in here.permanent]
            if here.writable:
                for uid in wanted & here.messages.keys():
                    here.messages[uid].flags |= {known.get(name.lower(), name) for name in kept}
            return {uid for uid in wanted & here.messages.keys() if self._shows(uid, keywords) == len(keywords)}

        return self._run("add_keywords", store)

    def remove_keywords(self, uids: Iterable[int], names: Iterable[str]) -> set[int]:
        wanted, keywords = set(uids), list(names)

        def store() -> set[int]:
            lower = {name.lower() for name in keywords}
            for uid in wanted & self._here.messages.keys():
                if self._here.writable:
                    message = self._here.messages[uid]
                    message.flags = {flag for flag in message.flags if flag.lower() not in lower}
            return {uid for uid in wanted & self._here.messages.keys() if not self._shows(uid, keywords)}

        return self._run("remove_keywords", store)

    def move(self, uids: Iterable[int], target: str, proven: Proven = lambda copies: None) -> Moved:
        wanted = sorted(set(uids))
        if target == self._selected:
            raise ValueError(f"{target} is where the messages are")

        def transfer() -> Moved:
            if not self.can_move:
                raise CannotMove("The server has neither MOVE nor UIDPLUS.")
            messages = self._here.messages
            there = [uid for uid in wanted if uid in messages]
            refusal = self.server.folders[target].refuse if target in self.server.folders else "[TRYCREATE] no folder"
            if there and refusal:
                raise MailboxError(f"{target}: {refusal}")
            done: dict[int, int | None] = {uid: self.server.folders[target].add(messages[uid]) for uid in there}
            if not self.moves_whole:
                proven(done)
            for uid in there:
                del messages[uid]
            self.server.changes += bool(done)
            self._seen += bool(done)  # nobody is told of his own doings
            return Moved(done, set(wanted) - done.keys())

        return self._run("move", transfer)

    def expunge(self, uids: Iterable[int]) -> set[int]:
        wanted = set(uids)

        def remove() -> set[int]:
            if not self.can_move:
                raise CannotMove("The server has no UIDPLUS.")
            for uid in wanted:
                self._here.messages.pop(uid, None)
            return wanted

        return self._run("expunge", remove)

    def locate(
        self, folder: str, message_id: str, digest: Callable[[bytes], str], ident: str,
        arrived: datetime | None = None, shown: Iterable[str] = (),
    ) -> list[int]:
        def find() -> list[int]:
            if folder not in self.server.folders:
                raise MailboxError(f"There is no folder {folder}.")
            return [
                uid for uid, message in sorted(self.server.folders[folder].messages.items())
                if message_id.encode() in message.raw and arrived in (None, message.arrived)
                and lower(shown) <= lower(message.flags)
                and digest(message.raw[:PARTIAL] if len(message.raw) > BIG else message.raw) == ident
            ]

        return self._run("locate", find)

    def idle(self, seconds: float, stop: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        self._run("idle", lambda: None)
        with self.server.changed:
            while not stop() and (left := end - time.monotonic()) > 0:
                if not self.connected:
                    raise TryLater("The connection was lost.")
                if self.can_idle and self.server.changes != self._seen:
                    self._seen = self.server.changes
                    return True
                self.server.changed.wait(min(left, 0.1))
        return False

    def poll(self) -> tuple[int, int]:
        return self._run("poll", lambda: (self._here.uidnext, len(self._here.messages)))

    @property
    def _here(self) -> Folder:
        if not self._selected:
            raise RuntimeError("no folder is selected")
        return self.server.folders[self._selected]

    def _shows(self, uid: int, keywords: list[str]) -> int:
        shown = {flag.lower() for flag in self._here.messages[uid].flags}
        return sum(name.lower() in shown for name in keywords)

    def _run(self, method: str, deed: Callable[[], T], online: bool = True) -> T:
        """One exchange with the server, which may have been told to fail before or after the deed."""
        with self.server.changed:
            self.calls.append(method)
            if online and not self.connected:
                raise TryLater("Not connected.")
            failure = next((f for f in self._failures if f[0] == method), None)
            if failure:
                self._failures.remove(failure)
                if not failure[2]:
                    self._lose(failure[1])
            result = deed()
            if failure:
                self._lose(failure[1])
            return result

    def _lose(self, error: MailtaggerError) -> None:
        if isinstance(error, TryLater):
            self.close()
        raise error
