"""Whether a retrained model may take over: which lessons it learns, and what it is asked.

    kind        lessons of one sender, or with nearly equal texts: issues of one newsletter
    of five or more of a kind every fifth is held out: the next one, which the model should have understood
    of the smaller kinds a fifth is held out whole, where there are TO_SPARE of them, by a hash of the oldest's ident

So of five newsletters four are learned and one asks whether they were understood; of five different mails all are
learned. What is held out depends on the lessons alone, and training starts from the same base each time, so that no
candidate has ever learned it. In the LSTM's batches each kind counts by the root of its number.

A candidate is promoted only if (`decide`)

    1. good mail called spam does not rise: not on the base's hold-out, not on the user's, not on what was learned;
    2. the base's hold-out got no worse: of the mails that change sides of one half, no more get worse than a fair coin
       would show one time in twenty (McNemar 1947, one-sided); at least CAUGHT of the spam that was called spam still
       is, and KEPT of the good mail that was called ham. It is compared with the base, not with the last candidate:
       small losses do not add up;
    3. errors on the user's hold-out do not rise, and errors on all his lessons fall. Unsure is half an error.

Against wrong lessons there is 2. Measured on 1,500 mails, with 36 errors at one half, 272 spams called spam and 848
good mails called ham before: fifty spams taught as ham make it 54, 167 and 854, fifty good mails taught as spam 45, 268
and 716, half of each 42, 219 and 809; all three are refused. Fifty right ones make it 39, 273 and 849; a single wrong
one makes it 36, 264 and 848.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import comb
from typing import Protocol

EVERY = 5  # one in so many is held out
TO_SPARE = 10  # small kinds, from which on some of them can be spared
RUN = 4  # words
ALIKE = 0.5  # share of their runs of words that two texts of a kind have in common (Jaccard)
COMMON = 50  # lessons: a run that more of them have is not followed, or the work would grow with the square
CHANCE = 0.05
CAUGHT, KEPT = 0.9, 0.97


class Lesson(Protocol):
    """What the split reads of a lesson."""

    @property
    def ident(self) -> str: ...
    @property
    def sender(self) -> str: ...
    @property
    def text(self) -> str | None: ...


@dataclass(frozen=True)
class Split:
    """Positions of the lessons that are learned, what each of them counts, and of those that are held out."""

    learned: tuple[int, ...]
    weights: tuple[float, ...]
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class Said:
    """What one model says of one mail: P(spam), and ham, unsure or spam by its own cutoffs."""

    p: float
    verdict: str


@dataclass(frozen=True)
class Asked:
    """One set of mails: their labels, and what two models say of them."""

    spam: Sequence[bool]
    old: Sequence[Said]
    new: Sequence[Said]


@dataclass(frozen=True)
class Tally:
    """How one model did on one set of mails."""

    mails: int
    good_called_spam: int
    spam_called_ham: int
    unsure: int
    caught: int  # spam called spam
    kept: int  # good mail called ham
    wrong_at_half: int  # on the wrong side of P = 0.5

    @property
    def errors(self) -> float:
        """Wrong verdicts, and half of the doubtful ones."""
        return self.good_called_spam + self.spam_called_ham + self.unsure / 2


@dataclass(frozen=True)
class Judgement:
    """Whether the candidate takes over, and why or why not, in one sentence."""

    promoted: bool
    why: str


def split(lessons: Sequence[Lesson]) -> Split:
    """Which lessons are learned and which are held out; those whose text is gone are neither."""
    told = [i for i, lesson in enumerate(lessons) if lesson.text and lesson.text.strip()]
    members: dict[int, list[int]] = defaultdict(list)
    for i, kind in zip(told, kinds([lessons[i] for i in told]), strict=True):
        members[kind].append(i)
    small = [inside for inside in members.values() if len(inside) < EVERY]
    held_out = {i for inside in members.values() for i in inside[EVERY - 1 :: EVERY]}
    if len(small) >= TO_SPARE:
        for inside in small:
            if int.from_bytes(sha256(lessons[inside[0]].ident.encode()).digest()[:8], "big") % EVERY == 0:
                held_out.update(inside)
    size = {i: len(inside) for inside in members.values() for i in inside}
    learned = [i for i in told if i not in held_out]
    return Split(tuple(learned), tuple(size[i] ** -0.5 for i in learned), tuple(sorted(held_out)))


def kinds(lessons: Sequence[Lesson]) -> list[int]:
    """For each lesson the first one that it is of one kind with, by itself or over others between them."""
    parent = list(range(len(lessons)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for one, other in _alike(lessons):
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(node) for node in range(len(lessons))]


def _alike(lessons: Sequence[Lesson]) -> Iterator[tuple[int, int]]:
    senders: dict[str, int] = {}
    having: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    for i, lesson in enumerate(lessons):
        if lesson.sender:
            yield senders.setdefault(lesson.sender.casefold(), i), i
        words = (lesson.text or "").split()
        runs = {tuple(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))}
        shared: dict[int, int] = defaultdict(int)
        for run in runs:
            for other in having[run]:
                shared[other] += 1
            if len(having[run]) < COMMON:
                having[run].append(i)
        for other, both in shared.items():
            if both >= ALIKE * (len(runs) + sizes[other] - both):
                yield other, i
        sizes.append(len(runs))


def tally(spam: Sequence[bool], said: Sequence[Said]) -> Tally:
    """The counts of one model on one set."""
    pairs = [(label, one.verdict) for label, one in zip(spam, said, strict=True)]
    return Tally(
        mails=len(pairs),
        good_called_spam=pairs.count((False, "spam")),
        spam_called_ham=pairs.count((True, "ham")),
        unsure=sum(verdict == "unsure" for _, verdict in pairs),
        caught=pairs.count((True, "spam")),
        kept=pairs.count((False, "ham")),
        wrong_at_half=sum((one.p > 0.5) != label for label, one in zip(spam, said, strict=True)),
    )


def decide(base: Asked, held_out: Asked, learned: Asked, most_called_spam: int | None = None) -> Judgement:
    """The rule of this module. `old` is the base model on the base's hold-out, and the current model on the lessons;
    `most_called_spam` is what the current model was once found to call spam of the base's good mail, if known."""
    sets = {"the base's hold-out": base, "your mail held out": held_out, "your lessons": learned}
    for name, asked in sets.items():
        old, new = _both(asked)
        limit = old.good_called_spam
        if asked is base and most_called_spam is not None:
            limit = min(limit, most_called_spam)
        if new.good_called_spam > limit:
            rise = f"from {limit} to {new.good_called_spam} of {new.mails}"
            return Judgement(False, f"good mail called spam would rise on {name}, {rise}")
    old, new = _both(base)
    if unlikely(*changes(base)):
        return Judgement(False, f"errors on the base's hold-out would rise from {old.wrong_at_half} to "
                                f"{new.wrong_at_half} of {new.mails}, more than by chance")
    if new.caught < CAUGHT * old.caught:
        return Judgement(False, f"of the base's spam {new.caught} instead of {old.caught} would be called spam")
    if new.kept < KEPT * old.kept:
        return Judgement(False, f"of the base's good mail {new.kept} instead of {old.kept} would be called ham")
    mine_old, mine_new = _both(held_out)
    if mine_new.errors > mine_old.errors:
        return Judgement(False, f"errors on your mail held out would rise from {mine_old.errors:g} to "
                                f"{mine_new.errors:g} of {mine_new.mails}")
    learned_old, learned_new = _both(learned)
    before, after = learned_old.errors + mine_old.errors, learned_new.errors + mine_new.errors
    if after >= before:
        return Judgement(False, f"errors on your lessons would not fall: {before:g} before, {after:g} after")
    return Judgement(True, f"errors on your lessons fall from {before:g} to {after:g} of "
                           f"{learned_new.mails + mine_new.mails}, and no more good mail is called spam")


def changes(asked: Asked) -> tuple[int, int]:
    """(worse, better): how many mails leave the right side of one half, and how many come to it."""
    before = [(one.p > 0.5) == label for label, one in zip(asked.spam, asked.old, strict=True)]
    after = [(one.p > 0.5) == label for label, one in zip(asked.spam, asked.new, strict=True)]
    pairs = list(zip(before, after, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))


def unlikely(worse: int, better: int) -> bool:
    """Whether a fair coin thrown for each change would give so many for the worse less than one time in twenty."""
    total = worse + better
    tail: int = sum(comb(total, k) for k in range(worse, total + 1))
    return bool(tail < CHANCE * 2**total)


def _both(asked: Asked) -> tuple[Tally, Tally]:
    return tally(asked.spam, asked.old), tally(asked.spam, asked.new)
