"""The exported graphs against plain numpy."""

from pathlib import Path

import numpy as np
import oracle
import pytest

from tests.tiny_model import COMMITTED, tiny_model

pytest.importorskip("onnx", reason="needs the [train] extra")
pytest.importorskip("safetensors", reason="needs the [train] extra")

import onnxruntime
from onnx import numpy_helper

from mailtagger import artifact, graph
from mailtagger.score import open_scorer
from mailtagger.ulmfit import export, linear

pytestmark = pytest.mark.train


def run(model: bytes, ids: np.ndarray) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return float(session.run(["logit"], {"ids": ids[np.newaxis]})[0].item())


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 57])
def test_the_reference_graph_is_the_model(layers: int, length: int) -> None:
    """fp32: gate order, the sum of both biases, pooling and folded normalisation agree with numpy to five digits."""
    state = oracle.random_state(seed=layers, words=200, embedding=12, hidden=20, layers=layers)
    ids = np.random.default_rng(length).integers(0, 200, length)
    assert run(export.graph(state).SerializeToString(), ids) == pytest.approx(oracle.logit(state, ids), abs=1e-4)


@pytest.mark.parametrize("length", [1, 2, 3, 57])
def test_the_linear_part_stands_in_both_graphs(length: int) -> None:
    """The logit is the LSTM's, bounded, plus the share of the linear part, on any text; repeats count once."""
    state = oracle.random_state(seed=4, words=60, embedding=12, hidden=20, layers=2)
    draw = np.random.default_rng(length)
    documents = [draw.integers(4, 60, int(draw.integers(1, 40))).tolist() for _ in range(80)]
    part = linear.fit(documents, [ids[0] > 30 for ids in documents], [1.0] * 80, 60)
    both = state | export.with_linear(part, 0.6)
    ids = draw.integers(4, 60, length)
    beside = 0.6 * part.logits([ids.tolist()])[0]
    assert abs(beside) > 0.01
    exact = float(linear.bounded(np.float64(oracle.logit(state, ids)))) + beside
    assert run(export.graph(both).SerializeToString(), ids) == pytest.approx(exact, abs=1e-4)
    near = float(linear.bounded(np.float64(run(export.int8(state), ids)))) + beside
    assert run(export.int8(both), ids) == pytest.approx(near, abs=1e-4)
    assert graph.embedding_rows(export.int8(both)) == 60


def test_the_int8_graph_follows_the_reference() -> None:
    """int8: over random texts the logits correlate with numpy's above 0.99; 0.9 is what saturation looks like."""
    state = oracle.random_state(seed=5, words=500, embedding=32, hidden=64, layers=2)
    model = export.int8(state)
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, 500, int(draw.integers(1, 60))) for _ in range(60)]
    wanted = [oracle.logit(state, ids) for ids in texts]
    assert np.corrcoef(wanted, [run(model, ids) for ids in texts])[0, 1] > 0.99


def test_a_rare_words_vector_survives_int8() -> None:
    """Each word has a scale of its own, so a vector a thousand times smaller than another is not rounded to nothing."""
    state = oracle.random_state(seed=1, words=50, embedding=8, hidden=8, layers=1)
    state["encoder.embedding.weight"][7] *= 1e-3
    made = export.graph(state, small_embedding=True).graph.initializer
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in made}
    vectors = state["encoder.embedding.weight"]
    errors = np.abs(tensors["embedding"] * tensors["scales"] - vectors).max(axis=1)
    assert (errors / np.abs(vectors).max(axis=1)).max() < 0.005


def test_only_known_operators_are_made() -> None:
    """What export writes is what `artifact.load` lets in, with the vocabulary as its embedding's rows."""
    state = oracle.random_state(seed=2, words=77, embedding=8, hidden=8, layers=2)
    assert (
        graph.embedding_rows(export.int8(state)) == graph.embedding_rows(export.graph(state).SerializeToString()) == 77
    )


def test_an_export_is_a_complete_artifact(tmp_path: Path) -> None:
    """Everything design asks for is in the directory, and it loads, is proven, and says what it was told."""
    words = artifact.load(tiny_model(tmp_path)).meta.vocabulary
    state = oracle.random_state(seed=3, words=words, embedding=16, hidden=24, layers=2)
    state["decoder.bias"] = np.zeros(words, np.float32)
    made = export.export(
        state, COMMITTED / artifact.TOKENIZER, tmp_path / "out", id="new-1", golden=["hello", "order now"],
        calibration=(0.7, -0.2), cutoffs=(0.1, 0.9), cut=(64, 32), metrics={"foreign": {"ham": 3}}, parent="old-1",
        data="abc",
    )  # fmt: skip
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*artifact.NEEDED, artifact.REFERENCE, artifact.META}
    meta = artifact.load(tmp_path / "out").meta
    assert (meta.parent, meta.data, meta.metrics) == ("old-1", "abc", {"foreign": {"ham": 3}})
    scorer = open_scorer(made)
    assert scorer.score("order now " * 90).tokens == 96
    score = scorer.score("hello")
    assert score.p == pytest.approx(1 / (1 + np.exp(-(0.7 * score.logit - 0.2)))) == made.meta.golden[0].p


def test_kept_weights_are_the_weights(tmp_path: Path) -> None:
    """weights.safetensors holds every tensor, matrices in 16 bits, so that training can go on from it."""
    words = artifact.load(tiny_model(tmp_path)).meta.vocabulary
    state = oracle.random_state(seed=4, words=words, embedding=8, hidden=8, layers=1)
    export.export(
        state, COMMITTED / artifact.TOKENIZER, tmp_path / "out", id="new-1", golden=["hello"], calibration=(1, 0),
        cutoffs=(0.1, 0.9),
    )  # fmt: skip
    kept = oracle.read_safetensors(tmp_path / "out" / artifact.WEIGHTS)
    assert kept.keys() == state.keys()
    for name, value in state.items():
        assert np.allclose(kept[name].astype(np.float32), value, rtol=1e-3, atol=1e-6)
    assert kept["encoder.embedding.weight"].dtype == np.float16


def test_the_graph_of_torch_is_the_same() -> None:
    """The contract of names, shapes and gate order is that of torch's own LSTM and BatchNorm1d."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    lstm, norm = torch.nn.LSTM(8, 8), torch.nn.BatchNorm1d(24)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    linear0, norm1, linear1 = torch.nn.Linear(24, 50), torch.nn.BatchNorm1d(50), torch.nn.Linear(50, 1)
    embedding = torch.nn.Embedding(30, 8)
    parts = {"head.norm0": norm, "head.linear0": linear0, "head.norm1": norm1, "head.linear1": linear1}
    state = {"encoder.embedding.weight": embedding.weight.detach().numpy()}
    state |= {f"encoder.lstm.0.{name[:-3]}": p.detach().numpy() for name, p in lstm.named_parameters()}
    for prefix, part in parts.items():
        part.eval()
        state |= {f"{prefix}.{name}": value.numpy() for name, value in part.state_dict().items() if value.ndim}
    ids = torch.arange(12)
    with torch.no_grad():
        x, _ = lstm(embedding(ids)[:, None])
        pooled = torch.cat([x[-1], x.amax(0), x.mean(0)], 1)
        wanted = linear1(norm1(linear0(norm(pooled)).relu())).item()
    assert run(export.graph(state).SerializeToString(), ids.numpy()) == pytest.approx(wanted, abs=1e-5)
