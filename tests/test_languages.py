"""The test mails in many languages: what they are made of, and what is said of a model that reads them."""

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.artifact import load
from mailtagger.clean import clean_text, structure
from mailtagger.decide import Verdict
from mailtagger.parse import parse
from mailtagger.score import Scorer
from tests.tiny_model import tiny_model
from training import evaluate, languages
from training.languages import CONTROL, Judged, Sample, message, report, samples

EVERY = samples()


def test_each_language_has_the_same_kinds_of_mail() -> None:
    """Eight good mails and three spam mails each, so that languages compare; English is one of at least ten."""
    found: dict[str, list[Sample]] = {}
    for sample in EVERY:
        found.setdefault(sample.language, []).append(sample)
    assert len(found) > 10 and CONTROL in found
    for mails in found.values():
        assert Counter(mail.label for mail in mails) == {"ham": 8, "spam": 3}
        kinds = {mail.kind.replace("bounce", "list") for mail in mails}
        assert len(kinds) == 11 and {"advance-fee", "shop", "phishing"} < kinds
        assert {mail.html for mail in mails if mail.label == "ham"} == {True, False}


@pytest.mark.parametrize("sample", EVERY, ids=lambda sample: f"{sample.language}-{sample.kind}")
def test_mail_reads_back_as_written(sample: Sample) -> None:
    """Through headers, transfer encoding and HTML nothing is lost; only reserved hosts are named."""
    mail = parse(message(sample))
    assert "".join(mail.subject.split()) == "".join(sample.subject.split())  # folding may cost a space
    assert clean_text("", mail.body).split() == clean_text("", sample.body).split()
    assert mail.html_only == sample.html and not mail.notes
    assert not mail.mismatch and not mail.hidden
    assert ("xxattach" in structure(mail)) == (sample.kind in languages.ATTACHED)
    hosts = [word for word in sample.body.split() if "//" in word or "@" in word]
    assert all("example." in host for host in hosts)


def test_report_counts_by_language(tmp_path: Path) -> None:
    """Good mail and spam are counted apart, English apart from the rest, and a good mail called spam is named."""

    def one(language: str, kind: str, verdict: Verdict, familiar: float) -> Judged:
        label = "spam" if kind == "shop" else "ham"
        return Judged(Sample(language, kind, label, False, "s", "b"), 0.9, familiar, verdict)  # type: ignore[arg-type]

    found = [
        one(CONTROL, "work", "ham", 0.9),
        one(CONTROL, "shop", "spam", 0.9),
        one("German", "work", "spam", 0.6),
        one("German", "family", "unsure", 0.4),
        one("Greek", "work", "ham", 0.1),
        one("Greek", "shop", "unsure", 0.1),
    ]
    text = report(found, Scorer(load(tiny_model(tmp_path))))
    rows = {row.split(" | ")[0].strip("| "): row for row in text.splitlines() if row.startswith("|")}
    assert "0/1" in rows[CONTROL] and "1/1" in rows[CONTROL]
    assert rows["German"].startswith("| German | 1/2 = 50.00%") and "| 0.50 |" in rows["German"]
    assert rows["all but English"].startswith("| all but English | 1/3") and "| 0/1 = 0.00%" in rows["all but English"]
    assert text.endswith("Good mail called spam: German work (0.900, 0.60 familiar).")


def test_the_command_judges_every_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each language; with --write the same text stands in the results."""
    results = tmp_path / "RESULTS.md"
    monkeypatch.setattr(evaluate, "RESULTS", results)
    languages.main(["--model", str(tiny_model(tmp_path)), "--write"])
    printed = capsys.readouterr().out
    assert all(f"| {language} | " in printed for language in {sample.language for sample in EVERY})
    assert printed.strip() in results.read_text(encoding="utf-8")
