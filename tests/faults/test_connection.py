"""Faults 1 to 10: the connection breaks off while mail is read, and while it is marked and moved."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from mailtagger.parse import identify
from tests.faults.house import House, Tap
from tests.imap_server import needs_tools
from tests.running import message
from tests.tiny_model import HAM_TEXT

pytestmark = needs_tools

BODY = r"^UID FETCH .*BODY\.PEEK\[\]"
FLOW = 1000  # bytes a second, at which the answer to a FETCH takes seconds


@contextlib.contextmanager
def down(server: Any) -> Iterator[None]:
    """The server killed, and started again at the end."""
    server.kill()
    try:
        yield
    finally:
        server.start()


def read(tap: Tap, start: int) -> set[int]:
    """The UIDs whose text was asked for in INBOX, from the tap's `start`th command on."""
    uids: set[int] = set()
    opened: dict[str, str] = {}
    for number, (tag, command, _) in enumerate(tap.heard):
        if command.startswith(("SELECT", "EXAMINE")):
            opened[tag] = command
        if number >= start and re.search(BODY, command) and opened[tag] == "SELECT INBOX":
            for part in command.split()[2].split(","):
                first, _, last = part.partition(":")
                uids |= set(range(int(first), int(last or first) + 1))
    return uids


def check_whole(house: House) -> None:
    """Every message was judged once, and all of it."""
    judged = house.rows("SELECT ident FROM messages WHERE folder = 'INBOX' ORDER BY ident")
    assert judged == sorted((identify(raw),) for raw in house.delivered.values())


@pytest.mark.fault(1)
def test_01_server_killed_in_a_fetch(house: House) -> None:
    """Killed in the second FETCH, and in that again: what is in the journal is not read again, all is judged once."""
    def slow() -> None:
        proxy.throttle = FLOW if len(tap.commands(BODY)) in (2, 3) else 0

    tap, known = Tap(BODY, slow), []
    proxy = house.proxy(tap=tap)
    house.configure(proxy)
    house.start().end()
    ids = house.deliver(*(house.spam() if n % 5 == 0 else house.ham() for n in range(40)))
    daemon = house.bench.start()  # it is ready when it has worked this off
    for fetches in (2, 3):
        daemon.until(lambda fetches=fetches: len(tap.commands(BODY)) == fetches)  # type: ignore[misc]
        proxy.frozen = True
        known.append(({uid for (uid,) in house.rows("SELECT uid FROM messages")}, len(tap.heard)))
        with down(house.server):
            proxy.cut_all()
            proxy.throttle, proxy.frozen = 0, False
    daemon.ready()
    daemon.until(lambda: house.moved(8))
    daemon.until(lambda: house.rows("SELECT uidnext FROM folders") == house.rows("SELECT MAX(uid) + 1 FROM messages"))
    assert [(len(uids), read(tap, start) & uids) for uids, start in known] == [(25, set()), (25, set())]
    assert house.inside("Junk") == {id_ for id_ in ids if id_.startswith("spam")}
    assert house.lessons() == []
    check_whole(house)


@pytest.mark.fault(2)
@pytest.mark.parametrize("cut", [400, pytest.param(5000, marks=pytest.mark.quick)])
def test_02_cut_in_a_literal(house: House, cut: int) -> None:
    """Nothing is judged by half a message: it is read again, as a whole, and judged once."""
    proxy = house.proxy()
    house.configure(proxy)
    daemon = house.start()
    proxy.cut_at["server"] = max(connection.sent["server"] for connection in proxy.open) + 1000 + cut
    house.drop(message(100 * HAM_TEXT, "ham-long"))
    daemon.until(lambda: "ham by" in daemon.log)
    assert proxy.times == 0, "nothing was cut"
    assert daemon.log.count("ham by") == 1
    check_whole(house)


@pytest.mark.fault(2)
def test_02_cut_in_the_literal_of_a_lesson(house: House) -> None:
    """Nothing is learned from half a message: the whole of it teaches, once."""
    proxy = house.proxy()
    house.configure(proxy)
    daemon = house.start()
    [one] = house.drop(message(100 * HAM_TEXT, "ham-long"))
    daemon.until(lambda: house.rows("SELECT 1 FROM messages"))
    proxy.cut_at["server"] = max(connection.sent["server"] for connection in proxy.open) + 3000
    user = house.user()
    user.select_folder("INBOX")
    user.move(user.search(), "Junk")
    daemon.until(house.lessons)
    assert proxy.times == 0, "nothing was cut"
    assert house.rows("SELECT ident, label FROM lessons") == [(identify(house.delivered[one]), "spam")]
    assert house.inside("Junk") == {one}


@pytest.mark.fault(3)
def test_03_a_move_that_never_reached_the_server(house: House) -> None:
    """Still in INBOX: it is looked for in Junk first, and then moved once."""
    house.configure(house.proxy(("client", "cut", "UID MOVE"), tap=(tap := Tap())))
    daemon = house.start()
    [one] = house.drop(house.spam())
    house.check_moved(daemon, one)
    assert len(tap.commands("UID MOVE")) == 2
    again = next(tag for tag, command, _ in reversed(tap.heard) if command.startswith("UID MOVE"))
    commands = [command.split()[0] for tag, command, _ in tap.heard if tag == again]
    assert commands.index("EXAMINE") < len(commands) - 1


def moved_once(house: House, how: str) -> None:
    """A spam is moved, the answer ends as the proxy's rule says, and all is as after any move."""
    proxy = house.proxy(("reply", how, "UID MOVE"))
    house.configure(proxy)
    daemon = house.start()
    [one] = house.drop(house.spam())
    house.check_moved(daemon, one)
    assert proxy.rules[0].seen == 1


@pytest.mark.quick
@pytest.mark.fault(4)
def test_04_move_done_and_its_answer_lost(house: House) -> None:
    """It is found in Junk, not moved again, and not taken for the user's word."""
    moved_once(house, "cut")


@pytest.mark.fault(4)
def test_04_it_went_on_before_anyone_looked(house: House) -> None:
    """The user takes it out of Junk before the daemon is back: it stays where he put it, and as nobody saw that it had
    been moved, it teaches nothing. When he puts it into Junk after that, it was he, and not the move of before."""
    proxy = house.proxy(("reply", "cut", "UID MOVE"))
    house.configure(proxy)
    daemon = house.start()
    proxy.closed = True  # those that stand, stand
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk"))
    user = house.user()
    user.select_folder("Junk")
    user.move(user.search(), "INBOX")
    proxy.closed = False
    daemon.until(lambda: "ham by user" in daemon.log)
    assert house.inside("INBOX") == {one}
    assert house.settled()
    assert proxy.rules[0].seen == 1
    assert house.lessons() == []
    user.select_folder("INBOX")
    user.move(user.search(), "Junk")
    daemon.until(lambda: house.lessons() == [("spam", "moved")])


@pytest.mark.fault(5)
def test_05_the_answer_lost_by_a_reset(house: House) -> None:
    """A reset is a lost connection like any other: found in Junk, not moved again, not taken for the user's word."""
    proxy = house.proxy(("reply", "cut", "UID MOVE"), rst=True)
    house.configure(proxy)
    daemon = house.start()
    [one] = house.drop(house.spam())
    house.check_moved(daemon, one)
    assert proxy.rules[0].seen == 1
    assert "bug" not in daemon.log


@pytest.mark.fault(6)
def test_06_copyuid_seen_and_the_tagged_ok_lost(house: House) -> None:
    """Not moved again; the UID in Junk is noted as COPYUID told it, and the move is not taken for the user's word."""
    moved_once(house, "cutlast")


@pytest.mark.fault(7)
def test_07_a_move_that_hangs_for_ever(house: House) -> None:
    """After the read time-out there is a new connection, the message is found in Junk and not moved again."""
    proxy = house.proxy(("reply", "stall", "UID MOVE"))
    house.configure(proxy, read_timeout=2)
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: "did not answer in time (MOVE in INBOX)" in daemon.log)
    house.check_moved(daemon, one)
    assert proxy.rules[0].seen == 1


# Without MOVE


@pytest.mark.quick
@pytest.mark.fault(8)
def test_08_cut_between_copy_and_delete(house: House) -> None:
    """The original is deleted and expunged by its UID; there is no second copy."""
    house.configure(house.proxy(("reply", "cutpast", "UID COPY"), strip=["MOVE"], tap=(tap := Tap())))
    daemon = house.start()
    [one] = house.drop(house.spam())
    house.check_moved(daemon, one)
    [copy] = tap.commands("UID COPY")
    uid = copy.split()[2]
    assert tap.commands(r"\\Deleted|EXPUNGE") == [f"UID STORE {uid} +FLAGS.SILENT (\\Deleted)", f"UID EXPUNGE {uid}"]


@pytest.mark.fault(8)
@pytest.mark.parametrize("cut", ["UID COPY", r"UID STORE .*\\Deleted"])
def test_08_and_the_daemon_ended(house: House, cut: str) -> None:
    """In both folders when it ends: the journal lets the next start finish it, without a second copy."""
    proxy = house.proxy(("reply", "cutpast", cut), strip=["MOVE"], tap=(tap := Tap()))
    house.configure(proxy)
    daemon = house.start()
    proxy.closed = True
    [one] = house.drop(house.spam())
    daemon.until(lambda: "was lost" in daemon.log)
    daemon.end()
    assert sorted((place, id_) for place, id_, _, _ in house.everything()) == [("INBOX", one), ("Junk", one)]
    assert not house.settled()
    proxy.closed = False
    house.check_moved(house.start(), one)
    [copy] = tap.commands("UID COPY")
    assert tap.commands("EXPUNGE") == [f"UID EXPUNGE {copy.split()[2]}"]


@pytest.mark.fault(8)
def test_08_and_the_spam_folder_has_another_name(house: House) -> None:
    """In both folders when it ends, and the spam folder is called otherwise then: its copy is found, and not made
    again."""
    house.user().create_folder("Unwanted")
    proxy = house.proxy(("reply", "cutpast", "UID COPY"), strip=["MOVE"], tap=(tap := Tap()))
    house.configure(proxy, spam_folder="Unwanted")
    daemon = house.start()
    proxy.closed = True
    [one] = house.drop(house.spam())
    daemon.until(lambda: "was lost" in daemon.log)
    daemon.end()
    assert sorted((place, id_) for place, id_, _, _ in house.everything()) == [("INBOX", one), ("Unwanted", one)]
    house.user().rename_folder("Unwanted", "Bulk")
    proxy.closed = False
    house.configure(proxy, spam_folder="Bulk")
    daemon = house.start()
    daemon.until(lambda: house.inside("INBOX") == set() and house.settled())
    assert house.where() == {one: "Bulk"}
    assert len(tap.commands("UID COPY")) == 1


@pytest.mark.fault(8)
@pytest.mark.parametrize("cut", [r"UID STORE .*\\Deleted", "UID EXPUNGE"])
@pytest.mark.parametrize("then", ["filed", "deleted"])
def test_08_and_the_user_takes_the_copy_away(house: House, cut: str, then: str) -> None:
    """In both folders, and before that is finished he has moved the copy on, or deleted it: there is no second one."""
    proxy = house.proxy(("client", "cutpast" if "STORE" in cut else "cut", cut), strip=["MOVE"])
    house.configure(proxy)
    daemon = house.start()
    proxy.closed = True
    [one] = house.drop(house.spam())
    daemon.until(lambda: "was lost" in daemon.log)
    daemon.end()
    user = house.user()
    user.select_folder("Junk")
    if then == "filed":
        user.move(user.search(), "Archive")
    else:
        user.delete_messages(user.search())
        user.expunge()
        house.gone.add(one)
    proxy.closed = False
    daemon = house.start()
    daemon.until(house.settled)
    assert house.where() == ({one: "Archive"} if then == "filed" else {})


@pytest.mark.fault(9)
def test_09_cut_between_delete_and_expunge(house: House) -> None:
    """The one UID is expunged, and nothing else: not what the user has marked as deleted."""
    deleted_by_user = house.deliver(house.ham(), house.ham())
    user = house.user()
    user.select_folder("INBOX")
    user.delete_messages(user.search())
    proxy = house.proxy(("reply", "cutpast", r"UID STORE .*\\Deleted"), strip=["MOVE"], tap=(tap := Tap()))
    house.configure(proxy)
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.inside("INBOX") == set(deleted_by_user))
    daemon.until(house.settled)
    daemon.until(lambda: house.rows("SELECT 1 FROM sightings WHERE folder = 'Junk'"))
    [copy] = tap.commands("UID COPY")
    assert set(tap.commands("EXPUNGE")) == {f"UID EXPUNGE {copy.split()[2]}"}
    assert house.lessons() == []


@pytest.mark.quick
@pytest.mark.fault(10)
def test_10_neither_move_nor_uidplus(house: House) -> None:
    """Spam is marked and stays, which is said once: an EXPUNGE would take what the user has marked as deleted."""
    user = house.user()
    [deleted_by_user] = house.deliver(house.ham())
    user.select_folder("INBOX")
    user.delete_messages(user.search())
    proxy = house.proxy(strip=["MOVE", "UIDPLUS"], tap=(tap := Tap()))
    house.configure(proxy)
    daemon = house.start()
    ids = house.drop(house.spam(), house.spam())
    daemon.until(lambda: len(re.findall("spam by .*, marked", daemon.log)) == 2)
    assert house.inside("INBOX") == {deleted_by_user, *ids}
    assert [flags for _, id_, _, flags in house.everything() if id_ in ids] == [{"MailtaggerSpam", "$Junk"}] * 2
    assert tap.commands(r"MOVE|COPY|EXPUNGE|CLOSE|\\Deleted") == []
    assert daemon.log.count("neither MOVE nor UIDPLUS: spam is marked and not moved") == 1
    with house.journal() as journal:
        assert [note.kind for note in journal.notes()] == ["spam folder"]
