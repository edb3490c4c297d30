"""Templates → good mail of today, as shops, banks, schools and friends write it; made for training alone.

What people get most, corpora have least: it is private, or nobody keeps it. `everyday.txt` has templates, all written
for this; no person, firm or host in them exists. `everyday.json` has what fills them, a language's own list before the
common one. A template is a line with its kind and language, subjects after "=", and lines of text:

    ? line      stands in half of the mails
    ~ lines     one or more of those that follow one another, in any order
    [a|b]       one of them, also one in another
    <a|b>       the one that goes with the subject: the first with the first
    {name}      an entry of that list, filled in its turn; {Name}, with a capital, is the same all through a mail
    #           a digit
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from numpy.random import Generator, default_rng

from mailtagger.clean import clean_text
from training.augment import where_links_lead
from training.corpora import Document
from training.splits import Row

ENGLISH, OTHER = 3, 2  # how often a round over the templates has each of them: three mails in four are English
LISTS: dict[str, list[str]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
PAIRED = re.compile(r"<([^<>]*)>")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """One kind of mail, not filled."""

    kind: str  # shop/order: what it is balanced with, and what it is
    language: str
    subjects: tuple[str, ...]
    lines: tuple[str, ...]

    @classmethod
    def read(cls, block: str) -> "Template":
        """The template that a block of `everyday.txt` describes."""
        head, *rest = block.splitlines()
        kind, language = head.split()
        subjects = tuple(line[2:] for line in rest if line.startswith("= "))
        return cls(kind, language, subjects, tuple(line for line in rest if not line.startswith("= ")))


TEMPLATES = tuple(
    Template.read(block)
    for block in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").strip().split("\n\n")
)
_ROUND = [one for turn in range(ENGLISH) for one in TEMPLATES if one.language == "en" or turn < OTHER]


@dataclass
class _Filling:
    """One mail in the making."""

    language: str
    subject: int  # which of them
    rng: Generator
    kept: dict[str, str] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """The text with every choice made and every slot filled."""
        text = PAIRED.sub(lambda m: alternatives(m[1])[self.subject], text)
        while "[" in text:
            text = _CHOICE.sub(lambda m: self._one(m[1].split("|")), text)
        text = re.sub("#", lambda _: str(self.rng.integers(1, 10)), text)
        return _SLOT.sub(lambda m: self._slot(m[1]), text)

    def lines(self, lines: tuple[str, ...]) -> Iterator[str]:
        """The lines that this mail has, in its order, filled."""
        for mark, run in groupby(lines, lambda line: line[:2]):
            found = [line[2:] if mark in ("~ ", "? ") else line for line in run]
            if mark == "~ ":
                found = [found[i] for i in self.rng.permutation(len(found))[: 1 + self.rng.integers(len(found))]]
            yield from (self.text(line) for line in found if mark != "? " or self.rng.random() < 0.5)

    def _slot(self, name: str) -> str:
        if name[0].islower():
            return self._drawn(name)
        if name not in self.kept:
            self.kept[name] = self._host() if name == "Host" else self._drawn(name.lower().rstrip("2"))
        return self.kept[name]

    def _host(self) -> str:
        return f"{re.sub('[^a-z]', '', self._slot('Brand').lower())}.{self._drawn('tld')}"

    def _drawn(self, name: str) -> str:
        return self.text(self._one(LISTS.get(f"{name} {self.language}") or LISTS[name]))

    def _one(self, entries: list[str]) -> str:
        return entries[self.rng.integers(len(entries))]


def alternatives(text: str) -> list[str]:
    """The parts between bars that stand in no brackets."""
    depth, parts = 0, [""]
    for mark in text:
        depth += (mark == "[") - (mark == "]")
        if mark == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += mark
    return parts


def everyday(count: int, seed: int) -> list[tuple[str, str]]:
    """Subject and text of as many mails; each template comes in its turn, filled as the seed has it."""
    rng = default_rng(seed)
    mails = []
    for i in range(count):
        template = _of(i)
        filling = _Filling(template.language, int(rng.integers(len(template.subjects))), rng)
        subject = filling.text(template.subjects[filling.subject])
        body = "\n".join(line.strip() for line in filling.lines(template.lines) if line.strip())
        mails.append((subject, body))
    return mails


def rows(count: int, seed: int) -> list[Row]:
    """The same as training rows, cleaned the way live mail is, each a group of its own."""
    rng = default_rng(seed + 1)
    found = []
    for i, mail in enumerate(everyday(count, seed)):
        key, kind = f"everyday/{seed}/{i}", _of(i).kind
        text = _cleaned(mail, kind, rng)
        found.append(Row(Document("everyday", f"modern/everyday-{kind}", key, "ham", text), key, "train"))
    return found


def _cleaned(mail: tuple[str, str], kind: str, rng: Generator) -> str:
    """The text, and where its links lead: a friend's elsewhere, a firm's home for the most part; half of a firm's mails
    that show no address have a button."""
    text = clean_text(*mail)
    if kind.startswith("life/"):
        return f"{text} xxlinkelse" if "xxurl" in text else text
    return f"{text} {where_links_lead(rng)}" if "xxurl" in text or rng.random() < 0.5 else text


def _of(i: int) -> Template:
    return _ROUND[i % len(_ROUND)]
