"""A cleaned text → another that could have been sent: spam disguised or padded, template mail of another sender.

What is scarce in the corpora is common in life. Template mail there comes from some thirty programs, each of them with
its own words, filled in from short lists of goods and remarks; a model may know the lists and not the mail. Every text
that comes out is in the normal form of `clean`: its rules change nothing more in it.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from numpy.random import Generator

from mailtagger.clean import TEXT_RULES, spaced_letters
from mailtagger.ulmfit.tokenizer import DISGUISES, LINKS, STRUCTURE

Rule = Callable[[str], str]

JOINING = tuple(rule for rule in TEXT_RULES if rule is not spaced_letters)  # what was a, b, c, d is no disguise
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
ALIKE = dict(zip("abcdeghijklmnopqrstuvwxy", "авсԁеɡһіјкӏмηорԛгѕтυνԝху", strict=True))
LEET = {"a": "4@", "e": "3", "i": "1!", "l": "1", "o": "0", "s": "5$", "t": "7"}
WORDS: dict[str, list[str]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
FACTS = {"xxmismatch": 0.08, "xxreplyto": 0.12, "xxnoname": 0.04}  # how many get one that had none
SENT_THROUGH = dict(zip(LINKS, (0.55, 0.25, 0.2), strict=True))  # good mail with links, by where they lead


def _any(name: str) -> str:
    """A pattern for any entry of a list."""
    return f"(?:{'|'.join(map(re.escape, sorted(WORDS[name], key=len, reverse=True)))})"


# "goods" and "remarks" fill the templates of the corpora, over and over; the "other" ones may stand there as well.
_GOODS, _REMARKS = (re.compile(rf"(?<!\S){_any(name)}(?!\S)") for name in ("goods", "remarks"))
_BEGINS, _ENDS, _AFTER = (_any(name) for name in ("host beginnings", "host ends", "after a greeting"))
_GREETING = re.compile(
    rf"(?<!\S)(?:hi|hello|dear|hey) ((?!(?:{_AFTER}|xx\w+)\b)[^\W\d]+(?: [^\W\d]+){{0,2}}?)(?= {_AFTER}(?!\S)| !)"
)
_ENDS = rf"{_ENDS}(?: (?:com|uk|au|br))?(?!\S)"
_HOST = re.compile(rf"(?<!\S)xxurl (?:{_BEGINS} )?(\w+(?: \w+){{0,3}}?) {_ENDS}")
_SIZE = re.compile(r"(?<!\S)xxn([2-8])(?!\S)")
_ENGLISH = re.compile(r"(?<!\S)(?:the|you|your|to|for)(?!\S)")


def disguised(text: str, rng: Generator) -> str:
    """Return the text with up to two in five of its words hidden from a filter, by two of the known tricks."""
    words, found, facts = _apart(text)
    share, tricks = rng.uniform(0.05, 0.4), rng.choice(len(TRICKS), 2, replace=False)
    for i, word in enumerate(words):
        if len(word) > 3 and word.isascii() and word.isalpha() and word[:2] != "xx" and rng.random() < share:
            words[i] = TRICKS[tricks[rng.integers(2)]](word, rng)
    return _together(" ".join(words), found, facts, TEXT_RULES)


def padded(text: str, other: str, rng: Generator) -> str:
    """Return the text with 20 to 150 words of another one below it or, less often, above it."""
    words, found, facts = _apart(text)
    more = _apart(other)[0]
    count = int(rng.integers(20, 151))
    at = int(rng.integers(max(1, len(more) - count + 1)))
    piece = more[at : at + count]
    return _together(" ".join([*words, *piece] if rng.random() < 0.7 else [*piece, *words]), found, facts)


def varied(text: str, rng: Generator) -> str:
    """Return template mail as another sender would send it to another person: other names, hosts, goods, remarks,
    greeting, lengths of numbers, and, where it is English, other lines round it."""
    words, found, facts = _apart(text)
    body = _GOODS.sub(lambda _: _one("other goods", rng), " ".join(words))
    body = _REMARKS.sub(lambda _: _one("other remarks", rng), body)
    body, firm = _sender(body, rng)
    body = _receiver(body, rng)
    body = _SIZE.sub(lambda m: f"xxn{min(8, max(2, int(m[1]) + int(rng.choice((-1, 0, 0, 0, 1)))))}", body)
    if len(_ENGLISH.findall(body)) > 0.05 * len(words):
        lines = rng.choice(WORDS["lines after"], int(rng.integers(4)), replace=False)
        before = [_one("lines before", rng)] if rng.random() < 0.2 else []
        body = " ".join([*before, body, *(str(line).format(firm) for line in lines)])
    return _together(body, found, _other_facts(facts, rng))


def _zero(word: str, rng: Generator) -> str:
    mark, every = rng.choice(list(ZERO_WIDTH)), rng.random() < 0.5
    return word[0] + "".join(mark + c if every or rng.random() < 0.4 else c for c in word[1:])


def _alike(word: str, rng: Generator) -> str:
    return "".join(ALIKE.get(c, c) if rng.random() < 0.5 else c for c in word)


def _spaced(word: str, rng: Generator) -> str:
    return str(rng.choice((" ", ".", "-", "*", "_"))).join(word)


def _leet(word: str, rng: Generator) -> str:
    return "".join(str(rng.choice(list(LEET[c]))) if c in LEET and rng.random() < 0.5 else c for c in word)


def _split(word: str, rng: Generator) -> str:
    at = int(rng.integers(1, len(word)))
    return word[:at] + str(rng.choice((" ", ".", "-", "'"))) + word[at:]


def _misspelt(word: str, rng: Generator) -> str:
    at = int(rng.integers(1, len(word) - 1))
    return word[:at] + str(rng.choice(("", 2 * word[at], word[at + 1] + word[at]))) + word[at + 1 :]


TRICKS: tuple[Callable[[str, Generator], str], ...] = (_zero, _alike, _spaced, _leet, _split, _misspelt)


def _sender(body: str, rng: Generator) -> tuple[str, str]:
    """Put another firm and its host in the place of the one that most links lead to; return its name too."""
    firm = " ".join(map(str, rng.choice(WORDS["firms"], int(rng.integers(1, 3)), replace=False)))
    if not (hosts := Counter(_HOST.findall(body))):
        return body, firm
    old = re.escape(hosts.most_common(1)[0][0])
    begin = _one("host beginnings", rng) + " " if rng.random() < 0.5 else ""
    host = f"xxurl {begin}{firm if rng.random() < 0.3 else firm.replace(' ', '')} {_one('host ends', rng)}"
    body = re.sub(rf"(?<!\S)xxurl (?:{_BEGINS} )?{old} {_ENDS}", host, body)
    return re.sub(rf"(?<!\S){old}(?!\S)", firm, body), firm


def _receiver(body: str, rng: Generator) -> str:
    """Greet another person, in another way; a full name is changed wherever it stands."""
    if not (greeting := _GREETING.search(body)):
        return body
    first, last = _one("first names", rng), _one("last names", rng)
    name = f"{first} {last}"
    ways = [
        f"hi {first}",
        f"hello {first}",
        f"dear {name}",
        f"dear {last}",
        f"hello {name}",
        first,
        "hello",
        "dear customer",
    ]
    body = body[: greeting.start()] + str(rng.choice(ways)) + body[greeting.end() :]
    return re.sub(rf"(?<!\S){re.escape(greeting[1])}(?!\S)", name, body) if " " in greeting[1] else body


def _other_facts(facts: Sequence[str], rng: Generator) -> list[str]:
    """Draw the facts of structure anew: most stay, some come, and links may be sent through a service."""
    kept = [fact for fact in facts if rng.random() < 0.75]
    come = [fact for fact, share in FACTS.items() if fact not in facts and rng.random() < share]
    if {*facts} & {*LINKS} and not {*kept} & {*LINKS}:
        come.append(where_links_lead(rng))
    if not facts and rng.random() < 0.1:
        come.append("xxattach pdf")
    return in_order((*kept, *come))


def in_order(facts: Iterable[str]) -> list[str]:
    """Facts of structure in the order of `clean.structure`."""
    return sorted(facts, key=lambda fact: STRUCTURE.index(fact.split()[0]))


def where_links_lead(rng: Generator) -> str:
    """Draw the fact of where the links of a good commercial mail lead."""
    return str(rng.choice([*SENT_THROUGH], p=[*SENT_THROUGH.values()]))


def _one(name: str, rng: Generator) -> str:
    return WORDS[name][rng.integers(len(WORDS[name]))]


def _apart(text: str) -> tuple[list[str], set[str], list[str]]:
    """Return the words, the disguises that were found in them, and the facts of structure."""
    words, facts, found = text.split(), list[str](), set[str]()
    while words and (words[-1] in STRUCTURE or words[-2:-1] == ["xxattach"]):
        facts.insert(0, " ".join(words[-2:]) if words[-2:-1] == ["xxattach"] else words[-1])
        del words[-len(facts[0].split()) :]
    while words and words[-1] in DISGUISES:
        found.add(words.pop())
    return words, found, facts


def _together(body: str, found: set[str], facts: Sequence[str], rules: Sequence[Rule] = JOINING) -> str:
    """Return the normal form of the body, the disguises found then and now, and the facts."""
    for rule in rules:
        body = rule(body)
    words, more, _ = _apart(body)
    return " ".join([*words, *(mark for mark in DISGUISES if mark in found | more), *facts])
