"""What carries over to mail of a source that nobody trained on: the share of the linear part, calibration, cutoffs.

    python -m training.calibrate --model build/models/cross-1 … --model build/models/cross-5 --write

Every mail is judged by the model that saw no labelled mail of its source (`splits`, cross:1 to cross:5); the language
model under it has read all training mail, without labels. From these scores `choose` makes the rule that the default
model ships with, build/calibration.json. The tables judge each fold by the rule that the other four give, so that no
mail has a say in the cutoffs it is judged by, and the linear models beside it likewise. Mail whose label is known to be
wrong, or whose text says nothing for any label (`labels`), is left out. A text that holds too few words that the model
knows is at most unsure, here as in the daemon (`mailtagger.decide`).
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as safetensors
from sklearn.linear_model import LogisticRegression

from mailtagger.artifact import WEIGHTS, Artifact
from mailtagger.decide import FAMILIAR
from mailtagger.errors import MailtaggerError
from mailtagger.score import Scorer
from mailtagger.ulmfit.export import linear_part
from mailtagger.ulmfit.linear import BOUND, bounded
from training import prepare
from training.arguments import positive
from training.balance import balance, kind
from training.baselines import BASELINES
from training.evaluate import RESULTS, logits, opened
from training.figures import Bands, Flags, Scores, band_tables, cost, draw, reliability, replace_section, threshold_for
from training.labels import wrong
from training.splits import FOLDS, Row, split

OUT = Path("build/calibration.json")
PLOTS = Path(__file__).parent / "plots"
HAM_CALLED_SPAM = 0.002  # of good mail, each kind of mail counting alike
HAM_OF_A_KIND = 0.03  # of any kind of good mail of which there are FEW
SPAM_CALLED_HAM = 0.02
FEW = 100
HIGHEST, LOWEST = 0.9999, 0.5  # spam_cutoff at most, and at least; ham_cutoff at most LOWEST


@dataclass(frozen=True)
class Rule:
    """logit = LSTM's, bounded, + mix · linear's; P(spam) = σ(a · logit + b); the two cutoffs are on P."""

    mix: float
    a: float
    b: float
    ham_cutoff: float
    spam_cutoff: float

    def probability(self, lstm: Scores, linear: Scores) -> Scores:
        """P(spam) of each mail."""
        return np.asarray(1 / (1 + np.exp(-(self.a * (lstm + self.mix * linear) + self.b))), np.float64)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", type=Path, action="append", required=True, metavar="DIR", help="one of each fold")
    options.add_argument("--data", type=Path, default=prepare.OUT, metavar="DIR", help="what training.prepare wrote")
    options.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    options.add_argument("--write", action="store_true", help=f"put tables and plots into {RESULTS.name}")
    options.add_argument("--jobs", type=positive, default=2, help="processes that score")
    chosen = options.parse_args(arguments)
    given = [opened(path) for path in chosen.model]
    models = {model.protocol: model.artifact for model in given}
    wanted = [f"cross:{fold}" for fold in FOLDS]
    if sorted(model.protocol for model in given) != wanted:
        raise MailtaggerError(
            f"The models given were trained under {', '.join(model.protocol for model in given)}.",
            f"One of each is needed: {', '.join(wanted)}.",
        )
    rows = prepare.load(chosen.data)
    test: list[Row] = []
    left_out, seen = wrong(), set[str]()
    folds, lstm, linear, known = (np.zeros(0) for _ in range(4))
    others: dict[str, Scores] = {name: np.zeros(0) for name in BASELINES}
    for protocol in wanted:
        one = split(protocol, rows)
        if models[protocol].meta.metrics["training"].get("test") != fingerprint(one.test):
            raise MailtaggerError(
                f"The model {models[protocol].id} was trained for another test set than {protocol} has today.",
                "Train it again: the corpora or the cleaning changed since.",
            )
        judged = [row for row in one.test if row.group not in seen and row.document.key not in left_out]
        seen |= {row.group for row in judged}
        texts = [row.document.text for row in judged]
        z, beside, words = parts(models[protocol], texts, chosen.jobs)
        lstm, linear, known = np.append(lstm, z), np.append(linear, beside), np.append(known, words)
        folds = np.append(folds, np.full(len(texts), int(protocol[-1])))
        for name, fit in BASELINES.items():
            labels = [row.document.label == "spam" for row in one.train]
            others[name] = np.append(others[name], fit([row.document.text for row in one.train], labels)(texts))
        test += judged
        print(f"{protocol}: {len(texts)} mails scored", file=sys.stderr, flush=True)
    spam = np.array([row.document.label == "spam" for row in test])
    weights = np.array(balance(test, genre))
    kinds = np.array([genre(row) for row in test])
    rule = choose(lstm, linear, spam, weights, kinds, known)
    keys = np.array([row.document.key for row in test])
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(chosen.out.with_suffix(".npz"), keys=keys, lstm=lstm, linear=linear, folds=folds, known=known)
    p, bands = nested(lstm, linear, others, spam, weights, kinds, folds, known)
    methods = {band.method: band.scores for band in bands}
    methods["ULMFiT"] = rule.probability(lstm, linear)  # P of five rules has no common scale for one threshold
    text = "\n".join((
        f"{len(test)} mails without near-duplicates, each judged by a model that saw no labelled mail of its source, "
        "by cutoffs chosen on the other four folds. Balanced: each kind of mail counts by the root of its number.",
        "",
        "The rule that all five folds give, and that the default model ships with: "
        f"logit = {BOUND:g} · tanh(LSTM / {BOUND:g}) + {rule.mix:.3f} · linear, "
        f"P(spam) = σ({rule.a:.3f} · logit {rule.b:+.3f}), "
        f"ham below {rule.ham_cutoff:.4f}, spam from {rule.spam_cutoff:.4f}.",
        "",
        band_tables(bands, spam, weights, np.array([row.document.source for row in test]), folds),
        "",
        "Reliability, balanced:",
        "",
        reliability(p, spam, weights),
        "",
        "![reliability](plots/reliability.svg) ![cost](plots/cost.svg)",
        "",
        "Cost of a mail, a good mail called spam counting ten misses, over all thresholds:",
        "",
        cost(methods, spam, weights),
    ))  # fmt: skip
    print(text)
    if chosen.write:
        draw(p, methods, spam, weights, PLOTS)
        command = "`python -m training.calibrate --write` with the models of cross:1 to cross:5"
        replace_section(RESULTS, "cross", f"Printed by {command}.\n\n{text}")
    chosen.out.write_text(json.dumps(asdict(rule), indent=1) + "\n")


def genre(row: Row) -> str:
    """The kind of mail without its envelope: the newsletters and designs that were wrapped for a corpus are one kind
    with the newsletters that came as such."""
    name = kind(row)
    return "modern/newsletter" if name.startswith("modern/wrapped-") else name


def parts(artifact: Artifact, texts: Sequence[str], jobs: int) -> tuple[Scores, Scores, Scores]:
    """The logits of the LSTM, bounded, and of the linear part, on the int8 graph that ships; without one, 0. And how
    much of each text is in words that the model knows."""
    whole = logits(artifact, texts, jobs)
    scorer = Scorer(artifact)
    ids = [scorer.ids(text) for text in texts]
    known = np.array([scorer.familiar(one) for one in ids], np.float64)
    found = linear_part(safetensors(artifact.read(WEIGHTS)))
    if not found:
        return bounded(whole), np.zeros(len(texts)), known
    part, mix = found
    beside = part.logits([one.tolist() for one in ids])
    return whole - mix * beside, beside, known


def at_most_unsure(p: Scores, known: Scores | None) -> Scores:
    """P(spam) as the bands take it: below every spam cutoff where the model knows too few of the words."""
    return p if known is None else np.where(known < FAMILIAR, np.minimum(p, np.nextafter(LOWEST, 0)), p)


def choose(
    lstm: Scores,
    linear: Scores,
    spam: Flags,
    weights: Scores,
    kinds: NDArray[np.str_],
    known: Scores | None = None,
) -> Rule:
    """The rule for these logits, with no hand in it: a logistic regression on both (Platt 1999), then the cutoffs.
    `known`: how much of each text is in words that the model knows; all of it, if not given."""
    fit = LogisticRegression(C=100.0).fit(np.column_stack([lstm, linear]), spam, sample_weight=weights)
    a, beside = fit.coef_[0]
    if beside < 0:  # it says nothing that the LSTM does not
        fit = LogisticRegression(C=100.0).fit(lstm[:, None], spam, sample_weight=weights)
        a, beside = fit.coef_[0, 0], 0.0
    a = max(float(a), 1e-3)
    rule = Rule(float(beside) / a, a, float(fit.intercept_[0]), 0, 1)
    ham_cutoff, spam_cutoff = cutoffs(at_most_unsure(rule.probability(lstm, linear), known), spam, weights, kinds)
    if spam_cutoff > HIGHEST:
        print(f"Good mail scores so high that spam_cutoff ends at {HIGHEST}, which more of it passes.", file=sys.stderr)
    return replace(rule, ham_cutoff=min(ham_cutoff, LOWEST), spam_cutoff=max(LOWEST, min(HIGHEST, spam_cutoff)))


def fingerprint(rows: Sequence[Row]) -> str:
    """Which mails these are, and in which order: 16 hex digits."""
    return sha256("\n".join(row.document.key for row in rows).encode()).hexdigest()[:16]


def cutoffs(scores: Scores, spam: Flags, weights: Scores, kinds: NDArray[np.str_]) -> tuple[float, float]:
    """(ham, spam) cutoffs: so high that of balanced good mail at most HAM_CALLED_SPAM is called spam, and of any kind
    at most HAM_OF_A_KIND; so low that of balanced spam at most SPAM_CALLED_HAM is called ham."""
    highest = [threshold_for(HAM_CALLED_SPAM, scores[~spam], weights[~spam])]
    for name, count in Counter(kinds[~spam].tolist()).items():
        if count >= FEW:
            highest.append(threshold_for(HAM_OF_A_KIND, scores[~spam & (kinds == name)]))
    return -threshold_for(SPAM_CALLED_HAM, -scores[spam], weights[spam]), max(highest)


def nested(
    lstm: Scores,
    linear: Scores,
    others: Mapping[str, Scores],
    spam: Flags,
    weights: Scores,
    kinds: NDArray[np.str_],
    folds: Scores,
    known: Scores | None = None,
) -> tuple[Scores, list[Bands]]:
    """P(spam) of ULMFiT, and each method's bands, every fold by the rule of the other four; ULMFiT's as it ships, of
    texts in words it knows."""
    p = np.zeros(len(spam))
    methods: dict[str, Scores] = {"ULMFiT": p, "its LSTM alone": lstm, "its linear part alone": linear, **others}
    limits = {name: np.zeros((2, len(spam))) for name in methods}
    for fold in np.unique(folds):
        here, rest = folds == fold, folds != fold
        rule = choose(
            lstm[rest], linear[rest], spam[rest], weights[rest], kinds[rest], None if known is None else known[rest]
        )
        p[here] = rule.probability(lstm[here], linear[here])
        limits["ULMFiT"][:, here] = np.array([[rule.ham_cutoff], [rule.spam_cutoff]])
        for name, scores in methods.items():
            if name != "ULMFiT":
                found = cutoffs(scores[rest], spam[rest], weights[rest], kinds[rest])
                limits[name][:, here] = np.array([[min(found)], [found[1]]])
    if known is not None:
        limits["ULMFiT"][1, known < FAMILIAR] = np.inf
    return p, [Bands(name, scores, *limits[name]) for name, scores in methods.items()]


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
