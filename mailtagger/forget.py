"""Lessons taken back: the personal layer is then as if they had never been, and their text is gone from the disk.

What was done with mail, and where it was seen, is kept: it holds no text, and without it the follower would take all
that lies in the folders for news, and learn the same lessons once more.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mailtagger.count import many
from mailtagger.journal import Journal
from mailtagger.lessons import Lesson, Lessons


@dataclass(frozen=True)
class Meant:
    """What is to be forgotten: lessons, and (account, address) of correspondents whose mail is always let in."""

    lessons: tuple[Lesson, ...] = ()
    correspondents: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lessons or self.correspondents)

    @property
    def models(self) -> dict[str, int]:
        """The retrained models that have learned of these lessons, and how many."""
        learned = [lesson.learned_by for lesson in self.lessons if lesson.learned_by]
        return {model: learned.count(model) for model in dict.fromkeys(learned)}


def choose(
    journal: Journal, accounts: Collection[str], sender: str | None = None, message_id: str | None = None,
    since: datetime | None = None, damaged: bool = False, everything: bool = False,
) -> Meant:
    """What is meant by one of these; a sender is an address, or a domain as `@example.org`, without its subdomains."""
    lessons = [lesson for account in accounts for lesson in Lessons(journal).all(account)]
    known = [pair for account in accounts
             for pair in journal.rows(_pair, "SELECT account, address FROM correspondents WHERE account = ?"
                                             " ORDER BY address", account)]
    if everything:
        return Meant(tuple(lessons), tuple(known))
    if sender is not None:
        return Meant(tuple(lesson for lesson in lessons if _from(sender, lesson.sender)),
                     tuple(pair for pair in known if _from(sender, pair[1])))
    if message_id is not None:
        wanted = message_id.strip().removeprefix("<").removesuffix(">")
        return Meant(tuple(lesson for lesson in lessons if lesson.message_id == wanted))
    if damaged:
        return Meant(tuple(lesson for lesson in lessons if lesson.damaged))
    if since is not None:
        start = since.timestamp()
        return Meant(tuple(lesson for lesson in lessons if lesson.at and lesson.at.timestamp() >= start))
    return Meant()


def forget(journal: Journal, meant: Meant) -> bool:
    """Whether nothing of it is left on the disk; False while another process holds on to the state file's log."""
    with journal.transaction():
        for lesson in meant.lessons:
            journal.write("DELETE FROM lessons WHERE id = ?", lesson.id)
        for account, address in meant.correspondents:
            journal.write("DELETE FROM correspondents WHERE account = ? AND address = ?", account, address)
    return journal.wipe()


def summary(meant: Meant, forgotten: bool) -> dict[str, Any]:
    """The last line of `forget --json`."""
    labels = [lesson.label for lesson in meant.lessons]
    return {
        "lessons": len(labels), "ham": labels.count("ham"), "spam": labels.count("spam"),
        "correspondents": len(meant.correspondents), "learned_by": meant.models, "forgotten": forgotten,
    }


def sentence(meant: Meant, forgotten: bool) -> str:
    """The same for a person."""
    labels = [lesson.label for lesson in meant.lessons]
    parts = [f"{many(len(labels), 'lesson')} ({labels.count('ham')} of good mail, {labels.count('spam')} of spam)"]
    if meant.correspondents:
        parts.append(many(len(meant.correspondents), "correspondent"))
    are = "is" if len(labels) == len(parts) == 1 else "are"
    lines = [f"{' and '.join(parts)} {are if forgotten else 'would be'} forgotten."]
    for model, number in meant.models.items():
        lines.append(f"{model} has learned {number} of them: `mailtagger retrain` makes a model without them from what"
                     " is left, `mailtagger models rollback` goes back to the one before.")
    return " ".join(lines)


def _from(wanted: str, sender: str) -> bool:
    wanted, sender = wanted.strip().casefold(), sender.casefold()
    return sender.endswith(wanted) if wanted.startswith("@") else sender == wanted


def _pair(account: str, address: str) -> tuple[str, str]:
    return account, address


def lines(lessons: Sequence[Lesson]) -> list[dict[str, Any]]:
    """One object of `forget --json` and of `history --lessons --json` for each lesson."""
    return [
        {
            "at": lesson.at.isoformat(timespec="milliseconds") if lesson.at else None,
            **{key: getattr(lesson, key) for key in (
                "account", "label", "source", "sender", "folder", "message_id", "score", "verdict", "model",
                "learned_by", "damaged")},
        }
        for lesson in lessons
    ]
