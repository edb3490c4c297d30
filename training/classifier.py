"""Stage 3 of ULMFiT: the classifier on the fine-tuned encoder, its calibration and cutoffs, and the artifact.

    python -m training.classifier default --minutes 120 --out mailtagger/models/base-YYYYMMDD
    python -m training.classifier foreign:spamassassin --minutes 60 --out build/models/foreign-spamassassin

Needs `training.prepare` and `training.lm`. Only the protocol's training rows are learned from; its validation rows
calibrate and choose the cutoffs; its test rows are not looked at.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from mailtagger.artifact import WEIGHTS
from mailtagger.ulmfit import tokenizer, train
from mailtagger.ulmfit.export import export
from mailtagger.ulmfit.model import Classifier, Dropouts, Sizes
from training.lm import LM
from training.prepare import OUT, load
from training.splits import Row, split

HAM_CALLED_SPAM = 0.002  # of good mail on the validation rows, each kind of mail counting alike
SPAM_CALLED_HAM = 0.02
LEAST_SPAM_CUTOFF, MOST_HAM_CUTOFF = 0.9, 0.5


def kind(row: Row) -> str:
    """Return what rows are balanced by: the corpus, and for modern mail the kind."""
    family, _, rest = row.document.source.partition("/")
    return f"{family}/{rest.partition('/')[0]}" if family in ("modern", "spamassassin") else family


def balance(rows: Sequence[Row]) -> list[float]:
    """Return a weight for each row: kinds by the root of their count, ham and spam alike in sum, mean 1."""
    counts = Counter((row.document.label, kind(row)) for row in rows)
    weights = np.array([counts[row.document.label, kind(row)] ** -0.5 for row in rows])
    spam = np.array([row.document.label == "spam" for row in rows])
    weights[spam] /= weights[spam].sum()
    weights[~spam] /= weights[~spam].sum()
    return list((weights * len(rows) / 2).astype(float))


def noise(structure: frozenset[int]) -> Callable[[list[int], np.random.Generator], list[int]]:
    """Return the augmentation: a third of the marks of structure and 5 % of words go, a third of mails is cut short,
    so that text without headers and short mail are at home."""

    def disturbed(ids: list[int], rng: np.random.Generator) -> list[int]:
        draws = rng.random(len(ids))
        kept = [i for i, u in zip(ids, draws, strict=True) if u > (0.35 if i in structure else 0.05)]
        if len(kept) > 24 and rng.random() < 0.33:
            kept = kept[: int(rng.integers(12, len(kept)))]
        return kept or ids

    return disturbed


def calibrate(scores: NDArray[np.float64], labels: NDArray[np.bool_], weights: Sequence[float]) -> tuple[float, float]:
    """Return (a, b) of P(spam) = σ(a·logit + b): Platt 1999, fitted on balanced validation rows; a at most 1."""
    fit = LogisticRegression(C=1.0).fit(scores[:, None], labels, sample_weight=list(weights))
    a = min(1.0, float(fit.coef_[0, 0]))
    return a, float(fit.intercept_[0])


def cutoffs(p: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64]) -> tuple[float, float]:
    """Return (ham, spam) cutoffs: the rule by which they are chosen, with no hand in it."""

    def quantile(values: NDArray[np.float64], mass: NDArray[np.float64], share: float) -> float:
        order = np.argsort(values)
        return float(values[order][np.searchsorted(np.cumsum(mass[order]) / mass.sum(), share)])

    spam = quantile(p[~labels], weights[~labels], 1 - HAM_CALLED_SPAM)
    ham = quantile(p[labels], weights[labels], SPAM_CALLED_HAM)
    spam = min(0.995, max(LEAST_SPAM_CUTOFF, spam + 1e-4))
    return round(min(ham, MOST_HAM_CUTOFF), 4), round(spam, 4)


def main() -> None:
    """Train, calibrate, export."""
    options = argparse.ArgumentParser(prog="python -m training.classifier", description=__doc__)
    options.add_argument("protocol")
    options.add_argument("--minutes", type=float, default=120)
    options.add_argument("--rate", type=float, default=4e-3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--encoder", type=Path, default=LM / "mail.safetensors")
    options.add_argument("--start", type=Path, metavar="DIR", help="go on from this artifact of the same protocol")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    pieces = tokenizer.load(LM / "tokenizer.model")
    rows = split(chosen.protocol, load(OUT))
    unique = list({row.group: row for row in rows.train}.values())
    print(f"{chosen.protocol}: {len(rows.train)} training rows, {len(unique)} without near-duplicates", flush=True)

    def ids(some: Sequence[Row]) -> list[list[int]]:
        return [tokenizer.cut(found) for found in pieces.encode([row.document.text for row in some])]

    model = Classifier(Sizes(vocabulary=pieces.vocab_size()), Dropouts().scaled(0.6))
    if chosen.start:
        train.load_classifier(model, chosen.start / WEIGHTS)
    else:
        train.load_encoder(model, chosen.encoder)
    marks = [m for m in tokenizer.MARKS if m in ("xxattach", "xxhtmlonly", "xxhidden", "xxmismatch", "xxreplyto")]
    train.fit_classifier(
        model,
        ids(unique),
        [float(row.document.label == "spam") for row in unique],
        balance(unique),
        train.Schedule(minutes=chosen.minutes, epochs=6, rate=chosen.rate),
        lambda line: print(line, flush=True),
        noise(frozenset(pieces.piece_to_id(m) for m in marks)),
        unfrozen=chosen.start is not None,
    )
    valid = np.array([row.document.label == "spam" for row in rows.valid])
    balanced = np.array(balance(rows.valid))
    scores = train.logits(model, ids(rows.valid))
    a, b = calibrate(scores, valid, list(balanced))
    p = 1 / (1 + np.exp(-(a * scores + b)))
    ham, spam = cutoffs(p, valid, balanced)
    print(
        f"calibration {a:.3f} {b:.3f}; cutoffs {ham} {spam}; errors at 0.5 {np.mean((p > 0.5) != valid):.4f}",
        flush=True,
    )
    export(
        {name: value.numpy() for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")},
        LM / "tokenizer.model",
        chosen.out,
        id=chosen.out.name,
        golden=[
            "re : lunch on friday shall we meet at noon ? let me know if that works for you . anna",
            "congratulations ! you have won $ xxn3 , xxn3 in our lottery . click here to claim your prize xxurl win",
            "your order has shipped thank you for your order . track your parcel at xxurl shop . example",
            "cheap viagra and cialis online , no prescription needed , order now ! xxrep",
            "[ patch ] fix the build on arm this fixes a warning in the driver . signed - off - by xxmail",
        ],
        calibration=(a, b),
        cutoffs=(ham, spam),
        metrics={
            "training": {"protocol": chosen.protocol, "rows": len(unique), "minutes": chosen.minutes},
            "valid": {"errors_at_half": round(float(np.mean((p > 0.5) != valid)), 4), "rows": len(valid)},
        },
        data=f"{chosen.protocol}, {len(unique)} of {len(rows.train)} training rows",
        created=time.strftime("%Y-%m-%d"),
    )
    print(f"{chosen.out} is complete", flush=True)


if __name__ == "__main__":
    main()
