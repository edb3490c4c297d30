"""The classifier in plain numpy, from its state dict: what the exported graphs are held against."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
State = Mapping[str, Array]


def logit(state: State, ids: Array) -> float:
    """The logit of one text."""
    x = state["encoder.embedding.weight"][ids].astype(np.float64)
    layer = 0
    while f"encoder.lstm.{layer}.weight_ih" in state:
        w, r, bi, bh = (state[f"encoder.lstm.{layer}.{n}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        hidden = cell = np.zeros(r.shape[1])
        rows = []
        for step in x:
            i, f, g, o = np.split(w @ step + bi + r @ hidden + bh, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            rows.append(hidden)
        x = np.array(rows)
        layer += 1
    y = np.concatenate([x[-1], x.max(axis=0), x.mean(axis=0)])
    for i in range(2):
        norm = {n: state[f"head.norm{i}.{n}"] for n in ("weight", "bias", "running_mean", "running_var")}
        y = (y - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
        y = state[f"head.linear{i}.weight"] @ y + state[f"head.linear{i}.bias"]
        if i == 0:
            y = np.maximum(y, 0)
    return float(y[0])


def sigmoid(x: Array) -> Array:
    """σ(x)."""
    return 1 / (1 + np.exp(-x))


def random_state(seed: int, words: int, embedding: int, hidden: int, layers: int) -> dict[str, Array]:
    """A state dict with the names and shapes of the contract, and weights that mean nothing."""
    draw = np.random.default_rng(seed)

    def some(*shape: int, scale: float = 0.3) -> Array:
        return draw.normal(0, scale, shape).astype(np.float32)

    # Some words have vectors a hundred times smaller than others, as rare words do.
    state = {"encoder.embedding.weight": some(words, embedding) * draw.uniform(0.01, 1, (words, 1)).astype(np.float32)}
    sizes = [embedding, *[hidden] * (layers - 1), embedding]
    for i, (n, m) in enumerate(pairwise(sizes)):
        shapes = {"weight_ih": (4 * m, n), "weight_hh": (4 * m, m), "bias_ih": (4 * m,), "bias_hh": (4 * m,)}
        state |= {f"encoder.lstm.{i}.{name}": some(*shape) for name, shape in shapes.items()}
    for i, (n, m) in enumerate(((3 * embedding, 50), (50, 1))):
        state |= {f"head.norm{i}.{name}": some(n) for name in ("weight", "bias", "running_mean")}
        state |= {f"head.norm{i}.running_var": np.abs(some(n)) + np.float32(0.1)}
        state |= {f"head.linear{i}.weight": some(m, n), f"head.linear{i}.bias": some(m)}
    return state


def read_safetensors(file: Path) -> dict[str, Array]:
    """The tensors in a .safetensors file: the length of a JSON header, the header, the bytes."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    kinds = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
    found = {}
    for name, at in header.items():
        begin, end = at["data_offsets"]
        found[name] = np.frombuffer(content[start + begin : start + end], kinds[at["dtype"]]).reshape(at["shape"])
    return found
