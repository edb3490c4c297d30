"""Score and policy → Decision; pure, and the only place that compares a score with a cutoff.

    ham < ham_cutoff ≤ unsure < spam_cutoff ≤ spam

What cannot be judged is unsure, never ham and never spam. A person's word on this very message outweighs every model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ham", "unsure", "spam"]
By = Literal["user", "allow", "personal", "model"]

# Half of the letters in words that the model knows (score.familiar), and 40 letters in all. Measured with 8k pieces
# learned from mail: below it lie 1 to 2 % of held-out good mail, 4 to 9 % of the spam (RESULTS has the languages), and
# mail in Polish, Turkish, Russian, Greek, Arabic, Chinese and Japanese. German, French and Spanish share more pieces
# with English and reach 0.5 to 0.7.
FAMILIAR = 0.5
UNFAMILIAR = "too few words that the model knows"


@dataclass(frozen=True)
class Policy:
    """Where ham ends and spam begins."""

    ham_cutoff: float
    spam_cutoff: float

    def __post_init__(self) -> None:
        if not 0 <= self.ham_cutoff <= self.spam_cutoff <= 1:  # not: NaN fails too
            raise ValueError(f"cutoffs out of order: ham {self.ham_cutoff}, spam {self.spam_cutoff}")


@dataclass(frozen=True)
class Decision:
    """The verdict on one message, who it is from, and what a person should know about it."""

    verdict: Verdict
    decided_by: By
    score: float | None
    notes: tuple[str, ...] = ()


def decide(
    score: float | None, policy: Policy, familiar: float = 1.0, rescued: bool = False, notes: Iterable[str] = ()
) -> Decision:
    """The decision on P(spam), or on None where there was nothing to score.

    A text below FAMILIAR is at most unsure: there the model guesses. `rescued`: the user took it back out of the
    spam folder.
    """
    said = tuple(dict.fromkeys(notes))
    if rescued:
        return Decision("ham", "user", score, said)
    if score is None or not 0 <= score <= 1:
        return Decision("unsure", "model", None, said)
    unfamiliar = familiar < FAMILIAR
    if unfamiliar and UNFAMILIAR not in said:
        said += (UNFAMILIAR,)
    if score < policy.ham_cutoff:
        return Decision("ham", "model", score, said)
    if score < policy.spam_cutoff or unfamiliar:
        return Decision("unsure", "model", score, said)
    return Decision("spam", "model", score, said)
