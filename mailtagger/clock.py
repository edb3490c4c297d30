"""The daemon's clock: APScheduler, and what it takes to go on when somebody sets the time of day.

APScheduler plans by the time of day. Set forward by a year it would make up a list of each interval that was skipped,
half a million for a poll a minute; set back by a day it would sleep until the old time comes again. So no sleep, which
the monotonic clock measures, is longer than the shortest interval, and after each the plans are looked at here. A job
may have been at work when the time was set: what it planned for its end is right by the old time alone.
"""

import math
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
        jobs = self.get_jobs()
        for job in jobs:
            if not -job.trigger.interval < job.next_run_time - now < 2 * job.trigger.interval:
                job.modify(next_run_time=now)
        seconds: float | None = super()._process_jobs()
        longest = min((job.trigger.interval_length for job in jobs), default=math.inf)
        return None if seconds is None else min(seconds, longest)
