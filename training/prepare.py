"""Corpora → one cache of cleaned documents with groups and parts, and an overview of what is in it.

    python -m training.prepare                                           all corpora of $MAILTAGGER_CORPORA
    python -m training.prepare --corpora enron --download                Enron-Spam, fetched where it is not there
    python -m training.prepare --add ham=~/Maildir --add spam=spam.mbox  mail of your own beside them
    python -m training.prepare --corpora --add aclImdb                   nothing else; its folders tell the labels

Writes documents.jsonl.gz and about.json; years.json, for `training.explore` to look at and for no model to see; and
unlabelled.jsonl.gz where there is mail that nobody labelled.
"""

import argparse
import gzip
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mailtagger.clean import RULES_HASH
from mailtagger.errors import MailtaggerError
from training.arguments import positive
from training.corpora import ENRON, NAMES, Document, Raw, cleaned, enron_counts, enron_split, home, raws
from training.fetch import ENRON_SHA256, ENRON_URL, fetch
from training.readers import Added, read
from training.splits import PARTS, Row, assign, own_split
from training.years import year

OUT = Path("build/corpora")
ROWS, ABOUT, YEARS, UNLABELLED = "documents.jsonl.gz", "about.json", "years.json", "unlabelled.jsonl.gz"
AGAIN = "Run `python -m training.prepare`."
NAMED = 20  # rows that the overview names for each reason not to use them


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--corpora", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    options.add_argument("--add", action="append", default=[], type=Added.parse, metavar="[ham=|spam=]PATH")
    options.add_argument("--download", action="store_true", help="fetch Enron-Spam if it is not there")
    options.add_argument("--sha256", default=ENRON_SHA256, help="of what is fetched")
    options.add_argument("--jobs", type=positive, default=2, help="processes that clean")
    chosen = options.parse_args(arguments)
    root = home() if chosen.corpora or chosen.download else Path()
    if chosen.download and not (root / ENRON).exists():
        fetch(ENRON_URL, root / ENRON, chosen.sha256, lambda line: print(line, flush=True))
    broken: list[str] = []
    years: dict[str, int] = {}
    given: dict[str, str] = {}

    def noted(raw: Raw) -> Raw:
        if when := year(raw):
            years[raw.key] = when
        if raw.part:
            given[raw.key] = raw.part
        return raw

    found = [raws(name, root, broken) for name in dict.fromkeys(chosen.corpora)]
    found.append(read(chosen.add, broken))
    documents = gather(map(noted, itertools.chain.from_iterable(found)), chosen.jobs)
    labelled = [document for document in documents if document.label]
    if not labelled:
        raise MailtaggerError("\n".join(("There is no labelled mail to prepare.", *_unused(broken))))
    enron = "enron" in chosen.corpora
    split = enron_split(root) or own_split(labelled) if enron else {}
    rows = assign(labelled, split, given)
    write(rows, chosen.out, years, [document.text for document in documents if not document.label])
    print(*([enron_counts(root)] if enron else []), overview(rows, broken), sep="\n\n")
    if unlabelled := len(documents) - len(labelled):
        print(f"{unlabelled:,} mails without a label, for language models alone.")


def gather(raw: Iterable[Raw], jobs: int) -> list[Document]:
    """The documents, cleaned by `jobs` processes."""
    with get_context("forkserver").Pool(jobs) as pool:
        return list(pool.imap(cleaned, raw, chunksize=64))


def write(
    rows: Iterable[Row], out: Path, years: Mapping[str, int] | None = None, unlabelled: Sequence[str] = ()
) -> None:
    """The cache in `out`; `about.json`, which `load` needs, comes last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)
    counts: Counter[str] = Counter()
    with gzip.open(out / ROWS, "wt", compresslevel=3, encoding="utf-8") as file:
        for row in rows:
            counts[row.document.corpus] += 1
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
    (out / YEARS).write_text(json.dumps(years or {}, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    (out / UNLABELLED).unlink(missing_ok=True)
    if unlabelled:
        with gzip.open(out / UNLABELLED, "wt", compresslevel=3, encoding="utf-8") as file:
            file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in unlabelled)
    (out / ABOUT).write_text(json.dumps({"cleaning": RULES_HASH, "rows": counts}, indent=1) + "\n")


def load(directory: Path = OUT) -> list[Row]:
    """The rows that `write` left in `directory`, if they were cleaned by today's rules."""
    try:
        about: dict[str, Any] = json.loads((directory / ABOUT).read_text())
    except FileNotFoundError as error:
        raise MailtaggerError(f"There is no prepared corpus in {directory}.", AGAIN) from error
    if about["cleaning"] != RULES_HASH:
        raise MailtaggerError(f"The corpus in {directory} was cleaned by other rules than today's.", AGAIN)
    with gzip.open(directory / ROWS, "rt", encoding="utf-8") as file:
        return list(map(_row, file))


def load_years(directory: Path = OUT) -> dict[str, int]:
    """The year of each key that has one; nothing where the cache is older than they are."""
    path = directory / YEARS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def load_unlabelled(directory: Path = OUT) -> list[str]:
    """The cleaned texts that nobody labelled."""
    path = directory / UNLABELLED
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def overview(rows: Sequence[Row], broken: Sequence[str]) -> str:
    """Tables of what is there, by source and by part, and every row that could not be used."""
    lines = ["| source | ham | spam | no subject | no message | blank | doubles |", "|---|---|---|---|---|---|---|"]
    seen: set[str] = set()
    doubles: Counter[str] = Counter()
    for row in rows:
        doubles[_shown(row)] += row.group in seen
        seen.add(row.group)
    for source, inside in _by(rows, _shown):
        lines.append(_line(source, inside, doubles[source]))
    lines.append(_line("all", rows, sum(doubles.values())))
    lines += ["", f"| corpus | {' | '.join(PARTS)} | exact doubles | near doubles |", f"|{'---|' * (len(PARTS) + 3)}"]
    for corpus, inside in (*_by(rows, lambda row: row.document.corpus), ("all", rows)):
        parts = Counter(row.part for row in inside)
        exact, near = (len(inside) - len(different) for different in _different(inside))
        lines.append(f"| {corpus} | {' | '.join(str(parts[p]) for p in PARTS)} | {exact} | {near} |")
    across = sum(len({row.document.corpus for row in inside}) > 1 for _, inside in _by(rows, lambda row: row.group))
    lines += ["", f"{len(seen)} near-duplicate groups, {across} of them over several corpora.", "", *_unused(broken)]
    return "\n".join(lines)


def _shown(row: Row) -> str:
    """The source as the overview names it: SpamAssassin's lists in one line."""
    parts = row.document.source.split("/")
    return "/".join(parts[:2] if row.document.corpus == "spamassassin" else parts)


def _different(rows: Sequence[Row]) -> tuple[set[str], set[str]]:
    """The texts, and the near-duplicate groups: a row beyond the first of each is a double."""
    return {row.document.text for row in rows}, {row.group for row in rows}


def _unused(broken: Sequence[str]) -> Iterator[str]:
    yield f"{len(broken)} rows not used."
    for reason, same in itertools.groupby(sorted(broken, key=_reason), _reason):
        keys = [one.partition(": ")[0] for one in same]
        more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
        yield f"- {reason} ({len(keys)}): {', '.join(keys[:NAMED])}{more}"


def _reason(broken: str) -> str:
    return broken.partition(": ")[2]


def _line(name: str, rows: Sequence[Row], doubles: int) -> str:
    count = Counter(itertools.chain.from_iterable((r.document.label, *r.document.missing) for r in rows))
    blank = sum(not row.document.text.strip() for row in rows)
    cells = (name, count["ham"], count["spam"], count["subject"], count["message"], blank, doubles)
    return f"| {' | '.join(map(str, cells))} |"


def _by(rows: Iterable[Row], key: Callable[[Row], str]) -> Iterator[tuple[str, list[Row]]]:
    for name, inside in itertools.groupby(sorted(rows, key=key), key):
        yield name, list(inside)


def _row(line: str) -> Row:
    fields = json.loads(line)
    document = fields.pop("document")
    return Row(Document(**{**document, "missing": tuple(document["missing"])}), **fields)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
