"""A classifier that goes on learning: lessons of one user, and mail of the base corpus beside them, so that it learns
the first and forgets nothing of the second.

LSTM: gradual unfreezing from the last layer on, rates divided by 2.6 a layer (ULMFiT §3.3), batch norm as it stands.
The linear part: the weights nearest to the old ones under which the lessons come out right. What is rehearsed keeps to
what the old model says of it, not to its label ("learning without forgetting", Li & Hoiem 2016, arXiv 1606.09282).
The calibration stays as it is, and it is P as calibrated that must not change: σ of the bare logit no longer tells
13 from 9, and the cutoff for spam lies at 11. Measured with fifty lessons, on the hold-out: 272 spams called spam
before, 260 after; 232 without the calibration.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import PAGESIZE, PROT_EXEC, PROT_READ, PROT_WRITE, mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as safetensors
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from sentencepiece import SentencePieceProcessor
from torch.nn import functional as F

from mailtagger.artifact import REFERENCE, TOKENIZER, WEIGHTS, Artifact
from mailtagger.ulmfit import optimizers, unfreezing
from mailtagger.ulmfit.batching import batches, padded
from mailtagger.ulmfit.classifier import view
from mailtagger.ulmfit.export import export, linear_part
from mailtagger.ulmfit.linear import BUCKETS, Linear, bounded, terms
from mailtagger.ulmfit.model import Classifier, Dropouts, Sizes
from mailtagger.ulmfit.run import descend, set_rate
from mailtagger.ulmfit.schedules import slanted
from mailtagger.ulmfit.tokenizer import cut

Floats = NDArray[np.float64]

RATE = 1e-3
BATCH, MOST_LESSONS = 32, 8  # rows of a batch, and how many of them are lessons
STEPS, MOST_STEPS = 40, 250  # batches: as many as show each lesson three times
STAGES = ((1, 0.15), (2, 0.15), (None, 0.7))  # layers from the end that learn, and the share of the batches
STRENGTH = 30.0  # of a mail against the wish of the linear part to stay; with 10 five newsletters end unsure, not ham


@dataclass(frozen=True)
class Lessons:
    """Cleaned texts with labels, and what each counts beside the others."""

    texts: Sequence[str]
    spam: Sequence[bool]
    weights: Sequence[float]


def finetune(
    base: Artifact,
    lessons: Lessons,
    rehearsed: Sequence[str],
    out: Path,
    *,
    id: str,
    metrics: Mapping[str, Any],
    data: str,
    tell: Callable[[float], None] = lambda share: None,
) -> Artifact:
    """The directory `out` as a model of its own, verified; `tell` gets the share of the work that is done, and what it
    raises ends the work.
    No clock has a say: the same lessons give the same model."""
    pieces = SentencePieceProcessor(model_proto=base.read(TOKENIZER))
    stored = safetensors(base.read(WEIGHTS))
    beside = linear_part(stored)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        head, tail = base.meta.cut.head, base.meta.cut.tail
        return [cut(found, head, tail) or [pieces.unk_id()] for found in pieces.encode(list(texts))]

    documents, old = ids(lessons.texts), ids(rehearsed)
    with _alone():
        model = classifier(stored)
        before = _logits(model, old, lambda share: tell(0.2 * share))
        _fit(model, documents, lessons, old, before, lambda share: tell(0.2 + 0.5 * share))
        after = _logits(model, [*old, *documents], lambda share: tell(0.7 + 0.2 * share))
    state = {k: v.numpy() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    linear, mix = None, 1.0
    if beside:
        linear, mix = beside
        a, b = base.meta.calibration.a, base.meta.calibration.b
        said = _sigmoid(a * (bounded(before) + mix * linear.logits(old)) + b)
        wanted = np.concatenate([said, np.array(lessons.spam, float)])
        linear = nearest(linear, a * mix, [*old, *documents], a * bounded(after) + b, wanted)
    tell(0.95)
    made = export(
        state,
        base.path / TOKENIZER,
        out,
        id=id,
        golden=[golden.text for golden in base.meta.golden],
        calibration=(base.meta.calibration.a, base.meta.calibration.b),
        cutoffs=(base.meta.cutoffs.ham, base.meta.cutoffs.spam),
        cut=(base.meta.cut.head, base.meta.cut.tail),
        metrics=metrics,
        parent=base.id,
        data=data,
        linear=linear,
        mix=mix,
    )
    (out / REFERENCE).unlink()  # nothing needs it where the model is used, and it is the largest file
    tell(1.0)
    return made


def classifier(stored: Mapping[str, NDArray[Any]]) -> Classifier:
    """The network that an artifact's weights belong to, with them in it; the linear part is no part of it."""
    vocabulary, embedding = stored["encoder.embedding.weight"].shape
    layers = sum(name.startswith("encoder.lstm.") and name.endswith("weight_hh") for name in stored)
    sizes = Sizes(vocabulary, embedding, stored["encoder.lstm.0.weight_hh"].shape[1], layers)
    model = Classifier(sizes, Dropouts().scaled(0.6))
    found = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in stored.items()}
    model.load_state_dict({name: found.get(name, value) for name, value in model.state_dict().items()})
    return model


def nearest(
    linear: Linear, mix: float, documents: Sequence[Sequence[int]], beside: Floats, wanted: Floats
) -> Linear:
    """The linear part that gives the documents their `wanted` P = σ(beside + mix · linear), at the least change: the
    posterior mode of a logistic regression whose prior is a Gaussian round the old weights."""
    found = [terms(ids, len(linear.weight) - BUCKETS) for ids in documents]
    columns, ends = np.concatenate(found), np.cumsum([0, *map(len, found)])
    rows = np.repeat(np.arange(len(found)), np.diff(ends))
    idf = np.sqrt(linear.length.astype(np.float64))
    values = idf[columns]
    values /= np.sqrt(np.maximum(np.bincount(rows, values**2, len(found)), 1))[rows]
    matrix = csr_matrix((values * mix, columns, ends), (len(found), len(idf)))
    start = beside + mix * linear.logits(documents)

    def loss(change: Floats) -> tuple[float, Floats]:
        z = start + matrix @ change[:-1] + mix * change[-1]
        missed = _sigmoid(z) - wanted
        slope = np.append(matrix.T @ missed, mix * missed.sum())
        total = STRENGTH * (np.logaddexp(0, z) - wanted * z).sum() + 0.5 * change @ change
        return float(total), STRENGTH * slope + change

    change = minimize(loss, np.zeros(len(idf) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    weight = (linear.weight + change[:-1] * idf).astype(np.float32)
    return Linear(weight, linear.length, float(linear.bias + change[-1]))


def _fit(
    model: Classifier, documents: Sequence[list[int]], lessons: Lessons, old: Sequence[list[int]], before: Floats,
    tell: Callable[[float], None],
) -> None:
    rng = np.random.default_rng(0)
    mine = min(MOST_LESSONS, 2 * len(documents))  # one lesson alone is two rows of a batch, and turns no class
    steps = min(MOST_STEPS, max(STEPS, 3 * len(documents) // mine))
    everything = [*documents, *old]
    wanted = torch.tensor(np.concatenate([np.array(lessons.spam, float), _sigmoid(before)]), dtype=torch.float32)
    chances = np.asarray(lessons.weights, np.float64) / np.sum(lessons.weights)
    order = _endless(len(old), rng)
    ranked, done = unfreezing.groups(unfreezing.layers(model), RATE, 2.6), 0
    for layers, share in STAGES:
        groups = ranked[:layers]
        unfreezing.thaw(model, groups)
        optimizer = optimizers.optimizer("adamw", groups)
        model.train()
        for norm in (model.head.norm0, model.head.norm1):
            norm.eval()  # so few batches must not move what is known of the base's features
        count = round(steps * share)
        for step in range(count):
            set_rate(optimizer, RATE * slanted(step / count))
            chosen = rng.choice(len(documents), mine, p=chances).tolist()
            chosen += [len(documents) + next(order) for _ in range(BATCH - mine)] if old else []
            logits = model(*view([everything[i] for i in chosen], rng, None, torch.device("cpu")))
            loss = F.binary_cross_entropy_with_logits(logits, wanted[chosen])
            descend(model, optimizer, loss, 0.5)
            done += 1
            tell(done / steps)


@torch.no_grad()
def _logits(model: Classifier, documents: Sequence[Sequence[int]], tell: Callable[[float], None]) -> Floats:
    model.eval()
    out, done = np.zeros(len(documents)), 0
    for chosen in batches([len(d) for d in documents], 8192, None):
        if chosen:
            out[chosen] = model(*padded([documents[i] for i in chosen])).double().numpy()
        done += len(chosen)
        tell(done / max(len(documents), 1))
    return out


def _endless(count: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(count).tolist()


@contextmanager
def _alone() -> Iterator[None]:
    """Torch with a generator of our own, and without oneDNN where the unit's MemoryDenyWriteExecute forbids what that
    does: it compiles for this processor as it goes. The same numbers come out a third later."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and _may_compile()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.backends.mkldnn.enabled = before


def _may_compile() -> bool:
    try:
        mmap(-1, PAGESIZE, prot=PROT_READ | PROT_WRITE | PROT_EXEC).close()
    except OSError:
        return False
    return True


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -60, 60))), np.float64)
