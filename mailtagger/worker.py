"""A thread that works for one account over one connection, and never gives up.

What goes wrong is said once, and tried again after a wait that fits it: short for a server that is away, long for what
repeating hardly mends. Every wait ends at `stop`.
"""

import logging
import math
import random
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from mailtagger.config import Account
from mailtagger.errors import ConfigError, LoginRefused, MailtaggerError, StateError, TryLater
from mailtagger.imap import Mailbox
from mailtagger.judge import Job
from mailtagger.pipeline import tell
from mailtagger.report import plain

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0  # seconds before the next try when a server is away
STEADY = 60.0  # a session that lasted so long begins with the first wait again
REFUSED_TRIES, FEW, REFUSED_WAIT = 3, 5.0, 900.0  # servers lock out who repeats a wrong password
STUCK_WAIT, STUCK_LONGEST = 30.0, 3600.0  # where repeating hardly helps: a missing folder, a wrong certificate
STATE_WAIT = 60.0  # for a full disk


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
    told: set[str] = field(default_factory=set)  # what the server had everybody told (ALERT)

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


class Worker(threading.Thread):
    """Keeps a session going until `stop`; what a session does is the subclass's."""

    def __init__(
        self,
        name: str,
        account: Account,
        folder: str,
        mailbox: Mailbox,
        door: Door,
        job: Callable[[Account, Callable[[], bool]], Job],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.account, self.folder, self.door = account, folder, door
        self._mailbox, self._make_job = mailbox, job
        self._stopping, self._awake = threading.Event(), threading.Event()
        self._away, self._stuck = Backoff(FIRST_WAIT, LONGEST_WAIT), Backoff(STUCK_WAIT, STUCK_LONGEST)
        self._longest_wait = math.inf  # before a folder that is in trouble is looked at again
        self._failures = 0  # in a row
        self._fresh = True  # until the first answer: the journal's notes are from another life

    @abstractmethod
    def _session(self) -> None:
        """One connection's life, from the login on."""

    def _answered(self, error: Exception | None) -> None:
        """A round with the server is complete, or has failed."""

    @property
    def troubled(self) -> bool:
        """Whether it waits because something went wrong."""
        return self._failures > 0

    def wake(self) -> None:
        """Look now: the poll interval is over."""
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
            steady = math.inf
            try:
                self.door.enter(self._mailbox)
                steady = time.monotonic() + STEADY
                if not self._stopping.is_set():
                    self._session()
            except Exception as error:  # a thread that died would leave its work undone, without a word
                if self._stopping.is_set():
                    return
                if time.monotonic() > steady:
                    self._away.reset()
                wait = self._trouble(error)
                self._answered(error)
                self._mailbox.close()
                self._stopping.wait(wait)
            finally:
                self._mailbox.close()

    def _job(self) -> Job:
        return self._make_job(self.account, self._stopping.is_set)

    def _trouble(self, error: Exception) -> float:
        """Says what went wrong, once, and gives the seconds to wait."""
        self._failures += 1
        job = self._job()
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
                return min(self._stuck.wait(), self._longest_wait)
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
