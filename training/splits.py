"""Documents → rows with a near-duplicate group and a part, and which rows a protocol trains, tunes and tests on.

A model names the protocol it was trained under; `split` tells both the training and the evaluation what that means, so
that no test row can stand in a training set unnoticed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Literal

from mailtagger.errors import MailtaggerError
from training.corpora import Document, EnronSplit
from training.duplicates import components, pairs, signatures

Part = Literal["train", "valid", "test", "out"]
PARTS: tuple[Part, ...] = ("train", "valid", "test", "out")
FAMILIES = ("enron", "spamassassin", "phishing", "modern")
MAILBOXES = tuple("123456")
FOLDS = tuple("12345")
TUNING = 10  # a tenth of the training groups tunes where a protocol of the literature has no validation part


@dataclass(frozen=True)
class Row:
    """A document and where it stands."""

    document: Document
    group: str  # near-duplicates share it, over all corpora
    part: Part  # Enron: the column `dedup`; out: near-duplicate of rows of several parts
    random: str = ""  # Enron: the column `random`, train or valid


@dataclass(frozen=True)
class Split:
    """What a protocol trains, tunes and tests on."""

    protocol: str
    train: tuple[Row, ...]
    valid: tuple[Row, ...]
    test: tuple[Row, ...]


def assign(
    documents: Sequence[Document], enron: Mapping[str, EnronSplit], given: Mapping[str, str] = MappingProxyType({})
) -> list[Row]:
    """The rows: groups are Enron's near groups and what is like them, or like one another, elsewhere; parts are Enron's
    own, and 80/10/10 by group for the rest. Where `given` says train or test of a key, so it is; a tenth of such
    training groups is for validation."""
    edges = _known_groups(documents, enron)
    for i, j in pairs(signatures([document.text for document in documents])):
        if not documents[i].corpus == documents[j].corpus == "enron":
            edges.append((i, j))
    members: dict[int, list[Document]] = defaultdict(list)
    found = components(len(documents), edges)
    for document, group in zip(documents, found, strict=True):
        members[group].append(document)
    names = {group: min(d.key for d in inside) for group, inside in members.items()}
    parts = {group: _part(names[group], inside, enron) for group, inside in members.items()}
    rows = []
    for document, group in zip(documents, found, strict=True):
        known = enron.get(document.key)
        part = _checked(known.dedup) if known else parts[group]
        if of := given.get(document.key):
            part = "test" if of == "test" else "valid" if _number(names[group]) % TUNING == 0 else "train"
        rows.append(Row(document, names[group], part, known.random if known else ""))
    return rows


def own_split(documents: Sequence[Document]) -> dict[str, EnronSplit]:
    """What enron_split.csv says, made anew where it is not there: near-duplicates by MinHash, parts by hash."""
    enron = [document for document in documents if document.corpus == "enron"]
    found = components(len(enron), pairs(signatures([document.text for document in enron])))
    made = {}
    for document, group in zip(enron, found, strict=True):
        random = "valid" if _number(document.key) % 5 == 0 else "train"
        mailbox, name = document.source.partition("/")[2], enron[group].key
        made[document.key] = EnronSplit(mailbox, name, random, _eighty_ten_ten(name))
    return made


def split(protocol: str, rows: Iterable[Row]) -> Split:
    """The rows of a protocol; blank documents are in none.

    random         Enron, the literature's way: near-duplicates cross
    dedup          Enron, they do not
    lomo:1 to :6   train on five of Enron's mailboxes, test on the sixth
    foreign:FAMILY train without a family of corpora, or near-duplicates of it, and test on all of it
    cross:1 to :5  train without a fifth of the sources, or near-duplicates of them, and test on one mail of each of
                   their groups: each source is in one fold, so that every mail is judged by a model that was told
                   nothing of its source
    default        the training part of every corpus, tested on the test part of every corpus: what ships
    """
    name, _, which = protocol.partition(":")
    rows = [row for row in rows if row.document.text.strip()]
    enron = [row for row in rows if row.document.family == "enron"]
    match name:
        case "random" if not which:
            train = [row for row in enron if row.random == "train"]
            return _tuned(protocol, train, [row for row in enron if row.random == "valid"])
        case "dedup" if not which:
            return _by_part(protocol, enron)
        case "lomo" if which in MAILBOXES:
            train = [row for row in enron if row.document.source != f"enron/{which}"]
            return _tuned(protocol, train, [row for row in enron if row.document.source == f"enron/{which}"])
        case "foreign" if which in FAMILIES:
            return _without(protocol, rows, {row.document.source for row in rows if row.document.family == which})
        case "cross" if which in FOLDS:
            folds = source_folds(rows)
            found = _without(protocol, rows, {source for source, fold in folds.items() if fold == which})
            return replace(found, test=tuple({row.group: row for row in reversed(found.test)}.values())[::-1])
        case "default" if not which:
            return _by_part(protocol, rows)
    raise MailtaggerError(
        f"There is no protocol {protocol!r}.",
        f"Known: random, dedup, lomo:1 to lomo:6, {', '.join(f'foreign:{family}' for family in FAMILIES)}, "
        "cross:1 to cross:5, default.",
    )


def source_folds(rows: Iterable[Row]) -> dict[str, str]:
    """The fold of each source. What one hand wrote stays together: a list, a newsletter, a project's templates of
    every kind, the spam of a host's lists, the phishing of before 2024. The largest of a family goes first, to the fold
    that has least of its label from that family, so that every fold keeps something of everything to learn from."""
    hands = {row.document.source: _hand(row.document.source) for row in rows}
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        sizes[hands[row.document.source]][row.document.label] += 1
    held: Counter[tuple[str, str, str]] = Counter()
    folds = {}
    for hand, size in sorted(sizes.items(), key=lambda item: (-item[1].total(), item[0])):
        family, label = hand.partition("/")[0], size.most_common(1)[0][0]
        folds[hand] = min(FOLDS, key=lambda fold: (held[fold, family, label], held[fold, "", ""], fold))
        held[folds[hand], family, label] += size.total()
        held[folds[hand], "", ""] += size.total()
    return {source: folds[hand] for source, hand in hands.items()}


def _hand(source: str) -> str:
    family, _, rest = source.partition("/")
    match family:
        case "phishing":
            return source if rest == "2024" else "phishing/before"
        case "modern":
            kind, _, project = rest.partition("/")
            return f"modern/{'.'.join(project.split('.')[-3:]) if kind == 'list-spam' else project}"
    return source


def _without(protocol: str, rows: Sequence[Row], sources: Set[str]) -> Split:
    test = [row for row in rows if row.document.source in sources]
    seen = {row.group for row in test}
    home = _by_part(protocol, [r for r in rows if r.document.source not in sources and r.group not in seen])
    return Split(protocol, home.train, home.valid, tuple(test))


def _by_part(protocol: str, rows: Sequence[Row]) -> Split:
    test = tuple(row for row in rows if row.part == "test")
    seen = {row.group for row in test}  # Enron's rows keep their own part where mail from elsewhere joins two groups
    train, valid = (tuple(r for r in rows if r.part == part and r.group not in seen) for part in ("train", "valid"))
    return Split(protocol, train, valid, test)


def _tuned(protocol: str, train: Sequence[Row], test: Sequence[Row]) -> Split:
    aside = tuple(row for row in train if _number(row.group) % TUNING == 0)
    return Split(protocol, tuple(row for row in train if _number(row.group) % TUNING), aside, tuple(test))


def _known_groups(documents: Sequence[Document], enron: Mapping[str, EnronSplit]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [
        (first.setdefault(enron[document.key].near_group, i), i)
        for i, document in enumerate(documents)
        if document.key in enron
    ]


def _part(name: str, inside: Iterable[Document], enron: Mapping[str, EnronSplit]) -> Part:
    given = {_checked(enron[d.key].dedup) for d in inside if d.key in enron}
    if given:
        return given.pop() if len(given) == 1 else "out"
    return _eighty_ten_ten(name)


def _eighty_ten_ten(name: str) -> Part:
    tenth = _number(name) % 10
    return "train" if tenth < 8 else "valid" if tenth == 8 else "test"


def _checked(part: str) -> Part:
    match part:
        case "train" | "valid" | "test":
            return part
    raise MailtaggerError(f"enron_split.csv has a part {part!r}.", "Known: train, valid, test.")


def _number(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big")
