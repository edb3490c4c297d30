"""How well cleaned ham gives its corpus away: the nearer to chance, the less can a model take the corpus for the label.

    python -m training.probe [--label spam]

Words tell the topic, which no cleaning takes away; so a second probe sees marks only: punctuation, numbers, tokens of
our own (xx…) and the commonest words of the language. What *it* finds is the work of cleaning, or of the collectors.
"""

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from mailtagger.errors import MailtaggerError
from training import prepare
from training.splits import Row

SAMPLE = 1500  # of a corpus
OF_SOURCE = 0.1  # of a corpus' sample at most, where it has sources enough
TOKENS = 15
COMMON = "the a an of to in on for and or is are was be it this that i you we your with from by at as if not"


@dataclass(frozen=True)
class Found:
    """What a probe found."""

    accuracy: float
    corpora: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows: truth
    telling: dict[str, tuple[str, ...]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, default=prepare.OUT, metavar="DIR", help="what training.prepare wrote")
    options.add_argument("--label", choices=("ham", "spam"), default="ham")
    chosen = options.parse_args(arguments)
    rows = sample([row for row in prepare.load(chosen.data) if row.document.label == chosen.label])
    for name, marks_only in (("all tokens", False), ("marks only", True)):
        found = probe(rows, marks_only)
        print(f"{name}: {found.accuracy:.1%} of {len(rows)} {chosen.label}, chance {1 / len(found.corpora):.1%}")
        for corpus, counts in zip(found.corpora, found.confusion, strict=True):
            guessed = ", ".join(f"{other} {count}" for other, count in zip(found.corpora, counts, strict=True))
            print(f"  {corpus:13} taken for: {guessed}\n  {'':13} {'  '.join(found.telling[corpus])}")


def sample(rows: Iterable[Row], size: int = SAMPLE) -> list[Row]:
    """As many rows of each corpus, none a near-duplicate of another, and of no source more than its share."""
    draw = random.Random(0)
    corpora: dict[str, list[Row]] = defaultdict(list)
    sources: dict[str, int] = defaultdict(int)
    seen: set[str] = set()
    for row in draw.sample(found := list(rows), len(found)):
        source = row.document.source
        share = OF_SOURCE * size if row.document.family == "modern" else size
        if row.document.text.strip() and row.group not in seen and sources[source] < share:
            seen.add(row.group)
            sources[source] += 1
            corpora[row.document.corpus].append(row)
    smallest = min([size, *map(len, corpora.values())])
    return [row for rows in corpora.values() for row in rows[:smallest]]


def probe(rows: Sequence[Row], marks_only: bool = False, folds: int = 5) -> Found:
    """A linear classifier's guesses at the corpus, cross-validated, and the tokens that speak most for each, by being
    there or (no:…) by being rare."""
    texts, truth = [row.document.text for row in rows], np.array([row.document.corpus for row in rows])
    tokens = _marks if marks_only else str.split
    words = TfidfVectorizer(tokenizer=tokens, token_pattern=None, lowercase=False, min_df=10)
    model = make_pipeline(words, LinearSVC(random_state=0))
    groups = [row.group for row in rows]
    guessed = cross_val_predict(model, texts, truth, groups=groups, cv=GroupKFold(folds))
    model.fit(texts, truth)
    names, weights = words.get_feature_names_out(), model[-1].coef_
    corpora = tuple(map(str, model.classes_))
    if len(corpora) == 2:
        weights = np.vstack([-weights, weights])
    counted = words.transform(texts)
    usual = np.asarray(counted.mean(axis=0)).ravel()
    telling = {}
    for corpus, row in zip(corpora, weights, strict=True):
        here = np.asarray(counted[truth == corpus].mean(axis=0)).ravel()
        speaks = np.argsort(-row * (here - usual))[:TOKENS]
        telling[corpus] = tuple(str(names[i]) if row[i] > 0 else f"no:{names[i]}" for i in speaks)
    confusion = tuple(tuple(map(int, row)) for row in confusion_matrix(truth, guessed, labels=corpora))
    return Found(float((guessed == truth).mean()), corpora, confusion, telling)


def _marks(text: str) -> list[str]:
    common = COMMON.split()
    return [token for token in text.split() if token in common or token.startswith("xx") or not token.isalpha()]


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
