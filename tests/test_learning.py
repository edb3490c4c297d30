"""Learning as its user sees it: the daemon runs, his own mail program moves mail about, and Dovecot is between them."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailtagger.dovecot import Dovecot
from mailtagger.imap import Mailbox
from mailtagger.lessons import Lessons
from tests.imap_server import Tool, needs_dovecot, needs_tools
from tests.newsletters import newsletter
from tests.running import Bench, Daemon, account, found, ham, spam

pytestmark = needs_dovecot


def taught(bench: Bench) -> list[tuple[str, str, str | None]]:
    """(label, source, what had been said) of each lesson."""
    with bench.journal() as journal:
        return [(lesson.label, lesson.source, lesson.verdict) for lesson in Lessons(journal).all()]


def drag(alice: Mailbox, id_: str, folder: str, target: str) -> None:
    """Alice moves a message."""
    alice.select(folder)
    [uid] = [m.address.uid for m in alice.fetch(alice.uids()) if f"<{id_}@test>".encode() in m.raw]
    assert alice.move([uid], target).done


def judged(daemon: Daemon, count: int) -> Callable[[], bool]:
    return lambda: daemon.log.count("/INBOX UID ") >= count


def test_dragging_teaches_and_a_rescued_message_stays(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """Into Junk is spam, out of it is ham; what was rescued stays through moves, a kill and restarts."""
    bench.configure(account(dovecot, poll_seconds=1))
    daemon = bench.start().ready()
    for content in (ham("1"), spam("1")):
        dovecot.deliver("alice", content)
    daemon.until(lambda: len(found(alice, "Junk")) == 1 and daemon.log.count("INBOX UID ") >= 2)
    drag(alice, "ham-1", "INBOX", "Junk")
    daemon.until(lambda: "learned as spam (moved)" in daemon.log)
    drag(alice, "spam-1", "Junk", "INBOX")
    daemon.until(lambda: "by user" in daemon.log)
    assert taught(bench) == [("spam", "moved", "ham"), ("ham", "moved", "spam")]
    daemon.process.kill()
    daemon.process.wait()
    again = bench.start().ready()
    drag(alice, "spam-1", "INBOX", "Junk")
    again.until(lambda: "learned as spam" in again.log.split("mailtagger 0")[-1])
    drag(alice, "spam-1", "Junk", "INBOX")
    again.until(lambda: taught(bench)[-1][0] == "ham" and len(taught(bench)) == 2)
    assert again.end() < 5
    third = bench.start().ready()
    time.sleep(2.5)
    assert third.end() < 5
    assert set(found(alice, "INBOX")) == {"spam-1"}
    assert set(found(alice, "Junk")) == {"ham-1"}
    assert taught(bench) == [("spam", "moved", "ham"), ("ham", "moved", "spam")]  # what we had said, not the user


def test_mail_from_before_the_first_start_teaches_when_it_is_dragged(
    bench: Bench, dovecot: Dovecot, alice: Mailbox
) -> None:
    """We never judged it; that its user puts it into Junk is his word all the same."""
    with dovecot.client("alice") as client:
        client.append("INBOX", ham("old"), msg_time=datetime.now(UTC) - timedelta(hours=1))
    bench.configure(account(dovecot, poll_seconds=1))
    daemon = bench.start().ready()
    time.sleep(1.5)
    drag(alice, "ham-old", "INBOX", "Junk")
    daemon.until(lambda: "learned as spam" in daemon.log)
    assert taught(bench) == [("spam", "moved", None)]


def test_a_mail_programs_keyword_teaches(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """$NotJunk on what was marked as spam, in mode observe, where nothing is moved."""
    bench.configure(account(dovecot, poll_seconds=1, mode="observe"))
    daemon = bench.start().ready()
    dovecot.deliver("alice", spam("1"))
    daemon.until(judged(daemon, 1))
    time.sleep(1.5)
    alice.select("INBOX")
    alice.remove_keywords([1], ["$Junk"])
    alice.add_keywords([1], ["$NotJunk"])
    daemon.until(lambda: "learned as ham (keyword)" in daemon.log)
    assert taught(bench) == [("ham", "keyword", "spam")]


def test_nothing_is_touched_by_following(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """What lies in Junk and Archive keeps its flags and stays unread, whatever is learned of it."""
    for folder in ("Junk", "Archive"):
        dovecot.deliver("alice", ham(folder), folder)
    bench.configure(account(dovecot, poll_seconds=1))
    daemon = bench.start().ready()
    dovecot.deliver("alice", ham("1"))
    daemon.until(judged(daemon, 1))
    drag(alice, "ham-1", "INBOX", "Junk")
    daemon.until(lambda: "learned as spam" in daemon.log)
    assert found(alice, "Junk") == {"ham-Junk": set(), "ham-1": set()}
    assert found(alice, "Archive") == {"ham-Archive": set()}


def letter(week: int) -> bytes:
    subject, body = newsletter(week)
    return (
        f"Message-ID: <letter-{week}@test>\r\nFrom: Vita Health <news@vitahealth.example>\r\nTo: alice@example.org\r\n"
        f"List-Id: <weekly.vitahealth.example>\r\nSubject: {subject}\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n"
        + body.replace("\n", "\r\n")
    ).encode()


def test_the_sixth_newsletter_stays(bench: Bench, dovecot: Dovecot, alice: Mailbox) -> None:
    """The packaged model files five newsletters; their reader takes them back; the sixth is not filed."""
    bench.configure(account(dovecot, poll_seconds=1, spam_cutoff=0.85), model=None)
    daemon = bench.start().ready()
    for week in range(5):
        dovecot.deliver("alice", letter(week))
    daemon.until(lambda: len(found(alice, "Junk")) == 5)
    for week in range(5):
        drag(alice, f"letter-{week}", "Junk", "INBOX")
    daemon.until(lambda: len(taught(bench)) == 5)
    dovecot.deliver("alice", letter(5))
    daemon.until(lambda: "letter-5" in found(alice, "INBOX") and daemon.log.count("INBOX UID ") >= 11)
    assert found(alice, "INBOX")["letter-5"] <= {"MailtaggerUnsure"}
    assert taught(bench) == [("ham", "moved", "spam")] * 5


@needs_tools
def test_on_cyrus(bench: Bench, tmp_path: Path) -> None:
    """The same table on another server."""
    with Tool("cyrus-up") as server:
        from tests.imap_server import mailbox

        with mailbox(server) as alice:
            junk = alice.spam_folder(None)
            bench.configure(account(server, poll_seconds=1))
            daemon = bench.start().ready()
            for content in (ham("1"), spam("1")):
                server.deliver("alice", content)
            daemon.until(lambda: len(found(alice, junk)) == 1 and daemon.log.count("INBOX UID ") >= 2)
            drag(alice, "ham-1", "INBOX", junk)
            daemon.until(lambda: "learned as spam (moved)" in daemon.log)
            drag(alice, "spam-1", junk, "INBOX")
            daemon.until(lambda: "by user" in daemon.log)
            assert taught(bench) == [("spam", "moved", "ham"), ("ham", "moved", "spam")]
            assert re.search("letter", daemon.log) is None
