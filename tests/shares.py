"""Where the time of a command goes: scoring, waiting for the server, the journal, and the rest; wall clock and CPU.

    python -m tests.shares SHARES.json --config config.yaml scan --apply --yes     the command, and its shares in a file

Scoring is parse, identify, clean and score. What is counted is what the main thread does from the opening of the folder
to its last message, each moment once: what the journal does inside an exchange is the exchange's.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from mailtagger import cli, imap_session, journal, judge, pipeline, score

SCORING, SERVER, JOURNAL, REST = "scoring", "server", "journal", "rest"


class Shares:
    """Seconds of wall clock and of CPU by what they were for; only the outermost of nested calls counts."""

    def __init__(self) -> None:
        self.seconds = {kind: [0.0, 0.0] for kind in (SCORING, SERVER, JOURNAL)}
        self._inside = False

    @contextmanager
    def within(self, kind: str) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside, began = True, _now()
        try:
            yield
        finally:
            self._inside = False
            for n, (now, then) in enumerate(zip(_now(), began, strict=True)):
                self.seconds[kind][n] += now - then

    def call(self, kind: str, owner: Any, name: str) -> None:
        """From now on this function's time is of that kind."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.within(kind):
                return function(*arguments, **named)

        setattr(owner, name, timed)

    def block(self, kind: str, owner: Any, name: str) -> None:
        """The same of what happens in this context manager, and of its end."""
        function: Callable[..., AbstractContextManager[Any]] = getattr(owner, name)

        @contextmanager
        def timed(*arguments: Any, **named: Any) -> Iterator[Any]:
            with self.within(kind), function(*arguments, **named) as inner:
                yield inner

        setattr(owner, name, timed)

    def span(self, owner: Any, name: str) -> None:
        """The whole is what happens while this generator runs."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Iterator[Any]:
            self.seconds = {kind: [0.0, 0.0] for kind in self.seconds}  # the login is no part of it
            began = _now()
            yield from function(*arguments, **named)
            whole = [now - then for now, then in zip(_now(), began, strict=True)]
            known = [sum(column) for column in zip(*self.seconds.values(), strict=True)]
            self.seconds[REST] = [all_ - part for all_, part in zip(whole, known, strict=True)]

        setattr(owner, name, timed)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def watch(shares: Shares) -> None:
    """Everything that scans mail is timed from here on."""
    for name in ("parse", "identify", "clean", "terms"):
        shares.call(SCORING, judge, name)
    shares.call(SCORING, score.Scorer, "score")
    shares.block(SERVER, imap_session.Session, "exchange")
    shares.block(JOURNAL, journal.Journal, "transaction")
    shares.call(JOURNAL, journal.Journal, "rows")
    shares.span(pipeline, "scan")


def main(arguments: list[str]) -> None:
    """The command with these arguments, after the file for the shares."""
    out, *sys.argv[1:] = arguments
    shares = Shares()
    watch(shares)
    try:
        cli.main()
    finally:
        Path(out).write_text(json.dumps(shares.seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
