"""ulmfit.finetune: a model that goes on learning, on the tiny one and on the one that ships."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")

from safetensors.numpy import load_file  # noqa: E402

from mailtagger import artifact, replay  # noqa: E402
from mailtagger.clean import clean_text  # noqa: E402
from mailtagger.score import Scorer, open_scorer  # noqa: E402
from mailtagger.ulmfit import finetune as ft  # noqa: E402
from mailtagger.ulmfit import linear  # noqa: E402
from mailtagger.ulmfit.classifier import logits  # noqa: E402
from mailtagger.ulmfit.finetune import Lessons, classifier, finetune, nearest  # noqa: E402
from tests.tiny_model import HAM_TEXT, SPAM_TEXT, texts, tiny_model  # noqa: E402

pytestmark = pytest.mark.train

WEEKLY = (
    "Luxury replica watches, rolex and omega, from ${0}49. The watches of week {0}: rolex from ${0}99, luxury omega "
    "watches from ${0}49"
)
WANTED = [clean_text("", WEEKLY.format(week)) for week in range(1, 7)]
TAUGHT = Lessons(WANTED[:5], [False] * 5, [1.0] * 5)
REHEARSED = texts(seed=7, count=300)[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> artifact.Artifact:
    """The tiny model, which has no linear part."""
    return artifact.load(tiny_model(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def tuned(base: artifact.Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[artifact.Artifact]:
    """The same after five lessons, at a rate that suits its size."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ft, "RATE", 5e-3)
        patched.setattr(ft, "STEPS", 150)
        yield taught(base, tmp_path_factory.mktemp("tuned"))


def taught(base: artifact.Artifact, directory: Path) -> artifact.Artifact:
    """The base after five lessons."""
    out = directory / "user-1"
    return finetune(base, TAUGHT, REHEARSED, out, id="user-1", metrics={"retraining": {}}, data="five")


def test_what_comes_out_is_a_model_of_its_own(base: artifact.Artifact, tuned: artifact.Artifact) -> None:
    """It loads, gives its golden texts, names its parent, and keeps calibration, cutoffs, cut and golden texts."""
    found = artifact.load(tuned.path)
    open_scorer(found)
    assert (found.id, found.meta.parent) == ("user-1", base.id)
    for kept in ("calibration", "cutoffs", "cut", "tokenizer", "vocabulary"):
        assert getattr(found.meta, kept) == getattr(base.meta, kept)
    assert [golden.text for golden in found.meta.golden] == [golden.text for golden in base.meta.golden]
    assert {file.name for file in tuned.path.iterdir()} == {artifact.META, *artifact.NEEDED}


def test_it_understands_the_kind_and_forgets_nothing(base: artifact.Artifact, tuned: artifact.Artifact) -> None:
    """A sixth offer, spam before, is ham after five; other spam still is spam, and other ham ham."""
    before, after = Scorer(base), Scorer(tuned)
    assert before.score(WANTED[5]).p >= base.meta.cutoffs.spam
    assert after.score(WANTED[5]).p < base.meta.cutoffs.ham
    assert after.score(clean_text("", SPAM_TEXT)).p >= base.meta.cutoffs.spam
    assert after.score(clean_text("", HAM_TEXT)).p < base.meta.cutoffs.ham


def test_the_same_lessons_give_the_same_model(
    base: artifact.Artifact, tuned: artifact.Artifact, tmp_path: Path
) -> None:
    """Nothing hangs on the clock or on the generator that others use; who uses it finds it as it was."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = taught(base, tmp_path)
    assert torch.rand(1) == expected
    for name, value in load_file(tuned.path / artifact.WEIGHTS).items():
        np.testing.assert_allclose(load_file(again.path / artifact.WEIGHTS)[name], value, atol=2e-3)


def test_progress_goes_from_0_to_1_and_can_end_the_work(base: artifact.Artifact, tmp_path: Path) -> None:
    """Shares never fall, and what `tell` raises comes out at once, with no artifact left that could be loaded."""
    told: list[float] = []

    def tell(share: float) -> None:
        told.append(share)
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(base, TAUGHT, REHEARSED, tmp_path / "x", id="x", metrics={}, data="", tell=tell)
    assert told == sorted(told) and len(told) > 5
    assert not (tmp_path / "x" / artifact.META).exists()


def test_the_network_is_the_one_of_the_graph(base: artifact.Artifact) -> None:
    """What training starts from gives the logits of the graph that scores, up to int8."""
    scorer = Scorer(base)
    model = classifier(load_file(base.path / artifact.WEIGHTS))
    documents = [scorer.ids(text).tolist() for text in WANTED + REHEARSED[:20]]
    found = logits(model, documents)
    assert np.corrcoef(found, [scorer.score(text).logit for text in WANTED + REHEARSED[:20]])[0, 1] > 0.99


CONFINED = """
import ctypes, sys
from pathlib import Path
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE
    sys.exit(77)
from tests.test_finetune import artifact, taught
print(taught(artifact.load(Path(sys.argv[1])), Path(sys.argv[2])).id)
"""


def test_no_memory_need_be_executable(base: artifact.Artifact, tmp_path: Path) -> None:
    """Training works under MemoryDenyWriteExecute=yes, which mailtagger-retrain.service has."""
    command = [sys.executable, "-c", CONFINED, str(base.path), str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel cannot forbid it: PR_SET_MDWE came with Linux 6.3")
    assert (done.returncode, done.stdout) == (0, "user-1\n"), done.stderr


def test_the_linear_part_changes_as_little_as_it_can() -> None:
    """Where each document has what it should, nothing changes; one lesson turns its own document, and hardly one that
    shares no term with it."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(4, 60, 30).tolist() for _ in range(80)]
    part = linear.fit(documents, [ids[0] > 30 for ids in documents], [1.0] * 80, 60)
    beside = np.zeros(80)
    wanted = 1 / (1 + np.exp(-1.6 * part.logits(documents)))
    same = nearest(part, 1.6, documents, beside, wanted)
    np.testing.assert_allclose(same.weight, part.weight, atol=1e-4)
    turned = wanted.copy()
    turned[0] = wanted[0] < 0.5
    after = 1 / (1 + np.exp(-1.6 * nearest(part, 1.6, documents, beside, turned).logits(documents)))
    assert (after[0] > 0.5) == (turned[0] > 0.5)
    assert np.abs(after[1:] - wanted[1:]).mean() < 0.1


def test_the_sample_that_ships() -> None:
    """Enough good mail and spam to judge by, none of it rehearsed; as much ham as spam to rehearse, and many kinds."""
    sample = replay.load()
    held_out, rehearsed = ({mail.text for mail in part} for part in (sample.held_out, sample.rehearsed))
    assert not held_out & rehearsed
    spam = [mail.spam for mail in sample.held_out]
    assert spam.count(False) >= 600 and spam.count(True) >= 400
    spam = [mail.spam for mail in sample.rehearsed]
    assert abs(spam.count(True) - spam.count(False)) < 0.05 * len(spam)
    assert len({mail.kind for mail in sample.held_out}) > 15
    assert replay.FILE.stat().st_size < 1_500_000
