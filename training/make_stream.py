"""A stream for development: the raw mails of some corpora in order of their arrival, with labels.csv.

    python -m training.make_stream build/streams/spamassassin --fold 1 spamassassin
    python -m training.make_stream build/streams/modern --fold 1 phishing modern_ham_a modern_spam_a

With a fold of sources (`splits.source_folds`; it needs `training.prepare`) only the mail of its sources is taken, none
of which the model cross-N was told the label of. Header lines that the collectors added are left out: they mark the
collection, and so the label.
"""

import argparse
import csv
import email.utils
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mailtagger.errors import MailtaggerError
from training import prepare
from training.corpora import NAMES, Raw, home, raws
from training.splits import FOLDS, source_folds

LABELS = "labels.csv"
HEADERS = 20_000  # bytes at the start that a date of arrival is looked for in
_COLLECTORS = re.compile(
    rb"^(?:X-Spam-\w+|X-Pyzor|Delivered-To|X-Original-To|X-IncomingTopHeaderMarker|X-IncomingHeaderCount|X-MS-[\w-]+"
    rb"|X-EOP[\w-]+|X-Microsoft-[\w-]+|X-SID[\w-]+|X-Sender-IP|X-Message-[\w-]+|X-OriginalArrivalTime|X-Forefront[\w-]+"
    rb"|Authentication-Results|Received-SPF|ARC-[\w-]+):.*\r?\n(?:[ \t].*\r?\n)*"
    rb"|^Received:(?:.*\r?\n)(?:[ \t].*\r?\n)*",
    re.I | re.M,
)
_OWN_HOP = re.compile(
    rb"netnoteinc|zzzz@|spamassassin\.taint|slashnull|jmason|webnote\.net|prod\.outlook|protection\.outlook"
    rb"|outlook\.office365|phishing@pot|lists\.sourceforge",
    re.I,
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.make_stream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("out", type=Path)
    options.add_argument("corpora", nargs="+", choices=[name for name in NAMES if name != "enron"])
    options.add_argument("--fold", choices=FOLDS, help="only the sources of this fold")
    chosen = options.parse_args(arguments)
    sources = None
    if chosen.fold:
        sources = {of for of, fold in source_folds(prepare.load()).items() if fold == chosen.fold}
    mails = [raw for name in chosen.corpora for raw in raws(name, home()) if sources is None or raw.source in sources]
    print(f"{write(mails, chosen.out)} mails in {chosen.out}")


def write(mails: Iterable[Raw], out: Path) -> int:
    """How many mails now lie in `out` in order of arrival, with labels.csv; those without a date are left out."""
    dated = sorted((when, mail.key, mail) for mail in mails if (when := arrival(_bytes(mail))))
    out.mkdir(parents=True, exist_ok=True)
    with (out / LABELS).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", "label"])
        for i, (_, _, mail) in enumerate(dated):
            name = f"{i:05d}.eml"
            (out / name).write_bytes(uncollected(_bytes(mail)))
            rows.writerow([name, mail.label])
    return len(dated)


def arrival(raw: bytes) -> datetime | None:
    """When the last server took the message in, else the sender's claim; None where neither is a date."""
    head = re.split(rb"\r?\n\r?\n", raw[:HEADERS], maxsplit=1)[0]
    head = re.sub(rb"\r?\n[ \t]+", b" ", head)
    for pattern in (rb"\A>?From \S+\s+(.*\d{4})\s*$", rb"^Received:.*;\s*([^;]*\d{4}[^;]*)$", rb"^Date:\s*(.*)$"):
        for found in re.findall(pattern, head, re.I | re.M):
            try:
                when = email.utils.parsedate_to_datetime(found.decode("latin-1").strip())
            except (ValueError, IndexError, TypeError, OverflowError):
                continue
            return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)
    return None


def uncollected(raw: bytes) -> bytes:
    """The message without the lines that its collectors' own servers and filters put on it."""
    head, end, body = raw.partition(b"\r\n\r\n" if b"\r\n\r\n" in raw[:HEADERS] else b"\n\n")
    head = re.sub(rb"\A>?From .*\r?\n", b"", head) + b"\n"

    def kept(found: re.Match[bytes]) -> bytes:
        line = found.group()
        return line if line[:9].lower() == b"received:" and not _OWN_HOP.search(line) else b""

    return (_COLLECTORS.sub(kept, head)[:-1] + end + body).replace(b"phishing@pot", b"reader@example.org")


def _bytes(mail: Raw) -> bytes:
    assert isinstance(mail.content, bytes)  # Enron, the only corpus without raw mail, is no choice
    return mail.content


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
