"""Words, unigram, BPE and characters side by side: what each costs, and what a model learns on it in the same time.

    python -m training.compare_tokenizers [--language-model 5] [--classifier 4] [--bf16] [--write] [--smoke]

Needs `training.prepare`. Each tokeniser reads the training rows of Enron's `dedup`; a language model of the compact
size is trained on them from scratch, without their labels, then a classifier on its encoder, each for as many minutes
of CPU time, so that other work on the machine does not tell. Judged on the test rows at 0.5. `--write` puts the tables
into RESULTS.md.
"""

import argparse
import csv
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from mailtagger.clean import RULES_HASH
from mailtagger.count import Count
from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import tokenizer
from mailtagger.ulmfit.classifier import LIMITS, fit_classifier, load_encoder, logits
from mailtagger.ulmfit.language_model import fit_language_model
from mailtagger.ulmfit.model import SIZES, Classifier, Dropouts, LanguageModel
from mailtagger.ulmfit.run import Schedule
from mailtagger.ulmfit.tokenizer import Tokenizer
from training import smoke, tokenizers
from training.ablate import once
from training.balance import balance
from training.examples import examples
from training.figures import replace_section, table
from training.prepare import OUT, load
from training.splits import Row, Split, split
from training.tokenizers import KINDS, Kind

RESULTS = Path("training/RESULTS.md")
KEPT = Path("build/tokenisers")  # one file for each tokeniser, seed and budget: a comparison can be stopped
PROTOCOL = "dedup"
WINDOW = {"char": 2}  # times as long, and as few rows, in a batch of the language model
HEAD, TAIL = 256, 128
READ = 3000  # characters of a mail that a vocabulary and a language model are made of
MANY = 1000  # epochs: it is the minutes that end


@dataclass(frozen=True)
class Budget:
    """Minutes of CPU time, and what they are spent on."""

    language_model: float
    classifier: float
    size: str = "compact"
    bf16: bool = False


@dataclass(frozen=True)
class Reading:
    """What a tokeniser makes of held-out mail, one text at a time on one thread."""

    vocabulary: int
    lengths: list[int]
    characters: int
    unknown: Count
    seconds: float

    def cells(self) -> list[str]:
        """Vocabulary, pieces a mail, characters a piece, OOV, speed."""
        mails, pieces = len(self.lengths), sum(self.lengths)
        return [
            f"{self.vocabulary:,}",
            f"{median(self.lengths):,.0f}",
            f"{pieces / mails:,.0f}",
            f"{self.characters / pieces:.2f}",
            str(self.unknown),
            f"{pieces / self.seconds:,.0f}",
            f"{mails / self.seconds:,.0f}",
        ]


def read(pieces: Tokenizer, texts: Sequence[str]) -> Reading:
    """Measure it; the first text is read before the clock starts."""
    pieces.encode(texts[0])
    began = time.process_time()
    lengths = [len(pieces.encode(text)) for text in texts]
    seconds = max(time.process_time() - began, 1e-9)
    return Reading(pieces.vocab_size(), lengths, sum(map(len, texts)), tokenizers.unknown(pieces, texts), seconds)


def learn(kind: Kind, pieces: Tokenizer, rows: Split, budget: Budget, seed: int) -> list[str]:
    """Pieces that the language model read and its bits a character; mails that the classifier did, its errors, AUC."""
    longer = tokenizers.scale(pieces)
    torch.manual_seed(seed)
    sizes = replace(SIZES[budget.size], vocabulary=pieces.vocab_size())
    classifier = Classifier(sizes, Dropouts().scaled(0.6))
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Path(directory) / "language_model.safetensors"
        model, window = LanguageModel(sizes, Dropouts().scaled(0.5)), WINDOW.get(kind, 1)
        own = {"bf16": budget.bf16, "seed": seed, "cpu": True}
        plan = Schedule(budget.language_model, MANY, 4e-3, 64 // window, 70 * window, **own)
        seen, bits = language_model(model, pieces, rows, plan, checkpoint)
        load_encoder(classifier, checkpoint)
        learned = examples(rows.train)
        mails = 0

        def counted(document: list[int], _: np.random.Generator) -> list[int]:
            nonlocal mails
            mails += 1
            return document

        fit_classifier(
            classifier,
            ids(pieces, learned, longer),
            [float(row.document.label == "spam") for row in learned],
            balance(learned),
            Schedule(budget.classifier, MANY, 5e-3, batch=64 * longer, **own),
            print_line,
            counted,
            limits=[limit * longer for limit in LIMITS],
        )
    scores = logits(classifier, ids(pieces, rows.test, longer))
    spam = np.array([row.document.label == "spam" for row in rows.test])
    errors = Count(int(((scores > 0) != spam).sum()), len(spam))
    return [f"{seen:,}", f"{bits:.3f}", f"{mails:,}", str(errors), f"{roc_auc_score(spam, scores):.4f}"]


def language_model(
    model: LanguageModel, pieces: Tokenizer, rows: Split, plan: Schedule, checkpoint: Path
) -> tuple[int, float]:
    """Train it into `checkpoint`; the pieces that it read, and its bits a character of held-out mail, in which
    tokenisers can be compared as in perplexity they cannot: what is unknown costs few bits, though."""
    texts = [row.document.text[:READ] for row in rows.train]
    np.random.default_rng(plan.seed).shuffle(texts)
    held = [row.document.text[:READ] for row in rows.valid][:200]
    stream, valid = tokenizer.stream(pieces, texts), tokenizer.stream(pieces, held)
    perplexity = fit_language_model(model, stream, valid, plan, checkpoint, print_line)
    with checkpoint.with_suffix(".csv").open() as file:
        seen = int([*csv.DictReader(file)][-1]["seen"])
    return seen, math.log2(perplexity) * len(valid) / sum(len(text) + 1 for text in held)


def ids(pieces: Tokenizer, rows: Sequence[Row], longer: int) -> list[list[int]]:
    """Mails as live ones are read, cut `longer` times as late."""
    encoded = pieces.encode([row.document.text for row in rows])
    return [tokenizer.cut(found, HEAD * longer, TAIL * longer) for found in encoded]


def print_line(line: str) -> None:
    """Tell it at once, on stderr: stdout has the tables."""
    print(line, file=sys.stderr, flush=True)


def compare(kinds: Sequence[Kind], rows: Split, budget: Budget, seeds: int, kept: Path) -> str:
    """Both tables, Markdown; what was measured before, as the files in `kept` tell, is not measured again."""
    readings, lessons = [], []
    kept.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        for seed in range(seeds):
            name = f"{kind}-{budget.size}-{budget.language_model:g}-{budget.classifier:g}-{seed}-{RULES_HASH[:12]}.json"
            file = kept / name
            reading, lesson = once(file, partial(measured, kind, rows, budget, seed))
            print_line(f"== {kind} | {' | '.join([*reading, *lesson])}")
            if not seed:
                readings.append([kind, *reading])
            lessons.append([kind, seed, *lesson])
    head = ["tokeniser", "vocabulary", "pieces a mail, median", "mean", "characters a piece"]
    first = table([*head, "out of vocabulary", "pieces/s", "mails/s"], readings)
    head = ["tokeniser", "seed", "pieces read by the LM", "bits a character", "mails learned"]
    return f"{first}\n\n{table([*head, 'errors at 0.5', 'AUC'], lessons)}"


def measured(kind: Kind, rows: Split, budget: Budget, seed: int) -> tuple[list[str], list[str]]:
    """The cells of both tables."""
    texts = [row.document.text[:READ] for row in rows.train]
    limits = tokenizers.Limits(500, 1) if budget.size == "tiny" else tokenizers.LIMITS[kind]
    with tempfile.TemporaryDirectory() as directory:
        pieces = tokenizers.build(kind, texts, Path(directory) / "tokenizer.model", *limits)
    reading = read(pieces, [row.document.text for row in rows.test]).cells()
    return reading, learn(kind, pieces, rows, budget, seed)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.compare_tokenizers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--language-model", type=float, default=5, metavar="MINUTES")
    options.add_argument("--classifier", type=float, default=4, metavar="MINUTES")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--bf16", action="store_true", help="multiply in bf16, on a processor that can")
    options.add_argument("--write", action="store_true", help="the tables into training/RESULTS.md")
    options.add_argument("--smoke", action="store_true", help="all of it in seconds, on made-up mail")
    chosen = options.parse_args(arguments)
    if not (chosen.language_model > 0 and chosen.classifier > 0 and chosen.seeds > 0):
        raise MailtaggerError("Nothing can be compared in no time.", "Minutes and seeds above 0, please.")
    torch.set_num_threads(1)
    budget = Budget(chosen.language_model, chosen.classifier, bf16=chosen.bf16)
    kept, found = KEPT, smoke.rows() if chosen.smoke else load(OUT)
    if chosen.smoke:
        budget, kept = Budget(0.003, 0.003, "tiny"), Path(tempfile.mkdtemp(prefix="mailtagger-smoke-"))
    rows = split(PROTOCOL, found)
    command = f"--language-model {budget.language_model:g} --classifier {budget.classifier:g} --seeds {chosen.seeds}"
    if len(chosen.kinds) < len(KINDS):
        command += f" --kinds {' '.join(chosen.kinds)}"
    command += " --bf16" * chosen.bf16 + " --smoke" * chosen.smoke + " --write" * chosen.write
    text = f"""Printed by `python -m training.compare_tokenizers {command}`.

- {PROTOCOL}: {len(rows.train)} training rows for vocabulary and language model, labels unread; read, and judged, on
  {len(rows.test)} test rows. Size {budget.size}; {budget.language_model:g} minutes of CPU time for each language model
  from scratch, {budget.classifier:g} for each classifier on it.
- char: mails are cut 4 times as late as the others', the language model's windows are {WINDOW["char"]} times as long.
- bits a character: of validation mail; a word that is unknown costs few, which flatters the tokeniser of words.
- out of vocabulary: of all pieces; pieces/s, mails/s: one text at a time, one thread, of CPU time; spaCy is
  asked only of words that were not in the training rows.

{compare(chosen.kinds, rows, budget, chosen.seeds, kept)}"""
    print(text)
    if chosen.write and not chosen.smoke:
        replace_section(RESULTS, "tokenisers", text)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
