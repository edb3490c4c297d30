"""Faults 57 to 68: messages that nobody should have sent, and servers that answer oddly."""

import base64
import contextlib
import json
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from imapclient.exceptions import IMAPClientError

from tests.faults.house import House
from tests.faults.test_clients import flag, followed, lessons, move, said
from tests.imap_server import needs_tools
from tests.running import HAM_TEXT, SOON, Daemon, message
from tests.running import WON as ONCE

pytestmark = needs_tools

WON = f"{ONCE} {ONCE}"  # spam enough for odd words beside it
MEMORY = 300 << 10  # kB that the daemon may ever have had; on an idle machine it has 130
# The daemon, with a classifier that fails on one text, and quotes it.
POISON = """
from mailtagger import judge, score
right = score.Scorer.score
def poisoned(self, text):
    if "poison" in text:
        judge.log.info("tried")
        raise RuntimeError(text)
    return right(self, text)
score.Scorer.score = poisoned
"""
# The daemon, which one text kills when it is read: by signal 9, as when memory runs out, or by a fault in native code.
DEADLY = """
import ctypes, os
from mailtagger import judge
right = judge.clean
def deadly(mail):
    if "poison" in mail.body:
        {}
    return right(mail)
judge.clean = deadly
"""
DEATHS = {"killed": "os.kill(os.getpid(), 9)", "crashed": "ctypes.string_at(0)"}


def multipart(id_: str, *parts: bytes, boundary: str = "b", text: str = WON) -> bytes:
    """A message with its text as the first part."""
    head = (
        f"X-Test: <{id_}@test>\r\nMessage-ID: <{id_}@test>\r\nFrom: a@example.org\r\nTo: alice@example.org\r\n"
        f"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\nSubject: {id_}\r\nMIME-Version: 1.0\r\n"
        f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n--{boundary}\r\n\r\n{text}\r\n'
    )
    return head.encode() + b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts)


def stored(house: House, *contents: bytes) -> set[str]:
    """The ids of those that the server takes."""
    with house.server.client("alice") as client:
        for content in contents:
            with contextlib.suppress(IMAPClientError):
                client.append("INBOX", content)
    news = {id_: content for _, id_, content, _ in house.everything("INBOX")}
    house.delivered.update(news)
    return set(news)


def worked_off(house: House, *contents: bytes, seconds: float = 60.0) -> Daemon:
    """The daemon, once it has judged all of these and the spam behind them, without a failure."""
    house.configure(log={"level": "debug"}, brake={"messages": 1000, "share": 1.0})
    house.start().end()
    ids = stored(house, *contents)
    assert ids, "the server took none of them"
    [behind] = house.deliver(house.spam())
    daemon = house.bench.start()
    daemon.until(lambda: behind in house.inside("Junk") and house.settled(), seconds)
    assert house.rows("SELECT COUNT(*) FROM messages WHERE folder = 'INBOX'") == [(len(ids) + 1,)]
    assert not re.search("Traceback|could not be judged|RecursionError|ERROR|WARNING", daemon.log), daemon.log
    assert memory(daemon) < MEMORY
    return daemon


def memory(daemon: Daemon) -> int:
    """The most kB that the daemon has had in memory until now."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{daemon.process.pid}/status").read_text())
    assert found
    return int(found[1])


def verdicts(house: House) -> dict[str, tuple[str, str]]:
    """id → (verdict, notes) of what has a Message-ID."""
    rows = house.rows("SELECT message_id, verdict, notes FROM messages WHERE message_id <> ''")
    return {id_.removesuffix("@test"): (verdict, notes) for id_, verdict, notes in rows}


# 57


@pytest.mark.fault(57)
def test_57_over_fifty_megabytes(house: House) -> None:
    """It is judged by its beginning, which is all that is read, and moved; memory stays as it was."""
    lines = base64.encodebytes(bytes(range(256)) * 3000).replace(b"\n", b"\r\n")
    part = b"Content-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + lines * 60
    big = multipart("big", part)
    assert len(big) > 60_000_000
    worked_off(house, big, seconds=120)
    assert house.inside("Junk") == {"big", "spam-1"}
    verdict, notes = verdicts(house)["big"]
    assert verdict == "spam" and "only the first 256 kB" in notes


# 58


@pytest.mark.fault(58)
def test_58_nul_and_eight_bits(house: House) -> None:
    """No exception: what the server takes is judged, and moved where it is spam."""
    worked_off(
        house,
        message(WON, "nul").replace(b"prize", b"pri\0ze", 1),
        message(WON, "nul-header").replace(b"a word", b"a \0 word"),
        message(WON, "eight").replace(b"a word", "Größe ein Wört".encode("latin-1")),
        message(WON, "utf-8").replace(b"From: a@example.org", "From: Jürgen Größe <a@example.org>".encode()),
        message(WON, "eight-id").replace(b"<eight-id@test>", b"<\xff\xfe@test>\r\nX-Test: <eight-id@test>"),
    )
    assert {"eight", "utf-8"} & house.delivered.keys() <= house.inside("Junk")


# 59


@pytest.mark.quick
@pytest.mark.fault(59)
def test_59_hardly_a_message(house: House) -> None:
    """No headers, headers alone, an empty subject: judged or unsure, never dropped; zero bytes no server takes."""
    worked_off(
        house,
        f"\r\nX-Test: <bare@test>\r\n{WON}\r\n".encode(),
        f"{WON} with no empty line\r\nX-Test: <none@test>\r\n".encode(),
        b"Message-ID: <header@test>\r\nSubject: A word\r\n\r\n",
        b"Message-ID: <endless@test>\r\nSubject: A word\r\n",
        b"Message-ID: <silent@test>\r\nSubject:\r\n\r\n",
        b"Message-ID: <blank@test>\r\n\r\n\r\n\r\n",
    )
    assert verdicts(house)["silent"][0] == "unsure"
    with house.server.client("alice") as user, pytest.raises(IMAPClientError):
        user.append("INBOX", b"")


# 60


@pytest.mark.fault(60)
def test_60_nested_and_split_without_end(house: House) -> None:
    """1,000 levels, 10,000 parts, a boundary that is never closed: judged within seconds, and no RecursionError."""
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(1000))
    deep = b"Content-Type: message/rfc822\r\n\r\n" * 1000
    many = multipart("many", *[b"\r\nx"] * 10_000)
    open_ = multipart("open", b"Content-Type: multipart/mixed; boundary=never", b"Content-Type: text/html\r\n\r\n<p>")
    daemon = worked_off(house, multipart("nested", nested), multipart("wrapped", deep), many, open_)
    assert {"nested", "wrapped"} <= house.inside("Junk")
    slowest = max(float(ms) for ms in re.findall(r" in (\d+) ms", daemon.log))
    assert slowest < 10_000


# 61


@pytest.mark.fault(61)
def test_61_broken_encodings(house: House) -> None:
    """Unknown and wrong charsets, broken base64 and encoded words, lone surrogates: log and journal survive them."""
    html = b"Content-Type: text/html; charset=%s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s"
    subjects = [
        b"=?klingon?q?qapla?=", b"=?utf-8?b?/////w=?=", b"=?utf-8?q?=FF=FE=ED=A0=80?=", b"=?utf-7?q?+2AA-?=",
        b"=?utf-16?b?2AA=?= x", b"=?unicode-escape?q?\\ud800\\udfff?=", b"=?idna?q?xn--?=", b"=?punycode?q?-?=", b"=?",
    ]
    contents = [message(WON, f"subject-{i}").replace(b"a word", subject) for i, subject in enumerate(subjects)]
    bodies = [
        (b"utf-8", b"base64", b"####=====A"), (b"utf-16", b"8bit", b"\xd8\x00odd"), (b"no-such", b"8bit", b"\xff\xfe"),
        (b"hex", b"7bit", b"zz"), (b"utf-7", b"7bit", b"+2AA- +AAAA-"), (b"unicode_escape", b"7bit", b"\\ud800 \\x"),
        (b"utf-8", b"quoted-printable", b"=ED=A0=80=\r\n=ZZ"), (b"utf-8", b"uuencode", b"begin 644 x\r\nM\xff\r\nend"),
        (b"utf_8_sig", b"x-gzip", b"\x1f\x8b"), (b"rot13", b"7bit", b"uryyb"), (b"mbcs", b"7bit", b"x"),
    ]
    contents += [multipart(f"body-{i}", html % body) for i, body in enumerate(bodies)]
    contents.append(message(WON, "id").replace(b"<id@test>", b"<=?utf-7?q?+2AA-?=@test>\r\nX-Test: <id@test>"))
    daemon = worked_off(house, *contents)
    daemon.log.encode()
    said(house, "history", "--limit", "100")
    assert house.rows("PRAGMA integrity_check") == [("ok",)]


# 62


@pytest.mark.fault(62)
@pytest.mark.parametrize("form", ["one line", "CR only", "LF only"])
def test_62_lines_of_any_kind(house: House, form: str) -> None:
    """A line of 20 MB, line ends of CR alone and of LF alone: read as literals, and judged."""
    contents = {
        "one line": message(WON + " x" * 10_000_000, "line"),
        "CR only": message(WON, "cr").replace(b"\r\n", b"\r"),
        "LF only": message(WON, "lf").replace(b"\r\n", b"\n"),
    }
    if form == "CR only":  # what it says of itself has to be found again
        contents[form] = contents[form].replace(b"Message-ID", b"X-Test")
    try:
        worked_off(house, contents[form], seconds=120)
    except AssertionError as error:
        if "took none" not in str(error):
            raise
        house.start()  # the server refuses it, and the daemon has nothing to do


# 63


@pytest.mark.fault(63)
def test_63_bombs(house: House) -> None:
    """Zip and HTML bombs, a million words, what makes patterns go back and forth: judged within seconds."""
    bomb = base64.encodebytes(zlib.compress(bytes(20_000_000), 9)).replace(b"\n", b"\r\n")
    html = b"Content-Type: text/html; charset=utf-8\r\n\r\n"
    evil = [
        b"<div>\r\n" * 100_000, b"<a href=x>" * 60_000, b"<p style='" + b"color:#fff;" * 60_000 + b"'>x",
        b"<" * 600_000,
        b"&lt;" * 150_000, b"<table><tr><td>\r\n" * 30_000, b"<!--" * 100_000, b"<x " + b"a='b' " * 100_000 + b">",
    ]
    words = [
        " ".join(f"w{n}" for n in range(120_000)), "www . " * 100_000, "a @ b . " * 80_000, "http://" * 80_000,
        "-- \r\n" * 100_000, "> " * 300_000, "a " * 300_000, "\u200b" * 200_000, "_" * 600_000, "!? " * 200_000,
        "1a" * 300_000, "x\u0430" * 150_000,
    ]
    contents = [multipart(f"html-{i}", html + part, text="") for i, part in enumerate(evil)]
    contents += [message(text, f"words-{i}").replace(b"Date:", b"Content-Type: text/plain; charset=utf-8\r\nDate:")
                 for i, text in enumerate(words)]
    contents.append(multipart(
        "zip", b"Content-Type: application/zip; name=x.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + bomb
    ))
    daemon = worked_off(house, *contents, seconds=180)
    assert max(float(ms) for ms in re.findall(r" in (\d+) ms", daemon.log)) < 60_000


# 64


@pytest.mark.fault(64)
@pytest.mark.parametrize("form", ["plain", "json"])
def test_64_line_ends_and_escapes_in_headers(house: House, form: str) -> None:
    """Each message is one line in the log at debug, and one row of `history`: nothing a terminal obeys."""
    evil = "=?utf-8?q?one=0D=0A2026-01-01_INFO_forged=1B[31m=1B]0;x=07=C2=9B2J=E2=80=AE?="
    contents = [message(WON, "evil", evil), message(WON, "id").replace(
        b"<id@test>", b"<\x1b[31m\x9b2J@test>\r\nX-Test: <id@test>"
    )]
    contents.append(message(WON, "from").replace(b"a@example.org", f"{evil} <a@example.org>".encode(), 1))
    house.configure(log={"level": "debug", "format": form})
    house.start().end()
    stored(house, *contents)
    [behind] = house.deliver(house.spam())
    daemon = house.start()
    daemon.until(lambda: behind in house.inside("Junk") and house.settled())
    assert daemon.log.isascii() or not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", daemon.log)
    assert "\x1b" not in daemon.log and "\r" not in daemon.log
    for line in daemon.log.splitlines():
        assert json.loads(line) if form == "json" else re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d+ [A-Z]+ ", line)
    assert "2026-01-01" not in [line[:10] for line in daemon.log.splitlines()]
    for command in (["history"], ["status"], ["scan", "--folder", "Junk"]):
        printed = said(house, *command)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", printed), command


# 65


@pytest.mark.quick
@pytest.mark.fault(65)
def test_65_the_classifier_fails_on_one_message(house: House) -> None:
    """Tried three times, set aside, and named in `status` with its folder, its UID and why; the queue goes on."""
    house.configure()
    daemon = house.bench.start_with(POISON).ready()
    [bad] = house.drop(message(f"{HAM_TEXT} poison", "bad"))
    [good] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {good} and house.settled())
    assert daemon.log.count("tried") == 3
    [aside] = json.loads(said(house, "status", "--json"))["accounts"][0]["set_aside"]
    with house.server.client("alice") as user:
        user.select_folder("INBOX")
        assert (aside["folder"], [aside["uid"]]) == ("INBOX", user.search())
    assert "could not be judged: RuntimeError in " in aside["why"]
    told = said(house, "status")
    assert f"INBOX UID {aside['uid']} is set aside: it could not be judged: RuntimeError in " in told
    assert "lunch" not in daemon.log + told
    daemon.end()
    daemon = house.bench.start_with(POISON).ready()
    [second] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {good, second} and house.settled())
    assert daemon.log.count("tried") == 3
    assert house.inside("INBOX") == {bad}


@pytest.mark.fault(65)
def test_65_a_lesson_from_a_message_that_cannot_be_judged(house: House) -> None:
    """Dragged to Junk it teaches nothing, is named in the log, and what was dragged beside it is learned."""
    house.configure()
    daemon = house.bench.start_with(POISON).ready()
    bad, good = house.drop(message(f"{HAM_TEXT} poison", "bad"), house.ham())
    daemon.until(lambda: house.rows("SELECT COUNT(*) FROM messages") == [(2,)] and followed(house.bench, "Junk", 1))
    move(house, [bad, good], "INBOX", "Junk")
    daemon.until(lambda: lessons(house) == [(good, "spam")])
    flag(house, "Junk", "$NotJunk")
    daemon.until(lambda: lessons(house) == [(good, "ham")])
    assert house.inside("Junk") == {bad, good}


def lives(house: House, how: str, done: Callable[[Daemon], bool]) -> int:
    """How often the daemon died and was started again until that was done."""
    for deaths in range(10):
        daemon = house.bench.start_with(DEADLY.format(DEATHS[how]))
        end = time.monotonic() + 2 * SOON
        while daemon.process.poll() is None and not done(daemon):
            assert time.monotonic() < end, daemon.log
            time.sleep(0.05)
        if daemon.process.poll() is None:
            assert daemon.end() < 5
            return deaths
    raise AssertionError(daemon.log)


@pytest.mark.quick
@pytest.mark.fault(65)
@pytest.mark.parametrize("how", list(DEATHS))
def test_65_a_message_that_kills_the_process(house: House, how: str) -> None:
    """Three deaths, and it is set aside, named in `status` and not read again; those beside it are judged and moved."""
    house.configure()
    house.start().end()
    first, bad, second = house.drop(house.spam(), message(f"{HAM_TEXT} poison", "bad"), house.spam())
    assert lives(house, how, lambda _: house.inside("Junk") == {first, second} and house.settled()) == 3
    [aside] = json.loads(said(house, "status", "--json"))["accounts"][0]["set_aside"]
    with house.server.client("alice") as user:
        user.select_folder("INBOX")
        assert (aside["folder"], [aside["uid"]]) == ("INBOX", user.search())
    told = said(house, "status")
    assert f"UID {aside['uid']} is set aside: it could not be judged: the program ended each time that it was" in told
    third = house.drop(house.spam())
    assert lives(house, how, lambda _: house.inside("Junk") == {first, second, *third} and house.settled()) == 0
    assert house.inside("INBOX") == {bad}
    assert house.rows("SELECT uid, deaths FROM begun") == [(aside["uid"], 3)]


@pytest.mark.fault(65)
@pytest.mark.parametrize("how", list(DEATHS))
def test_65_a_lesson_from_a_message_that_kills_the_process(house: House, how: str) -> None:
    """Dragged to Junk it teaches nothing, after three deaths; what was dragged beside it is learned."""
    house.configure()
    daemon = house.start()
    first, bad, second = house.drop(house.ham(), message(f"{HAM_TEXT} poison", "bad"), house.ham())
    daemon.until(lambda: house.rows("SELECT COUNT(*) FROM messages") == [(3,)] and followed(house.bench, "Junk", 1))
    daemon.end()
    move(house, [first, bad, second], "INBOX", "Junk")
    assert lives(house, how, lambda _: sorted(lessons(house)) == [(first, "spam"), (second, "spam")]) == 3
    assert house.inside("Junk") == {first, bad, second}
    assert lives(house, how, lambda daemon: daemon.hears("READY=1")) == 0
    assert house.rows("SELECT folder, deaths FROM begun") == [("Junk", 3)]


@pytest.mark.fault(65)
def test_65_an_end_in_good_order_counts_against_nobody(house: House) -> None:
    """SIGTERM, a lost connection: what was being read then is not taken for the cause of a death."""
    proxy = house.proxy(("server", "cut*", "FETCH.*BODY"))
    house.configure(proxy)
    house.start().end()
    [one] = house.drop(house.spam())
    for _ in range(4):
        daemon = house.bench.start_with("worker.FIRST_WAIT = worker.LONGEST_WAIT = 0.1")
        before = proxy.count
        daemon.until(lambda before=before: proxy.count > before + 3)  # type: ignore[misc]
        daemon.end()
        assert house.rows("SELECT * FROM begun") == []
    proxy.rules.clear()
    house.start().until(lambda: house.inside("Junk") == {one} and house.settled())


# 66


@pytest.mark.fault(66)
def test_66_folders_whose_names_come_as_literals(house: House) -> None:
    r"""Names with a quote, a backslash, braces: watched, filed into and followed like any other."""
    watched, junk = 'Say "hi" {5}', 'Junk "2"'
    with house.server.client("alice") as user:
        try:
            for name in (watched, junk):
                user.create_folder(name)
        except IMAPClientError:  # Cyrus may allow fewer characters
            watched, junk = "Say $5 + 'hi'", "Junk (2)"
            user.create_folder(watched)
            user.create_folder(junk)
    house.configure(folders=[watched], spam_folder=junk)
    daemon = house.start()
    [spam], [ham] = house.drop(house.spam(), folder=watched), house.drop(house.ham(), folder=watched)
    daemon.until(lambda: house.inside(junk) == {spam} and house.settled())
    move(house, spam, junk, watched)
    daemon.until(lambda: lessons(house) == [(spam, "ham")])
    assert house.inside(watched) == {spam, ham}


# 67


@pytest.mark.fault(67)
@pytest.mark.parametrize(
    "news", [r"* 1 FETCH (FLAGS (\Seen $Junk))", "* 7 EXISTS", "* 3 RECENT", "* 99 FETCH (UID 99 FLAGS ())"],
    ids=["flags", "exists", "recent", "another's"],
)
def test_67_news_inside_an_answer(house: House, news: str) -> None:
    """What the server tells besides is not taken for the answer: nothing is judged by it, missed or done twice."""
    house.configure(house.proxy(("server", "inject", r"^[A-Z]+\d+ OK", news)))
    daemon = house.start()
    spam = set(house.drop(house.spam(), house.spam()))
    [ham] = house.drop(house.ham())
    daemon.until(lambda: house.inside("Junk") == spam and house.inside("INBOX") == {ham} and house.settled())
    daemon.until(lambda: house.rows("SELECT COUNT(*) FROM messages") == [(3,)])
    assert lessons(house) == []
    assert "Traceback" not in daemon.log


# 68


@pytest.mark.quick
@pytest.mark.fault(68)
@pytest.mark.parametrize("action", ["inject@9", "inject"], ids=["once", "with each answer"])
def test_68_alert(house: House, action: str) -> None:
    """It is in the log, once, however often the server says it."""
    house.configure(house.proxy(("server", action, r"^[A-Z]+\d+ OK", "* OK [ALERT] Maintenance\x1b[31m at noon")))
    daemon = house.start()
    house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {"spam-1"} and house.settled() and followed(house.bench, "Junk", 2))
    assert daemon.log.count("Maintenance") == 1
    assert "\x1b" not in daemon.log
