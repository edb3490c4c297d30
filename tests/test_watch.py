"""watch: a folder is kept judged through everything a server can do, and nothing is tried too often."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from mailtagger import watch, worker
from mailtagger.config import Account
from mailtagger.errors import ConfigError, LoginRefused, MailboxError, StateError, TryLater
from mailtagger.imap import Address
from mailtagger.journal import FAILED, Journal
from mailtagger.judge import Job
from mailtagger.pipeline import Outcome
from mailtagger.watch import Watcher
from mailtagger.worker import Backoff, Door
from tests.fakes import MemoryMailbox, MemoryServer
from tests.flow import Words, account, job, raw
from tests.imap_server import mailbox as alices
from tests.scripted_server import Scripted

SOON = 5.0  # seconds to wait for what takes milliseconds on an idle machine


@dataclass
class Watched:
    """A running watcher, and what it told."""

    watcher: Watcher
    server: MemoryServer
    mailbox: MemoryMailbox
    journal: Journal
    outcomes: list[Outcome] = field(default_factory=list)
    answers: list[Exception | None] = field(default_factory=list)

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + SOON
        while not condition():
            assert time.monotonic() < end, f"in vain; it told {self.outcomes} {self.answers}"
            time.sleep(0.005)

    def until_answered(self, times: int = 1) -> None:
        self.until(lambda: self.answers.count(None) >= times)

    def until_judged(self, count: int) -> None:
        self.until(lambda: len(self.outcomes) >= count)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waits but those that a test is about."""
    for name in ("FIRST_WAIT", "STUCK_WAIT", "FEW", "STATE_WAIT"):
        monkeypatch.setattr(worker, name, 0.01)
    monkeypatch.setattr(worker, "LONGEST_WAIT", 0.05)


@pytest.fixture
def watching(journal: Journal) -> Iterator[Callable[..., Watched]]:
    """Starts watchers, and ends them."""
    started: list[Watched] = []

    def start(box: MemoryMailbox | None = None, door: Door | None = None, folder: str = "INBOX",
              scorer: Words | None = None, longest_wait: float = 3600.0, **settings: Any) -> Watched:
        mailbox = box or MemoryMailbox()
        outcomes: list[Outcome] = []
        answers: list[Exception | None] = []
        words = scorer or Words()

        def make(of: Account, stop: Callable[[], bool]) -> Job:
            return job(journal, words, stop=stop, **of.model_dump(exclude_unset=True))

        watcher = Watcher(
            account(**settings), folder, mailbox, door or Door(), make, outcomes.append,  # type: ignore[arg-type]
            lambda _, error: answers.append(error), longest_wait,
        )
        watcher.start()
        started.append(Watched(watcher, mailbox.server, mailbox, journal, outcomes, answers))
        return started[-1]

    yield start
    for one in started:
        one.watcher.stop()
    for one in started:
        one.watcher.join(SOON)
        assert not one.watcher.is_alive()


# The usual


def test_mail_from_before_the_first_start_is_left_alone(watching: Callable[..., Watched]) -> None:
    """The first start judges nothing; what arrives then is judged, and known to the next start."""
    mailbox = MemoryMailbox()
    mailbox.server.deliver(raw("spam"))
    one = watching(mailbox)
    one.until_answered()
    assert one.outcomes == []
    one.server.deliver(raw("spam"))
    one.until_judged(1)
    assert (one.outcomes[0].uid, one.outcomes[0].done) == (2, True)
    one.watcher.stop()
    one.watcher.join(SOON)
    one.server.deliver(raw("spam"))  # while it is down
    two = watching(MemoryMailbox(one.server))
    two.until_judged(1)
    assert [outcome.uid for outcome in two.outcomes] == [3]
    assert len(one.server.raws("INBOX")) == 1


def test_news_is_dealt_with_at_once(watching: Callable[..., Watched]) -> None:
    """Between the server's word and the mark lie milliseconds, whatever the poll interval is."""
    one = watching(poll_seconds=3600)
    one.until_answered()
    for number in (1, 2, 3):
        one.server.deliver(raw("unsure"))
        one.until_judged(number)
    assert max(outcome.ms for outcome in one.outcomes) < 1000
    assert one.server.flags(3) == {"MailtaggerUnsure"}


@pytest.mark.parametrize("settings", [{"idle": False}, {}])
def test_polling_finds_what_idle_does_not_tell(watching: Callable[..., Watched], settings: dict[str, Any]) -> None:
    """Without IDLE, by the server or by choice, the clock's wake-up is enough."""
    mailbox = MemoryMailbox()
    mailbox.server.can_idle = bool(settings)
    one = watching(mailbox, poll_seconds=3600, **settings)
    one.until_answered()
    one.server.deliver(raw("spam"))
    time.sleep(0.3)
    assert one.outcomes == []
    one.watcher.wake()
    one.until_judged(1)


def test_polling_does_not_need_the_clock(watching: Callable[..., Watched]) -> None:
    """If the wake-up never comes, the wait has an end of its own."""
    mailbox = MemoryMailbox()
    mailbox.server.can_idle = False
    one = watching(mailbox, longest_wait=0.05)
    one.until_answered()
    one.server.deliver(raw("spam"))
    one.until_judged(1)
    assert "poll" in mailbox.calls


def test_news_that_comes_along_with_an_answer_is_not_missed() -> None:
    """EXISTS behind the results of a SEARCH that does not hold that message: IDLE would never tell it again."""
    with Scripted({"^UID SEARCH UID 4": "* SEARCH\n* 4 EXISTS\n{tag} OK done"}) as server, alices(server) as real:
        real.select("INBOX")
        assert real.uids(4) == []
        began = time.monotonic()
        assert real.idle(5, lambda: False)
        assert time.monotonic() - began < 1
        assert not real.idle(0.1, lambda: False)


def test_a_backlog_is_worked_off_in_passes(watching: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    """Many messages after a night: each is judged once, and the watermark rises with every pass."""
    monkeypatch.setattr(watch.pipeline, "PASS", 10)
    one = watching()
    one.until_answered()
    one.watcher.stop()
    one.watcher.join(SOON)
    for _ in range(35):
        one.server.deliver(raw())
    two = watching(MemoryMailbox(one.server))
    two.until_judged(35)
    two.until_answered()
    assert [outcome.uid for outcome in two.outcomes] == list(range(1, 36))
    row = two.journal.folder("home", "INBOX")
    assert row is not None
    assert row.uidnext == 36


def test_nothing_is_written_to_the_server_while_nothing_happens(watching: Callable[..., Watched]) -> None:
    """An idle folder costs one poll an interval."""
    one = watching()
    one.until_answered()
    for times in (2, 3, 4):
        one.watcher.wake()
        one.until_answered(times)
    assert set(one.mailbox.calls) <= {"connect", "select", "spam_folder", "folders", "uids", "idle", "poll"}
    assert one.mailbox.calls.count("poll") == 3


def test_a_new_model_is_taken_up_without_a_new_connection(watching: Callable[..., Watched]) -> None:
    """The job is asked for again for every pass."""
    words = Words("words-1")
    one = watching(scorer=words)
    one.until_answered()
    words.model = "words-2"
    one.server.deliver(raw())
    one.until_judged(1)
    assert (one.outcomes[0].model, one.mailbox.calls.count("connect")) == ("words-2", 1)


# The server goes away, or says no


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "method", ["connect", "select", "spam_folder", "uids", "fetch", "add_keywords", "move", "idle"]
)
def test_a_cut_anywhere_is_survived(watching: Callable[..., Watched], method: str, after: bool) -> None:
    """It connects again and goes on: the message is moved once."""
    one = watching()
    one.until_answered()
    one.mailbox.fail(method, TryLater("cut"), after=after)
    if method in ("connect", "select", "spam_folder"):
        one.mailbox.interrupt()
    content = raw("spam")
    one.server.deliver(content)
    one.until(lambda: one.server.raws("Junk"))
    one.until(lambda: not one.journal.open_intents_of("home"))
    one.until_answered(2)
    assert (one.server.raws("INBOX"), one.server.raws("Junk")) == ([], [content])


def test_a_short_absence_is_not_worth_a_warning(
    watching: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    """Servers hang up now and then; only what lasts is noted for `status`, once, and taken back."""
    one = watching()
    one.until_answered()
    one.mailbox.interrupt()
    one.until_answered(2)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    one.mailbox.fail("connect", TryLater("refused"), times=8)
    one.mailbox.interrupt()
    one.until(lambda: one.journal.notes())
    assert [note.text for note in one.journal.notes()] == ["refused"]
    one.until(lambda: not one.journal.notes())
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["home/INBOX: refused"]


def test_waits_grow_and_differ() -> None:
    """1, 2, 4 … seconds, none above the longest, each shortened by up to half; after a success from the start."""
    backoff = Backoff(1.0, 300.0)
    waits = [backoff.wait() for _ in range(12)]
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits[:8]))
    assert all(150 <= wait <= 300 for wait in waits[9:])
    assert len(set(waits)) == 12
    backoff.reset()
    assert backoff.wait() <= 1.0


def test_a_storm_of_cuts_is_met_with_growing_waits(
    watching: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cuts after each login is not asked more and more often, although each login succeeds."""
    monkeypatch.setattr(worker, "LONGEST_WAIT", 60.0)
    mailbox = MemoryMailbox()
    mailbox.fail("select", TryLater("cut"), times=1000)
    watching(mailbox)
    time.sleep(1.0)
    assert 3 <= mailbox.calls.count("connect") <= 9


def test_a_login_that_takes_its_time_to_fail_is_no_steady_session(
    watching: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a session is: where each login runs into a time-out the waits grow all the same."""
    monkeypatch.setattr(worker, "LONGEST_WAIT", 60.0)
    monkeypatch.setattr(worker, "STEADY", 0.01)

    class Silent(MemoryMailbox):
        def connect(self) -> None:
            self.calls.append("connect")
            time.sleep(0.02)
            raise TryLater("no answer")

    mailbox = Silent()
    watching(mailbox)
    time.sleep(1.0)
    assert 3 <= mailbox.calls.count("connect") <= 9


@pytest.mark.parametrize("error", [LoginRefused("wrong password"), ConfigError("no password")])
def test_a_wrong_password_is_not_repeated(
    watching: Callable[..., Watched], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Three tries for the whole account, however many folders it has, and one line; then a long wait."""
    server, door = MemoryServer(), Door()
    mailboxes = [MemoryMailbox(server) for _ in range(3)]
    for mailbox in mailboxes:
        mailbox.fail("connect", error, times=100)  # type: ignore[arg-type]
    watched = [watching(mailbox, door) for mailbox in mailboxes]
    time.sleep(0.5)
    assert sum(mailbox.calls.count("connect") for mailbox in mailboxes) == worker.REFUSED_TRIES
    assert len([record for record in caplog.records if "password" in record.message]) == 1
    assert [note.folder for note in watched[0].journal.notes()] == [""]


def test_one_account_does_not_hold_up_another(watching: Callable[..., Watched]) -> None:
    """While one server refuses everything, mail on the other is judged."""
    dead = MemoryMailbox()
    dead.fail("connect", LoginRefused("wrong password"), times=100)
    watching(dead, name="work")
    one = watching(name="home")
    one.until_answered()
    one.server.deliver(raw("spam"))
    one.until_judged(1)


def test_a_missing_folder_is_said_once_and_looked_for_again(
    watching: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    """When it is there again, the work goes on, and the note goes."""
    one = watching(folder="Lists")
    one.until(lambda: len(one.answers) >= 3)
    assert [type(error) for error in one.answers[:3]] == [MailboxError] * 3
    assert [record.message for record in caplog.records if "no folder Lists" in record.message][1:] == []
    one.until(lambda: not one.mailbox.connected)  # no connection is kept for nothing
    one.server.folders["Lists"] = type(one.server.folders["INBOX"])()
    one.until_answered()
    assert one.journal.notes() == []
    one.server.deliver(raw("unsure"), "Lists")
    one.until_judged(1)


def test_a_refused_move_is_tried_again_later(watching: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, on the same connection, without judging anew."""
    monkeypatch.setattr(watch, "RETRY_WAIT", 0.05)
    mailbox = MemoryMailbox()
    mailbox.server.folders["Junk"].refuse = "[OVERQUOTA] full"
    one = watching(mailbox)
    one.until_answered()
    one.server.deliver(raw("spam"))
    one.until_judged(1)
    assert one.outcomes[0].done is False
    one.server.folders["Junk"].refuse = ""
    one.until(lambda: one.watcher.wake() or one.server.raws("Junk"))
    assert (len(one.outcomes), mailbox.calls.count("connect")) == (1, 1)


def test_a_full_disk_is_waited_out(watching: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    """No move without its journal line; when there is room, the mail is dealt with, however long it took."""
    one = watching()
    one.until_answered()
    full = True
    record = one.journal.record

    def write(*arguments: Any, **more: Any) -> None:
        if full:
            raise StateError("The disk is full.")
        record(*arguments, **more)

    monkeypatch.setattr(one.journal, "record", write)
    one.server.deliver(raw("spam"))
    one.until(lambda: sum(isinstance(error, StateError) for error in one.answers) > watch.GIVE_UP + 1)
    assert len(one.server.raws("INBOX")) == 1
    full = False
    one.until_judged(1)
    assert one.server.raws("INBOX") == []


def test_a_bug_is_logged_and_survived(
    watching: Callable[..., Watched], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even what nobody thought of leaves a traceback and no dead thread."""
    one = watching()
    one.until_answered()
    one.mailbox.fail("uids", KeyError("never thought of"))  # type: ignore[arg-type]
    one.server.deliver(raw("spam"))
    one.until_judged(1)
    assert [record.exc_info is not None for record in caplog.records if "bug" in record.message] == [True]


# Odd folders and messages


def test_a_renumbered_folder_is_watched_anew(watching: Callable[..., Watched]) -> None:
    """New watermark, nothing old is judged again, and `status` names the command for what may have been missed."""
    one = watching()
    one.until_answered()
    one.server.deliver(raw("hello"))
    one.until_judged(1)
    one.server.renumber("INBOX")
    one.mailbox.interrupt()  # as Dovecot does
    one.until(one.journal.notes)
    assert len(one.outcomes) == 1
    [note] = one.journal.notes()
    assert (note.kind, "mailtagger scan --account home --folder INBOX --since" in note.text) == ("numbering", True)
    one.server.deliver(raw("unsure"))
    one.until_judged(2)
    assert one.outcomes[1].uid == 1002


def test_a_folder_that_is_always_renumbered_is_given_up(watching: Callable[..., Watched]) -> None:
    """Some servers invent a UIDVALIDITY for each session: after three in an hour nothing is done there any more."""

    class Odd(MemoryMailbox):
        def select(self, folder: str) -> Any:
            self.server.folders[folder].uidvalidity += 1
            return super().select(folder)

    one = watching(Odd())
    one.until_answered()
    for _ in range(watch.RENUMBERINGS):
        answers = len(one.answers)
        one.mailbox.interrupt()
        one.until(lambda answers=answers: len(one.answers) > answers + 1)  # type: ignore[misc]
    one.until(lambda: isinstance(one.answers[-1], MailboxError))
    one.server.deliver(raw("spam"))
    time.sleep(0.2)
    assert one.outcomes == []


def test_a_message_that_breaks_the_connection_is_passed_by(watching: Callable[..., Watched]) -> None:
    """Some servers die of one message: it is found, journalled as failed, and those behind it are judged."""

    class Fragile(MemoryMailbox):
        def fetch(self, uids: Any) -> Iterator[Any]:
            for uid in uids:
                if uid == 2:
                    self.close()
                    raise TryLater("the server closed the connection")
                yield from super().fetch([uid])

    one = watching(Fragile())
    one.until_answered()
    for _ in range(4):
        one.server.deliver(raw("unsure"))
    one.until(lambda: {outcome.uid for outcome in one.outcomes} == {1, 3, 4})
    row = one.journal.judged("home", Address("INBOX", 1, 2))
    assert row is not None
    assert (row.verdict, row.notes[0].startswith(FAILED)) == ("unsure", True)


# The end


@pytest.mark.parametrize("idle", [True, False])
def test_stop_ends_a_wait(watching: Callable[..., Watched], idle: bool) -> None:
    """In IDLE or between polls, it takes at most the second after which IDLE asks."""
    one = watching(idle=idle, poll_seconds=3600)
    one.until_answered()
    began = time.monotonic()
    one.watcher.stop()
    one.watcher.join(SOON)
    assert time.monotonic() - began < 2


def test_stop_ends_a_long_pause(watching: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refused password it would wait a quarter of an hour."""
    mailbox = MemoryMailbox()
    mailbox.fail("connect", LoginRefused("wrong password"), times=100)
    one = watching(mailbox)
    one.until(lambda: mailbox.calls.count("connect") == worker.REFUSED_TRIES)
    began = time.monotonic()
    one.watcher.stop()
    one.watcher.join(SOON)
    assert time.monotonic() - began < 1


def test_interrupt_ends_a_stalled_read(watching: Callable[..., Watched]) -> None:
    """A server that says nothing any more is hung up on, from another thread."""

    class Stalled(MemoryMailbox):
        reading, released = threading.Event(), threading.Event()

        def uids(self, *arguments: Any, **more: Any) -> list[int]:
            self.reading.set()
            self.released.wait(60)
            raise TryLater("the connection was lost")

        def interrupt(self) -> None:
            self.released.set()

    one = watching(Stalled())
    one.until(Stalled.reading.is_set)
    one.watcher.stop()
    one.watcher.join(0.2)
    assert one.watcher.is_alive()
    one.watcher.interrupt()
    one.watcher.join(SOON)
    assert not one.watcher.is_alive()


def test_stop_in_the_middle_of_many_loses_none(watching: Callable[..., Watched]) -> None:
    """What was not reached is judged by the next start; nothing is judged twice."""

    class Slow(Words):
        def score(self, text: str) -> Any:
            time.sleep(0.01)
            return super().score(text)

    words = Slow()
    one = watching(scorer=words)
    one.until_answered()
    with one.server.changed:
        for _ in range(60):
            one.server.deliver(raw("unsure"))
    one.until(lambda: len(words.texts) > 5)
    one.watcher.stop()
    one.watcher.join(SOON)
    assert len(words.texts) < 60
    two = watching(MemoryMailbox(one.server), scorer=words)
    two.until_answered()
    assert len(words.texts) == 60
    assert all(one.server.flags(uid) == {"MailtaggerUnsure"} for uid in range(1, 61))


def test_folders_side_by_side(watching: Callable[..., Watched]) -> None:
    """Two folders of one account, each with a connection of its own."""
    server, door = MemoryServer(), Door()
    server.folders["Lists"] = type(server.folders["INBOX"])()
    watched = [watching(MemoryMailbox(server), door, folder) for folder in ("INBOX", "Lists")]
    for one in watched:
        one.until_answered()
        one.server.deliver(raw("unsure"), one.watcher.folder)
    for one in watched:
        one.until_judged(1)
        assert [outcome.folder for outcome in one.outcomes] == [one.watcher.folder]
