"""One message → why it gets its score and its verdict, as one record with the keys that `explain --json` promises.

    words, rest                    what each word adds to the model's log-odds of spam; the text as a whole, beyond that
    personal_words, personal_rest  the same for what the user's lessons add
    sum, checked                   all of it added up, and whether that is the score that is shown

Nothing is changed: a message on the server is read from a folder opened for looking only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mailtagger import allow, files
from mailtagger.artifact import Artifact
from mailtagger.config import Account
from mailtagger.decide import UNFAMILIAR, Policy, added, decide, log_odds_of
from mailtagger.errors import MailboxError, MailtaggerError
from mailtagger.imap import Address, Mailbox
from mailtagger.journal import Intent, Journal, Judged
from mailtagger.judge import Opinion, in_part, opinion
from mailtagger.lessons import Lesson, Lessons
from mailtagger.occlude import DISGUISES, Part, in_words, occlude
from mailtagger.parse import Mail, identify, parse
from mailtagger.personal import Personal, Terms, terms
from mailtagger.score import Scorer
from mailtagger.trace import Share, trace

Record = dict[str, Any]

NEAREST = 3
CLOSE_ENOUGH = 1e-6  # log-odds


@dataclass(frozen=True)
class Message:
    """The message that is asked about, from a file or from a folder."""

    raw: bytes
    path: str | None = None
    address: Address | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """With what it is judged; without an account the model alone judges."""

    model: Artifact
    scorer: Scorer
    policy: Policy
    account: Account | None = None
    journal: Journal | None = None


def in_file(path: str) -> Message:
    """The one message that a path names, as `score` names it; MailtaggerError where there is none, or more than one."""
    name, _, number = path.rpartition("#")
    whole = name if name and number.isdigit() and not Path(path).exists() else path
    found = []
    for source in files.read([whole]):
        if source.path == path or whole == path:
            found.append(source)
        if len(found) > 1:
            raise MailtaggerError(
                f"{path} holds more than one message.", f"Name one of them: {found[0].path}, {found[1].path}, ..."
            )
    if not found:
        raise MailtaggerError(f"There is no message {path}.")
    if found[0].error:
        raise MailtaggerError(f"{path} cannot be read: {found[0].error}.")
    return Message(found[0].raw, path=path)


def on_server(mailbox: Mailbox, folder: str, uid: int) -> Message:
    """The message with this UID; MailboxError where there is no such folder or message."""
    names = [info.name for info in mailbox.folders()]
    name = "INBOX" if folder.upper() == "INBOX" else folder
    if name not in names:
        raise MailboxError(f"There is no folder {folder}.", f"There are: {', '.join(sorted(names)[:30])}.")
    mailbox.examine(name)
    for found in mailbox.fetch([uid]):
        return Message(found.raw, address=found.address, notes=in_part(found))
    raise MailboxError(f"There is no message with UID {uid} in {folder}.", "It may have been moved: see `history`.")


def explain(message: Message, asked: Asked) -> Record:
    """Score, verdict, who decided, and what it came from; the keys in the order of the contract."""
    mail, ident = parse(message.raw), identify(message.raw)
    name = asked.account.name if asked.account else None
    lessons = Lessons(asked.journal) if asked.journal and name else None
    taught = lessons.all(name) if lessons else []
    layer = lessons.personal(name) if lessons and name else Personal()
    before = _journal(asked, message, mail, ident, taught)
    allowed = bool(lessons and asked.journal and asked.account
                   and allow.known(asked.journal, asked.account, message.raw, mail.sender))
    word = before["word"] if before else None
    notes = [*mail.notes, *message.notes]
    seen = opinion(message.raw, mail, asked.scorer, asked.policy, layer, word, allowed, notes)
    words = occlude(asked.scorer, seen.text) if seen.decision.score is not None else []
    shares = trace(message.raw, mail, layer, seen.base) if seen.personal else []
    rest = seen.base - math.fsum(part.log_odds for part in words)
    personal_rest = seen.personal - math.fsum(share.log_odds for share in shares)
    total = math.fsum([*(part.log_odds for part in words), rest, *(share.log_odds for share in shares), personal_rest])
    score = seen.decision.score
    return {
        "path": message.path,
        "account": name,
        "folder": message.address.folder if message.address else None,
        "uid": message.address.uid if message.address else None,
        "message_id": mail.message_id,
        "subject": mail.subject[:200],
        "sender": mail.sender,
        "score": score,
        "verdict": seen.decision.verdict,
        "decided_by": seen.decision.decided_by,
        "why": _why(seen, asked.policy),
        "cutoffs": {"ham": asked.policy.ham_cutoff, "spam": asked.policy.spam_cutoff},
        "model": asked.scorer.model,
        "model_created": asked.model.meta.created,
        "model_parent": asked.model.meta.parent,
        "model_log_odds": seen.base,
        "words": [_part(part) for part in words],
        "rest": rest,
        "personal_log_odds": seen.personal,
        "personal_words": [_share(share) for share in shares],
        "personal_rest": personal_rest,
        "sum": total,
        "checked": _agrees(total, score),
        "lessons_learned": layer.lessons,
        "lessons": [_lesson(*one) for one in nearest(terms(message.raw, mail), taught, ident)],
        "notes": [*seen.decision.notes, *_told(seen.text, asked.scorer, words)],
        "journal": before,
    }


def nearest(of: Terms, lessons: Sequence[Lesson], ident: str = "") -> list[tuple[Lesson, float]]:
    """The lessons that share most with a message, and how alike they are (cosine, 0 to 1); itself is none of them."""
    here = np.zeros(int(of.max()) + 1 if len(of) else 0, bool)
    here[of] = True
    found = []
    for lesson in lessons:
        if lesson.ident != ident and len(of) and len(lesson.terms):
            shared = int(here[lesson.terms[lesson.terms < len(here)]].sum())
            found.append((lesson, shared / math.sqrt(len(of) * len(lesson.terms))))
    return sorted(found, key=lambda one: -one[1])[:NEAREST]


def _agrees(total: float, score: float | None) -> bool:
    """Whether these log-odds are those of the score, as far as a probability can tell them."""
    if score is None:
        return total == 0
    return abs(log_odds_of(added(0.5, total)) - log_odds_of(score)) <= CLOSE_ENOUGH


def _why(seen: Opinion, policy: Policy) -> str:
    """Who decided, in a sentence."""
    decision = seen.decision
    familiar = 0.0 if UNFAMILIAR in decision.notes else 1.0
    score = None if decision.score is None else added(0.5, seen.base)
    by_score = decide(score, policy, familiar, personal=seen.personal).verdict
    alone = decide(score, policy, familiar).verdict
    match decision.decided_by:
        case "user":
            return f"You have said so of this very message; by its score it would be {by_score}."
        case "allow":
            return ("Its sender is one that you write to, and your own server has proven that it is no other; "
                    f"by its score it would be {by_score}.")
        case "personal":
            return f"Your lessons decided; the model alone would give {score:.4f}, {alone}."
        case _ if score is None:
            return "There is nothing in it to judge, so it stays where it is."
        case _ if seen.personal:
            return f"The model decided; your lessons push towards {'spam' if seen.personal > 0 else 'ham'}, " \
                   "and do not change the verdict."
        case _:
            return "The model decided." if decision.verdict != "unsure" else "The model is in doubt."


def _told(text: str, scorer: Scorer, weighed: Sequence[Part]) -> list[str]:
    """What a person should know of the text beside its words: disguises, what was not read, and what not weighed."""
    words = text.split()
    said = [f"disguise: {in_words(token)}" for token in DISGUISES if token in words]
    read = len({at for at, _ in scorer.words(text)})
    if read < len(words):
        said.append(f"long mail: {read} of its {len(words)} words were read, those at the beginning and at the end")
    if sum(part.times * len(part.token.split()) for part in weighed) < read and weighed:
        said.append("many words: only those of the passages that matter were weighed one by one")
    return said


def _journal(asked: Asked, message: Message, mail: Mail, ident: str, taught: Sequence[Lesson]) -> Record | None:
    """What is on record of this very message: the user's word, the last verdict, what was done; None for nothing."""
    if not asked.journal or not asked.account:
        return None
    journal, account, row = asked.journal, asked.account.name, None
    if message.address and (row := journal.judged(account, message.address)) and row.ident != ident:
        row = None
    row = row or journal.known(account, ident, mail.message_id)
    lesson = next((one for one in taught if (one.ident, one.message_id) == (ident, mail.message_id)), None)
    acts = {act.id: act for act in journal.moves(account, ident, mail.message_id)}
    for place in (message.address, row):
        acts |= {act.id: act for act in journal.acts(account, place)} if place else {}
    if not row and not lesson and not acts:
        return None
    word = lesson.label if lesson else row.verdict if row and row.decided_by == "user" else None
    return {
        "word": word if word in ("ham", "spam") else None,
        "said": {"at": _iso(lesson), "by": lesson.source, "folder": lesson.folder} if lesson else None,
        "judged": _judged(row) if row else None,
        "acts": [_act(act) for _, act in sorted(acts.items()) if act.ident == ident],
    }


def _judged(row: Judged) -> Record:
    keys = ("folder", "uid", "score", "verdict", "decided_by", "model")
    return {"at": _iso(row), **{key: getattr(row, key) for key in keys}}


def _act(act: Intent) -> Record:
    at = act.closed_at or act.opened_at
    when = at.isoformat(timespec="milliseconds") if at else None
    return {"at": when, **{key: getattr(act, key) for key in ("folder", "uid", "act", "target", "state", "why")}}


def _iso(of: Judged | Lesson) -> str | None:
    return of.at.isoformat(timespec="milliseconds") if of.at else None


def _part(part: Part) -> Record:
    return {"text": part.text, "token": part.token, "times": part.times, "log_odds": part.log_odds}


def _share(share: Share) -> Record:
    return {"place": share.place or None, "text": share.text, "log_odds": share.log_odds}


def _lesson(lesson: Lesson, alike: float) -> Record:
    about = {key: getattr(lesson, key) for key in ("label", "source", "folder", "sender")}
    return {**about, "at": _iso(lesson), "alike": round(alike, 4)}
