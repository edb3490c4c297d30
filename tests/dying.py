"""`mailtagger run`, killed as by a power cut when a method is entered or left for the n-th time.

    python -m tests.dying CONFIG Mailbox move after 2     dies once the second move has been answered
    python -m tests.dying --hurried CONFIG                does not die, and waits half a second where it would wait long
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from mailtagger import daemon, imap, journal, lessons, places, score, watch, worker

OWNERS: dict[str, Any] = {
    "Mailbox": imap.Mailbox, "Journal": journal.Journal, "Lessons": lessons.Lessons, "Places": places.Places,
    "Scorer": score.Scorer,
}
HURRY = 0.5  # seconds at most between two tries


def die(owner: str, method: str, when: str, count: str) -> None:
    """From now on the count-th call of that method kills the process."""
    original, calls = getattr(OWNERS[owner], method), 0

    def deadly(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        last = calls == int(count)
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **more)
        if last and when == "after":
            if hasattr(result, "__next__"):  # what yields is done when all has been yielded
                list(result)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(OWNERS[owner], method, deadly)


def hurry() -> None:
    """From now on no wait is long: faults come faster in a test than in a year."""
    worker.FIRST_WAIT, worker.LONGEST_WAIT = 0.05, HURRY
    worker.STUCK_WAIT = worker.STUCK_LONGEST = watch.RETRY_WAIT = watch.STUCK_LONGEST = HURRY


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "--hurried":
        hurry()
        del arguments[0]
    if arguments[1:]:
        die(*arguments[1:])
    sys.exit(daemon.run(Path(arguments[0])))
