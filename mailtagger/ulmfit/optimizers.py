"""AdamW, and AWD-LSTM's own: SGD whose weights are averaged, from the start (ASGD, Polyak & Juditsky 1992) or from the
moment that validation no longer gets better (NT-ASGD, Merity et al. 2017, arXiv 1708.02182, Algorithm 1)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Groups = Sequence[Mapping[str, Any]]
NAMES = ("adamw", "sgd", "asgd", "nt-asgd")


def optimizer(name: str, groups: Groups) -> torch.optim.Optimizer:
    """The optimiser of a name, with what the literature gives it: fastai's betas and decay, AWD-LSTM's decay of SGD."""
    if name == "adamw":
        return torch.optim.AdamW([{**group} for group in groups], betas=(0.8, 0.99), weight_decay=0.01)
    return torch.optim.SGD([{**group} for group in groups], weight_decay=1.2e-6)


def average(name: str, patience: int, parameters: Iterable[Tensor]) -> "Average | None":
    """What averages the weights beside an optimiser, if anything."""
    return Average(parameters, patience if name == "nt-asgd" else None) if name in ("asgd", "nt-asgd") else None


class Average:
    """The mean of the weights over the steps since it began."""

    def __init__(self, parameters: Iterable[Tensor], patience: int | None = None) -> None:
        """`patience`: how many validations the best must lie back for the mean to begin; None: it begins at once."""
        self._parameters = list(parameters)
        self.patience = patience
        self.begun = patience is None
        self.steps = 0
        self.history: list[float] = []
        self.mean: list[Tensor] = [torch.zeros_like(p) for p in self._parameters]

    def validated(self, loss: float) -> None:
        """Hear of a validation loss; the non-monotone trigger: worse than the best of all but the last `patience`."""
        n = self.patience
        if n is not None and len(self.history) > n:
            self.begun |= loss > min(self.history[: len(self.history) - n])
        self.history.append(loss)

    @torch.no_grad()
    def step(self) -> None:
        """Take the weights in, after each step of the optimiser."""
        if self.begun:
            self.steps += 1
            for mean, p in zip(self.mean, self._parameters, strict=True):
                mean += (p - mean) / self.steps

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The mean in the place of the weights, while there is one."""
        kept = [p.detach().clone() for p in self._parameters]
        self.settle()
        try:
            yield
        finally:
            self._put(kept)

    def settle(self) -> None:
        """Make the mean the weights, for good."""
        if self.steps:
            self._put(self.mean)

    def numbers(self) -> dict[str, Any]:
        """What is to be remembered of it beside the mean."""
        return {"steps": self.steps, "begun": self.begun, "history": self.history}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from the tensors mean.0, mean.1 … and from `numbers`."""
        self.steps, self.begun, self.history = numbers["steps"], numbers["begun"], list(numbers["history"])
        for i, mean in enumerate(self.mean):
            mean.copy_(tensors[f"mean.{i}"])

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for p, value in zip(self._parameters, values, strict=True):
            p.copy_(value)
