"""decide: three bands, and who has the last word."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtagger.decide import FAMILIAR, UNFAMILIAR, Policy, decide

POLICY = Policy(ham_cutoff=0.2, spam_cutoff=0.9)
RANK = {"ham": 0, "unsure": 1, "spam": 2}

shares = st.floats(0, 1)
policies = st.tuples(shares, shares).map(lambda pair: Policy(min(pair), max(pair)))


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0.0, "ham"), (0.1999, "ham"), (0.2, "unsure"), (0.8999, "unsure"), (0.9, "spam"), (1.0, "spam")],
)
def test_a_cutoff_belongs_to_the_band_above_it(score: float, verdict: str) -> None:
    """ham < ham_cutoff ≤ unsure < spam_cutoff ≤ spam, to the last digit."""
    decision = decide(score, POLICY)
    assert (decision.verdict, decision.decided_by, decision.score) == (verdict, "model", score)


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf, -0.01, 1.01])
def test_without_a_score_it_is_unsure(score: float | None) -> None:
    """An empty message, and a score that is none, are unsure and have no score."""
    decision = decide(score, POLICY, notes=["no text"])
    assert (decision.verdict, decision.score, decision.notes) == ("unsure", None, ("no text",))


def test_equal_cutoffs_leave_no_band_between() -> None:
    """With both cutoffs the same, nothing is unsure."""
    policy = Policy(0.5, 0.5)
    assert [decide(score, policy).verdict for score in (0.4999, 0.5)] == ["ham", "spam"]


@given(shares, policies)
def test_unfamiliar_text_is_never_spam(score: float, policy: Policy) -> None:
    """Where the model knows few of the words, it is at most unsure, and the decision says so."""
    decision = decide(score, policy, familiar=FAMILIAR - 0.01)
    assert decision.verdict != "spam"
    assert UNFAMILIAR in decision.notes
    assert decide(score, policy, familiar=FAMILIAR).notes == ()


def test_the_note_on_unfamiliar_text_is_said_once() -> None:
    """Deciding again, with the notes of the first time, adds nothing."""
    first = decide(0.95, POLICY, familiar=0.0, notes=["cut to 1 MB"])
    assert decide(0.95, POLICY, familiar=0.0, notes=first.notes) == first


@given(st.none() | st.floats(), policies, shares)
def test_the_user_has_the_last_word(score: float | None, policy: Policy, familiar: float) -> None:
    """A rescued message is ham whatever the model says of it."""
    decision = decide(score, policy, familiar, word="ham")
    assert (decision.verdict, decision.decided_by) == ("ham", "user")


@given(shares, shares, policies, shares)
def test_a_higher_score_is_never_less_spam(one: float, other: float, policy: Policy, familiar: float) -> None:
    """The verdict rises with the score."""
    low, high = (decide(score, policy, familiar).verdict for score in sorted((one, other)))
    assert RANK[low] <= RANK[high]


@pytest.mark.parametrize("cutoffs", [(0.9, 0.2), (-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5), (0.5, math.nan)])
def test_cutoffs_out_of_order_are_no_policy(cutoffs: tuple[float, float]) -> None:
    """A policy under which a message could be ham and spam at once cannot be made."""
    with pytest.raises(ValueError, match="out of order"):
        Policy(*cutoffs)
