"""Templates → mail of today: good, as shops, banks, schools and friends write it, and bad; made for training alone.

What people get most, corpora have least: it is private, or nobody keeps it. `everyday.txt` has good mail; `lures.txt`
has what swindlers try in seven languages, of which corpora have little that is not English. All was written for this;
no person, firm or host in it exists. `everyday.json` has what fills both, a language's own list before the
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from numpy.random import Generator, default_rng

from mailtagger.clean import clean_text
from mailtagger.ulmfit.tokenizer import LINKS
from training.augment import in_order, where_links_lead
from training.corpora import Document, Label
from training.splits import Row

ENGLISH, OTHER = 3, 2  # how often a round has each: of good mail three in four are English, of bad two in three
LISTS: dict[str, list[str]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
PAIRED = re.compile(r"<([^<>]*)>")
_SLOT = re.compile(r"\{(\w+)\}")
Facts = Callable[[str, bool, Generator], str]  # kind of mail, whether it shows a link → what stands below its text


@dataclass(frozen=True)
class Template:
    """One kind of mail, not filled."""

    kind: str  # shop/order: what it is balanced with, and what it is
    language: str
    subjects: tuple[str, ...]
    lines: tuple[str, ...]

    @classmethod
    def read(cls, block: str) -> "Template":
        """The template that a block of such a file describes."""
        head, *rest = block.splitlines()
        kind, language = head.split()
        subjects = tuple(line[2:] for line in rest if line.startswith("= "))
        return cls(kind, language, subjects, tuple(line for line in rest if not line.startswith("= ")))


Templates = tuple[Template, ...]


def _read(name: str) -> Templates:
    """The templates of a file beside this one."""
    blocks = Path(__file__).with_name(name).read_text(encoding="utf-8").strip().split("\n\n")
    return tuple(map(Template.read, blocks))


TEMPLATES, LURES = _read("everyday.txt"), _read("lures.txt")
FACTS = {  # of a lure: how many have it
    **{"xxattach pdf": 0.04, "xxmismatch": 0.04, "xxreplyto": 0.12, "xxnoname": 0.15, "xxnoto": 0.15},
    **{"xxtoself": 0.04, "xxcaps": 0.08},
}
LEADS = dict(zip((*LINKS, ""), (0.15, 0.05, 0.6, 0.2), strict=True))  # by where their links lead, if anywhere


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


def everyday(count: int, seed: int, templates: Templates = TEMPLATES) -> list[tuple[str, str]]:
    """Subject and text of as many mails; each template comes in its turn, filled as the seed has it."""
    rng = default_rng(seed)
    mails = []
    for template in _turns(templates, count):
        filling = _Filling(template.language, int(rng.integers(len(template.subjects))), rng)
        subject = filling.text(template.subjects[filling.subject])
        body = "\n".join(line.strip() for line in filling.lines(template.lines) if line.strip())
        mails.append((subject, body))
    return mails


def rows(count: int, seed: int) -> list[Row]:
    """Good mail as training rows, cleaned the way live mail is, each a group of its own."""
    return _rows("everyday", "ham", TEMPLATES, _firm_facts, count, seed)


def lures(count: int, seed: int) -> list[Row]:
    """Bad mail likewise."""
    return _rows("lures", "spam", LURES, _lure_facts, count, seed)


def _rows(name: str, label: Label, templates: Templates, facts: Facts, count: int, seed: int) -> list[Row]:
    rng = default_rng(seed + 1)
    found = []
    for i, (mail, template) in enumerate(zip(everyday(count, seed, templates), _turns(templates, count), strict=True)):
        key, text = f"{name}/{seed}/{i}", clean_text(*mail)
        text = f"{text} {facts(template.kind, 'xxurl' in text, rng)}".strip()
        found.append(Row(Document(name, f"modern/{name}-{template.kind}", key, label, text), key, "train"))
    return found


def _firm_facts(kind: str, links: bool, rng: Generator) -> str:
    """Where the links of a good mail lead: a friend's elsewhere, a firm's home for the most part; half of a firm's
    mails that show no address have a button."""
    if kind.startswith("life/"):
        return "xxlinkelse" if links else ""
    return where_links_lead(rng) if links or rng.random() < 0.5 else ""


def _lure_facts(_kind: str, links: bool, rng: Generator) -> str:
    """The facts of a lure, drawn by how many have each; behind the link that it shows, or behind a button."""
    found = {fact for fact, share in FACTS.items() if rng.random() < share}
    lead = str(rng.choice([*LEADS], p=[*LEADS.values()]))
    found.add(lead or ("xxlinkelse" if links else ""))
    return " ".join(in_order(found - {""}))


def _turns(templates: Templates, count: int) -> list[Template]:
    """As many templates, round after round, those in English more often."""
    whole = [one for turn in range(ENGLISH) for one in templates if one.language == "en" or turn < OTHER]
    return [whole[i % len(whole)] for i in range(count)]
