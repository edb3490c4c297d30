"""Faults 27, 28 and 41: a folder that is numbered anew, and one with thousands of messages."""

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


@pytest.mark.fault(28)
def test_28_rescued_before_anyone_looked(house: House) -> None:
    """Moved, the answer lost, taken out of Junk again and the INBOX numbered anew before the next start: as it may have
    been rescued, it stays, and teaches nothing."""
    proxy = house.proxy(("reply", "cut", "UID MOVE"))
    house.configure(proxy)
    daemon = house.start()
    proxy.closed = True
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one})
    daemon.end()
    user = house.user()
    user.select_folder("Junk")
    user.move(user.search(), "INBOX")
    user.unselect_folder()
    house.configure(house.proxy(("server", "sub", r"UIDVALIDITY \d+", "UIDVALIDITY 42")))
    daemon = house.start()
    [new] = house.drop(house.spam())
    moved(house, daemon, new)
    assert house.where() == {one: "INBOX", new: "Junk"}
    assert house.lessons() == []
    assert scan(house).returncode == 0
    assert house.where() == {one: "INBOX", new: "Junk"}


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
