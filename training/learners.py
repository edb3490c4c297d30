"""What could learn from a user's corrections beside the model: each sees a mail, says its log-odds, and is told.

    personal  mailtagger.personal: the one that ships
    ngrams    logistic regression, AdaGrad, on byte 4-grams of the first 3,000 raw bytes, unbounded (Goodman & Yih 2006)
    osb       Winnow on orthogonal sparse bigrams of the raw text (Siefkes, Assis, Chhabra & Yerazunis 2004)
    pooled    logistic regression, AdaGrad, on the encoder's concat-pooled vector (last, max, mean); needs torch

`python -m training.stream DIR --learner personal ngrams osb pooled` compares them. All but bogofilter stand on the
model's own log-odds.
"""

import math
import re
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mailtagger.artifact import WEIGHTS, load
from mailtagger.clean import clean
from mailtagger.errors import MailtaggerError
from mailtagger.parse import parse
from mailtagger.personal import Example, Personal, terms
from mailtagger.score import Scorer

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """A mail as a learner has seen it: its own features, and the model's log-odds."""

    features: Any
    base: float


class Learner(Protocol):
    """One way to learn."""

    def see(self, raw: bytes, base: float) -> Seen: ...

    def log_odds(self, seen: Seen) -> float: ...

    def learn(self, seen: Seen, spam: bool) -> None: ...


class Shipped:
    """The personal layer, as the daemon uses it."""

    def __init__(self, model: Path) -> None:
        self._layer = Personal()

    def see(self, raw: bytes, base: float) -> Seen:
        return Seen(terms(raw, parse(raw)), base)

    def log_odds(self, seen: Seen) -> float:
        return seen.base + self._layer.logit(seen.features, seen.base)

    def learn(self, seen: Seen, spam: bool) -> None:
        self._layer.learn(Example(seen.features, seen.base, spam))


class _AdaGrad:
    """Logistic regression over features (places, values), trained by AdaGrad."""

    def __init__(self, size: int, rate: float, floor: float) -> None:
        self._weights, self._squares = np.zeros((2, size), np.float32)
        self._rate, self._floor = rate, floor

    def log_odds(self, seen: Seen) -> float:
        at, values = seen.features
        return seen.base + float((self._weights[at] * values).sum())

    def learn(self, seen: Seen, spam: bool) -> None:
        at, values = seen.features
        gradient = (spam - 1 / (1 + math.exp(-max(-500.0, min(500.0, self.log_odds(seen)))))) * values
        self._squares[at] += gradient * gradient
        self._weights[at] += self._rate * gradient / (np.sqrt(self._squares[at]) + self._floor)


class Ngrams(_AdaGrad):
    """Byte 4-grams of the raw mail."""

    def __init__(self, model: Path) -> None:
        super().__init__(1 << 20, rate=0.03, floor=1.0)

    def see(self, raw: bytes, base: float) -> Seen:
        codes = np.frombuffer(raw[:3_000].ljust(4), np.uint8).astype(np.uint32)
        packed = codes[:-3] | codes[1:-2] << 8 | codes[2:-1] << 16 | codes[3:] << 24
        return Seen((np.unique(packed * np.uint32(0x9E3779B1) >> np.uint32(12)), np.float32(1)), base)


class Pooled(_AdaGrad):
    """The encoder's pooled vector, each feature as many deviations from its mean as batch norm knows."""

    def __init__(self, model: Path) -> None:
        try:
            import torch
        except ImportError as error:
            raise MailtaggerError("The learner pooled needs torch.", "pip install mailtagger[train]") from error
        from mailtagger.ulmfit.classifier import load_classifier
        from mailtagger.ulmfit.model import Classifier, Dropouts, Sizes

        artifact = load(model)
        self._torch, self._scorer = torch, Scorer(artifact)
        self._model = Classifier(Sizes(vocabulary=artifact.meta.vocabulary), Dropouts().scaled(0))
        load_classifier(self._model, model / WEIGHTS)
        self._model.eval()
        super().__init__(self._model.head.norm0.num_features, rate=0.1, floor=1.0)

    def see(self, raw: bytes, base: float) -> Seen:
        text = clean(parse(raw))
        places = slice(None)
        if not text.strip():
            return Seen((places, np.zeros(len(self._weights), np.float32)), base)
        with self._torch.no_grad():
            features, _ = self._model.encoder(self._torch.from_numpy(self._scorer.ids(text))[None])
            row = features[0]
            pooled = self._torch.cat([row[-1], row.amax(0), row.mean(0)])
            vector: Array = self._model.head.norm0(pooled[None])[0].numpy().astype(np.float32)
        return Seen((places, vector), base)


class Osb:
    """Winnow over pairs of tokens up to four apart; the weights of each class start at 1."""

    SIZE, UP, DOWN, THICK, SCALE = 1 << 20, 1.23, 0.83, 0.05, 10.0

    def __init__(self, model: Path) -> None:
        self._weights = np.ones((2, self.SIZE), np.float32)

    def see(self, raw: bytes, base: float) -> Seen:
        tokens = re.findall(rb"[^\s<>=\"']+", raw[:8_000])
        pairs = {
            zlib.crc32(first + b" %d " % gap + second) % self.SIZE
            for gap in range(1, 5)
            for first, second in zip(tokens, tokens[gap:], strict=False)
        }
        return Seen(np.array(sorted(pairs), np.int64), base)

    def log_odds(self, seen: Seen) -> float:
        return seen.base + self._own(seen)

    def learn(self, seen: Seen, spam: bool) -> None:
        own = self._own(seen) / self.SCALE
        if len(seen.features) and (own if spam else -own) < self.THICK:
            self._weights[int(spam), seen.features] *= self.UP
            self._weights[1 - int(spam), seen.features] *= self.DOWN

    def _own(self, seen: Seen) -> float:
        if not len(seen.features):
            return 0.0
        ham, spam = self._weights[:, seen.features].mean(1)
        return float(self.SCALE * np.log(spam / ham))


class Bogofilter:
    """bogofilter, a process a mail; its word lists lie in a directory that goes when this is left."""

    CUTOFF = 0.99
    _DIGITS = "--spamicity-formats=%.16e,%.16e,%.16e"

    def __enter__(self) -> "Bogofilter":
        memory = Path("/dev/shm")  # where there is one: on a disk each mail costs thrice the time
        self._home = tempfile.TemporaryDirectory(prefix="bogofilter-", dir=memory if memory.is_dir() else None)
        for label in ("-s", "-n"):  # without a word list it refuses to score
            self._run(b"\n\n", label)
        return self

    def __exit__(self, *_: object) -> None:
        self._home.cleanup()

    def see(self, raw: bytes, base: float) -> Seen:
        return Seen(raw, 0.0)

    def log_odds(self, seen: Seen) -> float:
        p = float(self._run(seen.features, "-T", self._DIGITS).split()[1])
        return math.log((p + 1e-15) / (1 - p + 1e-15))

    def learn(self, seen: Seen, spam: bool) -> None:
        self._run(seen.features, "-s" if spam else "-n")

    def _run(self, raw: bytes, *options: str) -> bytes:
        done = subprocess.run(
            ["bogofilter", "-C", "--db-transaction=no", "-d", self._home.name, *options],
            input=raw, capture_output=True, check=False,
        )
        if done.returncode == 3:
            raise MailtaggerError(f"bogofilter failed: {done.stderr.decode(errors='replace').strip()[:200]}.")
        return done.stdout


LEARNERS: dict[str, Callable[[Path], Learner]] = {
    "personal": Shipped,
    "ngrams": Ngrams,
    "osb": Osb,
    "pooled": Pooled,
}
