"""One watched folder: a thread with one connection that waits, works through what is new, and never gives up.

IDLE only shortens the wait. Every poll interval the server is asked, whatever IDLE says or does not say, and every wait
has an end by the monotonic clock.
"""

import logging
import shlex
import time
from collections.abc import Callable

from mailtagger import pipeline
from mailtagger.config import Account
from mailtagger.decide import decide
from mailtagger.errors import MailboxError, StateError
from mailtagger.imap import Address, FolderState, Mailbox
from mailtagger.journal import FAILED, FolderRow
from mailtagger.judge import Job
from mailtagger.pipeline import Outcome, Place, tell
from mailtagger.report import plain
from mailtagger.teaching import teaches
from mailtagger.worker import STUCK_LONGEST, Backoff, Door, Worker

log = logging.getLogger(__name__)

RETRY_WAIT = 300.0  # before a refused move is tried again
CAREFUL, GIVE_UP = 3, 6  # broken passes from one UID on: then message by message, then that one is passed by
RENUMBERINGS = 3  # changes of UIDVALIDITY in an hour after which a folder's numbers are not believed


class Watcher(Worker):
    """Keeps one folder judged until `stop`; `wake` makes it look at once."""

    def __init__(
        self,
        account: Account,
        folder: str,
        mailbox: Mailbox,
        door: Door,
        job: Callable[[Account, Callable[[], bool]], Job],
        report: Callable[[Outcome], None],
        answered: Callable[["Watcher", Exception | None], None],
        longest_wait: float,
    ) -> None:
        super().__init__(f"{account.name}/{folder}", account, folder, mailbox, door, job)
        self._report, self._heard = report, answered
        self._longest_wait = longest_wait
        self._refused = Backoff(RETRY_WAIT, STUCK_LONGEST)
        self._retry_at: float | None = None  # when acts that the server refused are tried again
        self._stumbles = (0, 0)  # (UID from which on a pass broke off, how often in a row)
        self._renumbered: list[float] = []

    def _answered(self, error: Exception | None) -> None:
        self._heard(self, error)

    def _session(self) -> None:
        """One connection's life."""
        job = self._job()
        place = pipeline.open_folder(job, self._mailbox, self.folder)
        self._refuse_spam_folder(place)
        first = self._watermark(job, place.state)
        self._settle(job, place)
        noticed = time.monotonic()
        while not self._stopping.is_set():
            job = self._job()  # by now there may be another model
            first = self._catch_up(job, place, first, noticed)
            if self._stopping.is_set():
                return
            self._recovered(job)
            self._answered(None)
            news = self._wait()
            noticed = time.monotonic()
            if self._stopping.is_set():
                return
            if not news:
                self._mailbox.poll()
            if self._retry_at and noticed >= self._retry_at:
                place = pipeline.open_folder(job, self._mailbox, self.folder)
                first = self._watermark(job, place.state)
                self._settle(job, place)

    def _refuse_spam_folder(self, place: Place) -> None:
        """What lies in it is spam by the word of who put it there; its attribute is known to the server alone."""
        name = place.state.name
        infos = [info for info in self._mailbox.folders() if info.name == name]
        if any(teaches(self.account, info, place.means.target) == "spam" for info in infos):
            raise MailboxError(f"{plain(name)} is for spam: it is followed, and cannot be watched as well.",
                               "Take it out of `folders`.")

    def _catch_up(self, job: Job, place: Place, first: int, noticed: float) -> int:
        """Works off what has arrived from UID `first` on; the UID that is awaited next."""
        state, account = place.state, self.account.name
        while uids := self._mailbox.uids(first):
            stumbles = self._stumbles[1] if self._stumbles[0] == first else 0
            uids = uids[: 1 if stumbles >= CAREFUL else pipeline.PASS]
            if stumbles >= GIVE_UP:
                self._pass_by(job, Address(state.name, state.uidvalidity, uids[0]))
            else:
                self._stumbles = first, stumbles + 1
                try:
                    for outcome in pipeline.sweep(job, self._mailbox, place, uids, noticed):
                        self._report(outcome)
                        if outcome.action == "move" and not outcome.done and self._retry_at is None:
                            self._retry_at = time.monotonic() + self._refused.wait()
                except StateError:
                    self._stumbles = first, stumbles  # a full disk is no message's fault
                    raise
                if self._stopping.is_set():
                    return first  # the pass may be incomplete: it is begun again, with what the journal knows
            self._stumbles = 0, 0
            first = uids[-1] + 1
            job.journal.watermark(account, state.name, state.uidvalidity, first)
            self._answered(None)
        job.journal.watermark(account, state.name, state.uidvalidity, first)  # `status` tells when we looked
        return first

    def _pass_by(self, job: Job, address: Address) -> None:
        """A message that breaks the connection each time it is read must not hold up those behind it."""
        why = f"{FAILED}: the connection breaks off with this message"
        if job.journal.judged(self.account.name, address) is None:
            decision = decide(None, job.policy, notes=[why])
            job.journal.record(self.account.name, address, "", "", None, decision, (), job.scorer.model)
        log.warning("%s: UID %d is passed by: %s", plain(self.name), address.uid, why)

    def _watermark(self, job: Job, state: FolderState) -> int:
        """The first UID to judge: what was there before the first start, or before a renumbering, is left alone.

        A UIDNEXT that falls, as in a folder put back from a backup, is a renumbering as well: its UIDs come again.
        """
        row = job.journal.folder(self.account.name, state.name)
        if row and row.uidvalidity == state.uidvalidity:
            if row.uidnext <= state.uidnext or state.guessed:
                return row.uidnext
            job.journal.void(self.account.name, state.name, state.uidvalidity, state.uidnext)
        job.journal.watermark(self.account.name, state.name, state.uidvalidity, state.uidnext)
        if row:
            self._count_renumbering(job, state, row)
        else:
            log.info("%s: watched from now on; mail below UID %d is left alone", plain(self.name), state.uidnext)
        return state.uidnext

    def _count_renumbering(self, job: Job, state: FolderState, row: FolderRow) -> None:
        now = time.monotonic()
        self._renumbered = [at for at in self._renumbered if now - at < 3600] + [now]
        command = f"mailtagger scan --account {self.account.name} --folder {shlex.quote(state.name)}"
        how = (f"UIDVALIDITY {row.uidvalidity} → {state.uidvalidity}" if row.uidvalidity != state.uidvalidity
               else f"UIDNEXT {row.uidnext} → {state.uidnext}")
        tell(job, state.name, "numbering",
             f"The server renumbered this folder ({how}); mail that came just before was not judged."
             f" `{command} --since {row.checked_at:%Y-%m-%d}` looks at it.")
        if len(self._renumbered) >= RENUMBERINGS:
            raise MailboxError("The server renumbers this folder again and again: its messages cannot be told apart.",
                               "It is looked at again after longer and longer waits.")

    def _settle(self, job: Job, place: Place) -> None:
        waits = pipeline.settle(job, self._mailbox, place)
        self._retry_at = time.monotonic() + self._refused.wait() if waits else None
        if not waits:
            self._refused.reset()

    def _wait(self) -> bool:
        """Until there is news (True), the poll interval is over, or it is time to stop."""
        # The clock wakes us; by itself the wait is longer, in case that clock jumps.
        seconds = min(1.5 * self.account.poll_seconds, self._longest_wait)
        if self.account.idle and self._mailbox.can_idle:
            news = self._mailbox.idle(seconds, self._awake.is_set)
        else:
            self._awake.wait(seconds)
            news = False
        self._awake.clear()
        return news
