"""What a classifier learns from: a protocol's training rows, and what makes up for the mail that is rare in them.

Good commercial and automatic mail is scarce in corpora and common in life: templates are written again as other senders
would fill them, more often in languages that corpora have mostly spam in, and everyday mail that no corpus has is made
up, beside good mail of its time alone: a model of Enron learns from Enron. Spam is disguised, and padded with words of
personal mail; what swindlers write today, and in other languages than English, is made up likewise.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from training.augment import disguised, padded, varied
from training.balance import kind
from training.everyday import lures
from training.everyday import rows as everyday
from training.labels import sound
from training.splits import Row

TEMPLATES = frozenset(
    f"modern/{name}"
    for name in ("receipt", "account", "notification", "invoice", "invitation", "support", "wrapped-template")
)
PERSONAL = frozenset(("enron", "modern/list", "spamassassin/easy"))  # whose words a spammer would pad with
COPIES, COPIES_FOREIGN = 3, 8
DISGUISED, PADDED = 0.15, 0.15  # of the spam
ENGLISH = frozenset("the a of to in and for is you your this that with on we be are i it have not our from if".split())
EVERYDAY = 3000  # mails: in their three kinds a sixth of the weight of good mail in `default`
LURES = 2000  # mails: in their two kinds a fifth of the weight of spam
SEED = 0


def examples(rows: Sequence[Row]) -> list[Row]:
    """One row of each near-duplicate group, none with a label known to be wrong; the copies, and mail made up."""
    found = sound(rows)
    rng = np.random.default_rng(SEED)
    pads = [row.document.text for row in found if row.document.label == "ham" and kind(row) in PERSONAL]
    copies: list[Row] = []
    for row in found:
        text = row.document.text
        if row.document.label == "spam":
            if rng.random() < DISGUISED:
                copies.append(_copy(row, disguised(text, rng)))
            if pads and rng.random() < PADDED:
                copies.append(_copy(row, padded(text, pads[int(rng.integers(len(pads)))], rng)))
        elif kind(row) in TEMPLATES:
            count = COPIES if english(text) else COPIES_FOREIGN
            copies += [_copy(row, varied(text, rng)) for _ in range(count)]
    modern = any(row.document.family == "modern" and row.document.label == "ham" for row in found)
    return found + copies + (made_up() if modern else [])


def made_up() -> list[Row]:
    """The mail of today that no corpus has, good and bad."""
    return everyday(EVERYDAY, SEED) + lures(LURES, SEED)


def english(text: str) -> bool:
    """Whether a tenth of the words are the commonest of English, as in English mail of any kind."""
    words = text.split()
    return sum(word in ENGLISH for word in words) >= 0.1 * len(words)


def _copy(row: Row, text: str) -> Row:
    return replace(row, document=replace(row.document, text=text))
