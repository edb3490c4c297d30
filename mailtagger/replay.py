"""The packaged sample of the base corpus: what a retraining rehearses, to forget nothing, and what its gate asks.

One xz file of JSON lines, made by `python -m training.sample`: a line that tells the cleaning rules, then one mail a
line. The hold-out shares no near-duplicate with what is rehearsed, nor with what the packaged model learned from.
"""

import json
import lzma
from dataclasses import dataclass
from pathlib import Path

from mailtagger.artifact import PACKAGED
from mailtagger.clean import RULES_HASH
from mailtagger.errors import ModelError

FILE = PACKAGED / "replay.jsonl.xz"
AGAIN = "Install mailtagger again; in a checkout, `python -m training.sample` makes it."


@dataclass(frozen=True)
class Rehearsed:
    """A mail of the base corpus: cleaned text, as far as the model reads it."""

    text: str
    spam: bool
    kind: str  # of mail, as training.balance names it: enron, modern/receipt, phishing, ...


@dataclass(frozen=True)
class Sample:
    """What may be rehearsed, and what never is."""

    rehearsed: tuple[Rehearsed, ...]
    held_out: tuple[Rehearsed, ...]


def load(file: Path | None = None) -> Sample:
    """The sample, in a fixed order; ModelError where it is missing, damaged or of other cleaning rules."""
    file = file or FILE
    parts: dict[bool, list[Rehearsed]] = {False: [], True: []}
    try:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            about = json.loads(next(lines))
            for line in lines:
                row = json.loads(line)
                parts[row["held_out"]].append(Rehearsed(row["text"], row["label"] == "spam", row["kind"]))
    except (OSError, EOFError, StopIteration, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The sample of the base corpus in {file} cannot be read.", AGAIN) from error
    if about.get("cleaning") != RULES_HASH:
        raise ModelError(f"The sample of the base corpus in {file} was cleaned by other rules than today's.", AGAIN)
    return Sample(tuple(parts[False]), tuple(parts[True]))
