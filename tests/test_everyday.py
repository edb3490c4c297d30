"""Mail of today that is made up, good and bad: of every template, in seven languages, never beside Enron."""

import re
from collections import Counter

import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.clean import TEXT_RULES, spaced_letters
from training.balance import kind
from training.corpora import Document
from training.duplicates import components, pairs, signatures
from training.everyday import LISTS, LURES, PAIRED, TEMPLATES, Templates, alternatives, everyday, lures, rows
from training.examples import EVERYDAY, examples
from training.examples import LURES as COUNT
from training.splits import Row

MARKUP = re.compile(r"[\[\]{}<>#~]|(?<! )\||\|(?! )")  # a bar between blanks parts the links of a footer


BOTH = pytest.mark.parametrize("templates", [TEMPLATES, LURES], ids=["everyday", "lures"])


@pytest.fixture(scope="module")
def made() -> list[Row]:
    return rows(EVERYDAY, 0)


@pytest.fixture(scope="module")
def tried() -> list[Row]:
    return lures(COUNT, 0)


def test_the_seed_decides() -> None:
    """The same seed gives the same mail, another one other mail."""
    assert everyday(50, 3) == everyday(50, 3)
    assert not set(everyday(50, 3)) & set(everyday(50, 4))


@BOTH
def test_every_template_is_filled(templates: Templates) -> None:
    """Over many mails nothing of a template's own signs is left, no subject is blank, and each has a text."""
    for subject, body in everyday(EVERYDAY, 1, templates):
        assert subject.strip() and len(body.split()) >= 5
        assert not MARKUP.search(subject)
        text = body.replace(">>", "")
        assert not MARKUP.search(text) and not any(line.startswith(("? ", "= ")) for line in body.splitlines())


@BOTH
def test_every_template_comes_up(templates: Templates) -> None:
    """At least 40 templates; one round over them has each, with any of its subjects over some rounds."""
    assert len(templates) >= 40
    starts = Counter(template.language for template in templates)
    assert set(starts) == {"en", "de", "fr", "es", "nl", "it", "pt"} and min(starts.values()) >= 2
    assert all(2 <= len(template.subjects) <= 5 for template in templates)
    name, make = ("everyday", rows) if templates is TEMPLATES else ("lures", lures)
    kinds = Counter(row.document.source for row in make(len(templates), 0))
    assert kinds == Counter(f"modern/{name}-{template.kind}" for template in templates)


def test_what_goes_with_the_subject_is_there_for_each() -> None:
    """A line that depends on the subject has one text for each subject, none too many."""
    both = (*TEMPLATES, *LURES)
    paired = [(template, text) for template in both for line in template.lines for text in PAIRED.findall(line)]
    assert len(paired) > 20
    for template, text in paired:
        assert len(alternatives(text)) == len(template.subjects), template


def test_a_list_of_a_language_has_a_common_one() -> None:
    """Or a template of another language could not be filled."""
    assert all(name.split()[0] in LISTS for name in LISTS)


def test_few_are_like_another(made: list[Row]) -> None:
    """19 in 20 texts differ at all, and by the measure of the corpora as well."""
    texts = [row.document.text for row in made]
    assert len(set(texts)) >= 0.95 * len(texts)
    assert len(set(components(len(texts), pairs(signatures(texts))))) >= 0.95 * len(texts)


def test_rows_are_good_mail_for_training(made: list[Row]) -> None:
    """Each its own group and key, in three kinds that are balanced with those of the corpora."""
    assert len({row.group for row in made}) == len({row.document.key for row in made}) == EVERYDAY
    assert {(row.document.label, row.part) for row in made} == {("ham", "train")}
    assert {kind(row) for row in made} == {f"modern/everyday-{name}" for name in ("shop", "account", "life")}


def test_lures_are_spam_for_training(tried: list[Row]) -> None:
    """Likewise, in two kinds; links lead elsewhere for the most part, and some to a domain that was bought."""
    assert len({row.group for row in tried}) == len({row.document.key for row in tried}) == COUNT
    assert {(row.document.label, row.part) for row in tried} == {("spam", "train")}
    assert {kind(row) for row in tried} == {"modern/lures-lure", "modern/lures-bait"}
    words = [set(row.document.text.split()) for row in tried]
    assert 0.5 < sum("xxlinkelse" in one for one in words) / COUNT < 0.8
    assert 0.05 < sum("xxlinkown" in one for one in words) / COUNT < 0.25


def test_lengths_are_those_of_life(made: list[Row]) -> None:
    """From a code of a line to a letter of several hundred words."""
    lengths = sorted(len(row.document.text.split()) for row in made)
    assert lengths[0] < 20 and 40 < lengths[EVERYDAY // 2] < 80 and lengths[-1] > 200


def test_texts_are_in_the_normal_form(made: list[Row], tried: list[Row]) -> None:
    """The rules of cleaning change nothing more, and nothing looks like a disguise of spam."""
    for row in (*made, *tried):
        for rule in TEXT_RULES:
            if rule is not spaced_letters:
                assert rule(row.document.text) == row.document.text
        assert not {"xxzero", "xxmixed", "xxspaced"} & set(row.document.text.split())


def test_only_beside_good_mail_of_its_time() -> None:
    """A protocol of Enron, or one with spam alone of today, gets none; one with good mail of today gets all."""

    def row(source: str, label: str) -> Row:
        return Row(Document("c", source, source, label, "a text"), source, "train")  # type: ignore[arg-type]

    enron = [row("enron/1", "ham"), row("enron/2", "spam"), row("modern/list-spam/x", "spam")]
    assert {found.document.source for found in examples(enron)} == {found.document.source for found in enron}
    found = examples([*enron, row("modern/list/x", "ham")])
    assert sum(one.document.corpus == "everyday" for one in found) == EVERYDAY
    assert sum(one.document.corpus == "lures" for one in found) == COUNT
