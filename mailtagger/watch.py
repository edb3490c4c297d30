"""One watched folder: a thread with one connection that waits, works through what is new, and never gives up.

IDLE only shortens the wait. Every poll interval the server is asked, whatever IDLE says or does not say, and every wait
has an end by the monotonic clock. What goes wrong is said once, and tried again after a wait that fits it.
"""

import logging
import random
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mailtagger import pipeline
from mailtagger.config import Account
from mailtagger.decide import decide
from mailtagger.errors import ConfigError, LoginRefused, MailboxError, MailtaggerError, StateError, TryLater
from mailtagger.imap import Address, FolderState, Mailbox
from mailtagger.journal import FolderRow
from mailtagger.judge import FAILED, Job
from mailtagger.pipeline import Outcome, Place, tell
from mailtagger.report import plain

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0  # seconds before the next try when a server is away
STEADY = 60.0  # a session that lasted so long begins with the first wait again
REFUSED_TRIES, FEW, REFUSED_WAIT = 3, 5.0, 900.0  # servers lock out who repeats a wrong password
STUCK_WAIT, STUCK_LONGEST = 30.0, 3600.0  # where repeating hardly helps: a missing folder, a wrong certificate
RETRY_WAIT = 300.0  # before a refused move is tried again
STATE_WAIT = 60.0  # for a full disk
CAREFUL, GIVE_UP = 3, 6  # broken passes from one UID on: then message by message, then that one is passed by
RENUMBERINGS = 3  # changes of UIDVALIDITY in an hour after which a folder's numbers are not believed


class Backoff:
    """Waits that double from `first` to `longest`, each cut by up to half at random, so that clients spread out."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest, self._next = first, longest, first

    def wait(self) -> float:
        """How many seconds to wait this time."""
        wait, self._next = self._next, min(self._longest, 2 * self._next)
        return wait * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """The next wait is the first again."""
        self._next = self._first


@dataclass
class Door:
    """The way into one account: its folders log in one at a time, and a refused password is tried by one for all."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    tries: int = 0
    refusal: LoginRefused | ConfigError | None = None
    closed_until: float = 0.0

    def enter(self, mailbox: Mailbox) -> None:
        """The mailbox connected; after a refusal the same refusal again, without a word to the server, for a while."""
        with self.lock:
            if self.refusal and time.monotonic() < self.closed_until:
                raise self.refusal
            try:
                mailbox.connect()
            except (LoginRefused, ConfigError) as refusal:
                self.refusal, self.tries = refusal, self.tries + 1
                self.closed_until = time.monotonic() + (FEW if self.tries < REFUSED_TRIES else REFUSED_WAIT)
                raise
            self.refusal, self.tries = None, 0


class Watcher(threading.Thread):
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
        super().__init__(name=f"{account.name}/{folder}", daemon=True)
        self.account, self.folder, self.door = account, folder, door
        self._mailbox, self._job = mailbox, job
        self._report, self._answered = report, answered
        self._longest_wait = longest_wait
        self._stopping, self._awake = threading.Event(), threading.Event()
        self._away, self._stuck = Backoff(FIRST_WAIT, LONGEST_WAIT), Backoff(STUCK_WAIT, STUCK_LONGEST)
        self._refused = Backoff(RETRY_WAIT, STUCK_LONGEST)
        self._retry_at: float | None = None  # when acts that the server refused are tried again
        self._failures = 0  # in a row
        self._fresh = True  # until the first answer: the journal's notes are from another life
        self._stumbles = (0, 0)  # (UID from which on a pass broke off, how often in a row)
        self._renumbered: list[float] = []

    @property
    def troubled(self) -> bool:
        """Whether it waits because something went wrong."""
        return self._failures > 0

    def wake(self) -> None:
        """Look at the folder now: the poll interval is over."""
        self._awake.set()

    def stop(self) -> None:
        """End after the message in hand; a wait ends at once."""
        self._stopping.set()
        self._awake.set()

    def interrupt(self) -> None:
        """Break the connection off, for a server that does not answer."""
        self._mailbox.interrupt()

    def run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self.door.enter(self._mailbox)
                if not self._stopping.is_set():
                    self._session()
            except Exception as error:  # a thread that died would leave its folder unwatched, without a word
                if self._stopping.is_set():
                    return
                if time.monotonic() - began > STEADY:
                    self._away.reset()
                wait = self._trouble(error)
                self._answered(self, error)
                self._mailbox.close()
                self._stopping.wait(wait)
            finally:
                self._mailbox.close()

    def _session(self) -> None:
        """One connection's life."""
        job = self._job(self.account, self._stopping.is_set)
        place = pipeline.open_folder(job, self._mailbox, self.folder)
        first = self._watermark(job, place.state)
        self._settle(job, place)
        noticed = time.monotonic()
        while not self._stopping.is_set():
            job = self._job(self.account, self._stopping.is_set)  # by now there may be another model
            first = self._catch_up(job, place, first, noticed)
            if self._stopping.is_set():
                return
            self._recovered(job)
            self._answered(self, None)
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
            self._answered(self, None)
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
        """The first UID to judge: what was there before the first start, or before a renumbering, is left alone."""
        row = job.journal.folder(self.account.name, state.name)
        if row and row.uidvalidity == state.uidvalidity:
            return row.uidnext
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
        tell(job, state.name, "numbering",
             f"The server renumbered this folder (UIDVALIDITY {row.uidvalidity} → {state.uidvalidity}); mail that came"
             f" just before was not judged. `{command} --since {row.checked_at:%Y-%m-%d}` looks at it.")
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

    def _trouble(self, error: Exception) -> float:
        """Says what went wrong, once, and gives the seconds to wait."""
        self._failures += 1
        job = self._job(self.account, self._stopping.is_set)
        match error:
            case LoginRefused() | ConfigError():
                self._say(job, "", "login", error)
                return max(0.0, self.door.closed_until - time.monotonic())
            case TryLater():
                if self._failures == 1 and not self._fresh:
                    log.info("%s: %s", plain(self.name), plain(error))  # servers hang up now and then
                else:
                    self._say(job, self.folder, "trouble", error)
                return self._away.wait()
            case StateError():
                log.warning("%s: %s", plain(self.name), plain(error))
                return STATE_WAIT
            case MailtaggerError():
                self._say(job, self.folder, "trouble", error)
                return self._stuck.wait()
            case _:
                log.error("%s: this is a bug in mailtagger", plain(self.name), exc_info=error)
                return self._stuck.wait()

    def _say(self, job: Job, folder: str, kind: str, error: MailtaggerError) -> None:
        try:
            tell(job, folder, kind, str(error))
        except StateError as trouble:
            log.warning("%s: %s", plain(self.name), plain(trouble))

    def _recovered(self, job: Job) -> None:
        if self._failures or self._fresh:
            self._failures, self._fresh = 0, False
            self._stuck.reset()
            tell(job, self.folder, "trouble", "")
            tell(job, "", "login", "")
