"""Our acts taken back: each message in the folder and with the keywords that it had before, or why that cannot be.

    choose    the acts of a batch, since a time, or on one message
    find      where their messages are now (whereabouts.py)
    plan      keywords of ours to take off, and the way back; what the user has moved himself stays where he put it
    restore   every intent before the first act; a folder at a time, keywords first, so that mail arrives as it was

An undo that was cut off leaves acts that are "being undone": the next one looks where their messages are and goes on
from there. What was undone is the user's word on that message, but no lesson: it is not filed again, and teaches
nothing.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from mailtagger.imap import Address
from mailtagger.journal import UNDO, Intent, Journal
from mailtagger.lessons import Lessons
from mailtagger.restore import (
    AGREED,
    BEING_UNDONE,
    GONE,
    UNDONE,
    Mailbox,
    Restorer,
    Step,
    Task,
    Undone,
    journalled,
    result,
)
from mailtagger.state import acting
from mailtagger.whereabouts import Found, Wanted, find


def choose(
    journal: Journal, accounts: Collection[str], batch: str | None = None, since: datetime | None = None,
    message: tuple[str, int] | None = None,
) -> dict[str, list[Intent]]:
    """Account → the acts that are meant; without a choice those of an undo that was cut off, else of the last batch.

    A message is meant by its folder and UID, those of before or those of now. What was cut off is always meant.
    """
    acts = [act for account in accounts for act in _acts(journal, account, "substr(why, 1, ?) = ?", _BEING)]
    if batch is not None:
        acts += [act for account in accounts for act in _acts(journal, account, "batch = ?", (batch,))]
    elif since is not None:
        acts += [act for account in accounts for act in _acts(journal, account, "opened_at >= ?", (since.timestamp(),))]
    elif message is not None:
        acts += [act for account in accounts for act in _of_message(journal, account, *message)]
    elif not acts:
        last = [act for account in accounts for act in _acts(journal, account, "why = ''", (), "DESC LIMIT 1")]
        if last:
            newest = max(last, key=lambda act: act.id)
            acts = _acts(journal, newest.account, "batch = ?", (newest.batch,))
    chosen: dict[str, list[Intent]] = {}
    for act in {act.id: act for act in acts}.values():
        chosen.setdefault(act.account, []).append(act)
    return chosen


def undo(
    mailbox: Mailbox, journal: Journal, account: str, acts: Sequence[Intent], dry_run: bool = False
) -> list[Undone]:
    """What became of each message, or in a dry run would; acts that were undone meanwhile are passed by."""
    results = []
    with acting(journal.path.parent, account, ""):  # two undos of one account would both go after the same mail
        tasks = _tasks(journal, [fresh for act in acts for fresh in _acts(journal, account, "id = ?", (act.id,))])
        while tasks:
            # What we moved twice, from folder to folder, goes back in two rounds.
            homes = {(task.left.ident, task.left.message_id, task.left.home) for task in tasks}
            later = [task for task in tasks
                     if task.move and (task.left.ident, task.left.message_id, task.move.target) in homes]
            later = later if len(later) < len(tasks) else []
            now = [task for task in tasks if task not in later]
            names = {info.name for info in mailbox.folders()}
            places = find(mailbox, [task.left for task in now])
            steps = [plan(task, place, names) for task, place in zip(now, places, strict=True)]
            if dry_run:
                results += [result(step, step.at, bool(step.target), False, step.why) for step in steps]
            else:
                results += _restored(mailbox, journal, account, steps)
            tasks = later
    return results


def plan(task: Task, found: Found | None, folders: Collection[str]) -> Step:
    """What is to be done for a message that is at this place, on a server with these folders."""
    home = task.left.home
    if found is None:
        return Step(task, None, why=GONE, final=True)
    here = found.address.folder
    if task.move and task.agreed and here == task.move.target:
        return Step(task, found, why=AGREED, final=True)
    shown = {flag.lower() for flag in found.flags}
    off = tuple(name for name in task.keywords if name.lower() in shown)
    if task.move is None or here == home:
        return Step(task, found, off)
    if here != task.move.target:
        return Step(task, found, off, why=f"the user moved it to {here} since", final=True)
    if home not in folders:
        return Step(task, found, why=f"the folder {home} is no longer there: it stays in {here}")
    return Step(task, found, off, home)


def _restored(mailbox: Mailbox, journal: Journal, account: str, steps: Sequence[Step]) -> list[Undone]:
    batch = f"{UNDO}{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    cut = journal.rows(Intent, "SELECT * FROM intents WHERE account = ? AND state = 'open' AND substr(batch, 1, ?) = ?"
                               " ORDER BY id", account, len(UNDO), UNDO)
    return Restorer(mailbox, journal, account, batch, cut).restore(journalled(journal, batch, steps, cut))


_BEING = (len(BEING_UNDONE), BEING_UNDONE)


def _acts(
    journal: Journal, account: str, condition: str, values: tuple[object, ...], order: str = ""
) -> list[Intent]:
    """Acts of ours that happened, or may happen yet, and were not taken back."""
    return journal.rows(
        Intent, f"SELECT * FROM intents WHERE account = ? AND {condition} AND state IN ('done', 'open')"
        f" AND substr(batch, 1, ?) <> ? AND substr(why, 1, ?) <> ? ORDER BY id {order}",
        account, *values, len(UNDO), UNDO, len(UNDONE), UNDONE,
    )


def _of_message(journal: Journal, account: str, folder: str, uid: int) -> list[Intent]:
    folder = "INBOX" if folder.upper() == "INBOX" else folder
    acts = _acts(journal, account, "((folder = ? AND uid = ?) OR (target = ? AND new_uid = ?))",
                 (folder, uid, folder, uid))
    if not acts:
        return []
    last = acts[-1]  # a UID may have come again under another UIDVALIDITY
    at = last.folder, last.uidvalidity, last.uid
    return _acts(journal, account, "folder = ? AND uidvalidity = ? AND uid = ?", at)


def _tasks(journal: Journal, acts: Sequence[Intent]) -> list[Task]:
    """The acts by message, the one that was touched last first."""
    groups: dict[tuple[str, int, int], list[Intent]] = {}
    for act in sorted(acts, key=lambda act: act.id):
        groups.setdefault((act.folder, act.uidvalidity, act.uid), []).append(act)
    lessons, tasks = Lessons(journal), []
    for place, group in groups.items():
        first, address = group[0], Address(*place)
        moves = [act for act in journal.acts(first.account, address)
                 if act.act == "move" and act.state == "done" and not act.why.startswith(UNDONE)]
        folder, uid = (moves[-1].target, moves[-1].new_uid) if moves else (first.folder, first.uid)
        left = Wanted(first.ident, first.message_id, folder, uid, first.folder)
        agreed = bool(moves) and lessons.word(
            first.account, first.ident, first.message_id, moves[-1].closed_at) == "spam"
        tasks.append(Task(tuple(group), journal.judged(first.account, address), left, agreed))
    return sorted(tasks, key=lambda task: -task.acts[-1].id)
