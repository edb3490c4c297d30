"""The daemon's clock: APScheduler, and what it takes to go on when somebody sets the time of day.

APScheduler plans by the time of day. Set forward by a year it would make up a list of each interval that was skipped,
half a million for a poll a minute; set back by a day it would sleep until the old time comes again. How long it sleeps
meanwhile is measured by the monotonic clock, so that each job is looked at here soon after the time was set.
"""

import time
from datetime import UTC, datetime

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler


class Clock(BackgroundScheduler):  # type: ignore[misc]
    """Runs jobs at intervals, one at a time; one that waits longer than its interval is due now."""

    def __init__(self) -> None:
        # The jobs are short and run in the clock's own thread: the end of the program would wait for a pool's threads.
        super().__init__(
            timezone=UTC, executors={"default": DebugExecutor()},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )
        self._began = time.time() - time.monotonic()

    @property
    def now(self) -> datetime:
        """The time of day, or the one that it would be had nobody set it forward: nothing grows old all at once."""
        return datetime.fromtimestamp(min(time.time(), self._began + time.monotonic()), UTC)

    def _process_jobs(self) -> float | None:
        now = datetime.now(UTC)
        for job in self.get_jobs():
            if not -job.trigger.interval < job.next_run_time - now < 2 * job.trigger.interval:
                job.modify(next_run_time=now)
        seconds: float | None = super()._process_jobs()
        return seconds
