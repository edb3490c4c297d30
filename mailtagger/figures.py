"""How well it has gone with one account's mail, as far as its user has said: counts, rates and 95 % intervals.

    good mail called spam   of all that was called spam, so much the user has called good
    spam called ham         of all that was called ham, so much the user has called spam
    doubtful                of all that was called unsure, so much he has called good, and so much spam

Whoever corrects nothing has no errors here: the figures are about what was said, and say so. Each message counts once,
under what was said of it before its user had said anything.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailtagger.count import Count, many
from mailtagger.journal import Journal
from mailtagger.lessons import Retraining
from mailtagger.restore import UNDONE, WAS

Record = dict[str, Any]


@dataclass(frozen=True)
class Tally:
    """What was counted."""

    called: Mapping[str, int] = field(default_factory=dict)  # messages by verdict
    said: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (verdict, the user's label) → messages
    lessons: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (label, source) → lessons
    moved: int = 0
    undone: int = 0
    since: datetime | None = None


def count(journal: Journal, account: str) -> Tally:
    """The account's messages, and what its user has said of them."""
    # What was undone where it lies has no line but the user's: its note tells what we had called it.
    called_before = ", ".join(f"('{json.dumps([note])}', '{verdict}')" for verdict, note in WAS.items())
    # The bare column beside MAX is of the row that has the maximum (sqlite.org/lang_select.html).
    ours = (
        f"WITH undone (notes, was) AS (VALUES {called_before}) SELECT COALESCE(was, verdict) AS verdict, MAX(at)"
        " FROM messages AS m LEFT JOIN undone USING (notes)"
        " WHERE account = ?1 AND (decided_by <> 'user' OR was IS NOT NULL) AND NOT EXISTS"
        " (SELECT 1 FROM lessons AS l WHERE l.account = ?1 AND l.ident = m.ident AND l.message_id = m.message_id"
        " AND l.verdict IS NOT NULL) GROUP BY ident, message_id"
    )
    before = "SELECT verdict, at FROM lessons WHERE account = ?1 AND verdict IS NOT NULL"
    called = journal.rows(
        _pair, f"SELECT verdict AS a, COUNT(*) AS n FROM (SELECT * FROM ({ours}) UNION ALL {before}) GROUP BY verdict",
        account,
    )
    said = journal.rows(_triple, "SELECT verdict AS a, label AS b, COUNT(*) AS n FROM lessons WHERE account = ?"
                                 " AND verdict IS NOT NULL GROUP BY verdict, label", account)
    lessons = journal.rows(_triple, "SELECT label AS a, source AS b, COUNT(*) AS n FROM lessons WHERE account = ?"
                                    " GROUP BY label, source", account)
    undone = journal.rows(
        _number, "SELECT COUNT(DISTINCT folder || char(0) || uidvalidity || char(0) || uid) AS n FROM intents"
        " WHERE account = ? AND substr(why, 1, ?) = ?", account, len(UNDONE), UNDONE,
    )
    since = journal.rows(_time, "SELECT MIN(at) AS at FROM messages WHERE account = ?", account)
    return Tally(dict(called), dict(said), dict(lessons), journal.counts(account).moved, undone[0], since[0])


def figures(tally: Tally) -> Record:
    """The figures as `status --json` has them; a rate and its interval are null where there was nothing to err on."""
    called = {verdict: tally.called.get(verdict, 0) for verdict in ("ham", "unsure", "spam")}
    said = {key: tally.said.get(key, 0) for key in _CORRECTIONS}
    by = {label: sum(n for (of, _), n in tally.lessons.items() if of == label) for label in ("ham", "spam")}
    sources = sorted({source for _, source in tally.lessons})
    return {
        "since": tally.since.isoformat(timespec="seconds") if tally.since else None,
        "judged": sum(called.values()),
        "called": called,
        "moved": tally.moved,
        "undone": tally.undone,
        "corrected": sum(said.values()),
        "good_called_spam": _rate(Count(said["spam", "ham"], called["spam"])),
        "spam_called_ham": _rate(Count(said["ham", "spam"], called["ham"])),
        "unsure_good": _rate(Count(said["unsure", "ham"], called["unsure"])),
        "unsure_spam": _rate(Count(said["unsure", "spam"], called["unsure"])),
        "lessons": {
            "total": sum(by.values()), **by,
            "by_source": {
                source: {label: tally.lessons.get((label, source), 0) for label in ("ham", "spam")}
                for source in sources
            },
        },
    }


_CORRECTIONS = (("spam", "ham"), ("ham", "spam"), ("unsure", "ham"), ("unsure", "spam"))


def sentences(record: Record) -> list[str]:
    """The same for a person."""
    if not record["judged"]:
        lines = []
    else:
        called = record["called"]
        since = f"since {record['since'][:10]} " if record["since"] else ""
        undone = f", {record['undone']} taken back by undo" if record["undone"] else ""
        lines = [
            f"{since}{many(record['judged'], 'message')} judged: {called['spam']} called spam,"
            f" {called['unsure']} unsure, {called['ham']} ham; {record['moved']} moved{undone}",
        ]
        if record["corrected"]:
            lines += [
                f"you have corrected {record['corrected']}:",
                f"  good mail called spam: {_said(record['good_called_spam'], 'spam')}",
                f"  spam called ham: {_said(record['spam_called_ham'], 'ham')}",
                f"  of {record['unsure_good']['of']} called unsure you called {record['unsure_good']['count']} good and"
                f" {record['unsure_spam']['count']} spam",
            ]
        else:
            lines.append("you have corrected none; how often it is wrong can only be told from what you correct")
    lessons = record["lessons"]
    if lessons["total"]:
        sources = "; ".join(
            f"{both['ham'] + both['spam']} {_SOURCES.get(source, source)}"
            for source, both in lessons["by_source"].items()
        )
        lines.append(f"lessons: {lessons['ham']} of good mail, {lessons['spam']} of spam ({sources})")
    return lines


_SOURCES = {"moved": "by moving", "keyword": "by marking", "learn": "by `learn`"}


def retraining(past: Sequence[Retraining], model: str | None) -> Record:
    """The last retraining, and what the gate found of the one that made the model in use: [before, after]."""
    made = next((one for one in reversed(past) if one.promoted and one.candidate == model), None)
    return {
        "last": _retraining(past[-1]) if past else None,
        "gate": {name: _both(sets) for name, sets in made.figures.get("sets", {}).items()} if made else None,
        "made": _retraining(made) if made else None,
    }


def retraining_sentences(record: Record) -> list[str]:
    """The same for a person."""
    last, made = record["last"], record["made"]
    if not last:
        return []
    lines = []
    if made:
        lines.append(f"  made by retrain on {made['at'][:10]} from {made['parent']}: {made['why']}")
        for name, both in record["gate"].items():
            (good, good_now), (spam, spam_now) = both["good_called_spam"], both["spam_called_ham"]
            lines.append(f"    of {many(both['mails'], 'mail')} of {_SETS.get(name, name)}: good mail called spam"
                         f" {good} → {good_now}, spam called ham {spam} → {spam_now}")
    if last != made:
        lines.append(f"  last retrain on {last['at'][:10]}: {last['candidate']} was"
                     f" {'promoted' if last['promoted'] else 'not promoted'}: {last['why']}")
    return lines


_SETS = {"base": "the base's hold-out", "held_out": "yours held out", "learned": "your lessons"}


def _retraining(one: Retraining) -> Record:
    return {
        "at": one.at.isoformat(timespec="seconds") if one.at else "", "parent": one.parent, "candidate": one.candidate,
        "promoted": one.promoted, "why": one.why, "lessons": one.figures.get("lessons"),
        "held_out": one.figures.get("held_out"),
    }


def _both(sets: Record) -> Record:
    old, new = sets["old"], sets["new"]
    return {"mails": new["mails"]} | {key: [old[key], new[key]] for key in new if key != "mails"}


def _said(rate: Record, called: str) -> str:
    if not rate["of"]:
        return f"none was called {called}"
    return (f"{rate['count']} of {rate['of']} that {'was' if rate['of'] == 1 else 'were'} called {called},"
            f" {rate['rate']:.2%}"
            f" (95 % interval {rate['low']:.2%} to {rate['high']:.2%})")


def _rate(count: Count) -> Record:
    low, high = count.wilson() if count.of else (None, None)
    return {"count": count.hits, "of": count.of, "rate": count.rate if count.of else None, "low": low, "high": high}


def _pair(a: str, n: int) -> tuple[str, int]:
    return a, n


def _triple(a: str, b: str, n: int) -> tuple[tuple[str, str], int]:
    return (a, b), n


def _number(n: int) -> int:
    return n


def _time(at: datetime | None) -> datetime | None:
    return at
