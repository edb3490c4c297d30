"""The sample of the base corpus that ships: what `mailtagger retrain` rehearses, and the hold-out of its gate.

    python -m training.sample

Both parts are drawn from `default`: what is rehearsed from its training rows and made-up mail, the hold-out from its
validation rows, so that the packaged model has learned none of it, and the test rows stay what the tables of RESULTS.md
are made on. One mail of each near-duplicate group, none with a label known to be wrong; ham and spam in fixed numbers,
kinds of mail by the root of theirs as far as they go, and within a kind every source in turn.
"""

import argparse
import json
import lzma
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from mailtagger.artifact import TOKENIZER, find, load
from mailtagger.clean import RULES_HASH
from mailtagger.errors import MailtaggerError
from mailtagger.replay import FILE
from training import prepare
from training.balance import kind
from training.examples import made_up
from training.labels import sound
from training.splits import Row, split

REHEARSED, HELD_OUT = (700, 700), (900, 600)  # ham, spam; 100 more of each cost a retraining two seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file, and print what is in it."""
    options = argparse.ArgumentParser(
        prog="python -m training.sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, default=prepare.OUT, metavar="DIR", help="what training.prepare wrote")
    options.add_argument("--model", type=Path, metavar="DIR", help="whose cut of long mail counts; default: packaged")
    options.add_argument("--out", type=Path, default=FILE, metavar="FILE")
    chosen = options.parse_args(arguments)
    model = load(chosen.model or find(None))
    pieces = SentencePieceProcessor(model_proto=model.read(TOKENIZER))
    rows = split("default", prepare.load(chosen.data))
    lines = [json.dumps({"cleaning": RULES_HASH, "about": "see training/sample.py"})]
    told: set[str] = set()  # two long mails may differ only where the model does not read
    learned = [*rows.train, *made_up()]
    for held_out, part, sizes in ((True, rows.valid, HELD_OUT), (False, learned, REHEARSED)):
        single = sound(part)
        for label, size in zip(("ham", "spam"), sizes, strict=True):
            found = drawn([row for row in single if row.document.label == label], size)
            texts = [shortened(row.document.text, pieces, model.meta.cut.head, model.meta.cut.tail) for row in found]
            for row, text in zip(found, texts, strict=True):
                if text not in told:
                    record = {"text": text, "label": label, "kind": kind(row), "held_out": held_out}
                    lines.append(json.dumps(record, ensure_ascii=False))
                    told.add(text)
            print(f"{'held out' if held_out else 'rehearsed'}, {label}: {len(found)}")
    content = lzma.compress(("\n".join(lines) + "\n").encode("utf-8", "replace"), preset=6 | lzma.PRESET_EXTREME)
    chosen.out.write_bytes(content)
    print(f"{chosen.out}: {len(lines) - 1} mails, {len(content):,} bytes")


def drawn(rows: Sequence[Row], size: int) -> list[Row]:
    """At most `size` of the rows, the same ones each time: from each kind by the root of its number, the rarest first,
    so that what a rare kind cannot give the others give."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[kind(row)].append(row)
    found: list[Row] = []
    left = sorted(kinds, key=lambda name: (len(kinds[name]), name))
    while left:
        roots = sum(len(kinds[name]) ** 0.5 for name in left)
        inside = kinds[left.pop(0)]
        found += list(in_turn(inside))[: round((size - len(found)) * len(inside) ** 0.5 / roots)]
    return found


def in_turn(rows: Sequence[Row]) -> Iterator[Row]:
    """One row of each source after the other, until all are told; within a source in the order of a hash."""
    sources: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: sha256(row.document.key.encode()).digest()):
        sources[row.document.source].append(row)
    while sources:
        for name in sorted(sources):
            yield sources[name].pop(0)
            if not sources[name]:
                del sources[name]


def shortened(text: str, pieces: SentencePieceProcessor, head: int, tail: int) -> str:
    """The text as far as the model reads it: without what lies between its first and its last pieces."""
    found = pieces.encode(text, out_type=str)  # put together they are the text, with a mark before each word
    if len(found) <= head + tail:
        return text
    parts = ("".join(some).replace("\u2581", " ").strip() for some in (found[:head], found[-tail:]))
    return " ".join(parts)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
