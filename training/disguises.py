"""A message → the same message in the disguises that spammers use, as raw mail, whole and readable.

A reader sees the same words, save where they are in a picture. What a reader does not notice is done to every word of
three letters and more, what he does notice to every second one; links stay as they are.
"""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.header import Header
from email.message import EmailMessage
from functools import partial
from html import escape
from random import Random

SPLIT = "\0"  # where a word is to be split; parse lets none through
HEAD = "From: Sender <sender@example.org>\nTo: reader@example.com\nDate: Thu, 26 Nov 2026 09:00:00 +0000\n"
LINKED_PICTURE = '<a href="http://shop.example/"><img src="cid:1"></a>'
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
LOOK_ALIKE = {  # letter → Cyrillic and Greek ones that look like it (Unicode TR 39)
    group[0]: group[1:]
    for group in (
        "aа cс dԁ eе hһ iі jј lӏ oоο pр qԛ sѕ uυ vν wԝ xх yу "
        "AАΑ BВΒ CС EЕΕ HНΗ IІΙ JЈ KКΚ MМΜ NΝ OОΟ PРΡ SЅ TТΤ XХΧ YУΥ ZΖ"
    ).split()
}
LEET = dict(zip("aeioslAEIOSL", "431051431051", strict=True))
_LINKED = re.compile(r"://|@|www\.|\w\.\w", re.I)
_WORD = re.compile(r"\b[A-Za-z]{3,}\b")


@dataclass(frozen=True)
class Spam:
    """A message to disguise, and good words, three times as many as it has itself."""

    key: str
    subject: str
    body: str
    good: tuple[str, ...] = ()


Change = Callable[[str, Random], str]  # of a word
Disguise = Callable[[Spam, Random], bytes]


def mail(subject: str, text: str, subtype: str = "plain", cte: str | None = None, charset: str = "utf-8") -> bytes:
    """A raw message (RFC 5322) of one text."""
    message = EmailMessage()
    message.set_content(text, subtype=subtype, cte=cte)
    message.set_param("charset", charset)
    return written(subject, message)


def written(subject: str, message: EmailMessage) -> bytes:
    """The raw message; `Header` splits long subjects without losing a space, which EmailMessage's own folding does."""
    return f"{HEAD}Subject: {Header(' '.join(subject.split()), 'utf-8').encode()}\n".encode() + message.as_bytes()


def page(text: str, more: str = "") -> str:
    """An HTML document that shows the text, line ends and all."""
    return f'<html><body><div style="white-space: pre-wrap">{escape(text)}</div>{more}</body></html>'


def in_words(text: str, change: Change, share: float, draw: Random) -> str:
    """The text with so many of its words changed, none of them in a link or an address."""

    def token(found: re.Match[str]) -> str:
        if _LINKED.search(found[0]):
            return found[0]
        return _WORD.sub(lambda word: change(word[0], draw) if draw.random() < share else word[0], found[0])

    return re.sub(r"\S+", token, text)


def inserted(what: str, word: str, draw: Random) -> str:
    """The word with one of these characters inside."""
    at = draw.randrange(1, len(word))
    return word[:at] + draw.choice(what) + word[at:]


def swapped(table: dict[str, str], word: str, draw: Random) -> str:
    """The word with half of the letters that stand in the table replaced."""
    known = [i for i, letter in enumerate(word) if letter in table]
    chosen = set(draw.sample(known, (len(known) + 1) // 2))
    return "".join(draw.choice(table[letter]) if i in chosen else letter for i, letter in enumerate(word))


def spaced(word: str, draw: Random) -> str:
    """The word with spaces or dots between its letters, and the wider gap round it that a reader needs."""
    return f" {draw.choice(' .').join(word)} "


def changed(change: Change, share: float, spam: Spam, draw: Random) -> bytes:
    """The mail with so many words of its subject and text changed."""
    return mail(in_words(spam.subject, change, share, draw), in_words(spam.body, change, share, draw))


def as_html(spam: Spam, _: Random) -> bytes:
    """The mail as HTML only, which alone leaves a token: the control of the disguises that need it."""
    return mail(spam.subject, page(spam.body), "html")


def hidden(spam: Spam, _: Random) -> bytes:
    """The mail as HTML with as many good words, that nobody sees, as it has words."""
    words = " ".join(spam.good[: len(spam.good) // 3])
    return mail(spam.subject, page(spam.body, f'<div style="display:none">{escape(words)}</div>'), "html")


def split_by_tags(spam: Spam, draw: Random) -> bytes:
    """The mail as HTML with an empty element or a comment in each word."""
    shown = page(in_words(spam.body, partial(inserted, SPLIT), 1, draw))
    tags = ("<b></b>", "<span></span>", f"<!-- {draw.randrange(10**6)} -->")
    return mail(spam.subject, re.sub(SPLIT, lambda _: draw.choice(tags), shown), "html")


def wrong_charset(spam: Spam, _: Random) -> bytes:
    """The mail under a charset that no program knows."""
    return mail(spam.subject, spam.body, cte="quoted-printable", charset="x-none")


def padded(times: int, spam: Spam, _: Random) -> bytes:
    """The mail with so many times as many good words in sight at its end."""
    return mail(spam.subject, f"{spam.body}\n\n{' '.join(spam.good[: times * len(spam.good) // 3])}")


def image_only(spam: Spam, _: Random) -> bytes:
    """The subject over a picture that is a link."""
    message = EmailMessage()
    message.set_content(f"<html><body>{LINKED_PICTURE}</body></html>", subtype="html")
    message.add_related(png(), "image", "png", cid="<1>", disposition="inline", filename="1.png")
    return written(spam.subject, message)


def attached(subtype: str, filename: str, spam: Spam, _: Random) -> bytes:
    """The subject over one line, with the text as a file."""
    message = EmailMessage()
    message.set_content("Please see the attached file.")
    text = page(spam.body) if subtype == "html" else spam.body
    message.add_attachment(text, subtype=subtype, filename=filename)
    return written(spam.subject, message)


def png() -> bytes:
    """A picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, pixel = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), zlib.compress(b"\x00\x80")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


CONTROL = "none"
DISGUISES: dict[str, Disguise] = {
    CONTROL: lambda spam, _: mail(spam.subject, spam.body),
    "none, as HTML": as_html,
    "hidden good words": hidden,
    "zero-width characters in words": partial(changed, partial(inserted, ZERO_WIDTH), 1),
    "look-alike letters": partial(changed, partial(swapped, LOOK_ALIKE), 1),
    "words split by tags and comments": split_by_tags,
    "letters spaced or dotted": partial(changed, spaced, 0.5),
    "leet": partial(changed, partial(swapped, LEET), 0.5),
    "good words at the end, as many": partial(padded, 1),
    "good words at the end, three times": partial(padded, 3),
    "base64": lambda spam, _: mail(spam.subject, spam.body, cte="base64"),
    "quoted-printable, wrong charset label": wrong_charset,
    "text in an attached .txt": partial(attached, "plain", "details.txt"),
    "text in an attached .html": partial(attached, "html", "details.html"),
    "image only, subject kept": image_only,
    "image only, no subject": lambda spam, draw: image_only(Spam(spam.key, "", ""), draw),
}


def disguised(name: str, spam: Spam) -> bytes:
    """The message in a disguise, the same words each time."""
    return DISGUISES[name](spam, Random(f"{name} {spam.key}"))
