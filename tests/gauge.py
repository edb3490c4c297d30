"""What a process takes while it works: memory, descriptors, threads and CPU over time, as a table and as a picture."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Self

PLOT = ("megabytes", "files", "threads")


@dataclass(frozen=True)
class Reading:
    """At so many seconds from the start."""

    seconds: float
    megabytes: float
    files: int
    threads: int
    cpu: float = 0.0  # seconds of it, used since the process began


class Gauge(threading.Thread):
    """Reads every `interval` seconds from a process, whichever it is by then, until the end of the `with`."""

    def __init__(self, pid: int, interval: float) -> None:
        super().__init__(daemon=True)
        self.pid, self._interval = pid, interval
        self.readings: list[Reading] = []
        self.events: list[tuple[float, str]] = []
        self._began, self._ended = time.monotonic(), threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(self._interval):
            if (reading := self._read()) is not None:
                self.readings.append(reading)

    def note(self, event: str) -> None:
        """What happens now, for the picture; and said."""
        self.events.append((time.monotonic() - self._began, event))
        print(f"{self.events[-1][0]:7.1f} s  {event}", flush=True)

    def table(self, rows: int = 12) -> str:
        """Readings spread over the whole time."""
        step = max(1, len(self.readings) // rows)
        lines = [f"{r.seconds:9.0f} {r.megabytes:9.1f} {r.files:7} {r.threads:8}" for r in self.readings[::step]]
        return "\n".join([f"{'seconds':>9} {'RSS (MB)':>9} {'files':>7} {'threads':>8}", *lines])

    def growth(self, name: str) -> float:
        """By how much the last quarter's upper quartile is above that of the quarter after the first.

        Not the median: a process has fewer descriptors while connections are down, and calm after storms is no leak.
        """
        values = [getattr(reading, name) for reading in self.readings]
        quarter = len(values) // 4
        if quarter < 2:
            return 0.0
        return float(quantiles(values[-quarter:])[-1] - quantiles(values[quarter : 2 * quarter])[-1])

    def plot(self, path: Path, title: str) -> bool:
        """Whether a picture could be drawn: that needs matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return False
        figure = Figure(figsize=(9, 6), layout="constrained")
        axes: Sequence[object] = figure.subplots(len(PLOT), sharex=True)
        for ax, name in zip(axes, PLOT, strict=True):
            ax.plot([r.seconds for r in self.readings], [getattr(r, name) for r in self.readings])  # type: ignore[attr-defined]
            ax.set_ylabel(name)  # type: ignore[attr-defined]
            ax.set_ylim(bottom=0)  # type: ignore[attr-defined]
            for at, _ in self.events:
                ax.axvline(at, color="0.8", linewidth=0.8)  # type: ignore[attr-defined]
        figure.suptitle(title)
        figure.supxlabel("seconds")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        return True

    def _read(self) -> Reading | None:
        process = Path("/proc") / str(self.pid)
        try:
            fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            files = sum(1 for _ in (process / "fd").iterdir())
            kilobytes, threads = int(fields["VmRSS"].split()[0]), int(fields["Threads"])
            ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]  # proc(5): utime, stime
        except (OSError, KeyError):  # it has just ended
            return None
        cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return Reading(time.monotonic() - self._began, kilobytes / 1024, files, threads, cpu)
