"""fastai's WikiText-103 weights, in small: the same files, made here."""

import io
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("safetensors", reason="needs the [train] extra")

import torch

from mailtagger.artifact import TOKENIZER
from mailtagger.clean import RULES_HASH
from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import checkpoint, tokenizer
from mailtagger.ulmfit.fastai_weights import language_model_to_fastai
from mailtagger.ulmfit.model import Dropouts, LanguageModel, Sizes
from tests.tiny_model import COMMITTED
from training import lm, wt103

pytestmark = pytest.mark.train
ROOT = Path(__file__).parents[1]

PIECES = tokenizer.load(COMMITTED / TOKENIZER)
WORDS = ["xxunk", "xxpad", "xxbos", "xxmaj", "the", "!", "free", "meeting", "unfree", "zebra", "a!b"]
SIZES = Sizes(len(WORDS), embedding=6, hidden=10, layers=3)


def weights(direction: str = "fwd") -> dict[str, Any]:
    """What lstm_fwd.pth holds, under the names of the files that fastai still ships."""
    torch.manual_seed(len(direction) + ord(direction[0]))
    model = LanguageModel(SIZES, Dropouts())
    torch.nn.init.normal_(model.bias)
    found = language_model_to_fastai(model.state_dict())
    for i in range(SIZES.layers):  # a copy that dropout went over when it was saved
        found[f"0.rnns.{i}.module.weight_hh_l0"] = torch.zeros_like(found[f"0.rnns.{i}.weight_hh_l0_raw"])
    return OrderedDict(found)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """wt103-fwd, as fastai unpacks it: torch's format of before 1.6, and a pickled list."""
    found = tmp_path / "wt103-fwd"
    found.mkdir()
    torch.save(weights(), found / "lstm_fwd.pth", _use_new_zipfile_serialization=False)
    (found / "itos_wt103.pkl").write_bytes(pickle.dumps(WORDS, protocol=3))
    return found


def row(word: str) -> Any:
    return weights()["0.encoder.weight"][WORDS.index(word)]


def test_a_piece_that_spells_a_word_has_its_row(directory: Path) -> None:
    """▁word and word are one, so are special marks; with the row comes the word's bias."""
    state, sizes, _ = wt103.language_model(directory, PIECES)
    assert sizes == Sizes(PIECES.vocab_size(), 6, 10, 3)
    same = {"<unk>": "xxunk", "<s>": "xxbos", "</s>": "xxbos", "<pad>": "xxpad", "▁the": "the", "▁!": "!"}
    for piece, word in same.items():
        id = PIECES.piece_to_id(piece)
        assert PIECES.id_to_piece(id) == piece
        assert torch.equal(state["encoder.embedding.weight"][id], row(word)), piece
        assert state["bias"][id] == weights()["1.decoder.bias"][WORDS.index(word)]


def test_a_new_piece_has_the_mean(directory: Path) -> None:
    """Of the words that it helps to spell, or of all words where there are none."""
    state, _, told = wt103.language_model(directory, PIECES)
    table, used = state["encoder.embedding.weight"], 0
    spelled = dict(zip(WORDS, PIECES.encode(WORDS), strict=True))
    alone = {ids[-1] for ids in spelled.values() if len([id for id in ids if PIECES.id_to_piece(id) != "▁"]) == 1}
    for id in range(4, PIECES.vocab_size()):
        helped = [word for word in WORDS if id in spelled[word] and not word.startswith("xx")]
        if id in alone:
            continue
        used += bool(helped)
        expected = torch.stack([row(word) for word in helped or WORDS]).mean(0)
        torch.testing.assert_close(table[id], expected, msg=PIECES.id_to_piece(id))
    assert used > 5  # the test says something
    assert f"{used} help to spell some" in told
    assert f"{PIECES.vocab_size()} pieces for 11 words: {len(alone) + 4} are words" in told


def test_the_layers_come_as_they_are(directory: Path) -> None:
    """The recurrent weights are the raw ones, not the copy that dropout went over."""
    state, sizes, _ = wt103.language_model(directory, PIECES)
    LanguageModel(sizes, Dropouts()).load_state_dict(state)
    for i in range(3):
        assert torch.equal(state[f"encoder.lstm.{i}.weight_hh"], weights()[f"0.rnns.{i}.weight_hh_l0_raw"])
        assert torch.equal(state[f"encoder.lstm.{i}.bias_ih"], weights()[f"0.rnns.{i}.module.bias_ih_l0"])


def test_the_command_writes_what_the_next_stage_starts_from(directory: Path, tmp_path: Path) -> None:
    """general.safetensors with its record, and the tokeniser that its rows belong to; backward under its own name."""
    torch.save({"model": weights("bwd"), "opt": {}}, directory / "lstm_bwd.pth")
    out = tmp_path / "lm"
    for direction, more in ("fwd", []), ("bwd", ["--backward"]):
        command = [sys.executable, "-m", "training.wt103", directory, "--tokenizer", COMMITTED / TOKENIZER]
        done = subprocess.run([*command, "--out", out, *more], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "6/10×3; 600 pieces for 11 words" in done.stdout
        stage = {"fwd": "general", "bwd": "general-backward"}[direction]
        state, about = checkpoint.load(
            out / f"{stage}.safetensors", print, tokenizer=out / "tokenizer.model", cleaning=RULES_HASH
        )
        assert about and (about.stage, about.sizes.hidden) == (stage, 10)
        theirs = weights(direction)
        assert torch.equal(state["encoder.lstm.0.weight_ih"], theirs["0.rnns.0.module.weight_ih_l0"])


def test_the_archive_is_read_in_place(directory: Path, tmp_path: Path) -> None:
    """wt103-fwd.tgz gives what the directory gives, and nothing is unpacked, wherever its members want to go."""
    with tarfile.open(tmp_path / "wt103-fwd.tgz", "w:gz") as archive:
        for file in directory.iterdir():
            archive.add(file, f"../wt103-fwd/{file.name}")
    before = sorted(tmp_path.rglob("*"))
    ours, again = (wt103.language_model(p, PIECES)[0] for p in (directory, tmp_path / "wt103-fwd.tgz"))
    assert all(torch.equal(ours[name], again[name]) for name in ours.keys() | again.keys())
    assert sorted(tmp_path.rglob("*")) == before


class Harm:
    """What a pickle may be: a call, made when it is read."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (self._code,)


def refusal(path: Path, backward: bool = False) -> str:
    with pytest.raises(MailtaggerError) as refused:
        wt103.language_model(path, PIECES, backward)
    assert refused.value.way_out
    assert refused.value.problem.isprintable()
    return refused.value.problem


@pytest.mark.parametrize("name", ["lstm_fwd.pth", "itos_wt103.pkl"])
def test_a_pickle_that_calls_is_refused(directory: Path, tmp_path: Path, name: str) -> None:
    """Neither file runs code, however it is packed."""
    trap = tmp_path / "sprung"
    harm = Harm(f"open({str(trap)!r}, 'w')")
    (directory / name).write_bytes(pickle.dumps([*WORDS, harm], 2))
    assert name in refusal(directory)
    if name.endswith("pth"):
        torch.save({**weights(), "harm": harm}, directory / name)
        assert name in refusal(directory)
    else:
        assert "it asks for __builtin__.exec" in refusal(directory)
    assert not trap.exists()
    pickle.loads(pickle.dumps(harm))
    assert trap.exists()  # the trap works


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps(WORDS)[:-9],
        pickle.dumps(dict(enumerate(WORDS))),
        pickle.dumps([1, 2]),
        pickle.dumps([]),
        pickle.dumps([[word] for word in WORDS]),
        pickle.dumps(OrderedDict.fromkeys(WORDS)),
    ],
    ids=["empty", "text", "cut", "a dict", "numbers", "no words", "lists", "a class"],
)
def test_a_vocabulary_that_is_none(directory: Path, content: bytes) -> None:
    """A sentence names the file."""
    (directory / "itos_wt103.pkl").write_bytes(content)
    assert "itos_wt103.pkl is not fastai's: it is no " in refusal(directory)


def test_a_vocabulary_that_fills_memory(directory: Path) -> None:
    """Nine bytes that make C's unpickler reserve a table of 2³¹ places, to keep an empty list in the last one."""
    (directory / "itos_wt103.pkl").write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    assert "reserves memory for nothing" in refusal(directory)


def changed(directory: Path, **fields: Any) -> str:
    kept = {name.replace(".", "_"): name for name in weights()}
    found = weights() | {kept.get(name, name): value for name, value in fields.items()}
    torch.save({name: value for name, value in found.items() if value is not None}, directory / "lstm_fwd.pth")
    return refusal(directory)


def test_weights_that_are_of_something_else(directory: Path) -> None:
    """Another architecture, misshapen layers, or another vocabulary's rows: each is named."""
    assert "missing" in changed(directory, **{"1_decoder_bias": None})
    assert "reverse" in changed(directory, **{"0.rnns.0.module.weight_ih_l0_reverse": torch.ones(2, 2)})
    assert "other sizes" in changed(directory, **{"0_rnns_1_module_weight_ih_l0": torch.ones(40, 9)})
    assert "its softmax has other weights" in changed(directory, **{"1_decoder_weight": torch.ones(11, 6)})
    assert "no AWD-LSTM" in changed(directory, **{"0_encoder_weight": torch.ones(4)})
    assert "something else than named tensors" in changed(directory, note="trained on Tuesday")
    for content in (b"", b"PK\x03\x04 torn", pickle.dumps([1, 2], 2)):
        (directory / "lstm_fwd.pth").write_bytes(content)
        assert "lstm_fwd.pth is not fastai's" in refusal(directory)
    torch.save(weights(), directory / "lstm_fwd.pth")
    (directory / "itos_wt103.pkl").write_bytes(pickle.dumps(WORDS[:-1]))
    assert "rows for 11 words, and itos_wt103.pkl has 10" in refusal(directory)


def test_files_that_are_not_there(directory: Path, tmp_path: Path) -> None:
    """A missing file, path, tokeniser or archive is a sentence, and the command ends with a status of its own."""
    assert "has no file lstm_bwd.pth" in refusal(directory, backward=True)
    assert "cannot be read" in refusal(tmp_path / "nowhere.tgz")
    torn = tmp_path / "torn.tgz"
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        archive.add(directory / "lstm_fwd.pth", "lstm_fwd.pth")
    torn.write_bytes(whole.getvalue()[:-200])
    assert "torn.tgz" in refusal(torn)
    shutil.rmtree(directory)
    done = subprocess.run(
        [sys.executable, "-m", "training.wt103", directory, "--tokenizer", tmp_path / "none"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "There is no tokeniser" in done.stderr and "Traceback" not in done.stderr


def test_the_stages_go_on_from_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`training.lm --from wt103` takes it for the general model, in its own size, and fine-tunes it on mail."""
    monkeypatch.chdir(directory)  # where the smoke goes is undone with it
    monkeypatch.setenv("MAILTAGGER_CORPORA", "")
    lm.main("--smoke --general-minutes 0 --from wt103 .".split())
    found = {f.stem: lm.opened(f, print) for f in Path("build/lm").glob("*.safetensors")}
    assert set(found) == {"general", "mail"}
    assert len({checkpoint.sizes(state) for state in found.values()}) == 1
    assert checkpoint.sizes(found["mail"]).layers == 3
    assert not torch.equal(found["mail"]["bias"], found["general"]["bias"])
    with pytest.raises(MailtaggerError, match="'gpt2'"):
        lm.main(["--from", "gpt2", "."])
