"""Mail to one normalised text, the same for the Enron rows, raw corpora and live mail.

Enron-Spam is lower case with spaces round all punctuation; nothing undoes that, so every text is brought to that form
first and the rules then read only it. What tells corpora apart (years, numbers, addresses, list footers) is replaced.
"""

import hashlib
import inspect
import re
import unicodedata
from collections.abc import Callable

from mailtagger.parse import Mail

VERSION = 1
_ZERO_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
_LIST_TAG = re.compile(r"^((?:\s*(?:re|fwd?|aw)\s*:)*)\s*\[[^\]]{1,40}\]", re.I)
_RULE_LINE = re.compile(r"^[\s_=*~-]{10,}$")
_FOOTER = re.compile(r"mailing\s+list|unsubscribe|sponsored\s+by|listinfo", re.I)
_SCHEMES = frozenset(("http", "https", "ftp"))
_PATH = frozenset("/?=&#%;~+:-._")
_REPEATED = re.compile(r"([^\w\s])(?: \1)+")


def subject_tags(subject: str) -> str:
    """Drop the list's own tag, "[name]", which tells the list and not the mail."""
    return _LIST_TAG.sub(r"\1", subject[:2000])


def footers(text: str) -> str:
    """Drop the block that a mailing list appends under a ruled line."""
    lines = text.splitlines()
    for at in range(max(0, len(lines) - 14), len(lines)):
        if _RULE_LINE.match(lines[at]) and _FOOTER.search("\n".join(lines[at:])):
            return "\n".join(lines[:at])
    return text


def signatures(text: str) -> str:
    """Drop a signature below the "-- " line (RFC 3676 §4.3), up to twelve lines."""
    lines = text.splitlines()
    for at in range(max(0, len(lines) - 13), len(lines)):
        if lines[at].strip() in ("--", "- -"):
            return "\n".join(lines[:at])
    return text


def quoting(text: str) -> str:
    """Drop the quote marks before lines and keep what is quoted."""
    return re.sub(r"(?m)^(?:\s*>)+ ?", "", text)


def letters(text: str) -> str:
    """Return lower case without zero-width characters, compatibility forms and diacritics."""
    text = unicodedata.normalize("NFKD", _ZERO_WIDTH.sub("", text))
    return "".join(c for c in text if not unicodedata.combining(c)).lower() if not text.isascii() else text.lower()


def spaces(text: str) -> str:
    """Put spaces round every character that is neither letter nor digit, and collapse them."""
    return " ".join(re.sub(r"([^\w\s]|_)", r" \1 ", text).split())


def links(text: str) -> str:
    """Replace each URL by `xxurl` and its host; linear in the words, which a pattern for it would not be."""
    words = text.split(" ")
    kept: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word in _SCHEMES and words[at + 1 : at + 4] == [":", "/", "/"]:
            at += 4
        elif not (word == "www" and words[at + 1 : at + 2] == ["."]):
            kept.append(word)
            at += 1
            continue
        if words[at : at + 2] == ["www", "."]:
            at += 2
        kept.append("xxurl")
        at, host = _joined(words, at, frozenset(".-"))
        kept += host
        while at < len(words) and words[at] in _PATH and words[at - 1 : at] != [""]:
            after = at + 1
            if words[at] in ".:;-" and (after >= len(words) or words[after] in _PATH or not words[after].isalnum()):
                break  # the end of the sentence, not of the path
            at = after
            if at < len(words) and words[at].isalnum() and at + 1 < len(words) and words[at + 1] in _PATH:
                at += 1
            elif at < len(words) and words[at].isalnum() and words[at - 1] != ".":
                at += 1
                break
    return " ".join(kept)


def _joined(words: list[str], at: int, joints: frozenset[str]) -> tuple[int, list[str]]:
    """Return (the position after, the words) of `a . b - c` from `at` on."""
    first = at
    while at < len(words) and words[at].isalnum():
        at += 1
        if at + 1 < len(words) and words[at] in joints and words[at + 1].isalnum():
            at += 1
        else:
            break
    return at, words[first:at]


def addresses(text: str) -> str:
    """Replace each mail address by `xxmail`: whose it is tells the mailbox."""
    words = text.split(" ")
    kept: list[str] = []
    at = 0
    while at < len(words):
        if words[at] == "@" and kept and kept[-1].isalnum():
            after, host = _joined(words, at + 1, frozenset(".-"))
            if host and not host[0].isdigit():
                kept.pop()
                while len(kept) >= 2 and kept[-1] in "._+-" and kept[-2].isalnum():
                    del kept[-2:]
                kept.append("xxmail")
                at = after
                continue
        kept.append(words[at])
        at += 1
    return " ".join(kept)


def numbers(text: str) -> str:
    """Replace numbers of two and more digits by their length: years and dates tell the corpus."""
    text = re.sub(r"\b(?=[a-z]*\d)(?=\d*[a-z])[a-z\d]{12,}\b", " xxid ", text)
    return re.sub(r"\b\d{2,}\b", lambda m: f"xxn{min(len(m.group()), 8)}", text)


def repeats(text: str) -> str:
    """Collapse a run of the same punctuation mark; a shouting one leaves `xxrep`."""
    return _REPEATED.sub(lambda m: f"{m.group(1)} xxrep" if m.group(1) in "!?$" else m.group(1), text)


def long_words(text: str) -> str:
    """Replace words of over 30 letters, which are encodings and not words."""
    return re.sub(r"\w{31,}", "xxlong", text)


LINE_RULES: tuple[Callable[[str], str], ...] = (footers, signatures, quoting)
TEXT_RULES: tuple[Callable[[str], str], ...] = (letters, spaces, links, addresses, numbers, repeats, long_words)
TEXT_LIMIT = 20_000  # characters; the model reads 384 tokens, so the middle of longer text is never seen


def clean_text(subject: str, message: str) -> str:
    """Return `subject + " " + message` in the one normal form, whitespace collapsed."""
    if len(message) > 2 * TEXT_LIMIT:
        message = message[:TEXT_LIMIT] + "\n" + message[-TEXT_LIMIT:]
    for rule in LINE_RULES:
        message = rule(message)
    text = f"{subject_tags(subject)} {message}"
    for rule in TEXT_RULES:
        text = rule(text)
    return " ".join(text.split())


def structure(mail: Mail) -> str:
    """Return one token for each fact of structure that is worth one."""
    tokens = [f"xxattach {extension}" for extension in dict.fromkeys(mail.attachments[:5])]
    if mail.html_only:
        tokens.append("xxhtmlonly")
    if mail.hidden:
        tokens.append("xxhidden")
    if mail.mismatch:
        tokens.append("xxmismatch")
    if mail.reply_to and mail.sender and _domain(mail.reply_to) != _domain(mail.sender):
        tokens.append("xxreplyto")
    return " ".join(tokens)


def _domain(address: str) -> str:
    return ".".join(address.rpartition("@")[2].split(".")[-2:])


def clean(mail: Mail) -> str:
    """Return the text the model reads: subject, message, then the structure's tokens; "" where a mail says nothing."""
    text = clean_text(mail.subject, mail.body)
    return f"{text} {structure(mail)}".strip() if text else ""


def _rules_hash() -> str:
    """Return the sha256 of the rules' own source: a model knows under which rules it learned to read."""
    source = inspect.getsource(inspect.getmodule(_rules_hash) or _rules_hash)
    return hashlib.sha256(f"{VERSION}\n{source}".encode()).hexdigest()


RULES_HASH = _rules_hash()
