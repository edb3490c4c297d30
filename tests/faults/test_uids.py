"""Faults 27, 28 and 41 to 46: numbers of messages that change, are missing, are many, or belong to the same message."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import kept
from tests.faults.house import Cyrus, House, Tap
from tests.faults.test_folders import delete_junk
from tests.imap_server import Tool, needs_tools
from tests.running import Bench, Daemon, message

pytestmark = needs_tools

QUIET = 3.0  # seconds, of which each has a poll interval, in which nothing must happen
WHERE = "SELECT account, folder, uidvalidity, uid, ident, verdict FROM messages ORDER BY rowid"
LESSONS = "SELECT ident, label, source, at FROM lessons ORDER BY id"


def moved(house: House, daemon: Daemon, *ids: str) -> None:
    daemon.until(lambda: set(ids) <= house.inside("Junk") and house.settled())


def taught(house: House, daemon: Daemon) -> dict[str, str]:
    """A rescued message, one that was dragged into the spam folder, one moved by us and one from before we came."""
    user = house.user()
    rescued, ours, dragged = house.drop(house.spam(), house.spam(), house.ham())
    moved(house, daemon, rescued, ours)
    daemon.until(lambda: len(house.rows("SELECT uid FROM sightings")) == 2)
    user.select_folder("Junk")
    user.move(user.search(["HEADER", "Message-ID", f"<{rescued}@test>"]), "INBOX")
    user.select_folder("INBOX")
    user.move(user.search(["HEADER", "Message-ID", f"<{dragged}@test>"]), "Junk")
    user.unselect_folder()
    daemon.until(lambda: len(house.rows(LESSONS)) == 2)
    return {rescued: "INBOX", ours: "Junk", dragged: "Junk"}


def followed_anew(house: House, before: set[int]) -> bool:
    """Whether each folder that teaches was looked at under its new number."""
    found = {number for (number,) in house.rows("SELECT uidvalidity FROM followed")}
    return not found & before


def numbers(house: House) -> set[int]:
    return {number for (number,) in house.rows("SELECT uidvalidity FROM followed")}


@pytest.mark.fault(27)
def test_27_uidvalidity_changes_while_connected(house: House) -> None:
    """Old mail is neither judged nor learned anew, and what was rescued is never filed again; new mail is judged."""
    old = house.deliver(house.spam())
    house.configure(proxy := house.proxy(), folders=["INBOX"])
    daemon = house.start()
    places = taught(house, daemon) | {old[0]: "INBOX"}
    judged, lessons, before = house.rows(WHERE), house.rows(LESSONS), numbers(house)
    if isinstance(house.server, Cyrus):
        proxy.add("server", "sub", r"UIDVALIDITY \d+", "UIDVALIDITY 77")
        proxy.cut_all()
    else:
        for folder in ("INBOX", "Junk", "Archive"):
            house.server.doveadm("mailbox", "update", "--uid-validity", "77", "-u", "alice", folder)
    daemon.until(lambda: "The server renumbered this folder" in daemon.log)
    daemon.until(lambda: followed_anew(house, before))
    [new] = house.drop(house.spam())
    moved(house, daemon, new)
    time.sleep(QUIET)
    assert house.where() == places | {new: "Junk"}
    assert house.rows(WHERE)[: len(judged)] == judged
    assert len(house.rows(WHERE)) == len(judged) + 1
    assert house.rows(LESSONS) == lessons
    assert daemon.log.count("The server renumbered this folder") == 1


def junk_made_anew(house: House) -> None:
    """Junk with the same mail under other UIDs, as after a move to another server."""
    user = house.user()
    user.create_folder("Elsewhere")
    user.select_folder("Junk")
    user.move(user.search(), "Elsewhere")
    user.unselect_folder()
    delete_junk(user)
    user.create_folder("Junk")
    user.append("Junk", message("first", "first"))
    house.expects(message("first", "first"))
    user.select_folder("Elsewhere")
    for uid in reversed(user.search()):
        user.move([uid], "Junk")
    user.unselect_folder()
    user.delete_folder("Elsewhere")


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.fault(28)
def test_28_uidvalidity_changes_while_down(house: House, anew: bool) -> None:
    """As while connected: nothing old is judged, learned or filed again, even where the UIDs are others, too."""
    old = house.deliver(house.spam())
    house.configure(house.proxy(), spam_folder="Junk")
    daemon = house.start()
    places = taught(house, daemon) | {old[0]: "INBOX"}
    daemon.end()
    judged, lessons, before = house.rows(WHERE), house.rows(LESSONS), numbers(house)
    if anew:
        junk_made_anew(house)
        places["first"] = "Junk"
    house.configure(house.proxy(("server", "sub", r"UIDVALIDITY \d+", "UIDVALIDITY 42")), spam_folder="Junk")
    daemon = house.start()
    daemon.until(lambda: followed_anew(house, before))
    [new] = house.drop(house.spam())
    moved(house, daemon, new)
    assert house.where() == places | {new: "Junk"}
    assert house.rows(WHERE)[: len(judged)] == judged
    assert house.rows(LESSONS) == lessons
    daemon.end()
    assert scan(house).returncode == 0  # the old spam, which the user has not touched, and nothing that he has
    assert house.where() == places | {new: "Junk", old[0]: "Junk"}
    daemon = house.start()
    time.sleep(QUIET)
    assert house.rows(LESSONS) == lessons


def scan(house: House) -> subprocess.CompletedProcess[str]:
    """`mailtagger scan --apply` over the INBOX."""
    command = [sys.executable, "-m", "mailtagger", "--config", str(house.bench.path), "scan", "--folder", "INBOX"]
    own = {"MAILTAGGER_HOME_PASSWORD": "secret", "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    command += ["--apply", "--yes"]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def roomy(bench: Bench) -> Iterator[House]:
    """A house on a Dovecot that stores thousands of messages within seconds."""
    with Tool("dovecot-up", "--storage", "mdbox") as server:
        yield from kept(server, bench)


def stored(house: House, count: int, folder: str = "INBOX", every: int = 2) -> list[str]:
    """So many short messages; only every nth UID is left."""
    user = house.user()
    ids = []
    for start in range(0, count * every, 600):
        batch = {f"{folder}-{number}": message("Lunch on Tuesday?", f"{folder}-{number}")
                 for number in range(start, min(start + 600, count * every))}
        user.multiappend(folder, list(batch.values()))
        ids += list(batch)[every - 1 :: every]
        house.expects(*(batch[id_] for id_ in list(batch)[every - 1 :: every]))
    user.select_folder(folder)
    uids = user.search()
    user._imap.uid("STORE", "1:*", "+FLAGS.SILENT", "(\\Deleted)")
    left = uids[every - 1 :: every]
    for start in range(0, len(left), 1000):
        user._imap.uid("STORE", ",".join(map(str, left[start : start + 1000])), "-FLAGS.SILENT", "(\\Deleted)")
    user.expunge()
    user.unselect_folder()
    return ids


def megabytes(daemon: Daemon) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.fault(41)
def test_41_first_start_on_thousands_of_messages(roomy: House) -> None:
    """None of 15,000 messages with sparse UIDs is judged or fetched; what arrives is; the memory is bounded."""
    house = roomy
    house.configure(house.server)
    empty = megabytes(daemon := house.start())
    daemon.end()
    (house.bench.directory / "state" / "journal.sqlite3").unlink()
    ids = stored(house, 15_000)
    assert len(ids) == 15_000
    junk = stored(house, 1_000, "Junk")
    house.configure(house.proxy(tap=(tap := Tap())))
    daemon = house.start()
    [new] = house.drop(house.spam())
    moved(house, daemon, new)
    daemon.until(lambda: len(house.rows("SELECT uid FROM sightings")) >= len(junk))
    assert house.rows("SELECT count(*) FROM messages") == [(1,)]
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]
    assert len(tap.commands(r"UID FETCH .*BODY.PEEK\[\]")) <= 2
    assert max(len(command) for _, command, _ in tap.heard) < 4200
    assert megabytes(daemon) < empty + 100


@pytest.mark.fault(41)
def test_41_many_new_messages(roomy: House) -> None:
    """What came while the daemon was away is worked off in portions, each message once."""
    house = roomy
    house.configure(house.proxy(tap=(tap := Tap())))
    daemon = house.start()
    daemon.end()
    ids = stored(house, 1_200, every=3)
    [one] = house.deliver(house.spam())
    daemon = house.start()
    daemon.until(lambda: house.rows("SELECT count(*) FROM messages") == [(len(ids) + 1,)], 90)
    moved(house, daemon, one)
    assert house.rows("SELECT count(DISTINCT message_id) FROM messages") == [(len(ids) + 1,)]
    assert max(len(command) for _, command, _ in tap.heard) < 4200


@pytest.mark.quick
@pytest.mark.fault(42)
def test_42_uids_near_the_end(dovecot_house: House) -> None:
    """Messages with UIDs up to 2^32-1 are judged, moved and remembered; beyond them there is quiet."""
    house = dovecot_house
    house.deliver(house.ham())
    house.server.doveadm("mailbox", "update", "--min-next-uid", "4294967290", "-u", "alice", "INBOX")
    house.configure()
    daemon = house.start()
    ids = house.drop(house.spam(), house.ham(), house.spam())
    moved(house, daemon, ids[0], ids[2])
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 3)
    assert {uid for (uid,) in house.rows("SELECT uid FROM messages")} == {4294967290, 4294967291, 4294967292}
    daemon.end()
    last = []
    with contextlib.suppress(RuntimeError):  # the folder is full
        for _ in range(3):
            last += house.deliver(house.ham())
    daemon = house.start()
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 3 + len(last))
    time.sleep(QUIET)
    assert "WARNING" not in daemon.log


@pytest.mark.quick
@pytest.mark.fault(42)
def test_42_no_uidnext(house: House) -> None:
    """Where the server tells no UIDNEXT the highest UID does: old mail is left alone, new mail is judged, once."""
    [old] = house.deliver(house.spam())
    house.configure(house.proxy(("server", "sub", r"(\[| )UIDNEXT \d+", r"\1X 1"), tap=(tap := Tap())))
    daemon = house.start()
    one, two = house.drop(house.spam(), house.ham())
    moved(house, daemon, one)
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 2)
    daemon.end()
    daemon = house.start()
    [three] = house.drop(house.spam())
    moved(house, daemon, three)
    assert house.where() == {old: "INBOX", one: "Junk", two: "INBOX", three: "Junk"}
    assert len(house.rows("SELECT uid FROM messages")) == 3
    assert "renumbered" not in daemon.log
    assert tap.commands(r"UID SEARCH UID \*")


@pytest.mark.fault(42)
def test_42_uidnext_that_is_far_too_high(house: House) -> None:
    """A UIDNEXT of 2^32-1 overflows nothing; when the server tells the true one, that is said, and mail is judged."""
    proxy = house.proxy(("server", "sub", r"UIDNEXT \d+", "UIDNEXT 4294967295"))
    house.configure(proxy)
    [old] = house.deliver(house.spam())
    daemon = house.start()
    time.sleep(QUIET)
    assert house.rows("SELECT uidnext FROM folders") == [(4294967295,)]
    proxy.rules.clear()
    daemon.end()
    daemon = house.start()
    [new] = house.drop(house.spam())
    moved(house, daemon, new)
    assert house.where() == {old: "INBOX", new: "Junk"}
    assert "The server renumbered this folder (UIDNEXT 4294967295 → " in daemon.log


@pytest.mark.quick
@pytest.mark.fault(43)
def test_43_the_last_old_message_is_no_news(house: House) -> None:
    """`UID n:*` always finds the last message; it is not fetched, neither when it is old nor when it was judged."""
    [old] = house.deliver(house.spam())
    house.configure(house.proxy(tap=(tap := Tap())))
    daemon = house.start()
    daemon.until(lambda: len(tap.commands(r"^UID SEARCH UID \d+:\*")) >= 3)
    assert tap.commands("UID FETCH") == []
    assert house.where() == {old: "INBOX"}
    [new] = house.drop(house.ham())
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 1)
    fetched, asked = len(tap.commands("UID FETCH")), len(tap.commands("^UID SEARCH"))
    daemon.until(lambda: len(tap.commands("^UID SEARCH")) >= asked + 3)
    assert len(tap.commands("UID FETCH")) == fetched
    assert house.where() == {old: "INBOX", new: "INBOX"}


NO_MODSEQ = {
    "no CONDSTORE": {"strip": ["CONDSTORE", "QRESYNC"]},
    "NOMODSEQ": {"rules": [("server", "sub", r"\[HIGHESTMODSEQ \d+\]", "[NOMODSEQ]"),
                           ("server", "sub", r"HIGHESTMODSEQ \d+", "HIGHESTMODSEQ 0")]},
}  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("how", NO_MODSEQ)
@pytest.mark.fault(44)
def test_44_no_modseq(house: House, how: str) -> None:
    """Corrections are found all the same: by comparing all marks."""
    options = dict(NO_MODSEQ[how])
    house.configure(house.proxy(*options.pop("rules", []), tap=(tap := Tap()), **options))
    daemon = house.start()
    marked, spam = house.drop(house.ham(), house.spam())
    moved(house, daemon, spam)
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 2)
    daemon.until(lambda: len(house.rows("SELECT uid FROM sightings")) == 1)
    user = house.user()
    user.select_folder("INBOX")
    user.add_flags(user.search(), ["$Junk"])
    daemon.until(lambda: house.rows("SELECT label, source FROM lessons") == [("spam", "keyword")])
    user.select_folder("Junk")
    user.move(user.search(), "INBOX")
    daemon.until(lambda: ("ham", "moved") in house.rows("SELECT label, source FROM lessons"))
    time.sleep(QUIET)
    assert len(house.rows("SELECT id FROM lessons")) == 2
    assert house.where() == {marked: "INBOX", spam: "INBOX"}
    assert tap.commands("KEYWORD")


@pytest.mark.fault(45)
def test_45_numbers_change_on_each_select(house: House) -> None:
    """After a few changes nothing is done in that folder any more, which is said with the reason; nothing is lost."""
    [old] = house.deliver(house.spam())
    proxy = house.proxy(tap=(tap := Tap()))
    house.configure(proxy)
    for number in range(1, 400):
        proxy.add("server", f"sub@{number}", r"UIDVALIDITY \d+", f"UIDVALIDITY {number}")
    daemon = house.bench.start()
    daemon.until(lambda: "The server renumbers this folder again and again" in daemon.log, 60)
    [new] = house.drop(house.spam())
    before = len(tap.commands("^SELECT"))
    time.sleep(QUIET)
    assert house.where() == {old: "INBOX", new: "INBOX"}
    assert len(tap.commands("^SELECT")) <= before + 1
    assert tap.commands("UID (STORE|MOVE|COPY)") == []
    assert daemon.log.count("again and again") == 1
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]


@pytest.mark.fault(45)
def test_45_uids_that_do_not_rise(dovecot_house: House) -> None:
    """A folder put back from a backup gives UIDs out again: a new message is judged, not taken for the old one."""
    house = dovecot_house
    house.configure(mode="observe")
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.rows("SELECT uidnext FROM folders") == [(2,)] and house.settled())
    daemon.end()
    user = house.user()
    user.select_folder("INBOX")
    [(validity,)] = house.rows("SELECT uidvalidity FROM folders")
    user.move(user.search(), "Archive")
    user.logout()
    house._open.pop_all()
    mail = house.server._state / "home" / "alice" / "mail"
    for path in mail.glob("dovecot*"):
        path.unlink()
    house.server.doveadm("mailbox", "update", "--uid-validity", str(validity), "-u", "alice", "INBOX")
    house.configure()
    daemon = house.start()
    two, three = house.drop(house.ham(), house.spam())
    moved(house, daemon, three)
    daemon.until(lambda: house.rows("SELECT count(*) FROM messages") == [(3,)])
    assert house.where() == {one: "Archive", two: "INBOX", three: "Junk"}
    assert "The server renumbered this folder (UIDNEXT 2 → 1)" in daemon.log


@pytest.mark.quick
@pytest.mark.fault(46)
def test_46_same_message_in_the_archive(house: House) -> None:
    """A label is a folder: what was moved out of one is not judged, moved or learned in the other."""
    house.configure(house.proxy())
    [one] = house.deliver(house.spam())
    user = house.user()
    user.select_folder("INBOX")
    user.copy(user.search(), "Archive")
    user.unselect_folder()
    house.twins.add(f"{one}@test")
    daemon = house.start()
    [new] = house.drop(house.spam())
    moved(house, daemon, new)
    copies = sorted(folder for folder, id_, _, _ in house.everything() if id_ == one)
    assert copies == ["Archive", "INBOX"]
    assert scan(house).returncode == 0
    time.sleep(QUIET)
    assert sorted(folder for folder, id_, _, _ in house.everything() if id_ == one) == ["Archive", "Junk"]
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]
    assert house.rows("SELECT DISTINCT folder FROM messages") == [("INBOX",)]


@pytest.mark.fault(46)
def test_46_same_message_in_two_watched_folders(house: House) -> None:
    """It is judged once; taken out of one by us, it is gone from the other as well, and nothing is tried twice."""
    user = house.user()
    user.create_folder("Label")
    house.configure(folders=["INBOX", "Label"], mode="observe")
    daemon = house.start()
    content = house.spam()
    [one] = house.drop(content)
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 1 and house.settled())
    house.twins.add(f"{one}@test")
    house.server.deliver("alice", content, "Label")
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 2 and house.settled())
    assert house.rows("SELECT folder FROM messages ORDER BY folder") == [("INBOX",), ("Label",)]
    assert len(set(house.rows("SELECT score, verdict, model FROM messages"))) == 1
    assert daemon.log.count(" by tiny-") == 2
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]


@pytest.mark.quick
@pytest.mark.fault(46)
def test_46_all_mail_is_not_watched(house: House) -> None:
    """What the server marks as \\All is neither watched by default nor teaches anything, though all mail lies in it."""
    user = house.user()
    user.create_folder("Everything")
    mark = ("server", "sub", r"^\* LIST \((.*Everything)", r"* LIST (\\All \1")
    house.configure(house.proxy(mark), teach_ham=["*"])
    daemon = house.start()
    [kept_there] = house.drop(house.spam(), folder="Everything")
    [one] = house.drop(house.spam())
    moved(house, daemon, one)
    time.sleep(QUIET)
    assert house.where() == {kept_there: "Everything", one: "Junk"}
    assert house.rows("SELECT DISTINCT folder FROM messages") == [("INBOX",)]
    assert "Everything" not in {name for (name,) in house.rows("SELECT name FROM followed")}
