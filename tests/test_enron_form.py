"""Raw mail and the same mail as Enron-Spam would hold it come to one text and the same ids."""

import email.message
import email.policy
from collections import Counter
from pathlib import Path

import pytest

from mailtagger import artifact
from mailtagger.clean import clean_text
from mailtagger.ulmfit import tokenizer
from tests.tiny_model import tiny_model
from training import enron_form
from training.enron_form import cleaned, enron, reason, report, spaced


def made(subject: str, plain: str, html: str = "", **headers: str) -> bytes:
    """A message of the standard library's making."""
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["Subject"] = subject
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(plain)
    if html:
        message.add_alternative(html, subtype="html")
    return message.as_bytes()


LIST = made(
    "Re: [ILUG] Kernel panic on 2.4.18-3?",
    "On Thu, 22 Aug 2002, Anna wrote:\n> It's dead -- what now?!\n>> See http://www.kernel.org/pub/linux/?a=1&b=2.\n"
    "\n\nTry `mem=64M' (I did; 50% better)...\n\n-- \nBob, ACME Ltd.\n____________________________________________\n"
    "Irish Linux Users' Group mailing list\nhttp://www.linux.ie/mailman/listinfo/ilug\n",
    From="Bob <bob@example.org>",
)
RECEIPT = made(
    "Your order #A-10023 – 2 items",
    "Dear Zoë,\n\nTotal: €1,299.00 (incl. 19% VAT)\n*Thank you!!!*\n\nQuestions? mailto:help@shop.example\n",
    "<html><body><p>Dear Zo&euml;</p><a href='http://shop.example/'>Track</a></body></html>",
    X_Mailer="shop_mailer 1.0",
)
HTML = (
    b"Subject: =?utf-8?q?V=C4=B1_=E2=82=AC50=3F?=\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    b"<html><head><style>p{color:red}</style></head><body><h1>BIG_DEAL</h1>"
    b"<p>F.R.E.E m&#8203;on&#8203;ey, up to&nbsp;$$$</p><p>\xd0\xa0aypal &amp; co &mdash; <a href='http://x.example/a'>www.x.example/b?c=d</a></p></body></html>\r\n"
)


def test_the_maker_writes_as_enron_spam_does() -> None:
    """Lower case, each mark on its own, no header, no blank line; quoted and signed lines stay."""
    subject, message = enron(LIST)
    assert subject == "re : [ ilug ] kernel panic on 2 . 4 . 18 - 3 ?"
    assert message.splitlines()[:4] == [
        "on thu , 22 aug 2002 , anna wrote :",
        "> it ' s dead - - what now ? !",
        "> > see http : / / www . kernel . org / pub / linux / ? a = 1 & b = 2 .",
        "try ` mem = 64m ' ( i did ; 50 % better ) . . .",
    ]
    assert "bob @ example" not in message
    assert enron(HTML)[1].split()[:3] == ["big", "_", "deal"]


def test_making_twice_is_making_once() -> None:
    """What is spaced stays as it is."""
    for raw in (LIST, RECEIPT, HTML):
        for text in enron(raw):
            assert spaced(text) == text


@pytest.mark.parametrize("raw", [LIST, RECEIPT, HTML], ids=["list", "receipt", "html"])
def test_ids_are_the_same_either_way(raw: bytes, tmp_path: Path) -> None:
    """List mail, a receipt and disguised HTML: neither the text nor its ids tell raw mail from Enron's form."""
    pieces = tokenizer.load(tiny_model(tmp_path) / artifact.TOKENIZER)
    text = cleaned(raw)
    assert clean_text(*enron(raw)) == text
    ids = pieces.encode(clean_text(*enron(raw)))
    assert ids == pieces.encode(text)
    assert len(set(ids)) > 10


def test_a_difference_is_laid_to_the_rule_that_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that reads what Enron's form has lost is named; here one that reads capitals."""

    def shouting(text: str) -> str:
        return text.replace("ACME", "")

    monkeypatch.setattr(enron_form.clean, "LINE_RULES", (shouting,))
    assert reason(LIST) == "shouting"
    assert reason(RECEIPT) == "letters, or a rule after it"


def test_the_report_gives_shares_and_the_commonest_reason_first() -> None:
    """One row a source, the sum last, then each reason with how often and where."""
    counts = {"all": Counter(mails=4, text=3, ids=4), "modern/list": Counter(mails=4, text=3, ids=4)}
    lines = list(report(counts, {"footers": ["a: x"], "signatures": ["b: y", "c: z"]}))
    assert lines[2:] == [
        "| modern/list | 4 | 75.00% | 100.00% | 0.00% |",
        "| all | 4 | 75.00% | 100.00% | 0.00% |",
        "2 by signatures; b: y; c: z",
        "1 by footers; a: x",
    ]
