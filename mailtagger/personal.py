"""A user's own layer: what it adds to the model's log-odds of spam, learned from one correction at a time.

A logistic regression over hashed byte 4-grams of the headers and of the visible text (Goodman & Yih 2006), trained by
AdaGrad. It starts at zero and is a function of the ordered lessons alone, so that to forget one is to learn the others
anew: 2,000 lessons take well under a second.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mailtagger.parse import Mail

Terms = NDArray[np.uint32]
Weights = NDArray[np.float32]

BITS = 19
SIZE = 1 << BITS  # weights: 2 × 2 MB in memory
HEAD, BODY = 3_000, 3_000  # bytes that are read of the header block and of the visible text
GRAM = 4
RATE = 0.1
MARGIN = 0.05
BASE_BOUND = 8.0  # log-odds: the model's word counts as at most so sure

_MAGIC = b"mtp1"
_TEXT_SALT = 0x5BD1E995


@dataclass(frozen=True)
class Example:
    """One lesson: what the message holds, what the model said of it and what its user says."""

    terms: Terms
    base: float  # the model's calibrated log-odds of spam; 0 where it had nothing to read
    spam: bool


def terms(raw: bytes, mail: Mail) -> Terms:
    """The hashed features of a message, each once, in order; a few thousand at most."""
    found = [_hashes(data, salt) for data, salt in _parts(raw, mail)]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.uint32)


def named(raw: bytes, mail: Mail) -> dict[int, str]:
    """What each of the message's terms was: the bytes of the first n-gram that hashes to it."""
    names: dict[int, str] = {}
    for data, salt in _parts(raw, mail):
        for place, term in enumerate(_hashes(data, salt).tolist()):
            names.setdefault(term, data[place : place + GRAM].decode("utf-8", "replace"))
    return names


def _parts(raw: bytes, mail: Mail) -> Iterable[tuple[bytes, int]]:
    head = re.split(rb"\r?\n\r?\n", raw.lstrip(), maxsplit=1)[0][:HEAD]
    yield head.replace(b"\r\n", b"\n"), 0
    yield f"{mail.subject}\n{mail.body[:BODY]}".encode("utf-8", "replace")[:BODY], _TEXT_SALT


def _hashes(data: bytes, salt: int) -> Terms:
    if len(data) < GRAM:
        return np.empty(0, np.uint32)
    b = np.frombuffer(data, np.uint8).astype(np.uint32)
    packed = b[:-3] | b[1:-2] << 8 | b[2:-1] << 16 | b[3:] << 24
    return ((packed ^ np.uint32(salt)) * np.uint32(0x9E3779B1)) >> np.uint32(32 - BITS)


class Personal:
    """The layer after some lessons."""

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self.lessons = 0
        self._weights: Weights = np.zeros(SIZE, np.float32)
        self._squares: Weights = np.zeros(SIZE, np.float32)
        for example in examples:
            self.learn(example)

    def learn(self, example: Example) -> None:
        """Take in one lesson; a message that is already judged right by a margin changes little."""
        self.lessons += 1
        at = example.terms
        z = example.base + self.logit(at, example.base)
        error = float(example.spam) - (1 / (1 + math.exp(-z)) if z > -700 else 0.0)
        if abs(error) < MARGIN or not len(at):
            return
        self._squares[at] += np.float32(error * error)
        self._weights[at] += np.float32(RATE * error) / np.sqrt(self._squares[at] + np.float32(1))

    def logit(self, terms: Terms, base: float) -> float:
        """What the layer adds to the model's log-odds of spam; exactly 0 before the first lesson."""
        return float(self.weights(terms).sum(dtype=np.float64))

    def weights(self, terms: Terms) -> NDArray[np.float64]:
        """Each term's share of `logit`."""
        return self._weights[terms].astype(np.float64)

    def state(self) -> bytes:
        """Everything that was learned, in at most 8 MB."""
        at = np.flatnonzero(self._squares).astype(np.uint32)
        body = at.tobytes() + self._weights[at].tobytes() + self._squares[at].tobytes()
        packed = struct.pack("<III", SIZE, self.lessons, len(at)) + body
        return _MAGIC + struct.pack("<I", zlib.crc32(packed)) + packed

    @classmethod
    def restored(cls, state: bytes) -> "Personal":
        """The layer that gave this state; ValueError where it is none."""
        if len(state) < 20 or state[:4] != _MAGIC or zlib.crc32(state[8:]) != struct.unpack("<I", state[4:8])[0]:
            raise ValueError("this is no state of a personal layer")
        size, lessons, count = struct.unpack("<III", state[8:20])
        if size != SIZE or len(state) != 20 + 12 * count:
            raise ValueError("this state of a personal layer is of another version")
        at = np.frombuffer(state, np.uint32, count, 20)
        if count and int(at.max()) >= SIZE:
            raise ValueError("this state of a personal layer has a term out of range")
        layer = cls()
        layer.lessons = lessons
        layer._weights[at] = np.frombuffer(state, np.float32, count, 20 + 4 * count)
        layer._squares[at] = np.frombuffer(state, np.float32, count, 20 + 8 * count)
        return layer
