"""Whether raw mail and the same mail as Enron-Spam would hold it become one text: what is left tells a corpus apart.

    python -m training.enron_form [--tokenizer FILE]

Every raw mail is cleaned as live mail is, and once more after the Enron-maker; structure's tokens, which Enron's form
cannot carry, are left aside. Enron-Spam keeps line ends (95 % of its messages have one) but no blank line (none of its
33,664 messages has one); the column "one line" tells how it would be without any.
"""

import argparse
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from mailtagger import artifact, clean
from mailtagger.errors import MailtaggerError
from mailtagger.parse import parse
from mailtagger.ulmfit import tokenizer
from training.corpora import NAMES, home, raws

Table = tuple[str, str]  # subject, message


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table by source, then why texts differ and where the first of each kind does."""
    options = argparse.ArgumentParser(
        prog="python -m training.enron_form", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--tokenizer", type=Path, metavar="FILE", help="whose ids are compared; else the package's")
    chosen = options.parse_args(arguments)
    pieces = tokenizer.load(chosen.tokenizer or artifact.find(None) / artifact.TOKENIZER)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, list[str]] = defaultdict(list)
    for raw in chain.from_iterable(raws(name, home()) for name in NAMES):
        if not isinstance(content := raw.content, bytes):
            continue
        direct, kept = cleaned(content), enron(content)
        made = clean.clean_text(*kept)
        lost = clean.clean_text(*(" ".join(part.split()) for part in kept))
        direct_ids, made_ids = (tokenizer.cut(ids) for ids in pieces.encode([direct, made]))
        same = {"text": made == direct, "ids": made_ids == direct_ids, "one line": lost == direct}
        for source in ("/".join(raw.source.split("/")[:2]), "all"):
            counts[source].update(["mails", *(name for name, equal in same.items() if equal)])
        if made != direct:
            reasons[reason(content)].append(f"{raw.key}: {difference(direct, made)}")
    print("\n".join(report(counts, reasons)))


def enron(raw: bytes) -> Table:
    """Return (subject, message) as Enron-Spam's makers have them: no headers, no HTML, lower case, marks spaced."""
    mail = parse(raw)
    return spaced(mail.subject), spaced(mail.body)


def spaced(text: str) -> str:
    """Return text in lower case, a space on each side of every mark, no second space anywhere and no blank line."""
    marks = {ord(c): f" {c} " for c in set(text) if unicodedata.category(c)[0] in "PS"}
    lines = text.lower().translate(marks).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines if line.strip())


def cleaned(raw: bytes) -> str:
    """Return the text of a raw mail as the model reads it, without structure's tokens."""
    mail = parse(raw)
    return clean.clean(mail).removesuffix(clean.structure(mail)).strip()


def reason(raw: bytes) -> str:
    """Return the first rule that does to the Enron form of a mail what it does not do to the mail."""
    mail = parse(raw)
    message, made = mail.body, spaced(mail.body)
    if max(len(message), len(made)) > 2 * clean.TEXT_LIMIT:
        return "the cut to TEXT_LIMIT, which counts the spaces"
    if spaced(clean.subject_tags(mail.subject)).split() != clean.subject_tags(spaced(mail.subject)).split():
        return "subject_tags"
    for rule in clean.LINE_RULES:
        message, made = rule(message), rule(made)
        if spaced(message).split() != made.split():
            return rule.__name__
    return "letters, or a rule after it"


def difference(direct: str, made: str, words: int = 6) -> str:
    """Return some words of both texts from the first on that differs."""
    one, other = direct.split(), made.split()
    at = next((i for i, (a, b) in enumerate(zip_longest(one, other)) if a != b), 0)
    return f"{' '.join(one[at : at + words])!r} ≠ {' '.join(other[at : at + words])!r}"


def report(counts: dict[str, Counter[str]], reasons: dict[str, list[str]]) -> Iterator[str]:
    """Yield the table and the reasons, commonest first, as lines."""
    yield "| source | mails | same text | same ids | same text, one line |"
    yield "|---|---|---|---|---|"
    for source, count in sorted(counts.items(), key=lambda item: (item[0] == "all", item[0])):
        shares = (f"{count[name] / count['mails']:.2%}" for name in ("text", "ids", "one line"))
        yield f"| {source} | {count['mails']} | {' | '.join(shares)} |"
    for why, found in sorted(reasons.items(), key=lambda item: -len(item[1])):
        yield f"{len(found)} by {why}; {'; '.join(found[:3])}"


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
