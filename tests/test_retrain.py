"""`mailtagger retrain`: a user's lessons become a model, or the old one stays, whatever happens on the way."""

import json
import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from mailtagger import artifact, cli, config, daemon, replay
from mailtagger import retrain as retraining
from mailtagger.clean import RULES_HASH, clean_text
from mailtagger.decide import log_odds_of
from mailtagger.errors import StateError
from mailtagger.journal import FILE, Journal
from mailtagger.lessons import Lesson, Lessons
from mailtagger.personal import Personal
from mailtagger.score import open_scorer
from tests import newsletters
from tests.tiny_model import SPAM_TEXT, texts, tiny_model

ROOT = Path(__file__).parent.parent
WEEKLY = (
    "Luxury replica watches, rolex and omega, from ${0}49. The watches of week {0}: rolex from ${0}99, luxury omega "
    "watches from ${0}49"
)
OFFERS = [clean_text("", WEEKLY.format(week)) for week in range(1, 7)]


def lesson(text: str | None, label: str = "ham", sender: str = "news@shop.example") -> Lesson:
    """The user's word on a message with this text."""
    ident = sha256((text or "gone").encode()).hexdigest()
    return Lesson("home", ident, f"<{ident[:8]}@x>", label, "moved", sender, "INBOX", 4.0,  # type: ignore[arg-type]
                  np.array([1, 2, 3], np.uint32), text)


class User:
    """A state directory with lessons, and the command line on it."""

    def __init__(self, directory: Path) -> None:
        self.state, self.config = directory / "state", directory / "config.yaml"
        account = {"name": "home", "host": "localhost", "username": "x"}
        self.config.write_text(json.dumps({"state_dir": str(self.state), "accounts": [account]}))

    def teach(self, *lessons: Lesson) -> None:
        with Journal(self.state / FILE) as journal:
            for one in lessons:
                Lessons(journal).learn(one)

    def lessons(self) -> list[Lesson]:
        with Journal(self.state / FILE) as journal:
            return Lessons(journal).all()

    def past(self) -> list[tuple[str, bool]]:
        with Journal(self.state / FILE) as journal:
            return [(past.candidate, past.promoted) for past in Lessons(journal).retrainings()]

    @property
    def model(self) -> str:
        return artifact.load(artifact.find(self.state)).id

    @property
    def models(self) -> list[str]:
        return sorted(file.name for file in (self.state / "models").iterdir())

    def score(self, text: str) -> float:
        return open_scorer(artifact.load(artifact.find(self.state))).score(text).p


@pytest.fixture
def user(tmp_path: Path) -> User:
    """One whose model is the tiny one, which takes his offers for spam."""
    user = User(tmp_path)
    artifact.install(tiny_model(tmp_path), user.state, open_scorer)
    assert user.score(OFFERS[5]) >= artifact.load(artifact.find(user.state)).meta.cutoffs.spam
    return user


@pytest.fixture
def mailtagger(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The command, called as from a shell: (status, output, errors)."""

    def call(user: User, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mailtagger", "--config", str(user.config), *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (ended.value.code if isinstance(ended.value.code, int) else 0, *capfd.readouterr())

    yield call


Mailtagger = Callable[..., tuple[int, str, str]]


def test_without_lessons_there_is_nothing_to_do(user: User, mailtagger: Mailtagger) -> None:
    """It says so, and ends with 0, whether or not there is a journal, and also where all texts are gone."""
    for _ in range(2):
        status, out, _err = mailtagger(user, "retrain")
        assert (status, "no corrections" in out) == (0, True)
        user.teach(lesson(None))
    assert user.models == ["current", "tiny-20261124"]


def test_a_dry_run_tells_and_changes_nothing(user: User, mailtagger: Mailtagger) -> None:
    """Lessons by label and source, how many are new and held out; no model, no line, no lock."""
    user.teach(*map(lesson, OFFERS[:5]), lesson("buy pills", "spam", "x@y"))
    status, out, _err = mailtagger(user, "retrain", "--dry-run", "--json")
    *rows, last = map(json.loads, out.splitlines())
    assert status == 0
    assert [tuple(row.values()) for row in rows] == [("ham", "moved", 5), ("spam", "moved", 1)]
    summary = last["summary"]
    assert (summary["news"], summary["learned"], summary["held_out"]) == (5, 5, 1)
    assert (user.past(), user.models) == ([], ["current", "tiny-20261124"])


def test_without_torch_it_says_how_to_get_it(user: User) -> None:
    """One sentence and the way out on standard error, status 1, and the model stays."""
    user.teach(*map(lesson, OFFERS[:5]))
    code = "import sys; sys.modules['torch'] = None; from mailtagger.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", user.config, "retrain"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "pip install 'mailtagger[train]'" in done.stderr and done.stderr.count("\n") == 1
    assert user.models == ["current", "tiny-20261124"]


def test_a_named_model_is_not_retrained(user: User, mailtagger: Mailtagger) -> None:
    """`model:` in the configuration would go on being used, so nothing is trained in vain; status 78."""
    user.teach(*map(lesson, OFFERS[:5]))
    settings = json.loads(user.config.read_text())
    user.config.write_text(json.dumps(settings | {"model": str(artifact.find(user.state).resolve())}))
    status, _out, err = mailtagger(user, "retrain")
    assert (status, "`model:`" in err) == (78, True)


def test_lessons_start_from_the_word_of_the_model_that_serves(user: User) -> None:
    """Another model's word replaces the one before, once, and the layer is learned anew; without its text a lesson
    keeps what it has."""
    user.teach(*map(lesson, OFFERS[:2]), lesson(None))
    with Journal(user.state / FILE) as journal:
        lessons = Lessons(journal)
        before = lessons.personal("home")
        assert lessons.rebase("other", lambda text: -3.0) == 2
        assert [(one.base_of, one.base) for one in lessons.all()] == [("other", -3.0)] * 2 + [("", 4.0)]
        after = lessons.personal("home")
        assert after.state() == Personal(one.example for one in lessons.all()).state() != before.state()
        assert lessons.rebase("other", lambda text: 0.0) == 0


@pytest.mark.train
class TestTraining:
    """With torch, and a tiny model in the place of the packaged one."""

    @pytest.fixture(autouse=True)
    def small(self, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
        """A sample of the tiny model's own base, and a rate that suits its size."""
        pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")
        made(user.state.parent / "sample")
        fit_for_the_tiny_one(user.state.parent / "sample", monkeypatch.setattr)

    @pytest.mark.slow
    def test_five_corrections_and_the_sixth_is_no_spam(self, user: User, mailtagger: Mailtagger) -> None:
        """The candidate is promoted with its figures, each lesson learned bears its name, and there is nothing more to
        do; a running daemon has it within a refresh; `models rollback` goes back, and forward again."""
        running = daemon.Model(config.load(user.config))
        user.teach(*map(lesson, OFFERS[:5]))
        status, out, _err = mailtagger(user, "retrain", "--json")
        *sets, last = map(json.loads, out.splitlines())
        made = last["summary"]["candidate"]
        assert (status, last["summary"]["promoted"], user.model, user.past()) == (0, True, made, [(made, True)])
        assert {one["asked"]: one["mails"] for one in sets} == {"base": 180, "held_out": 1, "learned": 4}
        assert user.score(OFFERS[5]) < artifact.load(artifact.find(user.state)).meta.cutoffs.spam
        assert user.score(clean_text("", SPAM_TEXT)) >= artifact.load(artifact.find(user.state)).meta.cutoffs.spam
        assert [one.learned_by for one in user.lessons()] == [made] * 4 + [None]
        for one in user.lessons():  # or the personal layer would add to the new model what it added to the old
            assert (one.base_of, one.base) == (made, pytest.approx(log_odds_of(user.score(one.text or ""))))
        assert "come or gone" in mailtagger(user, "retrain", "--if-changed")[1]
        running.refresh(config.load(user.config))
        assert running.scorer.model == made
        assert "tiny-20261124 is in use again" in mailtagger(user, "models", "rollback")[1]
        assert user.model == "tiny-20261124"
        assert mailtagger(user, "models", "rollback")[0] == 0
        assert user.model == made

    @pytest.mark.slow
    def test_the_next_one_starts_from_the_base_again(self, user: User, mailtagger: Mailtagger) -> None:
        """A model of lessons is no parent: what was forgotten is in no later one, and small losses do not add up."""
        user.teach(*map(lesson, OFFERS[:5]))
        mailtagger(user, "retrain")
        user.teach(lesson(clean_text("Prize", "You have won a cash prize, claim it now"), sender="prize@shop.example"))
        status, _out, _err = mailtagger(user, "retrain", "--if-changed")
        assert (status, len(user.past())) == (0, 2)
        name = user.past()[-1][0]
        assert name.endswith("-2")
        assert artifact.load(user.state / "models" / name).meta.parent == "tiny-20261124"

    @pytest.mark.slow
    def test_a_refused_candidate_is_kept_and_does_not_serve(
        self, user: User, mailtagger: Mailtagger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The old model stays, the line says why, the directory is there to look into; of many only some stay."""
        user.teach(*map(lesson, OFFERS[:5]))
        refused = retraining.gate.Judgement(False, "good mail called spam would rise")
        monkeypatch.setattr(retraining.gate, "decide", lambda *_args, **_sets: refused)
        monkeypatch.setattr(retraining, "KEPT", 1)
        for _ in range(2):
            status, out, _err = mailtagger(user, "retrain")
            assert (status, "stays the current model: good mail called spam would rise" in out) == (0, True)
        assert user.model == "tiny-20261124"
        assert [promoted for _, promoted in user.past()] == [False, False]
        assert user.models == ["current", "tiny-20261124", user.past()[1][0]]
        open_scorer(artifact.load(user.state / "models" / user.past()[1][0]))
        assert all(one.learned_by is None for one in user.lessons())

    def test_wrong_lessons_are_refused(self, user: User, mailtagger: Mailtagger) -> None:
        """Somebody teaches fifty spams as ham: the base's hold-out says no, and the old one stays."""
        spam = [text for text, label in zip(*texts(seed=3, count=160), strict=True) if label == 1][:50]
        user.teach(*(lesson(text, "ham", f"{n}@x") for n, text in enumerate(spam)))
        status, out, _err = mailtagger(user, "retrain")
        assert (status, user.past()[0][1], user.model) == (0, False, "tiny-20261124"), out

    @pytest.mark.slow
    @pytest.mark.parametrize("at", ["0.1", "0.5", "0.74", "0.9", "install", "link"])
    def test_killed_on_the_way_the_old_one_serves(self, user: User, mailtagger: Mailtagger, at: str) -> None:
        """SIGKILL while it trains, judges, copies, or between the two links: the old model is whole and serves, and the
        next run clears away and works."""
        user.teach(*map(lesson, OFFERS[:5]))
        killed = subprocess.run([sys.executable, "-c", KILLED, str(user.config), at], cwd=ROOT, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert user.model == "tiny-20261124"
        open_scorer(artifact.load(artifact.find(user.state)))
        assert (user.past(), [one.learned_by for one in user.lessons()]) == ([], [None] * 5)
        status, out, _err = mailtagger(user, "retrain")
        assert (status, user.past()[0][1]) == (0, True), out
        assert [name for name in user.models if name.startswith(".")] == []

    @pytest.mark.slow
    def test_terminated_it_ends_at_once(self, user: User) -> None:
        """SIGTERM: within 5 s, nothing left of the candidate, no line, the old model current."""
        user.teach(*map(lesson, OFFERS[:5]))
        command = [sys.executable, "-m", "mailtagger", "--config", str(user.config), "retrain"]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
            until = time.monotonic() + 60
            while not (user.state / retraining.LOCK).exists() and time.monotonic() < until:
                time.sleep(0.05)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 130
        assert time.monotonic() - began < 5
        assert (user.past(), user.models) == ([], ["current", "tiny-20261124"])

    def test_terminated_where_python_is_not_asked(self, user: User) -> None:
        """In a step that lets no other thread of Python run, such as loading torch on a busy machine: SIGTERM ends it
        all the same, within 5 s."""
        user.teach(*map(lesson, OFFERS[:5]))
        held = "retrain.retrain = lambda *given: (print('held', flush=True), sum(range(10**10)))"
        script = f"from mailtagger import cli, retrain; {held}; cli.main()"
        command = [sys.executable, "-c", script, "--config", str(user.config), "retrain"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"held\n"
            time.sleep(0.5)  # until it is in the step
            began = time.monotonic()
            process.terminate()
            assert process.wait(20) == -signal.SIGKILL
        assert time.monotonic() - began < 5

    def test_a_full_disk_is_a_sentence(self, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
        """The copy that cannot be written is cleared away, and the old model serves."""
        user.teach(*map(lesson, OFFERS[:5]))

        def full(file: Path, content: bytes) -> None:
            if file.parent.name.startswith(".user-"):
                raise OSError(28, "No space left on device", str(file))
            write(file, content)

        write = artifact._write
        monkeypatch.setattr(artifact, "_write", full)
        with Journal(user.state / FILE) as journal:
            lessons = Lessons(journal)
            plan = retraining.plan(user.state, None, lessons)
            with pytest.raises(StateError, match="disk is full"):
                retraining.retrain(user.state, plan, lessons)
        assert (user.model, user.past()) == ("tiny-20261124", [])

    def test_one_at_a_time(self, user: User) -> None:
        """A second retraining is told the process of the first, and does nothing."""
        user.teach(*map(lesson, OFFERS[:5]))
        with (
            retraining.RunLock(user.state, file=retraining.LOCK),
            Journal(user.state / FILE) as journal,
            pytest.raises(StateError, match=f"retrain .process {os.getpid()}"),
        ):
            lessons = Lessons(journal)
            retraining.retrain(user.state, retraining.plan(user.state, None, lessons), lessons)
        assert user.past() == []

    def test_no_mail_is_left_beside_the_journal(self, user: User, mailtagger: Mailtagger) -> None:
        """The text of a lesson stands in no file of the model that learned it."""
        user.teach(*(lesson(text + " zanzibarquux") for text in OFFERS[:5]))
        mailtagger(user, "retrain")
        for file in (user.state / "models").rglob("*"):
            assert not file.is_file() or b"zanzibarquux" not in file.read_bytes()


def made(file: Path) -> None:
    """A sample in the form of the one that ships, of what the tiny model has learned."""
    lines = [json.dumps({"cleaning": RULES_HASH})]
    for held_out, seed, count in (False, 7, 300), (True, 8, 216):
        for text, label in zip(*texts(seed, count), strict=True):
            if label in (0, 1):
                kind = {"label": "spam" if label else "ham", "kind": "tiny", "held_out": held_out}
                lines.append(json.dumps({"text": text, **kind}))
    file.write_bytes(lzma.compress("\n".join(lines).encode()))


def fit_for_the_tiny_one(sample: Path, put: Callable[[object, str, object], None]) -> None:
    """Its own sample, a higher rate and more steps."""
    from mailtagger.ulmfit import finetune

    put(replay, "FILE", sample)
    put(finetune, "RATE", 5e-3)
    put(finetune, "STEPS", 150)


KILLED = """
import os, signal, sys
from pathlib import Path
from mailtagger import artifact, config, retrain
from mailtagger.journal import FILE, Journal
from mailtagger.lessons import Lessons
from tests.test_retrain import fit_for_the_tiny_one

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

state, at = config.load(Path(sys.argv[1])).state_dir, sys.argv[2]
fit_for_the_tiny_one(state.parent / "sample", setattr)
tell = lambda share: None
if at == "install":
    install = artifact.install
    def half(*given):
        artifact._sync = die
        install(*given)
    artifact.install = half
elif at == "link":
    link = artifact._link
    artifact._link = lambda path, name: die() if path.name == artifact.CURRENT else link(path, name)
else:
    tell = lambda share: share >= float(at) and die()
with Journal(state / FILE) as journal:
    lessons = Lessons(journal)
    retrain.retrain(state, retrain.plan(state, None, lessons), lessons, tell)
"""


@pytest.mark.train
@pytest.mark.slow
def test_the_packaged_model_and_a_user_with_newsletters(tmp_path: Path, mailtagger: Mailtagger) -> None:
    """A user's sale newsletters are all judged spam, he corrects five: after `retrain`, with no personal layer at all,
    none of the next five is spam; the spam of the demonstration is what it was; the base lost nothing beyond chance."""
    pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")
    user, texts = User(tmp_path), newsletters.texts()
    before = open_scorer(artifact.load(artifact.find(None)))
    assert all(before.score(text).p >= before.cutoffs.spam for text in texts)
    user.teach(*map(lesson, texts[:5]))
    running = daemon.Model(config.load(user.config))
    status, out, _err = mailtagger(user, "retrain", "--json")
    *sets, last = map(json.loads, out.splitlines())
    assert (status, last["summary"]["promoted"]) == (0, True), out
    running.refresh(config.load(user.config))
    assert running.scorer.model == last["summary"]["candidate"] == user.model
    assert all(running.scorer.score(text).p < running.scorer.cutoffs.spam for text in texts[5:])
    pills = clean_text("", SPAM_TEXT)
    assert before.score(pills).p >= before.cutoffs.spam and running.scorer.score(pills).p >= running.scorer.cutoffs.spam
    base = sets[0]
    assert base["good_called_spam"] == [0, 0]
    assert base["wrong_at_half"][1] <= base["wrong_at_half"][0] + 5
    assert "the packaged one" in mailtagger(user, "models", "rollback")[1]
    assert user.model == before.model
