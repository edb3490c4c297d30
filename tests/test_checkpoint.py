"""A model on disk without pickle: a language model's checkpoint, and a whole artifact, in a process of their own."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("safetensors", reason="needs the [train] extra")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mailtagger import artifact
from mailtagger.artifact import TOKENIZER
from mailtagger.clean import RULES_HASH
from mailtagger.errors import ModelError
from mailtagger.score import open_scorer
from mailtagger.ulmfit import checkpoint
from mailtagger.ulmfit.model import Dropouts, LanguageModel, Sizes
from tests.tiny_model import COMMITTED, HAM_TEXT, SPAM_TEXT, tiny_model

pytestmark = pytest.mark.train
ROOT = Path(__file__).parents[1]
SIZES = Sizes(30, embedding=6, hidden=10, layers=2)
PIECES = COMMITTED / TOKENIZER


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(SIZES, Dropouts()).eval()


@pytest.fixture
def file(tmp_path: Path, model: LanguageModel) -> Path:
    """A checkpoint as training leaves it."""
    found = tmp_path / "mail.safetensors"
    checkpoint.save(model.state_dict(), found, stage="mail", tokenizer=PIECES, cleaning=RULES_HASH)
    return found


def refused(file: Path, **expected: Any) -> str:
    with pytest.raises(ModelError) as error:
        checkpoint.load(file, print, **expected)
    assert error.value.way_out
    assert error.value.problem.isprintable()
    return error.value.problem


def rewritten(file: Path, change: Any) -> None:
    """The file with a changed header, whose length is right, as one would write it who means harm."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def recorded(file: Path, **fields: Any) -> None:
    def change(header: Any) -> None:
        metadata = header["__metadata__"]
        metadata["mailtagger"] = json.dumps(json.loads(metadata["mailtagger"]) | fields)

    rewritten(file, change)


FRESH = """
import pickle, sys, torch
from mailtagger.ulmfit.model import Dropouts, LanguageModel
from mailtagger.ulmfit import checkpoint
def never(*_, **__): raise SystemExit("a pickle was read")
pickle.load = pickle.loads = pickle.Unpickler = never
state, about = checkpoint.load(checkpoint.Path(sys.argv[1]), print)
model = LanguageModel(about.sizes, Dropouts()).eval()
model.load_state_dict(state)
with torch.no_grad():
    print(model(torch.arange(30)[None])[0].double().flatten().tolist())
"""


def test_a_fresh_process_computes_the_same(file: Path, model: LanguageModel) -> None:
    """The file alone says what to build; the features are the same to the last bit, and nothing is unpickled."""
    command = [sys.executable, "-c", FRESH, file]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    with torch.no_grad():
        assert json.loads(done.stdout) == model(torch.arange(30)[None])[0].double().flatten().tolist()


SCORES = """
import pickle, sys
from pathlib import Path
from mailtagger import artifact
from mailtagger.score import open_scorer
def never(*_, **__): raise SystemExit("a pickle was read")
pickle.load = pickle.loads = pickle.Unpickler = never
scorer = open_scorer(artifact.load(Path(sys.argv[1])))
print([scorer.score(text).p for text in sys.argv[2:]])
"""


def test_a_fresh_process_gives_the_same_scores(tmp_path: Path) -> None:
    """A whole model, loaded by another process, scores as here, to the last digit."""
    model, texts = tiny_model(tmp_path), [SPAM_TEXT, HAM_TEXT, "hello"]
    here = open_scorer(artifact.load(model))
    command = [sys.executable, "-c", SCORES, model, *texts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [here.score(text).p for text in texts]


def test_the_record_says_what_the_tensors_are(file: Path, model: LanguageModel) -> None:
    """Stage, sizes, tokeniser and cleaning; tensors come back as they were, and no file stays beside it."""
    state, about = checkpoint.load(file, print, tokenizer=PIECES, cleaning=RULES_HASH)
    assert about
    assert (about.format, about.stage, about.sizes, about.cleaning) == (1, "mail", SIZES, RULES_HASH)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [found.name for found in file.parent.iterdir()] == ["mail.safetensors"]


def test_what_it_was_learned_with_must_be_what_there_is(file: Path, tmp_path: Path) -> None:
    """Rows mean the pieces they were learned with, and pieces the text they were cut from."""
    (tmp_path / "other.model").write_bytes(b"another")
    assert "another tokeniser than" in refused(file, tokenizer=tmp_path / "other.model")
    assert "other cleaning rules" in refused(file, cleaning="f" * 64)
    assert "none.model cannot be read" in refused(file, tokenizer=tmp_path / "none.model")


@pytest.mark.parametrize("version", [0, 2, "1", None, [1], "\x1b[2J" * 9])
def test_another_version_is_named(file: Path, version: object) -> None:
    """The sentence has both numbers, whatever else stands in the record."""
    recorded(file, format=version, news=True)
    assert "has format " in (said := refused(file))
    assert "this version of mailtagger reads 1" in said


@pytest.mark.parametrize(
    "fields",
    [
        {"stage": "general"},
        {"tokenizer": "0" * 64},
        {"cleaning": "0" * 64},
        {"tensors": None},
        {"tensors": "0" * 64},
        {"sizes": {}},
        {"sizes": {"vocabulary": 30, "embedding": 6, "hidden": 10, "layers": 3}},
    ],
)
def test_a_record_changed_by_hand_is_noticed(file: Path, fields: dict[str, Any]) -> None:
    """Each of its fields counts."""
    recorded(file, **fields)
    assert "not those that its record describes" in refused(file)


@pytest.mark.parametrize(
    "fields",
    [{"surprise": 1}, {"stage": "../mail"}, {"tokenizer": "?"}, {"sizes": None}, {"cleaning": 1}],
)
def test_an_impossible_record_is_refused(file: Path, fields: dict[str, Any]) -> None:
    """Unknown fields and values outside their range."""
    recorded(file, **fields)
    assert "its record cannot be read" in refused(file)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A changed byte, or a file cut short, anywhere, is refused; never taken for another model."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("damage") / "mail.safetensors"
    state = LanguageModel(SIZES, Dropouts()).state_dict()
    checkpoint.save(state, file, stage="mail", tokenizer=PIECES, cleaning=RULES_HASH)
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        at = data.draw(st.integers(0, 900) | st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    try:
        found, about = checkpoint.load(file, lambda line: None)
    except ModelError as error:
        assert str(file) in error.problem
    else:  # the change made the record's key another, or fell into white space
        assert about is None or about.stage == "mail"
        assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_file_without_a_record_is_taken_where_it_fits(
    tmp_path: Path, model: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """Format 0, as training left it before there was a record: a sentence says what is not known."""
    file = tmp_path / "old.safetensors"
    save_file(model.state_dict(), file)
    state, about = checkpoint.load(file, print, cleaning=RULES_HASH)
    assert about is None
    assert "old.safetensors is of format 0" in capsys.readouterr().out
    LanguageModel(checkpoint.sizes(state), Dropouts()).load_state_dict(state)
    assert "rows for 30 pieces, and" in refused(file, tokenizer=PIECES)
    for name, value in {"encoder.lstm.1.weight_ih": torch.ones(3, 3), "news": torch.ones(1)}.items():
        save_file({**model.state_dict(), name: value}, file)
        assert name in refused(file)
    save_file({"encoder.embedding.weight": torch.ones(3, 3)}, file)
    assert "no AWD-LSTM" in refused(file)
    save_file({**model.state_dict(), "bias": torch.ones(30, dtype=torch.int32)}, file)
    assert "bias" in refused(file)


def test_an_untied_decoder_is_kept(tmp_path: Path, model: LanguageModel) -> None:
    """A softmax with weights of its own is part of a language model."""
    file, state = tmp_path / "mail.safetensors", {**model.state_dict(), "decoder": torch.ones(30, 6)}
    checkpoint.save(state, file, stage="mail", tokenizer=PIECES, cleaning=RULES_HASH)
    assert torch.equal(checkpoint.load(file, print)[0]["decoder"], state["decoder"])
    with pytest.raises(ValueError, match="decoder has other sizes"):
        checkpoint.sizes({**state, "decoder": torch.ones(6, 30)})


def test_files_that_mean_harm(file: Path) -> None:
    """A header of terabytes, a pickle, a zip, a pipe, a giant: refused before anything is reserved, read or run."""
    for content in (b"", b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}", pickle.dumps([1] * 99), b"PK" * 64):
        file.write_bytes(content)
        assert "no header of a sensible length" in refused(file)
    for text in (b"[]", b"{", b"[" * 5000, b'{"__metadata__": []}', b"null"):
        file.write_bytes(len(text).to_bytes(8, "little") + text)
        assert "holds no safetensors" in refused(file)
    with file.open("ab") as opened:
        opened.truncate(1 << 40)
    assert "larger than 1024 MB" in refused(file)
    file.unlink()
    os.mkfifo(file)
    assert "no plain file" in refused(file)
    file.unlink()
    assert "cannot be read (No such file" in refused(file)


def test_a_header_that_claims_more_than_there_is(file: Path) -> None:
    """Shapes that no data follows are safetensors' to refuse."""
    rewritten(file, lambda header: header["bias"].update(shape=[1 << 40]))
    assert "holds no safetensors" in refused(file)
