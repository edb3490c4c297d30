"""Augmented texts: in the normal form of `clean`, told by the same marks, and different where they should be."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailtagger.clean import TEXT_RULES, clean, clean_text, spaced_letters
from mailtagger.parse import Mail
from mailtagger.ulmfit.tokenizer import DISGUISES, LINKS, STRUCTURE
from training import augment
from training.augment import TRICKS, disguised, padded, varied

SPAM = clean(
    Mail("Cheap viagra", "Order your pills online at http://pills.example today, free shipping!", mismatch=True)
)
RECEIPT = clean_text(
    "Order 20417 shipped",
    "Hello Anna Smith, thank you for your order from Brown Hicks. 2 oak dining chair, $ 249.90. "
    "I have attached the corrected figures please have a look before Thursday. Anna Smith will sign. "
    "See https://my.brown-hicks.io/orders/20417. The Brown Hicks team",
)

WRITTEN = [
    *"hello dear anna smith you the order viagra oak dining chair ! ? $ 12.50 2026 v.i.a.g.r.a a b c".split(),
    *"http://my.shop-x.com/a, cases\u200band\u200bmore paypаl joe@example.org !!! a1b2c3d4e5f6 Straße 東京 — .".split(),
    "abcdefghijklmnopqrstuvwxyzabcdefgh",
]
texts = st.builds(
    clean_text,
    st.sampled_from(["hi", "Re: Your order", "Dear Anna Smith"]),
    st.lists(st.sampled_from(WRITTEN), max_size=60).map(" ".join),
)
facts = st.sampled_from(["", " xxlinkown", " xxattach pdf xxreplyto xxlinkelse"])
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def body(text: str) -> str:
    """The text without the marks at its end, which `clean` adds for what the words no longer show."""
    words = text.split()
    while words:
        if words[-2:-1] == ["xxattach"]:
            del words[-2:]
        elif words[-1] in (*DISGUISES, *STRUCTURE):
            del words[-1]
        else:
            break
    return " ".join(words)


@settings(max_examples=300, deadline=None)
@given(texts, facts, texts, seeds)
def test_the_normal_form_is_kept(text: str, told: str, other: str, rng: np.random.Generator) -> None:
    """The rules of cleaning change nothing more in what comes out; letters that clean left apart stay apart."""
    for made in (disguised(text + told, rng), padded(text + told, other, rng), varied(text + told, rng)):
        for rule in TEXT_RULES:
            if rule is not spaced_letters:
                assert rule(body(made)) == body(made)


@settings(max_examples=100, deadline=None)
@given(texts, facts, texts, seeds)
def test_marks_that_were_there_stay(text: str, told: str, other: str, rng: np.random.Generator) -> None:
    """What cleaning found out about a mail is still told once, at the end, after disguise and padding."""
    for made in (disguised(text + told, rng), padded(text + told, other, rng)):
        assert made.endswith(told)
        before, after = (one.removesuffix(told).split()[len(body(one).split()) :] for one in (text + told, made))
        assert set(before) <= set(after) and sorted(set(after), key=DISGUISES.index) == after


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.__name__)
def test_each_trick_hides_a_word(trick: Callable[[str, np.random.Generator], str]) -> None:
    """A trick changes how a word is written, nearly always."""
    changed = [trick("viagra", np.random.default_rng(seed)) != "viagra" for seed in range(40)]
    assert sum(changed) > 30


def test_disguises_are_told() -> None:
    """Over many draws each mark of a disguise comes up, and words that no rule can restore are left broken."""
    made = [disguised(SPAM, np.random.default_rng(seed)) for seed in range(200)]
    for mark in DISGUISES:
        assert any(mark in text.split() for text in made)
    assert any(body(text) != body(SPAM) for text in made)
    assert any(body(text) == body(SPAM) and text != SPAM for text in made)  # hidden, found out and restored
    assert all(text.endswith(" xxmismatch") for text in made)


def test_padding_adds_words_of_the_other() -> None:
    """The text is whole, with at most 150 words of the other on one side and none of its marks."""
    other = " ".join(f"w{chr(97 + i % 26)}{chr(97 + i // 26)}x" for i in range(300)) + " xxzero xxcaps"
    made = [padded(SPAM, other, np.random.default_rng(seed)) for seed in range(40)]
    assert all(body(SPAM) in text and "xxcaps" not in text and "xxzero" not in text for text in made)
    added = [len(text.split()) - len(SPAM.split()) for text in made]
    assert 20 <= min(added) < 60 < 110 < max(added) <= 150
    below = sum(text.startswith(body(SPAM)) for text in made)
    assert 20 < below < 40
    assert padded(SPAM, "", np.random.default_rng(0)) == SPAM


def test_template_mail_is_sent_by_others_to_others() -> None:
    """No draw repeats another; firm, host, receiver, goods and remarks of the corpora are gone from every one."""
    made = [varied(RECEIPT, np.random.default_rng(seed)) for seed in range(50)]
    assert len(set(made)) == 50
    for text in made:
        assert "brown hicks" not in text and "anna smith" not in text and "oak dining chair" not in text
        assert "corrected figures" not in text
        assert "thank you for your order from" in text and "xxurl" in text and "$ xxn" in text
    assert any("xxreplyto" in text for text in made) and any("xxreplyto" not in text for text in made)
    sent = [varied(f"{RECEIPT} xxlinkown", np.random.default_rng(seed)) for seed in range(50)]
    assert all(sum(fact in text.split() for fact in LINKS) == 1 for text in sent)
    assert len({text.split()[-1] for text in sent if text.split()[-1] in LINKS}) == 3


def test_words_are_in_the_normal_form() -> None:
    """Nothing from the lists would be cleaned away."""
    for name, entries in augment.WORDS.items():
        for entry in entries:
            assert entry == "{}" or clean_text("", entry.format("x")) == entry.format("x"), (name, entry)
