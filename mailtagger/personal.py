"""A user's own layer: what it adds to the model's log-odds of spam, learned from one correction at a time.

A logistic regression over hashed byte 5-grams of the header and of the visible text (the first kilobytes are enough:
Goodman & Yih 2006, Sculley & Wachman 2007), trained by AdaGrad (Duchi et al. 2011) and bounded in four ways:

    a step     moves its own message by 16 at most, and by less the more firmly the opposite was thought of it: half at
               3, a sixth at 15. One wrong label in a hundred then costs at most twice the errors
    evidence   the layer adds no more than its lessons of that class were surprising (a correction counts up to 1): a
               first lesson cannot turn a class of mail, five can
    balance    beyond that it needs lessons of both classes. Who only teaches spam gets mail lifted to "unsure", not
               into the spam folder; who only teaches good mail gets it lowered by 5
    in all     10, and the model's word loses at most four fifths of its weight, where both classes show it wrong

It starts at zero and is a function of the ordered lessons alone, so to forget one is to learn the others anew: a tenth
of a millisecond each. `python -m training.stream` measures it, `training.learners` what it was chosen from.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mailtagger.decide import probability
from mailtagger.parse import Mail

Terms = NDArray[np.uint32]
Weights = NDArray[np.float32]

BITS = 19
SIZE = 1 << BITS  # weights, and as many sums of squares: 4 MB in memory
GRAM = 5
FIELD, HEADER, TEXT = 200, 4_000, 3_000  # bytes that are read: of a header field, of the header and of the visible text
READ = 64_000  # bytes at the start that a header is looked for in

RATE, FLOOR = 0.02, 0.03  # AdaGrad: rate · gradient / (√ sum of squares + floor)
STEP, CONTRADICTED = 16.0, 3.0  # log-odds: a step, and how firm a contrary opinion halves it
MOST = 10.0  # log-odds that the layer adds or takes in all
ONE_SIDED_DOWN = 5.0  # … takes before a lesson of spam
LIFT, CEILING = 0.2, 2.0  # … adds before a lesson of good mail: so much, or up to P(spam) = 0.88
BALANCE = 20.0  # lessons²: n of each class are worth n² / BALANCE more
TRUST_RATE, TRUST_LOSS, TRUST_BALANCE = 0.1, 0.8, 10
BASE_BOUND = 8.0

_MAGIC = b"mailtagger personal 1\n"
_SCALARS = struct.Struct("<IIIdddd")  # terms, lessons of spam, of ham, surprise of spam, of ham, trust, its square
_TEXT_SALT = 0x9D3BB5
_SIGNATURES = (b"dkim-signature", b"arc-seal", b"arc-message-signature", b"x-google-dkim-signature")  # noise to us


@dataclass(frozen=True, eq=False)
class Example:
    """One lesson: what the message holds, what the model said of it and what its user says."""

    terms: Terms
    base: float  # the model's calibrated log-odds of spam; 0 where it had nothing to read
    spam: bool


def terms(raw: bytes, mail: Mail) -> Terms:
    """The hashed features of a message, each once, in order; at most HEADER + TEXT."""
    return np.unique(np.concatenate([_hashes(data, salt) for data, salt in _read(raw, mail)]))


def named(raw: bytes, mail: Mail) -> dict[int, str]:
    """What each of the message's terms was: the first n-gram that hashes to it, a line break before a field's name."""
    names: dict[int, str] = {}
    for data, salt in _read(raw, mail):
        for place, term in enumerate(_hashes(data, salt).tolist()):
            names.setdefault(term, data[place : place + GRAM].decode("utf-8", "replace"))
    return names


def _read(raw: bytes, mail: Mail) -> Iterator[tuple[bytes, int]]:
    """The bytes that count: the unfolded header, its fields cut short, and the visible text."""
    head = raw[:READ].lstrip().replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    fields = re.sub(rb"\n[ \t]+", b" ", head).split(b"\n")
    kept = [field[:FIELD] for field in fields if field.partition(b":")[0].lower() not in _SIGNATURES]
    yield b"\n".join(kept)[:HEADER], 0
    text = f"{mail.subject}\n{mail.body[:2 * TEXT]}".replace("\r\n", "\n")
    yield text.encode("utf-8", "replace")[:TEXT], _TEXT_SALT


def _hashes(data: bytes, salt: int) -> Terms:
    count = len(data) - GRAM + 1
    if count < 1:
        return np.empty(0, np.uint32)
    codes = np.frombuffer(data, np.uint8).astype(np.uint64)
    packed = np.full(count, salt << 8 * GRAM, np.uint64)
    for place in range(GRAM):
        packed ^= codes[place : place + count] << np.uint64(8 * place)
    return (packed * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - BITS)).astype(np.uint32)


class Personal:
    """The layer after some lessons."""

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self._weights: Weights = np.zeros(SIZE, np.float32)
        self._squares: Weights = np.zeros(SIZE, np.float32)
        self._spam = self._ham = 0  # lessons
        self._surprise_spam = self._surprise_ham = 0.0  # sums of (truth - P)², each before it was learned
        self._trust = self._trust_square = 0.0  # what the model's word is taken times, less 1
        for example in examples:
            self.learn(example)

    @property
    def lessons(self) -> int:
        """How many have been learned."""
        return self._spam + self._ham

    def learn(self, example: Example) -> None:
        """Take in one lesson; 0.1 ms."""
        at, base, truth = example.terms, example.base, float(example.spam)
        weights = self._weights[at]
        pushed = float(weights.sum(dtype=np.float64))
        surprise = (truth - probability(base + self._bounded(pushed, base) + self.rest(base))) ** 2
        if example.spam:
            self._spam += 1
            self._surprise_spam += surprise
        else:
            self._ham += 1
            self._surprise_ham += surprise
        before = base + self.rest(base) + pushed
        error = truth - probability(before)
        if len(at):
            squares = self._squares[at] + np.float32(error * error)
            step = np.float32(RATE * error) / (np.sqrt(squares) + np.float32(FLOOR))
            most = STEP / (1 + max(0.0, -before if example.spam else before) / CONTRADICTED)
            size = abs(float(step.sum(dtype=np.float64)))
            self._weights[at] = weights + step * np.float32(min(1.0, most / size) if size else 0.0)
            self._squares[at] = squares
        self._adjust_trust(error * max(-BASE_BOUND, min(BASE_BOUND, base)) / 4)

    def logit(self, terms: Terms, base: float) -> float:
        """What the layer adds to the model's log-odds of spam; exactly 0 before the first lesson."""
        return math.fsum(self.weights(terms, base)) + self.rest(base)

    def weights(self, terms: Terms, base: float = 0.0) -> NDArray[np.float64]:
        """Each term's share of `logit`; with `rest` they sum to it."""
        weights = self._weights[terms].astype(np.float64)
        pushed = float(weights.sum())
        return weights * (self._bounded(pushed, base) / pushed if pushed else 0.0)

    def rest(self, base: float) -> float:
        """The share of `logit` that is no term's: what the model's own word loses by lessons that show it wrong."""
        return self._trust * base

    def _bounded(self, pushed: float, base: float) -> float:
        """Log-odds that the terms' sum comes to under the evidence so far."""
        bound = min(self._spam, self._ham) ** 2 / BALANCE
        if pushed > 0:
            bound += min(self._surprise_spam, max(LIFT, min(CEILING, CEILING - base)))
        else:
            bound += min(self._surprise_ham, ONE_SIDED_DOWN)
        bound = min(bound, MOST)
        return bound * math.tanh(pushed / bound) if bound else 0.0

    def _adjust_trust(self, gradient: float) -> None:
        self._trust_square += gradient * gradient
        trust = self._trust + TRUST_RATE * gradient / (math.sqrt(self._trust_square) + 1)
        lowest = -TRUST_LOSS * min(1.0, min(self._spam, self._ham) / TRUST_BALANCE)
        self._trust = min(0.0, max(lowest, trust))

    def state(self) -> bytes:
        """Everything that was learned, in at most 6.3 MB."""
        at = np.flatnonzero(self._squares).astype("<u4")
        packed = _SCALARS.pack(
            len(at), self._spam, self._ham, self._surprise_spam, self._surprise_ham, self._trust, self._trust_square
        ) + b"".join(part.tobytes() for part in (at, self._weights[at], self._squares[at]))
        return _MAGIC + struct.pack("<I", zlib.crc32(packed)) + packed

    @classmethod
    def restored(cls, state: bytes) -> "Personal":
        """The layer that gave this state, bit for bit; ValueError where none did."""
        start = len(_MAGIC) + 4
        body = start + _SCALARS.size
        if not state.startswith(_MAGIC) or len(state) < body or zlib.crc32(state[start:]) != _crc(state):
            raise ValueError("these bytes are no state of a personal layer")
        layer = cls()
        count, layer._spam, layer._ham, *rest = _SCALARS.unpack_from(state, start)
        layer._surprise_spam, layer._surprise_ham, layer._trust, layer._trust_square = rest
        if len(state) != body + 12 * count or not all(map(math.isfinite, rest)):
            raise ValueError("the state of a personal layer is damaged")
        at = np.frombuffer(state, "<u4", count, body)
        weights, squares = np.frombuffer(state, "<f4", 2 * count, body + 4 * count).reshape(2, count)
        sound = count == 0 or (at[-1] < SIZE and bool((np.diff(at.astype(np.int64)) > 0).all()))
        if not sound or not np.isfinite(weights).all() or not (squares >= 0).all():
            raise ValueError("the state of a personal layer is damaged")
        layer._weights[at], layer._squares[at] = weights, squares
        return layer


def _crc(state: bytes) -> int:
    return int.from_bytes(state[len(_MAGIC) : len(_MAGIC) + 4], "little")
