"""Ugly mail in, Mail out: what is read, what is recorded, and that nothing raises."""

import email
import email.policy
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailtagger.clean import clean
from mailtagger.parse import LINK_LIMIT, SHORT, Mail, identify, parse

TORTURE = Path(os.environ.get("MAILTAGGER_CORPORA", Path(__file__).parents[2] / "shared" / "corpora")) / "mime_torture"
MAIL = (
    b"From: Anna <Anna@Example.org>\r\nReply-To: x@other.example\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"Message-ID: <a1@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n"
    b"--c\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    b"Sch\xc3\xb6n!\r\n--c\r\nContent-Type: text/html\r\n\r\n"
    b"<p>Schoen<span style='display:none'>zebra</span></p>\r\n--c--\r\n"
    b"--b\r\nContent-Type: application/pdf; name=bill.PDF\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n--b--\r\n"
)


def html(body: str) -> Mail:
    return parse(b"Content-Type: text/html; charset=utf-8\n\n" + body.encode())


def test_a_whole_message_is_read() -> None:
    """Encoded subject, plain text before HTML, addresses, attachment and hidden text come out."""
    mail = parse(MAIL)
    assert mail.subject == "Grüße"
    assert mail.body.strip() == "Schön!"
    assert (mail.sender, mail.reply_to, mail.message_id) == ("anna@example.org", "x@other.example", "a1@example.org")
    assert (mail.attachments, mail.hidden, mail.html_only) == (("pdf",), True, False)


@pytest.mark.parametrize(
    "style", ["display:none", "font-size:0", "font-size: 0px;", "visibility:hidden", "color:#fff;background:#fff"]
)
def test_hidden_words_leave_a_fact_and_not_their_text(style: str) -> None:
    """Invisible text is not read, but known of."""
    mail = html(f"<p>seen</p><div style='{style}'>zebra <b>crossing</b></div><p>after</p>")
    assert mail.body.split() == ["seen", "after"]
    assert mail.hidden


def test_visible_styles_hide_nothing() -> None:
    """font-size 0.9em, colours of their own and comments are plain text's friends."""
    mail = html("<p style='font-size:0.9em;color:#333;background-color:#fff'>seen<!-- no --><script>no()</script></p>")
    assert mail.body.split() == ["seen"]
    assert not mail.hidden


@pytest.mark.parametrize(("target", "lies"), [("http://evil.example/x", True), ("https://www.bank.com/login", False)])
def test_a_link_that_shows_another_host_is_noticed(target: str, lies: bool) -> None:
    """The text of a link names a host; its target's domain must be the same."""
    assert html(f"<a href='{target}'>www.bank.com</a>").mismatch is lies


def test_a_lie_behind_many_links_is_noticed() -> None:
    """Hosts are told of so many links; whether one lies is asked of each."""
    many = "".join(f"<a href='http://h{i}.example'>x</a>" for i in range(LINK_LIMIT + 1))
    mail = html(f"{many}<a href='http://evil.example'>www.bank.com</a>")
    assert mail.mismatch and len(mail.hosts) == LINK_LIMIT


def test_links_pictures_and_people_are_known() -> None:
    """Hosts of what can be clicked or read, each once; pictures from elsewhere; who it is from and to."""
    page = (
        "<a href='HTTPS://www.Shop.example:443/a'>x</a><a href='//shop.example/b'>y</a><a href='mailto:a@b.example'>"
        "z</a><div style='display:none'><a href='http://hidden.example'>h</a></div><a href='http://[bad'>w</a>"
    )
    assert html(page).hosts == ("www.shop.example", "shop.example")
    letter = b"see http://u@one.example/x, http://two.example."
    text = parse(b"From: a@b.example\nTo: Me <ME@x.example>, you@x.example\n\n" + letter)
    assert text.hosts == ("one.example", "two.example.")
    assert (text.named, text.recipient, text.pictures) == (False, "me@x.example", False)
    assert parse(b"From: A <a@b.example>\nTo: undisclosed-recipients:;\n\nx").recipient == ""
    assert parse(b"From: A <a@b.example>\n\nx").named
    assert html("<img src='http://x.example/a.png'>").pictures
    assert not html("<img src='cid:1'><div hidden><img src='http://x.example/a.png'></div>").pictures


@pytest.mark.parametrize(
    ("value", "address", "named"),
    [
        ("=?utf-8?q?J=C3=B8rn=2C_Anna?= <anna@example.org>", "anna@example.org", True),
        ("=?utf-8?q?Future?= , <admin@example.org>", "admin@example.org", False),
        ('"boss@corp.example" <evil@bad.example>', "evil@bad.example", True),
        ('"x <boss@corp.example>" <evil@bad.example>', "evil@bad.example", True),
        ("Mailer Daemon <>", "", True),
        ("<ANNA@Example.org>", "anna@example.org", False),
    ],
)
def test_a_sender_is_told_by_the_address_that_counts(value: str, address: str, named: bool) -> None:
    """A comma in an encoded name ends no address, and an address in a name is none."""
    mail = parse(f"From: {value}\n\nx".encode())
    assert (mail.sender, mail.named) == (address, named)


def test_undeclared_and_wrong_charsets_still_give_letters() -> None:
    """UTF-8 without a word about it, and Latin-1 called UTF-8."""
    assert parse("Subject: x\n\nGrüße".encode()).body == "Grüße"
    assert (
        "Grüße aus Köln"
        in parse(b"Content-Type: text/plain; charset=utf-8\n\n" + "Grüße aus Köln, schöne Tage".encode("latin-1")).body
    )


def attached(body: str, *texts: str, kind: str = "text/plain", way: str = "attachment; filename=a.txt") -> Mail:
    """A message with a body and texts attached to it, read."""
    parts = [f"--b\nContent-Type: text/plain; charset=utf-8\n\n{body}\n"]
    parts += [f"--b\nContent-Type: {kind}; charset=utf-8\nContent-Disposition: {way}\n\n{text}\n" for text in texts]
    head = "Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
    return parse(f"{head}{''.join(parts)}--b--\n".encode())


def test_what_is_attached_is_read_where_the_body_is_short() -> None:
    """Advance-fee fraud comes as a text file under one line; it is read, and still counts as an attachment."""
    mail = attached("Please read the attached letter.", "Dear friend, I am the widow of a banker.")
    assert "attached letter" in mail.body
    assert mail.body.rstrip().endswith("widow of a banker.")
    assert mail.attachments == ("txt",)
    assert not mail.html_only


def test_what_is_attached_to_a_letter_is_not_read() -> None:
    """From SHORT characters on the body speaks for itself; a log or a patch below it does not."""
    assert "zebra" in attached("a" * (SHORT - 1), "zebra").body
    assert "zebra" not in attached("a" * SHORT, "zebra").body


def test_attached_html_is_read_as_text_and_hides_as_little() -> None:
    """A page as attachment, declared or not, leaves its visible words only, and the mail is not called HTML for it."""
    page = "<html><body><p>Log in</p><p style='display:none'>zebra</p><script>no()</script></body></html>"
    for kind in ("text/html", "text/plain"):
        mail = attached("Your invoice", page, kind=kind, way="attachment; filename=bill.htm")
        assert mail.body.split() == ["Your", "invoice", "Log", "in"]
        assert (mail.attachments, mail.html_only) == (("htm",), False)


def test_a_mail_that_is_an_attachment_alone_is_read() -> None:
    """No body at all, and no note that there is no text."""
    mail = parse(b"Content-Type: text/plain; name=a.txt\nContent-Disposition: attachment; filename=a.txt\n\nzebra")
    assert (mail.body.split(), mail.attachments) == (["zebra"], ("txt",))
    assert "no text" not in mail.notes


@pytest.mark.parametrize(("name", "kind"), [("a.txt", "application/octet-stream"), ("a.html", "application/x-unknown")])
def test_a_text_is_known_by_its_name_too(name: str, kind: str) -> None:
    """As mail readers open it by the name, whatever type it is called."""
    assert (
        attached("hi", "<b>zebra</b>", kind=kind, way=f"attachment; filename={name}")
        .body.strip()
        .endswith("zebra" if "html" in name else "<b>zebra</b>")
    )


@pytest.mark.parametrize("kind", ["text/calendar", "text/x-vcard", "image/png", "application/octet-stream"])
def test_other_attachments_are_never_read(kind: str) -> None:
    """A calendar, a card or an image is no text to read, whatever stands in it."""
    mail = attached("hi", "zebra", "zebra", kind=kind, way="attachment; filename=a.bin")
    assert (mail.body.strip(), mail.attachments) == ("hi", ("bin", "bin"))


def test_plain_text_of_many_tags_is_html() -> None:
    """Spam that calls its page plain is shown without the tags; a tag or two in a letter about pages stay."""
    page = "Hello <b>dear</b> <i>friend</i>,<br><a href='http://x.example'>here</a><p hidden>zebra</p>"
    assert parse(f"Subject: x\n\n{page}".encode()).body.split() == ["Hello", "dear", "friend,", "here"]
    letter = "put it in <b>bold</b>, not in a <div>"
    assert parse(f"Subject: x\n\n{letter}".encode()).body == letter


@pytest.mark.parametrize("raw", [b"", b"\r\n\r\n", b"Subject: \n\n", b"Content-Type: image/png\n\n\x89PNG"])
def test_mail_that_says_nothing_says_so(raw: bytes) -> None:
    """Empty mail has a note and no text."""
    mail = parse(raw)
    assert clean(mail) == ""
    assert set(mail.notes) & {"empty", "no text"}


@pytest.mark.parametrize(
    "raw",
    [
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(1000)),
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 10_000,
        b"Content-Type: text/html\n\n" + b"<div>" * 100_000 + b"x",
        b"Subject: " + b"=?utf-8?q?x?= " * 100_000 + b"\n\nx",
        b"Subject: x\n\n" + b"a" * 20_000_000,
        b"Subject: x\n\n" + b"www . " * 200_000,
        b"Subject: x\n\n" + b"x @ y . " * 100_000,
        b"Content-Type: message/rfc822\n\n" * 1000,
        b"Content-Type: text/plain" + b"; a*0*=utf-8''b" * 200_000 + b"\n\nx",
        b"Content-Disposition: inline" + b";\r a=b" * 300_000 + b"\r\rx",
    ],
    ids=["1000 levels", "10,000 parts", "deep HTML", "long header", "one long line", "URLs", "addresses",
         "1000 messages", "parameters", "parameters over lines"],
)
def test_bombs_are_bounded(raw: bytes) -> None:
    """What an attacker repeats is cut, so that no message takes long; the bound is lax, for slow machines."""
    began = time.process_time()
    clean(parse(raw))
    assert time.process_time() - began < 3


def test_ident_survives_the_way_and_not_a_change() -> None:
    """Line ends and added headers keep the ident; another body or sender changes it."""
    ident = identify(MAIL)
    assert identify(b"Received: by mx\r\nX-Spam: no\r\n" + MAIL.replace(b"\r\n", b"\n")) == ident
    assert identify(MAIL.replace(b"Sch", b"sch")) != ident
    assert identify(MAIL.replace(b"Anna", b"Bert")) != ident


@pytest.mark.skipif(not TORTURE.exists(), reason="needs MAILTAGGER_CORPORA, a directory with mime_torture/")
def test_headers_alone_that_say_nothing_are_told_apart() -> None:
    """Two messages without a body and without any header of identity are two."""
    assert identify(b"X-Test: a\r\n") != identify(b"X-Test: b\r\n")
    assert identify(b"X-Test: a\r\n") == identify(b"X-Test: a\n\n")


def test_the_torture_set_is_read_in_time() -> None:
    """Every file of the set: no exception, and at most 50 ms of CPU time a message, best of three."""
    parse(b"Subject: \xff\n\n\xff\xfe")  # the charset detector loads its tables once
    slow = []
    for file in (path for path in TORTURE.rglob("*") if path.is_file()):
        raw, times = file.read_bytes(), []
        for _ in range(3):
            began = time.process_time()
            clean(parse(raw))
            times.append(time.process_time() - began)
        if min(times) > 0.05:
            slow.append((file.name, min(times)))
    assert slow == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(MAIL)), st.binary(max_size=12)), max_size=12), st.integers(0, len(MAIL)))
def test_mutated_bytes_never_raise(changes: list[tuple[int, bytes]], end: int) -> None:
    """Whatever is inserted, overwritten or cut, there is a Mail, a text and an ident."""
    raw = bytearray(MAIL)
    for at, new in changes:
        raw[at : at + len(new) // 2] = new
    mail = parse(bytes(raw[:end]))
    clean(mail).encode()
    assert len(identify(bytes(raw))) == 64


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_never_raise(raw: bytes) -> None:
    """Bytes that never were mail."""
    clean(parse(raw)).encode()


def test_parse_agrees_with_a_message_made_by_the_library() -> None:
    """A message written by the standard library's modern policy is read back."""
    message = email.message.EmailMessage(policy=email.policy.default)
    message["Subject"], message["From"] = "Ünïcode — dash", "Bö <b@example.org>"
    message.set_content("Zeile eins\nzwei €")
    mail = parse(message.as_bytes())
    assert (mail.subject, mail.sender, mail.body.split()) == (
        "Ünïcode — dash",
        "b@example.org",
        ["Zeile", "eins", "zwei", "€"],
    )
