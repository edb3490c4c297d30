"""Log lines on standard error: plain for a person, one JSON object a line for a program."""

import json
import logging
import os
import sys
from datetime import UTC, datetime

# What every record has; anything else was given as `extra` and becomes a field of the JSON object.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Json(logging.Formatter):
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


def start(level: str = "warning", form: str = "plain") -> None:
    """From now on records of this level and above go to standard error; under systemd without a second clock."""
    handler = logging.StreamHandler(sys.stderr)
    clock = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    handler.setFormatter(Json() if form == "json" else logging.Formatter(f"{clock}%(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("apscheduler", "imapclient"):  # imapclient logs whole commands at debug
        logging.getLogger(chatty).setLevel(logging.WARNING)
