"""`learn`: mail that the user names, or that the server knows to be good, becomes lessons in bulk.

Half of the lessons an account may be of either label this way, and none is pushed out for it: what the user has shown
one by one is worth more. Every BATCH of messages is one commit, and what is learned is not read again: a `learn` that
was killed goes on where it was.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailtagger.decide import Policy, Word
from mailtagger.harvest import Harvest, evenly, shares
from mailtagger.journal import FAILED, Journal
from mailtagger.judge import EMPTY, Scores, lesson_of, opinion
from mailtagger.lessons import LESSONS, Lesson, Lessons
from mailtagger.parse import identify, parse

log = logging.getLogger(__name__)

MOST = LESSONS // 2  # of one label
BATCH = 50


@dataclass(frozen=True)
class Known:
    """The Message-IDs and idents of an account's lessons."""

    message_ids: frozenset[str]
    idents: frozenset[str]


@dataclass(frozen=True)
class Pupil:
    """One account that learns, and what it learns with."""

    account: str
    journal: Journal
    lessons: Lessons
    scorer: Scores
    policy: Policy

    def known(self, label: Word | None = None) -> Known:
        """What it has been taught already, as this label or at all."""
        rows = self.journal.rows(
            _pair, "SELECT ident, message_id FROM lessons WHERE account = ?1 AND (?2 IS NULL OR label = ?2)",
            self.account, label,
        )
        return Known(frozenset(id_ for _, id_ in rows if id_), frozenset(ident for ident, _ in rows))

    def counts(self) -> dict[str, int]:
        """How many lessons of each label it has had."""
        return dict(self.journal.rows(
            _count, "SELECT label, COUNT(*) AS n FROM lessons WHERE account = ? GROUP BY label", self.account
        ))

    def room(self, label: Word) -> int:
        """How many lessons of this label may still come in bulk."""
        counts = self.counts()
        return max(0, min(MOST - counts.get(label, 0), LESSONS - sum(counts.values())))

    def lesson(self, raw: bytes, label: Word, place: str) -> Lesson | str:
        """What one message teaches, or why it cannot; whatever one message raises does not hold up the others."""
        try:
            mail, ident = parse(raw), identify(raw)
            seen = opinion(raw, mail, self.scorer, self.policy)
            before = self.journal.known(self.account, ident, mail.message_id)
            lesson = lesson_of(raw, mail, ident, seen, self.account, label, "learn", place, before)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            log.warning("a message in %s: %s (%s)", place, FAILED, type(error).__name__)
            return FAILED
        return lesson if seen.text.strip() else EMPTY


@dataclass(frozen=True)
class Kind:
    """Places of which the newest `most` messages are taken in all, about as many of each."""

    most: int
    harvests: Sequence[Harvest]


def teach(
    pupil: Pupil, kinds: Sequence[Kind], stop: Callable[[], bool], total: Callable[[int], None],
    step: Callable[[], None],
) -> None:
    """Learns what is new, as far as there is room; the tallies tell what came of it."""
    harvests = [harvest for kind in kinds for harvest in kind.harvests]
    numbers = _within_room(pupil, harvests, [number for kind in kinds for number in _within(kind, stop)])
    total(sum(numbers))
    batch: list[tuple[Harvest, Lesson]] = []
    for harvest, raw in evenly(harvests, numbers):
        if stop():
            break
        lesson = pupil.lesson(raw, harvest.label, harvest.place)
        if isinstance(lesson, str):
            harvest.tally.skipped[lesson] += 1
            harvest.tally.failed |= lesson == FAILED
        else:
            batch.append((harvest, lesson))
        if len(batch) == BATCH:
            _learn(pupil, batch)
        step()
    _learn(pupil, batch)


def _within(kind: Kind, stop: Callable[[], bool]) -> list[int]:
    """How many new messages to take of each place of a kind; what is known of it counts as taken."""
    new = [harvest.survey(kind.most, stop) for harvest in kind.harvests]
    known = [harvest.tally.known for harvest in kind.harvests]
    taken = shares([n + k for n, k in zip(new, known, strict=True)], kind.most)
    return [min(n, max(0, t - k)) for n, k, t in zip(new, known, taken, strict=True)]


def _within_room(pupil: Pupil, harvests: Sequence[Harvest], numbers: list[int]) -> list[int]:
    """So many of these as there is room for, of either label."""
    for label in ("ham", "spam"):
        places = [n for n, harvest in enumerate(harvests) if harvest.label == label]
        for n, share in zip(places, shares([numbers[n] for n in places], pupil.room(label)), strict=True):
            if numbers[n] > share:
                harvests[n].tally.skipped[f"no room: {MOST:,} lessons of a label are kept"] += numbers[n] - share
            numbers[n] = share
    return numbers


def _learn(pupil: Pupil, batch: list[tuple[Harvest, Lesson]]) -> None:
    with pupil.journal.transaction():
        news = [pupil.lessons.learn(lesson) for _, lesson in batch]
    for (harvest, _), new in zip(batch, news, strict=True):
        harvest.tally.learned += new
        harvest.tally.known += not new
    batch.clear()


def _pair(ident: str, message_id: str) -> tuple[str, str]:
    return ident, message_id


def _count(label: str, n: int) -> tuple[str, int]:
    return label, n
