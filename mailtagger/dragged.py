"""Whether a message that turns up in a spam folder was put there by its user; `rescue` tells of the way back.

We ourselves, the server's own filter and another mailtagger put mail there, too, and equal messages may lie about.
What is left when all of these are accounted for, his hand has moved.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mailtagger.apply import Mailbox, copies
from mailtagger.imap import RawMessage
from mailtagger.imap_syntax import lower
from mailtagger.journal import GONE, UNSEEN, FolderRow, Judged, may_be_one
from mailtagger.judge import Job
from mailtagger.parse import identify
from mailtagger.places import Places
from mailtagger.rescue import SKEW


@dataclass(frozen=True)
class Drag:
    """The user put it here; `judged`: what had been said of it where it was before."""

    judged: Judged | None


def find(
    job: Job, mailbox: Mailbox, places: Places, message: RawMessage, ident: str, message_id: str,
    before: FolderRow | None, renumbered: bool,
) -> Drag | None:
    """None where another hand than the user's put the message into this spam folder.

    `before` is the last look at the folder under its present numbers; `renumbered`: there was one under other numbers.
    """
    at, account = message.address, job.account.name
    sightings = [one for one in places.sightings(account, message_id) if one.folder == at.folder]
    ours = job.journal.moving(account, ident, message_id, at.folder)
    placed = {move.new_uid for move in ours}
    word = job.lessons.word(account, ident, message_id) if job.lessons else None
    taken_out = word == "ham"  # what we had put here; so it has come back
    unplaced = [
        move.opened_at for move in ours
        if move.new_uid is None and move.opened_at
        and (move.state == "open" or not (taken_out or move.why == UNSEEN))  # that one had come back, too
    ]
    known = {one.uid for one in sightings if one.ident == ident and unplaced and one.at > min(unplaced)}
    if at.uid in placed or len(unplaced) > len(known - placed - {at.uid}):
        return None
    if renumbered and not taken_out and (ours or any(one.ident in ("", ident) for one in sightings)):
        return None  # it lay here before, and now under another number
    judged = [
        row for row in elsewhere(job, message_id, at.folder)
        if row.ident == ident and may_be_one(row.arrived, message.arrived)
    ]
    if not word and by_another(job, message.flags, judged):
        return None

    def lying(folder: str) -> Collection[int]:
        return copies(mailbox, folder, message_id, identify, ident)

    left = [row for row in judged if not lying(row.folder)]
    if judged and len(left) <= len(placed & set(lying(at.folder))):
        return None  # it still lies where it was judged, or where we put it: this one was delivered here
    filed = set(places.names(account)) - {row.folder for row in judged} - {at.folder}
    if judged and any(map(lying, filed)):
        return None  # he has filed it elsewhere meanwhile, out of this very folder perhaps: this one was delivered here
    if not judged and not _older(message, before):
        return None
    return Drag(judged[-1] if judged else None)


def elsewhere(job: Job, message_id: str, folder: str) -> list[Judged]:
    """The verdicts on messages with this Message-ID in other folders, oldest first."""
    return [row for row in job.journal.called(job.account.name, message_id) if row.folder != folder]


def by_another(job: Job, flags: Iterable[str], judged: Iterable[Judged]) -> bool:
    """Whether a mailtagger with another journal called it spam, and so marked or filed it; what was gone when we
    looked, or is still to be looked at, may bear our own mark, whose answer was lost."""
    mark = job.keywords.spam.lower()
    return mark in lower(flags) and not any(
        act.act == "keyword" and (act.state != "failed" or act.why == GONE) and mark in act.target.lower().split()
        for row in judged for act in job.journal.acts(job.account.name, row)
    )


def _older(message: RawMessage, before: FolderRow | None) -> bool:
    """Whether the message had arrived before this folder was last looked at, so that it cannot be a delivery to it.

    By the server's clock and ours, and INTERNALDATE has no fractions of a second: hence the margin.
    """
    return bool(before and message.arrived and message.arrived + SKEW < before.checked_at)
