"""Words, subwords and characters are read and written by one interface."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("spacy", reason="needs the [study] extra: make .venv/train")

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import tokenizer
from mailtagger.ulmfit.tokenizer import END, MARKS, PAD, START, SYMBOLS, UNKNOWN, Tokenizer
from training import compare_tokenizers, readers, smoke, tokenizers
from training.splits import split
from training.tokenizers import KINDS, Kind, Limits

pytestmark = pytest.mark.train

TEXTS = [row.document.text for row in smoke.rows()] + [" ".join(SYMBOLS), "i cannot pay 10am , i don't !"] * 3
SMALL = {"word": Limits(4000, 1), "unigram": Limits(600, 1), "bpe": Limits(600, 1), "char": Limits(200, 1)}
WORDS = sorted({word for text in TEXTS for word in text.split()})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small tokeniser of each kind, saved."""
    directory = tmp_path_factory.mktemp("tokenisers")
    for kind in KINDS:
        tokenizers.build(kind, TEXTS, directory / f"{kind}.model", *SMALL[kind])
    return {kind: directory / f"{kind}.model" for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def pieces(kind: Kind, files: dict[str, Path]) -> Tokenizer:
    """A tokeniser of the kind."""
    return tokenizers.load(files[kind])


def test_controls_and_marks_have_the_same_ids_in_all(pieces: Tokenizer) -> None:
    """What a model learned of a mark, and code that knows END, hold under any tokeniser."""
    assert [pieces.id_to_piece(i) for i in (UNKNOWN, START, END, PAD)] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert [pieces.piece_to_id(mark) for mark in SYMBOLS] == [*range(4, 4 + len(SYMBOLS))]
    assert pieces.piece_to_id("no piece of any") == UNKNOWN


def test_a_mark_is_one_piece_wherever_it_stands(pieces: Tokenizer) -> None:
    """Noise that drops marks, and the head, see each as one id, those that begin alike with them."""
    ids = pieces.encode(" ".join(["xxreplyto", "hello", "xxrep", *MARKS]))
    assert [i for i in ids if 4 <= i < 4 + len(SYMBOLS)] == [
        pieces.piece_to_id(m) for m in ("xxreplyto", "xxrep", *MARKS)
    ]


@given(
    text=st.lists(st.sampled_from(WORDS)).map(" ".join)
    | st.text(alphabet="abdelnotxy 10 ,!?$%'").map(str.split).map(" ".join)
)
def test_what_was_read_is_written_again(files: dict[str, Path], text: str) -> None:
    """decode(encode(t)) == t for text as cleaning leaves it, where nothing is out of vocabulary."""
    for kind in KINDS:
        pieces = tokenizers.load(files[kind])
        ids = pieces.encode(text)
        if UNKNOWN not in ids:
            assert pieces.decode(ids) == text, kind


@given(text=st.text())
def test_any_text_is_read_and_what_is_known_is_kept(files: dict[str, Path], text: str) -> None:
    """Uncleaned text in any script has ids too, none of a control; characters give all spaces back."""
    assume(tokenizers.SPACE not in text)
    for kind in KINDS:
        pieces = tokenizers.load(files[kind])
        ids = pieces.encode(text)
        assert not {START, END, PAD} & set(ids)
        if UNKNOWN not in ids:
            assert pieces.decode(ids) == (text if kind == "char" else " ".join(text.split()))


def test_text_that_spells_a_control_is_text(pieces: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender cannot end a document by writing </s>, however a word is split."""
    assert not {START, END, PAD} & set(pieces.encode("a </s> b</s> <s> <pad> <unk></s>"))
    monkeypatch.setitem(tokenizers.SPLIT, "word", str.split)
    assert tokenizers.Vocabulary("word", ["a"]).encode("a </s> a") == [4 + len(SYMBOLS), UNKNOWN, 4 + len(SYMBOLS)]


def test_many_texts_are_read_as_each_alone(pieces: Tokenizer) -> None:
    """encode and decode of lists are those of their members."""
    ids = pieces.encode(TEXTS[:20])
    assert ids == [pieces.encode(text) for text in TEXTS[:20]]
    assert pieces.decode(ids) == [pieces.decode(row) for row in ids]
    assert max(max(row) for row in ids) < pieces.vocab_size()


def test_a_mail_is_cut_after_about_the_same_text_in_all(kind: Kind, pieces: Tokenizer) -> None:
    """Characters say a quarter each of what subwords do."""
    assert tokenizers.scale(pieces) == (4 if kind == "char" else 1)


def test_a_stream_holds_every_text_closed_by_end(pieces: Tokenizer) -> None:
    """The language model reads by any tokeniser: split at END, the stream is the texts again."""
    stream = tokenizer.stream(pieces, TEXTS)
    assert stream.dtype == np.uint16
    parts = np.split(stream, np.flatnonzero(stream == END) + 1)[:-1]
    assert [part[:-1].tolist() for part in parts] == pieces.encode(TEXTS)


def test_words_are_those_that_spacy_finds_in_the_whole_text() -> None:
    """Asking for each word alone changes nothing: the same tokens, and a space before the same ones."""
    spacy = tokenizers._spacy()
    for text in TEXTS[::10]:
        doc = spacy(text)
        spaced = [i == 0 or bool(doc[i - 1].whitespace_) for i in range(len(doc))]
        expected = [t.text if t.text in SYMBOLS else "▁" * s + t.text for t, s in zip(doc, spaced, strict=True)]
        assert list(tokenizers.words(text)) == expected
    assert [*tokenizers.words("i cannot pay")] == ["▁i", "▁can", "not", "▁pay"]


def test_characters_of_reviews_in_the_layout_of_imdb(tmp_path: Path) -> None:
    """Learned on its train and unsup folders, uncleaned text comes back: capitals, quotes, lines and double spaces."""
    reviews = {
        "train/pos/0_9.txt": "I LOVED it.<br /><br />10/10  - see it now!",
        "train/neg/1_1.txt": 'A "film" of no wit,\n\tand long (3 hours).',
        "train/unsup/2_0.txt": "Some very new film: xxurl",
        "test/neg/3_2.txt": "Loved no film so  long:\nLOVED it, and no wit - 10 hours.",
    }
    for name, text in reviews.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {
        part: [raw.content[1] for raw in readers.read([readers.Added(tmp_path)], []) if raw.part == part]
        for part in ("train", "test")
    }
    assert len(found["train"]) == 3
    pieces = tokenizers.build("char", found["train"], tmp_path / "char.model", least=1)
    assert pieces.decode(pieces.encode(found["test"])) == found["test"]
    assert not tokenizers.unknown(pieces, found["test"]).hits
    assert pieces.encode("xxurl") == [pieces.piece_to_id("xxurl")]
    assert [pieces.id_to_piece(i) for i in pieces.encode("I l")] == ["I", "▁", "l"]


@pytest.mark.parametrize("kind", ["word", "char"])
def test_rare_pieces_are_left_out_and_the_commonest_kept(kind: Kind, tmp_path: Path) -> None:
    """Minimum frequency and cap; what is left out counts as out of vocabulary."""
    texts = ["b c"] * 3 + ["a a a a"] * 2 + ["d"] * 2
    first = 4 + len(SYMBOLS)
    all_four = tokenizers.build(kind, texts, tmp_path / "a.model", least=3)
    assert tokenizers.unknown(all_four, ["d", "a"]).hits == 1
    capped = tokenizers.build(kind, texts, tmp_path / "b.model", most=first + 2, least=1)
    assert capped.vocab_size() == first + 2
    assert str(tokenizers.unknown(capped, ["a", "d", "d", "d"])).startswith("3/4 = 75.00%")


@pytest.mark.parametrize(
    ("kind", "most", "least", "says"),
    [
        ("wordpiece", None, None, "no tokeniser 'wordpiece'"),
        ("word", 70_000, None, "70000"),
        ("char", 10, None, "10 pieces"),
        ("char", None, 0, "0 times"),
        ("bpe", None, 3, "not chosen by how often"),
        ("unigram", 8000, None, "no vocabulary of 8000 pieces in this text"),
        ("bpe", 8000, None, "no vocabulary of 8000 pieces in this text"),
    ],
)
def test_impossible_vocabularies_are_refused(
    tmp_path: Path, kind: Kind, most: int | None, least: int | None, says: str
) -> None:
    """One sentence each, before anything is written."""
    with pytest.raises(MailtaggerError, match=says):
        tokenizers.build(kind, ["some little text"], tmp_path / "t.model", most, least)
    assert not (tmp_path / "t.model").exists()


def test_saved_and_loaded_by_its_hash(kind: Kind, files: dict[str, Path], tmp_path: Path) -> None:
    """The hash of the file loads the same tokeniser, another one nothing."""
    pieces = tokenizers.load(files[kind])
    again = tmp_path / "again.model"
    found = tokenizers.save(pieces, again)
    assert found == hashlib.sha256(again.read_bytes()).hexdigest() == tokenizers.digest(files[kind])
    assert tokenizers.load(again, found).encode(TEXTS) == pieces.encode(TEXTS)
    with pytest.raises(MailtaggerError, match="is another tokeniser than asked for"):
        tokenizers.load(again, "0" * 64)
    again.write_bytes(again.read_bytes() + b" ")
    with pytest.raises(MailtaggerError, match="is another tokeniser than asked for"):
        tokenizers.load(again, found)


def test_damaged_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    """A cut file, one of another version or of other marks, two pieces alike: a sentence, no guess."""
    about = json.loads(files["word"].read_text())
    broken = [
        files["word"].read_bytes()[:-9],
        files["bpe"].read_bytes()[:999],
        b"",
        b"[]",
        *(
            json.dumps(about | change).encode()
            for change in (
                {"format": 2},
                {"kind": "bytes"},
                {"symbols": []},
                {"pieces": ["a", "a"]},
                {"pieces": ["xxurl"]},
                {"pieces": [1]},
                {"pieces": 5},
            )
        ),
    ]
    for content in broken:
        (tmp_path / "t.model").write_bytes(content)
        with pytest.raises(MailtaggerError, match="is no tokeniser, or a damaged one"):
            tokenizers.load(tmp_path / "t.model")
    with pytest.raises(MailtaggerError, match="There is no tokeniser"):
        tokenizers.load(tmp_path / "none.model")


@pytest.mark.slow
def test_the_comparison_runs_on_made_up_mail(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A line in both tables for each tokeniser; what was measured is kept, and not measured again."""
    compare_tokenizers.main(["--smoke"])
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines() if line.startswith("|")]
    reading, lesson = (
        [row for row in rows if row[1] in KINDS and (row[2] == "0") == learned] for learned in (False, True)
    )
    assert [row[1] for row in reading] == [row[1] for row in lesson] == list(KINDS)
    unknown = {row[1]: float(row[6].split("= ")[1].split("%")[0]) for row in reading}
    assert unknown["word"] > 5 > unknown["unigram"] and unknown["char"] == 0
    assert all(int(row[3].replace(",", "")) > 0 and int(row[5].replace(",", "")) > 0 for row in lesson)
    made_up, budget = split("dedup", smoke.rows()), compare_tokenizers.Budget(0.001, 0.001, "tiny")
    first = compare_tokenizers.compare(["char"], made_up, budget, 1, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert compare_tokenizers.compare(["char"], made_up, budget, 1, tmp_path) == first


def test_a_comparison_in_no_time_is_refused() -> None:
    """Before anything is read."""
    with pytest.raises(MailtaggerError, match="in no time"):
        compare_tokenizers.main(["--classifier", "0", "--smoke"])
