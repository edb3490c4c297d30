"""Corpora in small: read in place, grouped by near-duplicates, split so that groups never cross."""

import csv
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.clean import clean_text
from mailtagger.errors import MailtaggerError
from training import corpora, duplicates, prepare, splits
from training.corpora import Document

SENTENCE = "the quick brown fox jumps over the lazy dog while seven wizards quietly brew a strong potion in the tower"


def eml(subject: str, body: str) -> bytes:
    return f"From: a@example.org\nTo: b@example.org\nSubject: {subject}\n\n{body}\n".encode()


def pack(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def table(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with every corpus, a few mails in each."""
    texts = [f"letter {i} of number {i * 7} on matter {i * 13} and place {i * 31}" for i in range(8)]
    rows = [["Message ID", "Subject", "Message", "Spam/Ham", "Date"]]
    rows += [[str(i), f"subject {i}", text, "spam" if i % 2 else "ham", "2001-01-01"] for i, text in enumerate(texts)]
    rows += [["8", "", " ", "ham", ""], ["9", "x", "y", "perhaps", ""], ["10", "", "only a message", "ham", ""]]
    rows += [["11", "stranger", "to the split", "ham", ""]]
    with zipfile.ZipFile(tmp_path / corpora.ENRON, "w") as archive:
        archive.writestr(corpora.ENRON_CSV, table(rows))
    split = [["Message ID", "mailbox", "label", "dup_group", "near_group", "random", "dedup"]]
    for i in range(11):
        part = ("train", "train", "valid", "test")[i % 4]
        split.append([str(i), str(i % 6 + 1), "ham", "d", f"n{i}", "valid" if i % 5 == 0 else "train", part])
    (tmp_path / corpora.ENRON_SPLIT).write_text(table(split))
    mails = {
        "ham/easy/1": b"From x\nList-Id: Users\n <ilug.Linux.ie>\n" + eml("lunch", "at noon"),
        "ham/hard/2": b"From: News <a@News.example>\n" + eml("news", "weekly"),
        "spam/3": eml("pills", "buy"),
    }
    pack(tmp_path / "spamassassin.tar.gz", {**mails, "readme": b"not a mail"})
    pack(tmp_path / "phishing_to_2024.tar.gz", {"phishing/2023/a.eml": eml("your account", "verify it now")})
    for name, label in (("modern_ham_a", "ham"), ("modern_ham_c", "ham"), ("modern_spam_a", "spam")):
        listed = ["file,label,kind,source", f"receipt/spree/1.eml,{label},receipt,spree", f"gone.eml,{label},list,x"]
        members = {"receipt/spree/1.eml": eml(name, "thank you"), "stray.eml": eml("stray", "mail")}
        pack(tmp_path / f"{name}.tar.gz", {**members, "MANIFEST.csv": "\n".join(listed).encode()})
    return tmp_path


def test_enron_rows(root: Path) -> None:
    """Enron's subject and message become one cleaned text, under the mailbox that the split knows."""
    broken: list[str] = []
    found = list(corpora.read("enron", root, broken))
    text = clean_text("subject 3", "letter 3 of number 21 on matter 39 and place 93")
    assert found[3] == Document("enron", "enron/4", "enron/3", "spam", text)
    assert found[8].missing == ("subject",)
    assert len(found) == 9


def test_broken_rows_are_named(root: Path) -> None:
    """A row that cannot be used is named with the reason and the others are read."""
    broken: list[str] = []
    for name in corpora.NAMES:
        list(corpora.read(name, root, broken))
    assert [one for one in broken if one.startswith("enron")] == [
        "enron/8: neither subject nor message",
        "enron/9: its label is 'perhaps'",
        "enron/11: enron_split.csv does not know it",
    ]
    assert "spamassassin/readme: it stands neither in ham/ nor in spam/" in broken
    assert "modern_ham_c/stray.eml: MANIFEST.csv does not know it" in broken
    assert "modern_ham_c/gone.eml: MANIFEST.csv lists it, the archive has no such file" in broken


def test_a_row_that_is_broken_in_itself_stops_no_other(root: Path) -> None:
    """No UTF-8, too many columns, too few: each is named, and the rows around them are read."""
    rows = [list(corpora.COLUMNS), *([str(i), "", f"mail {i}", "ham", ""] for i in range(5))]
    lines = table(rows).encode().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"mail 1", b"mail \xff")
    lines[3] = lines[3].rstrip() + b",more\n"
    lines[4] = b"3,only this\n"
    with zipfile.ZipFile(root / corpora.ENRON, "w") as archive:
        archive.writestr(corpora.ENRON_CSV, b"".join(lines))
    (root / corpora.ENRON_SPLIT).unlink()
    broken: list[str] = []
    assert [d.key for d in corpora.read("enron", root, broken)] == ["enron/0", "enron/4"]
    assert broken == [
        "enron/1: it is no UTF-8",
        "enron/2: it has more columns than the table",
        "enron/3: its label is ''",
    ]


def test_a_manifest_with_broken_rows(root: Path) -> None:
    """A short row, and one that is no UTF-8, are named as far as they go; without its columns it is none."""
    manifest = b"file,label,kind,source\na.eml,ham,receipt,shop\nb.eml,ham\n\xff.eml,ham,x,y\nc.eml\n"
    mails = {f"{name}.eml": eml("hello", "text") for name in "abc"}
    pack(root / "modern_ham_a.tar.gz", {"MANIFEST.csv": manifest, **mails})
    broken: list[str] = []
    assert [d.source for d in corpora.read("modern_ham_a", root, broken)] == ["modern/receipt/shop", "modern//"]
    assert broken[0] == "modern_ham_a/c.eml: its label is ''" and len(broken) == 2
    pack(root / "modern_ham_a.tar.gz", {"MANIFEST.csv": b"name,label\n", **mails})
    with pytest.raises(MailtaggerError, match="without its columns"):
        list(corpora.read("modern_ham_a", root))


def test_enron_without_its_split(root: Path) -> None:
    """Where only the published file is there, the mailbox is told by the order, and groups and parts are made anew."""
    rows = [["Message ID", "Subject", "Message", "Spam/Ham", "Date"]]
    texts = {}
    for i, label in enumerate(("ham", "ham", "spam") * 6):
        texts[i] = f"{label} {' '.join(f'{word}{i // 2}' for word in SENTENCE.split())}"
        rows.append([str(i), "", texts[i], label, "2001-05-04"])
    with zipfile.ZipFile(root / corpora.ENRON, "w") as archive:
        archive.writestr(corpora.ENRON_CSV, table(rows))
    (root / corpora.ENRON_SPLIT).unlink()
    assert corpora.enron_split(root) == {}
    found = list(corpora.read("enron", root))
    assert [d.source for d in found] == [f"enron/{i // 3 + 1}" for i in range(18)]
    split = splits.own_split(found)
    assert {one.mailbox for one in split.values()} == set("123456")
    assert {one.random for one in split.values()} == {"train", "valid"}
    assert [split[f"enron/{i}"].near_group for i in (0, 1, 2, 3)] == ["enron/0"] * 2 + ["enron/2"] * 2
    assert all(len({split[f"enron/{i}"].dedup, split[f"enron/{i + 1}"].dedup}) == 1 for i in range(0, 18, 2))
    assert len(splits.assign(found, split)) == 18


def test_enron_counts(root: Path) -> None:
    """What the published file holds is counted before anything is left out; a file of other columns is refused."""
    assert corpora.enron_counts(root) == (
        "Enron-Spam: 12 rows in the file (33,716 as published), ham 7, spam 4; Subject missing 2, Message missing 0."
    )
    with zipfile.ZipFile(root / corpora.ENRON, "w") as archive:
        archive.writestr(corpora.ENRON_CSV, table([["Subject", "Message"], ["a", "b"]]))
    with pytest.raises(MailtaggerError, match="no column Date, Message ID, Spam/Ham"):
        corpora.enron_counts(root)


def test_raw_mail(root: Path) -> None:
    """Mail in archives has the label and source that its folder or manifest says, and the text that live mail has."""
    found = [d for name in ("spamassassin", "phishing", "modern_ham_c") for d in corpora.read(name, root)]
    assert [(d.source, d.label, d.key) for d in found] == [
        ("spamassassin/easy/ilug.linux.ie", "ham", "spamassassin/ham/easy/1"),
        ("spamassassin/hard/news.example", "ham", "spamassassin/ham/hard/2"),
        ("spamassassin/spam", "spam", "spamassassin/spam/3"),
        ("phishing/2023", "spam", "phishing/phishing/2023/a.eml"),
        ("modern/receipt/spree", "ham", "modern_ham_c/receipt/spree/1.eml"),
    ]
    assert "lunch" in found[0].text and "noon" in found[0].text
    assert [d.family for d in found] == ["spamassassin"] * 3 + ["phishing", "modern"]


def test_absent_corpus_says_how_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing directory, file or corpus is one sentence with the way out, and so is an archive cut short."""
    monkeypatch.delenv("MAILTAGGER_CORPORA", raising=False)
    with pytest.raises(MailtaggerError, match="MAILTAGGER_CORPORA is not set"):
        corpora.home()
    with pytest.raises(MailtaggerError, match="There is no corpus 'trec'"):
        corpora.read("trec", root)
    archive = root / "spamassassin.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(MailtaggerError, match=r"cannot be read to its end.*Remove it\."):
        list(corpora.read("spamassassin", root))
    archive.unlink()
    with pytest.raises(MailtaggerError, match=r"is not there.*spamassassin\.apache\.org"):
        list(corpora.read("spamassassin", root))


def near(changes: int) -> str:
    """The sentence, with so many of its words changed at the end."""
    words = SENTENCE.split()
    return " ".join(words[: len(words) - changes] + [f"word{i}" for i in range(changes)])


def test_near_duplicates() -> None:
    """Texts that share most of their runs of words are connected, others are not."""
    texts = [near(0), near(2), " ".join(reversed(SENTENCE.split())), near(0), "short", "short", "brief"]
    found = duplicates.components(len(texts), duplicates.pairs(duplicates.signatures(texts)))
    assert found == [0, 0, 2, 0, 4, 4, 6]


def test_signature_estimates_the_common_share() -> None:
    """Rows of hashes agree in about the share of runs in common: 40 of 60 + 20 runs here, so a half."""
    words = [f"w{i}" for i in range(80 + duplicates.RUN - 1)]
    one, other = " ".join(words[:62 + 1]), " ".join(words[20:])
    row, another = duplicates.signatures([one, other])
    assert (row == another).mean() == pytest.approx(40 / 80, abs=0.13)


def documents() -> tuple[list[Document], dict[str, corpora.EnronSplit]]:
    """Two Enron rows, a SpamAssassin mail like the first, one like both, and eighty that are like nothing."""
    first, second = " ".join(f"a{i}" for i in range(40)), " ".join(f"b{i}" for i in range(40))
    enron = {
        "enron/0": corpora.EnronSplit("1", "n0", "train", "test"),
        "enron/1": corpora.EnronSplit("2", "n1", "valid", "train"),
    }
    found = [
        Document("enron", "enron/1", "enron/0", "ham", first),
        Document("enron", "enron/2", "enron/1", "spam", second),
        Document("spamassassin", "spamassassin/spam", "spamassassin/like", "spam", f"{first} more"),
        Document("modern_ham_a", "modern/list/x", "modern_ham_a/blank", "ham", " "),
    ]
    for i in range(80):
        text = " ".join(f"c{i}x{j % 20}" for j in range(30))
        found.append(Document("phishing", "phishing/2023", f"phishing/{i}", "spam", text))
    return found, enron


def test_parts_follow_groups() -> None:
    """A near-duplicate of an Enron row goes where that row is; the rest is split 80/10/10."""
    rows = splits.assign(*documents())
    assert [row.part for row in rows[:3]] == ["test", "train", "test"]
    assert rows[0].group == rows[2].group != rows[1].group
    parts = [row.part for row in rows[4:]]
    assert 50 <= parts.count("train") <= 75
    assert parts.count("valid") and parts.count("test")


def test_a_bridge_between_parts_is_left_out() -> None:
    """What is like training rows and test rows both stands in no part."""
    found, enron = documents()
    half = [f"a{i}" for i in range(40)] + ["and"] + [f"b{i}" for i in range(40)]
    found = [
        *found[:2],
        Document("spamassassin", "spamassassin/spam", "spamassassin/1", "spam", " ".join(half[:70])),
        Document("spamassassin", "spamassassin/spam", "spamassassin/2", "spam", " ".join(half[11:])),
    ]
    rows = splits.assign(found, enron)
    assert [row.part for row in rows] == ["test", "train", "out", "out"]
    assert not {"spamassassin/1", "spamassassin/2"} & {row.document.key for row in splits.split("default", rows).train}


@pytest.mark.parametrize("protocol", ["random", "dedup", "lomo:1", "foreign:phishing", "foreign:enron", "default"])
def test_no_protocol_tests_on_what_it_trains_on(protocol: str) -> None:
    """Train, valid and test share no row; where near-duplicates must not cross, no group; blank texts are in none."""
    one = splits.split(protocol, splits.assign(*documents()))
    keys = [{row.document.key for row in part} for part in (one.train, one.valid, one.test)]
    assert sum(map(len, keys)) == len(set().union(*keys))
    assert "modern_ham_a/blank" not in set().union(*keys)
    if protocol not in ("random", "lomo:1"):
        assert not {row.group for row in (*one.train, *one.valid)} & {row.group for row in one.test}


def test_foreign_leaves_a_family_out() -> None:
    """Under foreign:phishing no phishing is trained on, and all of it is tested on."""
    one = splits.split("foreign:phishing", splits.assign(*documents()))
    assert {row.document.family for row in one.test} == {"phishing"} and len(one.test) == 80
    assert "phishing" not in {row.document.family for row in (*one.train, *one.valid)}


def test_unknown_protocol() -> None:
    """An unknown protocol is refused with the known ones."""
    for name in ("foreign:trec", "lomo:7", "dedup:1", "bogus"):
        with pytest.raises(MailtaggerError, match="foreign:enron"):
            splits.split(name, [])


def test_the_cache_gives_back_what_was_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """prepare writes rows that load reads unchanged, says what it could not use, and refuses other cleaning rules."""
    broken: list[str] = []
    raw = [one for name in corpora.NAMES for one in corpora.raws(name, root, broken)]
    rows = splits.assign(prepare.gather(raw, 1), corpora.enron_split(root))
    prepare.write(rows, root / "out")
    assert prepare.load(root / "out") == rows
    text = prepare.overview(rows, broken)
    assert "| spamassassin/hard | 1 | 0 | 0 | 0 | 0 | 0 |" in text
    assert "- neither subject nor message (1): enron/8" in text
    monkeypatch.setattr(prepare, "RULES_HASH", "f" * 64)
    with pytest.raises(MailtaggerError, match="other rules"):
        prepare.load(root / "out")
    with pytest.raises(MailtaggerError, match="no prepared corpus"):
        prepare.load(root / "nowhere")
