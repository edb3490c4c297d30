"""imap.py against real servers: what is read, marked, moved and found, and that nothing else changes."""

import hashlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailtagger import imap, imap_reader
from mailtagger.dovecot import Dovecot
from mailtagger.errors import LoginRefused, MailboxError, TryLater
from mailtagger.imap import PARTIAL, Address, CannotMove, Mailbox, Refused
from mailtagger.secret import Secret
from tests.imap_server import Tool, fault_proxy, mailbox, needs_dovecot, needs_tools

AWKWARD = 'Größe & Maß 💌 "quoted" \\back a[b] 100% *'
# What Dovecot announces, but MOVE.
NO_MOVE = "imap_capability = IMAP4rev1 LITERAL+ IDLE NAMESPACE UIDPLUS SPECIAL-USE CHILDREN UNSELECT\n"
RIGHTS = {"2.3": "mail_plugins = acl\nplugin {\n  acl = vfile\n}\n", "2.4": "mail_plugins = acl\nacl_driver = vfile\n"}
NO_UIDPLUS = "imap_capability = IMAP4rev1 LITERAL+ IDLE NAMESPACE SPECIAL-USE CHILDREN UNSELECT\n"


def raw(number: int, size: int = 0) -> bytes:
    body = b"x" * 70 + b"\r\n"
    head = f"Message-ID: <{number}@example.org>\r\nFrom: a@example.org\r\nSubject: number {number}\r\n\r\n".encode()
    return head + body * max(1, size // len(body))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fill(server: Any, count: int, folder: str = "INBOX", user: str = "alice") -> list[bytes]:
    """`count` messages, UIDs 1 to `count`."""
    messages = [raw(number) for number in range(1, count + 1)]
    with server.client(user) as client:
        for message in messages:
            client.append(folder, message)
    return messages


def content(server: Any, folder: str, user: str = "alice") -> dict[int, tuple[bytes, set[str]]]:
    """UID → message and flags, as another mail program sees them."""
    with server.client(user) as client:
        client.select_folder(folder, readonly=True)
        found = client.fetch(client.search(), ["BODY.PEEK[]", "FLAGS"])
    return {
        uid: (item[b"BODY[]"], {flag.decode() for flag in item[b"FLAGS"]} - {"\\Recent"})
        for uid, item in found.items()
    }


@pytest.fixture
def box(dovecot: Dovecot) -> Iterator[Mailbox]:
    """Alice's INBOX, selected."""
    with mailbox(dovecot) as it:
        it.select("INBOX")
        yield it


@pytest.fixture(
    params=[
        pytest.param("dovecot", marks=needs_dovecot),
        pytest.param("dovecot with prefix INBOX.", marks=needs_dovecot),
        pytest.param("dovecot without MOVE", marks=needs_dovecot),
        pytest.param("cyrus", marks=needs_tools),
        pytest.param("cyrus with prefix INBOX.", marks=needs_tools),
    ],
    scope="module",
)
def _kind(request: pytest.FixtureRequest) -> Iterator[Any]:
    starters: dict[str, Callable[[], Any]] = {
        "dovecot": Dovecot,
        "dovecot with prefix INBOX.": lambda: Dovecot(prefix="INBOX.", separator="."),
        "dovecot without MOVE": lambda: Dovecot(extra=NO_MOVE),
        "cyrus": lambda: Tool("cyrus-up"),
        "cyrus with prefix INBOX.": lambda: Tool("cyrus-up", "--altoff"),
    }
    with starters[request.param]() as server:
        yield server


@pytest.fixture
def server(_kind: Any) -> Any:
    """Each kind of server in turn, without any mail."""
    if isinstance(_kind, Dovecot):
        _kind.empty()
        return _kind
    with _kind.client("alice") as client:
        for folder in ("INBOX", client.find_special_folder(b"\\Junk")):
            client.select_folder(folder)
            if uids := client.search():
                client.delete_messages(uids)
                client.expunge()
    return _kind


# --- on every kind of server ---


def test_message_is_read_byte_for_byte_and_stays_unseen(server: Any) -> None:
    """What is fetched is what was delivered, and fetching leaves no trace."""
    server.deliver("alice", raw(1))
    with mailbox(server) as box:
        state = box.select("INBOX")
        assert (state.name, state.writable, state.keywords_ok) == ("INBOX", True, True)
        (uid,) = box.uids()
        assert state.uidnext == uid + 1
        (message,) = box.fetch([uid])
        assert message.raw == raw(1)
        assert (message.address, message.size) == (Address("INBOX", state.uidvalidity, uid), len(raw(1)))
        assert not message.partial
        assert "\\Seen" not in box.flags([uid])[uid]


def test_keywords_are_set_read_back_and_taken_off(server: Any) -> None:
    """The answer names the UIDs that have all the keywords; other flags stay as they were."""
    fill(server, 3)
    with mailbox(server) as box:
        box.select("INBOX")
        uids = box.uids()
        with server.client("alice") as user:
            user.select_folder("INBOX")
            user.add_flags(uids, ["\\Flagged"])
        assert box.add_keywords([*uids[:2], 4000], ["MailtaggerSpam", "$Junk"]) == set(uids[:2])
        assert {uid: flags for uid, (_, flags) in content(server, "INBOX").items()} == {
            uids[0]: {"\\Flagged", "MailtaggerSpam", "$Junk"},
            uids[1]: {"\\Flagged", "MailtaggerSpam", "$Junk"},
            uids[2]: {"\\Flagged"},
        }
        assert box.remove_keywords(uids[:1], ["$Junk", "MailtaggerUnsure"]) == set(uids[:1])
        assert "$Junk" not in box.flags(uids)[uids[0]]


def test_keywords_have_no_case(server: Any) -> None:
    """A folder that saw `LOUD` first shows that, on other messages too; it is the same keyword."""
    fill(server, 2)
    with server.client("alice") as user, mailbox(server) as box:
        user.select_folder("INBOX")
        uids = user.search()
        user.add_flags(uids[:1], ["LOUD"])
        box.select("INBOX")
        assert box.add_keywords(uids, ["Loud"]) == set(uids)
        assert "LOUD" in box.flags(uids)[uids[1]]
        assert box.remove_keywords(uids, ["loud"]) == set(uids)


def test_move_tells_the_new_uids_and_keeps_bytes_and_keywords(server: Any) -> None:
    """Each message is in exactly one place, unchanged, under the UID that was told."""
    messages = fill(server, 5)
    with mailbox(server) as box:
        box.select("INBOX")
        uids, junk = box.uids(), box.spam_folder(None)
        box.add_keywords(uids, ["MailtaggerSpam"])
        moved = box.move([uids[3], uids[0]], junk)
        assert moved.done.keys() == {uids[0], uids[3]}
        assert moved.gone == set()
        there = content(server, junk)
        assert {uid: there[moved.done[uid]] for uid in moved.done} == {  # type: ignore[index]
            uids[0]: (messages[0], {"MailtaggerSpam"}), uids[3]: (messages[3], {"MailtaggerSpam"}),
        }
        assert sorted(content(server, "INBOX")) == [uids[1], uids[2], uids[4]]


def test_move_of_messages_that_another_client_has_taken(server: Any) -> None:
    """They are gone, and the others are moved all the same."""
    fill(server, 4)
    with mailbox(server) as box:
        box.select("INBOX")
        uids, junk = box.uids(), box.spam_folder(None)
        with server.client("alice") as user:
            user.select_folder("INBOX")
            user.delete_messages(uids[1:3])
            user.expunge()
        moved = box.move(uids, junk)
        assert (moved.done.keys(), moved.gone) == ({uids[0], uids[3]}, {uids[1], uids[2]})
        assert len(content(server, junk)) == 2
        assert box.move(uids, junk) == imap.Moved({}, set(uids))


def test_move_leaves_what_the_user_has_marked_as_deleted(server: Any) -> None:
    """Only our own message is expunged, whichever way the server moves."""
    fill(server, 3)
    with mailbox(server) as box:
        box.select("INBOX")
        uids, junk = box.uids(), box.spam_folder(None)
        with server.client("alice") as user:
            user.select_folder("INBOX")
            user.delete_messages(uids[0])
        box.move([uids[1]], junk)
    assert {uid: flags for uid, (_, flags) in content(server, "INBOX").items()} == {
        uids[0]: {"\\Deleted"}, uids[2]: set(),
    }


def test_spam_folder_is_found_by_attribute_or_by_name(server: Any) -> None:
    """The attribute has no case; a name may come with the server's prefix or without."""
    with mailbox(server) as box:
        found = box.spam_folder(None)
        assert found in ("Junk", "INBOX.Junk")
        assert {box.spam_folder("Junk"), box.spam_folder("INBOX.Junk")} == {found}
        assert box.select("Junk").name == found
        with pytest.raises(MailboxError, match=r"no folder Spam .*There are: .*Junk"):
            box.spam_folder("Spam")


def test_spam_folder_is_made_on_demand(server: Any) -> None:
    """Once, below the user's own prefix, and subscribed to."""
    with server.client("alice") as user, mailbox(server) as box:
        name = box.spam_folder("Spam", create=True)
        assert name in ("Spam", "INBOX.Spam")
        assert box.spam_folder("Spam", create=True) == name
        assert name in {folder for _, _, folder in user.list_sub_folders()}
        user.delete_folder(name)


def test_folder_names_survive_the_round_trip(server: Any) -> None:
    """Whatever a user calls a folder: listed, selected and moved into by the same name."""
    fill(server, 1)
    awkward = AWKWARD.replace("%", "").replace("*", "").replace('"', "").replace("\\", "") \
        if isinstance(server, Tool) else AWKWARD  # Cyrus allows fewer characters
    with server.client("alice") as user, mailbox(server) as box:
        prefix = box.spam_folder(None).removesuffix("Junk")
        name = prefix + awkward.strip()
        user.create_folder(name)
        try:
            assert name in {folder.name for folder in box.folders()}
            assert box.select(awkward.strip()).name == name
            box.select("INBOX")
            assert len(box.move(box.uids(), name).done) == 1
            assert box.select(name).messages == 1
        finally:
            user.delete_folder(name)


def test_locate_finds_a_message_by_id_and_content(server: Any) -> None:
    """A forged Message-ID or a changed text is another message; the selected folder stays selected."""
    with mailbox(server) as box:
        junk = box.spam_folder(None)
        for message in (raw(1), raw(2), raw(1).replace(b"xxx", b"yyy"), raw(1)):
            server.deliver("alice", message, junk)
        fill(server, 1)
        box.select("INBOX")
        uids = sorted(content(server, junk))
        assert box.locate(junk, "1@example.org", digest, digest(raw(1))) == [uids[0], uids[3]]
        assert box.locate(junk, "2@example.org", digest, digest(raw(1))) == []
        assert box.locate(junk, "3@example.org", digest, digest(raw(1))) == []
        assert len(box.uids()) == 1
        assert [message.address.folder for message in box.fetch(box.uids())] == ["INBOX"]


@pytest.mark.parametrize("message_id", ["", 'a "b" \\c@d', "größe@example.org", "  x@y z", "][", "=?utf-8?q?a=40b?="])
def test_locate_copes_with_any_message_id(server: Any, message_id: str) -> None:
    """Nothing in an id breaks the search or hides the message."""
    header = f"Message-ID: <{message_id}>\r\n" if message_id else ""
    message = f"{header}Subject: odd\r\n\r\nx\r\n".encode()
    server.deliver("alice", raw(1))
    server.deliver("alice", message)
    with mailbox(server) as box:
        box.select("INBOX")
        _, second = box.fetch(box.uids())  # Cyrus replaces 8-bit characters in headers
        assert box.locate("INBOX", message_id, digest, digest(second.raw)) == [second.address.uid]


def test_idle_hears_a_delivery(server: Any) -> None:
    """News ends the wait at once; the next command works."""
    with mailbox(server) as box:
        box.select("INBOX")
        later = threading.Timer(0.3, server.deliver, ("alice", raw(1)))
        later.start()
        began = time.monotonic()
        assert box.idle(10, lambda: False)
        assert time.monotonic() - began < 5
        later.join()
        assert box.poll()[1] == 1
        assert len(box.uids()) == 1


def test_poll_sees_mail_without_idle(server: Any) -> None:
    """(uidnext, messages), as of now."""
    fill(server, 2)
    with mailbox(server) as box:
        before = box.select("INBOX")
        server.deliver("alice", raw(3))
        assert box.poll() == (before.uidnext + 1, 3)


def test_expunged_message_is_left_out_of_a_fetch(server: Any) -> None:
    """Another client was faster: neither a traceback nor an empty message."""
    messages = fill(server, 3)
    with mailbox(server) as box:
        box.select("INBOX")
        uids = box.uids()
        with server.client("alice") as user:
            user.select_folder("INBOX")
            user.delete_messages(uids[1])
            user.expunge()
        assert [message.raw for message in box.fetch(uids)] == [messages[0], messages[2]]
        assert box.flags(uids).keys() == {uids[0], uids[2]}


def test_uids_begin_at_the_watermark(server: Any) -> None:
    """`n:*` would give the last message even where all UIDs are lower (RFC 3501, 6.4.8)."""
    fill(server, 3)
    with mailbox(server) as box:
        box.select("INBOX")
        uids = box.uids()
        assert box.uids(uids[1]) == uids[1:]
        assert box.uids(uids[2] + 1) == []
        assert box.uids(since=date.today() - timedelta(days=2)) == uids
        assert box.uids(since=date.today() + timedelta(days=2)) == []


def test_wrong_password_is_refused_as_such(server: Any) -> None:
    """The one error that asks for another password; the password is not in it."""
    with pytest.raises(LoginRefused) as refused:
        mailbox(server, "not-the-password").connect()
    assert "alice" in str(refused.value)
    assert "not-the-password" not in str(refused.value)


def test_nothing_happens_without_uids(server: Any) -> None:
    """Empty sets are sent by nobody: servers answer them with BAD."""
    with mailbox(server) as box:
        junk = box.spam_folder(None)
        box.select("INBOX")
        assert box.move([], junk) == imap.Moved({}, set())
        assert (list(box.fetch([])), box.flags([]), box.add_keywords([], ["$Junk"])) == ([], {}, set())
        assert (box.expunge([]), box.remove_keywords([], ["$Junk"])) == (set(), set())


# --- on Dovecot ---


def test_big_message_is_fetched_in_part(dovecot: Dovecot, box: Mailbox) -> None:
    """Of 3 MB the first 256 kB, with the full size told; small ones beside it come whole, in the order asked for."""
    messages = [raw(1), raw(2, 3_000_000), raw(3)]
    for message in messages:
        dovecot.deliver("alice", message)
    box.poll()
    assert [(found.raw, found.size, found.partial) for found in box.fetch([3, 2, 1])] == [
        (messages[2], len(messages[2]), False),
        (messages[1][:PARTIAL], len(messages[1]), True),
        (messages[0], len(messages[0]), False),
    ]


def test_batches_are_bounded_by_count_and_by_bytes() -> None:
    """Big messages are fetched in part, and apart from the others."""
    small, middle, big = 3_000, imap.BIG, imap.BIG + 1
    assert [len(batch) for batch in imap_reader._batches(dict.fromkeys(range(120), small))] == [50, 50, 20]
    assert [len(batch) for batch in imap_reader._batches(dict.fromkeys(range(10), middle))] == [4, 4, 2]
    assert [len(batch) for batch in imap_reader._batches(dict.fromkeys(range(20), big))] == [15, 5]
    assert list(imap_reader._batches({1: small, 2: big, 3: small, 4: small})) == [[1], [2], [3, 4]]


def test_big_message_is_located_by_the_same_part(dovecot: Dovecot, box: Mailbox) -> None:
    """The ident of a big message is that of what is fetched, here and there."""
    dovecot.deliver("alice", raw(2, 3_000_000), "Junk")
    assert box.locate("Junk", "2@example.org", digest, digest(raw(2, 3_000_000)[:PARTIAL])) == [1]


@pytest.mark.parametrize(
    "message",
    [b"\r\n", b"\r\nno headers\r\n", b"Subject: header only\r\n", b"Subject: \xff\xfe\r\n\r\n\xff" + b"z" * 200_000],
    ids=["empty", "no headers", "header only", "8 bit and one long line"],
)
def test_ugly_messages_are_read_as_they_are(dovecot: Dovecot, box: Mailbox, message: bytes) -> None:
    """The wire does not care what is in a message."""
    with dovecot.client("alice") as user:
        user.append("INBOX", message)
    box.poll()
    assert [found.raw for found in box.fetch([1])] == [message]


def test_many_messages_in_few_commands(dovecot: Dovecot) -> None:
    """400 messages with gaps: read, marked and moved in portions, none forgotten."""
    with dovecot.client("alice") as user:
        user.multiappend("INBOX", [raw(number) for number in range(1, 601)])
    with mailbox(dovecot) as box:
        box.select("INBOX")
        uids = [uid for uid in box.uids() if uid % 3]
        assert [found.address.uid for found in box.fetch(reversed(uids))] == uids[::-1]
        assert box.add_keywords(uids, ["MailtaggerSpam"]) == set(uids)
        assert box.move(uids, "Junk").done.keys() == set(uids)
        assert box.uids() == [uid for uid in range(1, 601) if uid % 3 == 0]
        assert box.select("Junk").messages == 400


def test_search_of_a_huge_folder_goes_in_windows(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million UIDs are not one line: by place, from the end on, and none is lost or doubled."""
    fill(dovecot, 30)
    monkeypatch.setattr(imap_reader, "WINDOW", 7)
    with mailbox(dovecot) as box:
        box.select("INBOX")
        assert box.uids() == list(range(1, 31))
        assert box.uids(5) == list(range(5, 31))
        assert box.uids(28) == [28, 29, 30]
        with dovecot.client("alice") as user:
            user.select_folder("INBOX")
            user.delete_messages(range(2, 12))
            user.expunge()
        box.poll()
        assert box.uids() == [1, *range(12, 31)]


def test_bracket_in_a_keyword_breaks_nothing(dovecot: Dovecot, box: Mailbox) -> None:
    """Legal by RFC 3501, and IMAPClient's own FETCH fails on it."""
    fill(dovecot, 2)
    box.poll()
    with dovecot.client("alice") as user:
        user.select_folder("INBOX")
        with suppress(Exception):  # the keyword is set; reading the answer is what fails
            user.add_flags([1], ["[odd"])
    assert [sorted(found.flags - {"\\Recent"}) for found in box.fetch([1, 2])] == [["[odd"], []]
    assert box.select("INBOX").keywords_ok


def test_text_that_is_no_keyword_is_not_sent(box: Mailbox) -> None:
    """A space makes two keywords, a line end another command."""
    for name in ("two words", "x)\r\nA1 EXPUNGE", "", "ü"):
        with pytest.raises(ValueError, match="not a keyword"):
            box.add_keywords([1], [name])


def test_refused_move_leaves_everything_in_place(dovecot: Dovecot, box: Mailbox) -> None:
    """The target does not exist: the error has the server's reason and the way out."""
    fill(dovecot, 2)
    box.poll()
    with pytest.raises(Refused, match=r"TRYCREATE.*Create the folder") as refused:
        box.move([1, 2], "Nowhere")
    assert refused.value.code == "TRYCREATE"
    assert sorted(content(dovecot, "INBOX")) == [1, 2]
    assert box.poll() == (3, 2)


def test_folder_cannot_be_moved_into_itself(box: Mailbox) -> None:
    """It would get new UIDs, and be judged and moved again for ever."""
    with pytest.raises(ValueError, match="INBOX"):
        box.move([1], "INBOX")


def test_missing_folder_is_said_with_those_that_exist(box: Mailbox) -> None:
    """One sentence with the way out; the connection still serves."""
    with pytest.raises(MailboxError, match=r"no folder Inbux .*There are: Archive, Drafts, INBOX, Junk"):
        box.select("Inbux")
    assert box.select("inbox").name == "INBOX"


@needs_dovecot
def test_without_uidplus_nothing_is_moved() -> None:
    """A plain EXPUNGE would also delete what the user has marked: mail stays where it is, in one place."""
    with Dovecot(extra=NO_UIDPLUS) as server, mailbox(server) as box:
        fill(server, 2)
        box.select("INBOX")
        assert not box.can_move
        with pytest.raises(CannotMove):
            box.move([1], "Junk")
        with pytest.raises(CannotMove):
            box.expunge([1])
        assert (sorted(content(server, "INBOX")), content(server, "Junk")) == ([1, 2], {})


def test_expunge_finishes_a_copy_that_was_cut(dovecot: Dovecot, box: Mailbox) -> None:
    """Only that message goes, not the user's own \\Deleted."""
    fill(dovecot, 3)
    with dovecot.client("alice") as user:
        user.select_folder("INBOX")
        user.copy([2], "Junk")
        user.delete_messages([3])
    box.poll()
    assert box.expunge([2, 9]) == {2, 9}
    assert sorted(content(dovecot, "INBOX")) == [1, 3]


def test_right_that_is_missing_is_said(dovecot: Dovecot) -> None:
    """No right to insert there, or to delete here: the mail stays, and the reason is told."""
    with Dovecot(extra=RIGHTS[dovecot.version[:3]]) as server:
        fill(server, 1)
        server.doveadm("acl", "set", "-u", "alice", "Junk", "owner", "lookup", "read")
        with mailbox(server) as box:
            state = box.select("Junk")
            assert (state.writable, state.keywords_ok) == (False, False)
            box.select("INBOX")
            with pytest.raises(Refused, match=r"NOPERM.*lacks the right"):
                box.move([1], "Junk")
            server.doveadm("acl", "set", "-u", "alice", "INBOX", "owner", "lookup", "read", "write", "insert")
        with mailbox(server) as box:  # a session keeps the rights that it began with
            assert "\\deleted" not in box.select("INBOX").permanent
            with pytest.raises(MailboxError):
                box.move([1], "Archive")
        assert (len(content(server, "INBOX")), len(content(server, "Archive"))) == (1, 0)


def test_idle_ends_in_time(dovecot: Dovecot, box: Mailbox) -> None:
    """When the seconds are over, and within a second when told to stop; renewed in between."""
    began = time.monotonic()
    assert not box.idle(0.5, lambda: False)
    assert 0.4 < time.monotonic() - began < 1.5
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    assert not box.idle(20, stop.is_set)
    assert time.monotonic() - began < 2


def test_idle_is_renewed(dovecot: Dovecot, box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server or a router forgets it; news is heard in each of them."""
    monkeypatch.setattr(imap_reader, "RENEW", 0.2)
    threading.Timer(0.7, dovecot.deliver, ("alice", raw(1))).start()
    assert box.idle(10, lambda: False)


def test_interrupt_ends_what_is_waited_for(dovecot: Dovecot, box: Mailbox) -> None:
    """From another thread, at once, as a lost connection; then it can connect again."""
    threading.Timer(0.2, box.interrupt).start()
    began = time.monotonic()
    with pytest.raises(TryLater):
        box.idle(20, lambda: False)
    assert time.monotonic() - began < 2
    with pytest.raises(TryLater, match="no connection"):
        box.uids()
    box.connect()
    assert box.select("INBOX").messages == 0


def test_server_that_dies_and_comes_back(dovecot: Dovecot, box: Mailbox) -> None:
    """TryLater while it is away, whatever is asked; afterwards everything is as before."""
    fill(dovecot, 2)
    dovecot.kill()
    try:
        with pytest.raises(TryLater):
            box.poll()
        with pytest.raises(TryLater, match=r"127\.0\.0\.1:\d+ cannot be reached"):
            box.connect()
    finally:
        dovecot.start()
    box.connect()
    box.select("INBOX")
    assert box.uids() == [1, 2]


def test_new_uidvalidity_is_noticed(dovecot: Dovecot, box: Mailbox) -> None:
    """UIDs of the old numbering are never used in the new one."""
    fill(dovecot, 1)
    before = box.select("INBOX")
    dovecot.doveadm("mailbox", "update", "--uid-validity", "77", "-u", "alice", "INBOX")
    with pytest.raises(TryLater):
        box.poll()
        box.poll()
    box.connect()
    after = box.select("INBOX")
    assert (after.uidvalidity, before.uidvalidity != 77) == (77, True)


def test_folder_deleted_while_selected(dovecot: Dovecot) -> None:
    """The connection is lost, and then the folder is named as missing; the others still serve."""
    with dovecot.client("alice") as user, mailbox(dovecot) as box:
        user.create_folder("watched")
        box.select("watched")
        user.delete_folder("watched")
        with pytest.raises((TryLater, MailboxError)):
            for _ in range(3):
                box.poll()
        box.connect()
        with pytest.raises(MailboxError, match="no folder watched"):
            box.select("watched")
        assert box.select("INBOX").name == "INBOX"


def test_modseq_is_told_where_the_server_has_it(dovecot: Dovecot, box: Mailbox) -> None:
    """HIGHESTMODSEQ rises with every change (RFC 7162)."""
    before = box.select("INBOX").modseq
    fill(dovecot, 1)
    after = box.select("INBOX").modseq
    assert before is not None and after is not None and after > before


# --- TLS ---


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_tls_is_verified_against_the_ca_file(dovecot: Dovecot, tls: str) -> None:
    """With it the login works, without it the password is never sent."""
    port = dovecot.imaps_port if tls == "implicit" else dovecot.port
    with mailbox(dovecot, port=port, tls=tls, ca_file=dovecot.ca_file, host="localhost") as box:
        assert box.select("INBOX").messages == 0
        assert box.can_move and box.can_idle
    with pytest.raises(MailboxError, match=r"certificate .* is not trusted: .*ca_file"):
        mailbox(dovecot, secret=never_asked, port=port, tls=tls, host="localhost").connect()


def never_asked() -> Any:
    raise AssertionError("the password was asked for")


def test_certificate_for_another_name(dovecot: Dovecot) -> None:
    """Refused, with both names."""
    with pytest.raises(MailboxError, match=r"is for localhost, 127\.0\.0\.1, not for 127\.0\.0\.2"):
        mailbox(
            dovecot, never_asked, host="127.0.0.2", port=forwarded(dovecot.imaps_port), tls="implicit",
            ca_file=dovecot.ca_file,
        ).connect()


def forwarded(port: int) -> int:
    """A port on 127.0.0.2 that leads to `port` on 127.0.0.1."""
    listening = socket.create_server(("127.0.0.2", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            client, _ = listening.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(listening.getsockname()[1])


def test_plain_port_under_implicit_tls(dovecot: Dovecot) -> None:
    """A common mistake gets a sentence of its own."""
    with pytest.raises(MailboxError, match=r"does not speak TLS.*starttls"):
        mailbox(dovecot, tls="implicit", ca_file=dovecot.ca_file).connect()


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_unusable_ca_file(dovecot: Dovecot, tmp_path: Path, content: bytes | None) -> None:
    """Missing or no PEM: named, and not taken for a network error."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MailboxError, match=r"ca_file .*ca\.pem cannot be used"):
        mailbox(dovecot, tls="implicit", ca_file=path).connect()


# --- faults on the wire ---


CUTS = {
    "never reached the server": (("client", "cut", "UID (MOVE|COPY)"), False),
    "was done, the reply is lost": (("reply", "cut", "UID (MOVE|COPY)"), True),
    "was done, the last line is lost": (("reply", "cutlast", "UID (MOVE|COPY)"), True),
    "was done, and then silence": (("reply", "stall", "UID (MOVE|COPY)"), True),
}


@needs_tools
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("rst", [False, True], ids=["FIN", "RST"])
def test_cut_move_can_be_looked_up(dovecot: Dovecot, cut: str, rst: bool) -> None:
    """The client cannot know whether it happened; `locate` tells, and the message is in exactly one place."""
    fill(dovecot, 1)
    rule, happened = CUTS[cut]
    with fault_proxy(dovecot, rule, rst=rst) as proxy, mailbox(proxy, read_timeout=1) as box:
        box.select("INBOX")
        with pytest.raises(TryLater):
            box.move([1], "Junk")
        box.connect()
        box.select("INBOX")
        assert box.locate("Junk", "1@example.org", digest, digest(raw(1))) == ([1] if happened else [])
        assert box.uids() == ([] if happened else [1])
        assert len(box.move([1], "Junk").done) == (0 if happened else 1)
    assert [message for message, _ in content(dovecot, "Junk").values()] == [raw(1)]


@needs_tools
@pytest.mark.parametrize("after", ["UID COPY", "UID STORE"])
def test_cut_copy_and_delete_is_finished(dovecot: Dovecot, after: str) -> None:
    """The copy is found, the original alone goes, and there is no second copy."""
    fill(dovecot, 2)
    with fault_proxy(dovecot, ("reply", "cutpast", after), strip=["MOVE"]) as proxy, mailbox(proxy) as box:
        box.select("INBOX")
        with pytest.raises(TryLater):
            box.move([1], "Junk")
        box.connect()
        box.select("INBOX")
        assert box.locate("Junk", "1@example.org", digest, digest(raw(1))) == [1]
        assert box.expunge([1]) == {1}
        assert box.uids() == [2]
    assert len(content(dovecot, "Junk")) == 1


@needs_tools
def test_half_open_connection_is_given_up(dovecot: Dovecot) -> None:
    """Nothing hangs longer than the read time-out: not a command, not IDLE."""
    with fault_proxy(dovecot) as proxy:
        for wait in (lambda box: box.poll(), lambda box: box.idle(0.3, lambda: False)):
            with mailbox(proxy, read_timeout=1) as box:
                box.select("INBOX")
                proxy.frozen = True
                began = time.monotonic()
                with pytest.raises(TryLater, match="in time"):
                    wait(box)
                assert time.monotonic() - began < 3
                proxy.frozen = False


@needs_tools
def test_fetch_cut_in_a_message_gives_no_half_message(dovecot: Dovecot) -> None:
    """What is yielded is whole."""
    messages = fill(dovecot, 40)
    with fault_proxy(dovecot, cut_server=5000) as proxy, mailbox(proxy) as box:
        box.select("INBOX")
        seen = []
        with pytest.raises(TryLater):
            seen += [message.raw for message in box.fetch(range(1, 41))]
        assert all(message in messages for message in seen)


@needs_tools
def test_slow_server_is_no_lost_server(dovecot: Dovecot) -> None:
    """No time-out while bytes flow."""
    fill(dovecot, 20)
    with fault_proxy(dovecot, throttle=4000) as proxy, mailbox(proxy, read_timeout=0.5) as box:
        box.select("INBOX")
        assert len(list(box.fetch(range(1, 21)))) == 20


@needs_tools
def test_quota_of_the_spam_folder(dovecot: Dovecot) -> None:
    """The mail stays, and the reason is told."""
    fill(dovecot, 1)
    rule = ("client", "refuse", "UID (MOVE|COPY)", "NO [OVERQUOTA] Quota exceeded")
    with fault_proxy(dovecot, rule) as proxy, mailbox(proxy) as box:
        box.select("INBOX")
        with pytest.raises(Refused, match=r"Quota exceeded.*no room left"):
            box.move([1], "Junk")
        assert box.uids() == [1]


@needs_tools
def test_refused_keyword_is_no_error(dovecot: Dovecot) -> None:
    """Too many keywords: none is shown, and the answer says so."""
    fill(dovecot, 1)
    rule = ("client", "refuse", "STORE", "NO [LIMIT] Too many keywords")
    with fault_proxy(dovecot, rule) as proxy, mailbox(proxy) as box:
        box.select("INBOX")
        assert box.add_keywords([1], ["MailtaggerSpam"]) == set()


@needs_tools
@pytest.mark.parametrize(
    ("options", "error"),
    [(["--cert", "expired"], "has expired"), (["--cert", "wronghost"], "is for elsewhere.example, not for"),
     (["--cert", "selfsigned"], "not trusted")],
)
def test_bad_certificates_are_quoted(options: list[str], error: str) -> None:
    """Refused, with OpenSSL's reason, before the password is asked for."""
    with Tool("dovecot-up", *options) as server, pytest.raises(MailboxError, match=error):
        mailbox(server, never_asked, port=server.imaps_port, tls="implicit", ca_file=server.ca_file).connect()


@needs_tools
@pytest.mark.parametrize("capability", [None, "IMAP4rev1 AUTH=OAUTHBEARER"])
def test_token_is_fetched_again_when_it_has_expired(capability: str | None) -> None:
    """Once, for XOAUTH2 and OAUTHBEARER; a second refusal is final."""
    options = ["--capability", capability] if capability else []
    with Tool("dovecot-up", *options) as server:

        def token(seconds: int) -> Secret:
            made = subprocess.run([server.env["OAUTH_TOKEN"], "alice", str(seconds)], capture_output=True, check=True)
            return Secret("token", made.stdout.decode().strip())

        tokens = iter([token(-10), token(600)])
        with mailbox(server, lambda: next(tokens)) as box:
            assert box.select("INBOX").messages == 0
        tokens = iter([token(-10), token(-20), token(600)])
        with pytest.raises(LoginRefused, match="token of alice"):
            mailbox(server, lambda: next(tokens)).connect()
        assert next(tokens)


@needs_tools
def test_connection_limit_is_no_wrong_password() -> None:
    """[LIMIT] means later."""
    with (
        Tool("dovecot-up", "--max-conn", "1") as server,
        mailbox(server),
        pytest.raises(TryLater, match="at the moment"),
    ):
        mailbox(server).connect()


