"""Reader: one connection to one account, and everything that leaves the mail there as it is.

A lost connection is TryLater, and the mailbox is then disconnected until `connect`. What was under way may or may not
have happened: `locate` tells. What the server refuses is MailboxError. Reading is always PEEK: \\Seen is never set.
"""

import imaplib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from types import TracebackType
from typing import Self

from imapclient.datetime_util import format_criteria_date

from mailtagger.errors import MailboxError, TryLater
from mailtagger.imap_folders import FolderInfo as FolderInfo
from mailtagger.imap_folders import Namespace
from mailtagger.imap_session import Answer, Session
from mailtagger.imap_session import Refused as Refused
from mailtagger.imap_syntax import (
    Fetched,
    fetched,
    folder_name,
    listed,
    lower,
    numbers,
    portions,
    printable,
    quoted,
    told,
    uid_set,
)
from mailtagger.imap_wire import Server
from mailtagger.secret import Secret

log = logging.getLogger(__name__)

# Measured on Dovecot, messages of 3.5 kB: 4,060 a second one by one, 18,900 in batches of 50, 19,500 in batches of 350.
BATCH = 50
BATCH_BYTES = 4_000_000
BIG = 1_000_000  # of a message bigger than this only PARTIAL bytes are fetched: 1.4 ms instead of 0.9 s for 62 MB
PARTIAL = 262_144
HEADER = 100_000  # bytes of header fields that are asked for alone; of imap_syntax.CHUNK messages at once, 35 MB
TELLING = 6  # characters of a Message-ID by which SEARCH finds few messages
WINDOW = 50_000  # messages in one SEARCH, whose answer is one line of up to 0.55 MB
RENEW = 540.0  # seconds of one IDLE: RFC 2177 asks for less than 29 minutes, home routers forget after 5 to 10
NEWS = {"EXISTS", "RECENT", "EXPUNGE", "VANISHED", "FETCH"}
GONE = "EXPUNGEISSUED"  # RFC 5530: another client was faster with some of the messages


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message is: a UID means nothing without the UIDVALIDITY of its folder (RFC 3501, 2.3.1.1)."""

    folder: str
    uidvalidity: int
    uid: int


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as the server keeps it; of a big one (`partial`) only the first PARTIAL bytes."""

    address: Address
    raw: bytes
    flags: frozenset[str]
    size: int
    partial: bool
    arrived: datetime | None = None  # INTERNALDATE: a move keeps it, a delivery is new


@dataclass(frozen=True, slots=True)
class FolderState:
    """What SELECT told of a folder; `keywords_ok`: it takes any keyword, `modseq`: None without CONDSTORE."""

    name: str
    uidvalidity: int
    uidnext: int
    messages: int
    keywords_ok: bool
    writable: bool
    modseq: int | None
    permanent: frozenset[str] = frozenset()  # PERMANENTFLAGS in lower case; empty where the server did not tell
    guessed: bool = False  # uidnext is one more than the highest UID there is: the server told none


@dataclass(frozen=True, slots=True)
class Status:
    """What STATUS tells of a folder without opening it."""

    uidvalidity: int
    uidnext: int
    messages: int
    modseq: int | None


@dataclass(frozen=True, slots=True)
class Head:
    """What can be told of a message without its text; `header` has the field Message-ID alone."""

    address: Address
    header: bytes
    size: int
    flags: frozenset[str]
    arrived: datetime | None


class Reader:
    """One connection, used by one thread at a time; only `interrupt` may come from another."""

    def __init__(
        self, account: Server, secret: Callable[[], Secret], told: set[str] | None = None,
        answered: Callable[[], object] = lambda: None,
    ) -> None:
        """`told`: alerts that are in the log already; `answered` is called whenever the server has answered."""
        self._account = account
        self._session = Session(account, secret, told, answered)
        self._selected: FolderState | None = None
        self._own: Namespace | None = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the connection ---

    def connect(self) -> None:
        """Connected and logged in, over verified TLS, with no folder selected; nothing happens when it is already."""
        if not self._session.connected:
            self._selected = self._own = None
            self._session.connect()

    def close(self) -> None:
        """Logged out if the server answers within two seconds, and disconnected in any case."""
        self._session.close()

    def interrupt(self) -> None:
        """From another thread: whatever this mailbox is waiting for ends at once, with TryLater."""
        self._session.interrupt()

    @property
    def can_idle(self) -> bool:
        """Whether the server tells of news by itself; without that, `idle` only lets the time pass."""
        return "IDLE" in self._session.capabilities

    # --- folders ---

    def folders(self) -> list[FolderInfo]:
        """All folders that can be selected."""
        return [
            FolderInfo(name, attributes) for attributes, _, name in self._list()
            if not {"\\noselect", "\\nonexistent"} & lower(attributes)
        ]

    def called(self, wanted: str) -> FolderInfo | None:
        """The folder that a person calls so, with or without the server's prefix (`INBOX.`); None where none is."""
        folders = {folder.name: folder for folder in self.folders()}
        name = self._namespace().spelling(wanted, list(folders))
        return None if name is None else folders[name]

    def select(self, folder: str) -> FolderState:
        """The folder opened for reading and writing; its name may lack the server's prefix (`INBOX.`)."""
        try:
            return self._open("INBOX" if folder.upper() == "INBOX" else folder)
        except Refused:
            folders = self.folders()
            name = self._namespace().spelling(folder, [folder.name for folder in folders])
            if name == folder:
                raise
        if name is None:
            raise self._missing(f"no folder {folder}", folders)
        return self._open(name)

    def examine(self, folder: str) -> FolderState:
        """The folder opened for looking only; the name is the server's."""
        return self._open(folder, examine=True)

    # --- messages ---

    def uids(self, first: int = 1, since: date | None = None) -> list[int]:
        """UIDs from `first` on, ascending; with `since`, of messages that arrived on that day or later."""
        criteria = ["UID", f"{first}:*"]
        if since is not None:
            criteria += ["SINCE", format_criteria_date(since).decode()]
        state, found, top = self._here(), set[int](), ""
        self._session.news = False  # what was told until now is found now; what is told meanwhile may not be
        if state.uidnext - first > WINDOW:
            # By place, from the end on: what is expunged meanwhile shifts the rest into windows still to come.
            for below in range(state.messages - WINDOW, 0, -WINDOW):
                found.update(self._search(f"{below + 1}:{top or '*'}", *criteria))
                top = str(below)
        found.update(self._search(*([f"1:{top}"] if top else []), *criteria))
        return sorted(uid for uid in found if uid >= first)  # n:* has the last message even when its UID is below n

    def fetch(self, uids: Iterable[int]) -> Iterator[RawMessage]:
        """The messages in the given order, in batches; those that are gone are left out."""
        state = self._here()
        for portion in portions(uids):
            found = self._fetch(portion, "RFC822.SIZE")
            sizes = {uid: found[uid].size or 0 for uid in portion if uid in found}
            gone = [uid for uid in portion if uid not in found]
            for batch in _batches(sizes):
                if (self._here().name, self._here().uidvalidity) != (state.name, state.uidvalidity):
                    raise RuntimeError("another folder was selected while fetching")
                big = sizes[batch[0]] > BIG
                part = f"<0.{PARTIAL}>" if big else ""
                bodies = self._fetch(batch, f"(FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[]{part})")
                for uid in batch:
                    one = bodies.get(uid, Fetched())
                    if one.body is None:
                        gone.append(uid)
                        continue
                    address = Address(state.name, state.uidvalidity, uid)
                    size = one.size or len(one.body)
                    yield RawMessage(address, one.body, one.flags or frozenset(), size, big, one.arrived)
            for uid in gone:
                log.debug("%s: UID %d was expunged before it could be read", printable(state.name), uid)

    def flags(self, uids: Iterable[int]) -> dict[int, frozenset[str]]:
        """UID → flags and keywords, of those messages that are still there."""
        return {
            uid: one.flags
            for portion in portions(uids)
            for uid, one in self._fetch(portion, "FLAGS").items()
            if one.flags is not None
        }

    def subjects(self, uids: Iterable[int]) -> dict[int, bytes]:
        """UID → the header with the field Subject alone, of those messages that are still there."""
        return self.headers(uids, ["SUBJECT"])

    def headers(self, uids: Iterable[int], names: Sequence[str]) -> dict[int, bytes]:
        """UID → the header with these fields alone, of those messages that are still there."""
        items = f"BODY.PEEK[HEADER.FIELDS ({' '.join(names).upper()})]<0.{HEADER}>"
        return {
            uid: one.body
            for portion in portions(uids)
            for uid, one in self._fetch(portion, items).items()
            if one.body is not None
        }

    def heads(self, uids: Iterable[int]) -> Iterator[Head]:
        """What can be told without their text of the messages that are still there."""
        state = self._here()
        for portion in portions(uids):
            header = f"BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]<0.{HEADER}>"
            found = self._fetch(portion, f"(FLAGS INTERNALDATE RFC822.SIZE {header})")
            for uid in portion:
                if uid in found:
                    one, at = found[uid], Address(state.name, state.uidvalidity, uid)
                    yield Head(at, one.body or b"", one.size or 0, one.flags or frozenset(), one.arrived)

    def keyworded(self, names: Sequence[str]) -> set[int]:
        """The UIDs of the messages that show any of these keywords."""
        criteria = ["KEYWORD", names[-1]]
        for name in names[-2::-1]:
            criteria = ["OR", "KEYWORD", name, *criteria]
        return set(self._search(*criteria))

    def answered(self) -> list[int]:
        """The UIDs of the messages that were answered, ascending."""
        return sorted(self._search("ANSWERED"))

    def locate(
        self, folder: str, message_id: str, digest: Callable[[bytes], str], ident: str,
        arrived: datetime | None = None, shown: Iterable[str] = (),
    ) -> list[int]:
        """UIDs of the messages in `folder` with this Message-ID and this ident, if given of this INTERNALDATE, and with
        all of these keywords; the selected folder stays selected."""
        run = _run(message_id)
        search = ("HEADER", "Message-ID", quoted(run)) if message_id else ("NOT", "HEADER", "Message-ID", quoted("@"))
        before = self._selected
        away = before is None or before.name != folder
        if away:
            self._open(folder, examine=True)
        else:
            self.poll()  # what arrived since the last command may not be visible yet
        try:
            uids = self._search(*search)
            if message_id and len(run) < TELLING:
                uids = [head.address.uid for head in self.heads(uids) if _may_have(head.header, message_id)]
            return [
                found.address.uid for found in self.fetch(uids)
                if digest(found.raw) == ident and arrived in (None, found.arrived)
                and lower(shown) <= lower(found.flags)
            ]
        finally:
            if away:
                self._reopen(before)

    # --- news ---

    def idle(self, seconds: float, stop: Callable[[], bool]) -> bool:
        """True when the server tells of a change, False when the time is over or `stop`, asked each second, says so.

        Mail that it told of in passing, since `uids` was asked, is a change too.
        """
        end = time.monotonic() + seconds
        if self._session.news:
            self._session.news = False
            return True
        while not stop() and (left := end - time.monotonic()) > 0:
            if not self.can_idle:
                time.sleep(min(1.0, left))
            elif self._idle(min(RENEW, left), stop):
                self._session.news = False
                return True
        return False

    def poll(self) -> tuple[int, int]:
        """(uidnext, messages) of the selected folder, now."""
        state = self._here()
        with self._session.exchange(f"looking for new mail in {printable(state.name)}") as client:
            client.wire.noop()
        items = self._status(state.name, "MESSAGES UIDNEXT UIDVALIDITY")
        if items.get("UIDVALIDITY", state.uidvalidity) != state.uidvalidity:
            raise self._renumbered(state)
        uidnext = items["UIDNEXT"] if "UIDNEXT" in items else self._after_last()
        self._selected = replace(state, uidnext=uidnext, messages=items.get("MESSAGES", state.messages))
        return self._selected.uidnext, self._selected.messages

    def status(self, folder: str) -> Status:
        """How far a folder has got, whichever is selected: two calls with the same answer, and nothing has happened."""
        if self._selected and self._selected.name == folder:  # of the open folder Dovecot tells what it knew before
            with self._session.exchange(f"asking how {printable(folder)} stands") as client:
                client.wire.noop()
        modseq = "CONDSTORE" in self._session.capabilities
        items = self._status(folder, f"MESSAGES UIDNEXT UIDVALIDITY{' HIGHESTMODSEQ' if modseq else ''}")
        return Status(
            items.get("UIDVALIDITY", 0), items.get("UIDNEXT", 0), items.get("MESSAGES", 0), items.get("HIGHESTMODSEQ")
        )

    # --- how it is done ---

    def _status(self, folder: str, wanted: str) -> dict[str, int]:
        with self._session.exchange(f"asking how {printable(folder)} stands") as client:
            kind, data = client.wire.status(folder_name(folder), f"({wanted})")
            if kind != "OK":
                raise imaplib.IMAP4.error(printable(data[-1]))
            if data[-1] is None:
                raise imaplib.IMAP4.abort("unexpected response: no STATUS")
            text = b" ".join(part for entry in data for part in (entry if isinstance(entry, tuple) else (entry,)))
        # The items stand in the last parentheses; the name before them may have any form.
        items = printable(text[text.rfind(b"(") :]).upper()
        return {name: int(n) for name, n in re.findall(r"([A-Z]+) (\d{1,19})\b", items)}

    def _idle(self, seconds: float, stop: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        with self._session.exchange("waiting for news") as client:
            wire = client.wire
            tag = wire.start_idle()
            while not NEWS & wire.untagged_responses.keys() and not stop() and (left := end - time.monotonic()) > 0:
                if wire.wait(min(1.0, left)):
                    wire.heed()
            wire.stop_idle(tag, patience=2.0 if stop() else 10.0)
            return bool(NEWS & wire.untagged_responses.keys())

    def _open(self, name: str, examine: bool = False) -> FolderState:
        self._selected = None
        with self._session.exchange(f"opening {printable(name)}") as client:
            try:
                kind, data = client.wire.select(folder_name(name), readonly=examine)
            except imaplib.IMAP4.readonly:  # an `abort` by name, but nothing is lost
                kind, data = client.wire.select(folder_name(name), readonly=True)
            if kind != "OK":
                raise imaplib.IMAP4.error(printable(data[-1] or b""))
            answers = client.wire.untagged_responses
            codes, writable = told(answers.get("OK", [])), "READ-ONLY" not in answers
            messages = max(numbers(answers.get("EXISTS", [])), default=0)
        permanent = frozenset(codes.get("PERMANENTFLAGS", "").lower().strip("()").split())
        state = FolderState(
            name=name,
            uidvalidity=_number(codes.get("UIDVALIDITY")) or 0,
            uidnext=_number(codes.get("UIDNEXT")) or 0,
            messages=messages,
            # RFC 3501, 7.1: where PERMANENTFLAGS is missing, all flags can be kept.
            keywords_ok=writable and ("PERMANENTFLAGS" not in codes or "\\*" in permanent),
            writable=writable,
            modseq=_number(codes.get("HIGHESTMODSEQ")),
            permanent=permanent,
        )
        if not state.uidvalidity:
            raise MailboxError(f"{printable(name)} has no UIDVALIDITY: what is noted of its messages would not last.")
        self._selected = state
        if not state.uidnext:
            self._selected = state = replace(state, uidnext=self._after_last(), guessed=True)
        self._session.news = False  # the EXISTS of SELECT is none
        return state

    def _reopen(self, before: FolderState | None) -> None:
        """Back in the folder that was selected before, if there was one and the connection still stands."""
        self._selected = None
        if before is not None and self._session.connected and self._open(before.name).uidvalidity != before.uidvalidity:
            raise self._renumbered(before)

    def _renumbered(self, state: FolderState) -> TryLater:
        self._session.drop()
        return TryLater(f"The server has renumbered {printable(state.name)}.")

    def _after_last(self) -> int:
        return max(self._search("UID", "*"), default=0) + 1

    def _present(self, uids: Iterable[int]) -> set[int]:
        wanted = set(uids)
        return wanted & {uid for portion in portions(wanted) for uid in self._search("UID", uid_set(portion))}

    def _search(self, *criteria: str) -> list[int]:
        return numbers(self._ask("SEARCH", *criteria).check().get("SEARCH"))

    def _fetch(self, portion: Sequence[int], items: str) -> dict[int, Fetched]:
        answer = self._ask("FETCH", uid_set(portion), items)
        if answer.refusal and answer.refusal.code != GONE:
            raise answer.refusal
        wanted = set(portion)
        return {uid: one for uid, one in fetched(answer.get("FETCH")).items() if uid in wanted}

    def _ask(self, command: str, *arguments: str) -> Answer:
        return self._session.ask(f"{command} in {printable(self._here().name)}", command, *arguments)

    def _here(self) -> FolderState:
        if not self._session.connected:
            raise TryLater(f"There is no connection to {self._account.host}.")
        if self._selected is None:
            raise RuntimeError("no folder is selected")
        return self._selected

    # --- names of folders ---

    def _list(self) -> list[tuple[frozenset[str], str, str]]:
        with self._session.exchange("listing the folders") as client:
            kind, data = client.wire.list('""', "*")
            if kind != "OK":
                raise imaplib.IMAP4.error(printable(str(data[-1])))
            return listed(data)

    def _namespace(self) -> Namespace:
        if self._own is None:
            delimiter = next((delimiter for _, delimiter, _ in self._list() if delimiter), "")
            self._own = Namespace("", delimiter)
            if "NAMESPACE" in self._session.capabilities:
                with self._session.exchange("asking for the namespace") as client:
                    try:
                        spaces = client.namespace()
                        if spaces.personal:
                            prefix, sign = spaces.personal[0]
                            others = {place[0] for place in (*(spaces.other or ()), *(spaces.shared or ()))}
                            foreign = tuple(sorted(others - {"", None, prefix}))
                            self._own = Namespace(prefix or "", sign or delimiter, foreign)
                    except TypeError as error:  # IMAPClient takes apart what need not be there
                        raise imaplib.IMAP4.abort("unexpected response: no NAMESPACE") from error
        return self._own

    def _missing(self, what: str, folders: list[FolderInfo], way_out: str = "") -> MailboxError:
        names = ", ".join(sorted(printable(folder.name) for folder in folders)[:30]) or "none"
        return MailboxError(
            f"{self._account.host} has {what} for {self._account.username}.", f"There are: {names}. {way_out}".strip()
        )


def _batches(sizes: dict[int, int]) -> Iterator[list[int]]:
    """UIDs for one FETCH each: few enough, small enough, and big messages apart from the others."""
    batch: list[int] = []
    room = 0
    for uid, size in sizes.items():
        take = PARTIAL if size > BIG else size
        if batch and (len(batch) == BATCH or take > room or (size > BIG) != (sizes[batch[0]] > BIG)):
            yield batch
            batch = []
        room = (room if batch else BATCH_BYTES) - take
        batch.append(uid)
    if batch:
        yield batch


def _run(message_id: str) -> str:
    """What SEARCH HEADER, which finds parts, is asked for: the longest run that needs no quoting and that a server does
    not decode before it looks (RFC 2047); the content decides."""
    parts = re.split(r"=\?[^?]*\?[^?]*\?[^?]*\?=|[^!#-\[\]-~]+", message_id)
    return max(parts, key=len)[:200]


def _may_have(header: bytes, message_id: str) -> bool:
    """Whether this header may have that Message-ID, by its ASCII parts and whether there are others."""
    parts = re.findall(rb"[!-~]+", message_id.encode("utf-8", "replace"))
    return all(part in header for part in parts) and (message_id.isascii() or not header.isascii())


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 20 else None
