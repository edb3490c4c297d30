"""What the commands print: one record for each thing, with the keys and their order that `--json` promises.

Other programs read these: a key may be added at the end, and is never renamed or taken away.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mailtagger.count import many
from mailtagger.report import Column, plain

if TYPE_CHECKING:
    from mailtagger.config import Account
    from mailtagger.decide import Policy
    from mailtagger.files import Source
    from mailtagger.harvest import Harvest
    from mailtagger.journal import Event, Journal
    from mailtagger.lessons import Retraining
    from mailtagger.pipeline import Outcome
    from mailtagger.retrain import Plan
    from mailtagger.score import Scorer
    from mailtagger.starting import Letters

Record = dict[str, Any]

SCORE = (Column("score", "score", 6), Column("verdict", "verdict", 7), Column("path", "path", 0))
SCAN = (
    Column("uid", "UID", 6), Column("score", "score", 6), Column("verdict", "verdict", 7),
    Column("action", "action", 10), Column("subject", "subject", 0),
)
HISTORY = (
    Column("at", "at", 19), Column("account", "account", 10), Column("folder", "folder", 12),
    Column("uid", "UID", 6), Column("score", "score", 6), Column("verdict", "verdict", 7),
    Column("action", "action", 7), Column("done", "done", 4), Column("message_id", "message", 0),
)
MODELS = (
    Column("id", "id", 24), Column("in_use", "in use", 6), Column("created", "created", 20), Column("path", "path", 0),
)
LESSONS = (Column("label", "label", 6), Column("source", "taught by", 10), Column("lessons", "lessons", 7))
LEARNED = (
    Column("what", "from", 24), Column("label", "as", 14), Column("learned", "learned", 7),
    Column("known", "known", 7), Column("skipped", "skipped", 0),
)
RETRAINED = (
    Column("asked", "asked", 20), Column("mails", "mails", 6), Column("good_called_spam", "good called spam", 17),
    Column("spam_called_ham", "spam called ham", 16), Column("unsure", "unsure", 12),
    Column("caught", "spam called spam", 16),
)
VERIFIED = (Column("id", "id", 24), Column("fine", "fine", 4), Column("problem", "", 0))

ONE_SIDED = 100  # lessons of good mail and none of spam, from which on that is said
SHOWN = 10  # messages set aside that `status` names to a person
SCANNED = (
    "account", "folder", "uid", "message_id", "score", "verdict", "decided_by", "model", "action", "done", "notes",
)


def scored(source: "Source", scorer: "Scorer", policy: "Policy") -> Record:
    """One object of `score --json`; one with `error` where the file cannot be read."""
    from mailtagger.judge import opinion
    from mailtagger.parse import parse

    began = time.perf_counter()
    record: Record = {
        "path": source.path, "message_id": None, "score": None, "verdict": None, "decided_by": None,
        "model": scorer.model, "ms": None, "notes": [],
    }
    if source.error:
        return record | {"error": source.error}
    mail = parse(source.raw)
    decision = opinion(source.raw, mail, scorer, policy).decision
    record |= {key: getattr(decision, key) for key in ("score", "verdict", "decided_by", "notes")}
    return record | {"message_id": mail.message_id, "ms": round(1000 * (time.perf_counter() - began), 1)}


def scored_for_a_person(record: Record) -> Record:
    """The same for SCORE: what is to be said about a message stands behind its path."""
    notes = [record["error"]] if "error" in record else record["notes"]
    return record | {"path": "; ".join([record["path"], *notes])}


def scanned(outcome: "Outcome") -> Record:
    """One object of `scan --json`."""
    return {key: getattr(outcome, key) for key in SCANNED}


def scanned_for_a_person(outcome: "Outcome", apply: bool) -> Record:
    """The same for SCAN: what was done, or would be, and the subject where it was read."""
    would = "" if apply else "would "
    actions = {"none": "-", "keyword": f"{would}mark", "move": f"{would}move"}
    subject = "; ".join([outcome.subject or outcome.message_id or "(no subject)", *outcome.notes])
    return scanned(outcome) | {"action": actions[outcome.action], "subject": subject}


def summary(counts: Mapping[str, int], apply: bool) -> str:
    """The last line of `scan` for a person."""
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("spam", "unsure", "ham"))
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    unchanged = "" if apply else " Nothing was changed; --apply acts."
    return f"{many(counts['seen'], 'message')}: {verdicts}{failed}.{unchanged}"


def event(judged_and_done: "Event") -> Record:
    """One object of `history --json`."""
    judged, intent = judged_and_done.judged, judged_and_done.intent
    return {
        "at": judged.at.isoformat(timespec="milliseconds"),
        **{key: getattr(judged, key) for key in ("account", "folder", "uid", "message_id", "score", "verdict")},
        "decided_by": judged.decided_by,
        "model": judged.model,
        "action": intent.act if intent else "none",
        "done": intent.state == "done" if intent else True,
        "notes": [*judged.notes, *([intent.why] if intent and intent.why else [])],
    }


def account_status(journal: "Journal | None", account: "Account") -> Record:
    """One account in `status --json`."""
    from mailtagger import figures

    record: Record = {
        "name": account.name, "mode": account.mode, "counts": {}, "folders": [], "notes": [], "figures": {},
        "set_aside": [],
    }
    if journal:
        record["counts"] = asdict(journal.counts(account.name))
        for row in journal.folders(account.name):
            record["folders"].append({"folder": row.name, "uidnext": row.uidnext, "checked_at": row.checked_at})
        for note in journal.notes(account.name):
            record["notes"].append({"folder": note.folder, "kind": note.kind, "text": note.text, "at": note.at})
        for one in journal.set_aside(account.name):
            record["set_aside"].append({"folder": one.folder, "uid": one.uid, "why": one.notes[-1], "at": one.at})
    record["figures"] = figures.figures(figures.count(journal, account.name) if journal else figures.Tally())
    return record


def status_lines(record: Record) -> list[str]:
    """`status` for a person."""
    from mailtagger import figures

    runs = f"running (process {record['running']})" if record["running"] else "not running"
    lines = [
        f"mailtagger {record['version']}, {runs}; state in {record['state_dir']}",
        f"model: {record['model'].get('id') or record['model']['problem']}",
        *figures.retraining_sentences(record["retraining"]),
    ]
    for account in record["accounts"]:
        said = figures.sentences(account["figures"]) or ["nothing judged yet"]
        lines.append(f"{account['name']} ({account['mode']}): {said[0]}")
        lines += [f"  {sentence}" for sentence in said[1:]]
        waiting = {"failed": ("failed", "failed"), "open": ("waits", "wait")}
        lines += [f"  {many(account['counts'][key], 'act', *verbs)}" for key, verbs in waiting.items()
                  if account["counts"].get(key)]
        lines += [f"  {folder['folder']}: looked at {clock(folder['checked_at'])}" for folder in account["folders"]]
        lines += [f"  ! {note['folder']} {note['text']} (since {clock(note['at'])})" for note in account["notes"]]
        lines += _set_aside(account)
    return [plain(line) for line in lines]


def _set_aside(account: Record) -> list[str]:
    aside = account["set_aside"]
    lines = [f"  ! {one['folder']} UID {one['uid']} is set aside: {one['why']} (since {clock(one['at'])})"
             for one in aside[:SHOWN]]
    if more := len(aside) - len(lines):
        lines.append(f"  ! and {more} more")
    if lines:
        lines.append("    what is set aside stays where it is, and waits for another model")
    return lines


def clock(at: datetime) -> str:
    """A time as a person's clock shows it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def lessons(plan: "Plan") -> list[Record]:
    """One object of `retrain --dry-run --json` for each label and source."""
    counts = Counter((lesson.label, lesson.source) for lesson in plan.lessons)
    return [{"label": label, "source": source, "lessons": n} for (label, source), n in sorted(counts.items())]


def planned(plan: "Plan") -> Record:
    """The last line of `retrain --json` where nothing was trained."""
    return {
        "model": plan.current.id, "lessons": len(plan.lessons), "news": plan.news, "learned": len(plan.split.learned),
        "held_out": len(plan.split.held_out), "without_text": plan.without_text, "promoted": False,
    }


def planned_for_a_person(plan: "Plan", dry_run: bool) -> str:
    """The same for a person."""
    stays = f"{plan.current.id} stays the current model."
    old = f" Of {plan.without_text} more the text is gone (keep_text)." if plan.without_text else ""
    if not plan.lessons:
        return f"There are no corrections to learn from.{old} {stays}"
    if not dry_run:
        return f"No lesson has come or gone since the last retraining. {stays}"
    return (f"{many(len(plan.split.learned), 'lesson')} would be learned, {plan.news} for the first time, and "
            f"{len(plan.split.held_out)} held out to judge by.{old} Nothing was changed.")


def learned(place: "Harvest | Letters", account: str) -> Record:
    """One object of `learn --json`."""
    return {
        "account": account, "what": place.place, "kind": place.kind, "only": place.only or None, "label": place.label,
        "learned": place.tally.learned, "known": place.tally.known, "skipped": dict(place.tally.skipped),
    }


def learned_for_a_person(record: Record) -> Record:
    """The same for LEARNED."""
    skipped = [f"{number} {why}" for why, number in record["skipped"].items()]
    only = f" ({record['only']})" if record["only"] else ""
    return record | {"what": f"{record['kind']} {record['what']}{only}", "skipped": skipped or None}


def learning(rows: Sequence[Record], lessons: Mapping[str, int], stopped: bool) -> Record:
    """The last line of `learn --json`; `lessons`: how many there are now of each label."""
    taught = [row for row in rows if row["label"] != "correspondents"]
    return {
        "learned": sum(row["learned"] for row in taught), "known": sum(row["known"] for row in taught),
        "skipped": sum(sum(row["skipped"].values()) for row in taught),
        "correspondents": sum(row["learned"] for row in rows if row["label"] == "correspondents"),
        "lessons": {"ham": lessons.get("ham", 0), "spam": lessons.get("spam", 0)}, "stopped": stopped,
    }


def learning_for_a_person(record: Record) -> str:
    """The same for a person."""
    new = f", and {many(record['correspondents'], 'correspondent')}" if record["correspondents"] else ""
    rest = " The rest comes when the same command is given again." if record["stopped"] else ""
    ham, spam = record["lessons"]["ham"], record["lessons"]["spam"]
    if ham >= ONE_SIDED and not spam:
        rest += " Only good mail was taught: less spam will be caught, until some of it is (`learn --spam Junk`)."
    return (f"{many(record['learned'], 'message')} learned{new}; {record['known']} known before, "
            f"{record['skipped']} skipped. The lessons now: {ham} ham, {spam} spam.{rest}")


def retrained(done: "Retraining") -> list[Record]:
    """One object of `retrain --json` for each set of mails: [before, after] of each count."""
    keys = ("good_called_spam", "spam_called_ham", "unsure", "caught", "kept", "wrong_at_half")
    return [
        {"asked": name, "mails": both["new"]["mails"], **{key: [both["old"][key], both["new"][key]] for key in keys}}
        for name, both in done.figures["sets"].items()
    ]


def retrained_for_a_person(record: Record) -> Record:
    """The same for RETRAINED."""
    names = {"base": "the base's hold-out", "held_out": "your mail held out", "learned": "your lessons"}
    both = {key: f"{value[0]} → {value[1]}" for key, value in record.items() if isinstance(value, list)}
    return record | both | {"asked": names[record["asked"]]}


def promotion(done: "Retraining") -> Record:
    """The last line of `retrain --json`."""
    return {
        "model": done.candidate if done.promoted else done.figures["compared"], "candidate": done.candidate,
        "parent": done.parent, "lessons": done.figures["lessons"], "held_out": done.figures["held_out"],
        "promoted": done.promoted, "why": done.why,
    }


def promotion_for_a_person(done: "Retraining") -> str:
    """The same for a person."""
    if done.promoted:
        return (f"{done.candidate} is the current model now: {done.why}. `mailtagger models rollback` goes back to "
                f"{done.figures['compared']}.")
    return f"{done.figures['compared']} stays the current model: {done.why}. {done.candidate} is kept for inspection."
