"""Faults 36 to 40: what a folder does not let us do: write, take away, find room, keep keywords."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import kept
from tests.faults.house import Cyrus, House, Tap
from tests.imap_server import Tool, needs_tools
from tests.running import Bench

pytestmark = needs_tools

QUIET = 4.0  # seconds, of which each has a poll interval, in which nothing must be repeated
SOON_AGAIN = "from mailtagger import watch; watch.RETRY_WAIT = 2.0"
TRIES = "UID (MOVE|COPY)"


@pytest.fixture(params=["dovecot", "cyrus"])
def limited(request: pytest.FixtureRequest, bench: Bench) -> Iterator[House]:
    """A house on a server with access rights, and the folder Lists."""
    with contextlib.ExitStack() as open_:
        if request.param == "dovecot":
            server: Any = open_.enter_context(Tool("dovecot-up", "--acl"))
        else:
            server = request.getfixturevalue("_cyrus")
            server.empty()
        with server.client("alice") as alice:
            alice.create_folder("Lists")
        if request.param == "cyrus":
            for folder in ("INBOX", "Junk", "Lists"):
                open_.callback(rights, server, folder, "lrswipkxtecdan")
        yield from kept(server, bench)


def rights(cyrus: Cyrus, folder: str, letters: str) -> None:
    """alice's rights, as the administrator gives them."""
    with cyrus.client("cyrus") as admin:
        admin.setacl("user/alice" if folder == "INBOX" else f"user/alice/{folder}", "alice", letters)


def allow(house: House, folder: str, letters: str) -> None:
    """alice has only these rights (RFC 4314) in this folder from now on."""
    if isinstance(house.server, Cyrus):
        rights(house.server, folder, letters)
        return
    house.user().select_folder(folder)  # so that it is there
    maildir = Path(house.server.env["MAIL_ROOT"], "alice/maildir", *([] if folder == "INBOX" else [f".{folder}"]))
    (maildir / "dovecot-acl").write_text(f"owner {letters}\n")
    (maildir / "dovecot-acl").chmod(0o644)


def noted(house: House, kind: str) -> list[tuple[Any, ...]]:
    return house.rows("SELECT folder, text FROM notes WHERE kind = ?", kind)


@pytest.mark.parametrize("letters", ["lr", "lrs"])
@pytest.mark.fault(36)
def test_36_read_only_folder(limited: House, letters: str) -> None:
    """It is said at the start, once; mail in it is judged and stays; no connection is made anew; the others go on."""
    house = limited
    house.configure(proxy := house.proxy(tap=(tap := Tap())), folders=["INBOX", "Lists"])
    allow(house, "Lists", letters + "ip")
    daemon = house.start()
    said = next(say for say in ("home/Lists: The folder is read-only for this account",
                                "home/Lists: The server keeps no keywords of ours in this folder") if say in daemon.log)
    [one] = house.drop(house.spam(), folder="Lists")
    [other] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {other})
    daemon.until(lambda: daemon.log.count(" spam by ") == 2)
    connections, tries = proxy.count, len(tap.commands(TRIES))
    time.sleep(QUIET)
    assert (proxy.count, connections) == (3, 3)  # two watchers, and who follows what the user does
    assert len(tap.commands(TRIES)) == tries <= 2
    assert daemon.log.count(said) == 1
    assert house.where() == {one: "Lists", other: "Junk"}


@pytest.mark.parametrize("strip", [[], ["MOVE"]])
@pytest.mark.fault(37)
def test_37_no_right_to_put_mail_into_the_spam_folder(limited: House, strip: list[str]) -> None:
    """The mail stays, marked; it is said once, with the way out; the next try comes minutes later."""
    house = limited
    allow(house, "Junk", "lr")
    house.configure(house.proxy(tap=(tap := Tap()), strip=strip))
    daemon = house.start()
    one, two = house.drop(house.spam(), house.spam())
    daemon.until(lambda: "tried again later" in daemon.log)
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 2)
    daemon.until(lambda: all({"MailtaggerSpam", "$Junk"} <= flags for *_, flags in house.everything("INBOX")))
    time.sleep(QUIET)
    assert house.where() == {one: "INBOX", two: "INBOX"}
    assert len(tap.commands(TRIES)) <= 2  # one of each pass
    assert daemon.log.count("tried again later") == 1
    assert "The account lacks the right to do this" in daemon.log or "Permission denied" in daemon.log


@pytest.mark.parametrize("strip", [[], ["MOVE"]])
@pytest.mark.fault(37)
def test_37_no_right_to_take_mail_out_of_the_inbox(limited: House, strip: list[str]) -> None:
    """The mail stays, marked; nothing is copied that cannot be taken away; it is said."""
    house = limited
    [one] = house.deliver(house.ham())
    allow(house, "INBOX", "lrwip" if isinstance(house.server, Cyrus) else "lrwi")
    house.configure(house.proxy(tap=(tap := Tap()), strip=strip))
    daemon = house.start()
    [two] = house.drop(house.spam())
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 1)
    daemon.until(lambda: any("MailtaggerSpam" in flags for *_, flags in house.everything("INBOX")))
    time.sleep(QUIET)
    assert house.where() == {one: "INBOX", two: "INBOX"}
    assert tap.commands("UID COPY") == []
    assert len(tap.commands("UID MOVE")) <= 1
    assert "not moved" in daemon.log


REFUSED = ("client", "refuse", TRIES, "NO [OVERQUOTA] Quota exceeded")


@pytest.mark.parametrize("strip", [[], ["MOVE"]])
@pytest.mark.fault(38)
def test_38_spam_folder_over_quota(house: House, strip: list[str]) -> None:
    """The mail stays, marked; it is said once; the next try comes minutes later, and moves it once there is room."""
    proxy = house.proxy(REFUSED, tap=(tap := Tap()), strip=strip)
    house.configure(proxy)
    daemon = house.start()
    ids = set(house.drop(house.spam()))
    daemon.until(lambda: "tried again later" in daemon.log)
    ids |= set(house.drop(house.spam(), house.spam()))
    daemon.until(lambda: len(house.rows("SELECT uid FROM messages")) == 3)
    time.sleep(QUIET)
    assert house.inside("INBOX") == ids
    assert all({"MailtaggerSpam", "$Junk"} <= flags for *_, flags in house.everything("INBOX"))
    assert len(tap.commands(TRIES)) <= 3  # when each arrived, and not again
    assert daemon.log.count("tried again later") == 1
    assert "OVERQUOTA" in daemon.log
    daemon.end()

    daemon = house.bench.start_with(SOON_AGAIN).ready()  # still no room
    before = len(tap.commands(TRIES))
    daemon.until(lambda: len(tap.commands(TRIES)) >= before + 2)
    assert daemon.log.count("tried again later") == 2  # what stands is said at each start
    proxy.rules.pop()
    daemon.until(lambda: house.inside("Junk") == ids and house.settled())
    daemon.until(lambda: noted(house, "move") == [])


SYSTEM_FLAGS = r"PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)"
NO_KEYWORDS = ("server", "sub", r"PERMANENTFLAGS \([^)]*\)", SYSTEM_FLAGS)


@pytest.mark.quick
@pytest.mark.parametrize("instead", ["move_only", "flagged"])
@pytest.mark.fault(39)
def test_39_no_keywords(house: House, instead: str) -> None:
    """It is said once; spam is moved, with \\Flagged or without a mark as configured; nothing is set in vain."""
    house.configure(house.proxy(NO_KEYWORDS, tap=(tap := Tap())), without_keywords=instead)
    daemon = house.start()
    ids = house.drop(house.spam(), house.ham(), house.spam())
    daemon.until(lambda: house.inside("Junk") == {ids[0], ids[2]} and house.settled())
    flags = {id_: flags for _, id_, _, flags in house.everything()}
    assert flags[ids[0]] == flags[ids[2]] == ({"\\Flagged"} if instead == "flagged" else set())
    assert flags[ids[1]] == set()
    assert len(tap.commands("UID STORE")) <= (2 if instead == "flagged" else 0)
    assert daemon.log.count("The server keeps no keywords of ours in this folder") == 1


LIMIT = ("client", "refuse", r"UID STORE .*\$?Mailtagger", "NO [LIMIT] Too many keywords")


@pytest.mark.quick
@pytest.mark.parametrize("instead", ["move_only", "flagged"])
@pytest.mark.fault(40)
def test_40_keyword_limit(house: House, instead: str) -> None:
    """As with no keywords at all: said once, \\Flagged or no mark as configured, not tried with each message."""
    house.configure(house.proxy(LIMIT, tap=(tap := Tap())), without_keywords=instead)
    daemon = house.start()
    first = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == set(first) and house.settled())
    rest = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {*first, *rest} and house.settled())
    rest += house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {*first, *rest} and house.settled())
    flags = {id_: flags for _, id_, _, flags in house.everything()}
    assert all(flags[id_] == ({"\\Flagged"} if instead == "flagged" else set()) for id_ in rest)
    assert len(tap.commands("UID STORE .*Mailtagger")) == 1
    assert "Too many keywords" in daemon.log
    assert daemon.log.count("WARNING") <= 2
