"""Training of a classifier with gradual unfreezing: stage 3 of ULMFiT. Within a budget of epochs and minutes, and
resumable, as `language_model.py` is.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mailtagger.ulmfit import optimizers, run, unfreezing
from mailtagger.ulmfit.batching import batches, padded
from mailtagger.ulmfit.linear import LINEAR
from mailtagger.ulmfit.model import Classifier
from mailtagger.ulmfit.progress import Log
from mailtagger.ulmfit.run import Run, Schedule
from mailtagger.ulmfit.tokenizer import cut

Ids = Sequence[int]
Noise = Callable[[list[int], np.random.Generator], list[int]]

LIMITS, CHANCES = (96, 144, 384), (0.5, 0.3, 0.2)  # what a batch of mails is cut to: 2.5 times as many in a minute


@dataclass(frozen=True)
class Material:
    """What is learned from."""

    documents: Sequence[Ids]
    labels: Sequence[float]  # 1 for yes, 0 for no
    chances: NDArray[np.float64]  # of each, to be drawn
    noise: Noise | None
    limits: Sequence[int]

    def drawn(self, tokens: int, rng: np.random.Generator) -> list[list[int]]:
        """An epoch: as many documents as there are, drawn by their chances, in batches of like length."""
        found = rng.choice(len(self.documents), len(self.documents), p=self.chances)
        order = batches([len(self.documents[i]) for i in found], tokens, rng)
        return [[int(found[i]) for i in batch] for batch in order]


@dataclass
class Standing:
    """How far a run has come: what its snapshot remembers."""

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    done: int = 0  # mails of the stage
    steps: int = 0
    seen: int = 0
    running: float = 0.0  # loss
    seconds: float = 0.0
    stage_seconds: float = 0.0


def fit_classifier(
    model: Classifier,
    documents: Sequence[Ids],
    labels: Sequence[float],
    weights: Sequence[float],
    plan: Schedule,
    log: Log,
    noise: Noise | None = None,
    *,
    unfreezing_scheme: str = "gradual",
    discriminative: float = 2.6,
    limits: Sequence[int] = LIMITS,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> None:
    """Train by a scheme of unfreezing, each of its stages for its share of the epochs, or of the minutes if they end
    first; the rate follows what is spent, so it has always cooled down. An epoch is as many documents as there are,
    drawn by their weights; each batch is cut to one of `limits`. `checkpoint`: where snapshot and curve belong."""
    ranked = unfreezing.groups(unfreezing.layers(model), plan.rate, discriminative)
    stages = unfreezing.SCHEMES[unfreezing_scheme](ranked)
    settings = {"documents": len(documents), "scheme": unfreezing_scheme, "scale": discriminative}
    kept = Run(checkpoint, plan, settings, resume)
    if not kept.numbers:
        some = documents[: plan.batch]
        run.estimate(log, model, "mails", len(documents), plan, lambda tried: _trial(tried, some, plan.bf16))
    chances = np.asarray(weights, np.float64) / np.sum(weights)
    loop = _Loop(model, Material(documents, labels, chances, noise, limits), stages, plan, kept, log)
    while loop.standing.stage < len(stages):
        loop.learn()
    kept.end()


class _Loop:
    """A model, what it learns from, and how far it has come."""

    def __init__(
        self,
        model: Classifier,
        material: Material,
        stages: Sequence[unfreezing.Stage],
        plan: Schedule,
        kept: Run,
        log: Log,
    ) -> None:
        self.model, self.material, self.stages = model, material, stages
        self.plan, self.kept, self.log = plan, kept, log
        self.standing = Standing(**kept.numbers)
        self.progress = kept.progress(log, "mails")

    def learn(self) -> None:
        """A stage from where it stands; the next one begins."""
        at, (groups, part) = self.standing, self.stages[self.standing.stage]
        unfreezing.thaw(self.model, groups)
        optimizer = optimizers.optimizer(self.plan.optimizer, groups)
        if self.kept.numbers and at.stage == self.kept.numbers["stage"]:
            self.kept.restore(self.model, optimizer)
        began = self.plan.clock() - at.stage_seconds
        while not self.read(optimizer, part, began):
            at.epoch, at.batch = at.epoch + 1, 0
        self.log(f"stage {at.stage + 1} of {len(self.stages)}: {at.done:,} mails, running loss {at.running:.4f}")
        self.standing = Standing(at.stage + 1, steps=at.steps, seen=at.seen)

    def read(self, optimizer: torch.optim.Optimizer, part: float, began: float) -> bool:
        """An epoch of a stage that has `part` of the budget, from where it stands; whether that is spent."""
        plan, at = self.plan, self.standing
        mails = plan.epochs * len(self.material.documents) * part
        order = self.material.drawn(plan.batch * 128, np.random.default_rng((plan.seed, at.stage, at.epoch)))
        for b, batch in enumerate(order):
            if b < at.batch:
                continue
            share = run.spent(at.done / mails, (plan.clock() - began) / 60 / (plan.minutes * part))
            if share >= 1:
                return True
            at.done, at.seen, at.batch = at.done + len(batch), at.seen + len(batch), b + 1
            if len(batch) < 2:
                continue  # batch norm needs two rows
            self.step(optimizer, batch, np.random.default_rng((plan.seed, at.stage, at.epoch, b)), share)
            if at.steps % run.KEPT == 0:
                at.seconds, at.stage_seconds = self.progress.seconds, plan.clock() - began
                self.kept.keep(self.model, optimizer, {}, asdict(at))
        return at.done >= mails

    def step(
        self, optimizer: torch.optim.Optimizer, batch: Sequence[int], rng: np.random.Generator, share: float
    ) -> None:
        """One step on a batch, at the rate that is due at a share of the stage."""
        at, material, rate = self.standing, self.material, self.plan.rate * self.plan.factor(share)
        device = next(self.model.parameters()).device
        run.set_rate(optimizer, rate)
        ids, sizes = view([material.documents[i] for i in batch], rng, material.noise, device, material.limits)
        target = torch.tensor([material.labels[i] for i in batch], device=device)
        loss = step_classifier(self.model, optimizer, ids, sizes, target, self.plan.bf16)
        at.running = 0.98 * at.running + 0.02 * loss
        at.steps += 1
        if at.steps % run.TOLD == 0:
            parts = [part for _, part in self.stages]
            whole = sum(parts[: at.stage]) + parts[at.stage] * min(share, 1)
            self.progress.tell(at.steps, at.seen, whole, rate, at.running, f"{share:.0%} of stage {at.stage + 1}")


def view(
    documents: Sequence[Ids],
    rng: np.random.Generator,
    noise: Noise | None,
    device: torch.device,
    limits: Sequence[int] = LIMITS,
) -> tuple[Tensor, Tensor]:
    """The documents cut to one of `limits` by chance, and noised; padded."""
    limit = int(rng.choice(limits, p=CHANCES))
    texts = [cut(one, limit * 2 // 3, limit // 3) for one in documents]
    ids, lengths = padded([noise(one, rng) for one in texts] if noise else texts)
    return ids.to(device), lengths.to(device)


def step_classifier(
    model: Classifier, optimizer: torch.optim.Optimizer, ids: Tensor, sizes: Tensor, target: Tensor, bf16: bool = False
) -> float:
    """One step on a padded batch; its loss."""
    model.train()
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
        logits = model(ids, sizes).float()
    loss = F.binary_cross_entropy_with_logits(logits, target)
    run.descend(model, optimizer, loss, 0.5)
    return loss.item()


@torch.no_grad()
def logits(model: Classifier, documents: Sequence[Ids]) -> NDArray[np.float64]:
    """Return the logit of each document, in their order."""
    model.eval()
    out, device = np.zeros(len(documents)), next(model.parameters()).device
    for chosen in batches([len(d) for d in documents], 16_384, None):
        if chosen:
            ids, lengths = padded([documents[i] for i in chosen])
            out[chosen] = model(ids.to(device), lengths.to(device)).double().cpu().numpy()
    return out


def load_encoder(model: Classifier, checkpoint: Path) -> None:
    """Take the encoder of a language model's checkpoint; RuntimeError where a weight is missing or of another size."""
    state, prefix = load_file(checkpoint), "encoder."
    model.encoder.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def load_classifier(model: Classifier, weights: Path) -> None:
    """Take the weights of an artifact, whatever their precision; RuntimeError as above. What counts the batches that
    batch norm has seen is not in an artifact, and nothing reads it here; the linear part is no part of this model."""
    counts = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    found = {k: v.float() for k, v in load_file(weights).items() if not k.startswith(LINEAR)}
    model.load_state_dict(counts | found)


def _trial(model: nn.Module, documents: Sequence[Ids], bf16: bool) -> int:
    limit, device = int(np.dot(LIMITS, CHANCES)), next(model.parameters()).device
    ids, sizes = padded([cut(d, limit * 2 // 3, limit // 3) for d in documents])
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = model.train(len(ids) > 1)(ids.to(device), sizes.to(device))
    logits.float().sum().backward()
    return len(ids)
