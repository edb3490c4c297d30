"""What mail without labels can teach a classifier: to judge a mail as before when it is cut and noised otherwise, and
which halves belong to one mail.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import unfreezing
from mailtagger.ulmfit.batching import batches
from mailtagger.ulmfit.classifier import Noise, logits, view
from mailtagger.ulmfit.model import Classifier
from mailtagger.ulmfit.optimizers import optimizer
from mailtagger.ulmfit.run import Schedule, descend, set_rate

SURE, TEMPERATURE = 0.8, 0.4  # UDA's: the least confidence of a target, and how it is sharpened
DISCRIMINATIVE = 2.6
RAMP = 0.4  # of the run, until the consistency loss counts in full
Ids = list[int]


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


def fit(
    model: Classifier, known: Labelled, plan: Schedule, noise: Noise | None = None, unknown: Sequence[Ids] = ()
) -> Spent:
    """Fine-tune by gradual unfreezing for the plan's epochs; beside each batch as many mails of `unknown`, if there are
    any. The batches with labels are the same whatever stands beside them."""
    if len(known.documents) < 2 or len(unknown) == 1:
        raise MailtaggerError("One mail alone cannot be learned from.", "Batch norm needs two.")
    rng, other = np.random.default_rng(plan.seed), np.random.default_rng((plan.seed, 1))
    mails, tokens = round(plan.epochs * len(known.documents)), plan.batch * 128
    device = next(model.parameters()).device
    ranked = unfreezing.groups(unfreezing.layers(model), plan.rate, DISCRIMINATIVE)
    labelled = endless(known.documents, tokens, rng)
    beside = itertools.chain.from_iterable(endless(unknown, tokens, other))
    clock, begun, read, views, sure = time.process_time(), 0.0, 0, 0, 0.0
    for groups, share in unfreezing.gradual(ranked):
        unfreezing.thaw(model, groups)
        steps, done = optimizer(plan.optimizer, groups), 0
        while done < mails * share:
            batch = next(labelled)
            spent = done / (mails * share)
            done, read = done + len(batch), read + len(batch)
            set_rate(steps, plan.rate * plan.factor(spent))
            model.train()
            target = torch.tensor([known.labels[i] for i in batch], device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
                judged = model(*view([known.documents[i] for i in batch], rng, noise, device)).float()
                loss = F.binary_cross_entropy_with_logits(judged, target)
                if unknown:
                    some = [unknown[i] for i in itertools.islice(beside, len(batch))]
                    with torch.no_grad():
                        weak = model(*view(some, other, None, device)).float()
                    strong = model(*view(some, other, noise, device)).float()
                    found, firm = consistency(weak, strong)
                    loss = loss + ramp(begun + share * spent) * found
                    sure, views = sure + firm * len(some), views + len(some)
            descend(model, steps, loss, 0.5)
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
    return float(np.mean((logits(model, pairs.documents) >= 0) == (np.array(pairs.labels) > 0.5)))


def endless(documents: Sequence[Ids], tokens: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Batches of all documents in ever another order; none of one row, which batch norm could not read."""
    while documents:
        yield from (b for b in batches([len(d) for d in documents], tokens, rng) if len(b) > 1)
