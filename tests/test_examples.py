"""What a classifier learns from: no double, no wrong label, and copies of what is rare."""

import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from training import labels
from training.corpora import Document
from training.examples import COPIES, COPIES_FOREIGN, english, examples
from training.splits import Row

RECEIPT = "your receipt from acme hello anna thank you for your order we have sent it to you on xxn2 may"
QUITTUNG = (
    "ihre quittung von acme hallo anna vielen dank fur ihre bestellung wir haben sie am xxn2 mai verschickt "
    "xxurl acme de xxlinkown"
)
PILLS = "cheap pills without prescription order now and save xxn2 % on every pill that you order from our shop today"


def row(key: str, source: str, label: str, text: str, group: str = "") -> Row:
    return Row(Document("c", source, key, label, text), group or key, "train")  # type: ignore[arg-type]


def rows() -> list[Row]:
    return [
        *(row(f"e{i}", "enron/1", "ham", f"anna please send me the gas report of day {i}") for i in range(50)),
        *(row(f"s{i}", "enron/2", "spam", f"{PILLS} {i}") for i in range(200)),
        row("r", "modern/receipt/acme", "ham", RECEIPT),
        row("r2", "modern/receipt/acme", "ham", RECEIPT + " again", group="r"),
        row("q", "modern/receipt/acme", "ham", QUITTUNG),
        row("l", "modern/list/x", "ham", "the patch is fine"),
    ]


def test_templates_come_again_as_others_would_fill_them() -> None:
    """Near-duplicates count once; a template has three copies, one in another language eight, other good mail none;
    each keeps the key and the group of what it was made from."""
    found = examples(rows())
    counts = {key: sum(r.document.key == key for r in found) for key in ("r", "r2", "q", "l", "e1")}
    assert counts == {"r": 0, "r2": 1 + COPIES, "q": 1 + COPIES_FOREIGN, "l": 1, "e1": 1}
    assert len({r.document.text for r in found if r.document.key == "q"}) >= COPIES_FOREIGN / 2
    assert {r.group for r in found if r.document.key == "r2"} == {"r"}


def test_some_spam_is_disguised_and_some_padded() -> None:
    """Copies of spam stay spam; some hold the tokens of disguised words, some the words of good mail."""
    copies = [r for r in examples(rows()) if r.document.label == "spam" and r.document.corpus != "lures"][200:]
    assert 30 < len(copies) < 90
    texts = [r.document.text for r in copies]
    assert any("gas report" in text for text in texts)
    assert any(mark in text for text in texts for mark in ("xxzero", "xxmixed", "xxspaced"))


def test_wrong_labels_are_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in wrong_labels.csv is left out, copies and all."""
    monkeypatch.setattr(labels, "wrong", lambda: frozenset({"q", "e7"}))
    keys = {r.document.key for r in examples(rows())}
    assert not keys & {"q", "e7"} and "e8" in keys


def test_the_same_rows_give_the_same_examples() -> None:
    """Copies are drawn, but always the same ones."""
    assert examples(rows()) == examples(rows())


def test_english_is_told_from_other_languages() -> None:
    """By its commonest words."""
    assert english(RECEIPT) and not english(QUITTUNG)
