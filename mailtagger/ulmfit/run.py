"""What both loops share: the settings of a run, what it will cost, its snapshot on disk, and a step downhill."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import optimizers, snapshot
from mailtagger.ulmfit.progress import Log, Progress
from mailtagger.ulmfit.schedules import SHAPES

TOLD, KEPT = 100, 200  # steps between two lines, and between two snapshots


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: at most `minutes`, at most `epochs`. MailtaggerError for what no run can be made of."""

    minutes: float
    epochs: float
    rate: float
    batch: int = 64
    bptt: int = 70
    bf16: bool = False  # weights stay fp32; a third faster on a CPU that multiplies bf16
    shape: str = "slanted"  # of the rate over the run: one of schedules.SHAPES
    optimizer: str = "adamw"  # one of optimizers.NAMES
    patience: int = 5  # of NT-ASGD, in validations
    checks: int = 1  # validations an epoch, for NT-ASGD to hear of
    variable: bool = True  # windows of varying length (AWD-LSTM §5.1)
    seed: int = 0
    cpu: bool = False  # minutes of this process on its processor, whatever else the machine does

    def __post_init__(self) -> None:
        for name in ("minutes", "epochs", "rate", "batch", "bptt", "checks"):
            if not getattr(self, name) > 0:
                raise MailtaggerError(f"Nothing can be trained with {name} {getattr(self, name)}.", "Above 0, please.")
        for name, known in (("shape", tuple(SHAPES)), ("optimizer", optimizers.NAMES)):
            if getattr(self, name) not in known:
                raise MailtaggerError(f"There is no {name} {getattr(self, name)!r}.", f"Known: {', '.join(known)}.")

    def clock(self) -> float:
        """Seconds since some moment, by the clock that the minutes are counted by."""
        return time.process_time() if self.cpu else time.monotonic()

    def factor(self, share: float) -> float:
        """What the rate is multiplied by at a share of the run."""
        return SHAPES[self.shape](min(share, 1.0))


def spent(by_epochs: float, by_clock: float, ahead: float = 0.02) -> float:
    """The share of a budget that is spent: the clock's where it is clearly ahead. So a run that its epochs end does not
    depend on how fast the machine was, and comes out the same again."""
    return by_clock if by_clock > by_epochs + ahead else by_epochs


class Run:
    """Where a run stands, kept beside what it makes, so that it can be killed."""

    def __init__(self, checkpoint: Path | None, plan: Schedule, settings: Mapping[str, Any], resume: bool) -> None:
        """`settings`: what beside the plan, the minutes apart, must be the same for the run to go on."""
        self._file = checkpoint and checkpoint.with_name(checkpoint.name.removesuffix(".safetensors") + snapshot.SUFFIX)
        self._curve, self._clock = checkpoint and checkpoint.with_suffix(".csv"), plan.clock
        self._settings = {k: v for k, v in asdict(plan).items() if k != "minutes"} | dict(settings)
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, Any] = {}  # empty: nothing to go on from
        if resume and self._file and self._file.exists():
            self.tensors, self.numbers = snapshot.read(self._file)
            found = self.numbers.pop("settings", {})
            differ = [k for k in {*found, *self._settings} if found.get(k) != self._settings.get(k)]
            if differ:
                raise MailtaggerError(
                    f"The run in {self._file} has other settings than this one: {', '.join(sorted(differ))}.",
                    "Give the same ones, or start again without --resume.",
                )

    def progress(self, log: Log, unit: str) -> Progress:
        """Its clock and its books, as they were."""
        seconds, steps = self.numbers.get("seconds", 0.0), self.numbers.get("steps", 0)
        return Progress(log, unit, self._curve, seconds, steps, self._clock)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Give model, optimiser and torch's generator what they had; nothing where there is nothing to go on from."""
        if not self.tensors:
            return
        try:
            model.load_state_dict(snapshot.part(self.tensors, "model"))
        except RuntimeError as error:
            raise MailtaggerError(
                f"The run in {self._file} is of a model of another size.", "Give the same, or start without --resume."
            ) from error
        snapshot.restore(self.tensors, optimizer)

    def keep(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: dict[str, Any]
    ) -> None:
        """Write down where it stands."""
        if self._file:
            snapshot.write(self._file, model, optimizer, tensors, numbers | {"settings": self._settings})

    def end(self) -> None:
        """There is nothing left to go on from."""
        if self._file:
            self._file.unlink(missing_ok=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group of layers its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, norm: float) -> None:
    """One step down the gradient of a loss, which is cut to a norm."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
    optimizer.step()


def estimate(
    log: Log, model: nn.Module, unit: str, count: int, plan: Schedule, trial: Callable[[nn.Module], int]
) -> None:
    """Say what a run over `count` units will cost. `trial` works one batch through, and tells how many are in it."""
    tried = copy.deepcopy(model)
    with torch.random.fork_rng():
        trial(tried)
        began = time.monotonic()
        units = trial(tried)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # it answers before it has worked
        pace = units / (time.monotonic() - began)
    weights = sum(p.numel() for p in model.parameters())
    minutes = count * plan.epochs / pace / 60
    ended = f", ended after {plan.minutes:g}" if plan.minutes < minutes else ""
    log(
        f"{weights:,} weights, {4 * 4 * weights / 1e6:,.0f} MB with gradients and the optimiser's memory; "
        f"{count:,} {unit} × {plan.epochs:g}: about {minutes:.1f} min at {pace:,.0f}/s{ended}"
    )
