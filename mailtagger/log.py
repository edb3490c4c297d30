"""Log lines on standard error: plain for a person, one JSON object a line for a program.

Of an exception they tell its kind and where it came from, never what it says: that may quote a mail or a password.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType

# What every record has; anything else was given as `extra` and becomes a field of the JSON object.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Plain(logging.Formatter):
    """A line, and below it where an exception came from."""

    def formatException(
        self, told: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return trace(told[1])


class Json(Plain):
    """`{"at", "level", "logger", "message", ...}`, the fields given as `extra` after these."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def trace(error: BaseException | None) -> str:
    """The lines of code that an exception went through and its kind, after those of the exceptions behind it."""
    return "".join(line for one in reversed(list(_chain(error))) for line in (
        "Traceback (most recent call last):\n", *traceback.format_tb(one.__traceback__), f"{type(one).__qualname__}\n",
    )).rstrip("\n")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def start(level: str = "warning", form: str = "plain") -> None:
    """From now on records of this level and above go to standard error; under systemd without a second clock."""
    handler = logging.StreamHandler(sys.stderr)
    clock = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    handler.setFormatter(Json() if form == "json" else Plain(f"{clock}%(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("apscheduler", "imapclient"):  # imapclient logs whole commands at debug
        logging.getLogger(chatty).setLevel(logging.WARNING)


def end() -> None:
    """What standard error would not take is given up, or Python would end with a status of its own (120)."""
    try:
        if sys.stderr:
            sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)
