"""UIDs → a judgement on each message that is there: fetched, parsed, cleaned, scored and decided, or known from before.

What is in the journal is not fetched again. A message that is known by ident and Message-ID at another address (the
server renumbered its folder, or it lies in two) keeps its verdict. One that was in a spam folder and is here now is the
user's word, and a lesson.
"""

import hashlib
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol, cast

from mailtagger import allow, rescue
from mailtagger.apply import left_alone, not_junk
from mailtagger.begun import DEADLY, TRIES, Deadly, in_hand
from mailtagger.clean import clean
from mailtagger.config import Account, Keywords
from mailtagger.decide import UNFAMILIAR, By, Decision, Policy, Verdict, Word, decide, log_odds_of
from mailtagger.errors import MailtaggerError
from mailtagger.imap import Address, FolderState, Mailbox, RawMessage
from mailtagger.journal import FAILED, TAKEN_BACK, Intent, Journal, Judged
from mailtagger.lessons import Lesson, Lessons, Source, shortened
from mailtagger.parse import Mail, identify, parse
from mailtagger.personal import Personal, terms
from mailtagger.report import plain
from mailtagger.score import Score

log = logging.getLogger(__name__)

EMPTY = "no text"


class Scores(Protocol):
    """What is needed of `score.Scorer`."""

    model: str

    def score(self, text: str) -> Score: ...


@dataclass(frozen=True)
class Job:
    """What a pass works with, and how far it may go."""

    account: Account
    keywords: Keywords
    policy: Policy
    scorer: Scores
    journal: Journal
    lessons: Lessons | None = None  # None: nothing is learned, and nothing that was learned counts
    act: bool = True  # False: a dry run
    release: bool = False  # a person has released the brake
    judge_anew: bool = False  # what another model judged, or this one before the last lesson, is judged again
    subjects: bool = False  # a person looks on: the subjects of messages judged before are asked for, nobody keeps them
    stop: Callable[[], bool] = lambda: False

    @property
    def taught(self) -> str:
        """How much has been learned by now."""
        return self.lessons.stand(self.account.name) if self.lessons else ""


@dataclass(frozen=True)
class Opinion:
    """What is thought of one mail: the decision, and what it comes from."""

    decision: Decision
    text: str  # cleaned
    base: float  # the model's calibrated log-odds of spam; 0 where there was nothing to read
    personal: float  # what the lessons add to them
    model: str


@dataclass(frozen=True)
class Judgement:
    """One message at its address, and the decision on it.

    `fresh`: to be recorded; `before`: judged earlier, here or at another address; `lesson`: what the user taught by
    putting it here.
    """

    address: Address
    ident: str
    message_id: str
    subject: str
    decision: Decision
    model: str
    flags: frozenset[str]
    fresh: bool = True
    before: bool = False
    lesson: Lesson | None = None
    arrived: datetime | None = None  # INTERNALDATE, where the message was read now

    def intent(self, account: str, batch: str) -> Intent:
        at = self.address
        return Intent(account, at.folder, at.uidvalidity, at.uid, self.ident, self.message_id, "keyword", "", batch)


def judge(job: Job, mailbox: Mailbox, state: FolderState, uids: Sequence[int]) -> Iterator[Judgement]:
    """A judgement on each message that is there and is not marked as deleted or draft."""
    account = job.account.name
    addresses = [Address(state.name, state.uidvalidity, uid) for uid in uids]
    known = {at.uid: row for at in addresses if (row := job.journal.judged(account, at)) and _stands(job, row)}
    flags = mailbox.flags(known) if known else {}
    headers = mailbox.subjects(known) if known and job.subjects else {}
    for at in addresses:
        if at.uid in flags and not left_alone(flags[at.uid]):
            yield _again(job, known[at.uid], at, parse(headers.get(at.uid, b"")).subject, flags[at.uid])
    fresh = [at.uid for at in addresses if at.uid not in known]
    for message in mailbox.fetch(fresh) if fresh else ():
        if job.stop():
            return
        if not left_alone(message.flags):
            yield _fresh(job, mailbox, message)


def _fresh(job: Job, mailbox: Mailbox, message: RawMessage) -> Judgement:
    """The judgement on a message that was never seen at this address; one that cannot be judged is unsure."""
    for _ in range(TRIES):
        try:
            with in_hand(job.journal, job.account.name, message.address):
                return _first_sight(job, mailbox, message)
        except MailtaggerError:
            raise  # the server's fault or the disk's, not the message's
        except Deadly:
            why = DEADLY
            break
        except Exception as error:  # one bad message must not hold up the others
            why = f"{FAILED}: {where(error)}"
    log.warning("%s/%s UID %d: %s", job.account.name, plain(message.address.folder), message.address.uid, why)
    decision = decide(None, job.policy, notes=[why])
    ident = hashlib.sha256(message.raw).hexdigest()
    return Judgement(
        message.address, ident, "", "", decision, job.scorer.model, message.flags, arrived=message.arrived
    )


def where(error: Exception) -> str:
    """An exception's kind and where it was raised; not its text, which may quote the message."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"


def _first_sight(job: Job, mailbox: Mailbox, message: RawMessage) -> Judgement:
    account, journal = job.account.name, job.journal
    mail, ident = parse(message.raw), identify(message.raw)
    row = journal.known(account, ident, mail.message_id)
    back = rescue.find(journal, mailbox, account, message, ident, mail.message_id)
    word: Word | None = "ham" if back else None
    if not back:
        word = _word(job, row, ident, mail.message_id)
    if row and not back and not word and _stands(job, row):
        return replace(_again(job, row, message.address, mail.subject, message.flags), arrived=message.arrived)
    notes = [*mail.notes, *in_part(message)]
    layer, allowed = _layer(job), _allowed(job, message.raw, mail)
    seen = opinion(message.raw, mail, job.scorer, job.policy, layer, word, allowed, notes)
    lesson = None
    if back and back.teaches and job.lessons:
        lesson = lesson_of(message.raw, mail, ident, seen, account, "ham", "moved", message.address.folder, row)
    return Judgement(
        message.address, ident, mail.message_id, mail.subject, seen.decision, job.scorer.model, message.flags,
        lesson=lesson, arrived=message.arrived,
    )


def in_part(message: RawMessage) -> tuple[str, ...]:
    """The note on a message that is too big to be read whole."""
    if not message.partial:
        return ()
    return (f"only the first {len(message.raw) >> 10} kB of {message.size >> 10} kB were read",)


def opinion(
    raw: bytes,
    mail: Mail,
    scorer: Scores,
    policy: Policy,
    personal: Personal | None = None,
    word: Word | None = None,
    allowed: bool = False,
    notes: Sequence[str] | None = None,
) -> Opinion:
    """What is thought of a mail by itself: clean → score → decide; one without text is unsure."""
    notes = mail.notes if notes is None else notes
    text = clean(mail)
    if not text.strip():
        return Opinion(decide(None, policy, word=word, notes=notes or [EMPTY]), text, 0.0, 0.0, scorer.model)
    score = scorer.score(text)
    base = log_odds_of(score.p)
    share = personal.logit(terms(raw, mail), base) if personal and personal.lessons else 0.0
    decision = decide(score.p, policy, score.familiar, word, allowed, share, notes)
    return Opinion(decision, text, base, share, scorer.model)


def lesson_of(
    raw: bytes, mail: Mail, ident: str, seen: Opinion, account: str, label: Word, source: Source, folder: str,
    before: Judged | None,
) -> Lesson:
    """The user's word on a message as a lesson; `before` is what had been said of it, by him or by us."""
    ours = before if before and before.decided_by != "user" else None
    return Lesson(
        account, ident, mail.message_id, label, source, mail.sender, folder, seen.base, terms(raw, mail),
        shortened(seen.text), score=ours.score if ours else None, verdict=ours.verdict if ours else None,
        model=ours.model if ours else None, base_of=seen.model,
    )


def agree(lessons: Lessons, scorer: Scores) -> int:
    """How many lessons had another model's word to start from, and have this one's now."""
    return lessons.rebase(scorer.model, lambda text: log_odds_of(scorer.score(text).p))


def _layer(job: Job) -> Personal | None:
    return job.lessons.personal(job.account.name) if job.lessons else None


def _allowed(job: Job, raw: bytes, mail: Mail) -> bool:
    return bool(job.lessons) and allow.known(job.journal, job.account, raw, mail.sender)


def _again(job: Job, row: Judged, address: Address, subject: str, flags: frozenset[str]) -> Judgement:
    """What the journal knows of a message, at its present address and under the present cutoffs."""
    decision = Decision(cast(Verdict, row.verdict), cast(By, row.decided_by), row.score, row.notes)
    word = _word(job, row, row.ident, row.message_id)
    if not word and job.account.keywords_teach and not_junk(flags - row.flags_before):
        word = "ham"  # its user has marked it since it was judged; the follower learns that
    if word:
        decision = Decision(word, "user", row.score, row.notes)
    elif row.decided_by == "model" and row.model == job.scorer.model:
        decision = decide(row.score, job.policy, 0.0 if UNFAMILIAR in row.notes else 1.0, notes=row.notes)
    moved = (row.folder, row.uidvalidity, row.uid) != (address.folder, address.uidvalidity, address.uid)
    return Judgement(
        address, row.ident, row.message_id, subject, decision, row.model, flags,
        fresh=moved or decision.verdict != row.verdict, before=True,
    )


def _word(job: Job, row: Judged | None, ident: str, message_id: str) -> Word | None:
    """What its user has taught of it; of what `undo` has put back, only what he has taught since."""
    since = row.at if row and any(note.startswith(TAKEN_BACK) for note in row.notes) else None
    return job.lessons.word(job.account.name, ident, message_id, since) if job.lessons else None


def _stands(job: Job, row: Judged) -> bool:
    if row.decided_by == "user" or not job.judge_anew:
        return True
    return row.model == job.scorer.model and row.taught == job.taught
