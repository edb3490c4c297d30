"""Which layers of a classifier learn when, and how fast: gradual unfreezing, and what ULMFiT §5.3 sets beside it."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mailtagger.ulmfit.model import Classifier

Group = dict[str, Any]  # params, scale: the factor of the rate, lr
Stage = tuple[list[Group], float]  # what learns, and the share of the epochs
SHARE = 0.08  # a twelfth of the epochs for each stage of gradual unfreezing but the last


def groups(layers: Sequence[nn.Module], rate: float, discriminative: float) -> list[Group]:
    """A parameter group for each layer, from the last down; each learns `discriminative` times slower than the one
    above it (ULMFiT §3.2: 2.6)."""
    return [
        {"params": list(layer.parameters()), "scale": discriminative**-i, "lr": rate * discriminative**-i}
        for i, layer in enumerate(layers)
    ]


def layers(model: Classifier) -> list[nn.Module]:
    """The head, the LSTM's layers from the last down, the embedding."""
    return [model.head, *reversed(model.encoder.lstm), model.encoder.embedding]


def thaw(model: nn.Module, some: Sequence[Group]) -> None:
    """Let the weights of these groups learn, and no others."""
    learning = {id(p) for group in some for p in group["params"]}
    for p in model.parameters():
        p.requires_grad_(id(p) in learning)


def gradual(ranked: list[Group]) -> list[Stage]:
    """The head, then one layer more at a time (ULMFiT §3.3)."""
    last = len(ranked) - 1
    return [(ranked[: n + 1], SHARE if n < last else 1 - SHARE * last) for n in range(len(ranked))]


def full(ranked: list[Group]) -> list[Stage]:
    """All layers from the start."""
    return [(ranked, 1.0)]


def last(ranked: list[Group]) -> list[Stage]:
    """The head alone."""
    return [(ranked[:1], 1.0)]


def chain_thaw(ranked: list[Group]) -> list[Stage]:
    """The head, then each layer alone from the first up, then all (Felbo et al. 2017, arXiv 1708.00524)."""
    single = [ranked[:1], *([group] for group in reversed(ranked))]
    return [(some, SHARE) for some in single] + [(ranked, 1 - SHARE * len(single))]


SCHEMES: dict[str, Callable[[list[Group]], list[Stage]]] = {
    "gradual": gradual,
    "full": full,
    "last": last,
    "chain-thaw": chain_thaw,
}
