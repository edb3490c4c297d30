"""What the Scorer says of a text, and what it costs."""

import contextlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import oracle
import pytest

from mailtagger import artifact
from mailtagger.clean import clean_text
from mailtagger.decide import FAMILIAR
from mailtagger.errors import ModelError
from mailtagger.score import Scorer, open_scorer
from tests.tiny_model import HAM_TEXT, SPAM_TEXT, tiny_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def scorer(model: Path) -> Scorer:
    return open_scorer(artifact.load(model))


def test_spam_scores_high_and_ham_low(scorer: Scorer) -> None:
    """The score is P(spam), not P(ham)."""
    assert scorer.score(clean_text("", SPAM_TEXT)).p > 0.9
    assert scorer.score(clean_text("", HAM_TEXT)).p < 0.1


def test_the_model_says_who_it_is_and_where_it_cuts(scorer: Scorer) -> None:
    """`model` is the artifact's id, `cutoffs` its own policy."""
    assert scorer.model == "tiny-20261124"
    assert (scorer.cutoffs.ham, scorer.cutoffs.spam) == (0.2, 0.8)


@pytest.mark.parametrize("text", [SPAM_TEXT, HAM_TEXT, "hello", "the project " * 300])
def test_int8_agrees_with_numpy(scorer: Scorer, model: Path, text: str) -> None:
    """The graph that ships gives the logit that its own weights give in plain numpy, but for the rounding."""
    state = oracle.read_safetensors(model / artifact.WEIGHTS)
    text = clean_text("", text)
    wanted = oracle.logit(state, scorer.ids(text))
    assert scorer.score(text).logit == pytest.approx(wanted, abs=0.05 * max(4, abs(wanted)))


def test_calibration_is_applied(model: Path, tmp_path: Path) -> None:
    """p = σ(a·logit + b) with the a and b of the description."""
    text = clean_text("", "please reply to this message")
    loaded = artifact.load(model)
    meta = loaded.meta.model_copy(update={"calibration": artifact.Calibration(a=0.5, b=-1)})
    score = Scorer(artifact.Artifact(loaded.path, meta)).score(text)
    assert score.p == pytest.approx(1 / (1 + np.exp(-(0.5 * score.logit - 1))))


@pytest.mark.parametrize("logit", [-1e6, -800.0, 0.0, 800.0, 1e6])
def test_extreme_logits_stay_probabilities(scorer: Scorer, logit: float) -> None:
    """No overflow: exp(800) would be one."""
    assert 0 <= scorer.probability(logit) <= 1


def test_a_blank_text_is_the_callers_to_decide(scorer: Scorer) -> None:
    """An empty mail has no score; it is unsure, which is not for the scorer to say."""
    for text in ("", " \n\t"):
        with pytest.raises(ValueError, match="blank"):
            scorer.score(text)


@pytest.mark.parametrize("text", ["\u200b", "\x00", "🎉🎉", "привет мир", "\ud800", "a" * 100_000, "▁▁▁"])
def test_odd_texts_have_a_score(scorer: Scorer, text: str) -> None:
    """Characters the tokeniser drops or does not know, lone surrogates, and one endless word all give a probability."""
    score = scorer.score(text)
    assert 0 <= score.p <= 1
    assert 1 <= score.tokens <= 384


def test_long_mail_is_read_at_both_ends(scorer: Scorer) -> None:
    """The first 256 and the last 128 tokens count, the middle does not."""
    words = clean_text("", "see you on monday " * 400)
    spam = clean_text("", "order your pills now " * 5)
    half = len(words) // 2
    plain = scorer.score(words)
    assert plain.tokens == 384
    assert scorer.score(f"{words[:half]}{spam}{words[half:]}").tokens == 384
    assert np.array_equal(scorer.ids(f"{words} {words}"), scorer.ids(f"{words} {spam} {words}"))
    assert not np.array_equal(scorer.ids(words), scorer.ids(f"{words} {spam}"))
    assert not np.array_equal(scorer.ids(words), scorer.ids(f"{spam} {words}"))


def test_a_score_hangs_on_nothing_but_the_text(scorer: Scorer) -> None:
    """Same text, same score to the last bit: after other texts, and in four threads at once."""
    texts = [clean_text("", t) for t in (SPAM_TEXT, HAM_TEXT, "hello " * 200, "x", "order now, see you on monday")]
    alone = [scorer.score(text) for text in texts]
    assert [scorer.score(text) for text in reversed(texts)] == alone[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(scorer.score, texts * 20)) == alone * 20


def test_a_few_words_are_not_enough(scorer: Scorer) -> None:
    """The same words are familiar where there are enough of them, and too little to judge by where there are few."""
    words = clean_text("", HAM_TEXT)
    long = " ".join([words] * 5)
    assert scorer.score(long).familiar > FAMILIAR > scorer.score(" ".join(words.split()[:3])).familiar


def test_familiar_tells_known_words_from_strange_ones(scorer: Scorer) -> None:
    """Its own sentences are familiar, random letters less so, another script not at all."""
    own = scorer.score(" ".join([clean_text("", HAM_TEXT)] * 5)).familiar
    noise = scorer.score("xqzjv kkwpf zzgh qqxw vbnm").familiar
    assert own > 0.7 > 0.3 > noise
    assert scorer.score("привет как дела").familiar == scorer.score("12345").familiar == 0
    assert own <= 1


def test_wrong_golden_scores_are_refused(model: Path, tmp_path: Path) -> None:
    """A model that does not give its recorded scores on this machine never scores mail."""
    meta = json.loads((model / "meta.json").read_text())
    meta["golden"][0]["p"] = 0.5
    broken = tiny_model(tmp_path)
    (broken / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ModelError, match=r"golden texts score .* instead of 0\.500"):
        open_scorer(artifact.load(broken))


def test_a_graph_that_does_not_run_is_refused(model: Path) -> None:
    """onnxruntime's own exceptions become a ModelError."""

    class Broken(artifact.Artifact):
        def read(self, name: str) -> bytes:
            return b"\x3a\x00" if name == artifact.GRAPH else super().read(name)

    loaded = artifact.load(model)
    with pytest.raises(ModelError, match="onnxruntime cannot run its graph"):
        open_scorer(Broken(loaded.path, loaded.meta))


COST = """
import sys, time
from pathlib import Path
from mailtagger import artifact
from mailtagger.parse import parse
from mailtagger.clean import clean
from mailtagger.score import open_scorer
scorer = open_scorer(artifact.load(Path(sys.argv[1])))
scorer.score(clean(parse(b"Subject: hello\\r\\n\\r\\n" + b"see you on monday\\r\\n" * 500)))
seconds = time.process_time()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
heavy = {"torch", "fastai", "onnx", "sklearn", "scipy", "pandas", "safetensors", "spacy"} & set(sys.modules)
print(seconds, int(status["VmHWM"].split()[0]) / 1024, sorted(heavy))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_scoring_starts_fast_stays_small_and_imports_no_training_package(model: Path) -> None:
    """From a new interpreter to the first score: under 1 s of CPU and 150 MB, packaged model or tiny one."""
    with contextlib.suppress(ModelError):  # a source tree that has no model yet
        model = artifact.find(None)
    runs = [
        subprocess.run(
            [sys.executable, "-c", COST, str(model)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
        ).stdout.split(maxsplit=2)
        for _ in range(3)
    ]  # fmt: skip
    assert runs[0][2].strip() == "[]"
    assert min(float(seconds) for seconds, _, _ in runs) < 1
    assert max(float(megabytes) for _, megabytes, _ in runs) < 150
