"""Figures that can be checked by hand, and the refusal of a model that has seen the test."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger import artifact
from mailtagger.clean import clean_text
from mailtagger.errors import MailtaggerError
from tests.tiny_model import HAM, SPAM, tiny_model
from training import evaluate, prepare, probe
from training.corpora import Document
from training.figures import Arm, Count, replace_section, threshold_for
from training.splits import Part, Row

PARTS: tuple[Part, ...] = ("train", "train", "valid", "test")


def test_wilson_interval() -> None:
    """The interval is Wilson's: published values, and sound at 0 and at n."""
    assert Count(10, 100).wilson() == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert Count(0, 50).wilson() == pytest.approx((0, 0.0714), abs=1e-4)
    assert Count(50, 50).wilson() == pytest.approx((0.9286, 1), abs=1e-4)
    assert str(Count(1, 200)) == "1/200 = 0.50% (0.09–2.78)"
    assert str(Count(0, 0)) == "–" and math.isnan(Count(0, 0).rate)


def test_line_counts_three_bands() -> None:
    """ham < ham_cutoff ≤ unsure < spam_cutoff ≤ spam; unsure is no error."""
    spam = np.array([False, False, False, True, True, True])
    line = Arm("m", "r", np.array([0.1, 0.3, 0.9, 0.9, 0.89, 0.2]), 0.3, 0.9).line(spam)
    assert line.ham_called_spam == Count(1, 3)
    assert line.spam_caught == Count(1, 3)
    assert line.unsure == Count(2, 6)
    assert line.errors == Count(2, 6)
    assert line.auc == pytest.approx((1 + 1 + 0.5 + 1 + 1 + 0 + 1 + 0 + 0) / 9)


def test_threshold_keeps_the_rate() -> None:
    """The matched threshold calls as much ham spam as allowed and no more, ties included."""
    ham = np.array([5.0, 4.0, 4.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0])
    assert [(ham >= threshold_for(rate, ham)).sum() for rate in (0, 0.1, 0.2, 0.3, 1)] == [0, 1, 1, 3, 10]


def test_section_is_replaced(tmp_path: Path) -> None:
    """A table takes the place of its last version; the text and the other tables stay."""
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n")
    for name, text in (("dedup", "old"), ("random", "other"), ("dedup", "new")):
        replace_section(path, name, text)
    assert path.read_text() == (
        "# Results\n\n<!-- dedup -->\n## dedup\n\nnew\n<!-- /dedup -->\n\n"
        "<!-- random -->\n## random\n\nother\n<!-- /random -->\n"
    )


def rows() -> list[Row]:
    """Sentences of the tiny model's world as Enron rows, in four parts, and a few of another corpus."""
    found = []
    for label, sentences in (("ham", HAM), ("spam", SPAM)):
        for i, sentence in enumerate(sentences):
            corpus, source = ("phishing", "phishing/2023") if i % 9 == 8 else ("enron", f"enron/{i % 6 + 1}")
            document = Document(corpus, source, f"{corpus}/{label}{i}", label, clean_text("", sentence))
            found.append(Row(document, document.key, PARTS[i % 4], "valid" if i % 5 == 0 else "train"))
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prepare.write(rows(), tmp_path / "data")
    return tmp_path / "data"


def model(directory: Path, protocol: str | None) -> Path:
    """The tiny model, saying it was trained under a protocol."""
    path = tiny_model(directory)
    opened = artifact.load(path)
    training = {"training": {"protocol": protocol}} if protocol else {}
    artifact.write(artifact.Artifact(path, opened.meta.model_copy(update={"metrics": training})))
    return path


def run(*arguments: str | Path) -> None:
    evaluate.main([*map(str, arguments), "--jobs", "1"])


def test_methods_stand_side_by_side(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command prints ULMFiT and both linear models on the same rows, with counts, and writes them as JSON."""
    run("dedup", "--model", model(tmp_path, "dedup"), "--data", data, "--json", tmp_path / "out.json")
    printed = capsys.readouterr().out
    (test,) = json.loads((tmp_path / "out.json").read_text())
    expected = sum(row.part == "test" and row.document.corpus == "enron" for row in rows())
    assert [line["method"] for line in test["lines"]] == [
        "ULMFiT", "ULMFiT", "TF-IDF + LinearSVC", "TF-IDF + LinearSVC", "multinomial NB", "multinomial NB",
    ]  # fmt: skip
    assert {line["errors"]["of"] for line in test["lines"]} == {expected}
    assert "| dedup | ULMFiT | shipped cutoffs |" in printed
    assert "| dedup | enron/4 | ham |" in printed
    ulmfit = test["lines"][1]
    assert ulmfit["errors"]["hits"] <= 2  # the tiny model knows these sentences


def test_known_wrong_labels_are_told_apart(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The literature's test stays whole, and beside it stand the figures without the rows whose label is wrong."""
    keys = [row.document.key for row in rows() if row.part == "test" and row.document.corpus == "enron"]
    monkeypatch.setattr(evaluate, "wrong", lambda: frozenset(keys[:2]))
    run("dedup", "--model", model(tmp_path, "dedup"), "--data", data, "--json", tmp_path / "out.json")
    whole, right = json.loads((tmp_path / "out.json").read_text())
    assert (whole["title"], right["title"]) == ("dedup", "dedup, right labels")
    assert {line["errors"]["of"] for line in whole["lines"]} == {len(keys)}
    assert {line["errors"]["of"] for line in right["lines"]} == {len(keys) - 2}
    assert capsys.readouterr().out.count("| dedup | enron/4 | ham |") == 1


def test_baselines_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a model the linear models are measured on every test of the protocol, with the mean."""
    run("lomo", "--data", data)
    printed = capsys.readouterr().out
    assert "lomo:6" in printed and "mean errors of 6 tests" in printed and "ULMFiT" not in printed


@pytest.mark.parametrize(
    ("protocol", "trained"), [("random", "dedup"), ("dedup", "random"), ("foreign", "default"), ("held-out", "random")]
)
def test_a_model_that_saw_the_test_is_refused(data: Path, tmp_path: Path, protocol: str, trained: str) -> None:
    """A model is not measured on rows of its training or validation set, and the refusal says how many there are."""
    with pytest.raises(MailtaggerError, match=rf"trained under {trained}, and \d+ of the \d+ test rows"):
        run(protocol, "--model", model(tmp_path, trained), "--data", data)


def test_a_model_without_a_protocol_is_refused(data: Path, tmp_path: Path) -> None:
    """A model that does not say what it learned from is measured on nothing."""
    with pytest.raises(MailtaggerError, match="does not say under which protocol"):
        run("dedup", "--model", model(tmp_path, None), "--data", data)


def test_the_shipped_model_may_be_measured_on_its_hold_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """dedup and held-out accept a model trained under default, and the linear models learn from its rows."""
    for protocol in ("dedup", "held-out"):
        run(protocol, "--model", model(tmp_path / protocol, "default"), "--data", data)
        assert f"- {protocol}: trained under default on" in capsys.readouterr().out


def test_foreign_measures_each_model_where_it_is_foreign(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model trained without phishing is measured on phishing only."""
    run("foreign", "--model", model(tmp_path, "foreign:phishing"), "--data", data)
    printed = capsys.readouterr().out
    assert "| foreign:phishing | ULMFiT |" in printed and "foreign:enron" not in printed


def test_probe_tells_corpora_apart() -> None:
    """The probe guesses corpora that differ in words by the words, and near chance where nothing differs."""
    draw = np.random.default_rng(0)

    def made(corpus: str, own: list[str]) -> list[Row]:
        texts = (" ".join(draw.choice(["when", "meet", "the", "of", *own], 30)) for _ in range(60))
        documents = [Document(corpus, f"{corpus}/x", f"{corpus}/{i}", "ham", text) for i, text in enumerate(texts)]
        return [Row(document, document.key, "train") for document in documents]

    differ = probe.probe(probe.sample(made("enron", ["ect"]) + made("spamassassin", ["linux"])))
    assert differ.accuracy > 0.95 and differ.telling["enron"][0] in ("ect", "no:linux")
    same = probe.probe(probe.sample(made("enron", ["x"]) + made("spamassassin", ["x"])))
    assert abs(same.accuracy - 0.5) < 0.2
