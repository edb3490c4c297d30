"""The rule that chooses cutoffs, and that no mail has a say in those it is judged by."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger import artifact
from mailtagger.errors import MailtaggerError
from tests.test_evaluate import model
from tests.tiny_model import HAM, SPAM
from training import calibrate, prepare
from training.calibrate import (
    FEW,
    HAM_CALLED_SPAM,
    HAM_OF_A_KIND,
    SPAM_CALLED_HAM,
    Rule,
    choose,
    cutoffs,
    nested,
)
from training.corpora import Document
from training.figures import threshold_for
from training.splits import FOLDS, Row, source_folds, split

DRAW = np.random.default_rng(0)
COUNT = 4000
TRUTH = DRAW.random(COUNT) < 0.5
LSTM = DRAW.normal(np.where(TRUTH, 2.0, -2.0), 1.5)
LINEAR = DRAW.normal(np.where(TRUTH, 1.0, -1.0), 1.0)
WEIGHTS = DRAW.uniform(0.5, 2, COUNT)
KINDS = np.where(DRAW.random(COUNT) < 0.1, "rare", "usual")


def test_above_reaches_no_more_than_its_share() -> None:
    """By weight, ties included; a share of nothing lies above every score."""
    scores, weights = np.array([4.0, 3.0, 3.0, 1.0]), np.array([1.0, 1.0, 1.0, 7.0])
    assert [(scores >= threshold_for(share, scores, weights)).sum() for share in (0, 0.1, 0.2, 0.3)] == [0, 1, 1, 3]


def test_cutoffs_keep_their_promises() -> None:
    """Of balanced ham at most 0.2 % is called spam, of any kind at most 3 %, of balanced spam at most 2 % ham."""
    scores = LSTM + LINEAR
    scores = np.where(~TRUTH & (KINDS == "rare"), scores + 3, scores)  # a kind of ham that looks like spam
    ham_cutoff, spam_cutoff = cutoffs(scores, TRUTH, WEIGHTS, KINDS)
    called = scores >= spam_cutoff
    assert WEIGHTS[called & ~TRUTH].sum() <= HAM_CALLED_SPAM * WEIGHTS[~TRUTH].sum()
    assert called[~TRUTH & (KINDS == "rare")].mean() <= HAM_OF_A_KIND
    assert (~TRUTH & (KINDS == "rare")).sum() >= FEW
    missed = WEIGHTS[TRUTH & (scores < ham_cutoff)].sum() / WEIGHTS[TRUTH].sum()
    assert SPAM_CALLED_HAM - 0.002 < missed <= SPAM_CALLED_HAM


def test_both_parts_are_weighed_and_calibrated() -> None:
    """Of what P(spam) puts at a tenth, a tenth is spam; both parts have their share; cutoffs lie in order."""
    rule = choose(LSTM, LINEAR, TRUTH, WEIGHTS, KINDS)
    p = rule.probability(LSTM, LINEAR)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        here = (p >= low) & (p < low + 0.2)
        assert np.average(TRUTH[here], weights=WEIGHTS[here]) == pytest.approx(np.average(p[here]), abs=0.08)
    assert 0.3 < rule.mix < 3
    assert 0 < rule.ham_cutoff <= 0.5 <= rule.spam_cutoff < 1


def test_what_the_model_cannot_read_has_no_say_in_the_cutoffs() -> None:
    """The daemon calls it unsure at most, so that it is no false positive, nor is spam of the kind caught."""
    known = np.where(~TRUTH & (LSTM + LINEAR > 2), 0.2, 0.9)
    spam_cutoff = choose(LSTM, LINEAR, TRUTH, WEIGHTS, KINDS, known).spam_cutoff
    assert spam_cutoff < choose(LSTM, LINEAR, TRUTH, WEIGHTS, KINDS).spam_cutoff - 0.02
    folds = np.arange(COUNT) % 5
    for told, sure in ((known, ~TRUTH), (np.where(TRUTH, 0.2, 0.9), TRUTH)):
        p, bands = nested(LSTM, LINEAR, {}, TRUTH, WEIGHTS, KINDS, folds, told)
        assert not bands[0].called_spam[told < 0.5].any() and (p[sure] > 0.9).any()


def test_a_part_that_says_nothing_gets_no_share() -> None:
    """A linear part that is turned round is left out, not turned back."""
    rule = choose(LSTM, 8 - 3 * LINEAR, TRUTH, WEIGHTS, KINDS)
    assert rule.mix == 0
    p = rule.probability(LSTM, LINEAR)
    assert np.average(p, weights=WEIGHTS) == pytest.approx(np.average(TRUTH, weights=WEIGHTS), abs=0.01)


def test_a_fold_has_no_say_in_its_own_cutoffs() -> None:
    """Other scores in a fold change the other folds' cutoffs, and not its own."""
    folds = np.arange(COUNT) % 5 + 1.0
    _, before = nested(LSTM, LINEAR, {}, TRUTH, WEIGHTS, KINDS, folds)
    moved = np.where((folds == 1) & ~TRUTH, LSTM + 3, LSTM)
    _, after = nested(moved, LINEAR, {}, TRUTH, WEIGHTS, KINDS, folds)
    assert np.array_equal(before[0].spam_cutoff[folds == 1], after[0].spam_cutoff[folds == 1])
    assert not np.array_equal(before[0].spam_cutoff[folds == 2], after[0].spam_cutoff[folds == 2])


def rows() -> list[Row]:
    """Two mailboxes, SpamAssassin's two sources, and three projects that each sent mail of two kinds."""
    sources = {
        **{f"enron/{i}": "ham" for i in (1, 2)},
        **{f"spamassassin/easy/{name}.example": "ham" for name in "abc"},
        "spamassassin/spam": "spam",
        **{f"modern/{kind}/{project}": "ham" for kind in ("receipt", "account") for project in "abc"},
    }
    return [
        Row(Document("c", source, f"{source}/{i}", label, f"text {i}"), f"{source}/{i // 2}", "train")  # type: ignore[arg-type]
        for source, label in sources.items()
        for i in range(6)
    ]


def test_what_one_hand_made_stays_in_one_fold() -> None:
    """A project's templates of every kind are left out together, SpamAssassin's lists each alone; all mail is tested
    once."""
    found = rows()
    folds = source_folds(found)
    lists = [source for source in folds if source.startswith("spamassassin/easy/")]
    assert len({folds[source] for source in lists}) == len(lists) == 3
    assert all(folds[f"modern/receipt/{project}"] == folds[f"modern/account/{project}"] for project in "abc")
    assert len({folds[f"modern/receipt/{project}"] for project in "abc"}) == 3
    splits = [split(f"cross:{fold}", found) for fold in FOLDS]
    tested = [row.group for one in splits for row in one.test]
    assert sorted(tested) == sorted({row.group for row in found})
    for one in splits:
        assert not {row.document.source for row in one.test} & {row.document.source for row in one.train}


def models(tmp_path: Path, data: Path) -> list[str]:
    """The tiny model five times, each saying that it was trained for another fold's test."""
    found = []
    for fold in FOLDS:
        path = model(tmp_path / fold, f"cross:{fold}")
        opened = artifact.load(path)
        test = calibrate.fingerprint(split(f"cross:{fold}", prepare.load(data)).test)
        training = {"training": {"protocol": f"cross:{fold}", "test": test}}
        artifact.write(artifact.Artifact(path, opened.meta.model_copy(update={"metrics": training})))
        found += ["--model", str(path)]
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Good mail and spam of many sources, some of it nearly the same in two of them."""
    texts = {"ham": HAM, "spam": SPAM}
    found = [
        Row(Document("c", source, f"{source}/{label}/{i}", label, f"{texts[label][i % 3]} {i}"), group, "train")  # type: ignore
        for source, label in (
            [(f"enron/{k}", label) for k in (1, 2, 3, 4, 5, 6) for label in ("ham", "spam")]
            + [(f"modern/{kind}/p{k}", "ham") for kind in ("receipt", "list") for k in range(5)]
        )
        for i in range(12)
        for group in [f"{source}/{label}/{i}" if i else f"everywhere/{label}"]
    ]
    prepare.write(found, tmp_path / "data")
    return tmp_path / "data"


def test_five_models_give_one_rule(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule is written, the tables name every method and kind, the plots are drawn, and a group that stands in
    several folds is judged once."""
    monkeypatch.setattr(calibrate, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(calibrate, "PLOTS", tmp_path / "plots")
    out = tmp_path / "calibration.json"
    calibrate.main([*models(tmp_path, data), "--data", str(data), "--out", str(out), "--write", "--jobs", "1"])
    printed = capsys.readouterr().out
    groups = {row.group for row in prepare.load(data)}
    assert printed.startswith(f"{len(groups)} mails without near-duplicates")
    for name in ("ULMFiT", "its LSTM alone", "TF-IDF + LinearSVC", "multinomial NB", "modern/receipt", "enron/3"):
        assert f"| {name} |" in printed
    rule = Rule(**json.loads(out.read_text()))
    assert 0 < rule.ham_cutoff <= rule.spam_cutoff <= 1
    assert (tmp_path / "plots" / "cost.svg").read_text().startswith("<?xml")
    assert "Printed by" in (tmp_path / "RESULTS.md").read_text()


def test_a_model_trained_for_another_test_is_refused(data: Path, tmp_path: Path) -> None:
    """Folds are drawn from what is there: with other corpora they are others, and a model might have seen the test."""
    given = models(tmp_path, data)
    rows = [row for row in prepare.load(data) if row.document.source != "enron/6"]
    prepare.write(rows, data)
    with pytest.raises(MailtaggerError, match="another test set"):
        calibrate.main([*given, "--data", str(data), "--out", str(tmp_path / "c.json"), "--jobs", "1"])


def test_all_five_folds_are_needed(tmp_path: Path) -> None:
    """Models of other protocols, or not of each fold, are refused, with those that are needed."""
    with pytest.raises(MailtaggerError, match="cross:1, cross:2"):
        calibrate.main(["--model", str(model(tmp_path / "m", "cross:1"))])


def test_the_rule_prints_itself() -> None:
    """σ(a·(lstm + mix·linear) + b)."""
    rule = Rule(0.5, 2.0, -1.0, 0.1, 0.9)
    assert rule.probability(np.array([1.0]), np.array([1.0]))[0] == pytest.approx(1 / (1 + np.exp(-2)))
