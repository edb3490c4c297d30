"""What a model directory must be before mailtagger scores with it, and how one takes the place of another."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailtagger import artifact, graph
from mailtagger.errors import ModelError
from mailtagger.score import open_scorer
from tests.tiny_model import COMMITTED, tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path)


def change(model: Path, **fields: Any) -> None:
    meta = json.loads((model / "meta.json").read_text())
    (model / "meta.json").write_text(json.dumps(meta | fields))


def restamp(model: Path, name: str) -> None:
    """A description that fits the changed file, as one would write who means harm."""
    files = json.loads((model / "meta.json").read_text())["files"]
    change(model, files=files | {name: hashlib.sha256((model / name).read_bytes()).hexdigest()})


def refused(model: Path) -> str:
    with pytest.raises(ModelError) as error:
        artifact.load(model)
    assert error.value.way_out
    return error.value.problem


class TestLoad:
    def test_a_whole_model_is_taken(self, model: Path) -> None:
        """An unharmed directory gives an artifact with its id and description."""
        loaded = artifact.load(model)
        assert (loaded.id, loaded.path, loaded.meta.labels) == ("tiny-20261124", model.resolve(), ("ham", "spam"))

    @pytest.mark.parametrize("name", sorted(artifact.NEEDED))
    def test_one_changed_byte_is_noticed(self, model: Path, name: str) -> None:
        """Each file has to have the recorded sha256."""
        content = bytearray((model / name).read_bytes())
        content[len(content) // 2] ^= 1
        (model / name).write_bytes(content)
        assert f"{name} is not the file that meta.json describes" in refused(model)

    def test_a_file_changed_after_load_is_not_read(self, model: Path) -> None:
        """What is checked is what is used: `read` checks again."""
        loaded = artifact.load(model)
        (model / artifact.GRAPH).write_bytes(b"another")
        with pytest.raises(ModelError):
            loaded.read(artifact.GRAPH)

    @pytest.mark.parametrize("name", [*sorted(artifact.NEEDED), "meta.json"])
    def test_a_missing_file_is_named(self, model: Path, name: str) -> None:
        """The sentence says which file is not there."""
        (model / name).unlink()
        assert f"it has no {name}" in refused(model)

    def test_a_missing_directory_is_no_traceback(self, tmp_path: Path) -> None:
        """A path to nowhere is refused like an empty directory."""
        assert "it has no meta.json" in refused(tmp_path / "nowhere")

    def test_the_reference_may_be_absent_but_not_wrong(self, model: Path) -> None:
        """model.fp32.onnx is optional; when it is there, it is verified too."""
        assert not (model / artifact.REFERENCE).exists()
        (model / artifact.REFERENCE).write_bytes(b"something else")
        assert "model.fp32.onnx is not the file" in refused(model)

    def test_an_unknown_reference_is_refused(self, model: Path) -> None:
        """A model.fp32.onnx that the description does not list is not part of the model."""
        files = json.loads((model / "meta.json").read_text())["files"]
        change(model, files={name: sha for name, sha in files.items() if name != artifact.REFERENCE})
        assert artifact.load(model)
        (model / artifact.REFERENCE).write_bytes(b"something")
        assert "does not know" in refused(model)

    def test_other_cleaning_rules_are_refused(self, model: Path) -> None:
        """A model that learned from otherwise cleaned text would be fed what it has never seen."""
        change(model, cleaning="f" * 64)
        assert "other cleaning rules" in refused(model)

    def test_another_format_is_refused_by_its_number(self, model: Path) -> None:
        """The sentence names both formats, even when nothing else in the description is known."""
        (model / "meta.json").write_text('{"format": 2, "news": true}')
        assert "has format 2, and this version of mailtagger reads format 1" in refused(model)

    def test_another_tokeniser_is_refused(self, model: Path) -> None:
        """A tokeniser exchanged together with its sha256 still differs from the one of the training."""
        with (model / artifact.TOKENIZER).open("ab") as file:
            file.write(b"\x0a\x00")
        restamp(model, artifact.TOKENIZER)
        assert "another tokeniser" in refused(model)

    def test_a_file_that_is_no_tokeniser_is_refused(self, model: Path) -> None:
        """sentencepiece's complaint becomes a sentence."""
        (model / artifact.TOKENIZER).write_bytes(b"not a model")
        restamp(model, artifact.TOKENIZER)
        change(model, tokenizer=hashlib.sha256(b"not a model").hexdigest())
        assert "no sentencepiece model" in refused(model)

    def test_the_vocabulary_must_be_the_embedding(self, model: Path) -> None:
        """An id beyond the embedding would fail on the first mail that has it."""
        change(model, vocabulary=9)
        assert "it speaks of 9 words" in refused(model)

    @pytest.mark.parametrize(
        "fields",
        [
            {"files": {"../../../etc/passwd": "0" * 64}},
            {"files": {"/etc/passwd": "0" * 64}},
            {"files": {}},
            {"id": "../escape"},
            {"id": ".hidden"},
            {"id": "current"},
            {"parent": "a/b"},
            {"cutoffs": {"ham": 0.9, "spam": 0.1}},
            {"cutoffs": {"ham": 0.1, "spam": 1.5}},
            {"calibration": {"a": "1", "b": 0.0}},
            {"golden": []},
            {"labels": ["spam", "ham"]},
            {"vocabulary": None},
            {"surprise": 1},
        ],
    )
    def test_an_impossible_description_is_refused(self, model: Path, fields: dict[str, Any]) -> None:
        """Paths, unknown fields, and values outside their range are refused before any file is opened."""
        change(model, **fields)
        assert "meta.json: " in refused(model)

    @pytest.mark.parametrize(
        "text", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": true}']
    )
    def test_a_description_that_is_none_is_refused(self, model: Path, text: bytes) -> None:
        """Whatever stands in meta.json, the answer is a ModelError."""
        (model / "meta.json").write_bytes(text)
        assert "meta.json" in refused(model)

    def test_links_are_not_followed(self, model: Path, tmp_path: Path) -> None:
        """A link in place of a file could point anywhere, even at the right bytes."""
        outside = tmp_path / "outside"
        (model / artifact.GRAPH).rename(outside)
        (model / artifact.GRAPH).symlink_to(outside)
        assert f"{artifact.GRAPH} cannot be read" in refused(model)

    def test_a_pipe_does_not_make_us_wait(self, model: Path) -> None:
        """Only plain files are read."""
        (model / artifact.GRAPH).unlink()
        os.mkfifo(model / artifact.GRAPH)
        assert "is not a plain file" in refused(model)

    def test_a_giant_is_refused_unread(self, model: Path) -> None:
        """A sparse file of a terabyte is refused by its size."""
        with (model / artifact.GRAPH).open("ab") as file:
            file.truncate(1 << 40)
        begun = time.monotonic()
        assert "is larger than 512 MB" in refused(model)
        assert time.monotonic() - begun < 2


class TestGraph:
    """Protobuf is written by hand here: scoring has no onnx package, and neither have these tests."""

    @staticmethod
    def field(number: int, value: bytes | int) -> bytes:
        def varint(n: int) -> bytes:
            return bytes([n & 0x7F | 0x80]) + varint(n >> 7) if n > 127 else bytes([n])

        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    def node(self, operator: bytes, domain: bytes = b"", attribute: bytes = b"") -> bytes:
        inside = self.field(4, operator) + self.field(7, domain) + (self.field(5, attribute) if attribute else b"")
        return self.field(7, self.field(1, inside))

    def test_the_embedding_is_found(self) -> None:
        """The tiny model's graph has as many rows as its description says words."""
        vocabulary = json.loads((COMMITTED / "meta.json").read_text())["vocabulary"]
        assert graph.embedding_rows((COMMITTED / artifact.GRAPH).read_bytes()) == vocabulary

    def test_known_operators_pass(self) -> None:
        """A graph of known operators with no embedding has no rows."""
        assert graph.embedding_rows(self.node(b"LSTM")) == 0
        assert graph.embedding_rows(self.node(b"DynamicQuantizeLSTM", b"com.microsoft")) == 0

    @pytest.mark.parametrize("operator", [b"Loop", b"If", b"Scan", b"Div", b"PyOp", b"", b"\xff"])
    def test_foreign_operators_are_refused(self, operator: bytes) -> None:
        """A classifier needs neither loops nor code, nor a division of integers, which can kill the process."""
        with pytest.raises(ValueError, match="operator"):
            graph.embedding_rows(self.node(operator))

    def test_no_graph_grows_without_bound(self) -> None:
        """A chain of nodes that join a tensor with itself would fill the memory; so would one with many inputs."""
        few = self.field(1, self.field(4, b"Concat")) * graph.MOST_CONCATS
        assert graph.embedding_rows(self.field(7, few)) == 0
        with pytest.raises(ValueError, match="joins more tensors"):
            graph.embedding_rows(self.field(7, few + self.field(1, self.field(4, b"Concat"))))
        with pytest.raises(ValueError, match="more inputs"):
            graph.embedding_rows(
                self.field(7, self.field(1, self.field(1, b"x") * (graph.MOST_INPUTS + 1) + self.field(4, b"Add")))
            )

    def test_foreign_domains_are_refused(self) -> None:
        """A known name in another domain is another operator."""
        with pytest.raises(ValueError, match="operator"):
            graph.embedding_rows(self.node(b"LSTM", b"evil"))

    @pytest.mark.parametrize("number", [5, 6, 10, 11])
    def test_nothing_hides_in_attributes(self, number: int) -> None:
        """Sub-graphs and tensors in attributes would not be looked at by the checks."""
        with pytest.raises(ValueError, match="attribute"):
            graph.embedding_rows(self.node(b"LSTM", attribute=self.field(number, b"")))

    @pytest.mark.parametrize("inside", [(13, b"location"), (14, 1)])
    def test_data_in_other_files_is_refused(self, inside: tuple[int, bytes | int]) -> None:
        """onnxruntime would open the file that a tensor names."""
        with pytest.raises(ValueError, match="other files"):
            graph.embedding_rows(self.field(7, self.field(5, self.field(*inside))))

    @pytest.mark.parametrize("number", [20, 25])
    def test_functions_are_refused(self, number: int) -> None:
        """A model-local function may take the name of a known operator."""
        with pytest.raises(ValueError, match="functions"):
            graph.embedding_rows(self.node(b"LSTM") + self.field(number, b""))

    @given(st.binary(max_size=300))
    def test_any_bytes_give_a_number_or_a_value_error(self, content: bytes) -> None:
        """The reader neither crashes nor runs on for ever."""
        try:
            graph.embedding_rows(content)
        except ValueError as error:
            assert str(error)

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_a_damaged_graph_gives_a_number_or_a_value_error(self, data: st.DataObject) -> None:
        """The same on a real graph with a few bytes changed."""
        content = bytearray((COMMITTED / artifact.GRAPH).read_bytes())
        for at in data.draw(st.lists(st.integers(0, 3000) | st.integers(0, len(content) - 1), min_size=1, max_size=8)):
            content[at] = data.draw(st.integers(0, 255))
        try:
            graph.embedding_rows(bytes(content))
        except ValueError as error:
            assert str(error)


class TestInstall:
    @pytest.fixture
    def state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(artifact, "PACKAGED", tmp_path / "package" / "models")
        tiny_model(tmp_path / "package" / "models", "shipped-1")
        return tmp_path / "state"

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[str], Path]:
        return lambda id: tiny_model(tmp_path / "made", id)

    def test_the_packaged_model_is_the_default(self, state: Path) -> None:
        """Without a state directory, or with none installed in it, the model in the package is used."""
        assert artifact.find(None).name == artifact.find(state).name == "shipped-1"

    def test_an_empty_package_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No model anywhere is a sentence."""
        monkeypatch.setattr(artifact, "PACKAGED", tmp_path / "none")
        with pytest.raises(ModelError, match="There is no model"):
            artifact.find(None)

    def test_the_installed_model_is_current(self, state: Path, make: Callable[[str], Path]) -> None:
        """After an installation `find` leads to a copy that scores, and the source is not needed any more."""
        source = make("mine-1")
        installed = artifact.install(source, state, open_scorer)
        shutil.rmtree(source)
        assert artifact.find(state) == state / "models" / "current" or artifact.find(state).name == "mine-1"
        assert open_scorer(artifact.load(artifact.find(state))).model == installed.id == "mine-1"

    def test_the_one_before_is_kept_and_comes_back(self, state: Path, make: Callable[[str], Path]) -> None:
        """`previous` is the model before; rolling back twice is where one began."""
        for id in ("mine-1", "mine-2"):
            artifact.install(make(id), state, open_scorer)
        assert artifact.find(state).name == "mine-2"
        assert artifact.rollback(state).id == "mine-1"
        assert artifact.find(state).name == "mine-1"
        assert artifact.rollback(state).id == "mine-2"

    def test_before_the_first_there_was_the_packaged_one(self, state: Path, make: Callable[[str], Path]) -> None:
        """Rolling back with one model leads to the packaged one, and again to that one; with none it is refused."""
        with pytest.raises(ModelError, match="no earlier model"):
            artifact.rollback(state)
        artifact.install(make("mine-1"), state, open_scorer)
        assert artifact.rollback(state).id == artifact.find(state).name == "shipped-1"
        assert artifact.rollback(state).id == artifact.find(state).name == "mine-1"

    def test_after_a_rollback_to_the_packaged_one_the_next_comes_after_that(
        self, state: Path, make: Callable[[str], Path]
    ) -> None:
        """What `previous` said before does not come back: the model before the next one was the packaged one."""
        artifact.install(make("mine-1"), state, open_scorer)
        artifact.rollback(state)
        artifact.install(make("mine-2"), state, open_scorer)
        assert artifact.rollback(state).id == "shipped-1"

    def test_a_model_that_fails_its_proof_changes_nothing(self, state: Path, make: Callable[[str], Path]) -> None:
        """The old model stays current, and no directory of that name appears."""
        artifact.install(make("mine-1"), state, open_scorer)
        bad = make("bad-1")
        golden = json.loads((bad / "meta.json").read_text())["golden"]
        change(bad, golden=[{"text": g["text"], "p": 1 - g["p"]} for g in golden])
        with pytest.raises(ModelError, match="golden texts"):
            artifact.install(bad, state, open_scorer)
        assert artifact.find(state).name == "mine-1"
        assert [d.name for d in artifact.available(state)] == ["shipped-1", "mine-1"]

    def test_a_damaged_source_is_refused(self, state: Path, make: Callable[[str], Path]) -> None:
        """Nothing is made of a source that `load` refuses."""
        bad = make("bad-1")
        (bad / artifact.WEIGHTS).write_bytes(b"")
        with pytest.raises(ModelError):
            artifact.install(bad, state, open_scorer)
        assert not (state / "models").exists()

    def test_an_interrupted_installation_is_begun_anew(self, state: Path, make: Callable[[str], Path]) -> None:
        """What a crash left aside is neither listed nor in the way."""
        (state / "models" / ".mine-1").mkdir(parents=True)
        (state / "models" / ".mine-1" / "meta.json").write_text("half")
        assert [d.name for d in artifact.available(state)] == ["shipped-1"]
        artifact.install(make("mine-1"), state, open_scorer)
        assert sorted(p.name for p in (state / "models").iterdir()) == ["current", "mine-1"]

    def test_installing_the_same_again_is_no_change(self, state: Path, make: Callable[[str], Path]) -> None:
        """`previous` still is what was before it, not itself."""
        for id in ("mine-1", "mine-2", "mine-2"):
            source = state.parent / "made" / id
            artifact.install(source if source.exists() else make(id), state, open_scorer)
        assert artifact.rollback(state).id == "mine-1"

    def test_another_model_of_the_same_name_is_refused(self, state: Path, make: Callable[[str], Path]) -> None:
        """An id stands for one model; the journal would not know which of two had judged."""
        source = make("mine-1")
        artifact.install(source, state, open_scorer)
        change(source, data="other data")
        with pytest.raises(ModelError, match="Another model named mine-1"):
            artifact.install(source, state, open_scorer)

    def test_only_what_the_description_lists_is_copied(self, state: Path, make: Callable[[str], Path]) -> None:
        """A stray file in the source does not come along."""
        source = make("mine-1")
        (source / "stray.pkl").write_bytes(b"\x80\x04.")
        installed = artifact.install(source, state, open_scorer)
        assert {p.name for p in installed.path.iterdir()} == {*artifact.NEEDED, "meta.json"}

    @pytest.mark.parametrize("target", ["gone", "../../elsewhere", "/etc", "..", "."])
    def test_a_pointer_that_leads_out_is_refused(self, state: Path, target: str) -> None:
        """`current` names a directory beside it; otherwise one sentence says how to get back."""
        tiny_model(state.parent, "elsewhere")
        (state / "models").mkdir(parents=True)
        (state / "models" / "current").symlink_to(target)
        with pytest.raises(ModelError) as error:
            artifact.find(state)
        assert "rm " in error.value.way_out
