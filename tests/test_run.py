"""A run that is killed and goes on ends where it would have ended."""

import csv
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")

from mailtagger.errors import MailtaggerError  # noqa: E402
from mailtagger.ulmfit import run, snapshot  # noqa: E402
from mailtagger.ulmfit.classifier import fit_classifier  # noqa: E402
from mailtagger.ulmfit.language_model import fit_language_model  # noqa: E402
from mailtagger.ulmfit.model import Classifier, Dropouts, LanguageModel, Sizes  # noqa: E402
from mailtagger.ulmfit.run import Schedule  # noqa: E402
from training import curves  # noqa: E402

TINY = Sizes(vocabulary=50, embedding=8, hidden=12, layers=2)
pytestmark = pytest.mark.train


class Killed(Exception):
    """What ends a run in the middle."""


def language_model(file: Path, resume: bool = False, dropout: float = 1.0, **more: object) -> LanguageModel:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    stream = rng.integers(2, 50, 6000).astype(np.uint16)
    model = LanguageModel(TINY, Dropouts().scaled(dropout))
    plan = Schedule(**{"minutes": 60, "epochs": 3, "rate": 1e-2, "batch": 8, "bptt": 20, **more})
    fit_language_model(model, stream, stream[:500], plan, file, lambda line: None, resume=resume)
    return model


def classifier(file: Path, resume: bool = False) -> Classifier:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    mails = [rng.integers(4, 50, int(rng.integers(5, 400))).tolist() for _ in range(150)]
    model = Classifier(TINY, Dropouts())

    def noise(ids: list[int], rng: np.random.Generator) -> list[int]:
        return [i for i in ids if rng.random() > 0.1] or ids

    fit_classifier(
        model,
        mails,
        [float(len(m) % 2) for m in mails],
        [1.0 + len(m) % 3 for m in mails],
        Schedule(60, 4, 1e-2, batch=8),
        lambda line: None,
        noise,
        checkpoint=file,
        resume=resume,
    )
    return model


def killed_after(keeps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next run die right after it has written that many snapshots."""
    write, left = snapshot.write, [keeps]

    def dying(*given: object) -> None:
        write(*given)  # type: ignore[arg-type]
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(snapshot, "write", dying)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a.double(), b.double(), atol=1e-6, rtol=0) for a, b in pairs)


@pytest.mark.parametrize("keeps", [1, 4, 6, 9])
@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 1e-2), ("nt-asgd", 20.0)])  # so fast that it triggers
def test_a_language_model_goes_on_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: int, optimizer: str, rate: float
) -> None:
    """Killed in the first epoch, at the border of two, or later: weights to 1e-6 are those of the unbroken run, and
    the curve has the same rows."""
    monkeypatch.setattr(run, "KEPT", 7)
    monkeypatch.setattr(run, "TOLD", 3)
    more = {"optimizer": optimizer, "rate": rate, "checks": 2, "patience": 0}
    whole = language_model(tmp_path / "whole.safetensors", **more)
    assert not same(language_model(tmp_path / "plain.safetensors", **more | {"optimizer": "sgd"}), whole)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(keeps, patched)
        language_model(tmp_path / "broken.safetensors", **more)
    assert not (tmp_path / "broken.safetensors").exists()
    torch.rand(5)  # another process has another generator
    again = language_model(tmp_path / "broken.safetensors", resume=True, **more)
    assert same(again, whole)
    kept = [[row[:-1] for row in csv.reader((tmp_path / f"{name}.csv").open())] for name in ("whole", "broken")]
    assert kept[0] == kept[1] and len(kept[0]) > 10
    assert not list(tmp_path.glob(f"*{snapshot.SUFFIX}"))


@pytest.mark.parametrize("keeps", [1, 5, 12])
def test_a_classifier_goes_on_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: int
) -> None:
    """In whichever stage of unfreezing it was killed."""
    monkeypatch.setattr(run, "KEPT", 3)
    whole = classifier(tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(keeps, patched)
        classifier(tmp_path / "broken")
    assert same(classifier(tmp_path / "broken", resume=True), whole)
    assert not same(classifier(tmp_path / "other"), Classifier(TINY, Dropouts()))


def test_a_run_does_not_go_on_under_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named, and the snapshot stays; more minutes are no other setting."""
    monkeypatch.setattr(run, "KEPT", 7)
    file = tmp_path / "lm.safetensors"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(2, patched)
        language_model(file)
    with pytest.raises(MailtaggerError, match=r"other settings than this one: rate\."):
        language_model(file, resume=True, rate=2e-2)
    with pytest.raises(MailtaggerError, match=r"other settings than this one: dropout\."):
        language_model(file, resume=True, dropout=0.5)
    with monkeypatch.context() as patched, pytest.raises(MailtaggerError, match="another size"):
        patched.setitem(globals(), "TINY", Sizes(vocabulary=50, embedding=8, hidden=16, layers=2))
        language_model(file, resume=True)
    language_model(file, resume=True, minutes=90)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_snapshot_that_is_none(tmp_path: Path, content: bytes) -> None:
    """Broken, foreign, or of another version: one sentence, and the way out."""
    file = tmp_path / f"lm{snapshot.SUFFIX}"
    file.write_bytes(content)
    with pytest.raises(MailtaggerError, match="without --resume"):
        language_model(tmp_path / "lm.safetensors", resume=True)


@pytest.mark.parametrize(
    "setting", [{"minutes": 0}, {"epochs": -1}, {"rate": 0}, {"batch": 0}, {"shape": "round"}, {"optimizer": "magic"}]
)
def test_bad_settings_are_refused_before_the_first_batch(setting: dict[str, object]) -> None:
    """With the setting's name."""
    (name,) = setting
    with pytest.raises(MailtaggerError, match=name):
        Schedule(**{"minutes": 1, "epochs": 1, "rate": 1e-3, **setting})


def test_too_little_text(tmp_path: Path) -> None:
    """Is said, not divided by."""
    plan = Schedule(1, 1, 1e-3)
    stream = np.full(50, 5, np.uint16)
    with pytest.raises(MailtaggerError, match="too little text"):
        fit_language_model(LanguageModel(TINY, Dropouts()), stream, stream, plan, tmp_path / "x", print)


def test_a_run_says_what_it_will_cost_and_how_long_it_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step: weights, memory, minutes; and none of it changes what is learned."""
    monkeypatch.setattr(run, "TOLD", 2)
    lines: list[str] = []
    stream = np.random.default_rng(0).integers(2, 50, 4000).astype(np.uint16)
    torch.manual_seed(0)
    model = LanguageModel(TINY, Dropouts())
    before = torch.get_rng_state()
    plan = Schedule(60, 1, 1e-2, batch=8, bptt=20)
    loop = sys.modules[fit_language_model.__module__]
    monkeypatch.setattr(loop, "step_language_model", lambda m, o, x, y, s, **more: (torch.zeros(()), s))
    fit_language_model(model, stream, stream[:200], plan, tmp_path / "lm.safetensors", lines.append)
    assert lines[0].startswith("2,") and "about" in lines[0] and "4,000 tokens × 1" in lines[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert "min left" in lines[2]


def test_a_curve_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the CSV of a run; another CSV is refused with a sentence."""
    monkeypatch.setattr(run, "TOLD", 3)
    language_model(tmp_path / "lm.safetensors")
    curves.main([str(tmp_path / "lm.csv"), "--out", str(tmp_path / "lm.png")])
    assert (tmp_path / "lm.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MailtaggerError, match="no curve"):
        curves.main([str(tmp_path / "other.csv"), "--out", str(tmp_path / "x.png")])


def test_minutes_can_be_of_the_processors_time() -> None:
    """A process that sleeps spends none of it."""
    plan = Schedule(1, 1, 1e-3, cpu=True)
    before, wall = plan.clock(), time.monotonic()
    time.sleep(0.2)
    assert plan.clock() - before < 0.1 < time.monotonic() - wall


def test_mails_are_cut_to_the_limits_of_their_tokeniser() -> None:
    """As characters are shorter than pieces, more of them make a mail."""
    longest: list[int] = []

    def watching(ids: list[int], rng: np.random.Generator) -> list[int]:
        longest.append(len(ids))
        return ids

    mails = [[5] * 900 for _ in range(64)]  # batches of 64 × 128 pieces hold nine
    fit_classifier(
        Classifier(TINY, Dropouts()),
        mails,
        [0.0, 1.0] * 32,
        [1.0] * 64,
        Schedule(60, 2, 1e-3, batch=64),
        lambda line: None,
        watching,
        limits=(300, 600, 900),
    )
    assert set(longest) <= {300, 600, 900} and len(set(longest)) > 1
