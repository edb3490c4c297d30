"""Our weights in fastai's models and back, and what fastai does to short rows of a batch that ours does not."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("fastai", reason="needs the [train] extra")

import torch
from fastai.text import all as fastai
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mailtagger import artifact
from mailtagger.artifact import TOKENIZER
from mailtagger.errors import MailtaggerError, ModelError
from mailtagger.score import open_scorer
from mailtagger.ulmfit import fastai_weights as exchange
from mailtagger.ulmfit import tokenizer
from mailtagger.ulmfit.batching import padded
from mailtagger.ulmfit.model import Classifier, Dropouts, LanguageModel, Sizes
from tests.tiny_model import COMMITTED, HAM_TEXT, SPAM_TEXT

pytestmark = pytest.mark.train
ROOT = Path(__file__).parents[1]

SIZES = Sizes(vocabulary=60, embedding=24, hidden=32, layers=3)
CONFIG = {"emb_sz": SIZES.embedding, "n_hid": SIZES.hidden, "n_layers": SIZES.layers}
BPTT = 72


def theirs_lm(**more: Any) -> Any:
    return fastai.get_language_model(
        fastai.AWD_LSTM, SIZES.vocabulary, config={**fastai.awd_lstm_lm_config, **CONFIG, **more}
    )


def theirs_classifier(bptt: int = BPTT, classes: int = 2, output: float = 0.4, **more: Any) -> Any:
    config = {**fastai.awd_lstm_clas_config, **CONFIG, "output_p": output}
    return fastai.get_text_classifier(fastai.AWD_LSTM, SIZES.vocabulary, classes, bptt, config=config, **more)


def texts(count: int, length: int) -> Tensor:
    return torch.randint(4, SIZES.vocabulary, (count, length))


def fit(model: torch.nn.Module, loss: Callable[[Tensor], Tensor]) -> None:
    """Some steps on random texts: weights, biases and batch norm's means that are nobody's initial ones."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(20):
        value = loss(texts(8, 20))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    model.eval()


def label(ids: Tensor) -> Tensor:
    return (ids[:, -1] > SIZES.vocabulary // 2).long()


def ours_lm(trained: bool) -> LanguageModel:
    torch.manual_seed(1)
    model = LanguageModel(SIZES, Dropouts()).eval()
    torch.nn.init.normal_(model.encoder.embedding.weight)
    torch.nn.init.normal_(model.bias)
    if trained:
        fit(model, lambda ids: model.loss(model(ids[:, :-1])[1], ids[:, 1:]))
    return model


def ours_classifier(trained: bool) -> Classifier:
    torch.manual_seed(2)
    model = Classifier(SIZES, Dropouts()).eval()
    torch.nn.init.normal_(model.encoder.embedding.weight)  # so that texts differ
    for p in model.head.parameters():
        torch.nn.init.normal_(p, std=0.5)
    if trained:
        whole = torch.full((8,), 20)
        fit(model, lambda ids: F.binary_cross_entropy_with_logits(model(ids, whole), label(ids).float()))
    return model


def lm_logits(model: LanguageModel, ids: Tensor) -> Tensor:
    return F.linear(model(ids)[0], model.encoder.embedding.weight, model.bias)


def alone(model: Classifier, ids: Tensor) -> Tensor:
    return model(ids, torch.full((len(ids),), ids.shape[1]))


def close(name: str, one: Tensor, other: Tensor, limit: float = 1e-5) -> None:
    worst = (one - other).abs().max().item()
    print(f"{name}: differs by {worst:.1e} at most, of {other.abs().max().item():.1f}")
    assert worst < limit


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@torch.no_grad()
def test_a_language_model_of_ours_in_fastai(trained: bool) -> None:
    """Every name has its place (`load_state_dict` is strict), and each token's logits are the same; and so are ours
    after a way there and back, to the bit."""
    with torch.enable_grad():
        ours = ours_lm(trained)
    theirs = theirs_lm().eval()
    theirs.load_state_dict(exchange.language_model_to_fastai(ours.state_dict()))
    ids = texts(3, 90)
    theirs.reset()
    close("language model", theirs(ids)[0], lm_logits(ours, ids))
    back = exchange.language_model_from_fastai(theirs.state_dict())
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
def test_a_language_model_of_fastais_in_ours(trained: bool) -> None:
    """The same from their side: what fastai trained gives its logits here; a decoder that is not tied comes along."""
    torch.manual_seed(3)
    for tied in (True, False):
        theirs, ours = theirs_lm(tie_weights=tied), LanguageModel(SIZES, Dropouts()).eval()
        if trained:
            theirs.reset()
            fit(theirs, lambda ids, m=theirs: F.cross_entropy(m(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten()))
        state = exchange.language_model_from_fastai(theirs.eval().state_dict())
        assert ("decoder" in state) != tied
        decoder = state.pop("decoder", state["encoder.embedding.weight"])
        ours.load_state_dict(state)
        ids = texts(3, 90)
        with torch.no_grad():
            theirs.reset()
            found = F.linear(ours(ids)[0], decoder, ours.bias)
            close("their language model", found, theirs(ids)[0])
        again = exchange.language_model_to_fastai({**state, "decoder": decoder})
        assert all(torch.equal(again[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("length", [1, 40, 200])
def test_a_classifier_of_ours_in_fastai(trained: bool, length: int) -> None:
    """One logit here, two there: their difference is ours, ham's is nought, and the softmax gives our probability."""
    ours, theirs = ours_classifier(trained), theirs_classifier().eval()
    theirs.load_state_dict(exchange.classifier_to_fastai(ours.state_dict()))
    ids = texts(6, length)
    again = Classifier(SIZES, Dropouts()).eval()
    again.load_state_dict(exchange.classifier_from_fastai(theirs.state_dict()))
    with torch.no_grad():
        z, two = alone(ours, ids), theirs(ids)[0]
        close("classifier", two[:, 1], z)
        close("ham", two[:, 0], torch.zeros(6))
        close("P(spam)", two.softmax(1)[:, 1], z.sigmoid())
        close("there and back", alone(again, ids), z)


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("drop", [0.2, 0.0], ids=["dropout", "none"])
def test_a_classifier_of_fastais_in_ours(trained: bool, drop: float) -> None:
    """What fastai trained, its head with dropout layers or without, has its logits and probability here."""
    torch.manual_seed(4)
    theirs, ours = theirs_classifier(output=drop, ps=[drop]), Classifier(SIZES, Dropouts()).eval()
    if trained:
        fit(theirs, lambda ids: F.cross_entropy(theirs(ids)[0], label(ids)))
    ours.load_state_dict(exchange.classifier_from_fastai(theirs.eval().state_dict()))
    for length in (1, 40, 200):
        ids = texts(6, length)
        with torch.no_grad():
            two, z = theirs(ids)[0], alone(ours, ids)
        close("their classifier", z, two[:, 1] - two[:, 0])
        close("their P(spam)", z.sigmoid(), two.softmax(1)[:, 1])


def test_models_without_a_counterpart_are_refused() -> None:
    """Two directions, three classes, another head, an encoder alone: a sentence, not a wrong model."""
    for state in (theirs_lm(bidir=True).state_dict(), theirs_lm()[0].state_dict(), {}):
        with pytest.raises(ModelError, match="one direction"):
            exchange.language_model_from_fastai(state)
    for model in (theirs_classifier(classes=3), theirs_classifier(lin_ftrs=[50, 20], ps=[0.1, 0.1]), theirs_lm()):
        with pytest.raises(ModelError, match="two classes"):
            exchange.classifier_from_fastai(model.state_dict())
    flat = ours_classifier(False).state_dict()
    flat["head.linear0.weight"][1] = flat["head.linear0.weight"][0]
    with pytest.raises(ModelError, match="depend on one another"):
        exchange.classifier_to_fastai(flat)


def fastai_batch(rows: list[Tensor]) -> tuple[Tensor, list[int]]:
    """A batch as fastai's data loaders make it: rows by falling length, padded by `Pad_Chunk`."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
    pad = fastai.Pad_Chunk(seq_len=BPTT)
    padded = pad([(fastai.TensorText(rows[i]),) for i in order])
    return torch.stack([torch.as_tensor(row[0]) for row in padded]), order


def differing(rows: list[Tensor], model: Any) -> list[int]:
    """The rows whose logits in fastai's batch are not those of the row alone."""
    batch, order = fastai_batch(rows)
    with torch.no_grad():
        together = model(batch)[0]
        apart = torch.cat([model(rows[i][None])[0] for i in order])
    return [i for i, row in zip(order, (together - apart).abs().amax(1) > 1e-3, strict=True) if row]


LENGTHS = st.lists(st.integers(1, 3 * BPTT) | st.just(1), min_size=2, max_size=16)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 2**31))
def test_a_padded_batch_gives_what_single_rows_give(lengths: list[int], seed: int) -> None:
    """Ours, for rows of any length: of one token, of many windows, all alike."""
    model = ours_classifier(False)
    torch.manual_seed(seed)
    rows = [texts(1, length)[0] for length in lengths]
    with torch.no_grad():
        together = model(*padded([row.tolist() for row in rows]))
        apart = torch.cat([alone(model, row[None]) for row in rows])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-5)


def test_fastai_drops_tokens_of_short_rows() -> None:
    """fastai 2.8's SentenceEncoder takes the first rows of a batch for those that have a token where a window begins.
    With Pad_Chunk a shorter row may begin at a later window than a longer one, and then another is read in its place:
    here 20 tokens, put behind 72 pads, beside 30 that begin at once. The same weights in ours are right, see above."""
    torch.manual_seed(5)
    theirs = theirs_classifier().eval()
    theirs.load_state_dict(exchange.classifier_to_fastai(ours_classifier(False).state_dict()))
    rows = [texts(1, length)[0] for length in (100, 30, 20)]
    assert differing(rows, theirs) == [2]
    assert not differing(rows[:2], theirs)  # in a batch whose rows all begin at once nothing is lost
    wrong = batches = 0
    for _ in range(20):
        found = differing([texts(1, int(n))[0] for n in torch.randint(1, 3 * BPTT, (16,))], theirs)
        wrong, batches = wrong + len(found), batches + bool(found)
    print(f"{batches} of 20 batches, {wrong} of 320 rows differ")
    assert wrong


def test_fastai_is_right_where_a_window_holds_the_longest_row() -> None:
    """What the recipe does about it: with `seq_len` no shorter than any row, all rows begin at once."""
    theirs = theirs_classifier(bptt=3 * BPTT).eval()
    theirs.load_state_dict(exchange.classifier_to_fastai(ours_classifier(False).state_dict()))
    torch.manual_seed(6)
    for _ in range(5):
        rows = [texts(1, int(n))[0] for n in torch.randint(1, 3 * BPTT, (16,))]
        batch = torch.nn.utils.rnn.pad_sequence(sorted(rows, key=len, reverse=True), True, padding_value=1)
        with torch.no_grad():
            together = theirs(batch)[0]
            apart = torch.cat([theirs(row[None])[0] for row in sorted(rows, key=len, reverse=True)])
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-5)


def test_fastai_reads_our_tokens() -> None:
    """Its numbers are ours, with what no piece spells, and with an end to each document of the language model's."""
    from training import fastai_recipe as recipe

    file, text = COMMITTED / TOKENIZER, f"{SPAM_TEXT} 漢字 {HAM_TEXT}".lower()
    words, ids = recipe.vocabulary(file), tokenizer.load(file).encode(text)
    assert tokenizer.UNKNOWN in ids
    number = fastai.Numericalize(vocab=words)
    assert number(next(recipe.Pieces(file, tokenizer.cut)([text]))).tolist() == ids
    closed = recipe.Pieces(file, lambda pieces: [*pieces, words[tokenizer.END]])
    assert number(next(closed([text]))).tolist() == [*ids, tokenizer.END]


@pytest.mark.slow
def test_the_recipe_makes_an_artifact(tmp_path: Path) -> None:
    """Every stage on made-up mail: at its end fastai and ours give the same P(spam), and the artifact scores."""
    out = tmp_path / "fastai-dedup"
    command = [sys.executable, "-W", "ignore", "-m", "training.fastai_recipe", "dedup", "--smoke", "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    worst = re.search(r"of fastai and of ours, by the same weights, differs by (\S+)\.\n", done.stdout)
    assert worst and float(worst[1]) < 1e-5
    made = artifact.load(out)
    assert made.meta.metrics["training"]["protocol"] == "dedup"
    assert 0 <= open_scorer(made).score(SPAM_TEXT).p <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "build/Bad_Name"], "names no model"),
        (["--epochs", "0"], "below one"),
        (["--start", "nowhere.safetensors"], "nowhere.safetensors cannot be used"),
    ],
)
def test_the_recipe_refuses_before_it_reads_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """A name that no model can have, nothing to train, no language model to start from."""
    from training import fastai_recipe as recipe

    monkeypatch.chdir(tmp_path)
    with pytest.raises(MailtaggerError) as refused:
        recipe.main(["dedup", *arguments])
    assert said in str(refused.value) and refused.value.way_out
