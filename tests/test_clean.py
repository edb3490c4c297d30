"""One form for the Enron rows, raw corpora and live mail."""

import re
import time
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailtagger.clean import clean, clean_text, structure
from mailtagger.parse import Mail, parse

RAW = """Hi Bob,

see https://www.Foo-Bar.com/a/b.html?x=1&y=2 and mail joe.x@ex.co.uk: 1,000,000 $$$ in 2003!!!
It's 50% off - don't wait.
"""
DISGUISES = {"xxzero", "xxmixed", "xxspaced"}


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
        ("See http://www.foo.com/a?b=c now", "see xxurl foo com now"),
        ("call 2003-11-24 or 5 times", "call xxn4 xxn2 xxn2 or 5 times"),
        ("write to anna.b@example.org.", "write to xxmail"),
        ("fr\u00e9e \uff36\uff49agra \U0001d41f\U0001d42b\U0001d41e\U0001d41e", "free viagra free"),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "(aa) [bb] {cc}; dd: ee, ff. g/hh | ii\\j * kk_l ~ mm <nn> “oo” — pp…",
            "aa bb cc dd ee ff g hh ii j kk l mm nn oo pp",
        ),
        ("don't re-use a co-op's e‑mail", "don t re use a co op s e mail"),
        ("50% off, really?! yes!", "xxn2 % off really ? ! yes !"),
        ("£100, €5, ¥ 1, ₿2 and $3", "$ xxn3 $ 5 $ 1 $ 2 and $ 3"),
        ("€€€ ok £,£ ?-? â€™", "ok ? xxrep a"),
        ("＄5 ＄ 100％ wow！ ＯＫ？", "$ 5 $ xxn3 % wow ! ok ?"),
        ("-- ++ ** ==", ""),
        ("☎ call ❤ now ✓", "call now"),
    ],
)
def test_no_marks_stay_but_four(text: str, expected: str) -> None:
    """! ? $ % are used alike everywhere; other marks tell the corpus and go; a currency beside a number is a dollar."""
    assert clean_text("", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v\u200bi\u200bagra", "viagra xxzero"),
        ("cli\u2060ck he\ufeffre now", "click here now xxzero"),
        ("con\u034ffirm your pass\u200dword", "confirm your password xxzero"),
    ],
)
def test_words_split_by_what_is_not_seen_are_joined_and_marked(text: str, expected: str) -> None:
    """Twice in a mail is no accident."""
    assert clean_text("", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a sin\u200bgle one", "a single one"),  # a stray one, as editors leave it
        ("in\u00adfor\u00adma\u00adtion and hy\u00adphen", "information and hyphen"),  # soft hyphens
        ("\u200b hello \u200b\u200b there \ufeff", "hello there"),  # between words: layout
        ("I \u2764\ufe0f it \u270c\ufe0f very\ufe0f much", "i it very much"),  # variation selectors of emoji
        ("\U0001f469\u200d\U0001f469\u200d\U0001f467 and \U0001f469\u200d\U0001f4bb", "and"),  # joined emoji
        ("می\u200cخواهم نمی\u200cدانم", "میخواهم نمیدانم"),  # Persian writes with a non-joiner
    ],
)
def test_invisible_characters_with_a_use_are_not_held_against_a_mail(text: str, expected: str) -> None:
    """Soft hyphens, emoji, other scripts and a single stray character leave no `xxzero`."""
    assert clean_text("", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u0440aypal acc\u043eunt", "paypal account xxmixed"),  # Cyrillic er and o
        ("V\u0456\u0430gr\u0430", "viagra xxmixed"),
        ("m\u03bfney b\u0251nk", "money bank xxmixed"),  # Greek omicron, Latin alpha of the IPA
        ("\u0420\u0410YPAL", "paypal xxmixed"),  # capitals are alike too
        ("\u0441om of \u043ck", "com of \u043ck xxmixed"),  # from three letters on
    ],
)
def test_words_of_two_scripts_are_read_as_they_look(text: str, expected: str) -> None:
    """Look-alike letters become the Latin ones they stand for, and the mail is marked once."""
    assert clean_text("", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Привет, как дела в Москве?", "привет как дела в москве ?"),
        ("Ελλάδα, καλημέρα σας", "ελλαδα καλημερα σας"),
        ("ısı kılıç sıcak", "ısı kılıc sıcak"),  # Turkish
        ("Grüße aus Köln, schöne Straße", "gruße aus koln schone straße"),  # German
        ("Łódź, Þór, Ærø, mañana, façade", "łodz þor ærø manana facade"),
        ("5 \u03bcm, 3 \u00b5l and \u03bcmol/l", "5 μm 3 μl and μmol l"),  # both micro signs
        ("email письмо на русском", "email письмо на русском"),  # two scripts, but not in a word
        ("日本語 and 한국어", "日本語 and " + unicodedata.normalize("NFKD", "한국어")),
    ],
)
def test_other_languages_and_units_stay_themselves(text: str, expected: str) -> None:
    """A word of one script is never translated or marked, nor is a short one with a Greek letter before a unit."""
    assert clean_text("", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("buy v i a g r a now", "buy viagra now xxspaced"),
        ("V.I.A.G.R.A and C-I-A-L-I-S", "viagra and cialis xxspaced"),
        ("f_r_e_e and c*a*s*h", "free and cash xxspaced"),
        ("w i n " * 14, "winwinwinwinwinwinwinwinwinwin winwinwinwin xxspaced"),  # by thirty: nothing becomes xxlong
    ],
)
def test_spaced_letters_are_joined_and_marked(text: str, expected: str) -> None:
    """With spaces or one and the same mark between the letters."""
    assert clean_text("", text) == expected


@pytest.mark.parametrize(
    "text", ["plan a b c", "i.e. and e.g.", "a 1 b 2 c 3 d", "a) b) c) d)", "A#B:C-D", "U.S.A. or U.K."]
)
def test_a_few_single_letters_are_not_joined(text: str) -> None:
    """Three letters are an abbreviation, and marks of several kinds are a list or a path."""
    assert clean_text("", text).split() == re.findall(r"\w+", text.lower())


ODD = st.sampled_from("ab z I.,-_:/@!?$%€£19 \n>[]()\u200b\u00ad\u0430\u0440\u03bf\u00e9\u00df\u0131\u2026\u2122\ufe0f")


@settings(max_examples=400, deadline=None)
@given(st.text(st.one_of(ODD, st.characters(exclude_categories=["Cs"])), max_size=80))
def test_any_text_is_cleaned_for_good(text: str) -> None:
    """No mark but four is left, and cleaning it again changes nothing but for what it joins and marks as joined."""
    once = clean_text("", text)
    assert {c for c in once if unicodedata.category(c)[0] in "PS"} <= set("!?$%")
    once, twice = ("".join(w for w in t.split() if w not in DISGUISES) for t in (once, clean_text("", once)))
    assert twice == once


def test_padding_does_not_push_words_out_of_sight() -> None:
    """What is too long is cut in the middle, but blanks, seen or not, do not count."""
    for blank in (" ", "\n", "\u200b", " \u2060"):
        assert "hello zebra end" in clean_text("", f"hello{blank * 50_000}zebra{blank * 50_000} end")


def test_subject_comes_first_without_the_list_tag() -> None:
    """`text = subject + " " + message`, whitespace collapsed."""
    assert clean_text("Re: [ilug] Kernel\tpanic", " it  \n\n died ") == "re kernel panic it died"


def test_structure_becomes_tokens_at_the_end() -> None:
    """Facts of structure follow the text, but not HTML alone or hidden text, which tell the time and not the intent;
    blank mail stays blank."""
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
    assert clean(mail) == "hi there xxattach exe xxmismatch xxreplyto xxnoto"
    assert clean(Mail(attachments=("pdf",))) == ""
    assert clean(Mail(body="-- * --", attachments=("pdf",))) == ""


@pytest.mark.parametrize(
    ("fields", "token"),
    [
        ({"hosts": ("www.shop.example", "img.shop.example")}, "xxlinkown"),
        ({"hosts": ("www.shop.example", "t.other.example")}, "xxlinkmixed"),
        ({"hosts": ("t.other.example",)}, "xxlinkelse"),
        ({"hosts": ("t.other.example", "10.1.2.3")}, "xxlinkelse xxlinkip"),
        ({"hosts": ()}, ""),
        ({"sender": "a@shop.co.uk", "hosts": ("spam.co.uk",)}, "xxlinkelse"),
        ({"sender": "a@news.shop.co.uk", "hosts": ("www.shop.co.uk",)}, "xxlinkown"),
        ({"sender": "", "hosts": ("t.other.example",), "recipient": ""}, ""),
        ({"named": False}, "xxnoname"),
        ({"recipient": ""}, "xxnoto"),
        ({"recipient": "news@mail.shop.example"}, "xxtoself"),
        ({"subject": "ACT NOW FRIEND"}, "xxcaps"),
        ({"subject": "FW: NATO"}, ""),
        ({"body": "DEAR SIR I AM THE WIDOW OF THE LATE GENERAL AND I WRITE IN TRUST TO U"}, "xxcaps"),
        ({"pictures": True}, "xxpicture"),
        ({"pictures": True, "body": "here are the pictures we took on the first day of our holiday by the sea"}, ""),
    ],
)
def test_a_fact_is_told_by_its_own_token(fields: dict[str, Any], token: str) -> None:
    """Where links lead beside the sender's domain, whom a mail is from and to, capitals, a picture for words."""
    letter = Mail("hi", "there", "news@mail.shop.example", recipient="me@home.example")
    assert structure(replace(letter, **fields)) == token


def test_collectors_marks_never_reach_the_text() -> None:
    """X-Spam headers, archives' own addresses and Received lines are no part of a text."""
    raw = (
        b"From x@y Thu Aug 22\nReceived: from pot\nDelivered-To: zzzz@localhost.example.com\nX-Spam-Status: Yes\n"
        b"List-Id: <a.sourceforge.net>\nSubject: hello\n\nwrite to phishing@pot or zzzz@spamassassin.taint.org\n"
    )
    assert clean(parse(raw)) == "hello write to xxmail or xxmail"


@pytest.mark.parametrize("unit", ["\n", "\n>", "> ", "- ", "a ", "a . ", "aа ", "a\u200b", "€ ", "1 €", "<a "])
def test_no_text_stalls_the_rules(unit: str) -> None:
    """Doubling a text that is made to be hard doubles the work about; a rule that backtracks would quadruple it."""

    def seconds(size: int) -> float:
        begun = time.process_time()
        for _ in range(3):
            clean_text("", (unit * size)[:size])
        return time.process_time() - begun

    clean_text("", unit)
    assert min(seconds(36_000) for _ in range(3)) < 3 * min(seconds(18_000) for _ in range(3)) + 0.05
