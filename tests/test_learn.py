"""learn: what becomes a lesson and what does not, on a real Dovecot and from files; killed, stopped and begun again."""

import json
import mailbox as boxes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imapclient import IMAPClient

from mailtagger import harvest, judge, records, starting, teach
from mailtagger.correspondents import writes_to
from mailtagger.dovecot import Dovecot
from mailtagger.harvest import evenly, shares
from mailtagger.imap import Mailbox
from mailtagger.journal import FILE, Journal
from mailtagger.lessons import Lesson, Lessons
from mailtagger.report import Report
from tests.test_cli import (  # noqa: F401
    Done,
    Mailtagger,
    account,
    configured,
    mailtagger,
    message,
    model,
    nothing_configured,
)
from tests.tiny_model import HAM_TEXT, SPAM_TEXT

FOLDERS = ("INBOX", "Archive", "Junk", "Sent", "Trash", "Drafts")
# `learn` as a process that is killed, as by a power cut, when a function is entered for the n-th time.
DIE = """
import os, signal, sys
from mailtagger import cli, lessons, teach
where, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = {"teach": teach, "Lessons": lessons.Lessons}[where]
original, calls = getattr(owner, name), 0
def deadly(*arguments):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
setattr(owner, name, deadly)
sys.argv = ["mailtagger", *sys.argv[4:]]
cli.main()
"""


def put(server: Dovecot, folder: str, raws: Sequence[bytes], flags: Sequence[str] = ()) -> None:
    with server.client("alice") as client:
        for raw in raws:
            client.append(folder, raw, flags)


def letters(count: int, text: str = HAM_TEXT, name: str = "ham") -> list[bytes]:
    """So many different messages with this text."""
    return [message(f"{text} number {n}", f"{name}{n}") for n in range(count)]


def lessons_in(directory: Path) -> list[Lesson]:
    with Journal(directory / "state" / FILE) as journal:
        return Lessons(journal).all()


def taught(directory: Path) -> dict[str, str]:
    """Label by Message-ID."""
    lessons = lessons_in(directory)
    found: dict[str, str] = {lesson.message_id.removesuffix("@example.org"): lesson.label for lesson in lessons}
    assert len(found) == len(lessons)
    return found


def summary(done: Done) -> Any:
    return done.records[-1]["summary"]


def state_of(client: IMAPClient) -> Any:
    """All that a mail program can see of the mail."""
    seen: dict[str, Any] = {}
    for name in FOLDERS:
        told = client.folder_status(name, ["MESSAGES", "RECENT", "UNSEEN", "UIDNEXT", "UIDVALIDITY", "HIGHESTMODSEQ"])
        client.select_folder(name, readonly=True)
        uids = client.search()
        data = client.fetch(uids, ["FLAGS", "MODSEQ"]) if uids else {}
        seen[name] = told, {uid: (data[uid][b"FLAGS"], data[uid][b"MODSEQ"]) for uid in uids}
        client.unselect_folder()
    return seen


@pytest.fixture
def home(dovecot: Dovecot, tmp_path: Path, model: Path) -> Path:  # noqa: F811
    """The configuration of one account on the server."""
    return configured(tmp_path, model, account(dovecot))


@pytest.fixture
def offline(tmp_path: Path, model: Path) -> Path:  # noqa: F811
    """The same of a server that is not there."""
    return configured(tmp_path, model, {"name": "home", "host": "127.0.0.1", "port": 1, "tls": "none", "username": "x"})


@pytest.mark.parametrize(("ham", "spam", "said"), [(100, 0, True), (99, 0, False), (100, 1, False)])
def test_lessons_of_good_mail_alone_are_remarked_on(ham: int, spam: int, said: bool) -> None:
    """Who teaches much good mail and no spam hears what that costs, and the way out."""
    summary = records.learning([], {"ham": ham, "spam": spam}, False)
    assert ("`learn --spam Junk`" in records.learning_for_a_person(summary)) == said


# --- folders


def test_folders_become_lessons_and_stay_as_they_are(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path,  # noqa: F811
) -> None:
    """Each message is one lesson of its folder's label; no flag, no \\Recent and no MODSEQ changes on the server."""
    put(dovecot, "Archive", letters(7))
    put(dovecot, "Archive", letters(1, name="draft"), ["\\Draft"])
    put(dovecot, "Archive", [b"From: a@example.org\r\nMessage-ID: <empty@example.org>\r\n\r\n"])
    put(dovecot, "Junk", letters(3, SPAM_TEXT, "spam"), ["\\Seen"])
    with dovecot.client("alice") as client:
        client.enable("CONDSTORE")
        before = state_of(client)
        done = mailtagger("--config", home, "learn", "--ham", "Archive", "--spam", "Junk", "--json")
        assert state_of(client) == before
    assert (done.status, done.err) == (0, "")
    assert done.records == [
        {"account": "home", "what": "Archive", "kind": "folder", "only": None, "label": "ham", "learned": 7, "known": 0,
         "skipped": {"marked as deleted or a draft": 1, "no text": 1}},
        {"account": "home", "what": "Junk", "kind": "folder", "only": None, "label": "spam", "learned": 3, "known": 0,
         "skipped": {}},
        {"summary": {"learned": 10, "known": 0, "skipped": 2, "correspondents": 0, "lessons": {"ham": 7, "spam": 3},
                     "stopped": False}},
    ]  # fmt: skip
    assert taught(tmp_path) == {f"ham{n}": "ham" for n in range(7)} | {f"spam{n}": "spam" for n in range(3)}
    one = lessons_in(tmp_path)[0]
    assert (one.source, one.folder, one.sender) == ("learn", "Archive", "a@example.org")
    assert one.text and "lunch" in one.text and one.terms.size


def test_for_a_person(dovecot: Dovecot, home: Path, mailtagger: Mailtagger) -> None:  # noqa: F811
    """One line for each place, one sentence at the end."""
    put(dovecot, "Archive", letters(2))
    lines = mailtagger("--config", home, "learn", "--ham", "folder:Archive").out.splitlines()
    assert lines[1].split() == ["folder", "Archive", "ham", "2", "0", "-"]
    assert lines[2:] == ["2 messages learned; 0 known before, 0 skipped. The lessons now: 2 ham, 0 spam."]


def test_what_is_known_is_not_read_again(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    """A second time no body is asked for; of what came meanwhile only that is learned."""
    put(dovecot, "Archive", letters(5))
    again = ("--config", home, "learn", "--ham", "Archive", "--json")
    assert summary(mailtagger(*again))["learned"] == 5
    fetched: list[int] = []
    fetch = Mailbox.fetch

    def noted(self: Mailbox, uids: Any) -> Any:
        fetched.extend(uids)
        return fetch(self, uids)

    monkeypatch.setattr(Mailbox, "fetch", noted)
    assert (summary(mailtagger(*again))["known"], fetched) == (5, [])
    put(dovecot, "Archive", letters(1, name="new"))
    last = summary(mailtagger(*again))
    assert (last["learned"], last["known"], fetched) == (1, 5, [6])


def test_the_opposite_word_replaces(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path,  # noqa: F811
) -> None:
    """What was learned as ham and lies among spam later is spam, once."""
    put(dovecot, "Archive", letters(2))
    put(dovecot, "Junk", letters(1))
    mailtagger("--config", home, "learn", "--ham", "Archive")
    mailtagger("--config", home, "learn", "--spam", "Junk")
    assert taught(tmp_path) == {"ham0": "spam", "ham1": "ham"}


@pytest.mark.parametrize(("options", "problem"), [
    (("--ham", "INBOX"), "Mail arrives in INBOX"), (("--ham", "inbox"), "Mail arrives in INBOX"),
    (("--spam", "INBOX"), "Mail arrives in INBOX"), (("--ham", "Junk"), "Mail in Junk is spam"),
    (("--spam", "Archive"), "Mail in Archive is ham"), (("--ham", "Trash"), "Trash holds what you threw away"),
    (("--ham", "Sent"), "Sent holds"), (("--sent", "INBOX"), "others sent"), (("--sent", "Junk"), "others sent"),
    (("--ham", "Nowhere"), "neither a file here nor a folder"), (("--ham", "./nowhere"), "There is no nowhere"),
    (("--ham", "file:Archive"), "There is no Archive"),
])  # fmt: skip
def test_refused(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path, options: tuple[str, str],  # noqa: F811
    problem: str,
) -> None:
    """An inbox that nobody has been through, and places that say the opposite: nothing at all is learned."""
    for name in FOLDERS:
        put(dovecot, name, letters(1, name=name))
    done = mailtagger("--config", home, "learn", "--ham", "Archive", *options)
    assert (done.status, done.out) == (1, "")
    assert problem in done.err and done.err.count("\n") == 1
    assert taught(tmp_path) == {}


def test_reviewed_folders_are_taken(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path,  # noqa: F811
) -> None:
    """Who has been through his inbox may say so."""
    put(dovecot, "INBOX", letters(2))
    assert mailtagger("--config", home, "learn", "--ham", "INBOX", "--reviewed").status == 0
    assert taught(tmp_path) == {"ham0": "ham", "ham1": "ham"}


def test_usage(mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot) -> None:  # noqa: F811
    """Something is to be learned, and of several accounts one is named."""
    config = configured(tmp_path, model, account(dovecot), account(dovecot, "work", username="bob"))
    assert mailtagger("--config", config, "learn").status == 2
    done = mailtagger("--config", config, "learn", "--bootstrap")
    assert done.status == 2 and "home, work" in done.err
    assert mailtagger("--config", config, "learn", "--bootstrap", "--account", "play").status == 2
    assert mailtagger("--config", config, "learn", "--bootstrap", "--account", "work").status == 0


# --- files


def written(directory: Path) -> list[str]:
    """The same kinds of mail as an mbox, a Maildir and a directory of .eml files: 3, 2 and 2 messages."""
    mbox = boxes.mbox(directory / "old.mbox")
    for raw in letters(3, name="mbox"):
        mbox.add(raw)
    mbox.close()
    maildir = boxes.Maildir(directory / "Maildir")
    for raw in letters(2, name="maildir"):
        maildir.add(raw)
    (directory / "many").mkdir()
    for n, raw in enumerate(letters(2, name="eml")):
        (directory / "many" / f"{n}.eml").write_bytes(raw)
    return [str(directory / name) for name in ("old.mbox", "Maildir", "many")]


def test_files_need_no_server(offline: Path, mailtagger: Mailtagger, tmp_path: Path) -> None:  # noqa: F811
    """mbox, Maildir and directories; a second time everything is known."""
    given = [part for path in written(tmp_path) for part in ("--ham", path)]
    done = mailtagger("--config", offline, "learn", *given, "--json")
    assert (done.status, [row["learned"] for row in done.records[:-1]]) == (0, [3, 2, 2])
    assert {row["kind"] for row in done.records[:-1]} == {"file"}
    again = mailtagger("--config", offline, "learn", *given, "--json")
    assert [(row["learned"], row["known"]) for row in again.records[:-1]] == [(0, 3), (0, 2), (0, 2)]
    assert len(taught(tmp_path)) == 7


def test_the_newest_of_a_file(offline: Path, mailtagger: Mailtagger, tmp_path: Path) -> None:  # noqa: F811
    """--limit takes the end of an mbox, and the same again is the same."""
    mbox, _, _ = written(tmp_path)
    for learned, known in (2, 0), (0, 2):
        done = mailtagger("--config", offline, "learn", "--spam", mbox, "--limit", 2, "--json")
        assert (summary(done)["learned"], summary(done)["known"]) == (learned, known)
    assert taught(tmp_path) == {"mbox1": "spam", "mbox2": "spam"}


def test_what_cannot_be_read_is_told(offline: Path, mailtagger: Mailtagger, tmp_path: Path) -> None:  # noqa: F811
    """The others are learned, the reason stands in the line, and the status is 1."""
    _, _, many = written(tmp_path)
    (Path(many) / "broken.eml").symlink_to("nowhere")
    done = mailtagger("--config", offline, "learn", "--ham", many, "--json")
    assert (done.status, done.records[0]["learned"]) == (1, 2)
    assert done.records[0]["skipped"] == {"cannot be read: No such file or directory": 1}


def test_a_file_and_a_message_on_the_server_are_the_same(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path,  # noqa: F811
) -> None:
    """Learned from a copy on the disk, it is known on the server, though the server has added its own lines."""
    (tmp_path / "copy.eml").write_bytes(letters(1)[0].replace(b"\r\n", b"\n"))
    put(dovecot, "Archive", [b"Received: by mx.example\r\n" + raw for raw in letters(2)])
    mailtagger("--config", home, "learn", "--ham", tmp_path / "copy.eml")
    last = summary(mailtagger("--config", home, "learn", "--ham", "Archive", "--json"))
    assert (last["learned"], last["known"]) == (1, 1)


def test_folder_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is what looks like one or is there; a prefix leaves no doubt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Archive").mkdir()
    found = {what: (it.name, it.is_file) for what in (
        "Archive", "Junk", "folder:Archive", "file:Junk", "./Junk", "../x", "/x", "~/x", "Lists/Python", "folder:a:b",
        "a:b",
    ) for it in [starting.meant(what, "ham")]}  # fmt: skip
    assert found == {
        "Archive": ("Archive", True), "Junk": ("Junk", False), "folder:Archive": ("Archive", False),
        "file:Junk": ("Junk", True), "./Junk": ("./Junk", True), "../x": ("../x", True), "/x": ("/x", True),
        "~/x": ("~/x", True), "Lists/Python": ("Lists/Python", False), "folder:a:b": ("a:b", False),
        "a:b": ("a:b", False),
    }  # fmt: skip


# --- killed and stopped


@pytest.mark.parametrize(("where", "name", "count", "left"), [
    ("teach", "_learn", 3, 100), ("Lessons", "learn", 75, 50), ("Lessons", "learn", 1, 0), ("teach", "_learn", 1, 0),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_killed_and_begun_again(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path, kind: str,  # noqa: F811
    where: str, name: str, count: int, left: int,
) -> None:
    """After SIGKILL whole batches are in the journal; the same command goes on there and learns nothing twice."""
    if kind == "folder":
        put(dovecot, "Archive", letters(120))
        place = "Archive"
    else:
        place = str(tmp_path / "box")
        mbox = boxes.mbox(place)
        for raw in letters(120):
            mbox.add(raw)
        mbox.close()
    command = ("--config", str(home), "learn", "--ham", place, "--json")
    killed = subprocess.run([sys.executable, "-c", DIE, where, name, str(count), *command], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(taught(tmp_path)) == left
    last = summary(mailtagger(*command))
    assert (last["learned"], last["known"]) == (120 - left, left)
    assert len(taught(tmp_path)) == 120


def test_ctrl_c_keeps_what_is_in_hand(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    """Status 130, what was read is learned, and the rest comes with the next call."""
    put(dovecot, "Archive", letters(70))
    steps = iter(range(100))

    def pressed(report: Report) -> None:
        if next(steps) == 59:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Report, "step", pressed)
    command = ("--config", home, "learn", "--ham", "Archive", "--json")
    done = mailtagger(*command)
    assert (done.status, summary(done)["learned"], summary(done)["stopped"]) == (130, 60, True)
    assert len(taught(tmp_path)) == 60
    monkeypatch.setattr(Report, "step", lambda report: None)
    last = summary(mailtagger(*command))
    assert (last["learned"], last["known"], last["stopped"]) == (10, 60, False)


def test_one_that_raises_does_not_hold_up_the_others(
    offline: Path, mailtagger: Mailtagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    """It is told, the status is 1, and the rest is learned."""
    _, _, many = written(tmp_path)
    opinion = judge.opinion

    def fragile(raw: bytes, *rest: Any) -> Any:
        if b"eml0@" in raw:
            raise ValueError("broken")
        return opinion(raw, *rest)

    monkeypatch.setattr(teach, "opinion", fragile)
    done = mailtagger("--config", offline, "learn", "--ham", many, "--json")
    assert (done.status, done.records[0]["skipped"]) == (1, {"it could not be judged": 1})
    assert taught(tmp_path) == {"eml1": "ham"}


# --- room and balance


def test_no_lesson_is_pushed_out(
    offline: Path, mailtagger: Mailtagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    """Of each label there is room for so many in bulk: the newest are taken, and what is known from before stays."""
    monkeypatch.setattr(teach, "MOST", 4)
    mbox, maildir, _ = written(tmp_path)
    assert summary(mailtagger("--config", offline, "learn", "--ham", maildir, "--json"))["learned"] == 2
    row = mailtagger("--config", offline, "learn", "--ham", mbox, "--json").records[0]
    assert (row["learned"], row["skipped"]) == (2, {"no room: 4 lessons of a label are kept": 1})
    assert taught(tmp_path).keys() == {"maildir0", "maildir1", "mbox1", "mbox2"}


def test_labels_are_learned_in_turns(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path,  # noqa: F811
) -> None:
    """The lessons of one label do not all come after those of the other, as the last ones have the most weight."""
    put(dovecot, "Archive", letters(40))
    put(dovecot, "Junk", letters(20, SPAM_TEXT, "spam"))
    mailtagger("--config", home, "learn", "--ham", "Archive", "--spam", "Junk")
    labels = [lesson.label for lesson in lessons_in(tmp_path)]
    assert [labels[start : start + 15].count("spam") for start in range(0, 60, 15)] == [5, 5, 5, 5]


class Stack:
    """A place with this many messages, all new."""

    label, kind, only = "ham", "file", ""

    def __init__(self, number: int, size: int) -> None:
        self.place, self.size, self.tally = str(number), size, harvest.Tally()

    def survey(self, limit: int, stop: Any) -> int:
        return min(limit, self.size)

    def take(self, number: int) -> Any:
        return iter([b"%d" % n for n in range(self.size - number, self.size)])


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(0, 120))
def test_shares_are_fair_and_all_are_taken_evenly(sizes: list[int], room: int) -> None:
    """As much as there is room for, nobody more than he has; who gets less than another has no more, or one less."""
    taken = shares(sizes, room)
    assert sum(taken) == min(room, sum(sizes))
    assert all(0 <= t <= size for t, size in zip(taken, sizes, strict=True))
    assert all(taken[i] == sizes[i] or taken[i] >= max(taken) - 1 for i in range(len(sizes)))
    places: list[Any] = [Stack(n, size) for n, size in enumerate(sizes)]
    came = [(place.place, int(raw)) for place, raw in evenly(places, taken)]
    for n, size in enumerate(sizes):
        assert [m for name, m in came if name == str(n)] == list(range(size - taken[n], size))
    half = came[: len(came) // 2]
    assert all(abs(sum(name == str(n) for name, _ in half) - t / 2) <= len(taken) for n, t in enumerate(taken))


# --- bootstrap


def to(*addresses: str, name: str, field: bytes = b"") -> bytes:
    header = f"From: alice@home.example\r\nTo: {', '.join(addresses)}\r\nMessage-ID: <{name}@example.org>\r\n"
    return header.encode() + field + f"Subject: hi\r\n\r\n{HAM_TEXT}\r\n".encode()


def settle(server: Dovecot) -> None:
    """A mailbox as it is after some years."""
    put(server, "Sent", [
        to("Friend <Friend@good.example>", "b@good.example", name="s1"),
        to("evil@evil.example", name="s2", field=b"Auto-Submitted: auto-replied\r\n"),
    ], ["\\Seen"])
    put(server, "Archive", letters(2, name="kept"), ["\\Seen"])
    put(server, "Archive", letters(1, name="unread"))
    put(server, "Archive", letters(1, SPAM_TEXT, "junk"), ["\\Seen", "$Junk"])
    put(server, "Archive", letters(1, SPAM_TEXT, "ours"), ["\\Seen", "MailtaggerSpam"])
    put(server, "INBOX", letters(1, name="answered"), ["\\Seen", "\\Answered"])
    put(server, "INBOX", letters(1, name="answeredjunk"), ["\\Seen", "\\Answered", "Junk"])
    put(server, "INBOX", letters(2, name="arrived"), ["\\Seen"])
    put(server, "Junk", letters(2, SPAM_TEXT, "spam"))
    put(server, "Trash", letters(1, name="trash"), ["\\Seen", "\\Answered"])


def test_bootstrap_takes_what_the_user_had_in_hand(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path,  # noqa: F811
) -> None:
    """Read and archived, or answered: ham. Sent: correspondents. Nothing that only arrived, and no spam unasked."""
    settle(dovecot)
    with dovecot.client("alice") as client:
        client.enable("CONDSTORE")
        before = state_of(client)
        done = mailtagger("--config", home, "learn", "--bootstrap", "--json")
        assert state_of(client) == before
    assert done.status == 0
    rows = {(row["what"], row["only"], row["label"]): row for row in done.records[:-1]}
    assert rows.keys() == {
        ("Sent", None, "correspondents"), ("Archive", "read", "ham"), ("INBOX", "answered", "ham"),
    }
    assert rows["Archive", "read", "ham"]["skipped"] == {"never read": 1, "marked as spam": 2}
    assert taught(tmp_path) == {"kept0": "ham", "kept1": "ham", "answered0": "ham"}
    assert summary(done)["correspondents"] == 2
    with Journal(tmp_path / "state" / FILE) as journal:
        known = ("friend@good.example", "b@good.example", "evil@evil.example", "alice@home.example", "a@example.org")
        assert [writes_to(journal, "home", one) for one in known] == [True, True, False, False, False]
    again = summary(mailtagger("--config", home, "learn", "--bootstrap", "--json"))
    assert (again["learned"], again["known"], again["correspondents"]) == (0, 3, 0)


def test_bootstrap_with_spam_and_without_overruling(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path,  # noqa: F811
) -> None:
    """Spam comes where the user says so; what he has said of a message before stands against an archive."""
    settle(dovecot)
    (tmp_path / "bad.eml").write_bytes(letters(1, name="kept")[0])
    mailtagger("--config", home, "learn", "--spam", tmp_path / "bad.eml")
    mailtagger("--config", home, "learn", "--bootstrap", "--spam", "Junk")
    assert taught(tmp_path) == {"kept0": "spam", "kept1": "ham", "answered0": "ham", "spam0": "spam", "spam1": "spam"}


def test_bootstrap_is_bounded(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger, tmp_path: Path,  # noqa: F811
) -> None:
    """The newest N of archives in all, about as many of each, and again later the same."""
    with dovecot.client("alice") as client:
        client.create_folder("Archive/2019")
    put(dovecot, "Archive", letters(10, name="new"), ["\\Seen"])
    put(dovecot, "Archive/2019", letters(2, name="old"), ["\\Seen"])
    for learned in 6, 0:
        done = mailtagger("--config", home, "learn", "--bootstrap", "--limit", 6, "--json")
        assert summary(done)["learned"] == learned
    assert taught(tmp_path).keys() == {"old0", "old1", "new6", "new7", "new8", "new9"}
    with dovecot.client("alice") as client:
        client.delete_folder("Archive/2019")


def test_an_inbox_that_is_not_watched_is_none_the_more_reviewed(
    dovecot: Dovecot, tmp_path: Path, model: Path, mailtagger: Mailtagger,  # noqa: F811
) -> None:
    """INBOX teaches ham when mail is moved back to it, but is no archive."""
    config = configured(tmp_path, model, account(dovecot, folders=["Drafts"]))
    settle(dovecot)
    mailtagger("--config", config, "learn", "--bootstrap")
    assert taught(tmp_path).keys() == {"kept0", "kept1", "answered0"}


def test_a_server_with_a_prefix_and_without_special_use(
    tmp_path: Path, model: Path, mailtagger: Mailtagger,  # noqa: F811
) -> None:
    """Folders are found by the names that a person uses."""
    with Dovecot(prefix="INBOX.", separator=".", special_use=False) as server:
        config = configured(tmp_path, model, account(server))
        put(server, "INBOX.Sent", [to("friend@good.example", name="s")])
        put(server, "INBOX.Archive", letters(2), ["\\Seen"])
        put(server, "INBOX.Junk", letters(1, SPAM_TEXT, "spam"))
        done = mailtagger("--config", config, "learn", "--bootstrap", "--spam", "Junk", "--json")
    assert (done.status, summary(done)["correspondents"], summary(done)["lessons"]) == (0, 1, {"ham": 2, "spam": 1})


# --- what it is good for


def test_a_proven_friend_is_ham_and_a_forged_one_is_not(
    dovecot: Dovecot, tmp_path: Path, model: Path, mailtagger: Mailtagger,  # noqa: F811
) -> None:
    """Spam words of somebody the user writes to are ham where his own server has proven him, and only there."""
    config = configured(tmp_path, model, account(dovecot, authserv_id="mx.home.example"))
    put(dovecot, "Sent", [to("friend@good.example", name="s")])
    assert mailtagger("--config", config, "learn", "--sent", "Sent").status == 0
    spam = letters(1, SPAM_TEXT, "x")[0].replace(b"a@example.org", b"friend@good.example")
    proof = b"Authentication-Results: mx.home.example; dmarc=pass header.from=good.example\r\n"
    border = b"Received: from x (x [192.0.2.1]) by mx.home.example with ESMTP\r\n"
    for raw in proof + border + spam, border + proof + spam.replace(b"x0@", b"y@"), spam.replace(b"x0@", b"z@"):
        put(dovecot, "INBOX", [raw])
    done = mailtagger("--config", config, "scan", "--folder", "INBOX", "--json")
    assert [(row["verdict"], row["decided_by"]) for row in done.records[:-1]] == [
        ("ham", "allow"), ("spam", "model"), ("spam", "model"),
    ]  # fmt: skip


def test_learning_turns_what_comes_after(
    dovecot: Dovecot, home: Path, mailtagger: Mailtagger,  # noqa: F811
) -> None:
    """A kind of mail that is called spam is not any more once the user has taught it as good."""
    put(dovecot, "INBOX", letters(1, SPAM_TEXT, "next"))
    scan = ("--config", home, "scan", "--folder", "INBOX", "--json")
    before = json.loads(mailtagger(*scan).out.splitlines()[0])
    put(dovecot, "Archive", letters(30, SPAM_TEXT, "liked"))
    mailtagger("--config", home, "learn", "--ham", "Archive")
    after = json.loads(mailtagger(*scan).out.splitlines()[0])
    assert before["verdict"] == "spam" and after["score"] < before["score"]
