"""forget: what was taught is as if it had never been, in the scores and on the disk; history tells what was taught."""

import json
import random
import sqlite3
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mailtagger import forget, past
from mailtagger.decide import Decision
from mailtagger.imap import Address
from mailtagger.journal import FILE, Journal
from mailtagger.lessons import Lesson, Lessons
from mailtagger.parse import identify, parse
from mailtagger.personal import Personal, terms
from tests.flow import raw
from tests.test_cli import Mailtagger, configured, mailtagger, model, nothing_configured  # noqa: F401

CANARY = "canaryword"


def taught(journal: Journal, number: int, **changes: Any) -> Lesson:
    """A lesson on mail of its own, as it stands in the journal."""
    mail = raw(f"offer {number}", body=f"{CANARY}{number} and more words", message_id=f"{number}@test")
    given: dict[str, Any] = {
        "account": "home", "ident": identify(mail), "message_id": f"{number}@test", "label": "spam", "source": "moved",
        "sender": f"shop{number}@example.org", "folder": "Junk", "base": -1.0, "terms": terms(mail, parse(mail)),
        "text": f"{CANARY}{number} and more words",
    }
    Lessons(journal).learn(Lesson(**given | changes))
    return Lessons(journal).all()[-1]


def forgotten(journal: Journal, **choice: Any) -> int:
    meant = forget.choose(journal, ["home", "work"], **choice)
    assert forget.forget(journal, meant)
    return len(meant.lessons)


def weights(layer: Personal) -> bytes:
    return layer.state()


# What is meant


def test_a_sender_is_an_address_or_a_domain(journal: Journal) -> None:
    """Without case, and neither a longer domain nor one that only ends so is meant; his place among friends goes."""
    for number, sender in enumerate(["A@Example.org", "b@example.org", "c@badexample.org", "d@sub.example.org", ""]):
        taught(journal, number, sender=sender)
    for address in "a@example.org", "e@example.org", "a@other.org":
        journal.write("INSERT INTO correspondents VALUES ('home', ?, 'sent', 0)", address)
    meant = forget.choose(journal, ["home"], sender="a@EXAMPLE.org")
    assert ([one.message_id for one in meant.lessons], meant.correspondents) == (
        ["0@test"], (("home", "a@example.org"),))
    meant = forget.choose(journal, ["home"], sender="@example.org")
    assert [one.message_id for one in meant.lessons] == ["0@test", "1@test"]
    assert forget.forget(journal, meant)
    assert [one.message_id for one in Lessons(journal).all()] == ["2@test", "3@test", "4@test"]
    assert journal.rows(dict, "SELECT address FROM correspondents") == [{"address": "a@other.org"}]


def test_one_message_a_time_or_everything(journal: Journal) -> None:
    """A Message-ID with or without brackets; of an account that is not named nothing goes."""
    now = datetime.now(UTC)
    for number in range(4):
        taught(journal, number, at=now - timedelta(days=number))
    taught(journal, 9, account="else")
    journal.write("INSERT INTO correspondents VALUES ('home', 'a@b', 'sent', 0)")
    assert forgotten(journal, message_id="<1@test>") == 1
    assert forgotten(journal, since=now - timedelta(days=2, hours=1)) == 2
    assert forgotten(journal, everything=True) == 1
    assert [one.account for one in Lessons(journal).all()] == ["else"]
    assert journal.rows(dict, "SELECT * FROM correspondents") == []
    assert forget.choose(journal, ["home"]) == forget.Meant()


# What is left


def test_fifty_wrong_lessons_go_at_once_and_leave_nothing(journal: Journal) -> None:
    """The layer is exactly the one that never heard of them, and no byte of their text is in any file."""
    for number in range(20):
        taught(journal, number, label="ham" if number % 2 else "spam")
    before = weights(Lessons(journal).personal("home"))
    files = [journal.path, *journal.path.parent.glob(f"{FILE}-*")]
    poisoned = datetime.now(UTC)
    for number in range(100, 150):
        taught(journal, number, label="ham")
    lessons = Lessons(journal)
    assert weights(lessons.personal("home")) != before
    ident = lessons.all()[-1].ident
    assert any(ident.encode() in file.read_bytes() for file in files), "the test looks where it would be"
    assert forgotten(journal, since=poisoned) == 50
    assert weights(lessons.personal("home")) == weights(Lessons(journal).personal("home")) == before
    for file in files:
        assert not file.exists() or ident.encode() not in file.read_bytes()


def test_no_text_is_left_in_the_file_or_its_log(journal: Journal) -> None:
    """A text that SQLite keeps in many pages, some of them in the write-ahead log; found before, gone after."""
    rng = np.random.default_rng(7)
    noise = "".join(map(chr, rng.integers(0x4E00, 0x9FFF, 20_000)))  # does not compress into nothing
    lesson = taught(journal, 1, text=f"{CANARY} {noise}")
    [packed] = journal.rows(lambda cleaned: bytes(cleaned), "SELECT cleaned FROM lessons")
    pieces = [packed[at : at + 32] for at in range(100, len(packed) - 100, 5000)]
    assert any(piece in file.read_bytes() for file in _files(journal) for piece in pieces)
    assert forgotten(journal, message_id=lesson.message_id) == 1
    assert not [file for file in _files(journal) for piece in pieces if piece in file.read_bytes()]


@pytest.fixture
def crowded(journal: Journal) -> Journal:
    """Many lessons and correspondents. SQLite moves rows from page to page, and leaves whole ones in the gaps."""
    rng = random.Random(4)
    with journal.transaction():
        for n in range(400):
            address = f"{n:03}-correspondent{'x' * rng.randrange(40)}@{'bad' if n % 3 else 'good'}.example"
            journal.write("INSERT INTO correspondents VALUES ('home', ?, 'sent', 0)", address)
        for n in [*range(200), *range(0, 200, 7)]:  # some are taught once more, with the opposite word
            text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=rng.randrange(20, 800)))
            label, sender = rng.choice(["ham", "spam"]), f"{n}@bad.example" if n % 3 else "a@good.example"
            taught(journal, n, label=label, sender=sender, text=text, terms=np.array([n], np.uint32),
                   ident=f"{n:064d}", message_id=f"{n:03}-of-a-newsletter@example.org")
    return journal


def written(journal: Journal) -> bytes:
    return b"".join(file.read_bytes() for file in _files(journal))


def packed(lessons: Sequence[Lesson]) -> list[bytes]:
    """The beginning of each text, as the file holds it."""
    return [zlib.compress((one.text or "").encode())[2:22] for one in lessons]


def test_what_is_forgotten_is_left_in_no_gap_of_a_page(crowded: Journal) -> None:
    """No text, ident, Message-ID or address; what was not meant is all there, with its id."""
    meant = forget.choose(crowded, ["home"], sender="@bad.example")
    assert (len(meant.lessons), len(meant.correspondents)) == (133, 266)
    gone = [word.encode() for one in meant.lessons for word in (one.ident, one.message_id)]
    gone += [*packed(meant.lessons), *(address.encode() for _, address in meant.correspondents)]
    kept = [one for one in Lessons(crowded).all() if one.sender == "a@good.example"]
    before = crowded.rows(dict, "SELECT * FROM lessons WHERE sender = 'a@good.example' ORDER BY id")
    assert forget.forget(crowded, meant)
    assert not [word for word in gone if word in written(crowded)]
    assert crowded.rows(dict, "SELECT * FROM lessons ORDER BY id") == before
    assert all(piece in written(crowded) for piece in packed(kept)), "the test looks where it would be"
    taught(crowded, 500)
    assert Lessons(crowded).all()[-1].id > max(one.id for one in meant.lessons)  # ids never return


def test_a_text_whose_time_is_over_is_left_in_no_gap_of_a_page(crowded: Journal) -> None:
    """The lessons stay, without it."""
    texts = packed(Lessons(crowded).all())
    assert all(piece in written(crowded) for piece in texts)
    assert Lessons(crowded).prune(timedelta(days=1), datetime.now(UTC) + timedelta(days=2)) == 200
    assert not [piece for piece in texts if piece in written(crowded)]
    assert len(Lessons(crowded).all()) == 200


def _files(journal: Journal) -> list[Path]:
    return [file for file in journal.path.parent.glob(f"{FILE}*") if not file.name.endswith("-shm")]


def test_while_another_process_reads_it_is_told(tmp_path: Path) -> None:
    """A reader keeps the log from being emptied: the lessons are gone, their bytes are not, and that is no success."""
    with Journal(tmp_path / FILE, wait=0.1) as journal:
        taught(journal, 1)
        reader = sqlite3.connect(journal.path, isolation_level=None)
        try:
            reader.execute("BEGIN")
            reader.execute("SELECT COUNT(*) FROM lessons").fetchone()
            assert not forget.forget(journal, forget.choose(journal, ["home"], everything=True))
        finally:
            reader.close()
        assert Lessons(journal).all() == []
        assert forget.forget(journal, forget.Meant())


def test_what_was_done_with_mail_and_where_it_was_seen_is_kept(journal: Journal) -> None:
    """Else what lies in the folders would be news, and be learned again; and what was rescued be filed again."""
    taught(journal, 1)
    journal.record("home", Address("INBOX", 1, 1), "ident", "1@test", 0.9, Decision("ham", "user", 0.9), [], "m")
    journal.write("INSERT INTO sightings VALUES ('home', 'Junk', 1, 1, '1@test', 9, '', 0, 0)")
    journal.write("INSERT INTO marks VALUES ('home', 'INBOX', 1, 1, 'spam')")
    forgotten(journal, everything=True)
    for table in "messages", "sightings", "marks":
        assert len(journal.rows(dict, f"SELECT * FROM {table}")) == 1


def test_a_model_that_has_learned_it_is_named(journal: Journal) -> None:
    """Its weights cannot forget: the sentence says what can be done."""
    for number in range(3):
        taught(journal, number)
    lessons = Lessons(journal)
    lessons.learned([one.id for one in lessons.all()[:2]], "home-1")
    meant = forget.choose(journal, ["home"], everything=True)
    assert meant.models == {"home-1": 2}
    sentence = forget.sentence(meant, True)
    assert "3 lessons (0 of good mail, 3 of spam) are forgotten" in sentence
    assert "home-1 has learned 2" in sentence and "retrain" in sentence and "models rollback" in sentence


# history


def test_history_tells_what_you_said_of_it(journal: Journal) -> None:
    """Of a judged message beside its verdict; a message that was never judged has a line of its own."""
    lesson = taught(journal, 1, label="ham", verdict="spam")
    journal.record("home", Address("INBOX", 1, 1), lesson.ident, "1@test", 0.9, Decision("spam", "model", 0.9), [], "m")
    journal.record("home", Address("INBOX", 1, 2), "other", "2@test", 0.1, Decision("ham", "model", 0.1), [], "m")
    taught(journal, 3, at=datetime.now(UTC) - timedelta(days=1), source="learn")
    plain, corrected, unjudged = past.history(journal, ["home"], 10)
    assert (plain["message_id"], plain["corrected"], plain["batch"]) == ("2@test", None, None)
    assert (corrected["verdict"], corrected["corrected"]) == ("spam", "ham")
    assert (unjudged["message_id"], unjudged["verdict"], unjudged["corrected"], unjudged["notes"]) == (
        "3@test", None, "spam", ["taught: learn"])
    assert list(plain) == list(unjudged)
    assert len(past.history(journal, ["home"], 1)) == 1
    assert past.history(journal, ["work"], 10) == []
    assert len(past.history(journal, ["home"], 10, datetime.now(UTC) - timedelta(hours=1))) == 2


def test_history_of_lessons_is_newest_first(journal: Journal) -> None:
    """Bulk learning may take old mail after new: the time counts that the lesson bears."""
    now = datetime.now(UTC)
    for number, days in enumerate([3, 1, 2]):
        taught(journal, number, at=now - timedelta(days=days), verdict="ham", score=0.1)
    found = past.taught(journal, ["home"], 2)
    assert [(one["message_id"], one["label"], one["verdict"]) for one in found] == [
        ("1@test", "spam", "ham"), ("2@test", "spam", "ham")]
    assert "text" not in found[0]


# What cannot be read


@pytest.mark.parametrize(("column", "value"), [
    ("terms", "substr(terms, 1, 9)"), ("terms", "x''"), ("terms", "'text'"), ("terms", "cleaned"),
    ("terms", f"x'{zlib.compress(bytes([255] * 8)).hex()}'"),
    ("cleaned", "substr(cleaned, 1, 9)"), ("cleaned", "x''"), ("cleaned", "terms"),
])
def test_a_damaged_lesson_teaches_nothing_and_holds_nobody_up(
    journal: Journal, caplog: pytest.LogCaptureFixture, column: str, value: str
) -> None:
    """A cell cut short, or with something else in it: said once with the way out, and the others teach as before."""
    sound = [taught(journal, number) for number in range(3)]
    taught(journal, 9)
    journal.write(f"UPDATE lessons SET {column} = {value} WHERE message_id = '9@test'")
    lessons = Lessons(journal)
    assert weights(lessons.personal("home")) == Personal(one.example for one in sound).state()
    assert [one.damaged for one in lessons.all()] == [False, False, False, True]
    assert lessons.rebase("other", lambda text: float(CANARY in text)) == 3
    [told] = [record.getMessage() for record in caplog.records]
    assert "1 of the lessons" in told and "`mailtagger forget --damaged`" in told
    assert forgotten(journal, damaged=True) == 1
    assert [one.message_id for one in lessons.all()] == ["0@test", "1@test", "2@test"]


# The commands


@pytest.fixture
def config(tmp_path: Path, model: Path) -> Path:  # noqa: F811
    return configured(tmp_path, model, {"name": "home", "host": "localhost", "username": "x"})


@pytest.mark.parametrize("arguments", [
    [], ["--all", "--since", "2026-01-01"], ["--sender", "example.org"], ["--all", "--account", "nobody"],
])
def test_what_to_forget_must_be_said(mailtagger: Mailtagger, config: Path, arguments: list[str]) -> None:  # noqa: F811
    """Without a choice, or with two, nothing is forgotten."""
    assert mailtagger("--config", config, "forget", *arguments).status == 2


def test_nothing_is_forgotten_where_nobody_can_be_asked(
    mailtagger: Mailtagger, config: Path, tmp_path: Path  # noqa: F811
) -> None:
    """It is shown, and stays, until --yes is given."""
    with Journal(tmp_path / "state" / FILE) as journal:
        taught(journal, 1)
    done = mailtagger("--config", config, "forget", "--all", "--json")
    assert done.status == 2 and "--yes" in done.err
    assert done.records[0]["message_id"] == "1@test"
    assert done.records[-1]["summary"] | {"forgotten": False} == done.records[-1]["summary"]
    done = mailtagger("--config", config, "forget", "--all", "--yes", "--json")
    assert (done.status, done.records[-1]["summary"]["forgotten"]) == (0, True)
    assert CANARY not in done.out
    with Journal(tmp_path / "state" / FILE) as journal:
        assert Lessons(journal).all() == []
    done = mailtagger("--config", config, "forget", "--all")
    assert (done.status, done.out) == (0, "0 lessons (0 of good mail, 0 of spam) are forgotten.\n")


def test_history_lists_lessons(mailtagger: Mailtagger, config: Path, tmp_path: Path) -> None:  # noqa: F811
    """As JSON, and as a table that a person can read."""
    assert mailtagger("--config", config, "history", "--lessons").out == ""
    with Journal(tmp_path / "state" / FILE) as journal:
        taught(journal, 1)
    [record] = mailtagger("--config", config, "history", "--lessons", "--json").records
    assert (record["label"], record["source"], record["sender"]) == ("spam", "moved", "shop1@example.org")
    assert "shop1@example.org" in mailtagger("--config", config, "history", "--lessons").out
    assert json.loads(mailtagger("--config", config, "history", "--json").out)["corrected"] == "spam"


@pytest.mark.parametrize("arguments", [
    ["history", "--lessons"], ["forget", "--damaged", "--yes"], ["forget", "--all", "--yes"], ["retrain", "--dry-run"],
    ["explain", "MAIL"],
])
def test_beside_a_damaged_lesson_every_command_does_its_work(
    mailtagger: Mailtagger, config: Path, tmp_path: Path, arguments: list[str]  # noqa: F811
) -> None:
    """One sentence on standard error tells of it and of the way out; what can be read is read."""
    mail = tmp_path / "mail.eml"
    mail.write_bytes(raw("offer 1", body="more words", message_id="1@test"))
    with Journal(tmp_path / "state" / FILE) as journal:
        taught(journal, 1)
        taught(journal, 2)
        journal.write("UPDATE lessons SET terms = substr(terms, 1, 9) WHERE message_id = '2@test'")
    done = mailtagger("--config", config, *(str(mail) if word == "MAIL" else word for word in arguments), "--json")
    assert (done.status, done.err.count("\n"), "`mailtagger forget --damaged`" in done.err) == (0, 1, True), done.err
    with Journal(tmp_path / "state" / FILE) as journal:
        left = [one.message_id for one in Lessons(journal).all()]
    assert left == {"--damaged": ["1@test"], "--all": []}.get(arguments[1], ["1@test", "2@test"])
    if arguments[0] == "history":
        assert {one["message_id"]: one["damaged"] for one in done.records} == {"1@test": False, "2@test": True}
    if arguments[0] == "explain":
        assert done.records[0]["lessons_learned"] == 1
