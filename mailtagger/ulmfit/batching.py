"""What a model reads at a time: windows of a stream for the language model, padded mails for the classifier."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mailtagger.ulmfit.tokenizer import END, PAD

Stream = NDArray[np.uint16]


def shuffled(stream: Stream, rng: np.random.Generator) -> Stream:
    """The documents of a stream, each closed by END, in another order; what follows the last END counts as one."""
    documents = np.split(stream, np.flatnonzero(stream == END) + 1)
    return np.concatenate([documents[i] for i in rng.permutation(len(documents))])


def rows(stream: Stream, batch: int) -> Tensor:
    """Return the stream as `batch` rows (batch, N), each going on where it ended in the batch before."""
    n = len(stream) // batch
    return torch.from_numpy(stream[: n * batch].astype(np.int64)).view(batch, n)


def windows(n: int, bptt: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yield (start, length) with AWD-LSTM's variable BPTT (§5.1): mean `bptt`, halved one time in twenty. A window's
    targets lie one further, so that together they are all of the row but its first piece."""
    at = 0
    while at < n - 1:
        mean = bptt if rng.random() < 0.95 else bptt / 2
        length = min(max(5, int(rng.normal(mean, 5))), n - 1 - at)
        yield at, length
        at += length


def batches(lengths: Sequence[int], tokens: int, rng: np.random.Generator | None) -> list[list[int]]:
    """Return indices in batches of about `tokens` padded tokens, rows of like length together; shuffled with `rng`."""
    noise = rng.uniform(0.9, 1.1, len(lengths)) if rng is not None else np.ones(len(lengths))
    order = np.argsort(np.asarray(lengths) * noise, kind="stable")
    found: list[list[int]] = [[]]
    longest = 0
    for i in order:
        if found[-1] and (len(found[-1]) + 1) * max(lengths[i], longest) > tokens:
            found.append([])
            longest = 0
        found[-1].append(int(i))
        longest = max(longest, lengths[i])
    if rng is not None:
        rng.shuffle(found)
    return found


def padded(documents: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return (ids (B, T) padded on the right, lengths (B,))."""
    lengths = torch.tensor([len(d) for d in documents])
    ids = torch.full((len(documents), int(lengths.max())), PAD)
    for i, document in enumerate(documents):
        ids[i, : len(document)] = torch.tensor(document)
    return ids, lengths
