"""Which words of a text push the model's log-odds of spam which way: what changes when a word is left out everywhere.

The same graph scores the same tokens without those of the word, so each answer is exact. They need not sum to the
whole, as words act together and some say the same; what is left over is for the caller to show. Of a text with more
words than there are scorings, passages are left out first, and then the words of the passages that matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mailtagger.decide import log_odds_of
from mailtagger.score import Scorer

SCORINGS = 180  # a text; 384 tokens take 10 ms each, so it stays below two seconds or so
PASSAGE = 12  # words

MEANS = {
    "xxurl": "a link",
    "xxmail": "a mail address",
    "xxrep": "repeated marks",
    "xxid": "a code of letters and digits",
    "xxlong": "a word of over 30 letters",
    "xxattach": "an attachment",
    "xxmismatch": "a link that shows one host and leads to another",
    "xxreplyto": "replies go to another domain than the sender's",
    "xxzero": "invisible characters inside words",
    "xxmixed": "words that mix letters of several scripts",
    "xxspaced": "words spelled letter by letter",
    "xxlinkown": "all links lead to the sender's own domain",
    "xxlinkmixed": "some links lead to the sender's own domain",
    "xxlinkelse": "no link leads to the sender's own domain",
    "xxlinkip": "a link to a bare IP address",
    "xxnoname": "a sender without a name",
    "xxnoto": "addressed to nobody by name",
    "xxtoself": "addressed to its own sender",
    "xxcaps": "written in capitals",
    "xxpicture": "a picture with few words or none",
}
DISGUISES = ("xxzero", "xxmixed", "xxspaced", "xxmismatch")


@dataclass(frozen=True)
class Part:
    """One word, or one fact of structure, wherever it stands in the text."""

    token: str  # as in the cleaned text
    times: int  # that it stands in what was read
    log_odds: float  # of spam, that are gone without it

    @property
    def text(self) -> str:
        return in_words(self.token)


def occlude(scorer: Scorer, text: str) -> list[Part]:
    """Each word's part in the calibrated log-odds of a cleaned text, those that push hardest first.

    A word that was not weighed because there are too many is not among them.
    """
    ids, units = scorer.ids(text), _units(scorer.words(text))
    base = log_odds_of(scorer.read(ids).p)

    def without(units_: Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> float:
        return base - log_odds_of(scorer.read(np.delete(ids, np.concatenate(units_))).p)

    tokens: dict[str, list[int]] = {}
    for number, (token, _) in enumerate(units):
        tokens.setdefault(token, []).append(number)
    places = [np.array(places) for _, places in units]
    if len(tokens) > SCORINGS:
        passages = [range(start, min(start + PASSAGE, len(units))) for start in range(0, len(units), PASSAGE)]
        weight = [weighed for passage in passages
                  for weighed in [abs(without([places[i] for i in passage]))] * len(passage)]
        ranked = sorted(tokens, key=lambda token: -max(weight[n] for n in tokens[token]))
        tokens = {token: tokens[token] for token in ranked[: SCORINGS - len(passages)]}
    parts = [Part(token, len(at), without([places[n] for n in at])) for token, at in tokens.items()]
    return sorted(parts, key=lambda part: -abs(part.log_odds))


def in_words(token: str) -> str:
    """A token of the cleaned text as a person would say it."""
    first, _, second = token.partition(" ")
    if first == "xxattach" and second:
        return f"an attached .{second} file"
    if second == "xxrep":
        return f"several {first} in a row"
    if first.startswith("xxn") and first[3:].isdigit():
        return f"a number of {first[3:]} digits" + (" or more" if first == "xxn8" else "")
    return MEANS.get(first, token)


def _units(words: Sequence[tuple[int, str]]) -> list[tuple[str, list[int]]]:
    """(token, the places of its ids) in order; two words for one thing are one unit: `xxattach pdf`, `! xxrep`."""
    units: list[tuple[str, list[int]]] = []
    last = -1
    for place, (at, word) in enumerate(words):
        if at == last:
            units[-1][1].append(place)
        elif units and at == last + 1 and (units[-1][0] == "xxattach" or (word == "xxrep" and units[-1][0] in "!?$")):
            units[-1] = f"{units[-1][0]} {word}", [*units[-1][1], place]
        else:
            units.append((word, [place]))
        last = at
    return units
