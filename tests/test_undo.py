"""undo: mail is back as it was before us, or it is said why not, whatever the user did and whatever broke meanwhile."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailtagger import figures, past, pipeline
from mailtagger.dovecot import Dovecot
from mailtagger.errors import MailboxError, TryLater
from mailtagger.imap import Address
from mailtagger.journal import FILE, UNDO, Journal
from mailtagger.lessons import Lessons
from mailtagger.restore import FASTER, GONE, NOT_REMOVED, Undone
from mailtagger.undo import choose, undo
from tests.fakes import Folder, MemoryMailbox
from tests.flow import connected, job, journal_in, raw
from tests.imap_server import mailbox as real_mailbox
from tests.test_cli import (  # noqa: F401
    ROOT,
    account,
    configured,
    eventually,
    folder,
    message,
    model,
    nothing_configured,
)
from tests.tiny_model import SPAM_TEXT

OURS = {"MailtaggerSpam", "$Junk"}


@pytest.fixture
def mailbox() -> MemoryMailbox:
    return MemoryMailbox()


def filed(mailbox: MemoryMailbox, journal: Journal, folder: str = "INBOX", **fields: Any) -> None:
    """One pass over the folder, as the daemon does it."""
    list(pipeline.scan(job(journal, lessons=Lessons(journal), **fields), connected(mailbox), folder))


def undone(mailbox: MemoryMailbox, journal: Journal, dry_run: bool = False, **choice: Any) -> list[Undone]:
    """`mailtagger undo` on a new connection."""
    chosen = choose(journal, ["home"], **choice)
    connected(mailbox)
    return [one for account, acts in chosen.items() for one in undo(mailbox, journal, account, acts, dry_run)]


def brief(results: list[Undone]) -> list[tuple[str | None, bool, str]]:
    return [(one.folder, one.done, one.why) for one in results]


# What is back as before


def test_a_moved_message_is_back_with_the_flags_it_had(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Bytes, place and keywords as before; what others set before or since stays, and so does \\Seen."""
    content = raw("spam")
    mailbox.server.deliver(content, flags=["$Label3"])
    filed(mailbox, journal)
    mailbox.server.folders["Junk"].messages[1].flags |= {"\\Seen", "mine"}
    [one] = undone(mailbox, journal)
    assert (one.folder, one.uid, one.home, one.moved, one.done, one.why) == ("INBOX", 2, "INBOX", True, True, "")
    assert set(one.keywords) == OURS
    assert (mailbox.server.raws("INBOX"), mailbox.server.raws("Junk")) == ([content], [])
    assert mailbox.server.flags(2) == {"$Label3", "\\Seen", "mine"}


def test_a_keyword_that_was_there_before_us_stays(mailbox: MemoryMailbox, journal: Journal) -> None:
    """$junk was set by a mail program before we came, in its own spelling."""
    mailbox.server.deliver(raw("spam"), flags=["$junk"])
    filed(mailbox, journal, mode="observe")
    [one] = undone(mailbox, journal)
    assert (one.keywords, one.done, mailbox.server.flags(1)) == (("MailtaggerSpam",), True, {"$junk"})


def test_a_mark_alone_is_taken_off(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Nothing was moved, and nothing is."""
    mailbox.server.deliver(raw("unsure"))
    filed(mailbox, journal)
    assert brief(undone(mailbox, journal)) == [("INBOX", True, "")]
    assert mailbox.server.flags(1) == set()


def test_what_was_undone_is_never_filed_again_and_teaches_nothing(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Not at the next pass, not by another model, not after the server has renumbered the folder."""
    mailbox.server.deliver(raw("spam"))
    mailbox.server.deliver(raw("unsure"))
    filed(mailbox, journal)
    undone(mailbox, journal)
    filed(mailbox, journal, judge_anew=True)
    mailbox.server.renumber("INBOX")
    filed(mailbox, journal)
    filed(mailbox, journal, judge_anew=True, release=True)
    assert mailbox.server.raws("Junk") == []
    assert [message.flags for message in mailbox.server.folders["INBOX"].messages.values()] == [set(), set()]
    assert Lessons(journal).all() == []


def test_a_move_that_still_waits_is_called_off(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The spam folder is full; once it is not, the message stays where it is."""
    mailbox.server.folders["Junk"].refuse = "[OVERQUOTA] full"
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal)
    assert brief(undone(mailbox, journal)) == [("INBOX", True, "")]
    mailbox.server.folders["Junk"].refuse = ""
    filed(mailbox, journal)
    assert (mailbox.server.raws("Junk"), mailbox.server.flags(1), journal.open_intents_of("home")) == ([], set(), [])


def test_two_equal_messages_both_come_back(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Each copy has its own place."""
    content = raw("spam")
    for _ in range(2):
        mailbox.server.deliver(content)
    filed(mailbox, journal)
    mailbox.server.renumber("Junk")
    assert brief(undone(mailbox, journal)) == [("INBOX", True, "")] * 2
    assert mailbox.server.raws("INBOX") == [content] * 2


def test_what_was_moved_twice_goes_all_the_way_back(mailbox: MemoryMailbox, journal: Journal) -> None:
    """From INBOX to Junk, and from there to a spam folder that was set later."""
    mailbox.server.folders["Spam"] = Folder()
    content = raw("spam")
    mailbox.server.deliver(content)
    filed(mailbox, journal)
    filed(mailbox, journal, folder="Junk", spam_folder="Spam")
    assert mailbox.server.raws("Spam") == [content]
    results = undone(mailbox, journal, since=datetime.now(UTC) - timedelta(hours=1))
    assert brief(results) == [("Junk", True, ""), ("INBOX", True, "")]
    assert mailbox.server.raws("INBOX") == [content]


# What the user did meanwhile


def test_what_the_user_moved_on_stays_there(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Only our keywords go, it is said where the message is, and the next undo does not ask again."""
    mailbox.server.folders["Receipts"] = Folder()
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal)
    mailbox.server.user_moves(1, "Junk", "Receipts")
    [one] = undone(mailbox, journal)
    assert brief([one]) == [("Receipts", False, "the user moved it to Receipts since")]
    assert mailbox.server.flags(1, "Receipts") == set()
    assert (past.undone(one)["action"], set(one.keywords)) == ("keyword", OURS)
    assert undone(mailbox, journal) == []


def test_what_the_user_rescued_himself_only_loses_our_keywords(mailbox: MemoryMailbox, journal: Journal) -> None:
    """It is where it was: nothing failed."""
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal)
    uid = mailbox.server.user_moves(1, "Junk", "INBOX")
    assert brief(undone(mailbox, journal)) == [("INBOX", True, "")]
    assert mailbox.server.flags(uid) == set()


def test_what_is_gone_is_said_to_be_gone(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The others of the batch are back all the same."""
    for subject in "spam", "more spam":
        mailbox.server.deliver(raw(subject))
    filed(mailbox, journal)
    mailbox.server.user_deletes(1, "Junk")
    assert sorted(brief(undone(mailbox, journal)), key=str) == [("INBOX", True, ""), (None, False, GONE)]


def test_without_the_folder_it_came_from_it_stays_and_can_be_undone_later(
    mailbox: MemoryMailbox, journal: Journal
) -> None:
    """Nothing is half undone: the marks stay too, until the folder is there again."""
    mailbox.server.folders["Lists"] = Folder()
    mailbox.server.deliver(raw("spam"), "Lists")
    filed(mailbox, journal, folder="Lists")
    del mailbox.server.folders["Lists"]
    assert brief(undone(mailbox, journal)) == [("Junk", False, "the folder Lists is no longer there: it stays in Junk")]
    assert mailbox.server.flags(1, "Junk") == OURS
    mailbox.server.folders["Lists"] = Folder(uidvalidity=9)
    assert brief(undone(mailbox, journal)) == [("Lists", True, "")]


def test_another_message_under_the_same_uid_is_left_alone(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The server has given Junk new numbers, and ours to a stranger that forged the Message-ID."""
    content = raw("spam", message_id="same@example.org")
    mailbox.server.deliver(content)
    filed(mailbox, journal)
    junk = mailbox.server.folders["Junk"]
    stranger = raw("another spam", message_id="same@example.org")
    moved = junk.messages.pop(1)
    junk.uidvalidity, junk.uidnext = 7, 1
    mailbox.server.deliver(stranger, "Junk", OURS)
    junk.add(moved)
    assert brief(undone(mailbox, journal)) == [("INBOX", True, "")]
    assert (mailbox.server.raws("INBOX"), mailbox.server.raws("Junk")) == ([content], [stranger])
    assert mailbox.server.flags(1, "Junk") == OURS


# What is meant


def test_by_default_the_last_batch_is_meant(mailbox: MemoryMailbox, journal: Journal) -> None:
    """And the next time the one before it; then nothing is left."""
    for subject in "spam", "more spam":
        mailbox.server.deliver(raw(subject))
        filed(mailbox, journal)
    assert [one.uid for one in undone(mailbox, journal)] == [3]
    assert len(mailbox.server.raws("Junk")) == 1
    assert len(undone(mailbox, journal)) == 1
    assert undone(mailbox, journal) == []
    assert mailbox.server.raws("Junk") == []


def test_a_batch_a_time_or_one_message_is_meant(mailbox: MemoryMailbox, journal: Journal) -> None:
    """A message by where it was, or by where it is now."""
    for subject in "spam 1", "spam 2", "spam 3", "spam 4":
        mailbox.server.deliver(raw(subject))
        filed(mailbox, journal)
    first = journal.acts("home", Address("INBOX", 1, 1))[0].batch
    subjects: dict[str, Any] = {
        "spam 1": {"batch": first}, "spam 2": {"message": ("inbox", 2)}, "spam 3": {"message": ("Junk", 3)},
        "spam 4": {"since": datetime.now(UTC) - timedelta(hours=1)},
    }
    for number, choice in enumerate(subjects.values(), start=1):
        assert len(undone(mailbox, journal, **choice)) == 1
        assert len(mailbox.server.raws("INBOX")) == number
    assert undone(mailbox, journal, since=datetime.now(UTC) - timedelta(hours=1)) == []
    assert choose(journal, ["home"], since=datetime.now(UTC) + timedelta(hours=1)) == {}
    assert choose(journal, ["work"], since=datetime.fromtimestamp(0, UTC)) == {}


def test_a_dry_run_shows_and_changes_nothing(mailbox: MemoryMailbox, journal: Journal) -> None:
    """Neither on the server nor in the journal."""
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal)
    before = journal.acts("home", Address("INBOX", 1, 1))
    [one] = undone(mailbox, journal, dry_run=True)
    assert (one.folder, one.moved, one.done, set(one.keywords)) == ("Junk", True, False, OURS)
    assert (mailbox.server.flags(1, "Junk"), journal.acts("home", Address("INBOX", 1, 1))) == (OURS, before)


def test_the_journal_tells_of_it(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The acts name the undo that took them back; its own acts are no work of the daemon's, and no figure of ours."""
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal)
    undone(mailbox, journal)
    assert all(act.why.startswith(f"undone by {UNDO}") for act in journal.acts("home", Address("INBOX", 1, 1)))
    back = journal.judged("home", Address("INBOX", 1, 2))
    assert back is not None
    assert (back.verdict, back.decided_by, back.score) == ("ham", "user", 0.97)
    assert back.notes == ("undone: it was spam to us",)
    assert [(act.act, act.state, act.target, act.new_uid) for act in journal.acts("home", Address("Junk", 1, 1))] == [
        ("unmark", "done", "MailtaggerSpam $Junk", None), ("move", "done", "INBOX", 2)]
    assert journal.counts("home").moved == 1


@pytest.mark.parametrize("mode", ["observe", "apply"])
def test_what_was_undone_is_still_counted_as_we_had_called_it(
    mailbox: MemoryMailbox, journal: Journal, mode: str
) -> None:
    """Where it stays in its place, its line says what the user said, and a note what we had."""
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal, mode=mode)
    before = figures.count(journal, "home")
    assert len(undone(mailbox, journal)) == 1
    after = figures.count(journal, "home")
    assert after.called == before.called == {"spam": 1}
    assert (after.said, after.undone) == ({}, 1)


# What breaks


def test_a_refusal_is_told_and_the_next_undo_tries_again(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The inbox is over its quota."""
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal)
    mailbox.server.folders["INBOX"].refuse = "[OVERQUOTA] full"
    assert brief(undone(mailbox, journal)) == [("Junk", False, "INBOX: [OVERQUOTA] full")]
    mailbox.server.folders["INBOX"].refuse = ""
    assert brief(undone(mailbox, journal)) == [("INBOX", True, "")]


def test_keywords_that_the_server_keeps_are_told(mailbox: MemoryMailbox, journal: Journal) -> None:
    """In a folder that has become read-only nothing can be taken off."""
    mailbox.server.deliver(raw("unsure"))
    filed(mailbox, journal)
    mailbox.server.folders["INBOX"].writable = False
    mailbox.fail("remove_keywords", MailboxError("No."))
    for why in "No.", NOT_REMOVED:
        [one] = undone(mailbox, journal)
        assert brief([one]) == [("INBOX", False, why)]
        assert (past.undone(one)["action"], one.keywords) == ("none", ())


def test_what_comes_back_with_its_keywords_is_told(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The server lets it be moved, and keeps the marks: none was taken off."""
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal)
    mailbox.fail("remove_keywords", MailboxError("No."))
    [one] = undone(mailbox, journal)
    assert (one.folder, one.moved, one.why, one.keywords) == ("INBOX", True, "No.", ())
    assert mailbox.server.flags(one.uid or 0) == OURS


def test_a_client_that_is_faster_is_told(
    mailbox: MemoryMailbox, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is moved between our looking and our acting: it stays where the user has put it."""
    mailbox.server.folders["Receipts"] = Folder()
    mailbox.server.deliver(raw("spam"))
    filed(mailbox, journal)
    select = MemoryMailbox.select

    def slow(self: MemoryMailbox, folder: str) -> Any:
        if folder == "Junk" and mailbox.server.raws("Junk"):
            mailbox.server.user_moves(1, "Junk", "Receipts")
        return select(self, folder)

    monkeypatch.setattr(MemoryMailbox, "examine", select)
    monkeypatch.setattr(MemoryMailbox, "select", slow)
    assert brief(undone(mailbox, journal)) == [("Junk", False, FASTER)]
    assert brief(undone(mailbox, journal)) == [("Receipts", False, "the user moved it to Receipts since")]


class Crash(BaseException):
    """The process is killed."""


class Fuse:
    """Blows before or after the Nth of the calls that it watches."""

    def __init__(self, number: int, after: bool) -> None:
        self.number, self.after, self.blown = number, after, False

    def watch(self, patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            self.number -= 1
            mine = self.number == 0  # calls nest
            if mine and not self.after:
                self.blow()
            result = real(*arguments, **named)
            if mine and self.after:
                self.blow()
            return result

        patch.setattr(owner, name, watched)

    def blow(self) -> None:
        self.blown = True
        raise Crash


WATCHED: list[tuple[type, str]] = [
    (MemoryMailbox, "examine"), (MemoryMailbox, "fetch"), (MemoryMailbox, "select"),
    (MemoryMailbox, "remove_keywords"), (MemoryMailbox, "move"), (Journal, "open_intents"),
    (Journal, "close_intents"), (Journal, "record"),
]


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_anywhere_is_made_good_by_the_next_undo(tmp_path: Path, after: bool) -> None:
    """After each call to the server and the disk in turn: everything once where it was, an older batch untouched."""
    points = 0
    for number in range(1, 100):
        mailbox, fuse = MemoryMailbox(), Fuse(number, after)
        contents = [raw("older spam"), raw("spam"), raw("more spam"), raw("unsure")]
        with journal_in(tmp_path / str(number)) as journal, pytest.MonkeyPatch.context() as patch:
            mailbox.server.deliver(contents[0])
            filed(mailbox, journal)
            for content in contents[1:]:
                mailbox.server.deliver(content)
            filed(mailbox, journal)
            for owner, name in WATCHED:
                fuse.watch(patch, owner, name)
            with contextlib.suppress(Crash):
                undone(mailbox, journal)
            patch.undo()
            if not fuse.blown:
                break
            points += 1
            filed(mailbox, journal)  # the daemon goes on, meanwhile
            cut = any(act.why.startswith("being") for uid in (2, 3, 4)
                      for act in journal.acts("home", Address("INBOX", 1, uid)))
            if cut or mailbox.server.raws("Junk") != [contents[0]]:
                undone(mailbox, journal)
            assert sorted(mailbox.server.raws("INBOX")) == sorted(contents[1:]), f"crash {number}"
            assert mailbox.server.raws("Junk") == [contents[0]]
            filed(mailbox, journal)
            assert all(not message.flags for message in mailbox.server.folders["INBOX"].messages.values())
            assert len(mailbox.server.raws("INBOX")) == 3
            assert journal.rows(dict, "SELECT id FROM intents WHERE state = 'open'") == []
            assert Lessons(journal).all() == []
    assert points > 10


def test_a_lost_answer_doubles_nothing(mailbox: MemoryMailbox, journal: Journal) -> None:
    """The server has moved the message, and the connection breaks before it can say so."""
    content = raw("spam")
    mailbox.server.deliver(content)
    filed(mailbox, journal)
    mailbox.fail("move", TryLater("cut"), after=True)
    with pytest.raises(TryLater):
        undone(mailbox, journal)
    filed(mailbox, journal)
    assert brief(undone(mailbox, journal)) == [("INBOX", True, "")]
    assert (mailbox.server.raws("INBOX"), mailbox.server.raws("Junk")) == ([content], [])
    assert undone(mailbox, journal) == []


@pytest.mark.parametrize("twin", ["", "from before our time", "delivered later"])
def test_a_cut_copy_and_delete_is_finished(mailbox: MemoryMailbox, journal: Journal, twin: str) -> None:
    """Without MOVE both may be there: the original goes, but never for a copy that was in the inbox all the time."""
    content = raw("spam")
    if twin == "from before our time":
        mailbox.server.deliver(content)
    uid = mailbox.server.deliver(content)
    work = job(journal, lessons=Lessons(journal))
    list(pipeline.scan(work, connected(mailbox), "INBOX", limit=1))
    if twin == "delivered later":
        mailbox.server.deliver(content)
        filed(mailbox, journal, mode="observe")
    mailbox.fail("move", TryLater("cut"))
    with pytest.raises(TryLater):
        undone(mailbox, journal, message=("INBOX", uid))
    if not twin:
        mailbox.server.deliver(content, flags=mailbox.server.flags(1, "Junk"))
    assert all(one.done for one in undone(mailbox, journal))
    assert mailbox.server.raws("Junk") == []
    assert mailbox.server.raws("INBOX") == [content] * (2 if twin else 1)


# On a real server, with the user's own mail program beside us


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Journal]:
    with journal_in(tmp_path) as journal:
        yield journal


def _contents(server: Dovecot, folder: str) -> dict[bytes, set[bytes]]:
    with server.client("alice") as client:
        client.select_folder(folder, readonly=True)
        return {
            data[b"BODY[]"]: {flag for flag in data[b"FLAGS"] if flag != b"\\Recent"}
            for data in client.fetch(client.search(), ["FLAGS", "BODY.PEEK[]"]).values()
        }


def test_on_dovecot_everything_is_as_before(dovecot: Dovecot, state: Journal) -> None:
    """Bytes, keywords, \\Seen and place; what the user moved on, deleted or whose folder is gone is told."""
    names = ("back", "read", "moved on", "deleted", "homeless")
    mails = {name: raw(f"spam {name}", body="naïve\r\n.\r\n bytes ") for name in names}
    with dovecot.client("alice") as client:
        for name in "Lists", "Receipts":
            client.create_folder(name)
        for name, content in mails.items():
            client.append("Lists" if name == "homeless" else "INBOX", content, flags=["$Label2"])
    with real_mailbox(dovecot) as mailbox:
        work = job(state, lessons=Lessons(state))
        for folder in "INBOX", "Lists":
            list(pipeline.scan(work, mailbox, folder))
    assert _contents(dovecot, "INBOX") == {}
    with dovecot.client("alice") as client:
        client.select_folder("Junk")
        where = {name: client.search(["SUBJECT", name]) for name in names}
        client.add_flags(where["read"], ["\\Seen"])
        client.move(where["moved on"], "Receipts")
        client.delete_messages(where["deleted"])
        client.expunge(where["deleted"])
        client.close_folder()
        client.delete_folder("Lists")
    with real_mailbox(dovecot) as mailbox:
        chosen = choose(state, ["home"], since=datetime.fromtimestamp(0, UTC))["home"]
        results = undo(mailbox, state, "home", chosen)
        list(pipeline.scan(job(state, lessons=Lessons(state), judge_anew=True), mailbox, "INBOX"))
    assert sorted((one.folder or "", one.done) for one in results) == [
        ("", False), ("INBOX", True), ("INBOX", True), ("Junk", False), ("Receipts", False)]
    assert _contents(dovecot, "INBOX") == {
        mails["back"]: {b"$Label2"}, mails["read"]: {b"$Label2", b"\\Seen"}}
    assert _contents(dovecot, "Receipts") == {mails["moved on"]: {b"$Label2"}}
    assert _contents(dovecot, "Junk") == {mails["homeless"]: {b"$Label2", b"MailtaggerSpam", b"$Junk"}}
    assert Lessons(state).all() == []


def test_beside_a_running_daemon(tmp_path: Path, model: Path, dovecot: Dovecot) -> None:  # noqa: F811
    """It hears of each message that comes back at once, and neither files nor learns it; the same after a restart."""
    config = configured(tmp_path, model, account(dovecot, mode="apply", poll_seconds=1))
    command = [sys.executable, "-m", "mailtagger", "--config", str(config)]
    names = {f"spam{number}" for number in range(8)}
    log = tmp_path / "log"

    def running(deed: Callable[[Callable[[Callable[[], bool]], None]], None]) -> None:
        with log.open("wb") as err, subprocess.Popen([*command, "run"], stderr=err, cwd=ROOT) as daemon:
            try:
                eventually(lambda: "ready" in log.read_text(), daemon)
                deed(lambda condition: eventually(condition, daemon))
                time.sleep(2.5)  # two looks of the follower
            finally:
                daemon.terminate()
                daemon.wait(10)

    def first(wait: Callable[[Callable[[], bool]], None]) -> None:
        for name in names:
            dovecot.deliver("alice", message(SPAM_TEXT, name))
        wait(lambda: folder(dovecot, "Junk").keys() == names)
        time.sleep(1.5)
        done = subprocess.run([*command, "undo", "--since", "2000-01-01"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr

    running(first)
    running(lambda wait: None)
    assert folder(dovecot, "INBOX") == {name: set() for name in names}
    assert folder(dovecot, "Junk") == {}
    with Journal(tmp_path / "state" / FILE) as journal:
        assert Lessons(journal).all() == []
        assert journal.rows(dict, "SELECT id FROM intents WHERE state = 'open'") == []
