"""readers.py: mail as people and corpora keep it, cleaned as live mail is; what is broken is named and left out."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.clean import clean
from mailtagger.errors import MailtaggerError
from mailtagger.parse import parse
from training import corpora, prepare, readers, splits
from training.corpora import Raw
from training.readers import Added
from training.years import year

POSTMARK = b"From alice@example.org Mon Nov 16 11:20:02 2026\n"


def eml(subject: str, body: str = "at noon", date: str = "Mon, 16 Nov 2015 11:20:02 +0100") -> bytes:
    return f"From: a@example.org\nDate: {date}\nSubject: {subject}\n\n{body}\n".encode()


def tree(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def pack(files: Mapping[str, bytes]) -> bytes:
    """The files as SpamAssassin publishes its own."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:bz2") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("spam/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return packed.getvalue()


def found(*added: Added) -> tuple[list[Raw], list[str]]:
    broken: list[str] = []
    return list(readers.read(added, broken)), broken


def test_maildir_and_mbox(tmp_path: Path) -> None:
    """A Maildir of ham and an mbox of spam: each message once, with the label that was given."""
    tree(tmp_path / "Maildir", {"cur/2:2,S": eml("b"), "new/1": eml("a"), "tmp/half": b"x", "dovecot-uidlist": b"3 V1"})
    (tmp_path / "box").write_bytes(POSTMARK + eml("pills") + b"\n" + POSTMARK + eml("prize"))
    raws, broken = found(Added.parse(f"ham={tmp_path}/Maildir"), Added.parse(f"spam={tmp_path}/box"))
    assert [(raw.label, raw.source, raw.key) for raw in raws] == [
        ("ham", "own/Maildir", "own/Maildir/cur/2:2,S"),
        ("ham", "own/Maildir", "own/Maildir/new/1"),
        ("spam", "own/box", "own/box#1"),
        ("spam", "own/box", "own/box#2"),
    ]
    assert not broken
    text = eml("prize")
    assert raws[3].content == text
    assert corpora.cleaned(raws[3]).text == clean(parse(text))


def test_spamassassin_as_directories_and_as_archives(tmp_path: Path) -> None:
    """The folder next above tells the label, in a tree as in the archives that it comes in; links in them are none."""
    mails = {"easy_ham_2/0001.a": eml("lunch"), "hard_ham/0002.b": eml("news"), "spam/0003.c": POSTMARK + eml("pills")}
    tree(tmp_path / "sa", {**mails, "spam/cmds": b"mv 1 0003.c\n", "readme.html": b"<html>"})
    packed = {f"2002_{name.partition('/')[0]}.tar.bz2": pack({name: content}) for name, content in mails.items()}
    tree(tmp_path / "packed", packed)
    raws, broken = found(Added(tmp_path / "sa"))
    assert [(raw.label, raw.source) for raw in raws] == [
        ("ham", "own/sa/easy_ham_2"),
        ("ham", "own/sa/hard_ham"),
        ("spam", "own/sa/spam"),
    ]
    assert broken == [
        "own/sa/readme.html: no folder above it is called ham or spam",
        "own/sa/spam/cmds: no mail: it does not begin with headers",
    ]
    from_archives, broken = found(Added(tmp_path / "packed"))
    assert [(raw.label, raw.content) for raw in from_archives] == [(raw.label, raw.content) for raw in raws]
    assert not broken


def test_imdb_tree(tmp_path: Path) -> None:
    """Reviews are texts and no mails, whatever they begin with; good is ham and bad is spam; unsup has no label."""
    reviews = {
        "train/pos/0_9.txt": b"Note: a fine film.<br /><br />Twice!",
        "train/neg/1_1.txt": "nié d'un ennui".encode("latin-1"),
        "test/neg/2_1.txt": b"Dull.",
        "train/unsup/3_0.txt": b"Some film.",
        "train/urls_pos.txt": b"http://",
        "train/pos/4_9.txt": b"\0\0",
    }
    raws, broken = found(Added(tree(tmp_path / "imdb", reviews)))
    assert [(raw.label, raw.part, raw.content) for raw in raws] == [
        ("spam", "test", ("", "Dull.")),
        ("spam", "train", ("", "nié d'un ennui")),
        ("ham", "train", ("", "Note: a fine film.\n\nTwice!")),
        (None, "train", ("", "Some film.")),
    ]
    assert broken == [
        "own/imdb/train/pos/4_9.txt: neither mail nor text",
        "own/imdb/train/urls_pos.txt: no folder above it is called ham or spam",
    ]


def test_text_files_that_are_mail_and_enron_files(tmp_path: Path) -> None:
    """A .txt with headers is mail; Enron-Spam's own files have a subject alone, and what follows is the message."""
    tree(tmp_path / "ham", {"1.txt": eml("lunch"), "2.txt": b"Subject: gas prices\r\nre : gas\r\n", "3.txt": b" \n"})
    raws, broken = found(Added(tmp_path / "ham"))
    assert [raw.content for raw in raws] == [eml("lunch"), ("gas prices", "re : gas\n")]
    assert broken == ["own/ham/3.txt: empty"]


def test_links_and_unreadable_files_are_named(tmp_path: Path) -> None:
    """A link out of the tree is not followed, a broken archive gives what it has, a strange name ends nothing."""
    (tmp_path / "secret").write_bytes(eml("secret"))
    whole = pack({f"spam/{i}": eml("prize", os.urandom(4000).hex()) for i in range(30)})
    root = tree(tmp_path / "spam", {"a.eml": eml("pills"), "cut.tar.bz2": whole[: len(whole) // 2], "not.tgz": b"no"})
    (root / "link.eml").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\n.eml")).write_bytes(eml("odd"))
    os.mkfifo(root / "pipe")
    raws, broken = found(Added(root, "spam"))
    keys = [raw.key for raw in raws]
    assert "own/spam/a.eml" in keys and "own/spam/\\udcff\\n.eml" in keys
    assert not any(b"secret" in raw.content for raw in raws if isinstance(raw.content, bytes))
    assert "own/spam/link.eml: a link, which is not followed" in broken
    assert {one.partition(":")[0] for one in broken} == {
        f"own/spam/{n}" for n in ("cut.tar.bz2", "link.eml", "not.tgz")
    }


def test_a_huge_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one message no more is in memory than the parser reads, in an mbox too, and the next one is still found."""
    monkeypatch.setattr(readers, "LIMIT", 1000)
    long = eml("long", "word " * 40_000)
    tree(tmp_path / "ham", {"1.eml": long, "2.mbox": POSTMARK + long + b"\n" + POSTMARK + eml("next")})
    raws, _ = found(Added(tmp_path / "ham"))
    assert [len(raw.content) for raw in raws] == [1000, 1000, len(eml("next"))]


def test_names_that_two_paths_share(tmp_path: Path) -> None:
    """Two folders of one name stay apart: a key is unique."""
    for place in ("a", "b"):
        tree(tmp_path / place / "INBOX", {"1.eml": eml(place)})
    raws, _ = found(*(Added(tmp_path / place / "INBOX", "ham") for place in ("a", "b")))
    assert [raw.key for raw in raws] == ["own/INBOX/1.eml", "own/INBOX-2/1.eml"]


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    """A typing error in the command is told before anything is read."""
    with pytest.raises(MailtaggerError, match=r"no file or directory .*/nowhere.*ham="):
        found(Added.parse(f"ham={tmp_path}/nowhere"))


@pytest.mark.parametrize(
    ("claim", "when"),
    [
        ("Mon, 16 Nov 2015 11:20:02 +0100", 2015),
        ("16 Nov 99 11:20", 1999),
        ("Tue, 19 Jan 2038 03:14:07 GMT", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_years(claim: str, when: int | None) -> None:
    """The year is the sender's claim, where that can be; a table's row has its own column."""
    assert year(Raw("own", "own/x", "own/x", "ham", eml("a", date=claim))) == when
    assert year(Raw("enron", "enron/1", "enron/1", "ham", ("a", "b"), "2001-05-04")) == 2001
    assert year(Raw("own", "own/x", "own/x", "ham", b"Subject: a\n\nDate: Mon, 16 Nov 2015 11:20:02 +0100\n")) is None


def test_prepare_own_mail_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any corpus, one's own mail is prepared to train on: parts, years and what nobody labelled beside it."""
    monkeypatch.delenv("MAILTAGGER_CORPORA", raising=False)
    words = "lunch meeting report invoice garden holiday train letter music dinner".split()
    ham = {f"{a}-{b}.eml": eml(f"{a} and {b}", f"shall we talk of {a} or of {b} ?") for a in words for b in words[:4]}
    films = {f"test/{sort}/{w}.txt": f"{sort} film on {w}".encode() for sort in ("pos", "neg") for w in words}
    tree(tmp_path / "inbox", {**ham, "junk.bin": b"\0\1"})
    tree(tmp_path / "imdb", {**films, "unsup/1.txt": b"some film"})
    out = tmp_path / "out"
    arguments = [f"--add=ham={tmp_path}/inbox", f"--add={tmp_path}/imdb", "--out", str(out), "--jobs", "1"]
    prepare.main(["--corpora", *arguments])
    rows = prepare.load(out)
    assert {row.part for row in rows if row.document.source == "own/inbox"} == {"train", "valid", "test"}
    assert {row.part for row in rows if row.document.source != "own/inbox"} == {"test"}
    assert not splits.split("dedup", rows).train and splits.split("default", rows).train
    assert prepare.load_years(out)["own/inbox/train-lunch.eml"] == 2015
    assert prepare.load_unlabelled(out) == ["some film"]
    said = capsys.readouterr().out
    assert (
        "| own/inbox | 40 | 0 |" in said and "- no mail: it does not begin with headers (1): own/inbox/junk.bin" in said
    )
    assert "year" not in json.dumps([row.document.text for row in rows])
    with pytest.raises(MailtaggerError, match="no labelled mail"):
        prepare.main(["--corpora", f"--add={tmp_path}/imdb/unsup", "--out", str(out), "--jobs", "1"])
