"""What was judged, done and taught, newest first: what `history` prints."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from mailtagger import records
from mailtagger.count import many
from mailtagger.forget import lines
from mailtagger.journal import Journal
from mailtagger.lessons import Lesson, Lessons
from mailtagger.report import Column
from mailtagger.restore import Undone

Record = dict[str, Any]

HISTORY = (
    *records.HISTORY[:-1], Column("said", "you said", 8), Column("batch", "batch", 22), Column("why", "message", 0),
)
LESSONS = (
    Column("at", "at", 19), Column("account", "account", 10), Column("label", "lesson", 6),
    Column("source", "source", 7), Column("verdict", "was", 6), Column("folder", "folder", 12),
    Column("sender", "sender", 28), Column("message_id", "message", 0),
)
UNDONE = (
    Column("done", "done", 4), Column("account", "account", 10), Column("folder", "is in", 12),
    Column("action", "action", 18), Column("message_id", "message", 0),
)


def history(
    journal: Journal, accounts: Collection[str], limit: int, since: datetime | None = None
) -> list[Record]:
    """The last messages that were judged, and those that the user taught without our ever having judged them."""
    found = [record for account in accounts for record in _of_account(journal, account, limit, since)]
    return sorted(found, key=lambda record: str(record["at"]), reverse=True)[:limit]


def _of_account(journal: Journal, account: str, limit: int, since: datetime | None) -> list[Record]:
    lessons = Lessons(journal)
    found = [
        records.event(event) | {
            "batch": event.intent.batch if event.intent else None,
            "corrected": lessons.word(event.judged.account, event.judged.ident, event.judged.message_id),
        }
        for event in journal.history(limit, account, since)
    ]
    return [*found, *map(_taught, _unjudged(journal, account, limit, since))]


def taught(
    journal: Journal, accounts: Collection[str], limit: int, since: datetime | None = None
) -> list[Record]:
    """The last lessons, newest first."""
    start = since.timestamp() if since else 0.0
    known = [lesson for account in accounts for lesson in Lessons(journal).all(account)]
    newest = sorted(known, key=_when, reverse=True)
    return lines([lesson for lesson in newest if _when(lesson) >= start][:limit])


def for_a_person(record: Record) -> Record:
    """A line of HISTORY: when by the clock on the wall, why, and how the message is called."""
    at = datetime.fromisoformat(record["at"]) if record["at"] else None
    by = [] if record.get("decided_by", "model") == "model" else [f"by {record['decided_by']}"]
    why = [record["message_id"], *by, *record.get("notes", ())]
    return record | {
        "at": records.clock(at) if at else None, "said": record.get("corrected"), "why": "; ".join(filter(None, why)),
    }


def undone(one: Undone) -> Record:
    """One object of `undo --json`."""
    action = "move" if one.moved else "keyword" if one.keywords else "none"
    return {
        "account": one.account, "home": one.home, "folder": one.folder, "uid": one.uid, "message_id": one.message_id,
        "action": action, "keywords": list(one.keywords), "done": one.done, "why": one.why or None,
    }


def undone_for_a_person(one: Undone, dry_run: bool) -> Record:
    """The same for UNDONE."""
    record = undone(one)
    did = {"move": "moved back", "keyword": "unmarked", "none": "-"}
    if dry_run:
        did |= {"move": f"would move to {one.home}", "keyword": "would unmark"}
    message = "; ".join(filter(None, [one.message_id or "(no Message-ID)", one.why]))
    return record | {"action": did[record["action"]], "message_id": message}


def undone_summary(counts: Record, dry_run: bool) -> str:
    """The last line of `undo` for a person."""
    if not any(counts.values()):
        return "There is nothing of mailtagger's to be undone."
    did = "would be as before" if dry_run else "as before"
    failed = f", {counts['failed']} not" if counts["failed"] else ""
    return f"{many(counts['undone'], 'message')} {did}{failed}." + (" Nothing was changed." if dry_run else "")


def _unjudged(journal: Journal, account: str, limit: int, since: datetime | None) -> list[Record]:
    return journal.rows(
        dict, "SELECT at, account, folder, message_id, label, source FROM lessons AS l"
        " WHERE account = ?1 AND at >= ?2 AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.account = l.account"
        " AND m.ident = l.ident AND m.message_id = l.message_id) ORDER BY at DESC LIMIT ?3",
        account, since.timestamp() if since else 0.0, limit,
    )


def _taught(row: Record) -> Record:
    return {
        "at": row["at"].isoformat(timespec="milliseconds"), "account": row["account"], "folder": row["folder"],
        "uid": None, "message_id": row["message_id"], "score": None, "verdict": None, "decided_by": "user",
        "model": None, "action": "none", "done": True, "notes": [f"taught: {row['source']}"], "batch": None,
        "corrected": row["label"],
    }


def _when(lesson: Lesson) -> float:
    return lesson.at.timestamp() if lesson.at else 0.0
