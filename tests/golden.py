"""The golden ids: for 200 messages of the corpora and the demo's own, what the model reads.

    python -m tests.golden    writes tests/data/golden.json anew, for a new model or new cleaning rules

The corpora are not part of the project, so their messages stand there as a key and a digest of the ids.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from mailtagger import artifact
from mailtagger.clean import clean
from mailtagger.parse import parse
from training.corpora import MADE_ENVELOPE, cleaned, home, raws

FILE = Path(__file__).parent / "data" / "golden.json"
SAMPLES = sorted((Path(__file__).parents[1] / "mailtagger" / "demo_mail").glob("*.eml"))
EVERY = {"enron": 400, "spamassassin": 150, "phishing": 50, "modern_ham_a": 45, "modern_ham_c": 60}


def tokenizer() -> SentencePieceProcessor:
    """The packaged model's."""
    return SentencePieceProcessor(model_proto=artifact.load(artifact.find(None)).read(artifact.TOKENIZER))


def digest(ids: list[int]) -> str:
    """Sixteen hex digits of the ids' sha256."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


def as_raw(content: bytes | tuple[str, str]) -> bytes:
    """What the live path would be handed: raw mail as it is, a row of a table as the mail that it once was."""
    if isinstance(content, bytes):
        return content
    subject, message = content
    return f"Subject: {' '.join(subject.split())}\nContent-Type: text/plain; charset=utf-8\n\n{message}".encode()


def both_ways(encoder: SentencePieceProcessor) -> Iterator[tuple[str, list[int], list[int]]]:
    """(key, ids by the training path, ids by the live path) of the chosen messages; not of those whose envelope was
    made for a corpus, of which training reads the text alone."""
    for name, every in EVERY.items():
        for raw in itertools.islice(raws(name, home()), 0, None, every):
            if MADE_ENVELOPE.match(raw.source):
                continue
            live = clean(parse(as_raw(raw.content)))
            yield raw.key, encoder.encode(cleaned(raw).text), encoder.encode(live)


def main() -> None:
    """Write the file."""
    encoder = tokenizer()
    corpora = {key: digest(trained) for key, trained, _ in both_ways(encoder)}
    samples = {file.name: encoder.encode(clean(parse(file.read_bytes()))) for file in SAMPLES}
    FILE.write_text(
        json.dumps({"samples": samples, "corpora": corpora}, separators=(",", ":")).replace("],", "],\n") + "\n"
    )
    print(f"{len(corpora)} messages of corpora and {len(samples)} samples in {FILE}")


if __name__ == "__main__":
    main()
