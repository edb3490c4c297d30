"""AWD-LSTM (Merity et al. 2017, arXiv 1708.02182), and ULMFiT's classifier on it (Howard & Ruder, arXiv 1801.06146).

Tensors are (batch, time, features). Rows are padded on the right and masked by length, so that a batch gives exactly
what single rows give.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sizes:
    """Width of the parts; `compact` is the default."""

    vocabulary: int = 8000
    embedding: int = 192
    hidden: int = 384
    layers: int = 2


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


class LanguageModel(nn.Module):
    """Encoder and a softmax tied to the embedding."""

    def __init__(self, sizes: Sizes, drop: Dropouts) -> None:
        super().__init__()
        self.encoder = Encoder(sizes, drop)
        self.bias = nn.Parameter(torch.zeros(sizes.vocabulary))
        self.output = VariationalDropout(drop.output)

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """ids (B, T) → features before and after output dropout (B, T, E), state."""
        raw, after = self.encoder(ids, state)
        return raw, self.output(raw), after

    def loss(self, features: Tensor, targets: Tensor, sampled: int = 0) -> Tensor:
        """Mean cross entropy in nats; over `sampled` random pieces and the batch's own if sampled > 0.

        A sampled softmax halves a CPU step; it is biased, so validation always uses the whole vocabulary.
        """
        weight, bias = self.encoder.embedding.weight, self.bias
        x, y = features.reshape(-1, features.shape[-1]), targets.reshape(-1)
        if sampled:
            chosen = torch.unique(torch.cat([y, torch.randint(len(bias), (sampled,))]))
            y = torch.searchsorted(chosen, y)
            weight, bias = weight[chosen], bias[chosen]
        return F.cross_entropy(F.linear(x, weight, bias), y)


class Head(nn.Module):
    """Concat pooling's two dense layers, each after batch norm and dropout."""

    def __init__(self, width: int, inner: int = 50, rates: Sequence[float] = (0.3, 0.1)) -> None:
        super().__init__()
        self.norm0, self.linear0 = nn.BatchNorm1d(3 * width), nn.Linear(3 * width, inner)
        self.norm1, self.linear1 = nn.BatchNorm1d(inner), nn.Linear(inner, 1)
        self.rates = rates

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, 3E) → logits of spam (B,)."""
        x = F.dropout(self.norm0(pooled), self.rates[0], self.training)
        x = F.relu(self.linear0(x))
        return self.linear1(F.dropout(self.norm1(x), self.rates[1], self.training)).squeeze(1)


class Classifier(nn.Module):
    """Encoder, concat pooling (last, max, mean over the row's own length) and head."""

    def __init__(self, sizes: Sizes, drop: Dropouts) -> None:
        super().__init__()
        self.encoder = Encoder(sizes, drop)
        self.head = Head(sizes.embedding)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (B, T) padded on the right, lengths (B,) ≥ 1 → logits (B,)."""
        features, _ = self.encoder(ids)
        inside = (torch.arange(ids.shape[1])[None] < lengths[:, None]).unsqueeze(2)
        last = features[torch.arange(len(ids)), lengths - 1]
        most = features.masked_fill(~inside, -torch.inf).amax(1)
        mean = (features * inside).sum(1) / lengths[:, None]
        return self.head(torch.cat([last, most, mean], 1))
