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
_LINE = 1 << 16  # bytes read at once: a line of a file that is no mail may never end
_LONGEST_POSTMARK = 998  # RFC 5322 §2.1.1 for any line; the pattern's time grows faster than the length


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
            yield from messages("-", sys.stdin.buffer)
        elif Path(path).is_dir():
            for name in walk(Path(path)):
                yield from _file(str(name))
        else:
            yield from _file(path)


def _file(path: str) -> Iterator[Source]:
    try:
        with Path(path).open("rb") as stream:
            yield from messages(path, stream)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        yield Source(path, error=getattr(error, "strerror", None) or str(error))


def walk(directory: Path) -> Iterator[Path]:
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
            yield from walk(entry)
        elif entry.is_file() or not entry.exists():  # a FIFO never ends; a broken link tells why
            yield entry


def messages(path: str, stream: BinaryIO, limit: int | None = None) -> Iterator[Source]:
    """The messages of one file, each cut at `limit` bytes: an mbox starts with a postmark line, anything else is one
    message."""
    first = stream.readline(_LINE)
    if not _postmark(first):
        rest = stream.read() if limit is None else stream.read(max(0, limit - len(first)))
        yield Source(path, (first + rest)[:limit])
        return
    found = _split(stream, limit)
    head = next(found)
    second = next(found, None)
    if second is None:
        yield Source(path, head)
        return
    yield Source(f"{path}#1", head)
    yield Source(f"{path}#2", second)
    for number, raw in enumerate(found, 3):
        yield Source(f"{path}#{number}", raw)


def _split(stream: BinaryIO, limit: int | None) -> Iterator[bytes]:
    """The messages between postmarks that follow an empty line, with one level of `>From ` quoting taken off."""
    lines: list[bytes] = []
    size = 0
    begins, after_empty = True, False  # whether what comes next begins a line; whether that follows an empty line
    while line := stream.readline(_LINE):
        if begins and after_empty and _postmark(line):
            if not lines[-1].strip(b"\r\n"):
                lines.pop()  # the empty line belongs to the mbox
            yield b"".join(lines)[:limit]
            lines, size = [], 0
        elif limit is None or size < limit:
            lines.append(line[1:] if begins and _QUOTED.match(line) else line)
            size += len(lines[-1])
        after_empty = begins and not line.strip(b"\r\n")
        begins = line.endswith(b"\n")
    yield b"".join(lines)[:limit]


def _postmark(line: bytes) -> bool:
    return len(line) <= _LONGEST_POSTMARK and _POSTMARK.match(line) is not None
