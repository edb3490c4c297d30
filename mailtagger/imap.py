"""Mailbox: a Reader that also marks, moves and removes; this and the modules named imap_… are all that speaks IMAP.

Nothing here changes a message: keywords are set and taken off, and messages go from folder to folder.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mailtagger.errors import MailboxError
from mailtagger.imap_folders import FolderInfo as FolderInfo
from mailtagger.imap_reader import BIG as BIG
from mailtagger.imap_reader import GONE, Reader
from mailtagger.imap_reader import PARTIAL as PARTIAL
from mailtagger.imap_reader import Address as Address
from mailtagger.imap_reader import FolderState as FolderState
from mailtagger.imap_reader import RawMessage as RawMessage
from mailtagger.imap_session import Refused as Refused
from mailtagger.imap_syntax import copied, flag_list, folder_name, lower, portions, printable, uid_set

log = logging.getLogger(__name__)

Proven = Callable[[Mapping[int, int | None]], object]


@dataclass(frozen=True, slots=True)
class Moved:
    """`done`: UID → UID in the target, None if the server did not tell; `gone`: another client was faster.

    A UID in neither is still where it was.
    """

    done: dict[int, int | None] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)


class CannotMove(MailboxError):
    """Messages could be copied but not taken away one by one: no MOVE and no UIDPLUS, or no right to delete."""


class Mailbox(Reader):
    """One connection that may act."""

    @property
    def can_move(self) -> bool:
        """Whether the server can take away a message and no other."""
        return bool({"MOVE", "UIDPLUS"} & self._session.capabilities)

    @property
    def moves_whole(self) -> bool:
        """Whether a move is one step, so that no message is left in both folders (MOVE; RFC 6851, 3.3)."""
        return "MOVE" in self._session.capabilities

    def spam_folder(self, wanted: str | None, create: bool = False) -> str:
        """The server's name of the folder `wanted`, else of the one with \\Junk, else of one with a known name."""
        folders, own = self.folders(), self._namespace()
        if wanted is not None:
            found = own.spelling(wanted, [folder.name for folder in folders])
        else:
            candidates = own.spam_folders(folders)
            marked = [folder.name for folder in folders
                      if folder.name in candidates and "\\junk" in lower(folder.flags)]
            found = next(iter(candidates), None)
            if len(marked) > 1:
                log.warning("%s: of the folders marked \\Junk (%s) %s is taken",
                            self._account.host, ", ".join(map(printable, marked)), printable(found or ""))
        if found is None and create:
            return self._create(wanted or "Junk")
        if found is None:
            raise self._missing((wanted and f"no folder {wanted}") or "no folder marked \\Junk", folders,
                                "Name one as `spam_folder`, or set `create_spam_folder: true`.")
        return found

    def add_keywords(self, uids: Iterable[int], names: Iterable[str]) -> set[int]:
        """The UIDs that show all these keywords afterwards; some servers answer OK and keep none."""
        names = list(names)
        shown = self._store(list(uids), "+FLAGS.SILENT", names)
        return {uid for uid, flags in shown.items() if lower(names) <= lower(flags)}

    def remove_keywords(self, uids: Iterable[int], names: Iterable[str]) -> set[int]:
        """The UIDs that show none of these keywords afterwards."""
        names = list(names)
        shown = self._store(list(uids), "-FLAGS.SILENT", names)
        return {uid for uid, flags in shown.items() if not lower(names) & lower(flags)}

    def move(self, uids: Iterable[int], target: str, proven: Proven = lambda copies: None) -> Moved:
        """By UID MOVE (RFC 6851), else by copy, proof that the copy is there, and `expunge` of the original alone.

        `proven` is told of the copies, UID → UID there, before their originals are deleted.

        MailboxError when the server refuses and nothing was moved; once something was, the rest just stays.
        """
        state, result = self._here(), Moved()
        if target == state.name:
            raise ValueError(f"{target} is where the messages are")
        may_delete = not state.permanent or "\\deleted" in state.permanent
        if not self.can_move or not (may_delete or "MOVE" in self._session.capabilities):
            raise CannotMove(f"{self._account.host} cannot take single messages away from {state.name}.",
                             "Spam is marked there, and stays.")
        try:
            for portion in portions(uids):
                self._move(portion, target, result, proven)
        except Refused as refusal:
            if not result.done:
                raise
            log.warning("%s: the rest stays here. %s", printable(state.name), refusal)
        return result

    def expunge(self, uids: Iterable[int]) -> set[int]:
        """The UIDs that are no longer there after these messages, and no others, were deleted (RFC 4315).

        Only for messages whose copies have been seen in their new place: what a cut copy-and-delete left to do.
        """
        if "UIDPLUS" not in self._session.capabilities:
            raise CannotMove(f"{self._account.host} cannot delete single messages.", "Delete the original by hand.")
        gone: set[int] = set()
        for portion in portions(uids):
            self._ask("STORE", uid_set(portion), "+FLAGS.SILENT", "(\\Deleted)").check()
            self._ask("EXPUNGE", uid_set(portion)).check()
            gone.update(set(portion) - self._present(portion))
        return gone

    def _move(self, portion: list[int], target: str, result: Moved, proven: Proven) -> None:
        moving = "MOVE" in self._session.capabilities
        for _ in range(3):
            left = self._present(set(portion) - result.done.keys())
            if not left:
                break
            answer = self._ask("MOVE" if moving else "COPY", uid_set(left), folder_name(target))
            pairs: dict[int, int | None] = dict(copied(answer.get("COPYUID")))
            if not pairs and not answer.refusal:  # OK proves nothing: what is gone is copied to nowhere, with OK
                pairs = dict.fromkeys(left - self._present(left)) if moving else self._proved(left, target)
            if pairs and not moving:
                proven(pairs)
                pairs = {uid: pairs[uid] for uid in self.expunge(pairs)}
            result.done.update(pairs)
            if not answer.refusal or answer.refusal.code != GONE:
                break
        missing = set(portion) - result.done.keys()
        result.gone.update(missing - self._present(missing))
        if left and answer.refusal and answer.refusal.code != GONE:
            raise answer.refusal

    def _proved(self, uids: Iterable[int], target: str) -> dict[int, int | None]:
        """UID → UID of its copy, by Message-ID and content: where a server has UIDPLUS and still gives no COPYUID."""
        originals = []
        for message in self.fetch(sorted(uids)):
            head = re.split(rb"\r?\n\r?\n", message.raw, maxsplit=1)[0]
            field = re.search(rb"^message-id:(?:[ \t]|\r?\n[ \t])*<?([^\s<>]+)", head, re.IGNORECASE | re.MULTILINE)
            originals.append((message.address.uid, printable(field[1]) if field else "", _digest(message.raw)))
        places = {uid: self.locate(target, message_id, _digest, ident) for uid, message_id, ident in originals}
        return {uid: found[-1] for uid, found in places.items() if found}

    def _store(self, uids: Sequence[int], how: str, names: list[str]) -> dict[int, frozenset[str]]:
        """The flags read back after a STORE; a refusal shows in them, and in the log."""
        for portion in portions(uids):
            answer = self._ask("STORE", uid_set(portion), how, flag_list(names))
            if answer.refusal and answer.refusal.code != GONE:
                log.warning("%s", answer.refusal)
        return self.flags(uids)

    def _create(self, wanted: str) -> str:
        name = self._namespace().own(wanted)
        try:
            with self._session.exchange(f"creating {printable(name)}") as client:
                client.create_folder(name)
                client.subscribe_folder(name)
        except Refused:
            if self.called(wanted) is None:
                raise
            return name  # made at this moment for another folder's spam, or by the user
        log.info("%s: created the folder %s", self._account.host, printable(name))
        return name


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
