"""Scores → figures: counts with their 95 % intervals, and the Markdown tables of them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from mailtagger.count import Count as Count

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]

COST = 10  # misses that a good mail called spam counts


@dataclass(frozen=True)
class Line:
    """What one method did under one rule on some rows."""

    method: str
    rule: str
    ham_called_spam: Count
    spam_caught: Count
    unsure: Count
    errors: Count  # ham called spam and spam called ham; unsure is neither
    auc: float | None


@dataclass(frozen=True)
class Arm:
    """A method's scores on the test rows and the cutoffs of a rule: ham < ham_cutoff ≤ unsure < spam_cutoff ≤ spam."""

    method: str
    rule: str
    scores: Scores
    ham_cutoff: float
    spam_cutoff: float

    def line(self, spam: Flags, chosen: Flags | slice = slice(None)) -> Line:
        """The figures over the chosen rows, of which `spam` says the truth."""
        scores, spam = self.scores[chosen], spam[chosen]
        called_spam, called_ham = scores >= self.spam_cutoff, scores < self.ham_cutoff
        every = np.ones_like(spam)
        return Line(
            self.method,
            self.rule,
            _count(called_spam, ~spam),
            _count(called_spam, spam),
            _count(~called_spam & ~called_ham, every),
            _count((called_spam & ~spam) | (called_ham & spam), every),
            float(roc_auc_score(spam, scores)) if spam.any() and not spam.all() else None,
        )


@dataclass(frozen=True)
class Test:
    """One test set, measured."""

    title: str
    trained: str  # the protocol that every method was trained under, and on how many rows
    notes: str  # what the rules mean here
    lines: tuple[Line, ...]
    sources: dict[str, tuple[Line, ...]]  # none where the test is part of another


@dataclass(frozen=True)
class Bands:
    """A method's scores and, mail by mail, the cutoffs it is judged by."""

    method: str
    scores: Scores
    ham_cutoff: Scores
    spam_cutoff: Scores

    @property
    def called_spam(self) -> Flags:
        return self.scores >= self.spam_cutoff

    @property
    def called_ham(self) -> Flags:
        return self.scores < self.ham_cutoff


def band_tables(
    bands: Sequence[Bands], spam: Flags, weights: Scores, sources: NDArray[np.str_], folds: Scores
) -> str:
    """Markdown: each method over all mail, then by kind of mail (the first two parts of a source's name). AUC is the
    mean over the folds, each of which another model judged."""
    head = ["method", "good mail called spam", "spam called ham", "spam caught", "unsure", "balanced: called", "caught"]
    rows = [
        [
            band.method,
            *(_count(band.called_spam, ~spam), _count(band.called_ham, spam), _count(band.called_spam, spam)),
            f"{np.mean(~band.called_spam & ~band.called_ham):.1%}",
            *(f"{weights[band.called_spam & of].sum() / weights[of].sum():.2%}" for of in (~spam, spam)),
            *(f"{_mean_auc(band.scores, spam, w, folds):.4f}" for w in (np.ones_like(weights), weights)),
        ]
        for band in bands
    ]
    kinds = np.array(["/".join(source.split("/")[:2]) for source in sources])
    first, *rest = bands
    by_kind = []
    for name in np.unique(kinds):
        for truth, of in (("ham", ~spam & (kinds == name)), ("spam", spam & (kinds == name))):
            if of.any():
                unsure = f"{np.mean(~first.called_spam[of] & ~first.called_ham[of]):.1%}"
                called = (_count(band.called_spam, of) for band in rest)
                by_kind.append([name, truth, _count(first.called_spam, of), unsure, *called])
    titles = ["kind", "truth", f"{first.method}: called spam", "unsure", *(band.method for band in rest)]
    return f"{table([*head, 'AUC', 'AUC, balanced'], rows)}\n\n{table(titles, by_kind)}"


def _mean_auc(scores: Scores, spam: Flags, weights: Scores, folds: Scores) -> float:
    parts = [folds == fold for fold in np.unique(folds)]
    return float(np.mean([roc_auc_score(spam[i], scores[i], sample_weight=weights[i]) for i in parts]))


def reliability(p: Scores, spam: Flags, weights: Scores, bins: int = 10) -> str:
    """Markdown: what P(spam) said in each tenth, and how much was spam; the expected calibration error below."""
    found = list(_bins(p, spam, weights, bins))
    error = sum(share * abs(said - true) for _, share, said, true, _ in found)
    rows = [[f"{low:.1f}–{low + 1 / bins:.1f}", n, f"{said:.3f}", f"{true:.3f}"] for low, _, said, true, n in found]
    return f"{table(['P(spam)', 'mails', 'said', 'were spam'], rows)}\n\nExpected calibration error {error:.3f}."


def cost(methods: Mapping[str, Scores], spam: Flags, weights: Scores) -> str:
    """Markdown: the least cost of each method over all thresholds, and how much good mail it then calls spam."""
    rows = []
    for name, scores in methods.items():
        false, missed = _curve(scores, spam, weights)
        at = int(np.argmin(COST * false + missed))
        rows.append([name, f"{(COST * false + missed)[at] / 2:.4f}", f"{false[at]:.2%}", f"{1 - missed[at]:.1%}"])
    return table(["method", "least cost of a mail", "good mail called spam", "spam caught"], rows)


def draw(p: Scores, methods: Mapping[str, Scores], spam: Flags, weights: Scores, out: Path) -> None:
    """reliability.svg and cost.svg in the directory `out`."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "mailtagger"  # the same figures give the same file
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(4.5, 4))
    found = list(_bins(p, spam, weights, 10))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot([said for _, _, said, _, _ in found], [true for _, _, _, true, _ in found], marker="o")
    axes.set(xlabel="P(spam) said", ylabel="share that was spam", title="Reliability, foreign mail")
    figure.savefig(out / "reliability.svg", metadata={"Date": None}, bbox_inches="tight")
    figure, axes = pyplot.subplots(figsize=(5.5, 4))
    for name, scores in methods.items():
        false, missed = _curve(scores, spam, weights)
        axes.plot(np.maximum(false, 1e-4), (COST * false + missed) / 2, label=name, linewidth=1)
    axes.set(xscale="log", ylim=(0, 0.6), xlabel="good mail called spam")
    axes.set(ylabel=f"cost of a mail (miss 1, false alarm {COST})", title="Cost over all thresholds, foreign mail")
    axes.legend(fontsize=7)
    figure.savefig(out / "cost.svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close("all")


def _bins(p: Scores, spam: Flags, weights: Scores, bins: int) -> Iterator[tuple[float, float, float, float, int]]:
    """(lower end, share of the weight, mean P, share of spam, mails) of each bin that holds mail."""
    places = np.minimum((p * bins).astype(int), bins - 1)
    for place in range(bins):
        here = places == place
        if here.any():
            w = weights[here]
            said, true = np.average(p[here], weights=w), np.average(spam[here], weights=w)
            yield place / bins, w.sum() / weights.sum(), float(said), float(true), int(here.sum())


def _curve(scores: Scores, spam: Flags, weights: Scores) -> tuple[Scores, Scores]:
    """Shares of good mail called spam and of spam missed, at every threshold from the highest down."""
    order = np.argsort(-scores, kind="stable")
    w, of_spam = weights[order], spam[order]
    false, caught = np.cumsum(w * ~of_spam) / w[~of_spam].sum(), np.cumsum(w * of_spam) / w[of_spam].sum()
    return np.append(0.0, false), 1 - np.append(0.0, caught)


def threshold_for(rate: float, ham: Scores, weights: Scores | None = None) -> float:
    """The lowest threshold that calls at most this share of the ham, or of its weight, spam."""
    order = np.argsort(-ham, kind="stable")
    reached = np.cumsum(np.ones(len(ham)) if weights is None else weights[order])
    allowed = int(np.searchsorted(reached, rate * reached[-1] + 1e-9, side="right"))
    return float(np.nextafter(ham[order][allowed], np.inf)) if allowed < len(order) else -math.inf


def tables(tests: Sequence[Test], rules: Sequence[tuple[str, str]], depth: int = 2) -> str:
    """Markdown: every line of every test, the mean of the tests' errors, and for the arms in `rules` (method, rule) the
    sources, put together by the first `depth` parts of their names."""
    text = [f"- {test.title}: trained under {test.trained}; {test.notes}" for test in tests]
    head = ["test", "method", "rule", "ham called spam", "spam caught", "unsure", "errors", "AUC"]
    text += ["", table(head, (_cells(test.title, line) for test in tests for line in test.lines))]
    arms = [(line.method, line.rule) for line in tests[0].lines]
    whole, right = [test for test in tests if test.sources], [test for test in tests if not test.sources]
    for name, some in (("tests", whole), ("tests, right labels", right)):
        if len(some) > 1:
            means = ([*arm, f"{np.mean([_line(t.lines, arm).errors.rate for t in some]):.2%}"] for arm in arms)
            text += ["", table(["method", "rule", f"mean errors of {len(some)} {name}"], means)]
    text += ["", "Called spam, by source:", "", _by_source(tests, rules, depth)]
    return "\n".join(text)


def replace_section(path: Path, name: str, text: str) -> None:
    """The file with this section between its markers, in the place of its last version or at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = (path.read_text(encoding="utf-8") if path.exists() else "").partition(begin)
    after = rest.partition(end)[2] if found else ""
    parts = (before.strip(), f"{begin}\n## {name}\n\n{text}\n{end}", after.strip())
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _by_source(tests: Sequence[Test], rules: Sequence[tuple[str, str]], depth: int) -> str:
    rows = []
    for test in tests:
        kinds: dict[tuple[str, str], list[tuple[Line, ...]]] = {}
        for source, lines in test.sources.items():
            kind = "/".join(source.split("/")[:depth])
            for label, of in (("ham", lines[0].ham_called_spam.of), ("spam", lines[0].spam_caught.of)):
                if of:
                    kinds.setdefault((kind, label), []).append(lines)
        for (kind, label), parts in kinds.items():
            called = []
            for arm in rules:
                of_arm = (_line(part, arm) for part in parts)
                called.append(_sum(line.ham_called_spam if label == "ham" else line.spam_caught for line in of_arm))
            rows.append([test.title, kind, label, *called])
    return table(["test", "source", "truth", *(f"{method}, {rule}" for method, rule in rules)], rows)


def _line(lines: Iterable[Line], arm: tuple[str, str]) -> Line:
    return next(line for line in lines if (line.method, line.rule) == arm)


def _sum(counts: Iterable[Count]) -> Count:
    return sum(counts, Count(0, 0))


def _count(hits: Flags, of: Flags) -> Count:
    return Count(int((hits & of).sum()), int(of.sum()))


def _cells(title: str, line: Line) -> list[object]:
    auc = "–" if line.auc is None else f"{line.auc:.4f}"
    return [title, line.method, line.rule, line.ham_called_spam, line.spam_caught, line.unsure, line.errors, auc]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)
