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
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from torch.nn import functional as F

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import tokenizer, train, unfreezing
from mailtagger.ulmfit.batching import batches, padded
from mailtagger.ulmfit.model import Classifier, Dropouts, Head
from mailtagger.ulmfit.optimizers import optimizer
from mailtagger.ulmfit.run import Schedule
from training import classifier, lm
from training.ablate import cells, drawn, once, spam
from training.baselines import BASELINES
from training.evaluate import write
from training.figures import table
from training.labels import wrong
from training.prepare import OUT, load
from training.splits import Row, Split, split

RUNS = Path("build/consistency")
RATE, DISCRIMINATIVE = 5e-3, 2.6  # as ours learns
TOKENS = 4096  # padded, a batch: half of ours, so that few mails are more steps
SURE, TEMPERATURE = 0.8, 0.4  # UDA's: the least confidence of a target, and how it is sharpened
RAMP = 0.4  # of the run, until the consistency loss counts in full
COST = 7 / 3  # of a labelled mail with its unlabelled one: two read and learned from, one only read, a third of that
LONGER, CONSISTENCY, PRETEXT = "plain fine-tuning, for as long", "with consistency", "pretext first"
ARMS = ("plain fine-tuning", LONGER, CONSISTENCY, PRETEXT)
Ids = list[int]
Noise = Callable[[Ids, np.random.Generator], Ids]


@dataclass(frozen=True)
class Labelled:
    """What is learned from with labels: 1 for yes, 0 for no."""

    documents: Sequence[Ids]
    labels: Sequence[float]


@dataclass(frozen=True)
class Spent:
    """What a run cost: mails that were read, CPU seconds; and the share of the unlabelled that were targets."""

    labelled: int = 0
    unlabelled: int = 0
    seconds: float = 0.0
    sure: float = 0.0


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
    rows, left_out = split(protocol, load(OUT)), wrong()
    tests = list({row.group: row for row in rows.test if row.document.key not in left_out}.values())
    texts, truth = [row.document.text for row in tests], spam(tests)
    pieces = tokenizer.load(lm.LM / lm.TOKENIZER)
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
        for name, fit in BASELINES.items():
            learned = [material(rows, labels, seed).labelled for seed in range(seeds)]
            fitted = [fit([row.document.text for row in some], list(spam(some))) for some in learned]
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
    arm: str, mails: Material, tests: Sequence[str], pieces: SentencePieceProcessor, count: int, seed: int, bf16: bool
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
    train.load_encoder(model, encoder)
    first, told = Spent(), 0.0
    if arm == PRETEXT:
        held, extra = max(2, min(len(unknown) // 10, 500)), round(count * (COST - 1))
        first = fit(model, halves(unknown[held:], extra, seed), extra, seed, bf16)
        told = right(model, halves(unknown[:held], held, seed))
        model.head = Head(model.head.norm0.num_features)
    reads = round(count * COST) if arm == LONGER else count
    spent = fit(model, known, reads, seed, bf16, noise, unknown if arm == CONSISTENCY else ())
    return {
        "logits": [round(float(x), 5) for x in train.logits(model, ids(tests))],
        "labelled": spent.labelled,
        "unlabelled": spent.unlabelled + first.labelled,  # the pretext's labels come from no one
        "seconds": round(spent.seconds + first.seconds, 1),
        "told": told or spent.sure,
    }


def fit(
    model: Classifier,
    known: Labelled,
    mails: int,
    seed: int,
    bf16: bool,
    noise: Noise | None = None,
    unknown: Sequence[Ids] = (),
) -> Spent:
    """Fine-tune with gradual unfreezing until so many mails are read with labels; beside each batch as many mails of
    `unknown`, if there are any."""
    rng, other = (
        np.random.default_rng(seed),
        np.random.default_rng((seed, 1)),
    )  # so labelled batches are always the same
    plan = Schedule(600, mails / len(known.documents), RATE, bf16=bf16)
    ranked = unfreezing.groups(unfreezing.layers(model), RATE, DISCRIMINATIVE)
    labelled, beside = endless(known.documents, rng), itertools.chain.from_iterable(endless(unknown, other))
    clock, begun, read, views, sure = time.process_time(), 0.0, 0, 0, 0.0
    for groups, share in unfreezing.gradual(ranked):
        learning = {id(p) for g in groups for p in g["params"]}
        for p in model.parameters():
            p.requires_grad_(id(p) in learning)
        steps, done = optimizer(plan.optimizer, groups), 0
        while done < mails * share:
            batch = next(labelled)
            spent = done / (mails * share)
            done, read = done + len(batch), read + len(batch)
            for group in steps.param_groups:
                group["lr"] = RATE * group["scale"] * plan.factor(spent)
            target = torch.tensor([known.labels[i] for i in batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                model.train()
                judged = model(*view([known.documents[i] for i in batch], rng, noise)).float()
                loss = F.binary_cross_entropy_with_logits(judged, target)
                if unknown:
                    some = [unknown[i] for i in itertools.islice(beside, len(batch))]
                    with torch.no_grad():
                        weak = model(*view(some, other, None)).float()
                    strong = model(*view(some, other, noise)).float()
                    found, firm = consistency(weak, strong)
                    loss = loss + ramp(begun + share * spent) * found
                    sure, views = sure + firm * len(some), views + len(some)
            steps.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            steps.step()
        begun += share
    return Spent(read, views, time.process_time() - clock, sure / max(views, 1))


def consistency(weak: Tensor, strong: Tensor) -> tuple[Tensor, float]:
    """Cross entropy of the strong views' logits (B,) against what was said of the weak ones, sharpened, where that was
    sure; mean over all. It teaches the strong view alone. And the share that was sure."""
    weak = weak.detach()
    sure = (torch.sigmoid(weak.abs()) >= SURE).float()
    target = torch.sigmoid(weak / TEMPERATURE)
    return (sure * F.binary_cross_entropy_with_logits(strong, target, reduction="none")).mean(), float(sure.mean())


def ramp(share: float) -> float:
    """How much the consistency loss counts at a share of the run: nothing at first, when targets are guesses."""
    return min(max(share, 0.0) / RAMP, 1.0)


def view(documents: Sequence[Ids], rng: np.random.Generator, noise: Noise | None) -> tuple[Tensor, Tensor]:
    """The documents cut at random, as `fit_classifier` does, and noised; padded."""
    limit = int(rng.choice(train.LIMITS, p=train.CHANCES))
    cuts = [tokenizer.cut(one, limit * 2 // 3, limit // 3) for one in documents]
    return padded([noise(one, rng) for one in cuts] if noise else cuts)


def halves(documents: Sequence[Ids], count: int, seed: int) -> Labelled:
    """So many first halves, each followed by its own second half (1) or by another mail's of about its length (0)."""
    rng = np.random.default_rng(seed)
    order = sorted(rng.choice(len(documents), count, replace=count > len(documents)), key=lambda i: len(documents[i]))
    found, labels = [], []
    for at, i in enumerate(order):
        own = bool(rng.random() < 0.5)
        near = [j for j in order[max(0, at - 8) : at + 9] if j != i] or [i]
        other = documents[i if own else int(rng.choice(near))]
        found.append(documents[i][: (len(documents[i]) + 1) // 2] + other[len(other) // 2 :])
        labels.append(float(own or near == [i]))
    return Labelled(found, labels)


def right(model: Classifier, pairs: Labelled) -> float:
    """The share of pairs that are judged rightly."""
    return float(np.mean((train.logits(model, pairs.documents) >= 0) == (np.array(pairs.labels) > 0.5)))


def _mean(runs: Sequence[dict[str, Any]], of: str, form: str) -> str:
    return format(float(np.mean([run[of] for run in runs])), form)


def _and(parts: Iterable[str]) -> str:
    return " and ".join(parts)


def endless(documents: Sequence[Ids], rng: np.random.Generator) -> Iterator[list[int]]:
    """Batches of all documents in ever another order; none of one row, which batch norm could not read."""
    while documents:
        yield from (b for b in batches([len(d) for d in documents], TOKENS, rng) if len(b) > 1)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
