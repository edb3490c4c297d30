"""Mail to one normalised text, the same for the Enron rows, raw corpora and live mail.

Enron-Spam is lower case with spaces round all punctuation; nothing undoes that, so every text is brought to that form
first and the rules then read only it. What tells corpora apart (years, numbers, addresses, list footers, all marks but
! ? $ %) is replaced or dropped. What hides a word from a filter and not from a reader is undone and leaves a token.
"""

import hashlib
import inspect
import re
import unicodedata
from collections.abc import Callable

from mailtagger.parse import Mail

VERSION = 3
_ZERO_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_IN_WORD = re.compile(  # not U+00AD, which hyphenates
    "(?<=[a-z])[\u034f\u180e\u200b-\u200f\u2060-\u206f\ufeff]+(?=[a-z])", re.I
)
_BLANK = re.compile(f"(?:\\s|{_ZERO_WIDTH.pattern}){{20,}}")
_ALIKE = dict[str, str | int | None](  # letters of other scripts → the Latin ones they look like (Unicode TR 39)
    zip("авекмнорстухгѕіјһӏԁԛԝαεηικνορτυχγβɑɡո", "abekmhopctyxrsijhldqwaenikvoptuxybagn", strict=True)
)
_MIXED = re.compile(rf"\b(?=\w{{3}})(?=\w*[a-z])(?=\w*[{''.join(_ALIKE)}])\w+\b")
_CURRENCY = re.compile(r"[¢-¥฿₠-₿](?= ?(?:\d|xxn))|(?:(?<=\d )|(?<=xxn\d ))[¢-¥฿₠-₿]")
_SPACED = re.compile(r"(?<!\S)[a-z]( [.*_-]|) [a-z](?:\1 [a-z]){2,28}(?!\S)")
_LIST_TAG = re.compile(r"^((?:\s*(?:re|fwd?|aw)\s*:)*)\s*\[[^\]]{1,40}\]", re.I)
_RULE_LINE = re.compile(r"\s*(?:[_=*~-]\s*){10,}$")
_FOOTER = re.compile(r"mailing\s+list|unsubscribe|sponsored\s+by|listinfo", re.I)
_SCHEMES = frozenset(("http", "https", "ftp"))
_PATH = frozenset("/?=&#%;~+:-._")
_REGISTRIES = frozenset("ac co com edu gob gov gouv gv ltd ne net nom or org plc".split())  # below a country's domain
_REPEATED = re.compile(r"([^\w\s])(?: \1)+")


def subject_tags(subject: str) -> str:
    """Drop the list's own tag, "[name]", which tells the list and not the mail."""
    return _LIST_TAG.sub(r"\1", subject[:2000])


def footers(text: str) -> str:
    """Drop the block that a mailing list appends under a ruled line, and blank lines."""
    lines = _lines(text)
    for at in range(max(0, len(lines) - 14), len(lines)):
        if _RULE_LINE.match(lines[at]) and _FOOTER.search("\n".join(lines[at:])):
            return "\n".join(lines[:at])
    return text


def signatures(text: str) -> str:
    """Drop a signature below the "-- " line (RFC 3676 §4.3), up to twelve lines."""
    lines = _lines(text)
    for at in range(max(0, len(lines) - 13), len(lines)):
        if lines[at].strip() in ("--", "- -"):
            return "\n".join(lines[:at])
    return text


def _lines(text: str) -> list[str]:
    """The lines with something on them: Enron's form has no others."""
    return [line for line in text.splitlines() if line.strip()]


def quoting(text: str) -> str:
    """Drop the quote marks before lines and keep what is quoted."""
    return re.sub(r"(?m)^(?:[^\S\n]*>)+ ?", "", text)


def split_words(text: str) -> str:
    """Where invisible characters stand inside words, leave `xxzero` at the end; `letters` drops them."""
    return f"{text} xxzero" if len(_IN_WORD.findall(text)) > 1 else text


def letters(text: str) -> str:
    """Return lower case without zero-width characters, compatibility forms and diacritics."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKD", re.sub("[™℠]", " ", _ZERO_WIDTH.sub("", text)))
    return "".join(c for c in text if not unicodedata.combining(c)).lower()


def alike(text: str) -> str:
    """Write words that mix scripts in Latin letters, and leave `xxmixed` at the end."""
    if text.isascii():
        return text
    text, found = _MIXED.subn(lambda m: m.group().translate(str.maketrans(_ALIKE)), text)
    return f"{text} xxmixed" if found else text


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


def marks(text: str) -> str:
    """Drop all marks but ! ? $ %, which mail of any source uses for the same; a currency beside a number is $."""
    if not text.isascii():
        text = _CURRENCY.sub("$", text)
    return " ".join(re.sub(r"[^\w\s!?$%]|_", " ", text).split())


def repeats(text: str) -> str:
    """Collapse a run of the same punctuation mark; a shouting one leaves `xxrep`."""
    return _REPEATED.sub(lambda m: f"{m.group(1)} xxrep" if m.group(1) in "!?$" else m.group(1), text)


def spaced_letters(text: str) -> str:
    """Join four to thirty letters that stand alone or with a mark between them, and leave `xxspaced` at the end."""
    text, found = _SPACED.subn(lambda m: m.group().replace(f"{m.group(1)} ", ""), text)
    return f"{text} xxspaced" if found else text


def long_words(text: str) -> str:
    """Replace words of over 30 letters, which are encodings and not words."""
    return re.sub(r"\w{31,}", "xxlong", text)


LINE_RULES: tuple[Callable[[str], str], ...] = (footers, signatures, quoting)
TEXT_RULES: tuple[Callable[[str], str], ...] = (
    *(split_words, letters, alike, spaces, links, addresses, numbers),
    *(spaced_letters, marks, repeats, long_words),
)
TEXT_LIMIT = 20_000  # characters; the model reads 384 tokens, so the middle of longer text is never seen


def clean_text(subject: str, message: str) -> str:
    """Return `subject + " " + message` in the one normal form, whitespace collapsed."""
    if len(message) > 2 * TEXT_LIMIT:
        message = _BLANK.sub("\n", message)  # or what is said could be pushed out of sight
    if len(message) > 2 * TEXT_LIMIT:
        message = message[:TEXT_LIMIT] + "\n" + message[-TEXT_LIMIT:]
    for rule in LINE_RULES:
        message = rule(message)
    text = f"{subject_tags(subject)} {message}"
    for rule in TEXT_RULES:
        text = rule(text)
    return " ".join(text.split())


SHOUTED = 0.6, 0.35  # share of capitals in a subject and in a text from which on it is shouted
FEW_WORDS = 15


def structure(mail: Mail) -> str:
    """Return one token for each fact of structure that is worth one.

    That a mail has HTML only, or hidden text, is none: most of the corpora's good mail is older than either, and every
    newsletter of today has both, so a model would learn to distrust the shape of the mail of its time.
    """
    tokens = [f"xxattach {extension}" for extension in dict.fromkeys(mail.attachments[:5])]
    sender = domain(mail.sender.rpartition("@")[2])
    facts = {
        "xxmismatch": mail.mismatch,
        "xxreplyto": bool(mail.reply_to and sender) and domain(mail.reply_to.rpartition("@")[2]) != sender,
        **_links(mail, sender),
        "xxlinkip": any(host.replace(".", "").isdigit() for host in mail.hosts),
        "xxnoname": not mail.named,
        "xxnoto": bool(sender) and not mail.recipient,
        "xxtoself": bool(sender) and mail.recipient == mail.sender,
        "xxcaps": _shouted(mail.subject, 6, SHOUTED[0]) or _shouted(mail.body[:5000], 50, SHOUTED[1]),
        "xxpicture": mail.pictures and len(mail.body.split()) < FEW_WORDS,
    }
    return " ".join([*tokens, *(token for token, true in facts.items() if true)])


def _links(mail: Mail, sender: str) -> dict[str, bool]:
    """Whether the links of a mail lead to its sender's own domain: all, some or none of them."""
    own = {domain(host) == sender for host in mail.hosts if sender and "." in host}
    return {"xxlinkown": own == {True}, "xxlinkmixed": own == {True, False}, "xxlinkelse": own == {False}}


def _shouted(text: str, least: int, share: float) -> bool:
    """Whether capitals are this share of the letters, of which there are `least`."""
    letters = sum(c.isalpha() for c in text)
    return letters > least and sum(c.isupper() for c in text) > share * letters


def domain(host: str) -> str:
    """Return the domain that somebody registered: two labels, or three under co.uk, com.br and their like."""
    labels = host.lower().strip(".").split(".")
    return ".".join(labels[-3 if len(labels[-1]) == 2 and labels[-2:-1] and labels[-2] in _REGISTRIES else -2 :])


def clean(mail: Mail) -> str:
    """Return the text the model reads: subject, message, then the structure's tokens; "" where a mail says nothing."""
    text = clean_text(mail.subject, mail.body)
    return f"{text} {structure(mail)}".strip() if text else ""


def _rules_hash() -> str:
    """Return the sha256 of the rules' own source: a model knows under which rules it learned to read."""
    source = inspect.getsource(inspect.getmodule(_rules_hash) or _rules_hash)
    return hashlib.sha256(f"{VERSION}\n{source}".encode()).hexdigest()


RULES_HASH = _rules_hash()
