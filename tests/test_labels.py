"""Wrong labels are found by a model that saw nothing like them, and the list that is kept of them is sound."""

import csv

import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from training import labels
from training.corpora import NAMES, Document
from training.splits import Row

HAM = "meeting agenda attached please review the gas contract with {} before friday"
SPAM = "cheap pills order now free money winner claim your prize {} click here"


def row(key: str, label: str, text: str, group: str = "") -> Row:
    return Row(Document("enron", "enron/1", key, "spam" if label == "spam" else "ham", text), group or key, "train")


def rows() -> list[Row]:
    names = [f"name{i}" for i in range(20)]
    return [
        *(row(f"ham{i}", "ham", HAM.format(name)) for i, name in enumerate(names)),
        *(row(f"spam{i}", "spam", SPAM.format(name)) for i, name in enumerate(names)),
    ]


def test_a_wrong_label_is_contradicted_most_firmly() -> None:
    """A user's mail that lies among the spam comes first, and right labels are not contradicted."""
    found = [*rows(), row("stray", "spam", HAM.format("anna"))]
    against = labels.margins(found)
    assert against.argmax() == len(found) - 1
    assert (against > 0).sum() == 1


def test_near_duplicates_do_not_vouch_for_one_another() -> None:
    """Forty copies of a wrongly labelled mail are one mail to the model, and it never learns from a row's own group."""
    copies = [row(f"copy{i}", "spam", HAM.format("anna"), "copies") for i in range(40)]
    found = [*rows(), *copies]
    assert (labels.margins(found)[-40:] > 0).all()


def test_the_report_shows_a_group_once_and_says_how_many_are_alike() -> None:
    """A line of counts, then two lines a group, firmest first, text cut."""
    copies = [row(f"copy{i}", "spam", HAM.format("anna"), "copies") for i in range(3)]
    found = [*rows(), *copies, row("stray", "ham", SPAM.format("bert"))]
    lines = list(labels.report(found, labels.margins(found), top=9, shown=12))
    assert lines[0] == f"4 of {len(found)} rows are contradicted"
    assert sorted(line.split(" ", 1)[1] for line in lines[1::2]) == [
        "ham enron/1 stray (1 alike)",
        "spam enron/1 copy0 (3 alike)",
    ]
    assert {line.strip() for line in lines[2::2]} == {"meeting agen", "cheap pills"}
    assert len(list(labels.report(found, labels.margins(found), top=1))) == 3


def test_the_kept_list_is_sound() -> None:
    """Each key stands once, under its corpus, with a label that it should not have and a reason."""
    with labels.KEPT.open(newline="", encoding="utf-8") as file:
        kept = list(csv.DictReader(file))
    keys = [one["key"] for one in kept]
    assert labels.wrong() == frozenset(keys)
    assert len(keys) == len(set(keys)) > 0
    for one in kept:
        assert one["key"].partition("/")[0] in NAMES
        assert one["label"] in ("ham", "spam")
        assert one["should_be"] in {"ham", "spam", "neither"} - {one["label"]}
        assert one["reason"].strip()
