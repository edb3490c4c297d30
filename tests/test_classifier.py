"""What the last stage refuses before it trains for an hour."""

import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.artifact import TOKENIZER
from mailtagger.errors import MailtaggerError
from tests.test_evaluate import model
from tests.tiny_model import COMMITTED
from training import classifier
from training.lm import LM

pytestmark = pytest.mark.train


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose language model has the tiny model's tokeniser, and no prepared corpus."""
    monkeypatch.chdir(tmp_path)
    LM.mkdir(parents=True)
    shutil.copy(COMMITTED / TOKENIZER, LM / "tokenizer.model")
    return tmp_path


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["classifier", *map(str, arguments)])
    with pytest.raises(MailtaggerError) as refused:
        classifier.main()
    return str(refused.value)


def test_a_name_no_model_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is that of a directory under models/, checked before and not after the training."""
    assert "'Bad_Name'" in refusal(monkeypatch, "dedup", "--out", "build/Bad_Name")


@pytest.mark.parametrize("content", [None, "{}", "no JSON", json.dumps({"mix": 1})])
def test_a_calibration_that_is_none(directory: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    """A file that is missing or something else is named, with the command that makes one."""
    file = directory / "calibration.json"
    if content is not None:
        file.write_text(content)
    said = refusal(monkeypatch, "default", "--out", "build/m", "--calibration", file)
    assert str(file) in said and "training.calibrate" in said


def test_going_on_from_another_protocols_model(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that saw the test must not come out under a protocol that says it did not."""
    start = model(directory / "default", "default")
    said = refusal(monkeypatch, "dedup", "--out", "build/m", "--start", start, "--epochs", 0)
    assert "not trained under dedup" in said


def test_going_on_with_another_tokeniser(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of an embedding mean the pieces they were learned with."""
    (LM / "tokenizer.model").write_bytes(b"another")
    start = model(directory / "dedup", "dedup")
    assert "another tokeniser" in refusal(monkeypatch, "dedup", "--out", "build/m", "--start", start)


def test_nothing_to_export_and_nothing_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """No epochs need a model to start from; without prepared corpora the way out is named."""
    assert "--epochs 0" in refusal(monkeypatch, "dedup", "--out", "build/m", "--epochs", 0)
    assert "training.prepare" in refusal(monkeypatch, "dedup", "--out", "build/m")
