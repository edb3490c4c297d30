"""The acting half of `undo`: where messages are → keywords off and the way back, journalled before and after.

A crash anywhere leaves acts that are "being undone" and intents that are open; `undo` then comes back here with them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from mailtagger import apply, whereabouts
from mailtagger.decide import Decision
from mailtagger.errors import MailboxError
from mailtagger.imap import Address, FolderState, Moved
from mailtagger.imap_reader import Status
from mailtagger.journal import TAKEN_BACK, Intent, Journal, Judged
from mailtagger.state import acting
from mailtagger.whereabouts import Found, Wanted, proof

UNDONE, BEING_UNDONE, NOT_UNDONE = "undone by ", "being undone by ", "not undone: "
WAS = {verdict: f"{TAKEN_BACK}: it was {verdict} to us" for verdict in ("ham", "unsure", "spam")}  # notes
GONE = "it is gone: deleted, or moved to where this account cannot look"
NOT_REMOVED = "the server kept the keyword"
RENUMBERED = "the server has renumbered its folder just now; try again"
AGREED = "the user has called it spam since"
FASTER = "somebody else moved or deleted it just now"


class Mailbox(whereabouts.Mailbox, apply.Mailbox, Protocol):
    """What is needed of `imap.Mailbox`."""

    def select(self, folder: str) -> FolderState: ...
    def status(self, folder: str) -> Status: ...
    def remove_keywords(self, uids: Iterable[int], names: Iterable[str]) -> set[int]: ...


@dataclass(frozen=True)
class Task:
    """What we did with one message at one address, and where that left it."""

    acts: tuple[Intent, ...]
    judged: Judged | None
    left: Wanted
    agreed: bool = False  # the user has called it spam since

    @property
    def move(self) -> Intent | None:
        return next((act for act in reversed(self.acts) if act.act == "move"), None)

    @property
    def keywords(self) -> list[str]:
        """Those that we set, less those that it had before."""
        before = {flag.lower() for flag in self.judged.flags_before} if self.judged else set[str]()
        names = [name for act in self.acts if act.act == "keyword" for name in act.target.split()]
        return [name for name in dict.fromkeys(names) if name.lower() not in before]


@dataclass(frozen=True)
class Step:
    """What is to be done for one message, and `why` it will not be as before; `final`: nor at a later try.

    `off` are keywords to be taken off, and once that was tried those that are.
    """

    task: Task
    found: Found | None
    off: tuple[str, ...] = ()
    target: str | None = None
    why: str = ""
    final: bool = False
    unmark: Intent | None = None
    move: Intent | None = None

    @property
    def at(self) -> Address | None:
        return self.found.address if self.found else None

    @property
    def place(self) -> Address:
        """The same, of one that was found."""
        assert self.found is not None
        return self.found.address


@dataclass(frozen=True)
class Undone:
    """What became of one message: `folder` and `uid` say where it is now, `home` where it was before we came."""

    account: str
    home: str
    folder: str | None
    uid: int | None
    message_id: str
    keywords: tuple[str, ...]  # that are taken off
    moved: bool
    done: bool
    why: str


def journalled(journal: Journal, batch: str, steps: Sequence[Step], cut: Sequence[Intent]) -> list[Step]:
    """The steps with their intents, on the disk now; `cut`, what an earlier undo left open, is closed."""
    ready = []
    with journal.transaction():
        for step in steps:
            first = step.task.acts[0]
            if step.found:
                at = step.place
                intent = Intent(first.account, at.folder, at.uidvalidity, at.uid, first.ident, first.message_id,
                                "unmark", " ".join(step.off), batch)
                if step.off:
                    step = replace(step, unmark=_opened(journal, intent))
                if step.target:
                    step = replace(step, move=_opened(journal, replace(intent, act="move", target=step.target)))
            _note(journal, step.task.acts, BEING_UNDONE + batch)
            ready.append(step)
        for intent in cut:
            there = next((step.place for step in steps if step.found and _same(step, intent)), None)
            if intent.act == "move" and there and there.folder == intent.target:
                journal.close_intents([intent.id], "done", {intent.uid: there.uid})
            else:
                journal.close_intents([intent.id], "failed", why="it was planned anew")
    return ready


def _opened(journal: Journal, intent: Intent) -> Intent:
    (id_,) = journal.open_intents([intent])
    return replace(intent, id=id_)


def _note(journal: Journal, acts: Iterable[Intent], why: str) -> None:
    for act in acts:
        journal.write("UPDATE intents SET why = ? WHERE id = ?", why, act.id)


def _same(step: Step, intent: Intent) -> bool:
    first = step.task.acts[0]
    return (first.ident, first.message_id) == (intent.ident, intent.message_id)


@dataclass(frozen=True)
class Restorer:
    """Carries out steps that are journalled."""

    mailbox: Mailbox
    journal: Journal
    account: str
    batch: str
    cut: Sequence[Intent]

    def restore(self, steps: Sequence[Step]) -> list[Undone]:
        """What became of each message, a folder at a time."""
        results = [self._finish(step) for step in steps if not step.off and not step.target]
        groups: dict[str, list[Step]] = {}
        for step in steps:
            if step.off or step.target:
                groups.setdefault(step.place.folder, []).append(step)
        for folder, group in groups.items():
            with acting(self.journal.path.parent, self.account, folder):
                results += self._folder(folder, group)
        return results

    def _folder(self, folder: str, group: Sequence[Step]) -> list[Undone]:
        try:
            state = self.mailbox.select(folder)
        except MailboxError as error:
            return [self._fail(replace(step, off=()), str(error)) for step in group]
        there = [step for step in group if step.place.uidvalidity == state.uidvalidity]
        results = [self._fail(replace(step, off=()), RENUMBERED) for step in group if step not in there]
        troubles = self._unmark([step for step in there if step.off])
        there = [replace(step, off=()) if step.place.uid in troubles else step for step in there]
        for target in dict.fromkeys(step.target for step in there if step.target):
            results += self._move([step for step in there if step.target == target], target, troubles)
        stay = [step for step in there if not step.target]
        return results + [self._finish(step, trouble=troubles.get(step.place.uid, "")) for step in stay]

    def _unmark(self, steps: Sequence[Step]) -> dict[int, str]:
        """UID → why it still shows a keyword of ours."""
        troubles: dict[int, str] = {}
        for off in dict.fromkeys(step.off for step in steps):
            uids = {step.place.uid for step in steps if step.off == off}
            try:
                kept = uids - self.mailbox.remove_keywords(uids, off)
                there = self.mailbox.flags(kept).keys() if kept else set[int]()
                troubles |= {uid: NOT_REMOVED if uid in there else FASTER for uid in kept}
            except MailboxError as error:
                troubles |= dict.fromkeys(uids, str(error))
        with self.journal.transaction():
            for step in steps:
                trouble = troubles.get(step.place.uid, "")
                self._close(step.unmark, "failed" if trouble else "done", trouble)
        return troubles

    def _move(self, steps: Sequence[Step], target: str, troubles: Mapping[int, str]) -> list[Undone]:
        new: dict[int, int | None] = {}
        moved, refused, numbering = Moved(), "", 0
        try:
            numbering = self.mailbox.status(target).uidvalidity
            for step in steps:
                copy = self._copied_before(step, target, numbering)
                if copy and self.mailbox.expunge([step.place.uid]):
                    new[step.place.uid] = copy
            if rest := [step.place.uid for step in steps if step.place.uid not in new]:
                moved = self.mailbox.move(rest, target)
        except MailboxError as error:
            refused = str(error)
        new |= moved.done
        results = []
        for step in steps:
            uid = step.place.uid
            if uid in new:
                arrived = new[uid] or max(self._copies(step, target), default=None)
                at = Address(target, numbering, arrived) if arrived else None
                results.append(self._finish(step, at, True, troubles.get(uid, "")))
            else:
                gone = FASTER if uid in moved.gone else ""
                results.append(self._fail(step, gone or refused or f"{target} took only some of the messages"))
        return results

    def _copies(self, step: Step, folder: str) -> list[int]:
        wanted = step.task.left
        return apply.copies(self.mailbox, folder, wanted.message_id, proof(wanted.ident), wanted.ident)

    def _copied_before(self, step: Step, target: str, numbering: int) -> int | None:
        """The UID of the copy that an undo made which was cut off before it removed the original (no MOVE)."""
        cut = next((old for old in self.cut if old.act == "move" and old.target == target and _same(step, old)), None)
        if cut is None or cut.opened_at is None:
            return None
        first = step.task.acts[0]
        for uid in reversed(self._copies(step, target)):
            judged = self.journal.judged(self.account, Address(target, numbering, uid))
            older = judged is not None and judged.at < cut.opened_at  # delivered twice: that one was there before
            if not older and (numbering != first.uidvalidity or uid > first.uid):
                return uid
        return None

    def _close(
        self, intent: Intent | None, state: Literal["done", "failed"], why: str = "", new_uid: int | None = None
    ) -> None:
        if intent is not None:
            self.journal.close_intents([intent.id], state, {intent.uid: new_uid}, why)

    def _finish(self, step: Step, at: Address | None = None, moved: bool = False, trouble: str = "") -> Undone:
        """The outcome and the user's word on the message, in one transaction."""
        acts, why = step.task.acts, trouble or step.why
        place = at if moved else step.at
        with self.journal.transaction():
            self._close(step.move, "done", new_uid=at.uid if at else None)
            for act in acts:
                if act.state == "open":  # it waited, and will not be carried out any more; or it was, unknown to us
                    self._close(act, "done" if moved else "failed")
            _note(self.journal, acts, UNDONE + self.batch if not why else NOT_UNDONE + why if step.final else "")
            if place and why != AGREED and (moved or not why or step.final):
                self._remember(step, place)
        return result(step, place, moved, not why, why)

    def _fail(self, step: Step, why: str) -> Undone:
        """It is where it was, and the next undo may try again."""
        with self.journal.transaction():
            for intent in step.unmark, step.move:
                if intent is not None:
                    self.journal.write("UPDATE intents SET state = 'failed', why = ?, closed_at = ? WHERE id = ?"
                                       " AND state = 'open'", why, self.journal.now(), intent.id)
            _note(self.journal, step.task.acts, "")
        return result(step, step.at, False, False, why)

    def _remember(self, step: Step, place: Address) -> None:
        """The message at this place was judged by the user: whoever meets it there leaves it alone."""
        first, judged = step.task.acts[0], step.task.judged
        score, model = (judged.score, judged.model) if judged else (None, "")
        decision = Decision("ham", "user", score, (WAS[judged.verdict] if judged else TAKEN_BACK,))
        off = {name.lower() for name in step.off}
        flags = {flag for flag in (step.found.flags if step.found else ()) if flag.lower() not in off}
        self.journal.record(self.account, place, first.ident, first.message_id, score, decision, flags, model)


def result(step: Step, place: Address | None, moved: bool, done: bool, why: str) -> Undone:
    """The line for this message."""
    first = step.task.acts[0]
    folder = place.folder if place else step.target if moved else None
    return Undone(first.account, step.task.left.home, folder, place.uid if place else None, first.message_id, step.off,
                  moved, done, why)
