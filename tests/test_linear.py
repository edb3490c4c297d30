"""The linear part: which terms it counts, that it learns, and that the graph computes the same."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.ulmfit import linear
from mailtagger.ulmfit.tokenizer import PAD

pytestmark = pytest.mark.train
WORDS = 50


def texts(seed: int, count: int = 200) -> tuple[list[list[int]], list[bool]]:
    """Random ids; spam has 7 and 8 in this order somewhere, ham has them the other way round."""
    draw = np.random.default_rng(seed)
    found, spam = [], []
    for i in range(count):
        ids = draw.integers(10, WORDS, int(draw.integers(3, 30))).tolist()
        at = int(draw.integers(0, len(ids)))
        ids[at:at] = [7, 8] if i % 2 else [8, 7]
        found.append(ids)
        spam.append(bool(i % 2))
    return found, spam


def test_terms_are_pieces_pairs_and_triples_each_once() -> None:
    """A repeated phrase counts once; order counts; the end of the text is part of its last pair and triple."""
    once, twice = linear.terms([5, 6], WORDS), linear.terms([5, 6, 5, 6], WORDS)
    assert once.tolist() == sorted(set(once.tolist())) and {5, 6} <= set(once.tolist())
    assert len(once) == 2 + 2 + 2
    assert set(linear.terms([5, 6, PAD], WORDS).tolist()) > set(once.tolist())
    assert set(twice.tolist()) & set(once.tolist()) == set(once.tolist())
    assert set(linear.terms([6, 5], WORDS).tolist()) != set(once.tolist())


def test_the_order_of_words_is_learned() -> None:
    """Where single pieces say nothing, pairs tell; what is learned holds on text that was not seen."""
    model = linear.fit(*texts(0), [1.0] * 200, WORDS)
    unseen, spam = texts(1)
    assert np.mean((model.logits(unseen) > 0) == spam) > 0.95


def test_terms_of_few_mails_do_not_count() -> None:
    """A term that stands in less than three mails has no weight, whatever it would tell."""
    found, spam = texts(0)
    found[1] = [*found[1], WORDS - 1 + 1]
    model = linear.fit(found, spam, [1.0] * 200, WORDS + 1)
    assert model.weight[WORDS] == 0 == model.length[WORDS]


def test_a_text_of_unknown_terms_gets_the_bias() -> None:
    """No term that counts: no division by nothing."""
    model = linear.fit(*texts(0), [1.0] * 200, WORDS + 5)
    assert model.logits([[WORDS + 1], []]) == pytest.approx([model.bias, model.bias])
