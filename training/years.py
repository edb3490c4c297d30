"""In which year a mail says it was sent: to look at a corpus by, and never a feature, since it tells the corpus."""

import re
from datetime import UTC, datetime
from email.utils import parsedate

from training.corpora import Raw

FIRST = 1990  # before it there was no spam worth the name; a date beyond today is a lie
HEAD = 65_536  # bytes of a mail in which its headers end
_DATE = re.compile(rb"^date[ \t]*:[ \t]*([^\r\n]{0,200})", re.I | re.M)
_END = re.compile(rb"\r?\n\r?\n")


def year(raw: Raw) -> int | None:
    """The year that a mail's Date header, or a table's column, claims; None where there is none that can be."""
    claim = _header(raw.content) if isinstance(raw.content, bytes) else raw.date
    found = re.match(r"(\d{4})-\d\d-\d\d", claim)
    try:
        when = int(found[1]) if found else (parsedate(claim) or (0,))[0]
    except (ValueError, IndexError, TypeError):  # seen from the standard library on dates that are none
        return None
    return when if FIRST <= when <= datetime.now(UTC).year else None


def _header(content: bytes) -> str:
    head = content[:HEAD].lstrip(b"\r\n")
    end = _END.search(head)
    found = _DATE.search(head[: end.start()] if end else head)
    return found[1].decode("latin-1").strip() if found else ""
