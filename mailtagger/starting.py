"""Starting well: which mail on the server and in files `learn` takes, as what, and what it refuses.

    --ham, --spam   folders or files that the user has been through; not watched ones, nor what lies there as the other
    --bootstrap     ham that the user has had in hand: read and archived, or answered. Never what merely arrived
    sent mail       whom the user writes to: correspondents alone, no lessons
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailtagger import correspondents
from mailtagger.config import Account
from mailtagger.decide import Word
from mailtagger.errors import MailboxError, MailtaggerError
from mailtagger.follow import WORDS
from mailtagger.harvest import Files, Folder, Harvest, Tally
from mailtagger.imap import Mailbox
from mailtagger.imap_folders import FolderInfo
from mailtagger.imap_reader import Head
from mailtagger.imap_syntax import lower
from mailtagger.teach import MOST, Kind, Known, Pupil, teach
from mailtagger.teaching import named, teaches, thrown_or_own

NEWEST = 500  # messages of each kind that --bootstrap takes
SENT = 5_000  # sent messages whose headers it reads
PORTION = 200
SENT_NAMES = ("sent", "sent items", "sent messages", "sent mail")


@dataclass(frozen=True)
class What:
    """What a person means by --ham or --spam WHAT: a folder on the server, or a path."""

    label: Word
    name: str
    is_file: bool


def meant(what: str, label: Word) -> What:
    """A path where it looks like one or is there, else a folder; `file:` and `folder:` leave no doubt."""
    kind, colon, rest = what.partition(":")
    if colon and kind in ("file", "folder"):
        return What(label, rest, kind == "file")
    return What(label, what, what.startswith(("/", "./", "../", "~")) or Path(what).exists())


class Folders:
    """An account's folders, as its user calls them."""

    def __init__(self, account: Account, mailbox: Mailbox, marks: Sequence[str] = ()) -> None:
        """`marks`: keywords of ours that say spam."""
        self._account, self._mailbox = account, mailbox
        self._marks = lower((*WORDS["spam"], *marks))
        try:
            self._spam: str | None = mailbox.spam_folder(account.spam_folder)
        except MailboxError:
            self._spam = None

    def named_by_user(self, what: What, known: Known, reviewed: bool) -> Folder:
        """The folder that is meant; MailboxError where its mail is hardly all of this label."""
        folder = self._called(what.name)
        if not reviewed and (problem := self._objection(folder, what.label)):
            raise MailboxError(problem, "Go through it, then add --reviewed; or name another folder.")
        return Folder(self._mailbox, folder.name, what.label, known.message_ids)

    def had_in_hand(self, known: Known) -> tuple[list[Folder], list[Folder]]:
        """(archives, watched folders): good mail as far as a person has read and kept it, or has answered it."""
        infos = self._mailbox.folders()
        watched = [info.name for info in infos if self._arrives(info)]
        archives = [info.name for info in infos if info.name not in watched
                    and teaches(self._account, info, self._spam) == "ham"]
        mailbox, ids = self._mailbox, known.message_ids
        return (
            [Folder(mailbox, name, "ham", ids, self._marked, "read") for name in archives],
            [Folder(mailbox, name, "ham", ids, self._marked, "answered") for name in watched],
        )

    def sent(self, name: str | None) -> str | None:
        """The folder with sent mail; one that others can write to, by sending mail, is refused."""
        if name is None:
            infos = self._mailbox.folders()
            marked = [info.name for info in infos if "\\sent" in lower(info.flags)]
            return next(iter(marked), None) or self._usual_sent()
        folder = self._called(name)
        if teaches(self._account, folder, self._spam) or "\\all" in lower(folder.flags):
            raise MailboxError(f"In {folder.name} lies mail that others sent, and they could name anybody.",
                               "Give --sent the folder with your own.")
        return folder.name

    def _usual_sent(self) -> str | None:
        found = (self._mailbox.called(name.title()) or self._mailbox.called(name) for name in SENT_NAMES)
        return next((folder.name for folder in found if folder), None)

    def _called(self, name: str) -> FolderInfo:
        if folder := self._mailbox.called(name):
            return folder
        names = ", ".join(sorted(info.name for info in self._mailbox.folders())[:30])
        raise MailboxError(f"{name} is neither a file here nor a folder of {self._account.name}.",
                           f"There are the folders {names}.")

    def _objection(self, folder: FolderInfo, label: Word) -> str:
        word = teaches(self._account, folder, self._spam)
        if self._arrives(folder):
            return f"Mail arrives in {folder.name}, and nobody has said that all of it is {label}."
        if word and word != label:
            return f"Mail in {folder.name} is {word}, as its place says, and not {label}."
        if not word and thrown_or_own(folder):
            return f"{folder.name} holds what you threw away or wrote yourself, or mail of all kinds."
        return ""

    def _arrives(self, folder: FolderInfo) -> bool:
        return folder.name.upper() == "INBOX" or named(folder.name, self._account.folders)

    def _marked(self, head: Head) -> str:
        return "marked as spam" if lower(head.flags) & self._marks else ""


@dataclass(frozen=True)
class Order:
    """What `learn` is asked for."""

    wanted: Sequence[What] = ()
    sent: str | None = None
    bootstrap: bool = False
    reviewed: bool = False
    limit: int | None = None

    @property
    def needs_server(self) -> bool:
        return bool(self.sent or self.bootstrap or not all(what.is_file for what in self.wanted))


@dataclass
class Letters:
    """Sent mail: of its recipients the tally tells."""

    place: str
    tally: Tally
    kind: str = "folder"
    only: str = ""
    label: str = "correspondents"


def learn(
    order: Order, pupil: Pupil, account: Account, mailbox: Mailbox | None, marks: Sequence[str],
    stop: Callable[[], bool], total: Callable[[int], None], step: Callable[[], None],
) -> list[Harvest | Letters]:
    """Where something was taken from, and what came of it; nothing is learned where a part of the order is refused."""
    folders = Folders(account, mailbox, marks) if mailbox else None
    kinds = [Kind(order.limit or MOST, [_harvest(what, pupil, folders, order.reviewed)]) for what in order.wanted]
    letters: list[Letters] = []
    if mailbox and folders:
        if order.bootstrap:
            kinds += [Kind(order.limit or NEWEST, part) for part in folders.had_in_hand(pupil.known())]
        if (order.bootstrap or order.sent) and (sent := folders.sent(order.sent)):
            letters.append(_write_to(pupil, mailbox, sent, order.limit or SENT, stop))
    teach(pupil, kinds, stop, total, step)
    return [*letters, *(harvest for kind in kinds for harvest in kind.harvests)]


def _harvest(what: What, pupil: Pupil, folders: Folders | None, reviewed: bool) -> Harvest:
    known = pupil.known(what.label)
    if folders and not what.is_file:
        return folders.named_by_user(what, known, reviewed)
    path = Path(what.name).expanduser()
    if not path.exists():
        raise MailtaggerError(f"There is no {path}.", "A folder on the server is written folder:NAME.")
    return Files(str(path), what.label, known.idents)


def _write_to(pupil: Pupil, mailbox: Mailbox, folder: str, limit: int, stop: Callable[[], bool]) -> Letters:
    """The recipients of the newest sent mail become correspondents, PORTION by PORTION."""
    letters = Letters(folder, Tally())
    mailbox.examine(folder)
    uids = mailbox.uids()[-limit:]
    for start in range(0, len(uids), PORTION):
        if stop():
            break
        headers = mailbox.headers(uids[start : start + PORTION], correspondents.FIELDS)
        found = {address for header in headers.values() for address in correspondents.recipients(header)}
        new = correspondents.add(pupil.journal, pupil.account, sorted(found), "sent")
        letters.tally.learned += new
        letters.tally.known += len(found) - new
    return letters
