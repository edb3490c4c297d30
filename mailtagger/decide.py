"""Score and policy → Decision; pure, and the only place that compares a score with a cutoff.

    ham < ham_cutoff ≤ unsure < spam_cutoff ≤ spam

What cannot be judged is unsure, never ham and never spam. A person's word on this very message outweighs every model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ham", "unsure", "spam"]
By = Literal["user", "allow", "personal", "model"]

# Measured with 8k pieces of English prose (score.familiar): 1 % of English ham lies below 0.40 to 0.54, depending on
# its source; German, Polish, Turkish, Finnish, Russian and Chinese notes lie there, Spanish to Italian from 0.42 on.
FAMILIAR = 0.40
UNFAMILIAR = "mostly words that the model does not know"


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
