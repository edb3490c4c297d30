"""explain.py, occlude.py, trace.py, explained.py: why a message gets its score, in words that are true."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mailtagger import artifact, explained
from mailtagger.clean import clean
from mailtagger.config import Account
from mailtagger.decide import Policy, added, log_odds_of
from mailtagger.dovecot import Dovecot
from mailtagger.explain import Asked, Message, explain, in_file, nearest
from mailtagger.journal import Journal
from mailtagger.judge import lesson_of, opinion
from mailtagger.lessons import Lesson, Lessons
from mailtagger.occlude import SCORINGS, in_words, occlude
from mailtagger.parse import identify, parse
from mailtagger.score import Scorer, open_scorer
from tests.flow import account as settings
from tests.newsletters import newsletter
from tests.test_cli import Mailtagger, account, configured, mailtagger, nothing_configured  # noqa: F401

DEMO = Path(__file__).parent.parent / "mailtagger" / "demo_mail"
SPAM = sorted(DEMO.glob("spam-*.eml"))
KEYS = [
    "path", "account", "folder", "uid", "message_id", "subject", "sender", "score", "verdict", "decided_by", "why",
    "cutoffs", "model", "model_created", "model_parent", "model_log_odds", "words", "rest", "personal_log_odds",
    "personal_words", "personal_rest", "sum", "checked", "lessons_learned", "lessons", "notes", "journal",
]
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="session")
def packaged() -> artifact.Artifact:
    return artifact.load(artifact.find(None))


@pytest.fixture(scope="session")
def scorer(packaged: artifact.Artifact) -> Scorer:
    """The packaged model."""
    return open_scorer(packaged)


@pytest.fixture
def asked(packaged: artifact.Artifact, scorer: Scorer, journal: Journal) -> Iterator[Asked]:
    """An account with an empty journal."""
    yield Asked(packaged, scorer, Policy(scorer.cutoffs.ham, scorer.cutoffs.spam), settings(), journal)


def text_of(path: Path) -> str:
    return clean(parse(path.read_bytes()))


def log_odds(scorer: Scorer, text: str) -> float:
    return log_odds_of(scorer.score(text).p)


def added_up(record: dict[str, Any]) -> float:
    """Everything that the record lists, by hand."""
    listed = [one["log_odds"] for one in [*record["words"], *record["personal_words"]]]
    return sum(listed) + float(record["rest"]) + float(record["personal_rest"])


def mail_of(week: int, name: str = "Alice") -> bytes:
    """A sale newsletter of a shop, as a message."""
    subject, body = newsletter(week, name)
    head = (
        f"From: Vita Health <news@vitahealth.example>\r\nTo: alice@example.org\r\nMessage-ID: <{week}@vita.example>\r\n"
        f"List-Id: Offers <offers.vitahealth.example>\r\nSubject: {subject}\r\n"
    )
    return f"{head}\r\n{body}".encode()


def lesson(asked: Asked, raw: bytes, label: Any = "ham", folder: str = "INBOX") -> Lesson:
    mail = parse(raw)
    seen = opinion(raw, mail, asked.scorer, asked.policy)
    return lesson_of(raw, mail, identify(raw), seen, "home", label, "moved", folder, None)


def taught(asked: Asked, *lessons: Lesson) -> None:
    assert asked.journal
    for one in lessons:
        assert Lessons(asked.journal).learn(one)


# --- the model's side


@pytest.mark.parametrize("path", SPAM, ids=lambda path: path.stem)
def test_the_words_that_push_to_spam_really_do(scorer: Scorer, path: Path) -> None:
    """Spam without the words that are named as pushing it there scores lower, and lower than without as many others."""
    text = text_of(path)
    parts = occlude(scorer, text)
    assert max(part.log_odds for part in parts) > 0  # what pushes hardest may be a link to the sender's own domain

    def without(tokens: list[str]) -> float:
        return log_odds(scorer, re.sub(rf"(?<!\S)(?:{'|'.join(map(re.escape, tokens))})(?!\S)", "", text))

    pushing = [part.token for part in sorted(parts, key=lambda part: -part.log_odds)]
    named, others = without(pushing[:5]), without(pushing[-5:])
    assert named < log_odds(scorer, text) - 0.5
    assert named < others


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.eml")), ids=lambda path: path.stem)
def test_a_words_part_is_what_its_absence_changes(scorer: Scorer, path: Path) -> None:
    """Each of the first words has exactly the part that scoring the text without it gives; all words are weighed."""
    text = text_of(path)
    if not text:
        return
    parts = occlude(scorer, text)
    assert sum(part.times * len(part.token.split()) for part in parts) == len(text.split())
    for part in parts[:6]:
        if " " not in part.token and not re.search(rf"(?<!\S){re.escape(part.token)} xxrep", text):
            rest = " ".join(word for word in text.split() if word != part.token)
            assert log_odds(scorer, text) - log_odds(scorer, rest) == pytest.approx(part.log_odds, abs=1e-9)


def test_a_single_word_has_a_part(scorer: Scorer) -> None:
    """A text of one word can be left without any."""
    (part,) = occlude(scorer, "viagra")
    assert part.token == "viagra" and part.log_odds > 0


def test_long_mail_takes_no_more_scorings(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of mail with many words those that matter are found within the bound: the one passage that sells pills."""
    ham = " ".join(dict.fromkeys(re.findall(r"[a-z]+", " ".join(text_of(path) for path in DEMO.glob("ham-*.eml")))))
    words = ham.split()
    pills = "cheap viagra cialis pharmacy"
    text = " ".join([*words[:60], pills, *words[60:]])
    scored: list[int] = []
    read = Scorer.read
    monkeypatch.setattr(Scorer, "read", lambda self, ids: scored.append(len(ids)) or read(self, ids))
    parts = occlude(scorer, text)
    assert len(set(text.split())) > SCORINGS
    assert len(scored) <= SCORINGS + 1
    assert {"viagra", "cialis"} <= {part.token for part in parts[:8]}


def test_what_was_not_weighed_is_told(asked: Asked) -> None:
    """Of long mail it is said that not all of it was read, and that not all that was read was weighed."""
    words = " ".join(f"{a}{b}" for a in ("tree", "house", "river", "stone") for b in map(chr, range(97, 123)))
    short = explain(Message(b"Subject: x\n\nsome words\n"), asked)
    long = explain(Message(f"Subject: x\n\n{words} {words[::-1]} {words.replace('e', 'o')}\n".encode()), asked)
    assert short["notes"] == ["too few words that the model knows"] and long["checked"] is True
    assert any(re.match(r"long mail: \d+ of its 313 words were read", note) for note in long["notes"])
    many = f"Subject: x\n\n{' '.join(dict.fromkeys(' '.join(map(text_of, DEMO.glob('ham-*.eml'))).split()))}\n"
    assert any(note.startswith("many words") for note in explain(Message(many.encode()), asked)["notes"])


def test_words_stand_beside_their_tokens(scorer: Scorer) -> None:
    """Each token that is read has its word, also behind the cut and for scripts that the model does not know."""
    for text in ("hello xxurl shop ! xxrep xxn3 xxattach pdf 中文字 ünïc", " ".join(f"wort{n}" for n in range(900))):
        names, found = text.split(), scorer.words(text)
        assert len(found) == len(scorer.ids(text))
        assert all(names[at] == word for at, word in found)
        cut = {found[at][1] for at in (255, 256) if at < len(found)}
        for word in {word for _, word in found} - cut:
            assert np.array_equal(scorer.ids(text)[[one == word for _, one in found]], scorer.ids(word))
    assert {found[0], found[-1]} == {(0, "wort0"), (899, "wort899")}


@pytest.mark.parametrize(
    ("token", "said"),
    [("xxurl", "a link"), ("xxn3", "a number of 3 digits"), ("xxn8", "a number of 8 digits or more"),
     ("! xxrep", "several ! in a row"), ("xxattach pdf", "an attached .pdf file"), ("free", "free")],
)
def test_tokens_are_said_in_words(token: str, said: str) -> None:
    """What cleaning puts in the place of links, numbers and the like is named as what it was."""
    assert in_words(token) == said


def test_disguises_are_told(asked: Asked) -> None:
    """Words that were hidden from filters are mentioned, in words."""
    raw = "Subject: offer\nContent-Type: text/plain; charset=utf-8\n\nBuy vi\u200bag\u200bra and v\u0456agra now\n"
    notes = explain(Message(raw.encode()), asked)["notes"]
    assert "disguise: invisible characters inside words" in notes
    assert "disguise: words that mix letters of several scripts" in notes


# --- the user's side


def test_five_lessons_name_the_sender(asked: Asked) -> None:
    """After five newsletters were brought back, the sixth is ham by its lessons: the sender and its words say why."""
    before = explain(Message(mail_of(7), path="x"), asked)
    assert before["personal_words"] == [] and before["lessons"] == []
    taught(asked, *(lesson(asked, mail_of(week)) for week in range(5)))
    record = explain(Message(mail_of(7), path="x"), asked)
    assert record["personal_log_odds"] < -1 and record["score"] < before["score"]
    assert record["model_log_odds"] == before["model_log_odds"]
    first = {share["place"]: share["text"] for share in reversed(record["personal_words"][:12])}
    assert "news@vitahealth.example" in f"{first.get('From')} {first.get('List-Id')}"
    words = [share["text"] for share in record["personal_words"] if share["place"] == "text" and share["log_odds"] < 0]
    assert {"customer", "newsletter", "shipping", "week"} & set(words)
    assert len(record["lessons"]) == 3
    assert {one["label"] for one in record["lessons"]} == {"ham"}
    assert record["lessons"][0]["sender"] == "news@vitahealth.example"
    assert record["checked"] is True
    assert log_odds_of(added(0.5, added_up(record))) == pytest.approx(log_odds_of(record["score"]), abs=1e-6)


def test_lessons_that_turn_the_verdict_are_named(asked: Asked) -> None:
    """Where the lessons change the verdict the sentence says so, and what the model alone would give."""
    alone = explain(Message(mail_of(7), path="x"), asked)
    assert (alone["verdict"], alone["decided_by"], alone["why"]) == ("spam", "model", "The model decided.")
    taught(asked, *(lesson(asked, mail_of(week)) for week in range(1, 6)))
    record = explain(Message(mail_of(7), path="x"), asked)
    assert (record["verdict"] != "spam", record["decided_by"]) == (True, "personal")
    assert f"the model alone would give {alone['score']:.4f}, spam" in record["why"]
    told = explained.lines(record)
    together = next(line for line in told if line.startswith("Together"))
    numbers = [float(number) for number in re.findall(r"[-+]\d+\.\d+", together)]
    assert numbers[0] + numbers[1] == pytest.approx(numbers[2], abs=0.011)


def test_an_encoded_subject_is_read(asked: Asked) -> None:
    """Header fields in RFC 2047's code are shown as a mail program shows them."""
    raw = mail_of(1).replace(b"Subject: Last", b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= Last")
    taught(asked, lesson(asked, raw))
    shares = explain(Message(raw, path="x"), asked)["personal_words"]
    assert not any("=?" in share["text"] for share in shares)
    assert any(share["text"].startswith("Grüße") for share in shares if share["place"] == "Subject")


def test_the_message_itself_is_no_neighbour(asked: Asked) -> None:
    """The lesson on this very message is the user's word, not a message like it."""
    mine, other = lesson(asked, mail_of(1)), lesson(asked, mail_of(2))
    found = nearest(mine.terms, [mine, other], mine.ident)
    assert [one.ident for one, _ in found] == [other.ident]
    ((_, alike),) = nearest(mine.terms, [mine])
    assert alike == pytest.approx(1)


def test_the_users_word_is_final(asked: Asked) -> None:
    """What the user has said of this very message decides, is on record, and the score is shown beside it."""
    taught(asked, lesson(asked, SPAM[0].read_bytes()))
    record = explain(Message(SPAM[0].read_bytes(), path="x"), asked)
    assert (record["verdict"], record["decided_by"]) == ("ham", "user")
    assert "You have said so of this very message" in record["why"]
    assert record["journal"]["word"] == "ham" and record["journal"]["said"]["by"] == "moved"
    assert any("your word: ham, you moved it in INBOX" in line for line in explained.lines(record))


# --- as a command


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.eml")), ids=lambda path: path.stem)
def test_the_sum_is_the_score(mailtagger: Mailtagger, path: Path) -> None:  # noqa: F811
    """One object with the keys of the contract; what it lists adds up to the score that `score` gives."""
    done = mailtagger("explain", path, "--json")
    assert (done.status, done.err) == (0, "")
    (record,) = done.records
    assert list(record) == KEYS
    assert record["checked"] is True and record["journal"] is None and record["account"] is None
    (scored,) = mailtagger("score", path, "--json").records
    for key in ("path", "message_id", "verdict", "decided_by", "model"):
        assert record[key] == scored[key]
    assert record["score"] == scored["score"]
    if scored["score"] is not None:
        odds = math.log(scored["score"]) - math.log1p(-scored["score"])
        assert added_up(record) == pytest.approx(odds, abs=1e-6) == record["sum"]


def test_a_person_reads_it(mailtagger: Mailtagger) -> None:  # noqa: F811
    """Score, verdict and words each way, in plain lines; no raw token among them."""
    done = mailtagger("explain", DEMO / "spam-phishing.eml")
    assert done.status == 0
    assert "no link leads to the sender's own domain" in done.out
    assert "towards spam:" in done.out and "towards ham:" in done.out and "the text as a whole" in done.out
    assert not re.search(r"\bxx[a-z]", done.out)


def test_hostile_headers_are_harmless(mailtagger: Mailtagger, asked: Asked, tmp_path: Path) -> None:  # noqa: F811
    """Escape sequences and direction marks in any part of a message do not reach the terminal."""
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\u200f\x9b31m"
    raw = (
        f"From: {evil} <a{evil}@example.org>\nSubject: =?utf-8?q?=1B[31m_red?= {evil}\nList-Id: {evil}\n"
        f"X-{evil}: y\nMessage-ID: <{evil}@x>\n\n{evil} free money {evil}\n"
    ).encode()
    path = tmp_path / "evil.eml"
    path.write_bytes(raw)
    for done in (mailtagger("explain", path), mailtagger("explain", path, "--json")):
        assert done.status == 0
        assert not UNSAFE.search(done.out)
    taught(asked, lesson(asked, raw, folder=evil))
    told = explained.lines(explain(Message(raw, path=str(path)), asked))
    assert any("your word" in line for line in told)
    assert not UNSAFE.search("".join(told)) and not any("\n" in line for line in told)


def test_one_message_of_a_mailbox_file(mailtagger: Mailtagger, tmp_path: Path) -> None:  # noqa: F811
    """An mbox needs the number that `score` prints; one message is explained."""
    path = tmp_path / "box.mbox"
    path.write_bytes(b"".join(
        b"From a@b Thu Jan  1 00:00:00 2026\n" + mail_of(week).replace(b"\r\n", b"\n") + b"\n" for week in range(3)
    ))
    done = mailtagger("explain", path)
    assert done.status == 1 and "more than one message" in done.err and done.out == ""
    assert parse(in_file(f"{path}#3").raw).message_id == "2@vita.example"
    assert mailtagger("explain", f"{path}#7").status == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["no-such-file.eml"], 1), ([], 2), (["a.eml", "--folder", "INBOX", "--uid", "1"], 2), (["--uid", "3"], 2),
     (["--folder", "INBOX"], 2), (["--folder", "INBOX", "--uid", "0"], 2), (["--folder", "INBOX", "--uid", "1"], 78)],
)
def test_what_cannot_be_explained(mailtagger: Mailtagger, arguments: list[str], status: int) -> None:  # noqa: F811
    """A missing file is one sentence and 1, wrong usage 2, a folder without a configuration 78."""
    done = mailtagger("explain", *arguments)
    assert (done.status, done.out) == (status, "")
    assert "Traceback" not in done.err and done.err


def test_a_message_on_the_server_stays_as_it_is(
    mailtagger: Mailtagger, tmp_path: Path, dovecot: Dovecot, packaged: artifact.Artifact  # noqa: F811
) -> None:
    """Looked at and not touched: flags, UIDs and modification sequence are the same; what was done to it is told."""
    config = configured(tmp_path, packaged.path, account(dovecot))
    spam = next(path for path in SPAM if "pharmacy" in path.name)
    dovecot.deliver("alice", spam.read_bytes())
    dovecot.deliver("alice", (DEMO / "ham-work.eml").read_bytes())
    assert mailtagger("--config", config, "scan", "--folder", "INBOX", "--apply").status == 0

    def state() -> object:
        with dovecot.client("alice") as client:
            client.select_folder("INBOX", readonly=True)
            uids = client.search()
            data = client.fetch(uids, ["FLAGS", "MODSEQ"])
            flags = {uid: (set(map(bytes, data[uid][b"FLAGS"])) - {b"\\Recent"}, data[uid][b"MODSEQ"]) for uid in uids}
            return flags, client.folder_status("INBOX", ["HIGHESTMODSEQ", "UNSEEN", "UIDNEXT"])

    before = state()
    done = mailtagger("--config", config, "explain", "--folder", "inbox", "--uid", "1", "--json")
    assert (done.status, done.err) == (0, "")
    (record,) = done.records
    assert (record["account"], record["folder"], record["uid"], record["path"]) == ("home", "INBOX", 1, None)
    assert record["verdict"] == "spam" and record["checked"] is True and list(record) == KEYS
    assert record["journal"]["judged"]["verdict"] == "spam"
    assert [act["act"] for act in record["journal"]["acts"]] == ["keyword"]
    told = mailtagger("--config", config, "explain", "--folder", "INBOX", "--uid", "1").out
    assert "judged spam" in told and "marked with" in told
    assert state() == before
    for arguments, sentence in (
        (["INBOX", "99"], "There is no message with UID 99 in INBOX."),
        (["Nowhere", "1"], "There is no folder Nowhere."),
    ):
        folder, uid = arguments
        done = mailtagger("--config", config, "explain", "--folder", folder, "--uid", uid)
        assert (done.status, done.out) == (1, "") and sentence in done.err and len(done.err.splitlines()) == 1


def test_a_file_counts_the_lessons_of_the_only_account(
    mailtagger: Mailtagger, tmp_path: Path, asked: Asked, packaged: artifact.Artifact  # noqa: F811
) -> None:
    """With one account its lessons count; with two the model alone judges, unless one is named; no file is made."""
    path = tmp_path / "news.eml"
    path.write_bytes(mail_of(7))
    taught(asked, *(lesson(asked, mail_of(week)) for week in range(3)))
    home: dict[str, Any] = {"name": "home", "host": "localhost", "username": "alice"}
    one = configured(tmp_path, packaged.path, home)
    assert mailtagger("--config", one, "explain", path, "--json").records[0]["lessons_learned"] == 3
    two = configured(tmp_path, packaged.path, home, home | {"name": "work", "username": "bob"})
    assert mailtagger("--config", two, "explain", path, "--json").records[0]["lessons_learned"] == 0
    named = mailtagger("--config", two, "explain", path, "--account", "home", "--json").records[0]
    assert (named["account"], named["lessons_learned"]) == ("home", 3)
    assert mailtagger("--config", two, "explain", path, "--account", "nobody").status == 2


def test_an_accounts_own_cutoffs_count(asked: Asked) -> None:
    """The cutoffs that are shown are those that decided."""
    raw = (DEMO / "ham-german.eml").read_bytes()
    p = explain(Message(raw, path="x"), asked)["score"]
    strict = replace(asked, policy=Policy(p / 4, p / 2))
    record = explain(Message(raw, path="x"), strict)
    assert (record["verdict"], record["cutoffs"]) == ("spam", {"ham": p / 4, "spam": p / 2})
    assert isinstance(asked.account, Account)
    assert json.loads(json.dumps(record)) == record
