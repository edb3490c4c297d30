"""What the user has taught: one lesson for each message that he filed elsewhere or marked, kept in the journal's file.

    learned once    the same word on the same message again changes nothing
    last word wins  the opposite word takes the earlier one back, as if it had never been learned
    bounded         the oldest beyond LESSONS an account are forgotten; their text goes after `keep_text` days
    damaged         one that cannot be read any more teaches nothing, is named once, and can be forgotten

A lesson holds what learning needs: the hashed terms for the personal layer, and for `retrain` the cleaned text, cut to
what the model reads. It is the only place where text of mail is kept.
"""

import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from mailtagger.journal import Journal
from mailtagger.personal import SIZE, Example, Personal, Terms

log = logging.getLogger(__name__)

Label = Literal["ham", "spam"]
Source = Literal["moved", "keyword", "learn"]

LESSONS = 5_000  # an account; so many are learned again within a second when one of them is forgotten
FIRST, LAST = 4_000, 2_000  # characters kept of a text: 384 tokens are read, of five letters or so
SLACK = 250  # how far above LESSONS it may grow before the oldest go, so that not each new one has them learned again


@dataclass(frozen=True, eq=False)
class Lesson:
    """The user's word on one message, and what we had said of it before (None where it had not been judged)."""

    account: str
    ident: str
    message_id: str
    label: Label
    source: Source
    sender: str
    folder: str
    base: float  # what the model `base_of` said: calibrated log-odds of spam
    terms: Terms  # for the personal layer
    text: str | None = None  # cleaned
    score: float | None = None
    verdict: str | None = None
    model: str | None = None
    at: datetime | None = None
    learned_by: str | None = None  # the retrained model that has learned it
    base_of: str = ""
    id: int = 0
    damaged: bool = False  # what it holds cannot be read: there are no terms and no text

    @property
    def example(self) -> Example:
        """What the personal layer learns of it."""
        return Example(self.terms, self.base, self.label == "spam")


@dataclass(frozen=True)
class Retraining:
    """One `retrain`: what came out, and whether it was good enough to take over."""

    parent: str
    candidate: str
    promoted: bool
    why: str
    figures: dict[str, Any]
    at: datetime | None = None
    id: int = 0


class Lessons:
    """The lessons in one journal, and the personal layer of each account; safe to share between threads.

    Without `with_text` no text of a new lesson is kept at all.
    """

    def __init__(self, journal: Journal, with_text: bool = True) -> None:
        self._journal = journal
        self.with_text = with_text
        self._lock = threading.RLock()
        self._layers: dict[str, tuple[tuple[int, int, str], Personal]] = {}
        self._named: set[int] = set()  # damaged ones

    def learn(self, lesson: Lesson) -> bool:
        """Whether that was news; the lesson is on the disk when this returns, or with the transaction around it."""
        with self._journal.transaction():
            earlier = self._journal.rows(
                _said, "SELECT label, score, verdict, model FROM lessons WHERE account = ? AND ident = ?"
                " AND message_id = ?", lesson.account, lesson.ident, lesson.message_id,
            )
            if earlier and earlier[0][0] == lesson.label:
                return False
            said = earlier[0][1:] if earlier else (lesson.score, lesson.verdict, lesson.model)
            self._journal.write("DELETE FROM lessons WHERE account = ? AND ident = ? AND message_id = ?",
                                lesson.account, lesson.ident, lesson.message_id)
            self._journal.write(
                "INSERT INTO lessons (account, ident, message_id, label, source, sender, folder, score, verdict, model,"
                " base, terms, cleaned, at, base_of) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                lesson.account, lesson.ident, lesson.message_id, lesson.label, lesson.source, lesson.sender,
                lesson.folder, *said, lesson.base, _packed(lesson.terms),
                zlib.compress(lesson.text.encode("utf-8", "replace")) if lesson.text and self.with_text else None,
                lesson.at.timestamp() if lesson.at else self._journal.now(), lesson.base_of,
            )
            count, *_ = self._stand(lesson.account)
            if count > LESSONS + SLACK:
                self._journal.write(
                    "DELETE FROM lessons WHERE id IN (SELECT id FROM lessons WHERE account = ? ORDER BY id LIMIT ?)",
                    lesson.account, count - LESSONS,
                )
        return True

    def word(self, account: str, ident: str, message_id: str, since: datetime | None = None) -> Label | None:
        """What the user last said of this very message, if that was not before `since`."""
        found = self._journal.rows(
            _label, "SELECT label FROM lessons WHERE account = ? AND ident = ? AND message_id = ? AND at >= ?",
            account, ident, message_id, since.timestamp() if since else 0.0,
        )
        return found[0] if found else None

    def all(self, account: str | None = None, after: int = 0) -> list[Lesson]:
        """The lessons with an id beyond `after`, oldest first; of damaged ones the log tells, once."""
        found = self._journal.rows(
            _lesson, "SELECT * FROM lessons WHERE (?1 IS NULL OR account = ?1) AND id > ?2 ORDER BY id", account, after
        )
        if damaged := {lesson.id for lesson in found if lesson.damaged} - self._named:
            self._named |= damaged
            log.warning("%s is damaged: %d of the lessons in it cannot be read or learned."
                        " `mailtagger forget --damaged` takes them out; then teach them again.",
                        self._journal.path, len(damaged))
        return found

    def personal(self, account: str) -> Personal:
        """The personal layer as the lessons stand now, whichever process has changed them."""
        with self._lock:
            stand, known = self._stand(account), self._layers.get(account)
            if known and known[0] == stand:
                return known[1]
            (count, _, models), (old, last, before), layer = stand, *(known or ((0, 0, ""), Personal()))
            news = self.all(account, last)
            # Something was taken back, or starts from another model's word: what is learned hangs on what was before.
            if count != old + len(news) or models != before:
                layer, news = Personal(), self.all(account)
            for lesson in news:
                if not lesson.damaged:
                    layer.learn(lesson.example)
            self._layers[account] = stand, layer
            return layer

    def stand(self, account: str) -> str:
        """What is learned by now, as a short text that changes with each lesson learned or taken back."""
        return "{}/{}".format(*self._stand(account)[:2])

    def rebase(self, model: str, log_odds: Callable[[str], float]) -> int:
        """How many lessons start from this model's word now, and no longer from that of the one before; those whose
        text is gone keep what they have. What a retrained model has learned would otherwise count twice."""
        stale = self._journal.rows(
            _lesson, "SELECT * FROM lessons WHERE cleaned IS NOT NULL AND base_of <> ? ORDER BY id", model
        )
        # This takes seconds, in which others may learn.
        bases = [(log_odds(lesson.text or ""), lesson.id) for lesson in stale if not lesson.damaged]
        if bases:
            with self._journal.transaction():
                for base, id_ in bases:
                    self._journal.write("UPDATE lessons SET base = ?, base_of = ? WHERE id = ?", base, model, id_)
        return len(bases)

    def prune(self, keep_text: timedelta, now: datetime | None = None) -> int:
        """How many texts went because they are older than that; what the personal layer has learned of them stays."""
        before = ((now or datetime.now(UTC)) - keep_text).timestamp()
        gone = self._journal.write(
            "UPDATE lessons SET cleaned = NULL WHERE cleaned IS NOT NULL AND at < ?", before
        ).rowcount
        if gone:
            self._journal.wipe()
        return gone

    def learned(self, ids: Iterable[int], model: str) -> None:
        """These lessons are in that model's weights."""
        with self._journal.transaction():
            for id_ in ids:
                self._journal.write("UPDATE lessons SET learned_by = ? WHERE id = ?", model, id_)

    def retrained(self, retraining: Retraining) -> None:
        """A line for `status` and `models list`, whether the candidate was promoted or not."""
        self._journal.write(
            "INSERT INTO retrainings (at, parent, candidate, promoted, why, figures) VALUES (?, ?, ?, ?, ?, ?)",
            self._journal.now(), retraining.parent, retraining.candidate, retraining.promoted, retraining.why,
            json.dumps(retraining.figures),
        )

    def retrainings(self) -> list[Retraining]:
        """Every retraining, oldest first."""
        return self._journal.rows(_retraining, "SELECT * FROM retrainings ORDER BY id")

    def _stand(self, account: str) -> tuple[int, int, str]:
        """(lessons, id of the newest, models whose word they start from): no two sets of lessons in one file have the
        same, as ids never return."""
        return self._journal.rows(
            _triple, "SELECT COUNT(*) AS count, COALESCE(MAX(id), 0) AS last,"
            " COALESCE(GROUP_CONCAT(DISTINCT base_of), '') AS models FROM lessons WHERE account = ?", account
        )[0]


def shortened(text: str) -> str:
    """As much of a cleaned text as a model reads of it, and a little more."""
    return text if len(text) <= FIRST + LAST else f"{text[:FIRST]} {text[-LAST:]}"


def _label(label: Label) -> Label:
    return label


def _said(
    label: Label, score: float | None, verdict: str | None, model: str | None
) -> tuple[Label, float | None, str | None, str | None]:
    return label, score, verdict, model


def _triple(count: int, last: int, models: str) -> tuple[int, int, str]:
    return count, last, models


def _packed(terms: Terms) -> bytes:
    """A byte or so for each term: they are in order, so the steps between them are small."""
    return zlib.compress(np.diff(terms.astype("<u4"), prepend=np.uint32(0)).tobytes())


def _lesson(terms: bytes, cleaned: bytes | None, **columns: Any) -> Lesson:
    try:
        steps = np.frombuffer(zlib.decompress(terms), "<u4")
        text = None if cleaned is None else zlib.decompress(cleaned).decode()
        if steps.sum(dtype=np.uint64) >= SIZE:
            raise ValueError("there is no such term")
    except (zlib.error, ValueError, TypeError):  # cut short, or something else
        return Lesson(terms=np.empty(0, np.uint32), damaged=True, **columns)
    return Lesson(terms=np.cumsum(steps, dtype=np.uint32), text=text, **columns)


def _retraining(figures: str, promoted: int, **columns: Any) -> Retraining:
    return Retraining(figures=json.loads(figures), promoted=bool(promoted), **columns)
