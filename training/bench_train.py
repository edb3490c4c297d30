"""Speed of training a language model beside fastai's, in one run on the same batches: `python -m training.bench_train`.

Everyone trains a model of the same size, tied, of as many layers, with AdamW's update after each batch:

- fastai: `language_model_learner` with AWD_LSTM, as it comes, through `Learner.fit`; its mixed precision needs CUDA.
- ours: the step of `training.lm`, with a sampled softmax, and in bf16 where the processor multiplies that.
- ours with the whole softmax, and that in fp32 as well: where the difference to fastai comes from.
- nn.LSTM: with neither dropout nor penalties nor clipping, otherwise as ours; what regularisation costs beside it.

They take turns, a few batches each, each on one thread. What counts is the process's own time on the processor, so that
other work on the machine slows all of them alike, if at all. A speed is the median over the rounds, a ratio the median
of the rounds' ratios, with the lowest and highest in brackets. Compare ratios; tokens/s are this machine's, today.
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import optimizers
from mailtagger.ulmfit.language_model import step_language_model
from mailtagger.ulmfit.model import SIZES, Dropouts, LanguageModel, Sizes, State

Batch = tuple[Tensor, Tensor]
Trainer = Callable[[Sequence[Batch]], float]  # trains on batches in order, and returns the seconds
RATE, SAMPLED = 1e-3, 1024
FASTAI, OURS, BOUND = "fastai language_model_learner", "ours", "nn.LSTM without dropout"


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of one contestant, round by round."""

    name: str
    rounds: tuple[float, ...]

    def over(self, other: "Speeds") -> list[float]:
        """How many times as fast as another, in each round, in ascending order."""
        return sorted(a / b for a, b in zip(self.rounds, other.rounds, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table for each size."""
    options = argparse.ArgumentParser(
        prog="python -m training.bench_train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--size", choices=SIZES, nargs="+", default=["compact"], help="full: 400/1152×3, minutes more")
    options.add_argument("--vocabulary", type=int, default=8000)
    options.add_argument("--batch", type=int, default=64, help="rows")
    options.add_argument("--bptt", type=int, default=70, help="steps")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--batches", type=int, default=2, help="for each contestant in each round")
    options.add_argument("--fp32", action="store_true", help="no bf16, even where the processor has it")
    options.add_argument("--smoke", action="store_true", help="all of it in seconds; no figure of it means anything")
    given = options.parse_args(arguments)
    if given.smoke:
        given.size, given.vocabulary, given.batch, given.bptt, given.rounds = ["tiny"], 200, 4, 10, 3
    for name in ("vocabulary", "batch", "bptt", "rounds", "batches"):
        if getattr(given, name) < 1:
            raise MailtaggerError(f"Nothing can be trained with {name} {getattr(given, name)}.", "Above 0, please.")
    torch.set_num_threads(1)
    bf16 = _multiplies_bf16() and not given.fp32
    print(
        f"torch {torch.__version__}, one thread, {'bf16' if bf16 else 'fp32'}; batches of {given.batch} × {given.bptt}"
    )
    for name in given.size:
        sizes = replace(SIZES[name], vocabulary=given.vocabulary)
        report(name, sizes, race(contestants(sizes, bf16), *text(sizes, given)))


def text(sizes: Sizes, given: argparse.Namespace) -> tuple[list[Batch], int]:
    """Batches of made-up text, one for each step of all rounds and of a first that does not count, and the rounds.
    Pieces are as rare as in a language (Zipf), for the sampled softmax counts the different ones in a batch."""
    chances = 1 / np.arange(3, sizes.vocabulary + 3)
    n = (given.rounds + 1) * given.batches
    pieces = np.random.default_rng(0).choice(
        sizes.vocabulary, (given.batch, n * given.bptt + 1), p=chances / chances.sum()
    )
    rows = torch.from_numpy(pieces)
    edges = range(0, n * given.bptt + 1, given.bptt)
    return [(rows[:, a:b], rows[:, a + 1 : b + 1]) for a, b in pairwise(edges)], given.rounds + 1


def contestants(sizes: Sizes, bf16: bool) -> dict[str, Trainer]:
    """Those that there are: fastai's only where it is installed."""
    found: dict[str, Trainer] = {}
    if importlib.util.find_spec("fastai"):
        found[FASTAI] = Fastai(sizes)
    found[OURS] = ours(LanguageModel(sizes, Dropouts()), bf16, SAMPLED)
    found["ours, whole softmax"] = ours(LanguageModel(sizes, Dropouts()), bf16, 0)
    if bf16:
        found["ours, whole softmax, fp32"] = ours(LanguageModel(sizes, Dropouts()), False, 0)
    found[BOUND] = plain(Plain(sizes), bf16, SAMPLED)
    return found


def race(trainers: dict[str, Trainer], batches: Sequence[Batch], rounds: int) -> list[Speeds]:
    """Every contestant on the batches of a round, in turn, round by round; the first warms them up and is left out."""
    each = len(batches) // rounds
    speeds: dict[str, list[float]] = {name: [] for name in trainers}
    for r in range(rounds):
        some = batches[r * each : (r + 1) * each]
        tokens = sum(x.numel() for x, _ in some)
        for name, train in trainers.items():
            speeds[name].append(tokens / train(some))
    return [Speeds(name, tuple(found[1:])) for name, found in speeds.items()]


def report(name: str, sizes: Sizes, speeds: Sequence[Speeds]) -> None:
    """Print the table of one size."""
    by_name = {s.name: s for s in speeds}
    columns = [
        (f"× {short}", by_name[other]) for short, other in (("fastai", FASTAI), ("bound", BOUND)) if other in by_name
    ]
    print(f"\n{name}: {sizes.embedding}/{sizes.hidden}×{sizes.layers}, vocabulary {sizes.vocabulary:,}")
    print(f"{'':36}{'tokens/s':>10}" + "".join(f"{title:>22}" for title, _ in columns))
    for s in speeds:
        label = f"fastai {version('fastai')} {FASTAI.partition(' ')[2]}" if s.name == FASTAI else s.name
        cells = (_spread(s.over(other)) for _, other in columns)
        print(f"{label:36}{statistics.median(s.rounds):10,.0f}" + "".join(f"{cell:>22}" for cell in cells))
    if FASTAI not in by_name:
        print("fastai is not installed: `make bench-train` does, or pip install 'mailtagger[train]' -c constraints.txt")


def ours(model: LanguageModel, bf16: bool, sampled: int) -> Trainer:
    """The step of `fit_language_model`."""
    optimizer = optimizers.optimizer("adamw", [{"params": list(model.parameters()), "lr": RATE}])
    state: State | None = None

    def train(batches: Sequence[Batch]) -> float:
        nonlocal state
        began = time.process_time()
        for x, y in batches:
            _, state = step_language_model(model, optimizer, x, y, state, bf16, sampled=sampled)
        return time.process_time() - began

    return train


class Plain(nn.Module):
    """Embedding, PyTorch's own LSTM layers, and our loss with the embedding's weights; nothing is dropped."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        tied = LanguageModel(sizes, Dropouts())
        self.embedding, self.bias, self.loss = tied.encoder.embedding, tied.bias, tied.loss
        widths = [sizes.embedding, *[sizes.hidden] * (sizes.layers - 1), sizes.embedding]
        self.lstm = nn.ModuleList(nn.LSTM(a, b, batch_first=True) for a, b in pairwise(widths))

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """ids (B, T) → features (B, T, E), and the state after the last step."""
        x, after = self.embedding(ids), []
        for i, layer in enumerate(self.lstm):
            x, s = layer(x, state[i] if state else None)
            after.append(s)
        return x, after


def plain(model: Plain, bf16: bool, sampled: int) -> Trainer:
    """The loop that everyone writes first."""
    optimizer = optimizers.optimizer("adamw", [{"params": list(model.parameters()), "lr": RATE}])
    state: State = []

    def train(batches: Sequence[Batch]) -> float:
        nonlocal state
        began = time.process_time()
        for x, y in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                features, after = model(x, state)
                loss = model.loss(features, y, sampled)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state = [(h.detach(), c.detach()) for h, c in after]
        return time.process_time() - began

    return train


class Fastai:
    """fastai's learner; the clock runs over an epoch of training, without what `fit` does around it."""

    def __init__(self, sizes: Sizes) -> None:
        from fastai.text import all as fastai

        class Clock(fastai.Callback):  # type: ignore[misc]
            order = 100

            def before_train(self) -> None:
                self.began = time.process_time()

            def after_train(self) -> None:
                self.seconds = time.process_time() - self.began

            def before_validate(self) -> None:
                raise fastai.CancelValidException

        cpu = torch.device("cpu")

        def loaders(batches: Sequence[Batch]) -> Any:
            both = [fastai.DataLoader(batches, bs=None, device=cpu) for _ in range(2)]
            found = fastai.DataLoaders(*both, device=cpu)
            found.vocab = range(sizes.vocabulary)
            return found

        size = {"emb_sz": sizes.embedding, "n_hid": sizes.hidden, "n_layers": sizes.layers}
        self._loaders, self._clock = loaders, Clock()
        self.learner = fastai.language_model_learner(
            loaders([]),
            fastai.AWD_LSTM,
            config={**fastai.awd_lstm_lm_config, **size},
            pretrained=False,
            cbs=[self._clock],
            path=Path(tempfile.gettempdir()),
        )

    def __call__(self, batches: Sequence[Batch]) -> float:
        self.learner.dls = self._loaders(batches)
        with self.learner.no_bar(), self.learner.no_logging():
            self.learner.fit(1, RATE)
        return float(self._clock.seconds)


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"


def _multiplies_bf16() -> bool:
    file = Path("/proc/cpuinfo")
    return file.exists() and "avx512_bf16" in file.read_text()


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
