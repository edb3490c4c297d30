"""Each disguise is whole mail that a reader sees the same words in, and what the cleaning makes of it."""

import zlib
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.clean import clean
from mailtagger.errors import MailtaggerError
from mailtagger.parse import parse
from tests.test_corpora import eml, pack
from tests.test_evaluate import PARTS, model, rows
from tests.tiny_model import HAM, SPAM
from training import evaluate, evasion, prepare
from training.corpora import Document, read
from training.disguises import CONTROL, DISGUISES, LOOK_ALIKE, ZERO_WIDTH, Spam, disguised, in_words, png
from training.splits import Row

BODY = """Cheap viagra und für alle, no prescription needed <today> & tomorrow!
Order online at http://pills.example/buy?id=1 or write to sales@pills.example
Lose weight fast with this miracle pill"""
GOOD = tuple("the minutes of our committee meeting are in the shared folder, see you on Friday".split())
MESSAGE = Spam("enron/1", "Save 80% on discount pharmacy, grüße", BODY, 6 * GOOD)
UNDONE = (
    *("none, as HTML", "hidden good words", "zero-width characters in words", "words split by tags and comments"),
    *("base64", "quoted-printable, wrong charset label"),
)
ATTACHED = ("text in an attached .txt", "text in an attached .html")


def words(name: str, message: Spam = MESSAGE) -> list[str]:
    """The words that the model reads, without the tokens of our own."""
    return [word for word in clean(parse(disguised(name, message))).split() if not word.startswith("xx")]


@pytest.mark.parametrize("name", DISGUISES)
def test_whole(name: str) -> None:
    """Each disguise is MIME without a defect, with the headers a mail must have, short lines, the same each time."""
    raw = disguised(name, MESSAGE)
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not [defect for part in message.walk() for defect in part.defects]
    assert message["From"] and message["Date"] and message["MIME-Version"]
    assert not {"empty", "broken MIME"} & set(parse(raw).notes)
    assert max(map(len, raw.splitlines())) <= 998
    assert parse(disguised(name, MESSAGE)) == parse(raw)


def test_the_control_is_the_message() -> None:
    """Undisguised, subject and message come back as they were."""
    mail = parse(disguised(CONTROL, MESSAGE))
    assert (mail.subject, mail.body.rstrip("\n")) == (MESSAGE.subject, MESSAGE.body)


def test_a_long_subject_keeps_its_words() -> None:
    """A subject of many lines keeps every space, in letters of any kind."""
    subject = " ".join(["grüße", "an", "alle", "ünä", "plain words"] * 12)
    assert parse(disguised(CONTROL, Spam("1", subject, "x"))).subject == subject


@pytest.mark.parametrize("name", UNDONE)
def test_undone(name: str) -> None:
    """What these disguises hide from a filter the cleaning reads as if there were none."""
    assert words(name) == words(CONTROL)


@pytest.mark.parametrize("name", ATTACHED)
def test_attached(name: str) -> None:
    """Under a body of one line the attached text is read as well, and whole."""
    said = parse(disguised(name, MESSAGE))
    assert said.body.startswith("Please see the attached file.")
    assert said.attachments == (name.rpartition(".")[2],)
    assert set(words(CONTROL)) <= set(words(name))


def test_marks_of_disguise() -> None:
    """Invisible characters and foreign letters in words each leave their token."""
    for name, token in (
        ("zero-width characters in words", "xxzero"),
        ("look-alike letters", "xxmixed"),
    ):
        assert token in clean(parse(disguised(name, MESSAGE))).split()
        assert token not in clean(parse(disguised(CONTROL, MESSAGE))).split()


def test_look_alikes_of_longer_words_are_undone() -> None:
    """Look-alike letters in words of four letters and more are read as the Latin ones they stand for (not ӏ for l)."""
    message = Spam("1", "", "order your discount meds without any prescription and save money every week")
    assert {word for word in words(CONTROL, message) if len(word) > 3} <= set(words("look-alike letters", message))


def test_what_a_reader_sees() -> None:
    """Taking the disguise back by its own table gives the message: only letters were touched, and none of a link's."""
    back = {ord(c): latin for latin, group in LOOK_ALIKE.items() for c in group}
    for name, undo in (
        ("zero-width characters in words", dict.fromkeys(map(ord, ZERO_WIDTH))),
        ("look-alike letters", back),
    ):
        mail = parse(disguised(name, MESSAGE))
        assert mail.body != parse(disguised(CONTROL, MESSAGE)).body
        assert (mail.subject.translate(undo), mail.body.translate(undo).rstrip("\n")) == (MESSAGE.subject, MESSAGE.body)
    for name in set(DISGUISES) - {"image only, subject kept", "image only, no subject", *ATTACHED}:
        assert "http://pills.example/buy?id=1" in parse(disguised(name, MESSAGE)).body
        assert "sales@pills.example" in parse(disguised(name, MESSAGE)).body
    spaced = parse(disguised("letters spaced or dotted", MESSAGE)).body
    squeezed = [text.replace(".", "").replace(" ", "").replace("\n", "") for text in (spaced, MESSAGE.body)]
    assert squeezed[0] == squeezed[1] and spaced.rstrip("\n") != MESSAGE.body


def test_the_raw_bytes_hide_the_words() -> None:
    """The disguises do hide: a search of the raw bytes finds the telling word in none of these."""
    sure = Spam("1", "", "viagra " * 40)
    for name in ("zero-width characters in words", "words split by tags and comments", "base64"):
        assert b"viagra" not in disguised(name, sure)
    assert b"viagra" in disguised(CONTROL, sure)


def test_in_words_changes_its_share() -> None:
    """Words of three letters and more are changed, all or so many of them."""
    text = "buy it now at www.shop.example " * 200
    assert in_words(text, lambda word, _: word.upper(), 1, Random(0)) == "BUY it NOW at www.shop.example " * 200
    half = in_words(text, lambda word, _: word.upper(), 0.5, Random(0)).split()
    assert 160 < half.count("BUY") + half.count("NOW") < 240
    assert in_words(text, lambda word, _: word.upper(), 0, Random(0)) == text


def test_padding() -> None:
    """Good words stand after the message in sight, once and three times as many as it has; hidden ones are not read."""
    once, thrice = (words(f"good words at the end, {times}") for times in ("as many", "three times"))
    assert once[: len(words(CONTROL))] == words(CONTROL) and once.count("committee") == 2
    assert thrice.count("committee") == 6 and "committee" not in words("hidden good words")


def test_image_only() -> None:
    """A mail that is a picture says nothing but its subject; without one there is no text and the verdict is unsure."""
    assert clean(parse(disguised("image only, subject kept", MESSAGE))).startswith("save xxn2 % on discount pharmacy")
    assert clean(parse(disguised("image only, no subject", MESSAGE))) == ""
    picture = png()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and picture.endswith(
        b"IEND" + zlib.crc32(b"IEND").to_bytes(4, "big")
    )


def test_through() -> None:
    """Words are counted as often as they stand; tokens of our own are none."""
    assert evasion.through(["a a b xxurl", "c"], ["a b b", ""]) == 0.5


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sentences of the tiny model's world as two packed corpora of raw mail, prepared."""
    monkeypatch.setenv("MAILTAGGER_CORPORA", str(tmp_path))
    found = []
    for name, label, sentences in (("modern_ham_a", "ham", HAM), ("modern_spam_a", "spam", SPAM)):
        members = {f"{i}.eml": eml("", " ".join(sentences[i - j] for j in range(2))) for i in range(len(sentences))}
        listed = ["file,label,kind,source", *(f"{file},{label},x,x" for file in members)]
        pack(tmp_path / f"{name}.tar.gz", {**members, "MANIFEST.csv": "\n".join(listed).encode()})
        documents = read(name, tmp_path)
        found += [Row(document, document.key, PARTS[i % 4]) for i, document in enumerate(documents)]
    prepare.write(found, tmp_path / "data")
    return tmp_path / "data"


def test_the_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command puts the table into the results: a line a disguise, three verdicts that add up, both methods."""
    monkeypatch.setattr(evaluate, "RESULTS", tmp_path / "RESULTS.md")
    path = model(tmp_path, "default")
    evasion.main(["--model", str(path), "--data", str(data), "--limit", "6", "--jobs", "1", "--write"])
    written = (tmp_path / "RESULTS.md").read_text()
    assert "<!-- evasion -->" in written and f"--model {path.name} --limit 6 --write" in written
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written.splitlines() if line.startswith("|")]
    assert [cells[0] for cells in table[2:]] == list(DISGUISES)
    for _, n, spam, unsure, ham, linear, _ in table[2:]:
        assert n == "6" and int(spam.partition("/")[0]) + int(unsure) + int(ham) == 6 and "/6 = " in linear
    by_name = {cells[0]: cells for cells in table[2:]}
    assert int(by_name[CONTROL][2].partition("/")[0]) >= 4  # the tiny model knows these sentences
    assert by_name["image only, no subject"][3] == "6" and by_name["image only, no subject"][5].startswith("0/6")
    assert by_name["base64"][2:] == by_name[CONTROL][2:]


def test_a_model_that_saw_the_test_is_refused(tmp_path: Path) -> None:
    """Only what the model neither learned from nor was tuned on is disguised."""
    prepare.write(rows(), tmp_path / "data")
    with pytest.raises(MailtaggerError, match="trained under random"):
        evasion.main(["--model", str(model(tmp_path, "random")), "--data", str(tmp_path / "data"), "--jobs", "1"])


def test_sample() -> None:
    """Families take turns, near-duplicates stand for one, mails without a message are left out."""
    spam = [
        Row(Document("x", f"{family}/1", f"{family}/{i}", "spam", "text", missing), f"{family}{i // 2}", "test")
        for family, missing in (("enron", ()), ("phishing", ()), ("modern", ("message",)))
        for i in range(20)
    ]
    found = evasion.sample(spam, "spam", 8)
    assert [row.document.family for row in found] == ["enron", "phishing"] * 4
    assert len({row.group for row in found}) == 8
    assert len(evasion.sample(spam, "spam", 100)) == 20 and not evasion.sample(spam, "ham", 8)
