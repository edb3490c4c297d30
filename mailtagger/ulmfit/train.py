"""The loops of ULMFiT: a language model over a stream, a classifier with gradual unfreezing. Each within a budget of
epochs and minutes, and resumable: a run that was killed goes on from its snapshot to the very result it would have had,
as long as epochs end it and not the clock.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import optimizers, snapshot, unfreezing
from mailtagger.ulmfit.batching import Stream, batches, padded, rows, shuffled, windows
from mailtagger.ulmfit.linear import LINEAR
from mailtagger.ulmfit.model import Classifier, LanguageModel, State
from mailtagger.ulmfit.progress import Log, Progress
from mailtagger.ulmfit.run import Run, Schedule, estimate, spent
from mailtagger.ulmfit.tokenizer import UNKNOWN, cut

Noise = Callable[[list[int], np.random.Generator], list[int]]

TOLD, KEPT = 100, 200  # steps of a language model between two lines, and between two snapshots
LIMITS, CHANCES = (96, 144, 384), (0.5, 0.3, 0.2)  # what a batch of mails is cut to: 2.5 times as many in a minute


@dataclass(frozen=True)
class Verdict:
    """A language model on text that it has not seen."""

    loss: float  # nats a piece, over the whole vocabulary
    accuracy: float  # of the likeliest next piece

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 50.0))


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
    layers = [*reversed(model.encoder.lstm), model.encoder.embedding]
    groups = unfreezing.groups(layers, plan.rate, discriminative)
    groups[0]["params"] += [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    optimizer = optimizers.optimizer(plan.optimizer, groups)
    average = optimizers.average(plan.optimizer, plan.patience, model.parameters())
    n = len(train) // plan.batch
    if n < 2 or len(valid) < 4:
        raise MailtaggerError("There is too little text to train on.", f"{64 * plan.batch} pieces are enough.")
    settings = {"tokens": len(train), "alpha": alpha, "beta": beta, "scale": discriminative, "sampled": sampled}
    run = Run(checkpoint, plan, settings, resume)
    run.restore(model, optimizer)
    at, device = run.numbers, next(model.parameters()).device
    if average and at:
        average.restore(snapshot.part(run.tensors, "run"), at["average"])
    state = _state(snapshot.part(run.tensors, "run"), device)
    progress = Progress(
        log, "tokens", checkpoint.with_suffix(".csv"), at.get("seconds", 0.0), at.get("steps", 0), plan.clock
    )
    steps, seen, losses, count = (at.get(k, 0) for k in ("steps", "seen", "losses", "count"))
    if not at:
        estimate(log, model, "tokens", len(train), plan, _window(rows(train, plan.batch).to(device), plan, sampled))
        log("epoch | train loss | valid loss | accuracy | perplexity | tokens | minutes")
    found, share = None, at.get("share", 0.0)
    for epoch in range(at.get("epoch", 0), math.ceil(plan.epochs)):
        rng = np.random.default_rng((plan.seed, epoch))
        data = rows(shuffled(train, rng), plan.batch).to(device)
        resumed = at.get("at", 0) if epoch == at.get("epoch", 0) else 0
        checks = [n * (i + 1) // plan.checks for i in range(plan.checks - 1)]  # the last is the end of the epoch
        for start, length in windows(n, plan.bptt, rng) if plan.variable else _fixed(n, plan.bptt):
            if start < resumed:
                continue
            share = spent((epoch + start / n) / plan.epochs, progress.seconds / 60 / plan.minutes)
            if share >= 1:
                break
            rate = plan.rate * plan.factor(share)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"] * length / plan.bptt
            x, y = data[:, start : start + length], data[:, start + 1 : start + length + 1]
            loss, state = step_language_model(model, optimizer, x, y, state, plan.bf16, alpha, beta, sampled)
            if average:
                average.step()
            steps, seen, count = steps + 1, seen + length * plan.batch, count + 1
            losses += loss
            if steps % TOLD == 0:
                progress.tell(steps, seen, share, rate, float(loss))
            if average and any(start < check <= start + length for check in checks):
                average.validated(evaluate_language_model(model, valid).loss)
            if steps % KEPT == 0:
                numbers = {"epoch": epoch, "at": start + length, "steps": steps, "seen": seen}
                numbers |= {"losses": float(losses), "count": count, "seconds": progress.seconds, "share": share}
                run.keep(model, optimizer, *_both(numbers, average, state))
        with average.applied() if average else nullcontext():
            found = evaluate_language_model(model, valid)
        if average:
            average.validated(found.loss)
        rate = plan.rate * plan.factor(share)
        progress.judged(steps, seen, share, rate, found.loss, found.accuracy, found.perplexity)
        cells = (
            f"{float(losses) / max(count, 1):.4f} | {found.loss:.4f} | {found.accuracy:.4f} | {found.perplexity:.1f}"
        )
        log(f"{epoch + 1} | {cells} | {seen:,} | {progress.seconds / 60:.1f}")
        state, losses, count = None, 0.0, 0
        numbers = {"epoch": epoch + 1, "at": 0, "steps": steps, "seen": seen, "seconds": progress.seconds}
        run.keep(model, optimizer, *_both(numbers, average, state))
        if progress.seconds / 60 >= plan.minutes:
            break
    if average:
        average.settle()
    save(model.state_dict(), checkpoint)
    run.end()
    return (found or evaluate_language_model(model, valid)).perplexity


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
    optimizer.zero_grad()
    (loss + penalty).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.4)
    optimizer.step()
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


def fit_classifier(
    model: Classifier,
    documents: Sequence[Sequence[int]],
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
    chances = np.asarray(weights, np.float64) / np.sum(weights)
    lengths, device = np.array([len(d) for d in documents]), next(model.parameters()).device
    ranked = unfreezing.groups(unfreezing.layers(model), plan.rate, discriminative)
    stages = unfreezing.SCHEMES[unfreezing_scheme](ranked)
    settings = {"documents": len(documents), "scheme": unfreezing_scheme, "scale": discriminative}
    run = Run(checkpoint, plan, settings, resume)
    begun = run.numbers
    if not begun:
        estimate(log, model, "mails", len(documents), plan, _batch(documents, plan, device))
    progress = Progress(
        log,
        "mails",
        checkpoint and checkpoint.with_suffix(".csv"),
        begun.get("seconds", 0.0),
        begun.get("steps", 0),
        plan.clock,
    )
    steps, seen = begun.get("steps", 0), begun.get("seen", 0)
    for stage, (groups, part) in enumerate(stages):
        if stage < begun.get("stage", 0):
            continue
        unfreezing.thaw(model, groups)
        optimizer = optimizers.optimizer(plan.optimizer, groups)
        at: dict[str, Any] = {}
        if begun and stage == begun["stage"]:
            run.restore(model, optimizer)
            at = begun
        done, began = at.get("done", 0), plan.clock() - at.get("stage_seconds", 0.0)
        running, epoch, first, share = at.get("running", 0.0), at.get("epoch", 0), at.get("batch", 0), 0.0
        while share < 1:
            rng = np.random.default_rng((plan.seed, stage, epoch))
            drawn = rng.choice(len(documents), len(documents), p=chances)
            order = batches(lengths[drawn].tolist(), plan.batch * 128, rng)
            for b, batch in enumerate(order):
                if b < first:
                    continue
                by_clock = (plan.clock() - began) / 60 / (plan.minutes * part)
                share = spent(done / (plan.epochs * len(documents) * part), by_clock)
                if share >= 1:
                    break
                done, seen = done + len(batch), seen + len(batch)
                if len(batch) < 2:
                    continue  # batch norm needs two rows
                for group in optimizer.param_groups:
                    group["lr"] = plan.rate * group["scale"] * plan.factor(share)
                rng = np.random.default_rng((plan.seed, stage, epoch, b))
                limit = int(rng.choice(limits, p=CHANCES))
                chosen = [int(drawn[i]) for i in batch]
                texts = [cut(documents[i], limit * 2 // 3, limit // 3) for i in chosen]
                ids, sizes = padded([noise(t, rng) for t in texts] if noise else texts)
                target = torch.tensor([labels[i] for i in chosen])
                loss = step_classifier(model, optimizer, ids.to(device), sizes.to(device), target.to(device), plan.bf16)
                running = 0.98 * running + 0.02 * loss
                steps += 1
                if steps % TOLD == 0:
                    rate = plan.rate * plan.factor(share)
                    what = f"{share:.0%} of stage {stage + 1}"
                    whole = sum(s for _, s in stages[:stage]) + part * min(share, 1)
                    progress.tell(steps, seen, whole, rate, running, what)
                if steps % KEPT == 0:
                    numbers = {"stage": stage, "epoch": epoch, "batch": b + 1, "done": done, "steps": steps}
                    numbers |= {"seen": seen, "running": running, "seconds": progress.seconds}
                    run.keep(model, optimizer, {}, numbers | {"stage_seconds": plan.clock() - began})
            epoch, first = epoch + 1, 0
            share = max(share, done / (plan.epochs * len(documents) * part))
        log(f"stage {stage + 1} of {len(stages)}: {done:,} mails, running loss {running:.4f}")
    run.end()


def step_classifier(
    model: Classifier, optimizer: torch.optim.Optimizer, ids: Tensor, sizes: Tensor, target: Tensor, bf16: bool = False
) -> float:
    """One step on a padded batch; its loss."""
    model.train()
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
        logits = model(ids, sizes).float()
    loss = F.binary_cross_entropy_with_logits(logits, target)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def logits(model: Classifier, documents: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the logit of each document, in their order."""
    model.eval()
    out, device = np.zeros(len(documents)), next(model.parameters()).device
    for chosen in batches([len(d) for d in documents], 16_384, None):
        if chosen:
            ids, lengths = padded([documents[i] for i in chosen])
            out[chosen] = model(ids.to(device), lengths.to(device)).double().cpu().numpy()
    return out


def _fixed(n: int, bptt: int) -> Iterator[tuple[int, int]]:
    return ((at, min(bptt, n - 1 - at)) for at in range(0, n - 1, bptt))


def _window(data: Tensor, plan: Schedule, sampled: int) -> Callable[[nn.Module], int]:
    def trial(model: nn.Module) -> int:
        x = data[:, : plan.bptt]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=plan.bf16):
            loss = model.loss(model.train()(x)[1], x, sampled)
        loss.backward()
        return x.numel()

    return trial


def _batch(documents: Sequence[Sequence[int]], plan: Schedule, device: torch.device) -> Callable[[nn.Module], int]:
    limit = int(np.dot(LIMITS, CHANCES))

    def trial(model: nn.Module) -> int:
        ids, sizes = padded([cut(d, limit * 2 // 3, limit // 3) for d in documents[: plan.batch]])
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
            logits = model.train(len(ids) > 1)(ids.to(device), sizes.to(device))
        logits.float().sum().backward()
        return len(ids)

    return trial


def _both(
    numbers: dict[str, Any], average: optimizers.Average | None, state: State | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a language model's snapshot holds beside weights and optimiser: tensors, numbers."""
    tensors = {f"state.{i}": x for i, x in enumerate(x for pair in state or [] for x in pair)}
    if average:
        tensors |= {f"mean.{i}": mean for i, mean in enumerate(average.mean)}
        numbers = numbers | {"average": average.numbers()}
    return tensors, numbers


def _state(tensors: Mapping[str, Tensor], device: torch.device) -> State | None:
    found = [tensors[f"state.{i}"].to(device) for i in range(sum(name.startswith("state.") for name in tensors))]
    return list(zip(found[::2], found[1::2], strict=True)) or None


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
