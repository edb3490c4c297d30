"""What is read at a time: text keeps its order over batches, epochs their documents, padding its silence."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")

from mailtagger.ulmfit.batching import batches, padded, rows, shuffled, windows  # noqa: E402
from mailtagger.ulmfit.model import Classifier, Dropouts, Sizes  # noqa: E402
from mailtagger.ulmfit.tokenizer import END  # noqa: E402

pytestmark = pytest.mark.train
MAIL = st.lists(st.integers(4, 49), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(st.lists(MAIL, min_size=1, max_size=30), st.integers(1, 4), st.integers(5, 30), st.integers(0, 9))
def test_the_windows_of_an_epoch_are_its_stream(mails: list[list[int]], batch: int, bptt: int, seed: int) -> None:
    """The stream can be rebuilt from what the batches held: each row goes on where it ended, nothing is read twice or
    left out but less than a row at the end, and each piece's target is the one behind it."""
    stream = np.concatenate([np.array([*mail, END], np.uint16) for mail in mails])
    data = rows(stream, batch)
    if data.shape[1] < 2:
        return
    read = [[] for _ in range(batch)]
    targets = [[] for _ in range(batch)]
    for at, length in windows(data.shape[1], bptt, np.random.default_rng(seed)):
        for i in range(batch):
            read[i] += data[i, at : at + length].tolist()
            targets[i] += data[i, at + 1 : at + length + 1].tolist()
    rebuilt = [row + target[-1:] for row, target in zip(read, targets, strict=True)]
    assert [piece for row in rebuilt for piece in row] == stream[: data.numel()].tolist()
    assert len(stream) - data.numel() < batch
    assert [target[:-1] for target in targets] == [row[1:] for row in read]


@settings(max_examples=40, deadline=None)
@given(st.lists(MAIL, min_size=1, max_size=20), st.booleans(), st.integers(0, 9))
def test_an_epoch_shuffles_documents_and_keeps_each_whole(mails: list[list[int]], closed: bool, seed: int) -> None:
    """The same documents in another order, each with its own pieces in their order; a cut-off end is one, too."""
    stream = np.array([piece for mail in mails for piece in (*mail, END)], np.uint16)[: None if closed else -1]

    def documents(found: np.ndarray) -> list[tuple[int, ...]]:
        parts = "".join(map(chr, found)).split(chr(END))
        return sorted(tuple(map(ord, part)) for part in parts if part)

    mixed = shuffled(stream, np.random.default_rng(seed))
    assert len(mixed) == len(stream)
    if closed:
        assert documents(mixed) == documents(stream) == sorted(map(tuple, mails))


def test_epochs_differ() -> None:
    """Another epoch reads in another order, and the same one always in the same."""
    stream = np.array([piece for i in range(4, 40) for piece in (i, i, END)], np.uint16)
    orders = [shuffled(stream, np.random.default_rng((0, epoch))).tolist() for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_windows_vary_in_length() -> None:
    """Most are about the mean, one in twenty about half of it; none is empty."""
    lengths = [length for _, length in windows(60_000, 70, np.random.default_rng(0))]
    short = [length for length in lengths if length < 52]
    assert 0.02 < len(short) / len(lengths) < 0.09
    assert 66 < np.mean(lengths) < 71
    assert min(lengths[:-1]) >= 5
    ends = np.cumsum([0, *lengths])
    assert ends[-1] == 59_999 and all(a < b for a, b in pairwise(ends))


@settings(max_examples=25, deadline=None)
@given(st.lists(MAIL, min_size=1, max_size=12), st.sampled_from(("concat", "last", "mean")), st.integers(0, 40))
def test_a_padded_batch_gives_what_single_rows_give(mails: list[list[int]], pooling: str, window: int) -> None:
    """Whatever the lengths, the pooling and the windows that are read at a time, padding is never read."""
    torch.manual_seed(0)
    model = Classifier(Sizes(50, 8, 12, 2), Dropouts(), pooling, window).eval()
    with torch.no_grad():
        alone = torch.cat([model(*padded([mail])) for mail in mails])
        together = model(*padded(mails))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=80), st.integers(1, 2000), st.booleans())
def test_batches_hold_every_document_once(lengths: list[int], tokens: int, training: bool) -> None:
    """None lost, none doubled, none but single documents over the size, rows of like length together."""
    found = batches(lengths, tokens, np.random.default_rng(0) if training else None)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens for batch in found)
