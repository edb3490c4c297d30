"""Few labels and much mail without: does unlabelled mail help a classifier that stands on ULMFiT's encoder?

    python -m training.consistency --protocol dedup --labels 100,1000 --seeds 3 --mails 6000 [--bf16] [--write]
    python -m training.consistency --smoke                   all of it in seconds, on made-up mail

Needs `training.prepare` and `training.lm`. Consistency: a mail cut and noised otherwise should be judged as before (Xie
et al. 2019, arXiv 1904.12848; Sohn et al. 2020, arXiv 2001.07685). Pretext: before it is told any label, the classifier
learns which two halves belong to one mail (as BERT's next sentence, arXiv 1810.04805). Both read as many mails with
labels as plain fine-tuning does, and beside them stands plain fine-tuning that works for as long as they.
Each run leaves a file in build/consistency, and is not made again: a command that was stopped goes on. Test rows are
one of each near-duplicate group, without wrong labels; no run chooses anything by them.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import tokenizer
from mailtagger.ulmfit.classifier import Noise, load_encoder, logits
from mailtagger.ulmfit.model import Classifier, Dropouts, Head
from mailtagger.ulmfit.run import Schedule
from mailtagger.ulmfit.tokenizer import Tokenizer
from mailtagger.ulmfit.unlabelled import Ids, Labelled, Spent, fit, halves, right
from training import classifier, lm, tokenizers
from training.ablate import cells, drawn, once, spam
from training.baselines import BASELINES
from training.evaluate import write
from training.figures import table
from training.labels import sound
from training.prepare import OUT, load
from training.splits import Row, Split, split

RUNS = Path("build/consistency")
RATE, BATCH = 5e-3, 32  # the rate ours learns at; half its batch, so that few mails are more steps
COST = 7 / 3  # of a labelled mail with its unlabelled one: two read and learned from, one only read, a third of that
LONGER, CONSISTENCY, PRETEXT = "plain fine-tuning, for as long", "with consistency", "pretext first"
ARMS = ("plain fine-tuning", LONGER, CONSISTENCY, PRETEXT)


@dataclass(frozen=True)
class Material:
    """The mails of one seed; those without labels are text alone."""

    labelled: list[Row]
    unlabelled: list[str]


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.consistency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--protocol", default="dedup", help="dedup, lomo:1 …")
    options.add_argument("--labels", default="100,1000", help="how many training mails keep theirs, half of them spam")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--mails", type=int, default=6000, help="that a run reads with labels, again and again")
    options.add_argument("--bf16", action="store_true", help="multiply in bf16, on a processor that can")
    options.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options.add_argument("--smoke", action="store_true", help="all of it in seconds, on made-up mail")
    chosen = options.parse_args(arguments)
    if chosen.smoke:
        if chosen.write:
            options.error("a trial on made-up mail is no result: --smoke goes without --write")
        lm.main(["--smoke", "--general-minutes", "0"])
        chosen.labels, chosen.seeds, chosen.mails = "20,40", 1, 60
    counts = numbers(chosen.labels)
    if min(chosen.seeds, chosen.mails) < 1:
        raise MailtaggerError("No seed or no mail makes no table.", "--seeds and --mails are 1 or more.")
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    text = report(chosen.protocol, counts, chosen.seeds, chosen.mails, chosen.bf16)
    print(text)
    if chosen.write:
        stage = ["training.consistency", "--protocol", chosen.protocol, "--labels", chosen.labels]
        stage += ["--seeds", str(chosen.seeds), "--mails", str(chosen.mails), *["--bf16"] * chosen.bf16]
        write("consistency", text, stage, [])


def numbers(text: str) -> list[int]:
    """100,1000 as numbers; MailtaggerError for what cannot be halved into ham and spam."""
    found = [int(one) if one.strip().isdigit() else 0 for one in text.split(",")]
    if any(one < 4 or one % 2 for one in found):
        raise MailtaggerError(f"--labels {text} is no list of even numbers from 4 on.", "As in --labels 100,1000.")
    return found


def material(rows: Split, labels: int, seed: int) -> Material:
    """As many training rows with labels, as `ablate` draws them; of every other near-duplicate group one text without,
    a row that is labelled wrong, too: who sees no label cannot know."""
    labelled = drawn(rows, labels, seed)
    known = {row.group for row in labelled}
    unlabelled = [t for group, t in {row.group: row.document.text for row in rows.train}.items() if group not in known]
    if len(labelled) < labels or len(unlabelled) < 2:
        raise MailtaggerError(
            f"{rows.protocol} has too few training mails for {labels} labels and some without.", "Ask for fewer labels."
        )
    return Material(labelled, unlabelled)


def report(protocol: str, counts: Sequence[int], seeds: int, mails: int, bf16: bool) -> str:
    """The table: errors, AUC and what they cost, as mean ± standard deviation over seeds."""
    rows = split(protocol, load(OUT))
    tests = sound(rows.test)
    texts, truth = [row.document.text for row in tests], spam(tests)
    pieces = tokenizers.load(lm.LM / lm.TOKENIZER)
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for seed in range(seeds):  # what is complete after each is a table of fewer seeds
        for labels in counts:
            for arm in ARMS:
                file = RUNS / f"{protocol.replace(':', '')}-{labels}-{mails}-{arm.replace(' ', '').replace(',', '-')}"
                file = file.with_name(f"{file.name}{'-bf16' * bf16}-{seed}.json")

                def run(labels: int = labels, seed: int = seed, arm: str = arm) -> dict[str, Any]:
                    return trained(arm, material(rows, labels, seed), texts, pieces, mails, seed, bf16)

                found.setdefault((labels, arm), []).append(once(file, run))
    lines = []
    for labels in counts:
        for arm in ARMS:
            runs = found[labels, arm]
            read = [_mean(runs, of, ",.0f") for of in ("labelled", "unlabelled", "seconds")]
            lines.append([f"{labels:,}", arm, *read, *cells([np.array(run["logits"]) for run in runs], truth)])
        for name, learn in BASELINES.items():
            learned = [material(rows, labels, seed).labelled for seed in range(seeds)]
            fitted = [learn([row.document.text for row in some], list(spam(some))) for some in learned]
            lines.append([f"{labels:,}", name, "–", "–", "–", *cells([score(texts) for score in fitted], truth)])
    head = ["labels", "arm", "read with labels", "without", "CPU seconds", f"errors of {len(tests):,}", "AUC"]
    sure, told = ([_mean(found[n, arm], "told", ".0%") for n in counts] for arm in (CONSISTENCY, PRETEXT))
    about = (
        f"{protocol}, {seeds} seeds, mean ± standard deviation; the LSTM alone, at P = 0.5; CPU seconds of training on "
        f"one thread. With {_and(f'{n:,}' for n in counts)} labels {_and(sure)} of what was said of unlabelled mail "
        f"was firm enough to be a target. Of pairs of halves that were never read {_and(told)} are told rightly."
    )
    return f"{about}\n\n{table(head, lines)}"


def trained(
    arm: str, mails: Material, tests: Sequence[str], pieces: Tokenizer, count: int, seed: int, bf16: bool
) -> dict[str, Any]:
    """The logits of the tests by a classifier trained so; what that cost; and what is told of the unlabelled mail: the
    share that was a target, or the share of new pairs of halves that is judged rightly."""
    print(f"== {arm}, {len(mails.labelled):,} labels, seed {seed}", flush=True)

    def ids(some: Sequence[str]) -> list[Ids]:
        return [tokenizer.cut(one) for one in pieces.encode(list(some))]

    noise = classifier.noise(frozenset(pieces.piece_to_id(mark) for mark in tokenizer.STRUCTURE))
    known = Labelled(ids([row.document.text for row in mails.labelled]), spam(mails.labelled).astype(float).tolist())
    unknown = ids(mails.unlabelled) if arm in (CONSISTENCY, PRETEXT) else []
    torch.manual_seed(seed)
    encoder = lm.LM / f"{lm.MAIL}.safetensors"
    model = Classifier(classifier.sizes(encoder), Dropouts().scaled(0.6))
    load_encoder(model, encoder)

    def fitted(some: Labelled, reads: int, noise: Noise | None, beside: Sequence[Ids] = ()) -> Spent:
        plan = Schedule(600, reads / len(some.documents), RATE, batch=BATCH, bf16=bf16, seed=seed)
        return fit(model, some, plan, noise, beside)

    first, told = Spent(), 0.0
    if arm == PRETEXT:
        held, extra = max(2, min(len(unknown) // 10, 500)), round(count * (COST - 1))
        first = fitted(halves(unknown[held:], extra, seed), extra, None)
        told = right(model, halves(unknown[:held], held, seed))
        model.head = Head(model.head.norm0.num_features)
    spent = fitted(known, round(count * COST) if arm == LONGER else count, noise, unknown if arm == CONSISTENCY else ())
    return {
        "logits": [round(float(x), 5) for x in logits(model, ids(tests))],
        "labelled": spent.labelled,
        "unlabelled": spent.unlabelled + first.labelled,  # the pretext's labels come from no one
        "seconds": round(spent.seconds + first.seconds, 1),
        "told": told or spent.sure,
    }


def _mean(runs: Sequence[dict[str, Any]], of: str, form: str) -> str:
    return format(float(np.mean([run[of] for run in runs])), form)


def _and(parts: Iterable[str]) -> str:
    return " and ".join(parts)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
