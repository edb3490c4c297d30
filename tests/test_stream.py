"""The replay in order of time: the truth is told after the score and by the protocol, and the figures can be checked
by hand."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the [train] extra")

from mailtagger.count import Count
from mailtagger.errors import MailtaggerError
from tests.test_personal import campaign, letter
from tests.tiny_model import tiny_model
from training import make_stream, stream
from training.corpora import Raw
from training.learners import LEARNERS, Bogofilter, Seen
from training.stream import DELAY, Post, figures, read, replay, roca_interval

POSTS = [Post(b"%d" % i, i % 3 == 0) for i in range(1_200)]


class Recorder:
    """A learner that says spam of every other mail, and writes down what happens to it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, bool]] = []

    def see(self, raw: bytes, base: float) -> Seen:
        return Seen(int(raw), base)

    def log_odds(self, seen: Seen) -> float:
        self.events.append(("score", seen.features, False))
        return 1.0 if seen.features % 2 else -1.0

    def learn(self, seen: Seen, spam: bool) -> None:
        self.events.append(("learn", seen.features, spam))


def told(protocol: str) -> list[tuple[int, bool]]:
    """The lessons of a protocol; that each mail is scored in its turn, before its own truth, is checked on the way."""
    recorder = Recorder()
    replay(POSTS, np.zeros(len(POSTS)), recorder, protocol)
    assert [mail for kind, mail, _ in recorder.events if kind == "score"] == list(range(len(POSTS)))
    at = {event[:2]: place for place, event in enumerate(recorder.events)}
    assert all(at["score", mail] < place for (kind, mail), place in at.items() if kind == "learn")
    return [(mail, spam) for kind, mail, spam in recorder.events if kind == "learn"]


def written(directory: Path, rows: Sequence[str], head: str = "file,label") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "a.eml").write_bytes(letter(1))
    (directory / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    return directory


def test_the_truth_is_told_by_the_protocol() -> None:
    """All, errors only, a tenth, 500 mails late, and one in a hundred wrong."""
    truth = [(i, post.spam) for i, post in enumerate(POSTS)]
    assert told("all") == truth
    assert told("errors") == [(i, spam) for i, spam in truth if spam != bool(i % 2)]
    tenth = told("tenth")
    assert set(tenth) < set(truth) and 90 < len(tenth) < 150
    assert told("delayed") == truth[:-DELAY]
    wrong = told("wrong")
    assert [i for i, _ in wrong] == [i for i, _ in truth]
    assert 4 < sum(a != b for a, b in zip(wrong, truth, strict=True)) < 25


def test_what_cannot_start_from_nothing_is_told_one_of_each() -> None:
    """bogofilter scores nothing before it knows a mail of each class: it is told the first, always."""
    recorder = Recorder()
    replay(POSTS[:3], np.zeros(3), recorder, "tenth", one_of_each=True)
    assert [(mail, spam) for kind, mail, spam in recorder.events if kind == "learn"] == [(0, True), (1, False)]


def test_figures_count_by_hand() -> None:
    """Errors at 0.5, good mail called spam at 0.5 and at the cutoff, missed spam; in the first 200 and in all."""
    spam = np.array([False, True] * 150)
    scores = np.where(spam, 3.0, -3.0)
    scores[0], scores[2], scores[250] = 1.0, 4.0, 5.0  # good mail
    scores[1] = -1.0  # spam
    first, every = figures("all", "m", scores, 3.8, spam)
    assert (first.window, every.window) == ("first 200", "all")
    assert first.errors == Count(3, 200) and every.errors == Count(4, 300)
    assert every.ham_called_spam == Count(3, 150) and every.ham_over_cutoff == Count(2, 150)
    assert every.spam_missed == Count(1, 150)


def test_roca_is_the_share_of_pairs_in_the_wrong_order() -> None:
    """Of 2 × 3 pairs of spam and good mail one is the wrong way and one a tie: 1.5 in 6; the interval holds it."""
    value, low, high = roca_interval(np.array([1.0, 2.0, 3.0, 2.0, 4.0]), np.array([False, False, False, True, True]))
    assert value == pytest.approx(25)
    assert low is not None and high is not None and low <= 25 <= high
    assert roca_interval(np.zeros(3), np.array([True, True, True])) == (None, None, None)


@pytest.mark.parametrize(
    ("rows", "head", "said"),
    [
        (["a.eml,ham", "gone.eml,spam"], "file,label", "labels.csv, line 3: gone.eml"),
        (["a.eml,maybe"], "file,label", "labels.csv, line 2: the label is 'maybe'"),
        (["a.eml"], "file,label", "labels.csv, line 2: the label is ''"),
        ([",ham"], "file,label", "labels.csv, line 2: no file"),
        (["a.eml,ham"], "path,class", "labels.csv, line 1"),
        ([".,ham"], "file,label", "labels.csv, line 2: . cannot be read"),
        ([], "file,label", "labels.csv lists no mail"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, rows: list[str], head: str, said: str) -> None:
    """What cannot be used is named with its file and line."""
    with pytest.raises(MailtaggerError) as caught:
        read(written(tmp_path, rows, head))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_no_labels_and_no_text(tmp_path: Path) -> None:
    """A directory without labels.csv, or with one that is no text, is told so."""
    with pytest.raises(MailtaggerError, match=r"labels\.csv is not there"):
        read(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe,ham\n")
    with pytest.raises(MailtaggerError, match="cannot be read"):
        read(tmp_path)


def test_the_command_learns_what_the_model_cannot_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From end to end on a tiny model: the layer leaves fewer errors than the model alone, the second run takes the
    model's word from the cache and says the same."""
    monkeypatch.chdir(tmp_path)
    mails = tmp_path / "mails"
    mails.mkdir()
    rows = ["file,label"]
    for i in range(240):
        prize = b"You have won a free prize! Click here to claim your bonus now.\n"  # spam to the tiny model, surely
        (mails / f"{i}.eml").write_bytes(letter(i) if i % 3 == 0 else campaign(i) + prize)
        rows.append(f"{i}.eml,{'spam' if i % 3 == 0 else 'ham'}")  # a user of unusual taste
    (mails / "labels.csv").write_text("\n".join(rows) + "\n")
    model = tiny_model(tmp_path / "model")
    options = [str(mails), "--model", str(model), "--no-bogofilter", "--json", "o.json", "--protocol", "all", "errors"]
    stream.main(options)
    first = capsys.readouterr().out
    found = {(f["protocol"], f["method"], f["window"]): f for f in json.loads(Path("o.json").read_text())["figures"]}
    alone = found["all", "model alone", "all"]["errors"]["hits"]
    for protocol in ("all", "errors"):
        assert found[protocol, "personal", "all"]["errors"]["hits"] < alone / 4
    assert found["all", "personal", "first 200"]["errors"]["of"] == 200
    monkeypatch.setattr(stream, "open_scorer", None)
    stream.main(options)
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_every_learner_learns(name: str, tmp_path: Path) -> None:
    """Each of the learners that are compared tells two easy kinds of mail apart after eighty of them."""
    if name == "pooled":
        pytest.importorskip("torch", reason="needs the [train] extra")
    posts = [Post((campaign if i % 2 else letter)(i), bool(i % 2)) for i in range(120)]
    if name == "pooled":
        from mailtagger import artifact

        scores = replay(posts, np.zeros(len(posts)), LEARNERS[name](artifact.find(None)), "all")
    else:
        scores = replay(posts, np.zeros(len(posts)), LEARNERS[name](tmp_path), "all")
    assert np.mean([(z > 0) == post.spam for z, post in zip(scores[80:], posts[80:], strict=True)]) > 0.85


@pytest.mark.skipif(not shutil.which("bogofilter"), reason="apt-get install bogofilter")
def test_bogofilter_is_taught_the_same() -> None:
    """bogofilter scores and learns mail by mail, and its word lists are gone afterwards."""
    posts = [Post((campaign if i % 2 else letter)(i), bool(i % 2)) for i in range(60)]
    with Bogofilter() as learner:
        home = Path(learner._home.name)
        scores = replay(posts, np.zeros(len(posts)), learner, "all")
        assert any(home.iterdir())
    assert not home.exists()
    assert all((z > 0) == post.spam for z, post in zip(scores[30:], posts[30:], strict=True))


def test_a_stream_is_in_order_of_arrival(tmp_path: Path) -> None:
    """The last server's date counts, not the sender's claim; mail without a date is left out, and so are the lines that
    collectors put on it."""
    late = (
        b"Received: from a by b; Tue, 02 Jan 2024 10:00:00 +0000\nReceived: from x by a; Mon, 1 Jan 2018 1:00 +0000\n"
        b"X-Spam-Status: Yes,\n\ttests=MANY\nDate: Sat, 1 Jan 2000 00:00:00 +0000\nSubject: late\n\nbody\n"
    )
    early = b"Date: Mon, 1 Jan 2024 12:00:00 +0100\r\nSubject: early\r\n\r\nX-Spam-Level: words of the body\r\n"
    never = b"Subject: never\n\nDate: Mon, 1 Jan 2024 12:00\n"
    mails = [
        Raw("c", "c/s", "1", "spam", late), Raw("c", "c/s", "2", "ham", early), Raw("c", "c/s", "3", "ham", never),
    ]
    assert make_stream.write(mails, tmp_path) == 2
    first, second = read(tmp_path)
    assert b"early" in first.raw and not first.spam and first.raw == early
    assert b"late" in second.raw and second.spam and b"X-Spam" not in second.raw and b"tests" not in second.raw
