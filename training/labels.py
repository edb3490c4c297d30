"""Which labels are wrong: rows that a linear model, which saw none of their near-duplicates, contradicts most firmly.

    python -m training.labels --top 150

Disagreement is not error: the rows were read by eye, and `wrong_labels.csv` keeps those whose label is plainly wrong or
whose text says nothing. `examples` and `calibrate` learn from none of them; the protocols' tests keep them, as the
literature's do.
"""

from __future__ import annotations

import argparse
import csv
import functools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mailtagger.errors import MailtaggerError

if TYPE_CHECKING:  # who asks only for `wrong` needs no more
    from training.splits import Row

KEPT = Path(__file__).with_name("wrong_labels.csv")  # key, label, should_be (ham, spam, neither), reason
FOLDS = 5
SHOWN = 160  # characters of a row's text


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows that are contradicted most firmly and not known to be wrong, one of each near-duplicate group."""
    from training import prepare

    options = argparse.ArgumentParser(
        prog="python -m training.labels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, default=prepare.OUT, metavar="DIR", help="what training.prepare wrote")
    options.add_argument("--top", type=int, default=150, metavar="N", help="groups that are printed")
    options.add_argument("--shown", type=int, default=SHOWN, metavar="N", help="characters of each row's text")
    chosen = options.parse_args(arguments)
    known = wrong()
    rows = [row for row in prepare.load(chosen.data) if row.document.text.strip() and row.document.key not in known]
    print("\n".join(report(rows, margins(rows), chosen.top, chosen.shown)))


@functools.cache
def wrong() -> frozenset[str]:
    """Return the keys of the rows whose label is wrong, or whose text says nothing for any label."""
    with KEPT.open(newline="", encoding="utf-8") as file:
        return frozenset(row["key"] for row in csv.DictReader(file))


def sound(rows: Iterable[Row]) -> list[Row]:
    """Return the last row of each near-duplicate group, of those whose label is not known to be wrong."""
    left_out = wrong()
    return list({row.group: row for row in rows if row.document.key not in left_out}.values())


def margins(rows: Sequence[Row], folds: int = FOLDS) -> NDArray[np.float64]:
    """Return how firmly a model that saw nothing of its group is against each row's label; below 0 it is for it.

    It learns from one row of each group and label, with the weights that the classifier trains with.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import GroupKFold
    from sklearn.svm import LinearSVC

    from training.balance import balance

    texts = [row.document.text for row in rows]
    spam = np.array([row.document.label == "spam" for row in rows])
    first = {(row.group, row.document.label): i for i, row in reversed(list(enumerate(rows)))}
    weights = dict(zip(first.values(), balance([rows[i] for i in first.values()]), strict=True))
    against = np.zeros(len(rows))
    for seen, unseen in GroupKFold(folds).split(texts, spam, [row.group for row in rows]):
        kept = [i for i in seen if i in weights]
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, dtype=np.float32)
        model = LinearSVC(random_state=0)
        model.fit(words.fit_transform([texts[i] for i in kept]), spam[kept], [weights[i] for i in kept])
        scores = model.decision_function(words.transform([texts[i] for i in unseen]))
        against[unseen] = np.where(spam[unseen], -scores, scores)
    return against


def report(rows: Sequence[Row], against: NDArray[np.float64], top: int, shown: int = SHOWN) -> Iterator[str]:
    """Yield a line of counts, then two for each of the `top` groups that are contradicted most firmly."""
    yield f"{int((against > 0).sum())} of {len(rows)} rows are contradicted"
    alike = Counter((row.group, row.document.label) for row in rows)
    for i in np.argsort(-against, kind="stable"):
        document, group = rows[i].document, (rows[i].group, rows[i].document.label)
        if against[i] <= 0 or not top:
            return
        if count := alike.pop(group, 0):  # the first of its group
            top -= 1
            yield f"{against[i]:.2f} {document.label} {document.source} {document.key} ({count} alike)"
            yield f"     {document.text[:shown]}"


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
