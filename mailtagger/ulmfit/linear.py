"""A logistic regression on which pieces, pairs and triples of pieces a mail holds: the part of the classifier that
keeps single telling words, which the LSTM's pooling forgets, and that learns from few examples.

Binary TF-IDF with unit length, less for texts of few terms; pairs and triples hashed (Weinberger et al. 2009, arXiv
0902.2206). The same arithmetic stands in the ONNX graph (`export`), on the same ids that the LSTM reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from mailtagger.ulmfit.tokenizer import PAD

Floats = NDArray[np.float32]

LINEAR = "linear."  # what its tensors are called in an artifact
BOUND = 6.0  # what the LSTM may say at most beside a linear part: alone it is too sure of foreign mail
BUCKETS = 1 << 17  # for pairs and triples, behind one for each piece
PAIR = (31_337, 8_191)
TRIPLE = (65_537, 257_371, 131)
LEAST = 3  # mails that a term stands in, to count
SHORT = 32.0  # Euclidean length of TF-IDF, that of about 20 terms: who says less than this is not raised to unit length


@dataclass(frozen=True)
class Linear:
    """Weights by term: logit = Σ weight / √Σ length + bias, each sum over the terms that a mail holds."""

    weight: Floats  # (vocabulary + BUCKETS,): coefficient times idf
    length: Floats  # (vocabulary + BUCKETS,): idf², idf in units of SHORT; 0 for terms that do not count
    bias: float

    def logits(self, documents: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """The logit of each document's ids."""
        vocabulary = len(self.weight) - BUCKETS
        found = [terms(ids, vocabulary) for ids in documents]
        sums = np.array([(self.weight[t].sum(), self.length[t].sum()) for t in found], np.float64).reshape(-1, 2)
        return sums[:, 0] / np.sqrt(np.maximum(sums[:, 1], 1)) + self.bias


def bounded(lstm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The LSTM's logits as they enter the sum with the linear part's: BOUND · tanh(z / BOUND)."""
    return BOUND * np.tanh(lstm / BOUND)


def terms(ids: Sequence[int], vocabulary: int) -> NDArray[np.int64]:
    """The terms that stand in a document, each once: pieces, then hashed pairs and triples; PAD follows the last."""
    x = np.array([*ids, PAD, PAD], np.int64)
    a, b, c = x[:-2], x[1:-1], x[2:]
    pairs = vocabulary + (PAIR[0] * a + PAIR[1] * b) % BUCKETS
    triples = vocabulary + (TRIPLE[0] * a + TRIPLE[1] * b + TRIPLE[2] * c) % BUCKETS
    return np.unique(np.concatenate([a, pairs, triples]))


def fit(
    documents: Sequence[Sequence[int]],
    spam: Sequence[bool],
    weights: Sequence[float],
    vocabulary: int,
    strength: float = 10.0,
) -> Linear:
    """The model of these documents; `strength` is the inverse of the L2 penalty."""
    found = [terms(ids, vocabulary) for ids in documents]
    columns = np.concatenate(found)
    ends = np.cumsum([0, *map(len, found)])
    size = vocabulary + BUCKETS
    counts = np.bincount(columns, minlength=size)
    idf = np.where(counts >= LEAST, np.log((1 + len(found)) / (1 + counts)) + 1, 0) / SHORT
    values = idf[columns]
    mails = np.repeat(np.arange(len(found)), np.diff(ends))
    values /= np.sqrt(np.maximum(np.bincount(mails, values**2, len(found)), 1))[mails]
    matrix = csr_matrix((values, columns, ends), (len(found), size))
    model = LogisticRegression(C=strength, max_iter=300)
    model.fit(matrix, np.asarray(spam), sample_weight=np.asarray(weights))
    return Linear((model.coef_[0] * idf).astype(np.float32), (idf**2).astype(np.float32), float(model.intercept_[0]))
