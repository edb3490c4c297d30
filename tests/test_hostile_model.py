"""A model directory from a stranger, whose description fits its files: it runs no code, reads nothing beside it, and
fills no memory; it is refused in a sentence before a library sees it."""

import ast
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtagger import artifact, graph
from mailtagger.artifact import GRAPH, META, TOKENIZER, WEIGHTS
from mailtagger.errors import ModelError
from mailtagger.score import open_scorer
from tests.tiny_model import COMMITTED, tiny_model

ROOT = Path(__file__).parent.parent


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path)


def varint(n: int) -> bytes:
    return bytes([n & 0x7F | 0x80]) + varint(n >> 7) if n > 127 else bytes([n])


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message, by hand: no test needs the onnx package."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def hidden(number: int, value: bytes) -> bytes:
    """A field whose key has a bit above the 32 that protobuf keeps of it."""
    return varint((number << 3 | 2) + (1 << 32)) + varint(len(value)) + value


def changed(model: Path, content: bytes, name: str = GRAPH) -> Path:
    """The directory with another file, and a description that fits it, as one writes who means harm."""
    (model / name).write_bytes(content)
    meta = json.loads((model / META).read_text())
    meta["files"][name] = hashlib.sha256(content).hexdigest()
    meta["tokenizer"] = meta["files"][TOKENIZER]
    (model / META).write_text(json.dumps(meta))
    return model


def grown(*fields: bytes, name: str = GRAPH, within: int | None = 7) -> bytes:
    """The file as it is with more fields in it, inside its graph or beside that."""
    content = (COMMITTED / name).read_bytes()
    if within is None:
        return content + b"".join(fields)
    parts = []
    for number, value in graph._fields(memoryview(content)):
        inside = bytes(value) + b"".join(fields) if number == within else value
        parts.append(field(number, inside if isinstance(inside, int) else bytes(inside)))
    return b"".join(parts)


def tensor(dims: list[int], *more: bytes) -> bytes:
    return field(5, b"".join(field(1, dim) for dim in dims) + field(2, 1) + field(8, b"more") + b"".join(more))


def node(operator: bytes, domain: bytes = b"", *more: bytes) -> bytes:
    return field(1, field(1, b"logit") + field(2, b"x") + field(4, operator) + field(7, domain) + b"".join(more))


def elsewhere(path: bytes) -> bytes:
    """A tensor whose data lies in another file (StringStringEntryProto, DataLocation EXTERNAL)."""
    return tensor([16], field(13, field(1, b"location") + field(2, path)), field(14, 1))


GRAPHS: dict[str, tuple[bytes, str]] = {
    "data in /etc/passwd": (grown(elsewhere(b"../../../../etc/passwd")), "other files"),
    "data in an absolute path": (grown(elsewhere(b"/etc/passwd")), "other files"),
    "data beside it": (grown(elsewhere(WEIGHTS.encode())), "other files"),
    "an operator of another domain": (grown(node(b"Add", b"com.evil")), "operator 'Add'"),
    "an operator that runs Python": (grown(node(b"PyOp", b"ai.onnx.contrib")), "operator 'PyOp'"),
    "an engine in a context node": (grown(node(b"EPContext", b"com.microsoft")), "operator 'EPContext'"),
    "a loop": (grown(node(b"Loop")), "operator 'Loop'"),
    "a graph in an attribute": (grown(node(b"Add", b"", field(5, field(1, b"body") + field(6, b"")))), "attribute"),
    "ten gigabytes that are not there": (grown(tensor([100_000, 25_000])), "claims more than it holds"),
    "more than any number": (grown(tensor([1 << 62, 1 << 62])), "claims more than it holds"),
    "a sparse tensor": (grown(field(15, b"")), "sparse"),
    "a function named like an operator": (grown(field(25, field(1, b"Add")), within=None), "functions"),
    "training inside": (grown(field(20, b""), within=None), "functions"),
    "a thousand nodes": (grown(node(b"Add") * 1000), "joins more"),
    "a thousand tensors": (grown(tensor([1]) * 1000), "more tensors"),
    "a million parts": (grown(field(9, 0) * 1_000_000, within=None), "more parts"),
    "a second graph, under a number that protobuf cuts short": (
        grown(hidden(7, elsewhere(b"/etc/passwd")), within=None), "ONNX format"),
    "a loop, under such a number": (grown(hidden(1, node(b"Loop")[2:])), "ONNX format"),
    "onnxruntime's own format": (b"\x12\xf0\x03\x00ORTM" + bytes(491) + grown(), "ONNX format"),
    "a pickle": (pickle.dumps(print), "ONNX format"),
    "nothing": (b"", "ONNX format"),
}


def refused(model: Path) -> str:
    with pytest.raises(ModelError) as error:
        artifact.load(model)
    assert error.value.problem.isprintable()
    return error.value.problem


@pytest.mark.parametrize("which", GRAPHS)
def test_graph_that_means_harm(model: Path, which: str) -> None:
    """Refused by what stands in it, before onnxruntime opens it."""
    content, why = GRAPHS[which]
    assert why in refused(changed(model, content))


def test_graph_of_ours_passes_with_its_fields_written_anew() -> None:
    """What the tests above add is what is refused, not how they write."""
    assert graph.embedding_rows(grown()) == graph.embedding_rows((COMMITTED / GRAPH).read_bytes())


TOKENIZERS: dict[str, tuple[bytes, str]] = {
    "letters that become books": (grown(field(2, b"\x01" * 64), name=TOKENIZER, within=3), "rules of its own"),
    "another such table": (grown(field(3, field(2, b"x")), name=TOKENIZER, within=None), "rules of its own"),
    "and on the way back": (grown(field(5, field(2, b"x")), name=TOKENIZER, within=None), "rules of its own"),
    "a million empty pieces": (grown(field(1, b"") * 1_000_000, name=TOKENIZER, within=None), "more parts"),
    "more words than it says": (grown(field(1, b"") * 9, name=TOKENIZER, within=None), "its tokeniser of 609"),
    "a pickle": (pickle.dumps(print), "no sentencepiece model"),
    "nothing": (b"", "its tokeniser of 0"),
}


@pytest.mark.parametrize("which", TOKENIZERS)
def test_tokeniser_that_means_harm(model: Path, which: str) -> None:
    """Small files that become large in memory, or make large texts of small ones."""
    content, why = TOKENIZERS[which]
    assert why in refused(changed(model, content, TOKENIZER))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_tokeniser_or_none(content: bytes) -> None:
    """The reader gives a number or a ValueError."""
    try:
        assert graph.pieces(content) >= 0
    except ValueError as error:
        assert "tokeniser" in str(error)


@pytest.mark.parametrize("content", [
    b"", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}", pickle.dumps(print), b"PK\x03\x04" + bytes(60),
], ids=["nothing", "all ones", "a terabyte of header", "a pickle", "a zip, as torch.save writes"])
def test_weights_that_mean_harm(model: Path, content: bytes) -> None:
    """Refused at once by their header's length, or by safetensors when `retrain` reads them; nothing unpickles them."""
    changed(model, content, WEIGHTS)
    if content:
        assert "no header of a sensible length" in refused(model)
    safetensors = pytest.importorskip("safetensors.numpy")
    with pytest.raises(Exception, match=r"(?i)header|deserializ"):
        safetensors.load(content)


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER, WEIGHTS, META])
@pytest.mark.parametrize("kind", ["link to the same bytes", "link to a device", "pipe", "directory"])
def test_only_plain_files_are_read(model: Path, tmp_path: Path, name: str, kind: str) -> None:
    """Nothing leads out of the directory, waits, or never ends."""
    (model / name).rename(tmp_path / "outside")
    match kind:
        case "link to the same bytes":
            (model / name).symlink_to(tmp_path / "outside")
        case "link to a device":
            (model / name).symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(model / name)
        case "directory":
            (model / name).mkdir()
    assert name in refused(model)


@pytest.mark.parametrize(("key", "value"), [
    ("cutoffs", '{"ham": NaN, "spam": NaN}'),
    ("cutoffs", '{"ham": 0.1, "spam": Infinity}'),
    ("cutoffs", '{"ham": -1e308, "spam": 1e308}'),
    ("calibration", '{"a": NaN, "b": 0}'),
    ("calibration", '{"a": 1e308, "b": 1e308}'),
    ("calibration", f'{{"a": 1{"0" * 5000}, "b": 0}}'),
    ("vocabulary", "1000000000000"),
    ("vocabulary", "-1"),
    ("cut", '{"head": 1000000000, "tail": 128}'),
    ("golden", "[" + ", ".join(['{"text": "x", "p": 0.5}'] * 1000) + "]"),
    ("golden", '[{"text": "x", "p": NaN}]'),
    ("id", '"../../../etc"'),
    ("id", '"a/b"'),
    ("id", '"\\u001b[2Jcurrent"'),
    ("files", '{"../../../etc/passwd": "' + "0" * 64 + '"}'),
    ("metrics", "[" * 5000 + "]" * 5000),
    ("metrics", '{"x": "' + "y" * (1 << 20) + '"}'),
    ("\\u001b]0;gone\\u0007", "1"),
])
def test_description_that_means_harm(model: Path, key: str, value: str) -> None:
    """Numbers without measure, names that lead out, nesting without end, and what a terminal would obey."""
    text = (model / META).read_text().rstrip()
    kept = json.loads(text)
    kept.pop(key, None)
    (model / META).write_text(f'{json.dumps(kept)[:-1]}, "{key}": {value}}}')
    assert META in refused(model)


def test_what_lies_beside_the_model_is_not_touched(model: Path, tmp_path: Path) -> None:
    """Python files, pickles and libraries in the directory are neither run nor copied when it is installed."""
    trap = tmp_path / "sprung"
    code = f"open({str(trap)!r}, 'w')"
    (model / "__init__.py").write_text(code)
    (model / "conftest.py").write_text(code)
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Sprung(code)))
    (model / "custom_ops.so").write_bytes(b"\x7fELF")
    installed = artifact.install(model, tmp_path / "state", open_scorer)
    assert {file.name for file in installed.path.iterdir()} == {META, *artifact.NEEDED}
    assert not trap.exists()


class Sprung:
    """What a pickle may be: a call, made when it is read."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (self._code,)


def test_the_command_refuses_it_in_a_sentence(model: Path) -> None:
    """`models verify` on a stranger's directory: status 1, no traceback, and little memory."""
    changed(model, GRAPHS["ten gigabytes that are not there"][0])
    done = subprocess.run(
        [sys.executable, "-c", "import resource, sys; from mailtagger.cli import main\n"
         "resource.setrlimit(resource.RLIMIT_AS, (2 << 30,) * 2); main()", "models", "verify", str(model)],
        capture_output=True, text=True, cwd=ROOT, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert "claims more than it holds" in done.stdout and "Traceback" not in done.stderr


def test_nothing_unpickles() -> None:
    """No module of ours imports what runs code from data, or calls what may."""
    for path in (ROOT / "mailtagger").rglob("*.py"):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in part.names} | {getattr(part, "module", None)}
                assert not names & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}, path
            elif isinstance(part, ast.Call):
                called = ast.unparse(part.func)
                assert called not in {"eval", "exec", "torch.load", "np.load", "numpy.load", "yaml.load"}, path
