"""Mail in fourteen languages → what a model makes of it: good mail in one it hardly knows may be unsure, never spam.

    python -m training.languages --model build/models/base --write

`languages.jsonl` holds eight good mails and three spam mails of each language, all written for this test: no person,
firm or host in them exists. They are never trained on. English stands beside them to tell what is due to the language.
"""

import argparse
import html
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from statistics import median
from typing import Literal

from mailtagger.artifact import load
from mailtagger.clean import clean
from mailtagger.decide import FAMILIAR, Policy, Verdict, decide
from mailtagger.errors import MailtaggerError
from mailtagger.parse import parse
from mailtagger.score import Scorer, open_scorer
from training.evaluate import RESULTS, write
from training.figures import Count, table

KEPT = Path(__file__).with_name("languages.jsonl")
CONTROL = "English"
HEAD = ("language", "good mail called spam", "good mail unsure", "median familiar", "spam called spam", "spam unsure")
LINK = re.compile(r"https?://([a-z0-9.-]+[a-z])")
ATTACHED = {  # kind → subtype, file name and content of what such mail carries beside its text
    "invitation": ("calendar", "invite.ics", "BEGIN:VCALENDAR\nVERSION:2.0\nEND:VCALENDAR\n"),
    "bounce": ("rfc822-headers", None, "From: me@example.com\nTo: you@example.org\n"),
}


@dataclass(frozen=True)
class Sample:
    """One mail of the test."""

    language: str
    kind: str  # receipt, signin, …
    label: Literal["ham", "spam"]
    html: bool  # it has no plain text
    subject: str
    body: str


@dataclass(frozen=True)
class Judged:
    """A sample, and what the model makes of it."""

    sample: Sample
    p: float
    familiar: float
    verdict: Verdict


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and put it into RESULTS.md where asked to."""
    options = argparse.ArgumentParser(
        prog="python -m training.languages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", type=Path, required=True, metavar="DIR")
    options.add_argument("--write", action="store_true", help=f"put the table into {RESULTS.name}")
    chosen = options.parse_args(arguments)
    scorer = open_scorer(load(chosen.model))
    text = report([judged(sample, scorer) for sample in samples()], scorer)
    print(text)
    if chosen.write:
        write("languages", text, ["training.languages"], [chosen.model])


def samples() -> list[Sample]:
    """Return every mail of the test, language by language."""
    return [Sample(**json.loads(line)) for line in KEPT.read_text(encoding="utf-8").splitlines()]


def message(sample: Sample) -> bytes:
    """Return the sample as the raw mail that a server would deliver; good mail comes from where its links lead."""
    mail = EmailMessage()
    link = LINK.search(sample.body)
    host = link[1] if link and sample.label == "ham" else "example.org"
    mail["From"], mail["To"] = f"{sample.kind.title()} <{sample.kind}@{host}>", "<reader@example.com>"
    mail["Subject"] = sample.subject
    mail["Date"], mail["Message-ID"] = "Tue, 06 May 2025 10:00:00 +0000", f"<{sample.kind}@mail.example.org>"
    if sample.kind == "advance-fee":
        mail["Reply-To"] = "<barrister@example.net>"
    if sample.html:
        mail.set_content(_html(sample.body), subtype="html")
    else:
        mail.set_content(sample.body)
    if sample.kind in ATTACHED:
        subtype, name, content = ATTACHED[sample.kind]
        mail.add_attachment(content, subtype=subtype, filename=name)
    return mail.as_bytes()


def judged(sample: Sample, scorer: Scorer) -> Judged:
    """Return what becomes of the sample, by the stages that live mail goes through."""
    score = scorer.score(clean(parse(message(sample))))
    policy = Policy(scorer.cutoffs.ham, scorer.cutoffs.spam)
    return Judged(sample, score.p, score.familiar, decide(score.p, policy, score.familiar).verdict)


def report(found: Sequence[Judged], scorer: Scorer) -> str:
    """Return the model's rules, a table by language, and each good mail that was called spam."""
    cutoffs = scorer.cutoffs
    rules = (
        f"{scorer.model}, cutoffs {cutoffs.ham:.3f} and {cutoffs.spam:.3f}; at most unsure below {FAMILIAR} familiar."
    )
    names = dict.fromkeys(one.sample.language for one in found)
    rows = [_cells(name, [one for one in found if one.sample.language == name]) for name in names]
    rows.append(_cells(f"all but {CONTROL}", [one for one in found if one.sample.language != CONTROL]))
    wrong = [
        f"{one.sample.language} {one.sample.kind} ({one.p:.3f}, {one.familiar:.2f} familiar)"
        for one in found
        if one.sample.label == "ham" and one.verdict == "spam"
    ]
    return f"{rules}\n\n{table(HEAD, rows)}\n\nGood mail called spam: {', '.join(wrong) or 'none'}."


def _cells(name: str, found: Sequence[Judged]) -> list[object]:
    ham = [one for one in found if one.sample.label == "ham"]
    spam = [one for one in found if one.sample.label == "spam"]
    familiar = f"{median(one.familiar for one in ham):.2f}"
    return [name, _count(ham, "spam"), _count(ham, "unsure"), familiar, _count(spam, "spam"), _count(spam, "unsure")]


def _count(found: Iterable[Judged], verdict: Verdict) -> Count:
    verdicts = [one.verdict for one in found]
    return Count(verdicts.count(verdict), len(verdicts))


def _html(body: str) -> str:
    """Each line a paragraph, each URL a link."""
    lines = (f"<p>{html.escape(line, quote=False)}</p>" for line in body.splitlines())
    linked = (re.sub(r"https?://[\w./-]*[\w/]", r'<a href="\g<0>">\g<0></a>', line) for line in lines)
    return f'<html><body style="font-family: sans-serif">{"".join(linked)}</body></html>'


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
