"""Mail of one's own as a corpus: Maildir, mbox, .eml, the layouts of SpamAssassin, Enron-Spam and IMDb → Raw documents.

A path is one file or a tree of them, in any mixture; tar archives are read in place, as SpamAssassin publishes its own.
With a label, all that is there has it. Without, the nearest folder says it: ham, easy_ham, hard_ham_2, spam, spam_2;
pos and neg, which are the good and the bad; or unsup, where nobody said. A folder train or test above is the part.

What cannot be used is named in `broken`, and the rest is read. No link is followed; of one message no more is read
than the parser reads.
"""

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, cast

from mailtagger.errors import MailtaggerError
from mailtagger.files import Source, messages, walk
from mailtagger.parse import RAW_LIMIT
from training.corpora import Label, Raw

LIMIT = RAW_LIMIT + 1  # bytes: the parser cuts at its limit, and says so
ARCHIVES = (".tar", ".tar.bz2", ".tar.gz", ".tar.xz", ".tbz", ".tgz", ".txz")
UNREADABLE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)
_FOLDER = re.compile(r"(?:\d+_)?(?:(?:easy|hard)_)?(ham|spam|pos|neg|unsup)(?:_\d+)?")
_SAYS: dict[str, Label | None] = {"ham": "ham", "spam": "spam", "pos": "ham", "neg": "spam", "unsup": None}
_HEADER = rb"[!-9;-~]+:[^\n]*\n(?:[ \t]+[^\n]*\n)*"  # RFC 5322 §2.2, folded or not
_MAIL = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:>?From [^\n]*\n)?" + _HEADER)
_HEADERS = re.compile(_MAIL.pattern + _HEADER)
_SUBJECT = re.compile(r"Subject:[ \t]*([^\n]*)\n?(.*)", re.S)  # Enron-Spam's files begin so, and have no other header
_BREAK = re.compile(r"<br\s*/?>", re.I)


@dataclass(frozen=True)
class Added:
    """A path that the user adds, and the label of all that is in it, where one was given."""

    path: Path
    label: Label | None = None

    @classmethod
    def parse(cls, text: str) -> "Added":
        """`ham=PATH`, `spam=PATH`, or `PATH`, whose folders tell."""
        said, equals, path = text.partition("=")
        labelled = bool(equals) and said in ("ham", "spam")
        return cls(Path(path if labelled else text).expanduser(), cast(Label, said) if labelled else None)


@dataclass(frozen=True)
class _Found:
    place: PurePosixPath  # below the added path, and its own name first; unique
    source: Source


def read(added: Sequence[Added], broken: list[str]) -> Iterator[Raw]:
    """Every mail of the added paths, in the order of their names; MailtaggerError where a path is not there at all."""
    for one in added:
        if not (one.path.is_file() or one.path.is_dir()):
            raise MailtaggerError(f"There is no file or directory {one.path}.", "--add takes [ham=|spam=]PATH.")
    names: set[str] = set()
    for one in added:
        path = one.path.resolve()
        name = next(n for n in (path.name, *(f"{path.name}-{i}" for i in range(2, len(added) + 2))) if n not in names)
        names.add(name)
        for found in _tree(path, PurePosixPath(name)):
            raw = _raw(found, name, one.label)
            if isinstance(raw, str):
                broken.append(f"{_key(found)}: {raw}")
            else:
                yield raw


def _tree(path: Path, name: PurePosixPath) -> Iterator[_Found]:
    for file in walk(path) if path.is_dir() else [path]:
        place = name / file.relative_to(path)
        try:
            if file.is_symlink():
                yield _Found(place, Source(str(place), error="a link, which is not followed"))
            elif file.name.endswith(ARCHIVES):
                yield from _archive(file, place)
            else:
                with file.open("rb") as stream:
                    yield from _messages(place, stream)
        except UNREADABLE as error:
            reason = getattr(error, "strerror", None) or f"it cannot be read to its end ({type(error).__name__})"
            yield _Found(place, Source(str(place), error=reason))


def _archive(file: Path, place: PurePosixPath) -> Iterator[_Found]:
    with tarfile.open(file, "r|*") as tar:
        for member in tar:
            if member.isfile() and (stream := tar.extractfile(member)):
                yield from _messages(place / member.name.lstrip("./"), cast(BinaryIO, stream))


def _messages(place: PurePosixPath, stream: BinaryIO) -> Iterator[_Found]:
    for source in messages(str(place), stream, LIMIT):
        yield _Found(PurePosixPath(source.path), source)


def _raw(found: _Found, name: str, label: Label | None) -> Raw | str:
    """The document, or why there is none."""
    content = found.source.raw
    if found.source.error:
        return found.source.error
    if not content.strip():
        return "empty"
    folders = [folder.lower() for folder in found.place.parts[:-1]]
    folder = next((match for folder in reversed(folders) if (match := _FOLDER.fullmatch(folder))), None)
    if label is None and folder is None:
        return "no folder above it is called ham or spam"
    text = found.place.suffix.lower() == ".txt"
    source = f"own/{name}"
    if label is None and folder is not None:
        label, source = _SAYS[folder[1]], f"{source}/{folder[0]}"
    if text and not _HEADERS.match(content):
        if b"\0" in content:
            return "neither mail nor text"
        return Raw("own", _utf8(source), _key(found), label, _text(content), part=_part(folders))
    if not _MAIL.match(content):
        return "no mail: it does not begin with headers"
    return Raw("own", _utf8(source), _key(found), label, content, part=_part(folders))


def _part(folders: Iterable[str]) -> Literal["train", "test", ""]:
    for folder in folders:
        if folder == "train" or folder == "test":
            return folder
    return ""


def _text(content: bytes) -> tuple[str, str]:
    """The subject, where a first line has one, and the message."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    text = _BREAK.sub("\n", text.replace("\r\n", "\n"))
    found = _SUBJECT.fullmatch(text)
    return (found[1], found[2]) if found else ("", text)


def _key(found: _Found) -> str:
    return f"own/{_utf8(str(found.place))}"


def _utf8(name: str) -> str:
    """A file's name as text that JSON, and a terminal, take: what is no UTF-8 or moves the cursor is written out."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
