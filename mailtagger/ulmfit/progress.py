"""What a run tells while it works: lines with the time left, and one row of CSV for each, to be drawn later."""

import csv
import time
from collections.abc import Callable
from pathlib import Path

Log = Callable[[str], None]
COLUMNS = ("step", "seen", "share", "rate", "train_loss", "valid_loss", "accuracy", "perplexity", "seconds")


class Progress:
    """The clock and the books of one run."""

    def __init__(
        self,
        log: Log,
        unit: str,
        curve: Path | None = None,
        spent: float = 0.0,
        step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unit`: what is counted; `curve`: the CSV; `spent`, `step`: seconds and steps of the run that this goes on
        from, whose rows it keeps, up to that step."""
        self._log, self._unit, self._curve = log, unit, curve
        self._clock = clock
        self._began = clock() - spent
        self._here = clock()
        self._seen_here: int | None = None
        if curve:
            kept = _rows(curve, step) if step else []
            curve.parent.mkdir(parents=True, exist_ok=True)
            with curve.open("w", newline="") as file:
                csv.writer(file).writerows([COLUMNS, *kept])

    @property
    def seconds(self) -> float:
        """Seconds of work, those before an interruption with them."""
        return self._clock() - self._began

    def tell(self, step: int, seen: int, share: float, rate: float, loss: float, what: str = "") -> None:
        """One line and one row in the middle of an epoch."""
        if self._seen_here is None:
            self._seen_here = seen
        here = self._clock() - self._here
        pace = (seen - self._seen_here) / here if seen > self._seen_here else seen / max(self.seconds, 1e-9)
        left = self.seconds * (1 - share) / share if share else 0.0
        self._log(
            f"  {share:4.0%}  {seen:,} {self._unit}  {pace:,.0f}/s  train loss {loss:.4f}  "
            f"{left / 60:.1f} min left{what and '  '}{what}"
        )
        self._row(step, seen, f"{share:.5f}", f"{rate:.3e}", f"{loss:.5f}", "", "", "")

    def judged(
        self, step: int, seen: int, share: float, rate: float, valid: float, accuracy: float, perplexity: float
    ) -> None:
        """One row for a validation."""
        values = f"{valid:.5f}", f"{accuracy:.5f}", f"{perplexity:.3f}"
        self._row(step, seen, f"{share:.5f}", f"{rate:.3e}", "", *values)

    def _row(self, *values: object) -> None:
        if self._curve:
            with self._curve.open("a", newline="") as file:
                csv.writer(file).writerow([*values, f"{self.seconds:.1f}"])


def _rows(curve: Path, step: int) -> list[list[str]]:
    if not curve.exists():
        return []
    with curve.open(newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if int(row[0]) <= step]
