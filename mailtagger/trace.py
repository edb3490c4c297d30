"""Where in a message a user's lessons find what they know: the personal layer's terms gathered into header fields,
words of the subject and words of the text.

A term is a few bytes, often of several places at once; it counts for the first of them that a person would look at:
the sender's fields, the subject, the text, then what else stands in the header. The shares are the layer's own and sum
to what it adds, save for what no message holds; that is left over for the caller to show.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from mailtagger.parse import Mail
from mailtagger.personal import Personal, named, terms

SENDERS = ("from", "sender", "reply-to", "list-id")
READ = 20_000  # characters of the text, and of the header: more than the layer reads
SHOWN = 80  # characters of a header field

_FIELD = re.compile(r"(?m)^([!-9;-~]+):(.*(?:\n[ \t].*)*)\n?")
_WORD = re.compile(r"\S+")
_EDGES = "\"'<>()[]{}.,;:!?*_-=/"


@dataclass(frozen=True)
class Share:
    """What one header field, one word of the subject or one word of the text adds to the log-odds of spam."""

    place: str  # a header's name, "Subject" or "text"; "" where it is not to be found in the message as it stands
    text: str
    log_odds: float


@dataclass(frozen=True)
class _Piece:
    start: int
    end: int
    rank: int
    owner: tuple[str, str]


def trace(raw: bytes, mail: Mail, layer: Personal, base: float = 0.0, most: int = 40) -> list[Share]:
    """The shares of what pushes hardest, at most so many; `base` is what the model says, which bounds the layer."""
    found = terms(raw, mail)
    names = named(raw, mail)
    document, pieces = _document(raw, mail)
    starts = [piece.start for piece in pieces]
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    for term, weight in zip(found.tolist(), layer.weights(found, base).tolist(), strict=True):
        if weight:
            name = names.get(term, "")
            sums[_owner(name.lower(), document, pieces, starts) or ("", " ".join(name.split()))] += weight
    ranked = sorted(sums.items(), key=lambda item: -abs(item[1]))
    return [Share(*owner, log_odds) for owner, log_odds in ranked[:most] if log_odds and any(owner)]


def _owner(gram: str, document: str, pieces: list[_Piece], starts: list[int]) -> tuple[str, str] | None:
    """The field or word with most of the n-gram, in the best of the places where it stands."""
    best: tuple[int, int, tuple[str, str]] | None = None
    at = document.find(gram) if gram.strip() else -1
    while at >= 0:
        for piece in pieces[max(bisect_right(starts, at) - 1, 0) : bisect_right(starts, at + len(gram) - 1)]:
            shared = min(piece.end, at + len(gram)) - max(piece.start, at)
            if shared > 0 and (best is None or (piece.rank, -shared) < best[:2]):
                best = piece.rank, -shared, piece.owner
        at = document.find(gram, at + 1)
    return best and best[2]


def _document(raw: bytes, mail: Mail) -> tuple[str, list[_Piece]]:
    """Header and text in lower case as one string, and the pieces that it is made of, in order."""
    head = re.split(r"\n\n", raw[: 2 * READ].lstrip().replace(b"\r\n", b"\n").decode("utf-8", "replace"), maxsplit=1)[0]
    head = head[:READ].lower()
    text = f"{mail.subject}\n{mail.body}"[:READ].lower()
    pieces = list(_fields(head, mail))
    offset = len(head) + 1
    for word in _WORD.finditer(text):
        owner = "text", word.group().strip(_EDGES) or word.group()
        pieces.append(_Piece(offset + word.start(), offset + word.end(), len(SENDERS) + 1, owner))
    return f"{head}\0{text}", pieces


def _fields(head: str, mail: Mail) -> Iterator[_Piece]:
    decoded = {"from": mail.sender, "reply-to": mail.reply_to}
    for field in _FIELD.finditer(head):
        name, value = field.group(1), " ".join(field.group(2).split())
        shown = "-".join(part.capitalize() for part in name.split("-"))
        if name == "subject" and "=?" not in value:
            for word in _WORD.finditer(head, *field.span(2)):
                owner = shown, word.group().strip(_EDGES) or word.group()
                yield _Piece(word.start(), word.end(), len(SENDERS), owner)
            continue
        rank = SENDERS.index(name) if name in SENDERS else len(SENDERS) + (0 if name == "subject" else 2)
        value = mail.subject if name == "subject" else decoded.get(name, value) if "=?" in value else value
        yield _Piece(field.start(), field.end(), rank, (shown, value[:SHOWN]))
