"""An explanation for a person: the record of `explain` as plain lines, safe for any terminal."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mailtagger.count import many
from mailtagger.records import clock
from mailtagger.report import plain

Record = dict[str, Any]

SHOWN = 8  # words each way
LEAST = 0.005  # log-odds: what two digits show
SOURCES = {"moved": "you moved it", "keyword": "you marked it", "learn": "`learn`"}


def lines(record: Record) -> list[str]:
    """The whole explanation, line by line."""
    return [plain(line).rstrip() for line in (
        *_head(record), *_model(record), *_personal(record), *_lessons(record), *_journal(record), *_notes(record),
    )]


def _head(record: Record) -> list[str]:
    where = record["path"] or f"{record['account']}/{record['folder']} UID {record['uid']}"
    cutoffs = record["cutoffs"]
    score = "no score" if record["score"] is None else f"score {record['score']:.4f}"
    return [
        where,
        f"{record['subject'] or '(no subject)'}, from {_short(record['sender'] or 'nobody', 100)}",
        f"{record['verdict']}, {score} (below {cutoffs['ham']:.4f} ham, from {cutoffs['spam']:.4f} on spam)."
        f" {record['why']}",
    ]


def _model(record: Record) -> list[str]:
    parent = f", retrained from {record['model_parent']}" if record["model_parent"] else ""
    made = f"Model {record['model']} of {record['model_created']}{parent}"
    if record["score"] is None:
        return ["", f"{made}."]
    said = [(f"{word['text']}{_times(word)}", word["log_odds"]) for word in record["words"]]
    odds = f"{record['model_log_odds']:+.2f}"
    return [
        "", f"{made}: log-odds of spam {odds} (0 is even; each +1 multiplies the odds by 2.7).",
        *_both(said, "word", ("the text as a whole: how its words act together", record["rest"])),
    ]


def _times(word: Record) -> str:
    return f" ({word['times']} times)" if word["times"] > 1 else ""


def _personal(record: Record) -> list[str]:
    if not record["personal_log_odds"]:
        return ["", "None of your lessons bears on it."] if record["lessons_learned"] else []
    said = [(_placed(share), share["log_odds"]) for share in record["personal_words"]]
    model, personal = record["model_log_odds"], record["personal_log_odds"]
    odds = f"{model:+.2f} {personal:+.2f} = {model + personal:+.2f}"
    count = record["lessons_learned"]
    score = "which is the score" if record["checked"] else "which is not the score"
    return [
        "", f"Your {many(count, 'lesson', 'adds', 'add')} {personal:+z.2f}.",
        *_both(said, "part", ("everything else in it", record["personal_rest"])),
        f"Together {odds}, {score}.",
    ]


def _placed(share: Record) -> str:
    return share["text"] if share["place"] in (None, "text") else f"{share['place']}: {share['text']}"


def _both(said: Sequence[tuple[str, float]], what: str, rest: tuple[str, float]) -> list[str]:
    """What pushes to spam, what to ham, and what is left; the numbers sum to the whole but for their last digits."""
    told, others = [], list(said)
    for way, sign in (("spam", 1), ("ham", -1)):
        pushing = [one for one in said if sign * one[1] >= LEAST][:SHOWN]
        others = [one for one in others if one not in pushing]
        if pushing:
            told += [f"  towards {way}:", *(f"    {odds:+z.2f}  {text}" for text, odds in pushing)]
    left = [(many(len(others), f"other {what}"), math.fsum(odds for _, odds in others))] if others else []
    return [*told, "  beyond these:", *(f"    {odds:+z.2f}  {text}" for text, odds in [*left, rest])]


def _lessons(record: Record) -> list[str]:
    if not record["lessons"]:
        return []
    told = ["", "Lessons most like it:"]
    for one in record["lessons"]:
        who, where = _short(one["sender"] or "nobody"), _short(one["folder"] or "-")
        how = f"{SOURCES[one['source']]}; {one['alike']:.0%} alike"
        told.append(f"  {one['label']}, {_clock(one['at'])}, from {who}, in {where} ({how})")
    return told


def _journal(record: Record) -> list[str]:
    journal = record["journal"]
    if not journal:
        return []
    told = ["", "On record:"]
    if row := journal["judged"]:
        score = "no score" if row["score"] is None else f"score {row['score']:.4f}"
        told.append(f"  {_clock(row['at'])}: judged {row['verdict']} ({score}, by {row['decided_by']},"
                    f" {row['model']}) in {row['folder']}")
    for act in journal["acts"]:
        what = {"move": "moved to", "keyword": "marked with", "unmark": "taken off:"}[act["act"]]
        state = {"done": "", "open": " (not known yet whether it was done)", "failed": " (failed)"}[act["state"]]
        told.append(f"  {_clock(act['at'])}: {what} {act['target']}{state}{'; ' if act['why'] else ''}{act['why']}")
    if journal["word"]:
        said = journal["said"]
        when = f"{_clock(said['at'])}: " if said else ""
        how = f", {SOURCES[said['by']]} in {said['folder']}" if said else ""
        told.append(f"  {when}your word: {journal['word']}{how}")
    return told


def _notes(record: Record) -> list[str]:
    return ["", *(f"Note: {note}" for note in record["notes"])] if record["notes"] else []


def _clock(at: str | None) -> str:
    return clock(datetime.fromisoformat(at)) if at else "-"


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
