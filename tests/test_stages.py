"""Every stage of training, whole, in seconds, on made-up mail; and what they say when they cannot begin."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")

from mailtagger import artifact  # noqa: E402
from mailtagger.errors import MailtaggerError  # noqa: E402
from mailtagger.score import open_scorer  # noqa: E402
from training import ablate, classifier, consistency, lm, prepare, smoke  # noqa: E402
from training.everyday import everyday  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A smoke goes elsewhere and says where corpora are: undone behind each test."""
    before, corpora = Path.cwd(), os.environ.get("MAILTAGGER_CORPORA")
    monkeypatch.setenv("MAILTAGGER_CORPORA", corpora or "")
    yield
    os.chdir(before)


def test_the_language_model_forward_and_backward(capsys: pytest.CaptureFixture[str]) -> None:
    """Both stages in both directions, a table of each epoch; --resume keeps what is complete."""
    lm.main(["--smoke"])
    assert {f.name for f in Path("build/lm").iterdir()} >= {
        "tokenizer.model",
        "general.safetensors",
        "mail.safetensors",
        "general.csv",
        "mail.csv",
        "log.txt",
        "stages.json",
    }
    said = capsys.readouterr().out
    assert said.count("epoch | train loss | valid loss | accuracy | perplexity | tokens | minutes") == 2
    stamp = Path("build/lm/mail.safetensors").stat().st_mtime_ns
    lm.main("--resume --backward --size tiny --epochs 1".split())
    assert Path("build/lm/mail-backward.safetensors").exists()
    assert Path("build/lm/mail.safetensors").stat().st_mtime_ns == stamp
    assert set(json.loads(Path("build/lm/stages.json").read_text())["complete"]) == {
        "tokenizer",
        "general",
        "mail",
        "general-backward",
        "mail-backward",
    }


def test_two_directions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither forgets what the other has completed meanwhile; a direction begun anew forgets its own stages alone."""
    lm.main("--smoke --general-minutes 0".split())
    backward, forward = "--backward --size tiny --epochs 1 --general-minutes 0", "--resume --size tiny --epochs 1"
    train_forward = lm.fit_language_model

    def beside(*given: object, **more: object) -> float:
        monkeypatch.setattr(lm, "fit_language_model", train_forward)
        lm.main(f"{backward} --resume".split())
        return train_forward(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(lm, "fit_language_model", beside)
    lm.main(forward.split())
    complete = {"tokenizer", "mail", "general", "mail-backward"}
    assert set(json.loads(Path("build/lm/stages.json").read_text())["complete"]) == complete
    stamps = {file: file.stat().st_mtime_ns for file in Path("build/lm").glob("*.safetensors")}
    lm.main(backward.split())
    assert set(json.loads(Path("build/lm/stages.json").read_text())["complete"]) == complete
    again = {file.stem for file, before in stamps.items() if file.stat().st_mtime_ns != before}
    assert again == {"mail-backward"}
    lm.main("--resume --size compact --epochs 1 --general-minutes 0".split())  # what is complete says the size


def test_a_classifier_becomes_an_artifact(tmp_path: Path) -> None:
    """That loads, scores, and says how it came about; the snapshot of its run is gone."""
    classifier.main(["dedup", "--smoke", "--out", str(tmp_path / "trial"), "--unfreezing", "chain-thaw"])
    found = artifact.load(tmp_path / "trial")
    assert found.meta.metrics["training"]["protocol"] == "dedup"
    assert 0 <= open_scorer(found).score("claim your free prize").p <= 1
    assert {f.name for f in tmp_path.iterdir()} == {"trial", "trial.csv"}


def test_rows_as_they_are_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --as-labelled nothing is added to the training rows, and the artifact says so."""
    classifier.main(["dedup", "--smoke", "--out", str(tmp_path / "trial"), "--as-labelled"])
    told = artifact.load(tmp_path / "trial").meta.metrics["training"]
    assert told["as_labelled"]
    assert f"{told['rows']} training rows, {told['rows']} examples" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["classifier dedup", "finetune", "lm"])
def test_ablations(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a row in the table; a second time, nothing is trained again."""
    ablate.main([*kind.split(), "--smoke"])
    first = capsys.readouterr().out.rpartition("\n\n|")[2]
    wanted = [answer for answers in ablate.QUESTIONS.values() for answer in answers] + ["mean of both", "NB"]
    for answer in wanted if kind.startswith("classifier") else ["NT-ASGD"] if kind == "lm" else ["one cycle, one rate"]:
        assert answer in first
    ablate.main([*kind.split(), "--seeds", "1", "--mails", "64", "--tokens", "2000"])
    second = capsys.readouterr().out
    assert second.rpartition("\n\n|")[2] == first
    assert "left" not in second and "epoch" not in second.partition("| --- |")[0].partition("==")[0]


@pytest.mark.parametrize("setting", ["--rate -1", "--minutes 0"])
def test_a_bad_setting_is_refused_before_anything_is_read(setting: str, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Even the corpora are not there yet."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MailtaggerError, match="Nothing can be trained with"):
        classifier.main(["dedup", *setting.split()])


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")


@pytest.mark.parametrize(
    ("stage", "arguments", "said"),
    [
        (lm, "--threads 0", "0 is no whole number from 1 on"),
        (lm, "--general-characters -5", "-5 is no whole number from 1 on"),
        (lm, "--discriminative 0", "0 is not above 0"),
        (lm, "--dropout 5", "5 is not from 0 to below 5"),
        (lm, "--tokenizer klingon", "'klingon'"),
        (lm, "--device banana", "there is no banana here"),
        pytest.param(lm, "--device cuda", "there is no cuda here", marks=NO_CUDA),
        pytest.param(classifier, "dedup --device cuda:0", "there is no cuda:0 here", marks=NO_CUDA),
        (classifier, "dedup --seed -1", "-1 is no whole number from 0 on"),
        (classifier, "dedup --discriminative nan", "nan is not above 0"),
        (ablate, "lm --seeds 0", "0 is no whole number from 1 on"),
        (ablate, "classifier --mails -1", "-1 is no whole number from 1 on"),
        (prepare, "--jobs 0", "0 is no whole number from 1 on"),
    ],
)
def test_an_argument_that_nothing_can_be_done_with(
    stage: ModuleType, arguments: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    """Is refused by its name with a sentence, like every wrong use; nothing is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refused:
        stage.main(arguments.split())
    assert refused.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", [ablate, consistency], ids=["ablate", "consistency"])
def test_a_study_without_a_language_model(
    stage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Says which stage makes one."""
    monkeypatch.chdir(tmp_path)
    prepare.write(smoke.rows(), prepare.OUT)
    with pytest.raises(MailtaggerError, match=r"training\.lm"):
        stage.main([] if stage is consistency else ["lm"])


def test_a_trial_leaves_real_models_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out it stays in its own directory."""
    monkeypatch.chdir(tmp_path)
    classifier.main(["dedup", "--smoke"])
    assert Path.cwd() != tmp_path and Path("build/models/dedup").is_dir()
    assert not list(tmp_path.iterdir())


def test_text_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is named."""
    monkeypatch.setenv("MAILTAGGER_CORPORA", str(tmp_path))
    with pytest.raises(MailtaggerError, match="mail_text"):
        lm.mail(tmp_path)


def test_mail_of_ones_own_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Maildir of good mail and an mbox of spam, and no corpus: prepare, language model, classifier, artifact."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAILTAGGER_CORPORA")
    for kind in ("cur", "new", "tmp"):
        Path("Good", kind).mkdir(parents=True)
    for i, (subject, body) in enumerate(everyday(120, 0)):
        Path(f"Good/cur/{i}:2,S").write_text(f"Message-ID: <{i}@test>\nSubject: {subject}\n\n{body}\n")
    spam = [row.document.text for row in smoke.rows() if row.document.label == "spam"]
    Path("bad.mbox").write_text("".join(f"From x Thu Jan  1 00:00:00 2026\nSubject: {t[:30]}\n\n{t}\n\n" for t in spam))
    prepare.main("--corpora --add ham=Good --add spam=bad.mbox".split())
    lm.main("--general-minutes 0 --size tiny --vocabulary 700 --epochs 1".split())
    classifier.main(["default", "--epochs", "2", "--out", "build/models/mine"])
    assert artifact.load(Path("build/models/mine")).meta.data.startswith("default")


@pytest.mark.parametrize("kind", ["word", "bpe", "char"])
def test_every_tokeniser_serves_every_stage(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Subwords become an artifact; words and characters leave weights, as live mail is read by neither."""
    classifier.main(["dedup", "--smoke", "--tokenizer", kind, "--out", str(tmp_path / "trial")])
    assert (tmp_path / "trial").is_dir() == (kind == "bpe")
    assert (tmp_path / "trial.safetensors").is_file() == (kind != "bpe")
