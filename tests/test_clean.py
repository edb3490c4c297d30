"""One form for the Enron rows, raw corpora and live mail."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailtagger.clean import clean, clean_text
from mailtagger.parse import Mail, parse

RAW = """Hi Bob,

see https://www.Foo-Bar.com/a/b.html?x=1&y=2 and mail joe.x@ex.co.uk: 1,000,000 $$$ in 2003!!!
It's 50% off - don't wait.
"""


def enron(text: str) -> str:
    """The text as Enron-Spam's makers would have it: lower case, spaces round each mark."""
    return "\n".join(" ".join(re.sub(r"([^\w\s]|_)", r" \1 ", line).split()) for line in text.lower().splitlines())


def test_raw_mail_and_its_enron_form_become_one_text() -> None:
    """Case, spacing, URLs, addresses and numbers leave no trace of where a text came from."""
    assert clean_text("Re: Big Deal", RAW) == clean_text(enron("Re: Big Deal"), enron(RAW))


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab C.,:/@-_!?$&=1 9\nwht p"), max_size=120))
def test_any_text_and_its_enron_form_become_one_text(text: str) -> None:
    """The same for any text; lines alone are told apart before, by signatures and quoting, so they are joined here."""
    text = " ".join(text.split())
    assert clean_text("", "x " + text) == clean_text("", "x " + enron(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Win $$$ NOW!!!", "win $ xxrep now ! xxrep"),
        ("See http://www.foo.com/a?b=c now", "see xxurl foo . com now"),
        ("call 2003-11-24 or 5 times", "call xxn4 - xxn2 - xxn2 or 5 times"),
        ("write to anna.b@example.org.", "write to xxmail ."),
        ("f\u200br\u00e9e V\u0456agra".replace("\u0456", "i"), "free viagra"),
        ("key a1b2c3d4e5f6a7", "key xxid"),
        ("x" * 40, "xxlong"),
        ("> quoted\n>> more\nanswer", "quoted more answer"),
        ("hello\n-- \nBob\nACME", "hello"),
        ("news\n" + "_" * 40 + "\nfoo mailing list\nhttp://x/listinfo", "news"),
    ],
)
def test_rules(text: str, expected: str) -> None:
    """Each rule does what its name says."""
    assert clean_text("", text) == expected


def test_subject_comes_first_without_the_list_tag() -> None:
    """`text = subject + " " + message`, whitespace collapsed."""
    assert clean_text("Re: [ilug] Kernel\tpanic", " it  \n\n died ") == "re : kernel panic it died"


def test_structure_becomes_tokens_at_the_end() -> None:
    """Facts of structure follow the text; blank mail stays blank."""
    mail = Mail(
        "hi",
        "there",
        "a@b.example",
        "c@d.example",
        attachments=("exe", "exe"),
        html_only=True,
        hidden=True,
        mismatch=True,
    )
    assert clean(mail) == "hi there xxattach exe xxhtmlonly xxhidden xxmismatch xxreplyto"
    assert clean(Mail(attachments=("pdf",))) == ""


def test_collectors_marks_never_reach_the_text() -> None:
    """X-Spam headers, archives' own addresses and Received lines are no part of a text."""
    raw = (
        b"From x@y Thu Aug 22\nReceived: from pot\nDelivered-To: zzzz@localhost.example.com\nX-Spam-Status: Yes\n"
        b"List-Id: <a.sourceforge.net>\nSubject: hello\n\nwrite to phishing@pot or zzzz@spamassassin.taint.org\n"
    )
    assert clean(parse(raw)) == "hello write to xxmail or xxmail"
