"""allow.py: only the user's own server proves a sender, and whatever a forger writes gains him nothing."""

import time
from email import message_from_bytes
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailtagger import allow, correspondents
from mailtagger.journal import Journal
from mailtagger.parse import parse
from tests.flow import account, journal_in

FRIEND = "friend@good.example"
SERVER = "mx.home.example"
PASSED = f"Authentication-Results: {SERVER}; dmarc=pass header.from=good.example"
SIGNED = f"Authentication-Results: {SERVER};\r\n\tdkim=pass (2048-bit key) header.d=good.example header.b=\"ab/c=\""
BORDER = f"Received: from any.example (any.example [192.0.2.7])\r\n\tby {SERVER} (Postfix) with ESMTPS id 1"
LMTP = f"Received: from {SERVER} by imap.home.example with LMTP id 2"


def mail(*lines: str, sender: str = f"A Friend <{FRIEND}>") -> bytes:
    """A message with these header lines above those that its sender wrote."""
    return "\r\n".join([*lines, f"From: {sender}", "To: me@home.example", "Subject: x", "", "words", ""]).encode()


def proven(raw: bytes) -> bool:
    return allow.proven(raw, FRIEND, SERVER)


def said(results: str) -> bool:
    """Whether this, said by the user's own server, proves the friend."""
    return proven(mail(f"Authentication-Results: {results}", BORDER))


# --- what proves


@pytest.mark.parametrize("lines", [
    (PASSED, BORDER), (SIGNED, BORDER), (LMTP, PASSED, BORDER), ("Return-Path: <x@y.example>", PASSED, BORDER),
    (f"Authentication-Results: {SERVER}; spf=fail smtp.mailfrom=x.example", PASSED, BORDER),
    (f"Authentication-Results: {SERVER}; dmarc=none header.from=good.example", SIGNED, BORDER),
])  # fmt: skip
def test_own_server_above_its_received_proves(lines: tuple[str, ...]) -> None:
    """dmarc=pass or dkim=pass for the domain of From, where the server writes it before it tells of the delivery."""
    assert proven(mail(*lines))


@pytest.mark.parametrize("results", [
    "MX.Home.Example 1 ; DMARC = Pass (p=none; dis=none) header.From = GOOD.example",
    '"mx.home.example"; spf=pass smtp.mailfrom=a@good.example; dkim/1=pass reason="a; b" header.d="good.example"',
    "mx.home.example (a (nested) one; dmarc=fail); dkim=fail header.d=list.example; dkim=pass header.d=good.example;",
    "mx.home.example;\r\n\tdmarc=pass\r\n\t(policy=reject)\r\n\theader.from=good.example",
    "mx.home.example; none; dmarc=pass header.from=good.example",
])  # fmt: skip
def test_the_grammar_of_rfc_8601_is_read(results: str) -> None:
    """Comments, quoted strings, folding, versions, and names in any case."""
    assert said(results)


@pytest.mark.parametrize("name", [
    f"<{FRIEND}>", FRIEND, f'"Friend, A." <{FRIEND}>', f"=?utf-8?q?J=C3=B6rg?= <{FRIEND}>", f"{FRIEND} (A Friend)",
    "Jörg <Friend@Good.Example>",
])  # fmt: skip
def test_usual_forms_of_from(name: str) -> None:
    """A name, quoted, encoded or in a comment, does not matter; nor does case."""
    assert proven(mail(PASSED, BORDER, sender=name))


# --- what does not


@pytest.mark.parametrize("results", [
    "mx.home.example; none",
    "mx.home.example; spf=pass smtp.mailfrom=good.example",
    "mx.home.example; dmarc=fail (dmarc=pass header.from=good.example) header.from=good.example",
    "mx.home.example; dmarc=fail header.from=good.example; dkim=pass header.d=good.example",
    "mx.home.example; dmarc=pass header.from=evil.example",
    "mx.home.example; dmarc=pass",
    "mx.home.example; dmarc=pass header.from=good.example header.from=evil.example",
    "mx.home.example; dmarc=pass header.from=good.example.evil.example",
    "mx.home.example; dmarc=temperror header.from=good.example; dmarc=pass header.from=good.example",
    "mx.home.example; dkim=pass header.i=@good.example header.d=evil.example",
    "mx.home.example; dkim=pass header.d=example",
    "mx.home.example; dkim=pass header.d=mail.good.example",
    "mx.home.example; dkim=policy header.d=good.example",
    "mx.home.example; dkim/2=pass header.d=good.example",
    "mx.home.example; x-dkim=pass header.d=good.example",
    'mx.home.example; spf=fail smtp.mailfrom="a; dmarc=pass header.from=good.example"',
    r'mx.home.example; spf=fail smtp.mailfrom="a\"; dmarc=pass header.from=good.example; x=\""',
    "mx.home.example; spf=fail (a; dmarc=pass header.from=good.example)",
    r"mx.home.example; spf=fail (a \) ; dmarc=pass header.from=good.example)",
    "mx.home.example; spf=fail (open; dmarc=pass header.from=good.example",
    'mx.home.example; spf=fail smtp.mailfrom="open; dmarc=pass header.from=good.example',
    "mx.home.example dmarc=pass header.from=good.example",
    "mx.home.example; dmarc=pass = header.from=good.example",
    "mx.home.example; dmarc=pass\x00 header.from=good.example",
    "mx.home.example; dmarc=pass\rheader.from=good.example",
    "mx.evil.example; dmarc=pass header.from=good.example",
    "(mx.home.example) mx.evil.example; dmarc=pass header.from=good.example",
    "mx.home.example.evil.example; dmarc=pass header.from=good.example",
    "; dmarc=pass header.from=good.example",
    "dmarc=pass header.from=good.example",
    "",
])  # fmt: skip
def test_what_proves_nothing(results: str) -> None:
    """Other results, other domains, other servers, and what only looks like a result."""
    assert not said(results)


FORGED = "Received: from friend.good.example by mx.home.example with ESMTPS id 3"


@pytest.mark.parametrize("lines", [
    (BORDER, PASSED),
    (BORDER, PASSED, FORGED),
    (LMTP, BORDER, PASSED, FORGED),
    (LMTP, BORDER, PASSED, LMTP, FORGED),
    (PASSED,),
    (PASSED, LMTP),
    ("Received: from evil.example by relay.other.example with ESMTPS", PASSED, FORGED),
    ("Received: (qmail 7 invoked from network)", PASSED, FORGED),
    ("Received: from x by y.home.example by evil.example with LMTP", PASSED, FORGED),
    (f"Received: from with LMTP by {SERVER} with ESMTP", PASSED, FORGED),
    (f"Authentication-Results: {SERVER}; dmarc=fail header.from=good.example", BORDER, PASSED, FORGED),
    (f"Authentication-Results: {SERVER}; dmarc=fail header.from=good.example", PASSED, BORDER),
    (f"Authentication-Results: {SERVER}; dmarc=?", PASSED, BORDER),
    (f"X-Authentication-Results: {PASSED.partition(': ')[2]}", BORDER),
    (f"ARC-Authentication-Results: i=1; {PASSED.partition(': ')[2]}", BORDER),
    (f"X-Spam: yes\r\n {PASSED}", BORDER),
    (PASSED, "no colon here", BORDER),
    ("", PASSED, BORDER),
    (PASSED, "X-Long: " + "x" * 300_000, BORDER),
    (PASSED + " policy.x=" + "x" * 20_000, BORDER),
])  # fmt: skip
def test_what_a_sender_can_have_written_proves_nothing(lines: tuple[str, ...]) -> None:
    """Below the server's own Received field, and wherever the border cannot be told, anything may be forged."""
    assert not proven(mail(*lines))


@pytest.mark.parametrize("sender", [
    f'"{FRIEND}" <evil@evil.example>', f"{FRIEND} <evil@evil.example>", f"evil@evil.example ({FRIEND})",
    f"<evil@evil.example>, <{FRIEND}>", f"<{FRIEND}>, <evil@evil.example>", f"<{FRIEND}>\r\nFrom: <evil@evil.example>",
    f"<evil@evil.example>\r\nFrom: <{FRIEND}>", f"<{FRIEND}>\r\nfrom : <evil@evil.example>",
    f'"evil@evil.example" <{FRIEND}>', f"=?utf-8?q?evil=40evil.example?= <{FRIEND}>",
    f"=?utf-8?b?ZXZpbEBldmlsLmV4YW1wbGU=?= <{FRIEND}>", f"=?no-such?q?x?= <{FRIEND}>",
    f"Group: <{FRIEND}>;", f"<@evil.example:{FRIEND}>", f"<{FRIEND}", f"{FRIEND}>", f"<{FRIEND}> x", "", "<>", "Friend",
    f"evil <{FRIEND}\r>", f"a\rFrom: b <{FRIEND}>", "<friend@gооd.example>", "<fr iend@good.example>",
    f"<{FRIEND}.evil.example>", f'<"{FRIEND}"@evil.example>', "<friend(x)@good.example>",
])  # fmt: skip
def test_from_is_exactly_one_plain_address(sender: str) -> None:
    """Two fields, two addresses, a name that shows an address, or anything that is read in two ways: not allowed."""
    assert not proven(mail(PASSED, BORDER, sender=sender))


def test_needs_the_servers_name_and_a_correspondent(journal: Journal) -> None:
    """Without `authserv_id` nobody is known, nor is somebody to whom the user never wrote, though proven."""
    raw, home = mail(PASSED, BORDER), account(authserv_id=SERVER)
    assert not allow.known(journal, home, raw, FRIEND)
    assert correspondents.add(journal, "home", [FRIEND, "other@good.example"], "sent") == 2
    assert correspondents.add(journal, "home", [FRIEND], "sent") == 0
    assert allow.known(journal, home, raw, FRIEND)
    assert not allow.known(journal, account(), raw, FRIEND)
    assert not allow.known(journal, account(name="work", authserv_id=SERVER), raw, FRIEND)
    assert not allow.known(journal, home, raw, "other@good.example")
    stranger = mail(PASSED, BORDER, sender="<stranger@good.example>")
    assert not allow.known(journal, home, stranger, "stranger@good.example")


# --- at random

PIECES = st.sampled_from([
    PASSED, SIGNED, PASSED.lower(), FORGED, BORDER, LMTP, "From: <evil@evil.example>", "Sender: evil@evil.example",
    f"Authentication-Results: {SERVER}; none", "Received: by evil.example", "X: (", 'X: "', "", " folded", "X", "\t;",
    f"Authentication-Results: evil.example; dmarc=pass header.from=good.example; ({SERVER})",
])  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=60)), max_size=12))
@example([PASSED, FORGED])
@example([PASSED, LMTP, FORGED])
def test_nothing_below_the_border_proves(forged: list[str]) -> None:
    """Whatever a sender writes: a server that found nothing out, or whose check did not run, has proven nothing."""
    failed = f"Authentication-Results: {SERVER}; dmarc=fail header.from=good.example"
    for above in ([BORDER], [LMTP, BORDER], [failed, BORDER]):
        assert not proven("\r\n".join([*above, *forged, f"From: {FRIEND}", "", "x"]).encode("utf-8", "replace"))


TEXT = st.text(st.sampled_from('dmarc=pass header.from=good.example;"()\\ \t@\r\n\x00ä,:.'), max_size=80)


def quoted(text: str) -> str:
    """As a server quotes what a sender said (RFC 5322, 3.2.4)."""
    return '"' + "".join("\\" + c if c in '"\\' else c for c in text if c not in "\r\n") + '"'


def comment(text: str) -> str:
    return "(" + "".join("\\" + c if c in "()\\" else c for c in text if c not in "\r\n") + ")"


@given(TEXT, TEXT)
@example("x; dmarc=pass header.from=good.example", "; dmarc=pass header.from=good.example")
@example('"; dmarc=pass header.from=good.example; x="', ") ; dmarc=pass header.from=good.example (")
def test_what_a_server_repeats_of_the_sender_is_no_result(helo: str, reason: str) -> None:
    """HELO and reasons in quoted strings and comments cannot turn a failure into a pass."""
    assert not said(f"{SERVER}; spf=fail {comment(reason)} smtp.helo={quoted(helo)}; dkim=fail reason={quoted(reason)}")


@given(st.one_of(st.binary(max_size=400), st.builds(lambda t: mail(PASSED, BORDER, sender=t), TEXT)))
def test_never_raises_and_agrees_with_the_parser(raw: bytes) -> None:
    """Any bytes give an answer, and whoever is proven is the one that the standard library reads in From, too."""
    sender = parse(raw).sender
    if allow.proven(raw, sender, SERVER):
        assert sender in (str(message_from_bytes(raw)["From"])).lower()
        assert sender.endswith("@good.example")


@pytest.mark.parametrize("hostile", ["(" * 9_000, '"' * 9_001, "\\" * 9_000, "; a=b" * 1_800, "a" * 9_900, "; " * 4_900,
                                     " " * 9_900, '""' * 4_900, "=?" * 4_900, "(" * 10 + "x)" * 4_000])
def test_hostile_fields_take_no_time(hostile: str) -> None:
    """Ten kilobytes of the worst are read within a tenth of a second, in either field."""
    began = time.process_time()
    assert not said(f"{SERVER}; dmarc=fail {hostile}")
    proven(mail(PASSED, BORDER, sender=f"{hostile} <{FRIEND}>"))
    assert time.process_time() - began < 0.1


# --- recipients


def test_recipients_of_what_a_person_sent() -> None:
    """To and Cc, each once, in lower case, and nothing that is no address."""
    header = (b"To: A <A@One.example>, b@two.example\r\nCc: =?utf-8?q?=C3=A4?= <c@three.example>,\r\n a@one.example\r\n"
              b"Cc: undisclosed-recipients:;, broken@, x <d@four>\r\n\r\n")
    assert correspondents.recipients(header) == ["a@one.example", "b@two.example", "c@three.example"]


@pytest.mark.parametrize("field", [b"Auto-Submitted: auto-replied", b"Content-Type: multipart/report; boundary=x"])
def test_no_recipients_of_what_a_program_sent(field: bytes) -> None:
    """An absence note or a receipt answers a spammer as well."""
    assert correspondents.recipients(b"To: evil@evil.example\r\n" + field + b"\r\n\r\n") == []
    assert correspondents.recipients(b"To: good@good.example\r\nAuto-Submitted: No\r\n\r\n") == ["good@good.example"]


def test_the_journal_keeps_them(tmp_path: Path) -> None:
    """Opened again, the journal still knows to whom the user wrote."""
    with journal_in(tmp_path) as journal:
        correspondents.add(journal, "home", [FRIEND], "sent")
    with journal_in(tmp_path) as journal:
        assert correspondents.writes_to(journal, "home", FRIEND)
