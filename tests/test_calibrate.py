"""The rule that chooses cutoffs, and that no mail has a say in those it is judged by."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.errors import MailtaggerError
from training import calibrate
from training.calibrate import (
    FEW,
    HAM_CALLED_SPAM,
    HAM_OF_A_KIND,
    SPAM_CALLED_HAM,
    Rule,
    above,
    choose,
    cutoffs,
    nested,
)
from training.corpora import Document
from training.splits import FOLDS, Row, source_folds, split

DRAW = np.random.default_rng(0)
COUNT = 4000
SPAM = DRAW.random(COUNT) < 0.5
LSTM = DRAW.normal(np.where(SPAM, 2.0, -2.0), 1.5)
LINEAR = DRAW.normal(np.where(SPAM, 1.0, -1.0), 1.0)
WEIGHTS = DRAW.uniform(0.5, 2, COUNT)
KINDS = np.where(DRAW.random(COUNT) < 0.1, "rare", "usual")


def test_above_reaches_no_more_than_its_share() -> None:
    """By weight, ties included; a share of nothing lies above every score."""
    scores, weights = np.array([4.0, 3.0, 3.0, 1.0]), np.array([1.0, 1.0, 1.0, 7.0])
    assert [(scores >= above(scores, weights, share)).sum() for share in (0, 0.1, 0.2, 0.3)] == [0, 1, 1, 3]


def test_cutoffs_keep_their_promises() -> None:
    """Of balanced ham at most 0.2 % is called spam, of any kind at most 3 %, of balanced spam at most 2 % ham."""
    scores = LSTM + LINEAR
    scores = np.where(~SPAM & (KINDS == "rare"), scores + 3, scores)  # a kind of ham that looks like spam
    ham_cutoff, spam_cutoff = cutoffs(scores, SPAM, WEIGHTS, KINDS)
    called = scores >= spam_cutoff
    assert WEIGHTS[called & ~SPAM].sum() <= HAM_CALLED_SPAM * WEIGHTS[~SPAM].sum()
    assert called[~SPAM & (KINDS == "rare")].mean() <= HAM_OF_A_KIND
    assert (~SPAM & (KINDS == "rare")).sum() >= FEW
    missed = WEIGHTS[SPAM & (scores < ham_cutoff)].sum() / WEIGHTS[SPAM].sum()
    assert SPAM_CALLED_HAM - 0.002 < missed <= SPAM_CALLED_HAM


def test_both_parts_are_weighed_and_calibrated() -> None:
    """Of what P(spam) puts at a tenth, a tenth is spam; both parts have their share; cutoffs lie in order."""
    rule = choose(LSTM, LINEAR, SPAM, WEIGHTS, KINDS)
    p = rule.probability(LSTM, LINEAR)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        here = (p >= low) & (p < low + 0.2)
        assert np.average(SPAM[here], weights=WEIGHTS[here]) == pytest.approx(np.average(p[here]), abs=0.08)
    assert 0.3 < rule.mix < 3
    assert 0 < rule.ham_cutoff <= 0.5 <= rule.spam_cutoff < 1


def test_a_part_that_says_nothing_gets_no_share() -> None:
    """A linear part that is turned round is left out, not turned back."""
    assert choose(LSTM, -LINEAR, SPAM, WEIGHTS, KINDS).mix == 0


def test_a_fold_has_no_say_in_its_own_cutoffs() -> None:
    """Other scores in a fold change the other folds' cutoffs, and not its own."""
    folds = np.arange(COUNT) % 5 + 1.0
    _, before = nested(LSTM, LINEAR, {}, SPAM, WEIGHTS, KINDS, folds)
    moved = np.where((folds == 1) & ~SPAM, LSTM + 3, LSTM)
    _, after = nested(moved, LINEAR, {}, SPAM, WEIGHTS, KINDS, folds)
    assert np.array_equal(before[0].spam_cutoff[folds == 1], after[0].spam_cutoff[folds == 1])
    assert not np.array_equal(before[0].spam_cutoff[folds == 2], after[0].spam_cutoff[folds == 2])


def rows() -> list[Row]:
    """Two mailboxes, SpamAssassin's two sources, and three projects that each sent mail of two kinds."""
    sources = {
        **{f"enron/{i}": "ham" for i in (1, 2)},
        **{"spamassassin/easy": "ham", "spamassassin/spam": "spam"},
        **{f"modern/{kind}/{project}": "ham" for kind in ("receipt", "account") for project in "abc"},
    }
    return [
        Row(Document("c", source, f"{source}/{i}", label, f"text {i}"), f"{source}/{i // 2}", "train")  # type: ignore[arg-type]
        for source, label in sources.items()
        for i in range(6)
    ]


def test_what_one_hand_made_stays_in_one_fold() -> None:
    """A project's templates of every kind, and all of SpamAssassin, are left out together; all mail is tested once."""
    found = rows()
    folds = source_folds(found)
    assert folds["spamassassin/easy"] == folds["spamassassin/spam"]
    assert all(folds[f"modern/receipt/{project}"] == folds[f"modern/account/{project}"] for project in "abc")
    assert len({folds[f"modern/receipt/{project}"] for project in "abc"}) == 3
    splits = [split(f"cross:{fold}", found) for fold in FOLDS]
    tested = [row.group for one in splits for row in one.test]
    assert sorted(tested) == sorted({row.group for row in found})
    for one in splits:
        assert not {row.document.source for row in one.test} & {row.document.source for row in one.train}


def test_all_five_folds_are_needed(tmp_path: Path) -> None:
    """Models of other protocols, or not of each fold, are refused, with those that are needed."""
    from tests.test_evaluate import model

    with pytest.raises(MailtaggerError, match="cross:1, cross:2"):
        calibrate.main(["--model", str(model(tmp_path / "m", "cross:1"))])


def test_the_rule_prints_itself() -> None:
    """σ(a·(lstm + mix·linear) + b)."""
    rule = Rule(0.5, 2.0, -1.0, 0.1, 0.9)
    assert rule.probability(np.array([1.0]), np.array([1.0]))[0] == pytest.approx(1 / (1 + np.exp(-2)))
