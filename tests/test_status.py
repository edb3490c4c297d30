"""status: figures that are true, with the words that say of what they are; and `undo` and `history` as commands."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mailtagger import figures, forget, past, records
from mailtagger.count import Count
from mailtagger.decide import Decision
from mailtagger.dovecot import Dovecot
from mailtagger.figures import Tally
from mailtagger.imap import Address
from mailtagger.journal import FILE, Intent, Journal
from mailtagger.lessons import Lesson, Lessons, Retraining
from tests.test_cli import (  # noqa: F401
    HAM,
    SPAM,
    Mailtagger,
    account,
    configured,
    folder,
    mailtagger,
    message,
    model,
    nothing_configured,
)
from tests.tiny_model import SPAM_TEXT

TALLY = Tally(
    called={"ham": 900, "unsure": 40, "spam": 60},
    said={("spam", "ham"): 3, ("ham", "spam"): 9, ("unsure", "ham"): 5, ("unsure", "spam"): 6, ("spam", "spam"): 20},
    lessons={("ham", "moved"): 8, ("spam", "moved"): 15, ("spam", "learn"): 20},
    moved=60, undone=2, since=datetime(2026, 11, 1, tzinfo=UTC),
)


def judged(journal: Journal, uid: int, verdict: Any, by: Any = "model", ident: str = "", folder: str = "INBOX") -> None:
    decision = Decision(verdict, by, 0.5)
    journal.record("home", Address(folder, 1, uid), ident or f"i{uid}", f"{uid}@test", 0.5, decision, [], "m")


def taught(journal: Journal, uid: int, label: Any, verdict: Any = None, source: Any = "moved") -> None:
    Lessons(journal).learn(Lesson("home", f"i{uid}", f"{uid}@test", label, source, "a@b", "Junk", 0.0,
                                  np.array([1, 2], np.uint32), verdict=verdict))


# The figures


def test_each_error_is_counted_against_what_was_called_so() -> None:
    """Good mail called spam out of all called spam, spam called ham out of all called ham; agreement is no error."""
    record = figures.figures(TALLY)
    assert (record["judged"], record["corrected"], record["moved"], record["undone"]) == (1000, 23, 60, 2)
    assert (record["good_called_spam"]["count"], record["good_called_spam"]["of"]) == (3, 60)
    assert (record["spam_called_ham"]["count"], record["spam_called_ham"]["of"]) == (9, 900)
    assert (record["unsure_good"]["count"], record["unsure_spam"]["count"], record["unsure_spam"]["of"]) == (5, 6, 40)
    assert record["lessons"] == {
        "total": 43, "ham": 8, "spam": 35,
        "by_source": {"learn": {"ham": 0, "spam": 20}, "moved": {"ham": 8, "spam": 15}},
    }
    assert json.loads(json.dumps(record)) == record, "no NaN, which is not JSON"


def test_the_interval_is_wilsons() -> None:
    """3 of 60, by the formula's published values: 1.7 % to 13.7 %."""
    rate = figures.figures(TALLY)["good_called_spam"]
    assert (rate["rate"], round(rate["low"], 4), round(rate["high"], 4)) == (0.05, 0.0171, 0.1370)
    assert Count(3, 60).wilson() == (rate["low"], rate["high"])


def test_none_of_none_has_no_rate() -> None:
    """Not a perfect one either."""
    record = figures.figures(Tally())
    assert record["good_called_spam"] == {"count": 0, "of": 0, "rate": None, "low": None, "high": None}
    assert figures.sentences(record) == []


def test_the_sentences_say_of_what_they_are() -> None:
    """Both kinds of error with their intervals and what they are out of; without corrections, that nothing is known."""
    said = "\n".join(figures.sentences(figures.figures(TALLY)))
    assert "since 2026-11-01 1000 messages judged: 60 called spam, 40 unsure, 900 ham; 60 moved, 2 taken back" in said
    assert "good mail called spam: 3 of 60 that were called spam, 5.00% (95 % interval 1.71% to 13.70%)" in said
    assert "spam called ham: 9 of 900 that were called ham, 1.00%" in said
    assert "of 40 called unsure you called 5 good and 6 spam" in said
    assert "lessons: 8 of good mail, 35 of spam (20 by `learn`; 23 by moving)" in said
    said = "\n".join(figures.sentences(figures.figures(replace(TALLY, said={}))))
    assert "you have corrected none" in said and "good mail called spam" not in said


def test_one_is_told_in_the_singular() -> None:
    """In every sentence that counts something."""
    one = Tally({"spam": 1, "unsure": 1}, {("spam", "ham"): 1}, {("ham", "moved"): 1}, 1)
    told = figures.sentences(figures.figures(one))
    assert "good mail called spam: 1 of 1 that was called spam" in told[2] and "none was called ham" in told[3]
    assert "2 messages judged: 1 called spam" in told[0]
    account = {"name": "home", "mode": "apply", "figures": figures.figures(Tally({"ham": 1})), "folders": [],
               "notes": [], "counts": {"failed": 1, "open": 1}, "set_aside": []}
    status = {"version": "1", "running": 1, "state_dir": "x", "model": {"id": "m"}, "accounts": [account],
              "retraining": figures.retraining([], None)}
    said = "\n".join(records.status_lines(status))
    assert "1 message judged:" in said and "1 act failed" in said and "1 act waits" in said
    lesson = Lesson("home", "i", "1@test", "spam", "moved", "a@b", "Junk", 0.0, np.array([1], np.uint32))
    assert forget.sentence(forget.Meant((lesson,)), True) == "1 lesson (0 of good mail, 1 of spam) is forgotten."
    both = forget.sentence(forget.Meant((lesson,), (("home", "a@b"),)), True)
    assert both == "1 lesson (0 of good mail, 1 of spam) and 1 correspondent are forgotten."
    learned = {"learned": 1, "known": 0, "skipped": 0, "correspondents": 1, "lessons": {"ham": 1, "spam": 0}}
    said = records.learning_for_a_person(learned | {"stopped": False})
    assert said.startswith("1 message learned, and 1 correspondent;")
    assert past.undone_summary({"undone": 1, "failed": 0}, False) == "1 message as before."
    seen = {"seen": 1, "spam": 0, "unsure": 0, "ham": 1, "failed": 0}
    assert records.summary(seen, True) == "1 message: 0 spam, 0 unsure, 1 ham."


# What is counted


def test_each_message_counts_once_under_what_was_said_of_it(journal: Journal) -> None:
    """Not again after a rescue, a correction in place or a new numbering, nor lost when its line was pruned."""
    for uid, verdict in enumerate(["ham", "ham", "spam", "spam", "unsure"], start=1):
        judged(journal, uid, verdict)
    judged(journal, 3, "ham", "user", folder="Archive")  # the user took it out of Junk
    taught(journal, 3, "ham", "spam")
    judged(journal, 1, "spam", "user")  # marked where it lies: the line says now what the user said
    taught(journal, 1, "spam", "ham")
    journal.record("home", Address("INBOX", 2, 1002), "i2", "2@test", 0.5, Decision("ham", "model", 0.5), [], "m")
    taught(journal, 90, "ham", "unsure")  # its line is pruned by now
    taught(journal, 91, "spam", None, "learn")  # never judged
    tally = figures.count(journal, "home")
    assert tally.called == {"ham": 2, "spam": 2, "unsure": 2}
    assert tally.said == {("spam", "ham"): 1, ("ham", "spam"): 1, ("unsure", "ham"): 1}
    assert tally.lessons == {("ham", "moved"): 2, ("spam", "moved"): 1, ("spam", "learn"): 1}
    assert figures.count(journal, "work") == Tally()


def test_since_is_when_the_first_message_was_judged(journal: Journal) -> None:
    """Of this account."""
    judged(journal, 1, "ham")
    judged(journal, 2, "ham")
    row = journal.judged("home", Address("INBOX", 1, 1))
    assert row and figures.count(journal, "home").since == row.at


def test_what_undo_took_back_is_counted_in_messages(journal: Journal) -> None:
    """Two acts on one message are one."""
    about = Intent("home", "INBOX", 1, 1, "i1", "1@test", "keyword", "MailtaggerSpam")
    ids = journal.open_intents([about, replace(about, act="move", target="Junk")])
    journal.close_intents(ids, "done", why="undone by undo-1")
    tally = figures.count(journal, "home")
    assert (tally.moved, tally.undone) == (1, 1)


# Retraining

SETS = {
    "base": {"old": {"mails": 848, "good_called_spam": 4, "spam_called_ham": 9},
             "new": {"mails": 848, "good_called_spam": 3, "spam_called_ham": 9}},
}


def test_the_gate_is_shown_of_the_model_in_use_and_the_last_retraining_in_any_case() -> None:
    """After a promotion, a refusal: the first tells what the model in use was measured at, the second why it stayed."""
    at = datetime(2026, 11, 20, tzinfo=UTC)
    won = Retraining("base-1", "home-1", True, "errors fall from 5 to 1", {"sets": SETS, "lessons": 50}, at, 1)
    lost = Retraining("base-1", "home-2", False, "errors would not fall", {"sets": SETS}, at + timedelta(days=1), 2)
    record = figures.retraining([won, lost], "home-1")
    assert record["gate"] == {
        "base": {"mails": 848, "good_called_spam": [4, 3], "spam_called_ham": [9, 9]}}
    assert (record["last"]["candidate"], record["last"]["promoted"], record["made"]["lessons"]) == ("home-2", False, 50)
    said = "\n".join(figures.retraining_sentences(record))
    assert "made by retrain on 2026-11-20 from base-1: errors fall from 5 to 1" in said
    assert "of 848 mails of the base's hold-out: good mail called spam 4 → 3, spam called ham 9 → 9" in said
    assert "last retrain on 2026-11-21: home-2 was not promoted: errors would not fall" in said
    assert figures.retraining([won], "base-1")["gate"] is None
    assert figures.retraining_sentences(figures.retraining([], "base-1")) == []
    assert len(figures.retraining_sentences(figures.retraining([won], "home-1"))) == 2


# The commands


def test_status_shows_all_of_it(mailtagger: Mailtagger, tmp_path: Path, model: Path) -> None:  # noqa: F811
    """For a program under `figures` and `retraining`, for a person in sentences, with the folders' notes."""
    config = configured(tmp_path, model, {"name": "home", "host": "localhost", "username": "x"})
    empty = mailtagger("--config", config, "status", "--json").records[0]
    assert (empty["accounts"][0]["figures"]["judged"], empty["retraining"]["last"]) == (0, None)
    assert "nothing judged yet" in mailtagger("--config", config, "status").out
    with Journal(tmp_path / "state" / FILE) as journal:
        judged(journal, 1, "spam")
        taught(journal, 1, "ham", "spam")
        journal.note("home", "INBOX", "The server keeps no keywords here.", "keywords")
        Lessons(journal).retrained(Retraining(model.name, "home-1", False, "errors would not fall", {"sets": SETS}))
    record = mailtagger("--config", config, "status", "--json").records[0]
    assert list(record)[:5] == ["version", "running", "state_dir", "model", "accounts"]
    assert list(record["accounts"][0]) == ["name", "mode", "counts", "folders", "notes", "figures", "set_aside"]
    assert record["accounts"][0]["figures"]["good_called_spam"]["count"] == 1
    assert record["retraining"]["last"]["why"] == "errors would not fall"
    said = mailtagger("--config", config, "status").out
    assert "good mail called spam: 1 of 1 that was called spam" in said
    assert "home-1 was not promoted" in said and "The server keeps no keywords here." in said


def test_undo_as_a_command(mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot) -> None:  # noqa: F811
    """Shown first, done, named in the history with its batch, and with status 1 where a message could not."""
    for raw in SPAM, HAM, message(SPAM_TEXT, "other"):
        dovecot.deliver("alice", raw)
    config = configured(tmp_path, model, account(dovecot, mode="apply"))
    assert mailtagger("--config", config, "undo").out == "There is nothing of mailtagger's to be undone.\n"
    assert mailtagger("--config", config, "scan", "--folder", "INBOX", "--apply").status == 0
    shown = mailtagger("--config", config, "undo", "--dry-run")
    assert (shown.status, set(folder(dovecot, "Junk"))) == (0, {"spam", "other"})
    assert "would move to INBOX" in shown.out and "2 messages would be as before. Nothing was changed." in shown.out
    with dovecot.client("alice") as client:
        client.select_folder("Junk")
        client.move(client.search(["HEADER", "Message-ID", "other"]), "Archive")
    [line] = [one for one in mailtagger("--config", config, "history", "--json").records
              if one["message_id"] == "spam@example.org"]
    done = mailtagger("--config", config, "undo", "--batch", line["batch"], "--json")
    *rows, last = done.records
    assert (done.status, last) == (1, {"summary": {"undone": 1, "failed": 1}})
    by_id = {row["message_id"]: row for row in rows}
    assert {key: by_id["spam@example.org"][key] for key in ("home", "folder", "action", "done", "why")} == {
        "home": "INBOX", "folder": "INBOX", "action": "move", "done": True, "why": None}
    assert by_id["other@example.org"]["why"] == "the user moved it to Archive since"
    assert (folder(dovecot, "INBOX"), folder(dovecot, "Archive")) == ({"ham": set(), "spam": set()}, {"other": set()})
    assert mailtagger("--config", config, "scan", "--folder", "INBOX", "--apply").status == 0
    assert folder(dovecot, "INBOX") == {"ham": set(), "spam": set()}
    notes = [one["notes"] for one in mailtagger("--config", config, "history", "--json").records]
    assert any(note.startswith("undone by undo-") for found in notes for note in found)
    assert "1 taken back by undo" in mailtagger("--config", config, "status").out


@pytest.mark.parametrize("arguments", [
    ["--batch", "undo-1"], ["--folder", "INBOX"], ["--uid", "3"], ["--batch", "1", "--since", "2026-01-01"],
    ["--account", "nobody"],
])
def test_what_to_undo_must_be_clear(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, arguments: list[str]  # noqa: F811
) -> None:
    """Wrong usage ends with 2, before any server is asked."""
    config = configured(tmp_path, model, {"name": "home", "host": "localhost", "username": "x"})
    assert mailtagger("--config", config, "undo", *arguments).status == 2
