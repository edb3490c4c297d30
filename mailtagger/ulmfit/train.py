"""The loops of ULMFiT: language model over a stream, classifier with gradual unfreezing; both within a time budget."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from torch.nn import functional as F

from mailtagger.ulmfit.linear import LINEAR
from mailtagger.ulmfit.model import Classifier, LanguageModel, State
from mailtagger.ulmfit.tokenizer import PAD, UNKNOWN, cut

Log = Callable[[str], None]


def slanted(share: float, cut: float = 0.1, ratio: float = 32.0) -> float:
    """Return the factor of the slanted triangular rate (ULMFiT §3.2) at `share` of the way, 0 to 1."""
    p = share / cut if share < cut else 1 - (share - cut) / (1 - cut)
    return (1 + max(p, 0.0) * (ratio - 1)) / ratio


def rows(stream: NDArray[np.uint16], batch: int) -> Tensor:
    """Return the stream as `batch` rows (batch, N), each going on where it ended in the batch before."""
    n = len(stream) // batch
    return torch.from_numpy(stream[: n * batch].astype(np.int64)).view(batch, n)


def windows(n: int, bptt: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yield (start, length) with AWD-LSTM's variable BPTT: mean `bptt`, halved one time in twenty."""
    at = 0
    while at < n - 2:
        mean = bptt if rng.random() < 0.95 else bptt / 2
        length = min(max(5, int(rng.normal(mean, 5))), n - 1 - at)
        yield at, length
        at += length


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: at most `minutes`, at most `epochs`."""

    minutes: float
    epochs: float
    rate: float
    batch: int = 64
    bptt: int = 70
    bf16: bool = False  # weights stay fp32; a third faster on a CPU that multiplies bf16


def fit_language_model(
    model: LanguageModel,
    train: NDArray[np.uint16],
    valid: NDArray[np.uint16],
    plan: Schedule,
    checkpoint: Path,
    log: Log,
) -> float:
    """Train with AdamW, slanted rates, AR (2) and TAR (1); return the perplexity on `valid`. The schedule follows the
    share of the budget that is spent, so that a run which the clock ends has still cooled down."""
    optimizer = torch.optim.AdamW(model.parameters(), plan.rate, betas=(0.8, 0.99), weight_decay=0.01)
    rng, data = np.random.default_rng(0), rows(train, plan.batch)
    began, steps, seen, total = time.monotonic(), 0, 0, plan.epochs * data.shape[1]
    for epoch in range(math.ceil(plan.epochs)):
        state: State | None = None
        for at, length in windows(data.shape[1], plan.bptt, rng):
            spent = max((time.monotonic() - began) / 60 / plan.minutes, (epoch * data.shape[1] + at) / total)
            if spent >= 1:
                break
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * slanted(spent) * length / plan.bptt
            with torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16):
                raw, dropped, state = model(data[:, at : at + length], state)
                loss = model.loss(dropped, data[:, at + 1 : at + length + 1], sampled=1024)
            raw, dropped = raw.float(), dropped.float()
            penalty = 2 * dropped.pow(2).mean() + (raw[:, 1:] - raw[:, :-1]).pow(2).mean()
            optimizer.zero_grad()
            (loss + penalty).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.4)
            optimizer.step()
            state = [(h.detach(), c.detach()) for h, c in state]
            steps, seen = steps + 1, seen + length * plan.batch
            if steps % 100 == 0:
                pace = seen / (time.monotonic() - began)
                log(f"step {steps}  {seen:,} tokens  {pace:,.0f}/s  sampled loss {loss.item():.3f}  {spent:.0%} spent")
                save_file(model.state_dict(), checkpoint)
        perplexity = evaluate_language_model(model, valid)
        minutes = (time.monotonic() - began) / 60
        log(f"epoch {epoch + 1}  valid perplexity {perplexity:.1f}  {seen:,} tokens  {minutes:.1f} min")
        if minutes >= plan.minutes:
            break
    save_file(model.state_dict(), checkpoint)
    return perplexity


@torch.no_grad()
def evaluate_language_model(model: LanguageModel, valid: NDArray[np.uint16], batch: int = 32) -> float:
    """Return the perplexity over the whole vocabulary."""
    model.eval()
    data, state, losses, count = rows(valid, batch), None, 0.0, 0
    for at in range(0, data.shape[1] - 1, 70):
        length = min(70, data.shape[1] - 1 - at)
        _, x, state = model(data[:, at : at + length], state)
        losses += model.loss(x, data[:, at + 1 : at + length + 1]).item() * length
        count += length
    return math.exp(losses / count)


def batches(lengths: Sequence[int], tokens: int, rng: np.random.Generator | None) -> list[list[int]]:
    """Return indices in batches of about `tokens` padded tokens, rows of like length together; shuffled with `rng`."""
    noise = rng.uniform(0.9, 1.1, len(lengths)) if rng is not None else np.ones(len(lengths))
    order = np.argsort(np.asarray(lengths) * noise, kind="stable")
    found: list[list[int]] = [[]]
    for i in order:
        if found[-1] and (len(found[-1]) + 1) * max(lengths[i], lengths[found[-1][0]]) > tokens:
            found.append([])
        found[-1].append(int(i))
    if rng is not None:
        rng.shuffle(found)
    return found


def padded(documents: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return (ids (B, T) padded on the right, lengths (B,))."""
    lengths = torch.tensor([len(d) for d in documents])
    ids = torch.full((len(documents), int(lengths.max())), PAD)
    for i, document in enumerate(documents):
        ids[i, : len(document)] = torch.tensor(document)
    return ids, lengths


def stages(model: Classifier, rate: float) -> list[list[dict[str, object]]]:
    """Return the parameter groups of each stage of gradual unfreezing, rates divided by 2.6 a layer (ULMFiT §3.3)."""
    groups = [
        model.head,
        *reversed(model.encoder.lstm),
        model.encoder.embedding,
    ]
    ranked = [{"params": list(g.parameters()), "scale": 2.6**-i, "lr": rate} for i, g in enumerate(groups)]
    return [ranked[: n + 1] for n in range(len(ranked))]


def fit_classifier(
    model: Classifier,
    documents: Sequence[Sequence[int]],
    labels: Sequence[float],
    weights: Sequence[float],
    plan: Schedule,
    log: Log,
    noise: Callable[[list[int], np.random.Generator], list[int]] | None = None,
    unfrozen: bool = False,
) -> None:
    """Gradual unfreezing (ULMFiT §3.3): a twelfth of the epochs for the head, then for each further layer, the rest for
    all layers; with `unfrozen` all layers from the start, for a classifier that has been trained before. Each share
    ends by its part of the minutes if that comes first; the rate follows what is spent, so it has always cooled down.
    An epoch is as many documents as there are, drawn by their weights."""
    rng, parts = np.random.default_rng(0), stages(model, plan.rate)
    shares = [0.08] * (len(parts) - 1) + [1 - 0.08 * (len(parts) - 1)]
    if unfrozen:
        parts, shares = parts[-1:], [1.0]
    lengths, chances = np.array([len(d) for d in documents]), np.asarray(weights, np.float64) / np.sum(weights)
    for stage, (groups, share) in enumerate(zip(parts, shares, strict=True)):
        trained = {id(p) for g in groups for p in g["params"]}  # type: ignore[attr-defined]
        for p in model.parameters():
            p.requires_grad_(id(p) in trained)
        optimizer = torch.optim.AdamW([{**g} for g in groups], betas=(0.8, 0.99), weight_decay=0.01)
        began, done, running, told = time.monotonic(), 0, 0.0, 0
        order: list[list[int]] = []
        while True:
            spent = done / (plan.epochs * len(documents) * share)
            spent = max(spent, (time.monotonic() - began) / 60 / (plan.minutes * share))
            if spent >= 1:
                break
            if not order:
                drawn = rng.choice(len(documents), len(documents), p=chances)
                order = [[int(drawn[i]) for i in b] for b in batches(lengths[drawn].tolist(), plan.batch * 128, rng)]
            chosen = order.pop()
            done += len(chosen)
            if len(chosen) < 2:
                continue  # batch norm needs two rows
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * group["scale"] * slanted(spent)
            # Four batches in five are cut short: two and a half times the mails in the same minutes.
            limit = int(rng.choice((96, 144, 384), p=(0.5, 0.3, 0.2)))
            texts = [cut(documents[i], limit * 2 // 3, limit // 3) for i in chosen]
            ids, sizes = padded([noise(t, rng) for t in texts] if noise else texts)
            target = torch.tensor([labels[i] for i in chosen])
            with torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16):
                logits = model(ids, sizes).float()
            loss = F.binary_cross_entropy_with_logits(logits, target)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            running = 0.98 * running + 0.02 * loss.item()
            if done - told >= 10_000:
                told, pace = done, done / (time.monotonic() - began)
                log(f"  {done:,} mails  {pace:.0f}/s  running loss {running:.4f}  {spent:.0%} of stage {stage + 1}")
        log(f"stage {stage + 1} of {len(parts)}: {done:,} mails, running loss {running:.4f}")


@torch.no_grad()
def logits(model: Classifier, documents: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the logit of each document, in their order."""
    model.eval()
    out = np.zeros(len(documents))
    for chosen in batches([len(d) for d in documents], 16_384, None):
        out[chosen] = model(*padded([documents[i] for i in chosen])).double().numpy()
    return out


def carried(
    state: Mapping[str, Tensor], old: SentencePieceProcessor, new: SentencePieceProcessor
) -> dict[str, Tensor]:
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
