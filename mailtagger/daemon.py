"""`mailtagger run`: a watcher for each folder, one clock for all, and what signals and systemd ask for.

    main thread    waits for signals: SIGTERM or SIGINT ends it, a second one at once; SIGHUP reads the file again
    watchers       one thread and one connection each (watch.py); a dead server holds up nobody else
    followers      one an account (follow.py): where is each message now, and what does that teach
    APScheduler    wakes the watchers, notices a new model, prunes the journal; it never talks to a server
"""

import contextlib
import ctypes
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from mailtagger import __version__, artifact, config, secret
from mailtagger import log as logs
from mailtagger.clock import Clock
from mailtagger.config import Account, Settings
from mailtagger.count import many
from mailtagger.decide import Policy
from mailtagger.errors import ConfigError, MailtaggerError, StateError
from mailtagger.follow import Follower
from mailtagger.imap import Mailbox
from mailtagger.journal import FILE, Journal
from mailtagger.judge import Job, agree
from mailtagger.lessons import Lessons
from mailtagger.notify import Systemd
from mailtagger.pipeline import Outcome
from mailtagger.report import plain
from mailtagger.score import Scorer, open_scorer
from mailtagger.state import RunLock
from mailtagger.watch import Watcher
from mailtagger.worker import Door, Worker

log = logging.getLogger(__name__)

Inbox: TypeAlias = "queue.SimpleQueue[signal.Signals | MailtaggerError]"

POLITE, GRACE = 2.0, 3.0  # seconds after SIGTERM in which connections end by themselves, and in which all is waited for
LAST = 4.5  # seconds after SIGTERM in which it ends, whatever holds it up: a log that nobody reads, a locked journal
MODEL_SECONDS = 60
M_ARENA_MAX = -8  # of malloc.h
KEEP = timedelta(days=400)  # for which a verdict is remembered


class Model:
    """The scorer in use; `refresh` swaps it for the model that is current now, once that has proven itself."""

    def __init__(self, settings: Settings, before: "Model | None" = None) -> None:
        self._refused = ""
        self._loaded = self._open(settings, before)

    @property
    def scorer(self) -> Scorer:
        return self._loaded[1]

    def refresh(self, settings: Settings) -> None:
        """Another model if there is another; one that cannot be used is named once, and the old one goes on."""
        try:
            if self._where(settings) == self._loaded[0]:
                return
            self._loaded = self._open(settings)
            log.info("model %s scores from now on", self.scorer.model)
            self._refused = ""
        except MailtaggerError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                log.warning("model %s goes on: %s", self.scorer.model, plain(error))

    @classmethod
    def _open(cls, settings: Settings, before: "Model | None" = None) -> tuple[Path, Scorer]:
        loaded, path = before and before._loaded, cls._where(settings)
        # Opened anew at every SIGHUP, the graph left the process 35 MB larger, its old memory in pieces.
        scorer = loaded[1] if loaded and loaded[0] == path else open_scorer(artifact.load(path))
        for account in settings.accounts:
            account.cutoffs(scorer.cutoffs.ham, scorer.cutoffs.spam)
        return path, scorer

    @staticmethod
    def _where(settings: Settings) -> Path:
        return artifact.find(settings.state_dir, settings.model).resolve()


class Daemon:
    """All watchers of one configuration."""

    def __init__(
        self, path: Path, settings: Settings, journal: Journal, inbox: Inbox, level: str | None,
        report: Callable[[Outcome], None],
    ) -> None:
        self._path, self._settings, self._journal, self._level = path, settings, journal, level
        self._report, self._reporting = report, threading.Lock()
        self._lessons = Lessons(journal, with_text=settings.keep_text > 0)
        self._model = Model(settings)
        self._systemd = Systemd()
        self._clock = Clock()
        self._watchers: dict[tuple[str, str], Watcher] = {}
        self._followers: dict[str, Follower] = {}
        self._unconfigured: dict[str, ConfigError] = {}
        self._inbox = inbox

    def run(self) -> None:
        """Until SIGTERM or SIGINT; ConfigError when no account can be used, StateError when the journal is gone."""
        log.info("mailtagger %s in %s, model %s", __version__, self._settings.state_dir, self._model.scorer.model)
        for note in self._journal.notes():
            log.warning("%s/%s: %s", note.account, plain(note.folder), plain(note.text))
        self._clock.add_job(self._refresh, "interval", seconds=MODEL_SECONDS, next_run_time=datetime.now(UTC))
        self._clock.add_job(self._prune, "interval", days=1, next_run_time=datetime.now(UTC))
        self._clock.start()
        self._watch()
        try:
            while (news := self._next()) == signal.SIGHUP:
                self._reload()
        finally:
            self._systemd.stopping()
            self._clock.pause()  # shutdown() would wait for a job that waits for the journal
            _end([*self._watchers.values(), *self._followers.values()])
        if isinstance(news, MailtaggerError):
            raise news
        log.info("ended by %s", news.name)

    def _next(self) -> signal.Signals | MailtaggerError:
        """What comes next to the inbox; in short waits, as a signal that arrives just as one begins does not end it."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=1.0)

    def _watch(self) -> None:
        """A watcher for every folder of the settings that has none yet, and a follower for every account."""
        doors = {watcher.account.name: watcher.door for watcher in self._watchers.values()}
        started: list[Watcher] = []
        following: list[Follower] = []
        for account in self._settings.accounts:
            door = doors.get(account.name, Door())
            for folder in account.folders:
                if (account.name, folder) not in self._watchers:
                    mailbox = Mailbox(account, partial(secret.password, account), door.told, self._systemd.alive)
                    watcher = Watcher(
                        account, folder, mailbox, door, self._job, self._tell, self._heard, self._systemd.longest_wait
                    )
                    self._watchers[account.name, folder] = watcher
                    started.append(watcher)
            if account.name not in self._followers:
                mailbox = Mailbox(account, partial(secret.password, account), door.told)
                self._followers[account.name] = Follower(account, mailbox, door, self._job)
                following.append(self._followers[account.name])
        self._systemd.expect(set(started))
        for worker in (*started, *following):
            seconds = worker.account.poll_seconds
            self._clock.add_job(
                worker.wake, "interval", seconds=seconds, jitter=seconds // 10 or None, id=worker.name,
                replace_existing=True,
            )
            worker.start()

    def _reload(self) -> None:
        """The file as it is now, if all of it can be used; what changed, and what is in trouble, is started anew."""
        try:
            settings = config.load(self._path)
            if settings.state_dir != self._settings.state_dir:
                raise ConfigError("state_dir cannot be changed while mailtagger runs.", "Start it again.")
            model = Model(settings, self._model)
        except MailtaggerError as error:
            log.error("the configuration was not reloaded, the old one stays: %s", plain(error))
            for problem in error.problems if isinstance(error, ConfigError) else ():
                log.error("  %s", plain(problem))
            return
        wanted = {(account.name, folder): account for account in settings.accounts for folder in account.folders}
        same = settings.keywords == self._settings.keywords
        leaving = {
            key: watcher for key, watcher in self._watchers.items()
            if not same or wanted.get(key) != watcher.account or watcher.troubled
        }
        accounts = {account.name: account for account in settings.accounts}
        lost = {
            name: follower for name, follower in self._followers.items()
            if accounts.get(name) != follower.account or follower.troubled
        }
        for key in leaving:
            del self._watchers[key]
        for name in lost:
            del self._followers[name]
        for worker in (gone := [*leaving.values(), *lost.values()]):
            self._clock.remove_job(worker.name)
        _end(gone, hurry=lambda: not self._inbox.empty())
        self._settings, self._model = settings, model
        self._lessons.with_text = settings.keep_text > 0
        logs.start(self._level or settings.log.level, settings.log.format)
        self._watch()
        log.info("the configuration was reloaded; %s watched", many(len(self._watchers), "folder", "is", "are"))

    def _job(self, account: Account, stop: Callable[[], bool]) -> Job:
        scorer = self._model.scorer
        policy = Policy(*account.cutoffs(scorer.cutoffs.ham, scorer.cutoffs.spam))
        return Job(account, self._settings.keywords, policy, scorer, self._journal, self._lessons, stop=stop)

    def _tell(self, outcome: Outcome) -> None:
        _log(outcome)
        with self._reporting:
            self._report(outcome)

    def _heard(self, watcher: Watcher, error: Exception | None) -> None:
        self._systemd.heard(watcher, error)
        if isinstance(error, StateError):
            self._end_without_journal()
        if self._systemd.ready:
            return
        if isinstance(error, ConfigError):
            self._unconfigured[watcher.account.name] = error
            if self._unconfigured.keys() >= {account.name for account in self._settings.accounts}:
                self._inbox.put(error)
        else:
            self._unconfigured.pop(watcher.account.name, None)

    def _end_without_journal(self) -> None:
        """A full disk or a lock may pass; a journal that was removed does not come back, but to a new start."""
        try:
            self._journal.still_there()
        except StateError as gone:
            self._inbox.put(gone)

    def _refresh(self) -> None:
        """The model that is current now; what was taught starts from what this one says."""
        self._model.refresh(self._settings)
        try:
            if changed := agree(self._lessons, self._model.scorer):
                log.info("%s from what %s says", many(changed, "lesson", "starts", "start"), self._model.scorer.model)
        except StateError as error:
            log.warning("%s", plain(error))

    def _prune(self) -> None:
        now = self._clock.now
        try:
            self._journal.prune(now - KEEP)
            self._lessons.prune(timedelta(days=self._settings.keep_text), now)
        except StateError as error:
            log.warning("%s", plain(error))


def run(path: Path, level: str | None = None, report: Callable[[Outcome], None] = lambda outcome: None) -> int:
    """Watches until it is told to end; `report` gets every outcome, one at a time. The exit status."""
    settings = config.load(path)
    logs.start(level or settings.log.level, settings.log.format)
    _share_memory()
    inbox: Inbox = queue.SimpleQueue()
    with _signals(inbox), RunLock(settings.state_dir), Journal(settings.state_dir / FILE) as journal:
        Daemon(path, settings, journal, inbox, level, report).run()
    return 0


def _share_memory() -> None:
    """Two heaps for all threads, where the C library is glibc: with one for each, eight to a core, every thread keeps
    what its largest mail took. Measured over 12 minutes of mail and faults: +13 MB so, +6 MB with two (make soak)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


@contextlib.contextmanager
def _signals(inbox: Inbox) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP go to the inbox; a second SIGTERM or SIGINT ends the process at once, the first one
    within LAST seconds."""
    ending = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        if ending and number != signal.SIGHUP:
            os._exit(128 + number)
        if number != signal.SIGHUP:
            ending = True
            signal.setitimer(signal.ITIMER_REAL, LAST)  # SIGALRM, which nobody handles, needs no Python to be heeded
        inbox.put(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(workers: Collection[Worker], hurry: Callable[[], bool] = lambda: False) -> None:
    """Returns when all have ended, at `hurry`, or after GRACE seconds: what is left waits for what says nothing."""
    began = time.monotonic()
    for worker in workers:
        worker.stop()
    for patience in (POLITE, GRACE):
        for worker in workers:
            while worker.is_alive() and not hurry() and (left := began + patience - time.monotonic()) > 0:
                worker.join(min(0.2, left))
        for worker in workers:
            if worker.is_alive():
                worker.interrupt()


def _log(outcome: Outcome) -> None:
    where = f"{outcome.account}/{plain(outcome.folder)} UID {outcome.uid}"
    score = "-" if outcome.score is None else f"{outcome.score:.4f}"
    done = {"none": "left alone", "keyword": "marked", "move": "moved"}[outcome.action]
    done = done if outcome.done else f"not {done}"
    notes = f" ({plain(outcome.notes)})" if outcome.notes else ""
    fields = ("account", "folder", "uid", "ident", "score", "verdict", "decided_by", "model", "action", "done", "ms")
    log.info(
        "%s %s %s %s by %s, %s in %.0f ms%s", where, outcome.ident[:8], score, outcome.verdict,
        outcome.model if outcome.decided_by == "model" else outcome.decided_by, done, outcome.ms, notes,
        extra={name: getattr(outcome, name) for name in fields},
    )
    log.debug("%s subject: %s", where, plain(outcome.subject))
