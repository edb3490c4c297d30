"""explore.py: plots and one page that needs nothing else, whatever stands in the mail."""

import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")
pytest.importorskip("wordcloud", reason="needs the [report] extra")

from PIL import Image

from mailtagger.errors import MailtaggerError
from training import explore, plots, prepare, words
from training.corpora import Document, Label
from training.page import Picture, Section, page
from training.splits import Row

PNG = b"\x89PNG\r\n\x1a\n"


class Reader(HTMLParser):
    """The tags of a page with their attributes, its text, and what was left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def row(key: str, label: Label, text: str, group: str = "", corpus: str = "c") -> Row:
    return Row(Document(corpus, f"{corpus}/x", key, label, text), group or key, "train")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explore")
    explore.main(["--smoke", "--out", str(out)])
    return out


def test_smoke_draws_everything(smoke: Path) -> None:
    """Without corpora, each plot is there in light and dark, and the page has one section for each thing looked at."""
    names = ("classes", "characters", "words", "telling", "duplicates", "years", "probe", "probe-marks")
    expected = {"cloud-ham.png", "cloud-spam.png"} | {f"{n}{end}.png" for n in names for end in ("", "-dark")}
    assert {file.name for file in smoke.glob("*.png")} == expected
    for file in smoke.glob("*.png"):
        with Image.open(file) as image:
            assert image.width == 1000
    read = Reader((smoke / "index.html").read_text(encoding="utf-8"))
    assert sum(tag == "section" for tag, _ in read.tags) == 9
    assert not read.open


def test_the_page_needs_nothing_else(smoke: Path) -> None:
    """No script, no address but data, every picture inside and told in words: a mail server learns of no reader."""
    text = (smoke / "index.html").read_text(encoding="utf-8")
    read = Reader(text)
    images = [attrs for tag, attrs in read.tags if tag == "img"]
    assert len(images) == 10
    assert all((attrs["src"] or "").startswith("data:image/png;base64,") for attrs in images)
    assert all(len(attrs["alt"] or "") > 30 for attrs in images)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.tags}
    assert "default-src 'none'" in text
    assert not re.search(r"(?:https?:)?//[a-z]|url\(|@import", re.sub(r'"data:[^"]*"', '""', text))


def test_what_comes_from_mail_is_escaped(tmp_path: Path) -> None:
    """A name or a word that is HTML is shown and does nothing."""
    bad = "<script>alert(1)</script>\"'&"
    picture = Picture("x", {"light": PNG, "dark": PNG + b"d"}, bad, bad)
    read = Reader(page(bad, bad, [Section(bad, bad, (picture,), (bad, "n"), [(bad, 1234)])]))
    assert "script" not in {tag for tag, _ in read.tags}
    assert (
        read.text.count(bad) == 8
    )  # title, heading, about; section's title and finding; caption, head of the table, cell
    assert "1,234" in read.text
    assert next(attrs["alt"] for tag, attrs in read.tags if tag == "img") == bad


def test_hostile_words_are_drawn_as_they_are() -> None:
    """A dollar begins no formula in a label, and what the font does not have is no box in a cloud."""
    rows = [("$\\nope{$", 3.0), ("$x^", 2.0), ("<b>", 1.0)]
    assert plots.render(plots.telling(rows, rows), "dark").startswith(PNG)
    assert plots.cloud({"\U0001f4b0\u6f22": 3}, "spam") == b""
    assert plots.cloud({"\u6f22": 3, "word": 2}, "spam") == plots.cloud({"word": 2}, "spam")


def test_ham_and_spam_keep_their_colours() -> None:
    """A cloud has its class's colour and no other; both colours are clear (3:1, WCAG 1.4.11) on either ground."""
    for label, colour in plots.COLOURS.items():
        image = Image.open(io.BytesIO(plots.cloud({"some": 3, "words": 2}, label))).convert("RGBA")
        opaque = {pixel[:3] for _, pixel in image.getcolors(1 << 20) if pixel[3] == 255}  # type: ignore[index]
        assert opaque == {tuple(bytes.fromhex(colour[1:]))}
        for ground, _ in plots.THEMES.values():
            light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    parts = [byte / 255 for byte in bytes.fromhex(colour[1:])]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_log_odds_by_hand() -> None:
    """Monroe et al.'s z-score of two words in two classes, worked out by hand with a prior of two words."""
    z = words.log_odds(np.array([3.0, 1.0]), np.array([1.0, 3.0]), prior=2)
    expected = 2 * np.log(4 / 2) / np.sqrt(1 / 4 + 1 / 2)
    assert z == pytest.approx([-expected, expected])


def test_a_word_seen_once_tells_little() -> None:
    """Between a word of one spam alone and one of most spam and little ham, the second is the more telling."""
    ham = [row(f"h{i}", "ham", "the cat sat" + " free" * (i == 0)) for i in range(50)]
    spam = [row(f"s{i}", "spam", "the free pills" + " unique" * (i == 0)) for i in range(50)]
    found = words.count(ham + spam)
    telling = [word for word, _ in found.telling("spam", 9)]
    assert telling[:2] == ["pills", "free"] and telling.index("unique") == 2
    assert [word for word, _ in found.telling("ham", 2)] == ["cat", "sat"]


def test_a_mail_counts_a_word_once_and_a_group_one_mail() -> None:
    """Neither one mail that repeats a word nor a hundred copies of a mail make a word common."""
    rows = [row("a", "spam", "pills " * 50), row("b", "spam", "watches", "g"), row("c", "spam", "watches", "g")]
    found = words.count([*rows, row("d", "ham", "the lunch xxurl 4 xxn3")])
    assert found.common("spam", 9) == {"pills": 1, "watches": 1}
    assert found.common("ham", 9) == {"lunch": 1}


def test_duplicates_are_counted_by_group() -> None:
    """Four mails, of which two say the same and three are alike: one exact double, two near ones."""
    rows = [row("a", "ham", "x", "g"), row("b", "ham", "x", "g"), row("c", "spam", "y", "g"), row("d", "spam", "z")]
    section = next(s for s in explore.look(rows, {}) if s.title == "Duplicates")
    assert section.finding.startswith("1 mails (25.0%) repeat the text of another, and 2 (50.0%) are near-duplicates")
    assert [tuple(line) for line in section.rows][:3] == [("1", 2, 1), ("2", 2, 0), ("3–5", 0, 3)]


@pytest.mark.parametrize("labels", [("ham",), ("spam",)])
def test_one_class_and_no_years(labels: tuple[Label, ...]) -> None:
    """Mail of one class, of one corpus, without a year: what cannot be drawn is said, the rest is drawn."""
    texts = ("some words", "other words", "")
    rows = [row(f"{label}{i}", label, text) for label in labels for i, text in enumerate(texts)]
    found = {section.title: section for section in explore.look(rows, {})}
    assert found["Years"].finding.startswith("No year is known") and not found["Years"].pictures
    assert "two corpora" in found["The corpus probe"].finding
    assert not words.count([one for one in rows if not one.document.text]).words
    assert found["Classes"].pictures and found["Length in words"].pictures


def test_what_is_missing_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No prepared corpus, an empty one, and no [report] extra each tell the way out."""
    with pytest.raises(MailtaggerError, match=r"training\.prepare"):
        explore.main(["--data", str(tmp_path / "nowhere")])
    prepare.write([], tmp_path / "empty")
    assert json.loads((tmp_path / "empty" / prepare.YEARS).read_text()) == {}
    with pytest.raises(MailtaggerError, match="There is no mail"):
        explore.main(["--data", str(tmp_path / "empty"), "--out", str(tmp_path / "out")])
    monkeypatch.setitem(sys.modules, "wordcloud", None)
    with pytest.raises(MailtaggerError, match=r"pip install -e \.\[train,report\]"):
        explore.main(["--smoke", "--out", str(tmp_path / "out")])
