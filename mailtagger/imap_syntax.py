"""The few pieces of IMAP grammar that imap.py writes and reads itself; pure functions.

IMAPClient's lexer takes every "[" for the start of a section. One keyword or folder name with a "[" in it, legal by
RFC 3501 and accepted by Dovecot, would make every FETCH of that folder, or every LIST of the account, fail. (And it
goes byte by byte: 4,700 messages a second where this reads 18,900.)
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from imapclient import imap_utf7

# Dovecot answers `BAD Too long argument` to 8 kB; 350 UIDs of ten digits are 3.9 kB.
CHUNK = 350
ATOM = re.compile(r"[!#$&'+-\[^-z|}~]+")

Entry = bytes | tuple[bytes, bytes]  # as imaplib keeps untagged responses: (text up to a literal, the literal) or text

_LITERAL = re.compile(rb" ?\{\d+\+?\}$")
# What we ask for, and nothing else.
_FIELD = rb"\"?(?:SUBJECT|MESSAGE-ID|TO|CC|AUTO-SUBMITTED|CONTENT-TYPE)\"?"
_SECTION = rb"BODY\[(?:HEADER\.FIELDS \(" + _FIELD + rb"(?: " + _FIELD + rb"){0,3}\))?\](?:<\d+>)?"
_BODY = re.compile(_SECTION + rb"$", re.IGNORECASE)
_QUOTED_BODY = re.compile(_SECTION + rb' "((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_UID = re.compile(rb"\bUID (\d{1,10})\b", re.IGNORECASE)
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d{1,19})\b", re.IGNORECASE)
_ARRIVED = re.compile(rb'\bINTERNALDATE "([^"]{20,40})"', re.IGNORECASE)
_FLAGS = re.compile(rb"\bFLAGS \(([^)]*)\)", re.IGNORECASE)
_LIST = re.compile(rb'\(([^)]*)\) (?:"((?:[^"\\]|\\.)*)"|NIL) ?(.*)', re.IGNORECASE | re.DOTALL)
_CODE = re.compile(r"\[([A-Z][A-Z0-9-]*)", re.IGNORECASE)
_TOLD = re.compile(rb"\[([A-Z][A-Z0-9-]*) (\([^)]*\)|[^\]]*)\]", re.IGNORECASE)


def portions(uids: Iterable[int]) -> Iterator[list[int]]:
    """The UIDs in their order, each once, in portions that fit into one command."""
    rest = iter(dict.fromkeys(uids))
    while portion := list(islice(rest, CHUNK)):
        yield portion


def uid_set(uids: Iterable[int]) -> str:
    """`4:7,9` for 4, 5, 6, 7, 9 (RFC 3501 `sequence-set`)."""
    ranges: list[list[int]] = []
    for uid in sorted(set(uids)):
        if ranges and uid == ranges[-1][1] + 1:
            ranges[-1][1] = uid
        else:
            ranges.append([uid, uid])
    return ",".join(f"{first}:{last}" if first != last else str(first) for first, last in ranges)


def quoted(text: str) -> str:
    """A quoted string (RFC 3501 `quoted`)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def folder_name(name: str) -> str:
    """The name as a command carries it, in modified UTF-7 (RFC 3501, 5.1.3)."""
    return quoted(imap_utf7.encode(name).decode("ascii"))


def flag_list(names: Iterable[str]) -> str:
    """`($Junk MailtaggerSpam)`; a name that is no atom would be read as two flags, or as the next command."""
    names = list(names)
    if wrong := [name for name in names if not ATOM.fullmatch(name.removeprefix("\\"))]:
        raise ValueError(f"not a keyword: {wrong[0]!r}")
    return f"({' '.join(names)})"


def response_code(text: str) -> str:
    """`NOPERM` of `[NOPERM] Permission denied` (RFC 5530), or nothing."""
    match = _CODE.search(text)
    return match[1].upper() if match else ""


def told(lines: Iterable[Entry | None]) -> dict[str, str]:
    """What untagged OK lines tell in their response codes: `UIDVALIDITY` → `7` of `[UIDVALIDITY 7] UIDs valid`."""
    matches = [_TOLD.match(line) for line in lines if isinstance(line, bytes)]
    return {printable(match[1]).upper(): printable(match[2]) for match in matches if match}


def printable(text: str | bytes) -> str:
    """A server's words on one line, fit for a log and a terminal."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text.strip())


def numbers(lines: Iterable[Entry | None]) -> list[int]:
    """The message numbers of SEARCH responses, of which a server may send several."""
    return [int(word) for line in lines if isinstance(line, bytes) for word in line.split() if _is_number(word)]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What FETCH told of one message; None for what it did not tell, and for a body that is gone."""

    flags: frozenset[str] | None = None
    size: int | None = None
    body: bytes | None = None
    arrived: datetime | None = None


def fetched(entries: Iterable[Entry | None]) -> dict[int, Fetched]:
    """UID → what was told of it.

    The answer to a UID command always has the UID (RFC 3501, 6.4.8). A FETCH without one is news of another client's
    doings, numbered by place: it is left out, not taken for the message whose UID is that number.
    """
    found: dict[int, Fetched] = {}
    text, body = b"", None
    for entry in entries:
        if isinstance(entry, tuple):
            head = _LITERAL.sub(b"", entry[0])
            text, body = text + head, entry[1] if _BODY.search(head) else body
            continue
        text += entry or b""
        if quoted_body := _QUOTED_BODY.search(text):
            body = re.sub(rb"\\(.)", rb"\1", quoted_body[1])
            text = text[: quoted_body.start()] + text[quoted_body.end() :]
        if uid := _UID.search(text):
            before = found.get(int(uid[1]), Fetched())
            flags, size, arrived = _FLAGS.search(text), _SIZE.search(text), _ARRIVED.search(text)
            found[int(uid[1])] = Fetched(
                frozenset(printable(flag) for flag in flags[1].split()) if flags else before.flags,
                int(size[1]) if size else before.size,
                body if body is not None else before.body,
                _date_time(arrived[1]) if arrived else before.arrived,
            )
        text, body = b"", None
    return found


def listed(entries: Iterable[Entry | None]) -> list[tuple[frozenset[str], str, str]]:
    """(attributes, delimiter, name) of each LIST response; the name may be an atom, a quoted string or a literal."""
    found = []
    text, literal = b"", None
    for entry in entries:
        if isinstance(entry, tuple):
            text, literal = text + _LITERAL.sub(b"", entry[0]), entry[1]
            continue
        text += entry or b""
        if match := _LIST.match(text):
            name = literal if literal is not None else _unquoted(match[3])
            attributes = frozenset(printable(word) for word in match[1].split())
            found.append((attributes, printable(_unquoted(b'"%s"' % (match[2] or b""))), _decoded(name)))
        text, literal = b"", None
    return found


def lower(names: Iterable[str]) -> set[str]:
    """Keywords and attributes have no case (RFC 3501, 2.3.2): a folder shows the spelling that it saw first."""
    return {name.lower() for name in names}


def copied(values: Sequence[Entry]) -> dict[int, int]:
    """UID → UID of the copy, from COPYUID: two sets of which the nth members belong together (RFC 4315, 3).

    imaplib reads a response code up to the last "]" of its line; the text behind it may have one.
    """
    pairs: dict[int, int] = {}
    for value in values:
        words = value.partition(b"]")[0].split() if isinstance(value, bytes) else []
        if len(words) == 3:
            pairs.update(islice(zip(_members(words[1]), _members(words[2]), strict=False), CHUNK))
    return pairs


def _date_time(text: bytes) -> datetime | None:
    """`25-Nov-2026 10:00:00 +0000` (RFC 3501 `date-time`)."""
    try:
        return datetime.strptime(printable(text), "%d-%b-%Y %H:%M:%S %z")
    except ValueError:
        return None


def _is_number(word: bytes) -> bool:
    return word.isdigit() and len(word) <= 10  # all numbers here have 32 bits; Python refuses 4,301 digits


def _members(text: bytes) -> Iterator[int]:
    for part in text.split(b","):
        ends = sorted(int(number) for number in part.split(b":") if _is_number(number))
        if ends:
            yield from range(ends[0], ends[-1] + 1)


def _unquoted(text: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", text[1:-1]) if text[:1] == b'"' else text


def _decoded(name: bytes) -> str:
    if not name.isascii():  # a server that sends UTF-8 unasked
        return name.decode("utf-8", "replace")
    try:
        return str(imap_utf7.decode(name))
    except ValueError:  # an "&" that begins nothing
        return name.decode("ascii")
