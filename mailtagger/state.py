"""The state directory: readable by its owner alone, worked by one `run` at a time, its troubles told as sentences."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from mailtagger.errors import StateError

LOCK_FILE = "run.lock"


class RunLock:
    """Held while one `run` works a state directory; a second one gets a StateError that names the first by its pid.

    With another `file` the same for another work that is done once at a time; `who` is the sentence's subject.
    """

    def __init__(
        self, state_dir: Path, wait: float = 1.0, file: str = LOCK_FILE, who: str = "Another mailtagger"
    ) -> None:
        self._path = state_dir / file
        self._who = who
        self._wait = wait  # `running` holds the lock for an instant, and a process that ends takes a moment
        self._fd: int | None = None

    def __enter__(self) -> Self:
        private_directory(self._path.parent)
        with explained(self._path):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._lock(fd)
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            except BaseException:
                os.close(fd)
                raise
        self._fd = fd
        return self

    def _lock(self, fd: int) -> None:
        until = time.monotonic() + self._wait
        while not _flocked(fd, fcntl.LOCK_EX):
            if time.monotonic() >= until:
                raise StateError(
                    f"{self._who} (process {_pid(fd) or 'unknown'}) already runs on {self._path.parent}.",
                    "Stop that one first, or set another state_dir.",
                )
            time.sleep(0.05)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._fd is not None:
            os.close(self._fd)  # the file stays: after an unlink two processes could lock two files of one name
            self._fd = None


@contextlib.contextmanager
def acting(state_dir: Path, account: str, folder: str) -> Iterator[None]:
    """One process or thread at a time acts in a folder: an intent that is open then is nobody's work in hand."""
    digest = hashlib.sha256(f"{account}\0{folder}".encode("utf-8", "surrogatepass")).hexdigest()
    path = state_dir / f"folder-{digest[:16]}.lock"
    with explained(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def running(state_dir: Path) -> int | None:
    """The pid of the `run` that works this state directory, or None."""
    try:
        fd = os.open(state_dir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _flocked(fd, fcntl.LOCK_SH) else _pid(fd)
    finally:
        os.close(fd)


def _flocked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def private_directory(path: Path) -> None:
    """The directory is there, with mode 0700 if it was made here; one that others own or can write to is refused."""
    with explained(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_foreign(path)
        # An empty directory was made for us; one with other things in it may have to stay open to others.
        if path.stat().st_mode & 0o077 and not any(path.iterdir()):
            path.chmod(0o700)
        if path.stat().st_mode & 0o022:  # they could put a link in the place of a file, or a model of theirs
            raise StateError(f"Other users can write to {path}.", f"chmod go-w {path}, or set another state_dir.")


def private_file(path: Path) -> None:
    """The file is there with mode 0600; one that belongs to another user is refused."""
    with explained(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        refuse_foreign(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def refuse_foreign(path: Path) -> None:
    """StateError when somebody else owns this path: what root writes there, its owner could not use afterwards."""
    owner = path.stat().st_uid
    if owner == os.geteuid():
        return
    try:
        name = pwd.getpwuid(owner).pw_name
        command = f"sudo -u {name} mailtagger ..."
    except KeyError:  # the user of a DynamicUser service that does not run now
        name = f"user {owner}"
        command = f"setpriv --reuid={owner} --clear-groups mailtagger ..."
    raise StateError(f"{path} belongs to {name}.", f"Run it as that user ({command}), or set another state_dir.")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system say about this path into a StateError with the way out."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
        raise _sentence(path, code & 0xFF, str(error)) from error
    except OSError as error:
        codes = {
            errno.ENOSPC: sqlite3.SQLITE_FULL, errno.EDQUOT: sqlite3.SQLITE_FULL, errno.EROFS: sqlite3.SQLITE_READONLY,
            errno.EACCES: sqlite3.SQLITE_READONLY, errno.EPERM: sqlite3.SQLITE_READONLY,
        }
        code = codes.get(error.errno or 0, sqlite3.SQLITE_CANTOPEN)
        raise _sentence(path, code, error.strerror or str(error)) from error


def _sentence(path: Path, code: int, said: str) -> StateError:
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _full(path):
        code = sqlite3.SQLITE_FULL
    match code:
        case sqlite3.SQLITE_FULL:
            problem = f"The disk is full: {path} cannot be written."
            way_out = "No mail is touched without its journal line. Make room, and the work goes on."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            problem = f"{path} is locked by {_holder(path) or 'another process'}."
            way_out = "Wait until that has ended, or end it."
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            problem = f"{path} cannot be written: {said}."
            way_out = "Give this user write access to the directory and what is in it, or set another state_dir."
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            problem = f"{path} is damaged: {said}."
            way_out = f"Put back a copy, or move {path.name}* aside: a new one starts with the mail that arrives then."
        case sqlite3.SQLITE_CANTOPEN:
            problem = f"{path} cannot be opened: {said}."
            way_out = "Look at state_dir in the configuration."
        case _:
            problem = f"{path} cannot be used: {said}."
            way_out = "Look at the disk that holds state_dir."
    return StateError(problem, way_out)


def _full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < 1 << 16
    except OSError:
        return False


def _holder(path: Path) -> str | None:
    """`process 4711 (sqlite3)`, when the kernel tells who holds SQLite's write lock on this file (proc_locks(5))."""
    try:
        files = [path, path.with_name(path.name + "-shm")]  # in WAL mode the write lock is a byte of the -shm file
        inodes = {str(file.stat().st_ino) for file in files if file.exists()}
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: POSIX ADVISORY WRITE 4711 08:01:1234 120 120
            if "WRITE" in words and words[-3].split(":")[-1] in inodes:
                pid = int(words[words.index("WRITE") + 1])
                if pid > 0 and pid != os.getpid():
                    return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except (OSError, ValueError):
        return None  # no /proc here: the sentence does without the name
    return None
