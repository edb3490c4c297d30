"""Faults 42 to 46: numbers that are missing, wrong or given out again, and one message in two folders."""

import contextlib
import time

import pytest

from tests.faults.house import House, Tap
from tests.faults.test_uids import QUIET, moved, scan
from tests.imap_server import needs_tools

pytestmark = needs_tools


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
    daemon.until(lambda: daemon.log.count(" by tiny-") == 2)
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]


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
