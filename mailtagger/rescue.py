"""Whether a message that turns up in a watched folder was in a spam folder before: then the user took it out.

Fewer copies are in that folder than have been put there, by us or by anybody. A copy for each means that the message
was delivered once more. What is found is never filed again. It is a lesson only when the message had arrived before it
was seen in the spam folder: a spammer who sends the same once more, after the folder was emptied, must not teach.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from mailtagger.apply import Mailbox, copies
from mailtagger.imap import RawMessage
from mailtagger.journal import UNSEEN, Journal, may_be_one
from mailtagger.parse import identify
from mailtagger.places import Places, Sighting

SKEW = timedelta(minutes=5)  # the server's clock may be so far from ours


@dataclass(frozen=True)
class Back:
    """The message is back from a spam folder; `teaches`: a person took it out, as far as anybody can tell."""

    teaches: bool


def find(
    journal: Journal, mailbox: Mailbox, account: str, message: RawMessage, ident: str, message_id: str
) -> Back | None:
    """What is known of this message's way back from a spam folder; None where it was in none, or is another copy."""
    here = message.address
    moves = journal.moves(account, ident, message_id)
    ours = [move for move in moves if move.target == here.folder and move.new_uid in (None, here.uid)]
    if ours:  # it is here because we put it here: as spam, or back again
        return Back(teaches=False) if any(move.target == ours[-1].folder for move in moves) else None
    seen: dict[str, list[datetime]] = {}
    put: Counter[str] = Counter()
    unseen: Counter[str] = Counter()
    for move in moves:
        if move.target != here.folder and move.closed_at:
            seen.setdefault(move.target, []).append(move.closed_at)
            (unseen if move.why == UNSEEN else put)[move.target] += 1
    sighted: Counter[str] = Counter()
    for sighting in Places(journal).sightings(account, message_id):
        if sighting.folder != here.folder and (
            sighting.ident == ident or _may_be(sighting, mailbox, message, ident)
        ):
            sighted[sighting.folder] += 1
            seen.setdefault(sighting.folder, []).append(sighting.at)
    there = {folder: len(copies(mailbox, folder, message_id, identify, ident)) for folder in seen}
    out = [folder for folder in seen if there[folder] < max(put[folder], sighted[folder])]  # our moves are sighted, too
    if not out:
        # What nobody saw may never have come there: the user may have moved it away and back before our move did.
        maybe = any(there[folder] < max(put[folder] + n, sighted[folder]) for folder, n in unseen.items())
        return Back(teaches=False) if maybe else None
    last = max(time for folder in out for time in seen[folder])
    if any(move.target == here.folder and move.closed_at and move.closed_at >= last for move in moves):
        return Back(teaches=False)  # `undo` put it into this folder, which the server has renumbered since
    return Back(teaches=message.arrived is None or message.arrived <= last + SKEW)


def _may_be(sighting: Sighting, mailbox: Mailbox, message: RawMessage, ident: str) -> bool:
    """Whether what was sighted with this Message-ID, its header alone read, can have been this very message.

    Namesakes of one size are sent on purpose, and arrive at another time. One that still lies where it was seen was
    taken out by nobody.
    """
    if sighting.ident or not sighting.message_id or sighting.size != message.size:
        return False
    if not may_be_one(sighting.arrived, message.arrived):
        return False
    still = copies(mailbox, sighting.folder, sighting.message_id, lambda raw: "", "")
    return sighting.uid not in still or sighting.uid in copies(
        mailbox, sighting.folder, sighting.message_id, identify, ident
    )
