"""State dict → ONNX graphs: ids (1, T) in, one logit of spam out; the fp32 reference and the int8 graph that ships.

Batch normalisation stands still in scoring: each is folded into the linear layer behind it, which is exact. In the
int8 graph the LSTM's weights have one scale for each row (`per_channel`) and seven bits (`reduce_range`: without it
AVX2 saturates, and scores correlate with fp32 at 0.86–0.92); the embedding has one scale for each word, looked up
beside its row, so that no word's small vector is rounded away by another's large one. The head is small and stays fp32.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import save as safetensors

from mailtagger import artifact
from mailtagger.score import Scorer, open_scorer
from mailtagger.ulmfit.linear import BOUND, BUCKETS, LINEAR, PAIR, TRIPLE, Linear
from mailtagger.ulmfit.tokenizer import PAD

Array = NDArray[np.float32]
State = Mapping[str, NDArray[Any]]

OPSET = 17
IR_VERSION = 8  # what opset 17 came with: older onnxruntimes read it too
EPS = 1e-5  # BatchNorm1d's


def export(
    state: State,
    tokenizer: Path,
    out: Path,
    *,
    id: str,
    golden: Sequence[str],
    calibration: tuple[float, float],
    cutoffs: tuple[float, float],
    cut: tuple[int, int] = (256, 128),
    metrics: Mapping[str, Any] | None = None,
    parent: str | None = None,
    data: str = "",
    created: str = "",
    linear: Linear | None = None,
    mix: float = 1.0,
) -> artifact.Artifact:
    """The directory `out` as a complete artifact, which has been loaded and found to give the scores it records.

    `golden` are five or so cleaned texts, `calibration` is (a, b) of p = σ(a·logit + b), `cutoffs` is (ham, spam),
    `cut` is (head, tail), `data` is the fingerprint of what the model learned from, `created` a date. With a `linear`
    part the logit is the LSTM's, bounded, plus `mix` times the linear one.
    """
    if linear:
        if len(linear.weight) != len(state["encoder.embedding.weight"]) + BUCKETS:
            raise ValueError("the linear part was fitted on another vocabulary than the LSTM's")
        state = {**state, **with_linear(linear, mix)}
    out.mkdir(parents=True, exist_ok=True)
    (out / artifact.META).unlink(missing_ok=True)
    (out / artifact.TOKENIZER).write_bytes(tokenizer.read_bytes())
    (out / artifact.WEIGHTS).write_bytes(safetensors(_compact(state)))
    (out / artifact.REFERENCE).write_bytes(graph(state).SerializeToString())
    (out / artifact.GRAPH).write_bytes(int8(state))
    draft = artifact.describe(
        out,
        id=id,
        created=created or date.today().isoformat(),
        vocabulary=len(state["encoder.embedding.weight"]),
        cut=artifact.Cut(head=cut[0], tail=cut[1]),
        calibration=artifact.Calibration(a=calibration[0], b=calibration[1]),
        cutoffs=artifact.Cutoffs(ham=cutoffs[0], spam=cutoffs[1]),
        metrics=dict(metrics or {}),
        parent=parent,
        data=data,
        golden=tuple(artifact.Golden(text=text, p=0) for text in golden),
    )
    scorer = Scorer(draft)
    scores = tuple(artifact.Golden(text=text, p=scorer.score(text).p) for text in golden)
    artifact.write(replace(draft, meta=draft.meta.model_copy(update={"golden": scores})))
    finished = artifact.load(out)
    open_scorer(finished)
    return finished


def int8(state: State) -> bytes:
    """The graph that ships, serialised."""
    model = graph(state, small_embedding=True)
    # There is nothing to prepare in it; without this mark the quantiser advises to on every call.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as aside:
        target = Path(aside) / "int8.onnx"
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["LSTM"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return target.read_bytes()


def graph(state: State, small_embedding: bool = False) -> onnx.ModelProto:
    """ids int64 (1, T) → logit (1, 1): embedding, LSTM layers, concat pooling, two linear layers."""
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []

    def tensor(name: str, value: NDArray[Any]) -> str:
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, outputs, name=f"{operator.lower()}.{outputs[0]}", **attributes))
        return outputs[0]

    table = _f32(state["encoder.embedding.weight"])
    if small_embedding:
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12) / 127
        rows = node("Gather", [tensor("embedding", np.rint(table / scale).astype(np.int8)), "ids"], "rows")
        scales = node("Gather", [tensor("scales", scale), "ids"], "row_scales")
        x = node("Mul", [node("Cast", [rows], "rows_f32", to=TensorProto.FLOAT), scales], "embedded")
    else:
        x = node("Gather", [tensor("embedding", table), "ids"], "embedded")
    x = node("Transpose", [x], "in_time", perm=[1, 0, 2])  # ONNX's LSTM wants (T, 1, E)
    tensor("directions", np.array([1]))
    last = ""
    for i in range(_layers(state)):
        w, r, b, hidden = _lstm(state, i)
        inputs = [x, tensor(f"w{i}", w), tensor(f"r{i}", r), tensor(f"b{i}", b)]
        last = f"last{i}"
        x = node("LSTM", inputs, f"all{i}", last, hidden_size=hidden)
        x = node("Squeeze", [x, "directions"], f"out{i}")
    peak = node("ReduceMax", [x], "max", axes=[0], keepdims=1)
    mean = node("ReduceMean", [x], "mean", axes=[0], keepdims=1)
    pooled = node("Concat", [last, peak, mean], "pooled_in_time", axis=2)
    x = node("Squeeze", [pooled, tensor("time", np.array([0]))], "pooled")
    beside = linear_part(state)
    for i, name in enumerate(("hidden", "read" if beside else "logit")):
        weight, bias = _folded(state, i)
        x = node("Gemm", [x, tensor(f"head{i}", weight), tensor(f"bias{i}", bias)], name, transB=1)
        if i == 0:
            x = node("Relu", [x], "relu")
    if beside:
        share = _add_linear(*beside, node, tensor)
        bound, per_bound = (tensor(n, np.full(1, v, np.float32)) for n, v in (("bound", BOUND), ("per", 1 / BOUND)))
        bent = node("Tanh", [node("Mul", [x, per_bound], "scaled")], "bent")
        node("Add", [node("Mul", [bent, bound], "bounded"), share], "logit")
    body = helper.make_graph(
        nodes,
        "mailtagger",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "T"])],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, [1, 1])],
        tensors,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def with_linear(linear: Linear, mix: float) -> dict[str, Array]:
    """What a linear part and its share add to a state; `linear_part` takes it out again."""
    bias, share = np.array([linear.bias], np.float32), np.array([mix], np.float32)
    found = {"weight": linear.weight, "length": linear.length, "bias": bias, "mix": share}
    return {LINEAR + name: value for name, value in found.items()}


def linear_part(state: State) -> tuple[Linear, float] | None:
    """The linear part that an artifact's weights hold, and its share; None where there is none."""
    if LINEAR + "mix" not in state:
        return None
    weight, length, bias, mix = (_f32(state[LINEAR + name]) for name in ("weight", "length", "bias", "mix"))
    return Linear(weight, length, float(bias[0])), float(mix[0])


def _add_linear(part: Linear, mix: float, node: Callable[..., str], tensor: Callable[..., str]) -> str:
    """The nodes of `Linear.logits` for one document, times its share: the name of what they give, (1,)."""

    def number(name: str, value: Any) -> str:
        return tensor(name, np.array(value, np.int64))

    padded = node("Concat", ["ids", number("pads", [[PAD, PAD]])], "padded", axis=1)
    row = number("in_row", [1])
    after = (
        node("Slice", [padded, number("second", [1]), number("but_last", [-1]), row], "after"),
        node("Slice", [padded, number("third", [2]), number("end", [1 << 30]), row], "after_next"),
    )
    runs = ["ids"]
    buckets, behind = number("buckets", BUCKETS), number("behind_pieces", len(part.weight) - BUCKETS)
    for kind, factors in (("pair", PAIR), ("triple", TRIPLE)):
        total = ""
        for factor, of in zip(factors, ("ids", *after), strict=False):
            name = f"{kind}_{of}"
            term = node("Mul", [of, number(f"{name}_factor", factor)], name)
            total = node("Add", [total, term], f"{name}_sum") if total else term
        hashed = node("Mod", [total, buckets], f"{kind}_hashed")
        runs.append(node("Add", [hashed, behind], kind))
    terms = node("Unique", [node("Concat", runs, "runs", axis=1)], "terms")
    summed = {
        name: node("ReduceSum", [node("Gather", [tensor(f"term_{name}", value), terms], f"{name}s")], f"{name}_sum")
        for name, value in (("weight", part.weight * mix), ("length", part.length))
    }
    norm = node("Sqrt", [node("Max", [summed["length"], tensor("one", np.ones(1, np.float32))], "squared")], "norm")
    unit = node("Mul", [summed["weight"], node("Reciprocal", [norm], "per_norm")], "unit")
    return node("Add", [unit, tensor("linear_bias", np.full(1, part.bias * mix, np.float32))], "beside")


def _layers(state: State) -> int:
    return sum(name.startswith("encoder.lstm.") and name.endswith(".weight_ih") for name in state)


def _lstm(state: State, i: int) -> tuple[Array, Array, Array, int]:
    """W, R, B and the size of layer `i`, its gates in ONNX's order (i, o, f, c) instead of torch's (i, f, g, o)."""

    def gates(name: str) -> Array:
        i_, f, g, o = np.split(_f32(state[f"encoder.lstm.{i}.{name}"]), 4)
        return np.concatenate([i_, o, f, g])

    bias = np.concatenate([gates("bias_ih"), gates("bias_hh")])
    recurrent = gates("weight_hh")
    return gates("weight_ih")[None], recurrent[None], bias[None], recurrent.shape[1]


def _folded(state: State, i: int) -> tuple[Array, Array]:
    """Weight and bias of linear layer `i` behind its batch normalisation, as one layer."""
    norm, linear = f"head.norm{i}.", f"head.linear{i}."
    scale = _f32(state[norm + "weight"]) / np.sqrt(_f32(state[norm + "running_var"]) + EPS)
    shift = _f32(state[norm + "bias"]) - _f32(state[norm + "running_mean"]) * scale
    weight = _f32(state[linear + "weight"])
    return (weight * scale).astype(np.float32), (_f32(state[linear + "bias"]) + weight @ shift).astype(np.float32)


def _compact(state: State) -> dict[str, NDArray[Any]]:
    """The weights as they are kept for training to go on from: matrices in 16 bits, the rest as it is."""
    kept = {name: value.astype(np.float16) if value.ndim > 1 else value for name, value in state.items()}
    return {name: np.ascontiguousarray(value) for name, value in kept.items()}


def _f32(value: NDArray[Any]) -> Array:
    return np.asarray(value, dtype=np.float32)
