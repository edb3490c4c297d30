"""The wire, the login and the session below imap.py, against a server that says what no real one can be made to say."""

import base64
import logging
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailtagger.dovecot import certify
from mailtagger.errors import LoginRefused, MailboxError, TryLater
from mailtagger.imap import CannotMove, FolderState, Moved, Refused
from mailtagger.secret import Secret
from tests.imap_server import mailbox
from tests.scripted_server import CAPABILITIES, HANG_UP, SELECTED, Scripted

NO_MOVE = CAPABILITIES.replace("MOVE ", "")


def never_asked() -> Any:
    raise AssertionError("the password was asked for")


# --- connecting ---


def test_starttls_that_is_missing_is_not_done_without() -> None:
    """A man in the middle who strips STARTTLS gets no password, nor does one who says that we are in already."""
    with Scripted() as server:
        with pytest.raises(MailboxError, match="does not offer STARTTLS; the password was not sent"):
            mailbox(server, never_asked, tls="starttls").connect()
        assert not [line for line in server.heard if line.startswith(("LOGIN", "AUTHENTICATE"))]
    with (
        Scripted(greeting="* PREAUTH welcome", capabilities="IMAP4rev1 STARTTLS") as server,
        pytest.raises(MailboxError, match="does not offer STARTTLS"),
    ):
        mailbox(server, never_asked, tls="starttls").connect()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed: apt-get install openssl")
def test_nothing_said_before_the_handshake_counts(tmp_path: Path) -> None:
    """A man in the middle may put words ahead of it (CVE-2011-0411); they are not taken for the server's."""
    certify(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    heard = []

    def serve() -> None:
        sock, _ = listening.accept()
        with sock.makefile("rb") as lines:
            sock.sendall(b"* OK ready\r\n")
            tag = lines.readline().split()[0]
            sock.sendall(b"* CAPABILITY IMAP4rev1 STARTTLS\r\n" + tag + b" OK done\r\n")
            tag = lines.readline().split()[0]
            sock.sendall(tag + b" OK begin\r\n* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nX1 OK done\r\n")
        with context.wrap_socket(sock, server_side=True) as secure, secure.makefile("rb") as lines:
            for line in lines:
                tag, words = line.split(maxsplit=1)
                heard.append(words)
                secure.sendall(b"* CAPABILITY IMAP4rev1\r\n" + tag + b" OK done\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        box = mailbox(Scripted(), port=listening.getsockname()[1], tls="starttls", ca_file=tmp_path / "ca.pem")
        box.connect()
        box.interrupt()
    assert heard[1].startswith(b"LOGIN ")


def test_no_tls_is_for_this_machine_alone() -> None:
    """Before anything is sent, even a look-up of the name."""
    for host in ("imap.invalid", "192.0.2.1", "2001:db8::1"):
        with pytest.raises(MailboxError, match="in the clear"):
            mailbox(Scripted(), never_asked, host=host).connect()


def test_host_that_does_not_exist() -> None:
    """A laptop without a network says the same: later."""
    with pytest.raises(TryLater, match=r"imap\.invalid cannot be resolved.*Check `host`"):
        mailbox(Scripted(), never_asked, host="imap.invalid", tls="implicit").connect()


def test_port_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TryLater, match=rf"127\.0\.0\.1:{port} cannot be reached: Connection refused"):
        mailbox(Scripted(), never_asked, port=port).connect()


def test_server_that_says_nothing() -> None:
    """A read time-out also counts for the greeting."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(TryLater, match="does not answer"):
            mailbox(Scripted(), never_asked, port=silent.getsockname()[1], read_timeout=0.3).connect()
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("greeting", ["* BYE [UNAVAILABLE] down for maintenance", "220 smtp.example.org", HANG_UP])
def test_greeting_that_is_none(greeting: str) -> None:
    """Busy, no IMAP at all, or cut: later, with what was said."""
    with Scripted(greeting=greeting) as server, pytest.raises(TryLater) as error:
        mailbox(server, never_asked).connect()
    assert greeting.partition("] ")[2] in str(error.value)


# --- logging in ---


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("{tag} NO [AUTHENTICATIONFAILED] no", LoginRefused),
        ("{tag} NO Invalid credentials", LoginRefused),
        ("{tag} NO [LIMIT] Maximum number of connections", TryLater),
        ("{tag} NO [UNAVAILABLE] later", TryLater),
        ("{tag} NO [ALERT] Too many simultaneous connections", TryLater),
        ("{tag} NO [PRIVACYREQUIRED] TLS first", MailboxError),
        ("* BYE shutting down" + HANG_UP, TryLater),
        (HANG_UP, TryLater),
        ("", TryLater),
    ],
)
def test_answers_to_a_login(answer: str, kind: type[Exception]) -> None:
    """Only a refused password is one; a busy, cut or silent server is asked again later."""
    with Scripted({"^LOGIN": answer}) as server, pytest.raises(kind) as error:
        mailbox(server, "hunter2", read_timeout=0.3).connect()
    assert type(error.value) is kind
    assert "hunter2" not in str(error.value) + repr(error.value.__cause__)


def test_login_is_quoted() -> None:
    """User names with spaces and backslashes, passwords with quotes."""
    with Scripted() as server, mailbox(server, 'a"b\\c', username="DOM\\alice smith"):
        assert 'LOGIN "DOM\\\\alice smith" "a\\"b\\\\c"' in server.heard


def test_password_beyond_ascii_goes_by_sasl() -> None:
    """PLAIN carries UTF-8 (RFC 4616); LOGIN cannot."""
    answer = base64.b64encode("\0alice\0pässwörd".encode()).decode()
    rules = {"^AUTHENTICATE": "+", f"^{answer}$": "{tag} OK in"}
    with Scripted(rules) as server, mailbox(server, "pässwörd"):
        assert not [line for line in server.heard if line.startswith("LOGIN")]


def test_login_that_the_server_forbids_is_not_tried() -> None:
    """LOGINDISABLED (RFC 3501, 7.2.1): the password would be seen by all."""
    with (
        Scripted(capabilities="IMAP4rev1 LOGINDISABLED") as server,
        pytest.raises(MailboxError, match="offers no login"),
    ):
        mailbox(server).connect()
    assert not [line for line in server.heard if line.startswith("LOGIN")]


def oauth(line: str) -> str:
    """Refuses the token `old`, as XOAUTH2 does: with an error that the client has to answer."""
    said = base64.b64decode(line).decode()
    if not said:
        return "{tag} NO [AUTHENTICATIONFAILED] expired"
    assert said.startswith("user=alice\1auth=Bearer ")
    return "{tag} OK in" if "Bearer new\1\1" in said else "+ " + base64.b64encode(b'{"status":"401"}').decode()


@pytest.mark.parametrize(
    ("tokens", "logins"), [(["new"], 1), (["old", "new"], 2), (["old", "older"], 2), (["old", "old"], 1)]
)
def test_token_is_asked_for_once_more(tokens: list[str], logins: int) -> None:
    """When the first is refused; the same one is not tried twice, and a second refusal is final."""
    rules = {"^AUTHENTICATE XOAUTH2": "+", "^dXNlcj|^$": oauth}
    with Scripted(rules, capabilities="IMAP4rev1 AUTH=XOAUTH2 AUTH=OAUTHBEARER") as server:
        given: Iterator[str] = iter(tokens)
        box = mailbox(server, lambda: Secret("token", next(given)))
        if tokens[-1] == "new":
            box.connect()
        else:
            with pytest.raises(LoginRefused, match="refuses the token of alice"):
                box.connect()
        assert sum(line.startswith("AUTHENTICATE") for line in server.heard) == logins
        assert next(given, None) is None


def test_server_without_tokens() -> None:
    with Scripted() as server, pytest.raises(MailboxError, match="no login by token"):
        mailbox(server, lambda: Secret("token", "new")).connect()


def test_secrets_and_bodies_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Even at debug, from our loggers or IMAPClient's."""
    caplog.set_level(logging.DEBUG)
    rules = {"^UID FETCH": "* 1 FETCH (UID 1 RFC822.SIZE 8 FLAGS () BODY[] {8}\nbodytext)\n{tag} OK done"}
    with Scripted(rules) as server, mailbox(server, "hunter2") as box:
        box.select("INBOX")
        assert [message.raw for message in box.fetch([1])] == [b"bodytext"]
    assert "hunter2" not in caplog.text
    assert "bodytext" not in caplog.text


# --- what a server may say ---


def test_alert_reaches_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    """RFC 3501, 7.1: also when it comes before the greeting or again and again."""
    rules = {"^NOOP": "* OK [ALERT] Maintenance\x1b at noon\n{tag} OK done", "^STATUS": "* STATUS INBOX ()\n{tag} OK x"}
    with Scripted(rules, greeting="* OK [ALERT] Welcome") as server, mailbox(server) as box:
        box.select("INBOX")
        box.idle(0, lambda: False)
        for _ in range(3):
            with pytest.raises(Refused):  # the script knows no UID SEARCH
                box.poll()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["127.0.0.1 says: Welcome", "127.0.0.1 says: Maintenance? at noon"]


def test_capabilities_count_after_login() -> None:
    """Dovecot announces MOVE and IDLE only then."""
    asked = iter(["IMAP4rev1", "IMAP4rev1 MOVE IDLE"])
    with (
        Scripted({"^CAPABILITY": lambda _: f"* CAPABILITY {next(asked)}\n{{tag}} OK done"}) as server,
        mailbox(server) as box,
    ):
        assert box.can_move and box.can_idle


def test_read_only_folder_is_no_lost_connection() -> None:
    """imaplib raises `readonly`, which is an `abort` by inheritance."""
    with Scripted({"^SELECT": SELECTED + "{tag} OK [READ-ONLY] done"}) as server, mailbox(server) as box:
        state = box.select("INBOX")
        assert (state.writable, state.keywords_ok, state.uidnext) == (False, False, 4)


@pytest.mark.parametrize(
    ("line", "keywords_ok", "permanent"),
    [
        ("* OK [PERMANENTFLAGS (\\Seen $Junk)] limited\n", False, {"\\seen", "$junk"}),
        ("* OK [PERMANENTFLAGS ()] none\n", False, set()),
        ("", True, set()),
    ],
)
def test_folder_that_keeps_some_keywords_only(line: str, keywords_ok: bool, permanent: set[str]) -> None:
    """PERMANENTFLAGS without `\\*` is a list of all that is kept; without PERMANENTFLAGS all is kept."""
    answer = f"* 0 EXISTS\n* OK [UIDVALIDITY 7] v\n* OK [UIDNEXT 4] n\n{line}{{tag}} OK [READ-WRITE] done"
    with Scripted({"^SELECT": answer}) as server, mailbox(server) as box:
        assert box.select("INBOX") == FolderState("INBOX", 7, 4, 0, keywords_ok, True, None, frozenset(permanent))


def test_server_that_drops_keywords_is_found_out() -> None:
    """It answers OK and keeps nothing: FLAGS are read back."""
    rules = {"^UID STORE": "{tag} OK done", "^UID FETCH": "* 1 FETCH (UID 1 FLAGS (\\Seen))\n{tag} OK done"}
    with Scripted(rules) as server, mailbox(server) as box:
        box.select("INBOX")
        assert box.add_keywords([1], ["MailtaggerSpam"]) == set()
        assert box.remove_keywords([1], ["MailtaggerSpam"]) == {1}


def test_uidnext_that_is_not_told() -> None:
    """The last UID plus one serves, at the opening and at each poll."""
    rules = {
        "^SELECT": "* 2 EXISTS\n* OK [UIDVALIDITY 7] v\n{tag} OK [READ-WRITE] done",
        "^UID SEARCH UID \\*": "* SEARCH 4294967294\n{tag} OK done",
        "^STATUS": '* STATUS "INBOX" (MESSAGES 2)\n{tag} OK done',
    }
    with Scripted(rules) as server, mailbox(server) as box:
        assert box.select("INBOX").uidnext == 4294967295
        assert box.poll() == (4294967295, 2)


def test_folder_without_uidvalidity_is_not_watched() -> None:
    """Its UIDs would mean something else the next time."""
    with (
        Scripted({"^SELECT": "* 2 EXISTS\n{tag} OK [READ-WRITE] done"}) as server,
        mailbox(server) as box,
        pytest.raises(MailboxError, match="no UIDVALIDITY"),
    ):
        box.select("INBOX")


def test_new_uidvalidity_in_a_poll_ends_the_session() -> None:
    """Some servers renumber without hanging up."""
    rules = {"^STATUS": '* STATUS "INBOX" (UIDVALIDITY 8 UIDNEXT 4 MESSAGES 3)\n{tag} OK done'}
    with Scripted(rules) as server, mailbox(server) as box:
        box.select("INBOX")
        with pytest.raises(TryLater, match="renumbered INBOX"):
            box.poll()
        with pytest.raises(TryLater, match="no connection"):
            box.uids()


def test_busy_server_is_tried_later_and_stays_connected() -> None:
    """NO [INUSE] is about the moment (RFC 5530)."""
    answers = iter(["{tag} NO [INUSE] locked", "* SEARCH 1\n{tag} OK done"])
    with Scripted({"^UID SEARCH": lambda _: next(answers)}) as server, mailbox(server) as box:
        box.select("INBOX")
        with pytest.raises(TryLater, match="locked"):
            box.uids()
        assert box.uids() == [1]


def test_line_without_end_is_given_up() -> None:
    """No server may fill our memory."""
    with Scripted({"^UID SEARCH": "* SEARCH " + "1 " * 2_000_000}) as server, mailbox(server) as box:
        box.select("INBOX")
        with pytest.raises(TryLater, match="a line of more than"):
            box.uids()


DIGITS = "9" * 5000  # of which Python makes no number


@pytest.mark.parametrize("answer", [
    f"* 1 FETCH (UID 1 BODY[] {{{DIGITS}}}", f"* 1 FETCH (UID 1 BODY[] {{{1 << 40}}}\n" + "x" * 100_000,
], ids=["no number", "a terabyte"])
def test_literal_without_measure_is_given_up(answer: str) -> None:
    """At once: it is not waited for, and takes no memory."""
    with Scripted({"^UID SEARCH": answer}) as server, mailbox(server, read_timeout=30) as box:
        box.select("INBOX")
        with pytest.raises(TryLater, match="a literal of more than"):
            box.uids()


def test_parting_from_a_server_that_babbles() -> None:
    """What it says to LOGOUT breaks nothing: the thread that closes is the one that connects again."""
    with Scripted({"^LOGOUT": f"* BYE {{{DIGITS}}}"}) as server:
        box = mailbox(server)
        box.connect()
        box.close()


@pytest.mark.parametrize(("command", "answer"), [
    ("STATUS", "{tag} OK done"), ("NAMESPACE", "{tag} OK done"), ("NAMESPACE", "* NAMESPACE 5 6 7\n{tag} OK done"),
])
def test_answer_without_what_was_asked_for(command: str, answer: str) -> None:
    """A connection that makes no sense is given up, as one that was lost."""
    with Scripted({f"^{command}": answer}) as server, mailbox(server) as box:
        box.select("INBOX")
        with pytest.raises(TryLater, match="makes no sense"):
            _ = box.poll() if command == "STATUS" else box.spam_folder(None)


def test_numbers_without_measure_are_none() -> None:
    """What has more digits than any number of IMAP is not told."""
    told = f"* STATUS INBOX (MESSAGES {DIGITS} UIDNEXT 4 UIDVALIDITY 7)"
    with Scripted({"^STATUS": told + "\n{tag} OK done"}) as server, mailbox(server) as box:
        box.select("INBOX")
        assert box.poll() == (4, 3)


def test_header_fields_are_asked_for_in_part() -> None:
    """A sender may write megabytes into each, and hundreds are read at once."""
    with Scripted({"^UID FETCH": "{tag} OK done"}) as server, mailbox(server) as box:
        box.select("INBOX")
        assert (list(box.heads([1])), box.subjects([1])) == ([], {})
    asked = [line for line in server.heard if "HEADER.FIELDS" in line]
    assert len(asked) == 2 and all("]<0.100000>" in line for line in asked)


def test_unsolicited_news_between_the_lines() -> None:
    """EXISTS, EXPUNGE and other messages' FETCH are not taken for the answer."""
    rules = {
        "^UID FETCH.*BODY": "* 9 EXISTS\n* 2 FETCH (FLAGS (\\Deleted))\n"
        "* 1 FETCH (UID 2 RFC822.SIZE 4 FLAGS () BODY[] {4}\ntwo.)\n"
        "* 3 FETCH (UID 9 FLAGS (\\Seen))\n* 4 EXPUNGE\n{tag} OK done",
        "^UID FETCH": "* 1 FETCH (UID 2 RFC822.SIZE 4)\n{tag} OK done",
    }
    with Scripted(rules) as server, mailbox(server) as box:
        box.select("INBOX")
        ((raw, flags),) = [(message.raw, message.flags) for message in box.fetch([2, 3])]
        assert (raw, flags) == (b"two.", frozenset())


# --- moving ---


def present(line: str) -> str:
    """All messages that are asked for are there."""
    return f"* SEARCH {line.rpartition(' ')[2].replace(',', ' ').replace('1:2', '1 2')}\n{{tag}} OK done"


def test_move_without_copyuid_is_proved_by_absence() -> None:
    """MOVE without UIDPLUS tells no new UID: what was there and is no longer has been moved."""
    there = iter(["* SEARCH 1 2", "* SEARCH 2", "* SEARCH 2"])
    rules = {"^UID SEARCH": lambda _: next(there) + "\n{tag} OK done", "^UID MOVE": "{tag} OK done"}
    with Scripted(rules, capabilities=CAPABILITIES.replace("UIDPLUS ", "")) as server, mailbox(server) as box:
        box.select("INBOX")
        assert box.move([1, 2, 3], "Junk") == Moved({1: None}, {3})


def test_move_that_was_refused_half_way_tells_what_was_done() -> None:
    """COPYUID counts even before a NO."""
    rules = {
        "^UID SEARCH": present,
        "^UID MOVE": "* OK [COPYUID 9 1 77] moved\n* 1 EXPUNGE\n{tag} NO [OVERQUOTA] full",
    }
    with Scripted(rules) as server, mailbox(server) as box:
        box.select("INBOX")
        assert box.move([1, 2], "Junk") == Moved({1: 77}, set())


def test_move_is_tried_again_with_those_that_are_left() -> None:
    """[EXPUNGEISSUED]: another client took one away between our looking and our moving."""
    there = iter(["* SEARCH 1 2", "* SEARCH 2", "* SEARCH"])
    moves = iter(["{tag} NO [EXPUNGEISSUED] some are gone", "* OK [COPYUID 9 2 77] moved\n{tag} OK done"])
    rules = {"^UID SEARCH": lambda _: next(there) + "\n{tag} OK done", "^UID MOVE": lambda _: next(moves)}
    with Scripted(rules) as server, mailbox(server) as box:
        box.select("INBOX")
        assert box.move([1, 2], "Junk") == Moved({2: 77}, {1})


def test_copy_without_copyuid_is_proved_by_content() -> None:
    """Where nothing like it is found in the target, the original stays."""
    mail = "Message-ID: <a@b>\n\nx".replace("\n", "\r\n")
    body = f"BODY[] {{{len(mail)}}}\n{mail}"
    rules = {
        "^UID SEARCH HEADER": "* SEARCH 50\n{tag} OK done",
        "^UID SEARCH": present,
        "^UID COPY": "{tag} OK done",
        "^UID FETCH (1|2|1:2|50) .*BODY": lambda line: "".join(
            f"* 1 FETCH (UID {uid} RFC822.SIZE {len(mail)} FLAGS () {text})\n"
            for uid, text in ((1, body), (2, body.replace("x", "y")), (50, body))
        ).replace("\r\n", "\n") + "{tag} OK done",
        "^UID FETCH": "* 1 FETCH (UID 1 RFC822.SIZE 20)\n* 2 FETCH (UID 2 RFC822.SIZE 20)\n"
        "* 3 FETCH (UID 50 RFC822.SIZE 20)\n{tag} OK done",
        "^UID STORE|^UID EXPUNGE": "{tag} OK done",
    }
    with Scripted(rules, capabilities=NO_MOVE) as server, mailbox(server) as box:
        box.select("INBOX")
        box.move([1, 2], "Junk")
        assert [line for line in server.heard if "STORE" in line or "EXPUNGE" in line] == [
            "UID STORE 1 +FLAGS.SILENT (\\Deleted)", "UID EXPUNGE 1"
        ]


def test_copy_is_not_begun_without_the_right_to_delete() -> None:
    """It would leave the message in two places."""
    rules = {"^SELECT": SELECTED.replace("(\\Seen \\Deleted \\*)", "(\\Seen \\*)") + "{tag} OK [READ-WRITE] done"}
    with Scripted(rules, capabilities=NO_MOVE) as server, mailbox(server) as box:
        box.select("INBOX")
        with pytest.raises(CannotMove):
            box.move([1], "Junk")
    assert not [line for line in server.heard if "COPY" in line]


# --- waiting ---


def test_news_in_one_piece_with_the_continuation_is_heard() -> None:
    """`+ idling` and EXISTS in one packet: a poll of the socket would show nothing."""
    with Scripted({"^IDLE": "+ idling\n* 4 EXISTS"}) as server, mailbox(server) as box:
        box.select("INBOX")
        began = time.monotonic()
        assert box.idle(5, lambda: False)
        assert time.monotonic() - began < 1


def test_news_before_the_continuation_is_heard() -> None:
    """A server may still have something to say before it idles."""
    with Scripted({"^IDLE": "* 4 EXISTS\n+ idling"}) as server, mailbox(server) as box:
        box.select("INBOX")
        assert box.idle(5, lambda: False)


def test_still_here_is_no_news() -> None:
    """Dovecot says so every two minutes."""
    with Scripted({"^IDLE": "+ idling\n* OK Still here"}) as server, mailbox(server) as box:
        box.select("INBOX")
        assert not box.idle(0.3, lambda: False)


@pytest.mark.parametrize("end", ["* BYE autologout" + HANG_UP, HANG_UP])
def test_server_that_hangs_up_while_idle(end: str) -> None:
    """With a word or without: a lost connection at once, not an endless loop."""
    with Scripted({"^IDLE": "+ idling\n" + end}) as server, mailbox(server) as box:
        box.select("INBOX")
        began = time.monotonic()
        with pytest.raises(TryLater):
            box.idle(20, lambda: False)
        assert time.monotonic() - began < 2


def test_server_that_refuses_to_idle() -> None:
    """It is an answer, and no lost connection."""
    with Scripted({"^IDLE": "{tag} NO not now"}) as server, mailbox(server) as box:
        box.select("INBOX")
        with pytest.raises(Refused, match="not now"):
            box.idle(5, lambda: False)
        assert box.select("INBOX").messages == 3


def test_without_idle_the_time_just_passes() -> None:
    """Nothing is sent, and `stop` is heard."""
    with Scripted(capabilities="IMAP4rev1") as server, mailbox(server) as box:
        assert not box.can_idle
        box.select("INBOX")
        before = len(server.heard)
        assert not box.idle(0.2, lambda: False)
        assert not box.idle(60, lambda: True)
        assert len(server.heard) == before


def test_half_a_line_is_no_news_yet() -> None:
    """It counts when the rest has come, and is not lost in between."""
    with Scripted() as server, mailbox(server) as box:
        box.select("INBOX")

        def stop() -> bool:
            if pieces:
                server.send(pieces.pop(0))
            return False

        pieces = [b"", b"* 4 EXI", b"STS\r\n"]
        assert box.idle(5, stop)


def test_stopping_does_not_wait_for_a_dead_link() -> None:
    """The answer to DONE is awaited for two seconds when it is time to end, whatever the read time-out."""
    with Scripted({"^DONE": ""}) as server, mailbox(server, read_timeout=30) as box:
        box.select("INBOX")
        began = time.monotonic()
        with pytest.raises(TryLater, match="in time"):
            box.idle(60, lambda: time.monotonic() - began > 0.2)
        assert time.monotonic() - began < 4


def test_parting_is_short() -> None:
    """A server that does not answer LOGOUT holds up the end by two seconds at most."""
    with Scripted({"^LOGOUT": ""}) as server:
        box = mailbox(server, read_timeout=30)
        box.connect()
        began = time.monotonic()
        box.close()
        assert time.monotonic() - began < 4
