"""Corpora → one cache of cleaned documents with groups and parts, and an overview of what is in it.

    python -m training.prepare --out build/corpora
"""

import argparse
import gzip
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mailtagger.clean import RULES_HASH
from mailtagger.errors import MailtaggerError
from training.corpora import NAMES, Document, cleaned, enron_split, home, raws
from training.splits import Row, assign

OUT = Path("build/corpora")
ROWS, ABOUT = "documents.jsonl.gz", "about.json"
AGAIN = "Run `python -m training.prepare`."


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(prog="python -m training.prepare", description=__doc__)
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--jobs", type=int, default=2, help="processes that clean")
    chosen = options.parse_args(arguments)
    broken: list[str] = []
    documents = gather(home(), chosen.jobs, broken)
    rows = assign(documents, enron_split(home()))
    write(rows, chosen.out)
    print(overview(rows, broken))


def gather(root: Path, jobs: int, broken: list[str]) -> list[Document]:
    """Every document of every corpus, cleaned by `jobs` processes."""
    raw = itertools.chain.from_iterable(raws(name, root, broken) for name in NAMES)
    with get_context("forkserver").Pool(jobs) as pool:
        return list(pool.imap(cleaned, raw, chunksize=64))


def write(rows: Iterable[Row], out: Path) -> None:
    """The cache in `out`; `about.json`, which `load` needs, comes last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)
    counts: Counter[str] = Counter()
    with gzip.open(out / ROWS, "wt", compresslevel=3, encoding="utf-8") as file:
        for row in rows:
            counts[row.document.corpus] += 1
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
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


def overview(rows: Sequence[Row], broken: Sequence[str]) -> str:
    """Tables of what is there, by source and by part, and every row that could not be used."""
    lines = ["| source | ham | spam | no subject | no message | blank | doubles |", "|---|---|---|---|---|---|---|"]
    seen: set[str] = set()
    doubles: Counter[str] = Counter()
    for row in rows:
        doubles[row.document.source] += row.group in seen
        seen.add(row.group)
    for source, inside in _by(rows, lambda row: row.document.source):
        lines.append(_line(source, inside, doubles[source]))
    lines.append(_line("all", rows, sum(doubles.values())))
    lines += ["", "| corpus | train | valid | test | out |", "|---|---|---|---|---|"]
    for corpus, inside in _by(rows, lambda row: row.document.corpus):
        parts = Counter(row.part for row in inside)
        lines.append(f"| {corpus} | {parts['train']} | {parts['valid']} | {parts['test']} | {parts['out']} |")
    across = sum(len({row.document.corpus for row in inside}) > 1 for _, inside in _by(rows, lambda row: row.group))
    lines += ["", f"{len(seen)} near-duplicate groups, {across} of them over several corpora.", "", *_unused(broken)]
    return "\n".join(lines)


def _unused(broken: Sequence[str]) -> Iterator[str]:
    yield f"{len(broken)} rows not used."
    for reason, same in itertools.groupby(sorted(broken, key=_reason), _reason):
        keys = [one.partition(": ")[0] for one in same]
        yield f"- {reason} ({len(keys)}): {', '.join(keys)}"


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
