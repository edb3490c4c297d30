"""Mailbox: one connection to one account, and the only module that speaks IMAP."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from mailtagger.errors import MailboxError

PARTIAL = 262_144  # bytes fetched of a big message


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


@dataclass(frozen=True, slots=True)
class FolderState:
    """What SELECT told of a folder; `keywords_ok`: it keeps any keyword, `modseq`: None without CONDSTORE."""

    name: str
    uidvalidity: int
    uidnext: int
    messages: int
    keywords_ok: bool
    writable: bool
    modseq: int | None


@dataclass(frozen=True, slots=True)
class FolderInfo:
    """A folder that can be selected, with the attributes of RFC 6154 and RFC 3501 as the server spells them."""

    name: str
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Moved:
    """`done`: UID → UID in the target, None if the server did not tell; `gone`: another client was faster.

    A UID in neither is still where it was.
    """

    done: dict[int, int | None]
    gone: set[int]


class CannotMove(MailboxError):
    """The server has neither MOVE nor UIDPLUS: a message could be copied, but not taken away on its own."""


class Server(Protocol):
    """What a Mailbox reads of an account's settings."""

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


class Secret(Protocol):
    """What a Mailbox reads of a secret."""

    @property
    def kind(self) -> Literal["password", "token"]: ...
    @property
    def value(self) -> str: ...


class Mailbox:
    """One connection, used by one thread at a time; `close` and `interrupt` may come from another."""

    def __init__(self, server: Server, secret: Callable[[], Secret]) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def connect(self) -> None:
        """Logged in, over verified TLS; does nothing when connected."""

    def close(self) -> None:
        """Logged out if the server answers within two seconds, disconnected in any case."""

    def interrupt(self) -> None:
        """From another thread: whatever this mailbox waits for ends with TryLater."""

    @property
    def can_idle(self) -> bool:
        """Whether the server has IDLE; without it `idle` only lets time pass."""

    @property
    def can_move(self) -> bool:
        """Whether `move` is possible at all."""

    def folders(self) -> list[FolderInfo]: ...

    def spam_folder(self, wanted: str | None, create: bool = False) -> str: ...

    def select(self, folder: str) -> FolderState: ...

    def uids(self, first: int = 1, since: date | None = None) -> list[int]: ...

    def fetch(self, uids: Iterable[int]) -> Iterator[RawMessage]: ...

    def flags(self, uids: Iterable[int]) -> dict[int, frozenset[str]]: ...

    def add_keywords(self, uids: Iterable[int], names: Iterable[str]) -> set[int]:
        """The UIDs that show all these keywords when FLAGS are read back, compared without case."""

    def remove_keywords(self, uids: Iterable[int], names: Iterable[str]) -> set[int]:
        """The UIDs that show none of these keywords when FLAGS are read back."""

    def move(self, uids: Iterable[int], target: str) -> Moved: ...

    def expunge(self, uids: Iterable[int]) -> set[int]:
        """Takes away these messages alone, after `locate` has proved that their copies are in place: what is left of an
        interrupted copy-and-delete. The UIDs that are no longer there."""

    def locate(self, folder: str, message_id: str, digest: Callable[[bytes], str], ident: str) -> list[int]: ...

    def idle(self, seconds: float, stop: Callable[[], bool]) -> bool: ...

    def poll(self) -> tuple[int, int]:
        """(uidnext, messages) of the selected folder, now."""
