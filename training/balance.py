"""How much each mail counts: kinds of mail by the root of their number, ham and spam alike in sum."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from training.splits import Row


def kind(row: Row) -> str:
    """Return what rows are balanced by: the corpus, and for modern mail the kind."""
    family, _, rest = row.document.source.partition("/")
    return f"{family}/{rest.partition('/')[0]}" if family in ("modern", "spamassassin") else family


def balance(rows: Sequence[Row], of: Callable[[Row], str] = kind) -> list[float]:
    """Return a weight for each row: kinds by the root of their count, ham and spam alike in sum, mean 1."""
    counts = Counter((row.document.label, of(row)) for row in rows)
    weights = np.array([counts[row.document.label, of(row)] ** -0.5 for row in rows])
    spam = np.array([row.document.label == "spam" for row in rows])
    weights[spam] /= weights[spam].sum()
    weights[~spam] /= weights[~spam].sum()
    return list((weights * len(rows) / 2).astype(float))
