"""ULMFiT beside two linear models: same texts, same split, counts beside rates, 95 % intervals.

    python -m training.evaluate dedup --model build/models/dedup --write

PROTOCOL is random, dedup, lomo, foreign (what they mean: `splits.split`) or held-out: the test part of every corpus,
which the model that ships is measured on. A model is measured only on rows that it neither learned from nor was tuned
on, and the linear models learn from the training rows of its protocol. Blank documents are left out: no method judges
them.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mailtagger.artifact import GRAPH, REFERENCE, Artifact, load
from mailtagger.errors import MailtaggerError
from mailtagger.score import Scorer, open_scorer
from training import prepare
from training.arguments import positive
from training.baselines import BASELINES
from training.figures import Arm, Flags, Scores, Test, replace_section, tables, threshold_for
from training.labels import wrong
from training.splits import FAMILIES, MAILBOXES, Row, Split, split

PROTOCOLS = {
    "random": ("random",),
    "dedup": ("dedup",),
    "lomo": tuple(f"lomo:{mailbox}" for mailbox in MAILBOXES),
    "foreign": tuple(f"foreign:{family}" for family in FAMILIES),
    "held-out": ("default",),
}
RESULTS = Path(__file__).parent / "RESULTS.md"
RATE = 0.005  # of validation ham that may be called spam where no model says how much
SHIPPED, HALF, BOUNDARY, MATCHED = "shipped cutoffs", "0.5", "boundary", "matched"


@dataclass(frozen=True)
class Model:
    """An artifact, and what it says of its training: under which protocol, and whether by the labels as they stand."""

    artifact: Artifact
    protocol: str
    as_labelled: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("protocol", choices=PROTOCOLS)
    options.add_argument("--model", type=Path, action="append", default=[], metavar="DIR", help="may be repeated")
    options.add_argument("--data", type=Path, default=prepare.OUT, metavar="DIR", help="what training.prepare wrote")
    options.add_argument("--json", type=Path, metavar="FILE", help="every figure, every source")
    options.add_argument("--write", action="store_true", help=f"put the tables into {RESULTS.name}")
    options.add_argument("--jobs", type=positive, default=2, help="processes that score")
    chosen = options.parse_args(arguments)
    rows = prepare.load(chosen.data)
    splits = [one for name in PROTOCOLS[chosen.protocol] if (one := split(name, rows)).test]
    models = fitting([opened(path) for path in chosen.model], splits, rows)
    tests = []
    for one, model in zip(splits, models, strict=True):
        if model or not chosen.model:
            known = split(model.protocol, rows) if model else one
            tests += measured(one, known, model, chosen.jobs)
    text = tables(tests, _leading(tests[0]))
    print(text)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(test) for test in tests], indent=1) + "\n")
    if chosen.write:
        section = f"{chosen.protocol}, as labelled" if any(m and m.as_labelled for m in models) else chosen.protocol
        write(section, text, ["training.evaluate", chosen.protocol], chosen.model)


def write(section: str, text: str, stage: Sequence[str], models: Sequence[Path], *more: str) -> None:
    """The section of RESULTS, under the command that prints it; of a path on this machine only the name is told."""
    named = [part for m in models for part in ("--model", m.name if m.is_absolute() else str(m))]
    command = shlex.join(["python", "-m", *stage, *named, *more, "--write"])
    replace_section(RESULTS, section, f"Printed by `{command}`.\n\n{text}")


def opened(directory: Path) -> Model:
    """The model in a directory; MailtaggerError if it does not say what it was trained on."""
    artifact = load(directory)
    training = artifact.meta.metrics.get("training")
    protocol = training.get("protocol") if isinstance(training, dict) else None
    if not isinstance(protocol, str):
        raise MailtaggerError(
            f"The model {artifact.id} does not say under which protocol it was trained.",
            'Its metrics need "training": {"protocol": …}.',
        )
    return Model(artifact, protocol, bool(training.get("as_labelled")))


def fitting(models: Sequence[Model], splits: Sequence[Split], rows: Sequence[Row]) -> list[Model | None]:
    """The model to measure on each split, if any; MailtaggerError for a model that has seen rows of every test."""
    found: list[Model | None] = [None] * len(splits)
    for model in models:
        known = split(model.protocol, rows)
        learned = {row.document.key for row in (*known.train, *known.valid)}
        seen = [sum(row.document.key in learned for row in one.test) for one in splits]
        if all(seen):
            i = int(np.argmin(seen))
            raise MailtaggerError(
                f"The model {model.artifact.id} was trained under {model.protocol}, and {seen[i]} of the "
                f"{len(splits[i].test)} test rows of {splits[i].protocol} stand in its training and validation sets.",
                f"Give a model trained under {splits[i].protocol}.",
            )
        for i, count in enumerate(seen):
            if not count and (found[i] is None or model.protocol == splits[i].protocol):
                found[i] = model
    return found


def measured(one: Split, known: Split, model: Model | None, jobs: int) -> list[Test]:
    """Every method on the test rows of `one`, each of them trained on the training rows of `known`; and once more
    without the rows whose label is known to be wrong, if there are any: who learned such labels agrees with them."""
    test, ham = _texts(one.test), [row.document.text for row in known.valid if row.document.label == "ham"]
    arms, notes, rate = [], "", RATE
    if model:
        scores, cutoffs = scored(model.artifact, [*test, *ham], jobs), model.artifact.meta.cutoffs
        rate = float((scores[len(test) :] >= cutoffs.spam).mean())
        arms += [
            Arm("ULMFiT", SHIPPED, scores[: len(test)], cutoffs.ham, cutoffs.spam),
            Arm("ULMFiT", HALF, scores[: len(test)], 0.5, 0.5),
        ]
        if (model.artifact.path / REFERENCE).exists():
            exact = _scores(model.artifact, test, jobs, REFERENCE)[:, 0]
            arms.append(Arm("ULMFiT in fp32", SHIPPED, exact, cutoffs.ham, cutoffs.spam))
            arms.append(Arm("ULMFiT in fp32", HALF, exact, 0.5, 0.5))
        notes = f"ULMFiT is {model.artifact.id}, cutoffs {cutoffs.ham:.3f} and {cutoffs.spam:.3f}; "
    for name, fit in BASELINES.items():
        score = fit(_texts(known.train), _spam(known.train).tolist())
        scores, threshold = score(test), threshold_for(rate, score(ham))
        arms += [Arm(name, BOUNDARY, scores, 0, 0), Arm(name, MATCHED, scores, threshold, threshold)]
    spam, sources = _spam(one.test), np.array([row.document.source for row in one.test])
    title = "held-out" if one.protocol == "default" else one.protocol
    whole = Test(
        title=title,
        trained=f"{known.protocol} on {len(known.train)} rows",
        notes=f"{notes}matched: {rate:.2%} of {len(ham)} validation ham called spam",
        lines=tuple(arm.line(spam) for arm in arms),
        sources={str(name): tuple(arm.line(spam, sources == name) for arm in arms) for name in np.unique(sources)},
    )
    mislabelled = wrong()
    right = np.array([row.document.key not in mislabelled for row in one.test])
    if right.all():
        return [whole]
    notes = f"the same without {(~right).sum()} rows of `wrong_labels.csv`"
    lines = tuple(arm.line(spam, right) for arm in arms)
    return [whole, replace(whole, title=f"{title}, right labels", notes=notes, lines=lines, sources={})]


def scored(artifact: Artifact, texts: Sequence[str], jobs: int) -> Scores:
    """P(spam) of each text, one by one as live mail is scored, by `jobs` processes of one thread."""
    return _scores(artifact, texts, jobs)[:, 0]


def logits(artifact: Artifact, texts: Sequence[str], jobs: int) -> Scores:
    """As `scored`, before calibration."""
    return _scores(artifact, texts, jobs)[:, 1]


def _scores(artifact: Artifact, texts: Sequence[str], jobs: int, graph: str = GRAPH) -> Scores:
    open_scorer(artifact)  # what is wrong with it is said here, not by a process of the pool
    Scorer(artifact, graph=graph)
    with get_context("forkserver").Pool(jobs, _open, (artifact, graph)) as pool:
        return np.array(pool.map(_score, texts, chunksize=64), np.float64).reshape(-1, 2)


_scorer: list[Scorer] = []  # of a process of the pool


def _open(artifact: Artifact, graph: str) -> None:
    _scorer[:] = [Scorer(artifact, graph=graph)]


def _score(text: str) -> tuple[float, float]:
    score = _scorer[0].score(text)
    return score.p, score.logit


def _leading(test: Test) -> list[tuple[str, str]]:
    """One arm of each method for the table of sources: at equal false positives where there is a model to equal."""
    arms = [(line.method, line.rule) for line in test.lines]
    wanted = (SHIPPED, MATCHED) if ("ULMFiT", SHIPPED) in arms else (BOUNDARY,)
    return [arm for arm in arms if arm[1] in wanted]


def _texts(rows: Sequence[Row]) -> list[str]:
    return [row.document.text for row in rows]


def _spam(rows: Sequence[Row]) -> Flags:
    return np.array([row.document.label == "spam" for row in rows], bool)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
