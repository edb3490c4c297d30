"""Where is each message now? What the user has done with his mail since the last look becomes lessons.

    into a folder that teaches spam   `dragged` tells: judged elsewhere before, or older than the last look. What the
                                      server itself delivers there is younger, and teaches nothing
    out of it into one of ham         `rescue` tells; in watched folders `judge` asks it
    $Junk, $NotJunk and their like    where they were not shown at the last look, nor set by us, nor there on arrival

Our own moves are in the journal and never count. One look a poll interval: a STATUS for each folder, and more only
where something has changed. Nothing here changes anything on the server: the folders are opened read-only.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mailtagger import dragged, rescue
from mailtagger.apply import left_alone, standing
from mailtagger.begun import DEADLY, Deadly, in_hand
from mailtagger.config import Account
from mailtagger.decide import Word
from mailtagger.errors import MailboxError, MailtaggerError
from mailtagger.imap import Address, FolderState, Mailbox, RawMessage
from mailtagger.imap_reader import Head, Status
from mailtagger.imap_syntax import lower
from mailtagger.journal import FolderRow, Judged
from mailtagger.judge import Job, lesson_of, opinion, where
from mailtagger.lessons import Lesson, Source
from mailtagger.parse import Mail, identify, parse
from mailtagger.places import SIGHTINGS, Places
from mailtagger.report import plain
from mailtagger.teaching import named, teaches
from mailtagger.worker import Door, Worker

log = logging.getLogger(__name__)

WORDS: dict[Word, tuple[str, ...]] = {"spam": ("$Junk", "Junk"), "ham": ("$NotJunk", "NotJunk", "NonJunk")}
FOLDERS_SECONDS = 600.0  # after which the list of folders is asked for again
CHUNK = 50  # messages that are looked at, learned and committed together


def folders_that_teach(job: Job, mailbox: Mailbox) -> dict[str, Word]:
    """The account's folders whose mail is spam, or ham, by its user's word."""
    try:
        spam_folder = mailbox.spam_folder(job.account.spam_folder)
    except MailboxError:
        spam_folder = None
    found = {info.name: teaches(job.account, info, spam_folder) for info in mailbox.folders()}
    return {name: word for name, word in found.items() if word}


def look(job: Job, mailbox: Mailbox, places: Places, folders: dict[str, Word]) -> Iterator[Lesson]:
    """What the user has taught since the last look, learned; folder by folder. A folder that is refused is dropped."""
    for name, teaching in list(folders.items()):
        if job.stop():
            return
        try:
            yield from _Look(job, mailbox, places, name, teaching).lessons()
        except MailboxError as error:  # removed or refused meanwhile: the others are looked at all the same
            log.info("%s/%s is not followed: %s", job.account.name, plain(name), plain(error))
            del folders[name]  # until the list is asked for again: said once, not at each look


class _Look:
    """One look at one folder."""

    def __init__(self, job: Job, mailbox: Mailbox, places: Places, folder: str, teaching: Word) -> None:
        self._job, self._mailbox, self._places = job, mailbox, places
        self._folder, self._teaching = folder, teaching
        self._account, self._journal = job.account.name, job.journal
        self._watched = teaching == "ham" and named(folder, job.account.folders)

    def lessons(self) -> Iterator[Lesson]:
        began = self._journal.now()
        status, row = self._mailbox.status(self._folder), self._places.folder(self._account, self._folder)
        fell = row is not None and 0 < status.uidnext < row.uidnext  # 0: the server tells none
        before = row if row and row.uidvalidity == status.uidvalidity and not fell else None
        self._renumbered = row is not None and before is None
        reach = self._reach(status)
        same = before and (before.uidnext, before.modseq) == (reach, status.modseq)
        if not same or (status.modseq is None and self._job.account.keywords_teach):
            state = self._mailbox.examine(self._folder)
            reach = self._reach(state)
            if not self._watched:  # what arrives there the watcher judges, and asks whether it was rescued
                yield from self._arrivals(state, before)
            if self._job.account.keywords_teach:
                yield from self._words(state, before, reach)
            if self._job.stop():
                return
            status = Status(state.uidvalidity, state.uidnext, state.messages, state.modseq)
        self._places.followed(self._account, self._folder, status.uidvalidity, reach, status.modseq, began)

    def _reach(self, state: Status | FolderState) -> int:
        """The UID below which this look goes; in a watched folder what is judged: so its first marks are known."""
        if not self._watched:
            return state.uidnext
        row = self._journal.folder(self._account, self._folder)
        return min(state.uidnext, row.uidnext) if row and row.uidvalidity == state.uidvalidity else 0

    def _arrivals(self, state: FolderState, before: FolderRow | None) -> Iterator[Lesson]:
        """Lessons from what lies here now and did not at the last look."""
        if before is None and self._teaching == "ham":
            return  # an archive of years: what was rescued into it before we came is nobody's news
        first = before.uidnext if before else 1
        uids = [uid for uid in self._mailbox.uids(first) if uid < state.uidnext][-SIGHTINGS:]
        for start in range(0, len(uids), CHUNK):
            if self._job.stop():
                return
            heads = [
                (head, parse(head.header).message_id)
                for head in self._mailbox.heads(uids[start : start + CHUNK]) if not left_alone(head.flags)
            ]
            suspects = [head.address.uid for head, message_id in heads if self._suspect(head, message_id, before)]
            asked = self._put_here if self._teaching == "spam" else self._rescued
            found = {}
            for message in self._mailbox.fetch(suspects) if suspects else ():
                with self._passing_by(message):
                    mail, ident = self._read(message)
                    found[message.address.uid] = ident, asked(message, mail, ident, before)
            yield from self._note(heads, found)

    def _suspect(self, head: Head, message_id: str, before: FolderRow | None) -> bool:
        """Whether the message has to be read, as the user may have brought it here; its header alone is known.

        In a spam folder all that has come since the first look has: taken out again, it is known by its content.
        """
        if self._teaching == "ham":
            return bool(self._places.sightings(self._account, message_id)) or any(
                self._journal.moves(self._account, row.ident, message_id)
                for row in self._journal.called(self._account, message_id)
            )
        return before is not None or not message_id or bool(dragged.elsewhere(self._job, message_id, self._folder))

    def _put_here(self, message: RawMessage, mail: Mail, ident: str, before: FolderRow | None) -> Lesson | None:
        """The lesson that a message in a spam folder teaches, if its user put it there."""
        drag = dragged.find(self._job, self._mailbox, self._places, message, ident, mail.message_id, before,
                            self._renumbered)
        return self._lesson(message, mail, ident, "spam", "moved", drag.judged) if drag else None

    def _rescued(self, message: RawMessage, mail: Mail, ident: str, before: FolderRow | None) -> Lesson | None:
        """The lesson that a message teaches which came here out of a spam folder."""
        back = rescue.find(self._journal, self._mailbox, self._account, message, ident, mail.message_id)
        if not back or not back.teaches:
            return None
        known = self._journal.known(self._account, ident, mail.message_id)
        return self._lesson(message, mail, ident, "ham", "moved", known)

    def _note(
        self, heads: Sequence[tuple[Head, str]], found: Mapping[int, tuple[str, Lesson | None]]
    ) -> Iterator[Lesson]:
        """Commits what was seen together with what it teaches."""
        news = []
        # Those that somebody has taken away while they were read say something else where they are now.
        here = standing(self._mailbox, (uid for uid, (_, lesson) in found.items() if lesson))
        with self._journal.transaction():
            for head, message_id in heads:
                ident, lesson = found.get(head.address.uid, ("", None))
                if self._teaching == "spam":
                    self._places.saw(self._account, head.address, message_id, head.size, ident, head.arrived)
                if lesson and head.address.uid in here and self._job.lessons and self._job.lessons.learn(lesson):
                    news.append(lesson)
        yield from news

    def _words(self, state: FolderState, before: FolderRow | None, reach: int) -> Iterator[Lesson]:
        """Lessons from the marks that mail programs have set since the last look."""
        words: tuple[Word, ...] = ("ham",) if self._teaching == "spam" else ("spam", "ham")  # all mail there is $Junk
        shown = {word: self._mailbox.keyworded(WORDS[word]) for word in words}
        now = {(uid, word) for word, uids in shown.items() for uid in uids if uid < reach}
        known = self._places.marked(self._account, state.name, state.uidvalidity)
        self._places.remark(self._account, state.name, state.uidvalidity, gone=known - now)
        new = sorted(now - known)
        said: dict[int, list[Word]] = {}
        for uid, word in new:
            if self._is_word(state, uid, word, before):
                said.setdefault(uid, []).append(word)
        for start in range(0, len(new), CHUNK):
            part = new[start : start + CHUNK]
            clear = {uid: word for uid, word in part if said.get(uid) == [word]}  # both at once say nothing
            lessons = []
            for message in self._mailbox.fetch(sorted(clear)) if clear else ():
                with self._passing_by(message):
                    if lesson := self._marked(message, clear[message.address.uid]):
                        lessons.append(lesson)
            with self._journal.transaction():
                news = [lesson for lesson in lessons if self._job.lessons and self._job.lessons.learn(lesson)]
                self._places.remark(self._account, state.name, state.uidvalidity, new=part)
            yield from news

    def _marked(self, message: RawMessage, word: Word) -> Lesson | None:
        """The lesson that a new mark teaches, unless another mailtagger has set it."""
        mail, ident = self._read(message)
        row = self._journal.judged(self._account, message.address)
        told = self._job.lessons and self._job.lessons.word(self._account, ident, mail.message_id)
        if word == "spam" and not told and dragged.by_another(self._job, message.flags, [row] if row else []):
            return None
        return self._lesson(message, mail, ident, word, "keyword", row)

    def _is_word(self, state: FolderState, uid: int, word: Word, before: FolderRow | None) -> bool:
        at = Address(state.name, state.uidvalidity, uid)
        row = self._journal.judged(self._account, at)
        if row is None:  # it can only be known to be new where we have looked before
            return before is not None and uid < before.uidnext
        acts = self._journal.acts(self._account, at)
        ours = lower(name for act in acts if act.act == "keyword" for name in act.target.split())
        return not lower(WORDS[word]) & (lower(row.flags_before) | ours)

    @contextmanager
    def _passing_by(self, message: RawMessage) -> Iterator[None]:
        """One bad message must not hold up the others: it teaches nothing."""
        try:
            yield
        except MailtaggerError:
            raise  # the server's fault or the disk's, not the message's
        except Exception as error:
            why = DEADLY if isinstance(error, Deadly) else where(error)
            log.warning("%s/%s UID %d teaches nothing: %s", self._account, plain(self._folder), message.address.uid,
                        why)

    def _read(self, message: RawMessage) -> tuple[Mail, str]:
        with in_hand(self._journal, self._account, message.address):
            return parse(message.raw), identify(message.raw)

    def _lesson(
        self, message: RawMessage, mail: Mail, ident: str, label: Word, source: Source, before: Judged | None
    ) -> Lesson:
        with in_hand(self._journal, self._account, message.address):
            seen = opinion(message.raw, mail, self._job.scorer, self._job.policy)
        return lesson_of(message.raw, mail, ident, seen, self._account, label, source, message.address.folder, before)


class Follower(Worker):
    """Keeps looking where an account's mail is until `stop`."""

    def __init__(
        self,
        account: Account,
        mailbox: Mailbox,
        door: Door,
        job: Callable[[Account, Callable[[], bool]], Job],
    ) -> None:
        super().__init__(f"{account.name} (following)", account, "", mailbox, door, job)

    def _session(self) -> None:
        places = Places(self._job().journal)
        folders: dict[str, Word] = {}
        asked = -FOLDERS_SECONDS
        while not self._stopping.is_set():
            job = self._job()
            if time.monotonic() - asked > FOLDERS_SECONDS:
                folders, asked = folders_that_teach(job, self._mailbox), time.monotonic()
            for lesson in look(job, self._mailbox, places, folders):
                _tell(lesson)
            if self._stopping.is_set():
                return
            self._recovered(job)
            self._awake.wait(1.5 * self.account.poll_seconds)  # the clock wakes us
            self._awake.clear()


def _tell(lesson: Lesson) -> None:
    log.info("%s/%s %s learned as %s (%s); said before: %s", lesson.account, plain(lesson.folder), lesson.ident[:8],
             lesson.label, lesson.source, lesson.verdict or "nothing",
             extra={name: getattr(lesson, name) for name in ("account", "folder", "ident", "label", "source")})
