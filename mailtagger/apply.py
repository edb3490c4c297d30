"""Decision → keywords and move: planned, journalled as intents, carried out in groups, journalled as outcomes.

    intent open    on the disk before the server hears of it
           done    the server showed that it happened
           failed  it did not, and will not be tried again by itself: the message had gone, or keeps no keyword
           open    still, when the connection broke (`settle` looks where the message is) or the server refused a move

A message is only ever acted on at the place where it was judged. If it has left that place, somebody else was faster,
and has the last word.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, Protocol

from mailtagger.decide import Verdict
from mailtagger.errors import MailboxError
from mailtagger.imap import CannotMove, FolderState, Moved, Proven
from mailtagger.imap_reader import Head
from mailtagger.journal import GONE, UNSEEN, Act, Intent, Journal, may_be_one
from mailtagger.places import Places
from mailtagger.state import acting

LEFT_ALONE = frozenset({"\\deleted", "\\draft"})
NOT_JUNK = frozenset({"notjunk", "$notjunk", "nonjunk"})
LOOK = 50  # intents looked up before they are carried out as one group
ORDER: tuple[Act, ...] = ("keyword", "move")  # keywords first: they travel with the message
NOT_KEPT = "the server kept no keyword"
NO_FOLDER = "there is no spam folder"


def left_alone(flags: Iterable[str]) -> bool:
    """Whether a message is on its way out, or not yet mail."""
    return any(flag.lower() in LEFT_ALONE for flag in flags)


def not_junk(flags: Iterable[str]) -> bool:
    """Whether a mail program shows it as no spam."""
    return any(flag.lower() in NOT_JUNK for flag in flags)


class Mailbox(Protocol):
    """What is needed of `imap.Mailbox`, with a folder selected."""

    @property
    def moves_whole(self) -> bool: ...
    def poll(self) -> tuple[int, int]: ...
    def flags(self, uids: Iterable[int]) -> dict[int, frozenset[str]]: ...
    def add_keywords(self, uids: Iterable[int], names: Iterable[str]) -> set[int]: ...
    def move(self, uids: Iterable[int], target: str, proven: Proven = ...) -> Moved: ...
    def expunge(self, uids: Iterable[int]) -> set[int]: ...
    def heads(self, uids: Iterable[int]) -> Iterator[Head]: ...
    def locate(
        self, folder: str, message_id: str, digest: Callable[[bytes], str], ident: str,
        arrived: datetime | None = ..., shown: Iterable[str] = ...,
    ) -> list[int]: ...


class Marks(Protocol):
    """What is read of `config.Keywords`."""

    @property
    def spam(self) -> str: ...
    @property
    def unsure(self) -> str: ...
    @property
    def junk(self) -> bool: ...


@dataclass(frozen=True)
class Means:
    """What can be done in one folder: the keywords for each verdict, and where spam goes.

    No target: nothing is to be moved. An empty one: the spam folder is missing, and its mail waits for it.
    """

    keywords: Mapping[Verdict, tuple[str, ...]]
    target: str | None = None
    note: str = ""


def means(marks: Marks, state: FolderState, target: str | None, without_keywords: str = "move_only") -> Means:
    """What this folder lets us do, and in a sentence what it does not."""
    wanted: dict[Verdict, tuple[str, ...]] = {
        "spam": (marks.spam, "$Junk") if marks.junk else (marks.spam,), "unsure": (marks.unsure,),
    }
    if not state.writable:
        return Means({}, None, "The folder is read-only for this account: mail in it is judged, and stays as it is.")
    if state.keywords_ok:
        return Means(wanted, target)
    kept: dict[Verdict, tuple[str, ...]] = {
        verdict: tuple(name for name in names if name.lower() in state.permanent) for verdict, names in wanted.items()
    }
    if not kept["spam"] and without_keywords == "flagged":
        kept["spam"] = ("\\Flagged",)
    instead = f"spam is marked with {' and '.join(kept['spam'])}" if kept["spam"] else "spam gets no mark"
    return Means(kept, target, f"The server keeps no keywords of ours in this folder: {instead}.")


def plan(message: Intent, verdict: Verdict, means: Means, before: Collection[Intent] = ()) -> list[Intent]:
    """The acts that this verdict asks for, less those that `before` shows as done or still to be done.

    `message` is any intent on the message: only its act and target are replaced.
    """
    wanted: list[tuple[Act, str]] = []
    if names := means.keywords.get(verdict):
        wanted.append(("keyword", " ".join(names)))
    if verdict == "spam" and means.target is not None and means.target != message.folder:
        wanted.append(("move", means.target))
    had = {_kind(intent.act, intent.target) for intent in before if intent.state != "failed"}
    return [replace(message, act=act, target=target) for act, target in wanted if _kind(act, target) not in had]


def _kind(act: Act, target: str) -> tuple[Act, str]:
    return act, target if act == "keyword" else ""  # a message is moved once, wherever to


def perform(
    mailbox: Mailbox, journal: Journal, intents: Sequence[Intent], digest: Callable[[bytes], str]
) -> list[Intent]:
    """The intents with what came of them; on the disk before the first act, and after each group."""
    if not intents:
        return []
    with acting(journal.path.parent, intents[0].account, intents[0].folder):
        ids = journal.open_intents(intents)
        opened = [replace(intent, id=id_) for intent, id_ in zip(intents, ids, strict=True)]
        return _carry_out(mailbox, journal, opened, digest)


def settle(
    mailbox: Mailbox, journal: Journal, account: str, state: FolderState, target: str | None,
    digest: Callable[[bytes], str],
) -> list[Intent]:
    """Every open intent of the selected folder, done, failed or still waiting, after a look at where its message is.

    `target` is where spam goes now; with None nothing more is moved.
    """
    results: list[Intent] = []
    taken: set[tuple[Act, int]] = set()
    with acting(journal.path.parent, account, state.name):
        waiting = [intent for intent in journal.open_intents_of(account) if intent.folder == state.name]
        for start in range(0, len(waiting), LOOK):
            written = waiting[start : start + LOOK]
            portion = _readdressed(mailbox, journal, state, written, digest, taken)
            renumbered = {now.uid for then, now in zip(written, portion, strict=True) if now is not then}
            flags = mailbox.flags(intent.uid for intent in portion if intent.uidvalidity == state.uidvalidity)
            seen = [_look(mailbox, journal, state, flags, intent, target, digest) for intent in portion]
            again = [intent for intent in seen if intent.state == "open" and not intent.why]
            results += [intent for intent in seen if intent not in again]
            # Never moved, or moved and taken back: under another number nobody can tell, so it stays.
            doubtful = [intent for intent in again if intent.act == "move" and intent.uid in renumbered]
            results += _close(journal, doubtful, "done", UNSEEN)
            results += _carry_out(mailbox, journal, [intent for intent in again if intent not in doubtful], digest)
            if any(intent.state == "open" for intent in results):
                break  # a refusal: the rest would have the same
    return results


def _readdressed(
    mailbox: Mailbox, journal: Journal, state: FolderState, intents: list[Intent], digest: Callable[[bytes], str],
    taken: set[tuple[Act, int]],
) -> list[Intent]:
    """The intents at their messages' present UIDs, where the server has given the folder a new UIDVALIDITY.

    Of equal messages each gets its own: `taken` are those that have one.
    """
    found = []
    for intent in intents:
        if intent.uidvalidity != state.uidvalidity:
            places = mailbox.locate(state.name, intent.message_id, digest, intent.ident)
            if uid := next((uid for uid in places if (intent.act, uid) not in taken), None):
                taken.add((intent.act, uid))
                intent = _anew(journal, intent, uid=uid, uidvalidity=state.uidvalidity)
        found.append(intent)
    return found


def _look(
    mailbox: Mailbox, journal: Journal, state: FolderState, flags: Mapping[int, frozenset[str]], intent: Intent,
    target: str | None, digest: Callable[[bytes], str],
) -> Intent:
    """The intent closed; or open, with the reason to wait, or with none and then it is to be carried out now."""
    here = intent.uidvalidity == state.uidvalidity and intent.uid in flags
    moving = intent.act == "move"
    proven = intent.new_uid  # whatever has become of the copy since
    arrived = _arrived(mailbox, intent) if here and moving and not mailbox.moves_whole else None
    copy = _copy(mailbox, journal, intent, digest, arrived) if moving and proven is None else proven
    doubt = here and proven is None and (mailbox.moves_whole or _has_equals(journal, intent, arrived))
    if copy is not None and not doubt:
        if here and proven is None:
            journal.copied({intent.id: copy})
        try:  # both here and there: the connection broke between copy and delete, so finish it
            finished = not here or intent.uid in mailbox.expunge([intent.uid])
        except MailboxError as error:
            return replace(intent, why=str(error))
        if not finished:
            return replace(intent, why="it was copied, and the original cannot be removed")
        return _close(journal, [intent], "done", new={intent.uid: copy})[0]
    if not here:
        # At another UID it is back, out of the spam folder or from where the user had put it: not to be moved again.
        back = moving and mailbox.locate(state.name, intent.message_id, digest, intent.ident)
        return _close(journal, [intent], *(("done", UNSEEN) if back else ("failed", GONE)))[0]
    if left_alone(flags[intent.uid]) or not_junk(flags[intent.uid]):
        return _close(journal, [intent], "failed", "somebody marked it as deleted, draft or not junk")[0]
    if moving and target is None:
        return _close(journal, [intent], "failed", "nothing is to be moved here any more")[0]
    if moving and target and target != intent.target:  # by another name the copy may be there all the same
        return _look(mailbox, journal, state, flags, _anew(journal, intent, target=target), target, digest)
    return intent if intent.target else replace(intent, why=NO_FOLDER)


def _arrived(mailbox: Mailbox, intent: Intent) -> datetime | None:
    """When the message was delivered: its copy has that from it (RFC 3501, 6.4.7), and one delivered again has not."""
    return next((head.arrived for head in mailbox.heads([intent.uid])), None)


def _copy(
    mailbox: Mailbox, journal: Journal, intent: Intent, digest: Callable[[bytes], str], arrived: datetime | None = None
) -> int | None:
    """The UID that the message has or had in the target; None where it was there before, where another move of the same
    accounts for it, and where what lies there did not arrive when it did, or lacks our marks: a copy has both from the
    original (RFC 3501, 6.4.7), and what the server delivered there in that very second has no mark of ours."""
    if not intent.target:
        return None
    sightings = [seen for seen in Places(journal).sightings(intent.account, intent.message_id)
                 if seen.folder == intent.target]
    since = {seen.uid for seen in sightings if intent.opened_at and intent.opened_at < seen.at}
    before = {seen.uid for seen in sightings} - since
    moves = [move for move in journal.moves(intent.account, intent.ident, intent.message_id)
             if move.target == intent.target]
    found = set(copies(mailbox, intent.target, intent.message_id, digest, intent.ident))
    same = found
    if arrived:
        marks = [name for act in journal.acts(intent.account, intent) if (act.act, act.state) == ("keyword", "done")
                 for name in act.target.split()]
        same = set(copies(mailbox, intent.target, intent.message_id, digest, intent.ident, arrived, marks))
    passing = {seen.uid for seen in sightings if seen.uid in since - found and seen.ident == intent.ident
               and may_be_one(seen.arrived, arrived)}
    mine = sorted((same | passing) - {move.new_uid for move in moves} - before)
    unknown = sum(move.new_uid is None for move in moves)
    return mine[-1] if len(mine) > unknown else None


def _has_equals(journal: Journal, intent: Intent, arrived: datetime | None) -> bool:
    """Whether its like was judged elsewhere, and may be what lies in the target; better copied twice than lost."""
    return any(
        row.ident == intent.ident
        and may_be_one(row.arrived, arrived)
        and (row.folder != intent.folder or (row.uidvalidity == intent.uidvalidity and row.uid != intent.uid))
        for row in journal.called(intent.account, intent.message_id)
    )


def standing(mailbox: Mailbox, uids: Iterable[int]) -> dict[int, frozenset[str]]:
    """UID → flags of those that are still there; until it is asked for news, a server tells what it has told before."""
    if not (uids := list(uids)):
        return {}
    mailbox.poll()
    return mailbox.flags(uids)


def copies(
    mailbox: Mailbox, folder: str, message_id: str, digest: Callable[[bytes], str], ident: str,
    arrived: datetime | None = None, shown: Iterable[str] = (),
) -> list[int]:
    """The UIDs that a message has in a folder; none where that folder is gone."""
    try:
        return mailbox.locate(folder, message_id, digest, ident, arrived, shown)
    except MailboxError:
        return []


def _anew(journal: Journal, intent: Intent, **changes: Any) -> Intent:
    """The same act under a changed address or target, as an intent of its own; one that was written stays as it is."""
    changed = replace(intent, new_uid=None, **changes)  # at another address it may be another message
    with journal.transaction():
        journal.close_intents([intent.id], "failed", why="it was planned anew")
        (id_,) = journal.open_intents([changed])
    return replace(changed, id=id_)


def _carry_out(
    mailbox: Mailbox, journal: Journal, intents: Sequence[Intent], digest: Callable[[bytes], str]
) -> list[Intent]:
    groups: dict[tuple[Act, str], list[Intent]] = {}
    for intent in intents:
        groups.setdefault((intent.act, intent.target), []).append(intent)
    results = []
    for act, target in sorted(groups, key=lambda group: ORDER.index(group[0])):
        group = groups[act, target]
        keyword = act == "keyword"
        results += _mark(mailbox, journal, group, target) if keyword else _move(mailbox, journal, group, target, digest)
    return results


def _mark(mailbox: Mailbox, journal: Journal, group: list[Intent], target: str) -> list[Intent]:
    uids = {intent.uid for intent in group}
    try:
        shown = mailbox.add_keywords(uids, target.split())
        there = mailbox.flags(uids - shown).keys() if uids - shown else set[int]()
    except MailboxError as error:
        return _close(journal, group, "failed", str(error))
    return [
        *_close(journal, [intent for intent in group if intent.uid in shown], "done"),
        *_close(journal, [intent for intent in group if intent.uid in there], "failed", NOT_KEPT),
        *_close(journal, [intent for intent in group if intent.uid not in shown | there], "failed", GONE),
    ]


def _move(
    mailbox: Mailbox, journal: Journal, group: list[Intent], target: str, digest: Callable[[bytes], str]
) -> list[Intent]:
    if not target:
        return [replace(intent, why=NO_FOLDER) for intent in group]
    ids = {intent.uid: intent.id for intent in group}
    try:
        moved = mailbox.move(ids, target, lambda copies: journal.copied({ids[uid]: new for uid, new in copies.items()}))
    except CannotMove as error:
        return _close(journal, group, "failed", str(error))
    except MailboxError as error:
        return [replace(intent, why=str(error)) for intent in group]
    rest = [intent for intent in group if intent.uid not in moved.done.keys() | moved.gone]
    done = _close(journal, [intent for intent in group if intent.uid in moved.done], "done", "", moved.done)
    gone = [intent for intent in group if intent.uid in moved.gone]
    # Another mailtagger or filter of the user's may have been about the same: then it is where we wanted it.
    filed = {intent.uid: copy for intent in gone if (copy := _copy(mailbox, journal, intent, digest)) is not None}
    return [
        *done,
        *_close(journal, [intent for intent in gone if intent.uid in filed], "done", "", filed),
        *_close(journal, [intent for intent in gone if intent.uid not in filed], "failed", GONE),
        *(replace(intent, why=f"{target} took only some of the messages") for intent in rest),
    ]


def _close(
    journal: Journal, group: Sequence[Intent], state: Literal["done", "failed"], why: str = "",
    new: Mapping[int, int | None] | None = None,
) -> list[Intent]:
    new = new or {}
    if group:
        journal.close_intents([intent.id for intent in group], state, new, why)
    return [replace(intent, state=state, why=why, new_uid=new.get(intent.uid)) for intent in group]
