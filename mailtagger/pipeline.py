"""One pass over one folder: judge (fetch → parse → clean → score → decide) → plan → intents → act → outcomes.

A pass may be cut off anywhere and begun again. What was judged is in the journal and is not fetched a second time; what
was done, or is still to be done, is not planned a second time. A dry run is the same pass without the acts.
"""

import logging
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Literal

from mailtagger import apply
from mailtagger.apply import Means
from mailtagger.count import many
from mailtagger.decide import Verdict
from mailtagger.errors import MailboxError
from mailtagger.imap import FolderState, Mailbox
from mailtagger.imap_syntax import lower
from mailtagger.journal import FAILED, Intent
from mailtagger.judge import Job, Judgement, judge
from mailtagger.parse import identify
from mailtagger.report import plain

log = logging.getLogger(__name__)

CHUNK = 25  # messages that are fetched and committed together: a quarter of a second of scoring
# Messages that are marked together: for every STORE a server may look through the whole folder (Dovecot: 0.17 s long
# through 100,000 messages), and for each CHUNK that took longer than the scoring.
MARKED = 250
PASS = 500  # messages after which the brake is asked, spam is moved, and the daemon's watermark rises
HELD = "the brake held it back"
SPARED = "meanwhile somebody marked it as deleted, draft or not junk"
BEFORE = "judged before"


@dataclass(frozen=True)
class Outcome:
    """What became of one message; `ms` have passed since the pass began, or since the server told of the message."""

    account: str
    folder: str
    uid: int
    ident: str
    message_id: str
    subject: str
    score: float | None
    verdict: Verdict
    decided_by: str
    model: str
    action: Literal["none", "keyword", "move"]
    done: bool
    failed: bool
    notes: tuple[str, ...]
    ms: float


@dataclass
class Place:
    """An opened folder, and what can be done in it: less than was promised, when the server has refused it."""

    state: FolderState
    means: Means


def open_folder(job: Job, mailbox: Mailbox, folder: str) -> Place:
    """The folder selected, and what can be done in it; what cannot is said once, and stands in `status`."""
    state = mailbox.select(folder)
    means = apply.means(job.keywords, state, _target(job, mailbox), job.account.without_keywords)
    tell(job, state.name, "keywords", means.note)
    return Place(state, means)


def settle(job: Job, mailbox: Mailbox, place: Place) -> bool:
    """Whether acts still wait, after every open intent of this folder was looked up."""
    results = apply.settle(mailbox, job.journal, job.account.name, place.state, place.means.target, identify)
    _tell_refusals(job, place.state.name, results)
    return any(intent.state == "open" for intent in results)


def scan(
    job: Job, mailbox: Mailbox, folder: str, since: date | None = None, limit: int | None = None,
    total: Callable[[int], None] = lambda number: None,
) -> Iterator[Outcome]:
    """The newest `limit` messages that are in the folder, oldest first; once the brake held, it holds to the end."""
    place = open_folder(job, mailbox, folder)
    if job.act:
        settle(job, mailbox, place)
    uids = mailbox.uids(since=since)[-(limit or 0) :]
    total(len(uids))
    braked = False
    for start in range(0, len(uids), PASS):
        for outcome in sweep(job, mailbox, place, uids[start : start + PASS], braked=braked):
            braked = braked or HELD in outcome.notes
            yield outcome
    if not job.stop():
        tell(job, place.state.name, "numbering", "")
        if job.release or (not braked and since is None and limit is None):
            tell(job, place.state.name, "brake", "")


def sweep(
    job: Job, mailbox: Mailbox, place: Place, uids: Sequence[int], began: float | None = None, braked: bool = False
) -> Iterator[Outcome]:
    """The messages with these UIDs, judged and dealt with; spam that is to be moved comes last."""
    began = time.monotonic() if began is None else began
    batch = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    account, journal, seen = job.account.name, job.journal, 0
    moving: list[tuple[Judgement, list[Intent], Intent]] = []
    for judged in _gathered(job, mailbox, place, uids):
        seen += len(judged)
        before = {one.address.uid: journal.acts(account, one.address) for one in judged}
        plans = [
            (one, apply.plan(one.intent(account, batch), one.decision.verdict, place.means, before[one.address.uid]))
            for one in judged
        ]
        marks = [intent for _, intents in plans for intent in intents if intent.act == "keyword"]
        marked = _marked(job, mailbox, place, marks)
        for one, intents in plans:
            uid = one.address.uid
            acts = [act for act in before[uid] if act.state != "failed"] + ([marked[uid]] if uid in marked else [])
            move = next((intent for intent in intents if intent.act == "move"), None)
            if move and job.act:
                moving.append((one, acts, move))
            else:
                yield _outcome(job, one, [*acts, move] if move else acts, began)
    if not moving:
        return
    if braked or (not job.release and _too_many(job, len(moving), seen)):
        if not braked:
            tell(job, place.state.name, "brake", _brake_note(job, place.state.name, len(moving), seen))
        for one, acts, move in moving:
            yield _outcome(job, one, [*acts, replace(move, why=HELD)], began)
        return
    spared = {one.address.uid for one in _spared(mailbox, [one for one, _, _ in moving])}
    for one, acts, move in moving:
        if move.uid in spared:
            yield _outcome(job, one, [*acts, replace(move, why=SPARED)], began)
    moving = [(one, acts, move) for one, acts, move in moving if move.uid not in spared]
    moved = {intent.uid: intent for intent in _performed(job, mailbox, [move for _, _, move in moving])}
    _tell_refusals(job, place.state.name, moved.values())
    for one, acts, move in moving:
        yield _outcome(job, one, [*acts, moved[move.uid]], began)


def _gathered(job: Job, mailbox: Mailbox, place: Place, uids: Sequence[int]) -> Iterator[list[Judgement]]:
    """Judged and recorded a CHUNK at a time, and given on to be marked when there are MARKED, or no more."""
    group = list[Judgement]()
    for start in range(0, len(uids), CHUNK):
        if job.stop():
            break
        judged = list(judge(job, mailbox, place.state, uids[start : start + CHUNK]))
        _record(job, mailbox, judged)
        group += judged
        if len(group) >= MARKED:
            yield group
            group = []
    if group:
        yield group


def _record(job: Job, mailbox: Mailbox, judged: Sequence[Judgement]) -> None:
    taught = job.taught
    # Who took one away again has had another word.
    here = apply.standing(mailbox, (one.address.uid for one in judged if one.lesson))
    with job.journal.transaction():
        for one in filter(lambda one: one.fresh, judged):
            job.journal.record(job.account.name, one.address, one.ident, one.message_id, one.decision.score,
                               one.decision, one.flags, one.model, taught, one.arrived)
            if one.lesson and one.address.uid in here and job.lessons:
                job.lessons.learn(one.lesson)


def _marked(job: Job, mailbox: Mailbox, place: Place, marks: Sequence[Intent]) -> dict[int, Intent]:
    """UID → what came of its mark. Where the server keeps none, this is a folder without keywords until it is reopened.

    PERMANENTFLAGS may promise any keyword, and a limit or a right may forbid it all the same.
    """
    marked = {intent.uid: intent for intent in _performed(job, mailbox, marks)}
    refused = [intent for intent in marked.values() if intent.why == apply.NOT_KEPT]
    if not refused or len(refused) < len(marked):
        return marked
    before, none = place.means.keywords, replace(place.state, keywords_ok=False, permanent=frozenset())
    place.means = apply.means(job.keywords, none, place.means.target, job.account.without_keywords)
    if place.means.keywords == before:  # not even \\Flagged
        place.means = replace(place.means, keywords={})
    tell(job, place.state.name, "keywords", place.means.note)
    instead = " ".join(place.means.keywords.get("spam", ()))
    spam = [intent for intent in refused if instead and intent.target == " ".join(before["spam"])]
    again = [replace(intent, target=instead, state="open", why="", id=0) for intent in spam]
    return marked | {intent.uid: intent for intent in _performed(job, mailbox, again)}


def _performed(job: Job, mailbox: Mailbox, intents: Sequence[Intent]) -> Sequence[Intent]:
    return apply.perform(mailbox, job.journal, intents, identify) if job.act else intents


def _spared(mailbox: Mailbox, judged: Sequence[Judgement]) -> list[Judgement]:
    """Those whose user has had a word since they were read: seconds, where they are many."""
    now = apply.standing(mailbox, [one.address.uid for one in judged])
    return [
        one for one in judged if (flags := now.get(one.address.uid))
        and (apply.left_alone(flags) or apply.not_junk(lower(flags) - lower(one.flags)))
    ]


def _target(job: Job, mailbox: Mailbox) -> str | None:
    """Where spam goes; None when nothing is to be moved, and nothing when the folder is missing."""
    account = job.account
    if account.mode != "apply":
        return None
    if not mailbox.can_move:
        tell(job, "", "spam folder", "The server has neither MOVE nor UIDPLUS: spam is marked and not moved.")
        return None
    try:
        target = mailbox.spam_folder(account.spam_folder, create=account.create_spam_folder and job.act)
    except MailboxError as error:
        tell(job, "", "spam folder", f"Spam is marked and stays where it is: {error}")
        return ""
    tell(job, "", "spam folder", "")
    return target


def _too_many(job: Job, moves: int, seen: int) -> bool:
    return moves > job.account.brake.messages and moves > job.account.brake.share * seen


def _brake_note(job: Job, folder: str, moves: int, seen: int) -> str:
    command = f"mailtagger scan --account {job.account.name} --folder {shlex.quote(folder)}"
    return (
        f"{moves} of {many(seen, 'message')} in one pass {'is' if moves == 1 else 'are'} spam: marked, and not moved."
        f" Look at them with `{command}`; if that is right, `{command} --apply --yes` moves them."
    )


def tell(job: Job, folder: str, kind: str, text: str) -> None:
    """Notes it for `status` and says it in the log, when it is news; an empty text takes it back. Not in a dry run."""
    def noted() -> str:
        notes = job.journal.notes(job.account.name)
        return next((note.text for note in notes if (note.folder, note.kind) == (folder, kind)), "")

    if not job.act or text == noted():
        return
    with job.journal.transaction():  # another folder's thread may be about to say the same of the account
        if text == (before := noted()):
            return
        job.journal.note(job.account.name, folder, text, kind)
    where = f"{job.account.name}/{plain(folder)}" if folder else job.account.name
    if text:
        log.warning("%s: %s", where, plain(text))
    else:
        log.info("%s: no longer so: %s", where, plain(before))


def _tell_refusals(job: Job, folder: str, results: Iterable[Intent]) -> None:
    moves = [intent for intent in results if intent.act == "move"]
    if waiting := next((intent for intent in moves if intent.state == "open"), None):
        tell(job, folder, "move", f"Spam stays here and is tried again later: {waiting.why}")
    elif any(intent.state == "done" for intent in moves):
        tell(job, folder, "move", "")


def _outcome(job: Job, one: Judgement, acts: Sequence[Intent], began: float) -> Outcome:
    kinds = {intent.act for intent in acts}
    heaviest = [intent for intent in acts if intent.act == "move"] or acts
    notes = [*one.decision.notes, *([BEFORE] if one.before else []), *(intent.why for intent in acts if intent.why)]
    return Outcome(
        account=job.account.name, folder=one.address.folder, uid=one.address.uid, ident=one.ident,
        message_id=one.message_id, subject=one.subject, score=one.decision.score, verdict=one.decision.verdict,
        decided_by=one.decision.decided_by, model=one.model,
        action="move" if "move" in kinds else "keyword" if kinds else "none",
        done=job.act and all(intent.state == "done" for intent in heaviest),
        failed=any(note.startswith(FAILED) for note in notes),
        notes=tuple(dict.fromkeys(notes)), ms=round(1000 * (time.monotonic() - began), 1),
    )
