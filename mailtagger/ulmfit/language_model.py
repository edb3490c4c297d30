"""Training of a language model over a stream, as AWD-LSTM's authors do: stages 1 and 2 of ULMFiT. Within a budget of
epochs and minutes, and resumable: a run that was killed goes on from its snapshot to the very result it would have had,
as long as epochs end it and not the clock.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import optimizers, run, snapshot, unfreezing
from mailtagger.ulmfit.batching import Stream, rows, shuffled, windows
from mailtagger.ulmfit.model import LanguageModel, State
from mailtagger.ulmfit.progress import Log
from mailtagger.ulmfit.run import Run, Schedule
from mailtagger.ulmfit.tokenizer import UNKNOWN


@dataclass(frozen=True)
class Verdict:
    """A language model on text that it has not seen."""

    loss: float  # nats a piece, over the whole vocabulary
    accuracy: float  # of the likeliest next piece

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 50.0))


@dataclass
class Standing:
    """How far a run has come: what its snapshot remembers beside tensors."""

    epoch: int = 0
    at: int = 0  # where the next window begins
    steps: int = 0
    seen: int = 0
    losses: float | Tensor = 0.0  # of the epoch's windows; a tensor, so that no step waits for a GPU
    count: int = 0
    share: float = 0.0  # of the budget that is spent
    seconds: float = 0.0


def fit_language_model(
    model: LanguageModel,
    train: Stream,
    valid: Stream,
    plan: Schedule,
    checkpoint: Path,
    log: Log,
    *,
    discriminative: float = 1.0,
    alpha: float = 2.0,
    beta: float = 1.0,
    sampled: int = 1024,
    resume: bool = False,
    save: Callable[[Mapping[str, Tensor], Path], None] = save_file,
) -> float:
    """Train with slanted rates, `discriminative` times lower a layer, AR (`alpha`) and TAR (`beta`); `save` the weights
    to `checkpoint` and return the perplexity on `valid`. The rate follows the share of the budget that is spent, so
    that a run which the clock ends has still cooled down. Each epoch reads the documents in another order."""
    if len(train) // plan.batch < 2 or len(valid) < 4:
        raise MailtaggerError("There is too little text to train on.", f"{64 * plan.batch} pieces are enough.")
    settings = {"tokens": len(train), "alpha": alpha, "beta": beta, "scale": discriminative, "sampled": sampled}
    settings["dropout"] = model.output.rate  # AWD-LSTM's rates go up and down together
    kept = Run(checkpoint, plan, settings, resume)
    stepped = partial(step_language_model, bf16=plan.bf16, alpha=alpha, beta=beta, sampled=sampled)
    loop = _Loop(model, plan, kept, log, discriminative, stepped)
    if not kept.numbers:
        first = rows(train, plan.batch)[:, : plan.bptt].to(loop.device)
        run.estimate(log, model, "tokens", len(train), plan, lambda tried: _trial(tried, first, plan.bf16, sampled))
        log("epoch | train loss | valid loss | accuracy | perplexity | tokens | minutes")
    found = None
    while loop.standing.epoch < plan.epochs:
        loop.read(train, valid)
        found = loop.judge(valid)
        if loop.progress.seconds / 60 >= plan.minutes:
            break
    if loop.average:
        loop.average.settle()
    save(model.state_dict(), checkpoint)
    kept.end()
    return (found or evaluate_language_model(model, valid)).perplexity


class _Loop:
    """A model, what trains it, and how far it has come."""

    def __init__(
        self,
        model: LanguageModel,
        plan: Schedule,
        kept: Run,
        log: Log,
        discriminative: float,
        stepped: Callable[..., tuple[Tensor, State]],
    ) -> None:
        self.model, self.plan, self.kept, self.log, self.stepped = model, plan, kept, log, stepped
        self.device = next(model.parameters()).device
        groups = unfreezing.groups([*reversed(model.encoder.lstm), model.encoder.embedding], plan.rate, discriminative)
        groups[0]["params"] += [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
        self.optimizer = optimizers.optimizer(plan.optimizer, groups)
        self.average = optimizers.average(plan.optimizer, plan.patience, model.parameters())
        kept.restore(model, self.optimizer)
        tensors, numbers = snapshot.part(kept.tensors, "run"), dict(kept.numbers)
        average = numbers.pop("average", None)
        if self.average and average:
            self.average.restore(tensors, average)
        self.state = _state(tensors, self.device)
        self.standing = Standing(**numbers)
        self.progress = kept.progress(log, "tokens")

    def read(self, train: Stream, valid: Stream) -> None:
        """An epoch from where it stands, as far as the budget goes."""
        plan, at = self.plan, self.standing
        rng = np.random.default_rng((plan.seed, at.epoch))
        data = rows(shuffled(train, rng), plan.batch).to(self.device)
        n = data.shape[1]
        checks = [n * (i + 1) // plan.checks for i in range(plan.checks - 1)]  # the last is the end of the epoch
        for start, length in windows(n, plan.bptt, rng) if plan.variable else _fixed(n, plan.bptt):
            if start < at.at:
                continue
            by_clock = self.progress.seconds / 60 / plan.minutes
            at.share = run.spent((at.epoch + start / n) / plan.epochs, by_clock)
            if at.share >= 1:
                return
            self.step(data[:, start : start + length + 1])
            if self.average and any(start < check <= start + length for check in checks):
                self.average.validated(evaluate_language_model(self.model, valid).loss)
            at.at = start + length
            if at.steps % run.KEPT == 0:
                self.keep()

    def step(self, window: Tensor) -> None:
        """One step on a window (B, T + 1), at the rate that is due; the shorter it is, the smaller."""
        at, (x, y) = self.standing, (window[:, :-1], window[:, 1:])
        rate = self.plan.rate * self.plan.factor(at.share)
        run.set_rate(self.optimizer, rate * x.shape[1] / self.plan.bptt)
        loss, self.state = self.stepped(self.model, self.optimizer, x, y, self.state)
        if self.average:
            self.average.step()
        at.steps, at.seen, at.count, at.losses = at.steps + 1, at.seen + x.numel(), at.count + 1, at.losses + loss
        if at.steps % run.TOLD == 0:
            self.progress.tell(at.steps, at.seen, at.share, rate, float(loss))

    def judge(self, valid: Stream) -> Verdict:
        """The end of an epoch: a line of the table, and the next epoch begins."""
        at, rate = self.standing, self.plan.rate * self.plan.factor(self.standing.share)
        with self.average.applied() if self.average else nullcontext():
            found = evaluate_language_model(self.model, valid)
        if self.average:
            self.average.validated(found.loss)
        self.progress.judged(at.steps, at.seen, at.share, rate, found.loss, found.accuracy, found.perplexity)
        loss = float(at.losses) / max(at.count, 1)
        cells = f"{loss:.4f} | {found.loss:.4f} | {found.accuracy:.4f} | {found.perplexity:.1f}"
        self.log(f"{at.epoch + 1} | {cells} | {at.seen:,} | {self.progress.seconds / 60:.1f}")
        self.standing = Standing(at.epoch + 1, steps=at.steps, seen=at.seen, share=at.share)
        self.state = None
        self.keep()
        return found

    def keep(self) -> None:
        """Write down where it stands."""
        at = self.standing
        at.losses, at.seconds = float(at.losses), self.progress.seconds
        numbers = asdict(at)
        tensors = {f"state.{i}": x for i, x in enumerate(x for pair in self.state or [] for x in pair)}
        if self.average:
            tensors |= {f"mean.{i}": mean for i, mean in enumerate(self.average.mean)}
            numbers["average"] = self.average.numbers()
        self.kept.keep(self.model, self.optimizer, tensors, numbers)


def step_language_model(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    state: State | None,
    bf16: bool = False,
    alpha: float = 2.0,
    beta: float = 1.0,
    sampled: int = 1024,
) -> tuple[Tensor, State]:
    """One step on x → y (B, T); the loss without the penalties, and the state that the next window goes on from."""
    model.train()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        raw, dropped, state = model(x, state)
        loss = model.loss(dropped, y, sampled)
    raw, dropped = raw.float(), dropped.float()
    penalty = alpha * dropped.pow(2).mean() + beta * (raw[:, 1:] - raw[:, :-1]).pow(2).mean()
    run.descend(model, optimizer, loss + penalty, 0.4)
    return loss.detach(), [(h.detach(), c.detach()) for h, c in state]


@torch.no_grad()
def evaluate_language_model(model: LanguageModel, valid: Stream, batch: int = 32) -> Verdict:
    """Loss and accuracy over the whole vocabulary."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    data = rows(valid, min(batch, len(valid) // 2)).to(device)
    state: State | None = None
    loss = right = count = 0.0
    for at in range(0, data.shape[1] - 1, 70):
        length = min(70, data.shape[1] - 1 - at)
        _, x, state = model(data[:, at : at + length], state)
        logits, y = model.logits(x).flatten(0, 1), data[:, at + 1 : at + length + 1].flatten()
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        right += (logits.argmax(1) == y).sum().item()
        count += len(y)
    model.train(training)
    return Verdict(loss / count, right / count)


def carried(state: Mapping[str, Tensor], old: SentencePieceProcessor, new: SentencePieceProcessor) -> dict[str, Tensor]:
    """Return a language model's state with the embedding and bias of another vocabulary: a piece that both know keeps
    its row; a new one gets the mean of the rows that the old tokeniser reads it as (ULMFiT §3.2: the mean of all)."""
    found = dict(state)
    known = {old.id_to_piece(i): [i] for i in range(old.vocab_size())}
    pieces = [new.id_to_piece(i) for i in range(new.vocab_size())]
    parts = [known.get(piece) or old.encode(piece.replace("▁", " ")) or [UNKNOWN] for piece in pieces]
    for name in ("encoder.embedding.weight", "bias"):
        found[name] = torch.stack([state[name][ids].mean(0) for ids in parts])
    return found


def _fixed(n: int, bptt: int) -> Iterator[tuple[int, int]]:
    return ((at, min(bptt, n - 1 - at)) for at in range(0, n - 1, bptt))


def _trial(model: nn.Module, x: Tensor, bf16: bool, sampled: int) -> int:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        loss = model.loss(model.train()(x)[1], x, sampled)
    loss.backward()
    return x.numel()


def _state(tensors: Mapping[str, Tensor], device: torch.device) -> State | None:
    found = [tensors[f"state.{i}"].to(device) for i in range(sum(name.startswith("state.") for name in tensors))]
    return list(zip(found[::2], found[1::2], strict=True)) or None
