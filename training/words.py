"""Words of ham and of spam: in how many mails each stands, and which speak most for one or the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from training.splits import Row

RARE = 5  # mails that a word must stand in, where there are mails enough
PRIOR = 10_000  # words that the prior counts as: a word must be seen often before it may stand out
DULL = ENGLISH_STOP_WORDS | {"com", "net", "org", "www", "don"}  # ends of hosts, and what marks leave of "don't"

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Words:
    """In how many mails of either class each word stands; of near-duplicates one counts."""

    words: tuple[str, ...]
    ham: Counts
    spam: Counts

    def common(self, label: str, limit: int) -> dict[str, int]:
        """The commonest words of a class that say something: no function words, numbers or tokens of our own."""
        counts = self.spam if label == "spam" else self.ham
        best = ((self.words[i], int(counts[i])) for i in np.argsort(-counts, kind="stable") if counts[i])
        said = ((word, count) for word, count in best if _says_something(word))
        return dict(found for found, _ in zip(said, range(limit), strict=False))

    def telling(self, label: str, limit: int) -> list[tuple[str, float]]:
        """The words that speak most for a class, with their z-scores, all above 0."""
        z = log_odds(self.ham, self.spam) * (1 if label == "spam" else -1)
        return [(self.words[i], float(z[i])) for i in np.argsort(-z, kind="stable")[:limit] if z[i] > 0]


def count(rows: Sequence[Row]) -> Words:
    """The words of one mail of each near-duplicate group; a mail counts a word once, however often it repeats it."""
    found = list({(row.group, row.document.label): row.document for row in rows if row.document.text.strip()}.values())
    if not found:
        return Words((), np.zeros(0), np.zeros(0))
    rare = RARE if len(found) > 100 * RARE else 1
    counter = CountVectorizer(tokenizer=str.split, token_pattern=None, lowercase=False, binary=True, min_df=rare)
    table = counter.fit_transform([document.text for document in found])
    spam = np.array([document.is_spam for document in found])
    ham_counts, spam_counts = (np.asarray(table[of].sum(axis=0), float).ravel() for of in (~spam, spam))
    return Words(tuple(counter.get_feature_names_out()), ham_counts, spam_counts)


def log_odds(ham: Counts, spam: Counts, prior: float = PRIOR) -> Counts:
    """Z-scores of the log-odds ratio with an informative Dirichlet prior (Monroe et al. 2008, eq. 16 and 22):
    above 0 for words of spam. The prior is what both classes have together, and counts as `prior` words."""
    alpha = prior * (ham + spam) / (ham + spam).sum()

    def odds(counts: Counts) -> Counts:
        return np.log((counts + alpha) / (counts.sum() + prior - counts - alpha))

    return (odds(spam) - odds(ham)) / np.sqrt(1 / (spam + alpha) + 1 / (ham + alpha))


def _says_something(word: str) -> bool:
    return word.isalpha() and len(word) > 2 and not word.startswith("xx") and word not in DULL
