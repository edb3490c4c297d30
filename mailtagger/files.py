"""Messages from files: paths as a person types them → raw bytes, or why they cannot be read, in the same order.

A path is one message (.eml), an mbox, a Maildir, a directory of any of these, or `-` for standard input. An mbox
with more than one message names each by its number, `box.mbox#3`. One message is in memory at a time.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# RFC 4155: "From ", an address, and a timestamp as asctime writes it; a sentence that begins with "From " has none.
_POSTMARK = re.compile(rb"From \S*.*\d\d:\d\d(:\d\d)?.* \d{4}( [+-]\d{4})?\r?\n?\Z")
_QUOTED = re.compile(rb">+From ")


@dataclass(frozen=True)
class Source:
    """One message to score: its raw bytes, or the reason there are none."""

    path: str
    raw: bytes = b""
    error: str = ""


def read(paths: Iterable[str]) -> Iterator[Source]:
    """Every message behind the given paths; what cannot be read is there too, as an error."""
    for path in paths:
        if path == "-":
            yield from _messages("-", sys.stdin.buffer)
        elif Path(path).is_dir():
            for name in _walk(Path(path)):
                yield from _file(str(name))
        else:
            yield from _file(path)


def _file(path: str) -> Iterator[Source]:
    try:
        with Path(path).open("rb") as stream:
            yield from _messages(path, stream)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        yield Source(path, error=getattr(error, "strerror", None) or str(error))


def _walk(directory: Path) -> Iterator[Path]:
    """The files below a directory in the order of their names; of a Maildir only `cur` and `new` hold messages."""
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        yield directory  # opening it as a file gives the reason
        return
    if (directory / "cur").is_dir() and (directory / "new").is_dir():
        entries = [entry for entry in entries if entry.is_dir() and entry.name != "tmp"]
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():  # a link to a directory could lead back up
            yield from _walk(entry)
        elif entry.is_file() or not entry.exists():  # a FIFO never ends; a broken link tells why
            yield entry


def _messages(path: str, stream: BinaryIO) -> Iterator[Source]:
    """The messages of one file: an mbox starts with a postmark line, anything else is one message."""
    first = stream.readline()
    if not _POSTMARK.match(first):
        yield Source(path, first + stream.read())
        return
    found = _split(stream)
    head = next(found)
    second = next(found, None)
    if second is None:
        yield Source(path, head)
        return
    yield Source(f"{path}#1", head)
    yield Source(f"{path}#2", second)
    for number, raw in enumerate(found, 3):
        yield Source(f"{path}#{number}", raw)


def _split(stream: BinaryIO) -> Iterator[bytes]:
    """The messages between postmarks that follow an empty line, with one level of `>From ` quoting taken off."""
    lines: list[bytes] = []
    after_empty = False
    for line in stream:
        if after_empty and line.startswith(b"From ") and _POSTMARK.match(line):
            yield b"".join(lines[:-1])  # the empty line belongs to the mbox
            lines = []
        else:
            lines.append(line[1:] if _QUOTED.match(line) else line)
        after_empty = not line.strip(b"\r\n")
    yield b"".join(lines)
