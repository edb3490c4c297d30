"""AWD-LSTM (Merity et al. 2017, arXiv 1708.02182), and ULMFiT's classifier on it (Howard & Ruder, arXiv 1801.06146).

Tensors are (batch, time, features). Rows are padded on the right and masked by length, so that a batch gives exactly
what single rows give.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mailtagger.ulmfit.softmax import cross_entropy

State = list[tuple[Tensor, Tensor]]
Pooling = Literal["concat", "last", "mean"]


@dataclass(frozen=True)
class Sizes:
    """Width of the parts; `compact` is the default."""

    vocabulary: int = 8000
    embedding: int = 192
    hidden: int = 384
    layers: int = 2


SIZES = {  # of everything but the vocabulary
    "tiny": Sizes(embedding=16, hidden=24),  # for trying a stage out
    "compact": Sizes(),
    "full": Sizes(embedding=400, hidden=1152, layers=3),  # ULMFiT's and fastai's
}


@dataclass(frozen=True)
class Dropouts:
    """Rates of AWD-LSTM's five kinds of dropout, before `scale`."""

    embedding: float = 0.05
    inputs: float = 0.2
    weights: float = 0.2
    hidden: float = 0.15
    output: float = 0.1

    def scaled(self, scale: float) -> "Dropouts":
        """Return all rates times `scale`."""
        return Dropouts(*(scale * rate for rate in vars(self).values()))


class VariationalDropout(nn.Module):
    """Zeroes the same features at every time step of a row (Gal & Ghahramani 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) → (B, T, F), expectation kept."""
        if not self.training or not self.rate:
            return x
        return x * (x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(1 - self.rate) / (1 - self.rate))


class WeightDropLSTM(nn.Module):
    """One LSTM layer whose hidden-to-hidden weights are dropped once for each batch (DropConnect)."""

    def __init__(self, width: int, hidden: int, rate: float) -> None:
        super().__init__()
        bound = hidden**-0.5
        self.rate, self.hidden = rate, hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, width).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.zeros(4 * hidden))
        self.bias_hh = nn.Parameter(torch.zeros(4 * hidden))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, width) → (B, T, hidden) and the last (h, c), each (1, B, hidden)."""
        if state is None:
            zero = x.new_zeros(1, x.shape[0], self.hidden)
            state = (zero, zero)
        recurrent = F.dropout(self.weight_hh, self.rate, self.training)
        weights = [self.weight_ih, recurrent, self.bias_ih, self.bias_hh]
        out, h, c = torch.lstm(x, state, weights, True, 1, 0.0, self.training, False, True)
        return out, (h, c)


class Encoder(nn.Module):
    """Embedding and a stack of weight-dropped LSTM layers; the last is as wide as the embedding, for tying."""

    def __init__(self, sizes: Sizes, drop: Dropouts) -> None:
        super().__init__()
        widths = [sizes.embedding, *[sizes.hidden] * (sizes.layers - 1), sizes.embedding]
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.lstm = nn.ModuleList(WeightDropLSTM(a, b, drop.weights) for a, b in pairwise(widths))
        self.embedding_rate = drop.embedding
        self.inputs = VariationalDropout(drop.inputs)
        self.between = VariationalDropout(drop.hidden)

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """ids (B, T) → features (B, T, E) and the state after the last step."""
        weight = self.embedding.weight
        if self.training and self.embedding_rate:  # whole words are dropped, not features
            weight = weight * (
                weight.new_empty(len(weight), 1).bernoulli_(1 - self.embedding_rate) / (1 - self.embedding_rate)
            )
        x = self.inputs(F.embedding(ids, weight))
        after: State = []
        for i, layer in enumerate(self.lstm):
            x, s = layer(x, state[i] if state else None)
            after.append(s)
            if i < len(self.lstm) - 1:
                x = self.between(x)
        return x, after

    def read(self, ids: Tensor, window: int, learn: int) -> Tensor:
        """Features (B, T, E) of long texts, `window` steps at a time, the state carried: BPTT for text classification
        (ULMFiT §3.3). Gradients reach back over the windows that hold the last `learn` steps, which bounds memory."""
        parts: list[Tensor] = []
        state: State | None = None
        for at in range(0, ids.shape[1], window):
            with torch.set_grad_enabled(torch.is_grad_enabled() and at + window > ids.shape[1] - learn):
                x, state = self(ids[:, at : at + window], state)
            parts.append(x)
        return torch.cat(parts, 1)


class LanguageModel(nn.Module):
    """Encoder and a softmax whose weights are the embedding's (tied: Inan et al. 2016, arXiv 1611.01462) or its own."""

    def __init__(self, sizes: Sizes, drop: Dropouts, tied: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(sizes, drop)
        self.decoder = None if tied else nn.Parameter(self.encoder.embedding.weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(sizes.vocabulary))
        self.output = VariationalDropout(drop.output)

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """ids (B, T) → features before and after output dropout (B, T, E), state."""
        raw, after = self.encoder(ids, state)
        return raw, self.output(raw), after

    def logits(self, features: Tensor) -> Tensor:
        """features (…, E) → logits over the whole vocabulary (…, V)."""
        return F.linear(features, self._weight(), self.bias)

    def _weight(self) -> Tensor:
        return self.encoder.embedding.weight if self.decoder is None else self.decoder

    def loss(self, features: Tensor, targets: Tensor, sampled: int = 0) -> Tensor:
        """Mean cross entropy in nats; over `sampled` random pieces and the batch's own if sampled > 0.

        A sampled softmax saves a third of a CPU step; it is biased, so validation always uses the whole vocabulary.
        """
        weight, bias = self._weight(), self.bias
        x, y = features.reshape(-1, features.shape[-1]), targets.reshape(-1)
        if sampled:
            chosen = torch.unique(torch.cat([y, torch.randint(len(bias), (sampled,), device=y.device)]))
            y = torch.searchsorted(chosen, y)
            weight, bias = weight[chosen], bias[chosen]
        return cross_entropy(x, weight, bias, y)


class Head(nn.Module):
    """Two dense layers on what was pooled, each after batch norm and dropout."""

    def __init__(self, width: int, inner: int = 50, rates: Sequence[float] = (0.3, 0.1)) -> None:
        super().__init__()
        self.norm0, self.linear0 = nn.BatchNorm1d(width), nn.Linear(width, inner)
        self.norm1, self.linear1 = nn.BatchNorm1d(inner), nn.Linear(inner, 1)
        self.rates = rates

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, width) → logits of spam (B,)."""
        x = F.dropout(self.norm0(pooled), self.rates[0], self.training)
        x = F.relu(self.linear0(x))
        return self.linear1(F.dropout(self.norm1(x), self.rates[1], self.training)).squeeze(1)


class Classifier(nn.Module):
    """Encoder, pooling over the row's own length, and head."""

    def __init__(
        self, sizes: Sizes, drop: Dropouts, pooling: Pooling = "concat", window: int = 0, learn: int = 1400
    ) -> None:
        """`pooling`: the last step, the mean of all, or both and the maximum (ULMFiT §3.3); `window`: how many steps
        are read at a time, 0 for all; `learn`: as in `Encoder.read`, by default fastai's."""
        super().__init__()
        self.encoder = Encoder(sizes, drop)
        self.head = Head(sizes.embedding * (3 if pooling == "concat" else 1))
        self.pooling, self.window, self.learn = pooling, window, learn

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (B, T) padded on the right, lengths (B,) ≥ 1 → logits (B,)."""
        features = self.encoder.read(ids, self.window, self.learn) if self.window else self.encoder(ids)[0]
        return self.head(self.pool(features, lengths))

    def pool(self, features: Tensor, lengths: Tensor) -> Tensor:
        """features (B, T, E) → (B, E), or (B, 3E): last, maximum, mean."""
        inside = (torch.arange(features.shape[1], device=features.device)[None] < lengths[:, None]).unsqueeze(2)
        last = features[torch.arange(len(features), device=features.device), lengths - 1]
        if self.pooling == "last":
            return last
        mean = (features * inside).sum(1) / lengths[:, None]
        if self.pooling == "mean":
            return mean
        most = features.masked_fill(~inside, -torch.inf).amax(1)
        return torch.cat([last, most, mean], 1)
