"""gate.py: which lessons are held out, and which candidates may take over."""

from dataclasses import dataclass
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtagger import gate
from tests import newsletters


@dataclass(frozen=True)
class Lesson:
    """What the split reads."""

    ident: str
    text: str | None
    sender: str = ""


def different(count: int) -> list[Lesson]:
    """Lessons that have nothing in common."""
    return [Lesson(sha256(bytes([n])).hexdigest(), " ".join(f"w{n}x{i}" for i in range(20))) for n in range(count)]


def said(*verdicts: str) -> list[gate.Said]:
    """These verdicts, with a P that fits."""
    return [gate.Said({"ham": 0.01, "unsure": 0.6, "spam": 0.99}[verdict], verdict) for verdict in verdicts]


HAM, SPAM, UNSURE = said("ham"), said("spam"), said("unsure")
NONE = gate.Asked([], [], [])
BASE = gate.Asked([False] * 900 + [True] * 600, HAM * 900 + SPAM * 600, HAM * 900 + SPAM * 600)
CORRECTED = gate.Asked([False] * 4, SPAM * 4, HAM * 4)


def base(*, good: list[gate.Said], spam: list[gate.Said]) -> gate.Asked:
    """The base's hold-out, with other answers of the candidate on the first good mails and spams."""
    new = good + HAM * (900 - len(good)) + spam + SPAM * (600 - len(spam))
    return gate.Asked(BASE.spam, BASE.old, new)


def test_five_newsletters_are_four_to_learn_and_one_to_ask() -> None:
    """Of one sender's five the last is held out, and the others count as two lessons in all: 4/√5."""
    lessons = [Lesson(str(n), text, "news@shop.example") for n, text in enumerate(newsletters.texts(5))]
    split = gate.split(lessons)
    assert (split.learned, split.held_out) == ((0, 1, 2, 3), (4,))
    assert sum(split.weights) == pytest.approx(4 / 5**0.5)


def test_five_different_lessons_are_all_learned() -> None:
    """With so few there is nothing to spare."""
    assert gate.split(different(5)) == gate.Split((0, 1, 2, 3, 4), (1.0,) * 5, ())


def test_nearly_equal_texts_are_one_kind_whoever_sent_them() -> None:
    """A text that differs in its last word from another is of its kind; a common greeting makes no kind."""
    text = "dear customer this is the text that we send to everybody on our list every week good bye"
    lessons = [Lesson("a", text + " anna", "a@x"), Lesson("b", text + " bob", "b@x"), Lesson("c", "dear customer no")]
    assert gate.kinds(lessons) == [0, 0, 2]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=60))
def test_a_split_is_honest(drawn: list[tuple[int, int]]) -> None:
    """Each lesson with a text is learned or held out, never both; nobody's small kind stands on both sides; more come,
    and what was held out of a large kind stays so."""
    lessons = [Lesson(f"{i}", f"{word} " * 8 + f"{sender}", f"s{sender}") for i, (word, sender) in enumerate(drawn)]
    split = gate.split(lessons)
    assert sorted(split.learned + split.held_out) == list(range(len(lessons)))
    kinds = gate.kinds(lessons)
    for kind in set(kinds):
        inside = [i for i, other in enumerate(kinds) if other == kind]
        held = [i for i in inside if i in split.held_out]
        if len(inside) >= gate.EVERY:
            assert len(held) == len(inside) // gate.EVERY
        else:
            assert held in ([], inside)


def test_about_a_fifth_of_many_is_held_out_the_same_each_time() -> None:
    """Of 200 different lessons 30 to 50; which, does not hang on the lessons that come later."""
    first, more = gate.split(different(200)), gate.split(different(250))
    assert 30 <= len(first.held_out) <= 50
    assert first.held_out == tuple(i for i in more.held_out if i < 200)


def test_a_lesson_without_text_is_neither() -> None:
    """Where keep_text has taken it there is nothing to learn from, and nothing to ask."""
    assert gate.split([Lesson("a", None), Lesson("b", " "), Lesson("c", "text")]) == gate.Split((2,), (1.0,), ())


def test_better_on_the_lessons_and_no_worse_elsewhere_is_promoted() -> None:
    """The good case, and with a few changes of the base such as chance gives."""
    assert gate.decide(BASE, NONE, CORRECTED).promoted
    assert gate.decide(base(good=UNSURE * 3, spam=HAM), CORRECTED, CORRECTED).promoted


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ((base(good=SPAM, spam=[]), NONE, CORRECTED), "good mail called spam"),
        ((BASE, gate.Asked([False], UNSURE, SPAM), CORRECTED), "good mail called spam"),
        ((base(good=[], spam=HAM * 8), NONE, CORRECTED), "more than by chance"),
        ((base(good=[], spam=UNSURE * 200), NONE, CORRECTED), "would be called spam"),
        ((base(good=[gate.Said(0.3, "unsure")] * 60, spam=[]), NONE, CORRECTED), "would be called ham"),
        ((BASE, gate.Asked([True] * 2, SPAM * 2, UNSURE * 2), CORRECTED), "held out"),
        ((BASE, NONE, gate.Asked([False], SPAM, SPAM)), "not fall"),
        ((BASE, NONE, NONE), "not fall"),
    ],
)
def test_what_is_worse_anywhere_is_refused(asked: tuple[gate.Asked, gate.Asked, gate.Asked], word: str) -> None:
    """Each clause of the rule refuses by itself, and says what would get worse."""
    judged = gate.decide(*asked)
    assert not judged.promoted
    assert word in judged.why


def test_losses_do_not_add_up() -> None:
    """What the current model no longer calls spam of the base's good mail, no candidate may call spam again."""
    two = gate.Asked(BASE.spam, SPAM * 2 + HAM * 898 + SPAM * 600, SPAM + HAM * 899 + SPAM * 600)
    assert gate.decide(two, NONE, CORRECTED).promoted
    assert not gate.decide(two, NONE, CORRECTED, most_called_spam=0).promoted


def test_chance() -> None:
    """Five of five changes for the worse are less likely than one in twenty, four of four are not."""
    assert gate.unlikely(5, 0) and not gate.unlikely(4, 0)
    assert not gate.unlikely(0, 0) and not gate.unlikely(20, 20)
    assert gate.unlikely(46, 0) and gate.unlikely(40, 20)
