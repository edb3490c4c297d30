"""What systemd hears of us (sd_notify(3)): ready, alive, ending; only a server's answer can prove the first two."""

import logging
import os
import threading
import time

from sdnotify import SystemdNotifier

from mailtagger.errors import LoginRefused
from mailtagger.watch import Watcher

log = logging.getLogger(__name__)


class Systemd:
    """Tells systemd, where it asked to be told."""

    def __init__(self) -> None:
        self._notifier = SystemdNotifier()
        self._watchdog = _watchdog_seconds()
        self._fed = -self._watchdog
        self._ready = False
        self._silent: set[Watcher] = set()
        self._answers = 0
        self._lock = threading.Lock()

    @property
    def longest_wait(self) -> float:
        """Seconds within which each watcher should ask its server something."""
        return self._watchdog / 3 if self._watchdog else 3600.0

    def expect(self, watchers: set[Watcher]) -> None:
        """READY waits for the first word of these, good or bad, and for one answer of a server: a refused password is
        one, for a service that never gets ready is started again, and would try it again."""
        with self._lock:
            self._silent = set(watchers)

    def alive(self) -> None:
        """A server has answered, if only that it will not."""
        if self._watchdog and time.monotonic() - self._fed > self._watchdog / 10:
            self._fed = time.monotonic()
            self._notifier.notify("WATCHDOG=1")

    def heard(self, watcher: Watcher, error: Exception | None) -> None:
        """A watcher has completed a round with its server, or has failed."""
        with self._lock:
            self._silent.discard(watcher)
            self._answers += error is None or isinstance(error, LoginRefused)
            if not self._ready and self._answers and not self._silent:
                self._ready = True
                self._notifier.notify("READY=1")
                log.info("ready")

    @property
    def ready(self) -> bool:
        return self._ready

    def stopping(self) -> None:
        """What takes its time now is the end."""
        self._notifier.notify("STOPPING=1")


def _watchdog_seconds() -> float:
    """How often systemd wants to hear from this process; 0 when it does not (sd_watchdog_enabled(3))."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    return int(usec) / 1e6 if usec.isdigit() and pid in ("", str(os.getpid())) else 0.0
