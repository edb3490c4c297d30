"""What lay in the folders that teach, when the follower looked there last: kept in the journal's file.

    followed   how far each folder has been read
    sightings  what was seen in spam folders, so that a message which is elsewhere later is known to have been taken out
    marks      which messages show a mail program's $Junk or $NotJunk, so that a new one is known to be new
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mailtagger.decide import Word
from mailtagger.imap import Address
from mailtagger.journal import FolderRow, Journal

SIGHTINGS = 20_000  # remembered of each folder, the newest


@dataclass(frozen=True)
class Sighting:
    """A message that was in a spam folder; its ident is "" where only its header was read."""

    account: str
    folder: str
    uidvalidity: int
    uid: int
    message_id: str
    size: int
    ident: str
    at: datetime
    arrived: datetime | None = None  # INTERNALDATE, where that was noted


class Places:
    """The tables of one journal that tell where mail was; safe to share between threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def folder(self, account: str, name: str) -> FolderRow | None:
        """How far this folder was followed, or None on the very first visit."""
        rows = self._journal.rows(FolderRow, "SELECT * FROM followed WHERE account = ? AND name = ?", account, name)
        return rows[0] if rows else None

    def names(self, account: str) -> list[str]:
        """The folders that are followed."""
        return self._journal.rows(_name, "SELECT name FROM followed WHERE account = ? ORDER BY name", account)

    def followed(self, account: str, name: str, uidvalidity: int, uidnext: int, modseq: int | None, at: float) -> None:
        """The folder is followed below `uidnext` by a look that began `at`; what another numbering left behind goes."""
        with self._journal.transaction():
            for table in ("sightings", "marks"):
                self._journal.write(
                    f"DELETE FROM {table} WHERE account = ? AND folder = ? AND (uidvalidity <> ? OR uid >= ?)",
                    account, name, uidvalidity, uidnext,
                )
            self._journal.write(
                "DELETE FROM sightings WHERE account = ?1 AND folder = ?2 AND uid <= (SELECT uid FROM sightings"
                " WHERE account = ?1 AND folder = ?2 ORDER BY uid DESC LIMIT 1 OFFSET ?3)", account, name, SIGHTINGS,
            )
            self._journal.write("REPLACE INTO followed VALUES (?, ?, ?, ?, ?, ?)",
                                account, name, uidvalidity, uidnext, modseq, at)

    def saw(self, account: str, at: Address, message_id: str, size: int, ident: str = "",
            arrived: datetime | None = None) -> None:
        """This message lay in a spam folder."""
        self._journal.write("REPLACE INTO sightings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                            account, at.folder, at.uidvalidity, at.uid, message_id, size, ident, self._journal.now(),
                            arrived.timestamp() if arrived else None)

    def sightings(self, account: str, message_id: str) -> list[Sighting]:
        """Where messages with this Message-ID were seen, oldest first; a forger knows Message-IDs, too."""
        return self._journal.rows(
            Sighting, "SELECT * FROM sightings WHERE account = ? AND message_id = ? ORDER BY at, uid",
            account, message_id,
        )

    def marked(self, account: str, folder: str, uidvalidity: int) -> set[tuple[int, Word]]:
        """(UID, word) of the marks that were known."""
        return set(self._journal.rows(
            _mark, "SELECT uid, word FROM marks WHERE account = ? AND folder = ? AND uidvalidity = ?",
            account, folder, uidvalidity,
        ))

    def remark(self, account: str, folder: str, uidvalidity: int, gone: Iterable[tuple[int, Word]] = (),
               new: Iterable[tuple[int, Word]] = ()) -> None:
        """These marks are no longer shown, and these are."""
        place = (account, folder, uidvalidity)
        with self._journal.transaction():
            for uid, word in gone:
                self._journal.write("DELETE FROM marks WHERE account = ? AND folder = ? AND uidvalidity = ? AND uid = ?"
                                    " AND word = ?", *place, uid, word)
            for uid, word in new:
                self._journal.write("REPLACE INTO marks VALUES (?, ?, ?, ?, ?)", *place, uid, word)


def _name(name: str) -> str:
    return name


def _mark(uid: int, word: Word) -> tuple[int, Word]:
    return uid, word
