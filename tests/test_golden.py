"""One path for training and live mail: the ids are those on record, and the same both ways."""

import json
import os
from pathlib import Path

import pytest

from mailtagger.clean import clean
from mailtagger.parse import parse
from tests import golden

CORPORA = Path(os.environ.get("MAILTAGGER_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))


def test_the_samples_have_the_ids_on_record() -> None:
    """A change of parsing, cleaning or tokeniser that the model was not trained under is seen here first."""
    recorded, encoder = json.loads(golden.FILE.read_text())["samples"], golden.tokenizer()
    assert {file.name: encoder.encode(clean(parse(file.read_bytes()))) for file in golden.SAMPLES} == recorded


@pytest.mark.skipif(not (CORPORA / "enron_spam_data.zip").exists(), reason="needs MAILTAGGER_CORPORA")
def test_training_and_live_path_give_the_ids_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """For some 200 messages of all corpora, Enron's rows as the mail that they were: ids = ids = the record."""
    monkeypatch.setenv("MAILTAGGER_CORPORA", str(CORPORA))
    recorded, seen = json.loads(golden.FILE.read_text())["corpora"], {}
    for key, trained, live in golden.both_ways(golden.tokenizer()):
        assert trained == live, key
        seen[key] = golden.digest(live)
    assert seen == recorded
    assert len(seen) >= 200
