"""Hostile mail: mutations of ugly, of real and of made-up messages, through all that is done with one.

    python -m tests.hostile N SEED      N messages; prints the figures, and ends with 1 when one of them won

A message wins when anything raises, when it takes over a second of CPU time, or when what would be logged, printed or
stored of it could move a terminal. The seeds are the torture set and a few corpora where MAILTAGGER_CORPORA has them,
the project's own samples, and what an attacker repeats: levels, parts, tags, tokens, zips, names of other messages.
"""

import base64
import json
import os
import random
import re
import sys
import tarfile
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mailtagger import artifact
from mailtagger.decide import Policy
from mailtagger.judge import opinion
from mailtagger.parse import identify, parse
from mailtagger.personal import Example, Personal, terms
from mailtagger.report import plain
from mailtagger.score import Scorer, open_scorer
from tests.tiny_model import tiny_model

CORPORA = Path(os.environ.get("MAILTAGGER_CORPORA") or Path(__file__).parents[2] / "shared" / "corpora")
SAMPLES = Path(__file__).parents[1] / "mailtagger" / "demo_mail"
ARCHIVES = ("spamassassin.tar.gz", "modern_spam_a.tar.gz", "phishing_to_2024.tar.gz", "modern_ham_a.tar.gz")
EACH = 150  # messages of each corpus
LARGEST = 3_000_000  # bytes of a mutation
SECONDS = 1.0  # of CPU time that one message may take
MEMORY = 700 << 10  # kB at the most; the seeds and the mutation in hand are in it
POLICY = Policy(0.2, 0.8)
UNCLEAN = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
HEAD = b"Message-ID: <known@test>\r\nFrom: a@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
HTML = HEAD + b"Content-Type: text/html; charset=utf-8\r\n\r\n"
BOMBS = (
    HEAD + b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(1000)),
    HEAD + b"Content-Type: message/rfc822\r\n\r\n" * 1000,
    HEAD + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 10_000,
    HEAD + b"Content-Type: multipart/mixed; boundary=never\r\n\r\n" + b"--nev\r\n" * 10_000,
    HEAD + b"Content-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.encodebytes(zlib.compress(bytes(10_000_000), 9)),
    HTML + b"<div>" * 100_000, HTML + b"<a href=x>" * 60_000, HTML + b"<" * 400_000, HTML + b"&#x41;" * 100_000,
    HTML + b"<table><tr><td>" * 40_000, HTML + b"<p style='" + b"color:#fff;" * 60_000 + b"'>x",
    HTML + b"<p hidden>" * 50_000, HTML + b"<style>" * 60_000, HTML + b"<!-- " * 80_000,
    HEAD + b"\r\n" + b"www . " * 200_000, HEAD + b"\r\n" + b"a @ b . " * 100_000, HEAD + b"\r\n" + b"http://" * 100_000,
    HEAD + b"\r\n" + b"-- \r\n" * 100_000, HEAD + b"\r\n" + b"1a" * 400_000, HEAD + b"\r\n" + b"! " * 400_000,
    HEAD + b"\r\n" + b"a " * 1_000_000, HEAD + b"\r\n" + b"a" * 2_000_000,
    HEAD + b"Subject: " + b"=?utf-8?q?x?= " * 100_000 + b"\r\n\r\nx",
    HEAD + b"To: " + b"<a@b>, " * 200_000 + b"\r\n\r\nx", HEAD + b"From: " + b"(" * 500_000 + b"\r\n\r\nx",
    HEAD + b"From: " + b'"\\' * 300_000 + b"\r\n\r\nx", HEAD + b"X-A: b\r\n" * 50_000 + b"\r\nx",
    HEAD + b"Content-Type: text/plain" + b"; a*0*=utf-8''b" * 20_000 + b"\r\n\r\nx",
    HEAD + b"Subject: =?utf-8?q?=0D=0AX=1B[2J=1B]0;x=07=C2=9B?=\r\n\r\nx", b"\r\n" * 300_000, b"", b"\0" * 100_000,
)
PIECES = (
    b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\0", b"\x1b[31m", b"\x1b]0;x\x07", b"\xc2\x9b2J", b"\xe2\x80\xae",
    b"\xff\xfe", b"\xed\xa0\x80", b"=?utf-8?b?", b"=?utf-7?q?+2AA-?=", b"=?", b"?=", b"=ED=A0=80", b"--b",
    b"--b--", b"<", b"<!--",
    b"<div style='display:none'>", b"</", b"&#", b"begin 644 x\r\nM\r\n", b"Content-Type: ",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n", b"Content-Transfer-Encoding: base64\r\n", b"charset=utf-16",
    b"charset=unicode_escape", b"charset=idna", b"charset=", b"; name*0*=utf-8''%ff", b"filename=a.txt", b"Subject: ",
    b"Message-ID: <known@test>\r\n", b"Message-ID: <\x1b[2J@x>\r\n", b"From: \"", b"From: (((", b"\t", b" ",
    b"From x\n",
)  # fmt: skip


def seeds() -> list[bytes]:
    """What mutations start from: at least the bombs and the project's own samples."""
    found = [*BOMBS, *(path.read_bytes() for path in sorted(SAMPLES.glob("*.eml")))]
    found += [path.read_bytes() for path in sorted(CORPORA.glob("mime_torture/*/**/*")) if path.is_file()]
    for name in ARCHIVES:
        if (CORPORA / name).exists():
            found += islice(_packed(CORPORA / name), EACH)
    return [raw for raw in found if len(raw) <= LARGEST]


def _packed(archive: Path) -> Iterator[bytes]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile() and (file := opened.extractfile(member)):
                yield file.read()


def mutated(every: list[bytes], draw: random.Random) -> bytes:
    """One of them, changed in one to five ways."""
    raw = draw.choice(every)
    for _ in range(draw.randint(1, 5)):
        at, end = sorted((draw.randint(0, len(raw)), draw.randint(0, len(raw))))
        match draw.randrange(8):
            case 0:
                raw = raw[:at] + draw.choice(PIECES) + raw[at:]
            case 1:
                raw = raw[:at] + draw.choice(PIECES) * draw.choice((2, 50, 5_000)) + raw[at:]
            case 2:
                raw = raw[:at] + draw.randbytes(draw.randint(1, 40)) + raw[at:]
            case 3:
                raw = raw[:at] + raw[end:]
            case 4:
                raw = raw[:at] + raw[at : at + draw.randint(1, 2_000)] * draw.choice((2, 20, 1_000)) + raw[at:]
            case 5:
                raw = raw[:at] + draw.choice(every)[end:]
            case 6:
                raw = raw.replace(b"\r\n", draw.choice((b"\n", b"\r", b"\r\n ", b"\n\n")))
            case 7:
                old, new = draw.choice(PIECES), draw.choice(PIECES)
                raw = raw.replace(old, new, draw.randint(1, 100))
        raw = raw[:LARGEST]
    return raw


def judged(raw: bytes, scorer: Scorer, layer: Personal) -> None:
    """All that a message meets before anything is done with it; ValueError where what is told of it is not harmless."""
    mail = parse(raw)
    seen = opinion(raw, mail, scorer, POLICY, layer)
    told = [mail.subject, mail.sender, mail.message_id, *mail.attachments, *seen.decision.notes, identify(raw)]
    for text in told:
        if UNCLEAN.search(plain(text)):
            raise ValueError("what would be printed of it could move a terminal")
    json.dumps(told).encode()
    seen.text.encode()
    if seen.decision.verdict not in ("ham", "unsure", "spam"):
        raise ValueError("no verdict")


def run(number: int, seed: int) -> dict[str, object]:
    """The figures of so many messages."""
    with tempfile.TemporaryDirectory() as directory:
        scorer = open_scorer(artifact.load(tiny_model(Path(directory))))
    mail = parse(HTML + b"cheap pills")
    layer = Personal(Example(terms(HTML, mail), 0.0, spam) for spam in (True, False))
    every, draw = seeds(), random.Random(seed)
    won: list[str] = []
    slowest, total, size = 0.0, 0.0, 0
    for count in range(number):
        raw = every[count] if count < len(BOMBS) else mutated(every, draw)
        began = time.process_time()
        try:
            judged(raw, scorer, layer)
        except Exception as error:  # which one, and where, is what we are here for
            last = traceback.extract_tb(error.__traceback__)[-1]
            won.append(f"message {count}: {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}")
        took = time.process_time() - began
        if took > SECONDS:
            won.append(f"message {count}: {took:.2f} s for {len(raw)} bytes")
        slowest, total, size = max(slowest, took), total + took, size + len(raw)
    return {
        "messages": number, "seed": seed, "seeds": len(every), "megabytes": round(size / 1e6, 1), "won": won,
        "ms_mean": round(1000 * total / max(number, 1), 2), "ms_slowest": round(1000 * slowest, 1),
        "peak_kb": peak(),
    }


def peak() -> int:
    """The most kB that this process has had in memory; getrusage(2) counts what its parent had at the fork as well."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


if __name__ == "__main__":
    figures = run(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps(figures))
    sys.exit(1 if figures["won"] else 0)
