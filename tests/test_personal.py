"""The personal layer: nothing before the first lesson, more with evidence, and nothing left of what was taken back."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailtagger.parse import parse
from mailtagger.personal import HEADER, SIZE, TEXT, Example, Personal, Terms, named, terms

LESSON = st.tuples(st.lists(st.integers(0, SIZE - 1), max_size=40), st.floats(-30, 30), st.booleans())
CUTOFF = 3.8  # log-odds of the packaged model's spam cutoff
TOPICS = ("gardening tools and seeds", "railway models and track", "sailing boats and ropes", "bread ovens and flour",
          "bicycle lamps and bells", "wool, yarn and needles", "chess clocks and boards")


def newsletter(issue: int, shop: str = "greenhouse.example") -> bytes:
    """One issue: the same sender and frame, other words."""
    rng = np.random.default_rng(issue)
    items = [(rng.choice(TOPICS), rng.integers(2, 90), rng.integers(10**6)) for _ in range(9)]
    offers = "\r\n".join(f"- {topic}, {price} euros, item {item}" for topic, price, item in items)
    return (
        f"From: {shop} news <news@{shop}>\r\nTo: anna@home.example\r\nSubject: Issue {issue}: {rng.choice(TOPICS)}\r\n"
        f"List-Unsubscribe: <https://{shop}/u/{rng.integers(10**9)}>\r\nMessage-ID: <{rng.integers(10**9)}@{shop}>\r\n"
        f"\r\nDear reader,\r\n\r\nthese are this week's offers:\r\n{offers}\r\n\r\nYours, the team of {shop}\r\n"
    ).encode()


def letter(number: int) -> bytes:
    """A mail from one person to another."""
    rng = np.random.default_rng(10_000 + number)
    words = " ".join(rng.choice("we meet the notes on Tuesday lunch project later thanks train house".split(), 60))
    who = rng.choice(["anna", "bela", "carl", "dora"])
    return f"From: {who}@uni{rng.integers(40)}.example\nSubject: {words[:30]}\n\n{words}\n{who}\n".encode()


def campaign(number: int) -> bytes:
    """A spam: each from another sender, with much the same text."""
    rng = np.random.default_rng(20_000 + number)
    return (
        f"From: x{rng.integers(10**6)}@host{rng.integers(10**4)}.example\nSubject: Cheap pills {rng.integers(100)}\n\n"
        f"Order now at http://pills{rng.integers(100)}.example and save {rng.integers(90)}% on all meds!\n"
    ).encode()


def read(raw: bytes) -> Terms:
    return terms(raw, parse(raw))


def some(count: int, seed: int = 0) -> Iterator[Example]:
    """Lessons of both classes, on mails that share some of their terms."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        spam = bool(rng.random() < 0.4)
        raw = (campaign if spam else letter)(seed * 1_000 + i)
        yield Example(read(raw), float(rng.normal(2 if spam else -2, 3)), spam)


def same(one: Personal, other: Personal) -> bool:
    return one.state() == other.state()


def test_nothing_before_the_first_lesson() -> None:
    """Without lessons the layer adds exactly 0 to whatever the model said."""
    layer = Personal()
    assert layer.lessons == 0 and all(layer.logit(read(letter(1)), base) == 0.0 for base in (-30.0, -1.0, 0.0, 8.0))


def test_terms_are_sorted_unique_and_few() -> None:
    """However large a mail is, its terms are bounded; each is once there, in order, and within the table."""
    raw = b"From: a@b.example\r\nX-Long: " + bytes(range(33, 127)) * 900 + b"\r\n\r\n" + b"words and words " * 90_000
    for mail in (raw, letter(1), b"", b"\n\n", b"x", bytes(range(256)) * 50):
        found = read(mail)
        assert found.dtype == np.uint32 and len(found) <= HEADER + TEXT
        assert bool((np.diff(found.astype(np.int64)) > 0).all()) and (found < SIZE).all()


def test_terms_are_the_same_in_another_process() -> None:
    """Lessons on disk outlive the process: nothing hangs on Python's own hash."""
    code = (
        "import hashlib, tests.test_personal as t\n"
        "print(hashlib.sha256(b''.join(t.read(t.newsletter(i)).tobytes() for i in range(5))).hexdigest())"
    )
    told = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1 and len(told.pop()) == 65


def test_line_ends_and_folding_do_not_count() -> None:
    """A server that changes line ends or folds a header elsewhere changes no term."""
    raw = newsletter(3)
    folded = raw.replace(b"List-Unsubscribe: <", b"List-Unsubscribe:\r\n\t<")
    assert np.array_equal(read(raw), read(raw.replace(b"\r\n", b"\n")))
    assert np.array_equal(read(raw), read(folded))


def test_terms_have_names() -> None:
    """Each term is named by bytes that stand in the mail, for `explain`."""
    raw = newsletter(1)
    names = named(raw, parse(raw))
    assert sorted(names) == read(raw).tolist()
    text = raw.replace(b"\r\n", b"\n").decode() + parse(raw).subject + "\n" + parse(raw).body
    assert all(name in text for name in names.values())
    assert {"green", "From:"} <= set(names.values())


def test_five_corrections_of_a_kind_hold_for_the_sixth() -> None:
    """Newsletters that the model calls spam by 5 are no longer, after five are called good."""
    layer = Personal(Example(read(newsletter(i)), 5.0, False) for i in range(5))
    sixth = 5.0 + layer.logit(read(newsletter(5)), 5.0)
    assert sixth < CUTOFF
    first = Personal([Example(read(newsletter(0)), 5.0, False)])
    assert 5.0 > 5.0 + first.logit(read(newsletter(5)), 5.0) > sixth  # one lesson counts at once, and for less


def test_one_lesson_cannot_turn_a_class() -> None:
    """One wrong first lesson changes what is said of no other mail of its kind; one after 200 puts none in the spam
    folder."""
    wrong = Personal([Example(read(newsletter(0)), -5.0, True)])
    assert all(-5.0 + wrong.logit(read(newsletter(i)), -5.0) < -2 for i in range(1, 30))
    wrong = Personal([Example(read(campaign(0)), 5.0, False)])
    assert all(5.0 + wrong.logit(read(campaign(i)), 5.0) > CUTOFF for i in range(1, 30))
    later = Personal([*some(200), Example(read(newsletter(0)), -5.0, True)])
    assert all(-5.0 + later.logit(read(newsletter(i)), -5.0) < CUTOFF for i in range(1, 30))


def test_whoever_only_teaches_spam_keeps_his_good_mail() -> None:
    """Fifty lessons of spam and none of good mail put no good mail over the cutoff, however like it is."""
    lessons = [Example(read(campaign(i)), -2.0, True) for i in range(40)]
    lessons += [Example(read(newsletter(i, f"shop{i}.example")), -2.0, True) for i in range(10)]
    layer = Personal(lessons)
    for raw in [*map(letter, range(30)), *map(newsletter, range(30))]:
        for base in (-4.0, -1.0, 1.0, 3.5):
            assert base + layer.logit(read(raw), base) < CUTOFF
    assert layer.logit(read(campaign(99)), -2.0) > 1.5  # and yet it has learned


def test_many_good_lessons_alone_leave_spam_caught() -> None:
    """A thousand archived mails, which the model thought good, do not take firm spam out of the spam folder."""
    layer = Personal(Example(read(letter(i)), -4.0, False) for i in range(1_000))
    assert all(5.0 + layer.logit(read(campaign(i)), 5.0) > CUTOFF for i in range(30))


def test_both_classes_are_told_apart() -> None:
    """From a model that knows nothing, a hundred lessons suffice for mail that is easy."""
    layer = Personal(
        Example(read((campaign if i % 2 else letter)(i)), 0.0, bool(i % 2)) for i in range(100)
    )
    right = [(layer.logit(read((campaign if i % 2 else letter)(i)), 0.0) > 2) == bool(i % 2) for i in range(500, 600)]
    assert sum(right) >= 98


def test_what_is_forgotten_was_never_learned() -> None:
    """Learned again without one lesson the layer is, bit for bit, what it is without that lesson."""
    a, b, c = some(3)
    layer = Personal([a, b, c])
    assert not same(layer, Personal([a, c]))
    without = Personal([a, c])
    assert same(Personal(lesson for lesson in (a, b, c) if lesson is not b), without)
    assert without.logit(b.terms, b.base) == Personal([a, c]).logit(b.terms, b.base)


@settings(max_examples=25, deadline=None)
@given(st.lists(LESSON, max_size=30))
def test_state_brings_back_every_bit(lessons: list[tuple[list[int], float, bool]]) -> None:
    """A layer that was restored says the same and learns on the same; it never adds more than 10 + 0.8 · |base|."""
    examples = [Example(np.unique(np.array(found, np.uint32)), base, spam) for found, base, spam in lessons]
    layer = Personal(examples)
    again = Personal.restored(layer.state())
    assert again.lessons == len(lessons) and same(layer, again)
    for example in examples:
        said = layer.logit(example.terms, example.base)
        assert said == again.logit(example.terms, example.base)
        assert abs(said) <= 10 + 0.8 * abs(example.base) + 1e-6
        layer.learn(example)
        again.learn(example)
    assert same(layer, again)


def test_shares_sum_to_what_is_added() -> None:
    """`explain` can show where the layer's word comes from: the terms' shares and the rest, nothing else."""
    layer = Personal(some(60))
    for i in range(20):
        for base in (-6.0, 0.5, 7.0):
            found = read((campaign if i % 2 else letter)(5_000 + i))
            shares = math.fsum(layer.weights(found, base)) + layer.rest(base)
            assert shares == layer.logit(found, base)


def test_garbage_is_no_state() -> None:
    """A state that is cut, changed in one byte or something else entirely is refused."""
    state = Personal(some(5)).state()
    turned = state[:80] + bytes([state[80] ^ 1]) + state[81:]
    for bad in (b"", b"x", b"\0" * 100, state[:-1], state + b"\0", state[:60], turned):
        with pytest.raises(ValueError, match="personal layer"):
            Personal.restored(bad)


def test_state_is_bounded() -> None:
    """The state stays below 8 MB when every weight is in use."""
    everything = np.arange(SIZE, dtype=np.uint32)
    assert len(Personal([Example(everything, 0.0, True)]).state()) < 8_000_000


def test_relearning_is_quick() -> None:
    """2,000 lessons of 2,000 terms are learned again in under a second, and a mail is read in under 2 ms."""
    rng = np.random.default_rng(0)
    pool = [np.unique(rng.integers(0, SIZE, 2_000, np.uint32)) for _ in range(50)]
    lessons = [Example(pool[i % 50], 0.0, i % 3 == 0) for i in range(2_000)]
    start = time.process_time()
    Personal(lessons)
    assert time.process_time() - start < 1
    raw = newsletter(1) + b"more words than are read, and then some\r\n" * 2_000
    mail = parse(raw)
    start = time.process_time()
    for _ in range(100):
        terms(raw, mail)
    assert (time.process_time() - start) / 100 < 0.002


def test_a_mail_without_terms_teaches_nothing_wrong() -> None:
    """An empty message can be filed as spam without harm."""
    layer = Personal([Example(np.empty(0, np.uint32), 0.0, True)])
    assert layer.lessons == 1 and layer.logit(read(letter(1)), -3.0) == 0.0
