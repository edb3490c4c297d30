"""What the language model's and the classifier's parts promise."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")

from safetensors.torch import save_file  # noqa: E402

from mailtagger.ulmfit import tokenizer  # noqa: E402
from mailtagger.ulmfit.batching import batches, padded, rows, windows  # noqa: E402
from mailtagger.ulmfit.classifier import fit_classifier, load_classifier, load_encoder, logits  # noqa: E402
from mailtagger.ulmfit.language_model import carried, evaluate_language_model, fit_language_model  # noqa: E402
from mailtagger.ulmfit.model import (  # noqa: E402
    Classifier,
    Dropouts,
    Encoder,
    LanguageModel,
    Sizes,
    VariationalDropout,
    WeightDropLSTM,
)
from mailtagger.ulmfit.run import Schedule  # noqa: E402

TINY = Sizes(vocabulary=50, embedding=8, hidden=12, layers=2)
pytestmark = pytest.mark.train


def documents(n: int = 24) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(4, 50, int(rng.integers(1, 40))).tolist() for _ in range(n)]


def test_a_padded_batch_gives_what_single_rows_give() -> None:
    """Rows of any length, batched or alone, have the same logits: padding is never read."""
    torch.manual_seed(0)
    model, some = Classifier(TINY, Dropouts()).eval(), documents()
    with torch.no_grad():
        alone = torch.cat([model(*padded([d])) for d in some])
        together = model(*padded(some))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_row_of_the_stream_goes_on_where_it_ended() -> None:
    """Windows put together give each row of the stream, and rows put together the stream."""
    stream = np.arange(1000, dtype=np.uint16)
    data = rows(stream, 4)
    ends = [0]
    for at, length in windows(data.shape[1], 20, np.random.default_rng(0)):
        assert at == ends[-1]
        ends.append(at + length)
    assert ends[-1] == data.shape[1] - 1  # the last piece is a target only
    assert len({b - a for a, b in pairwise(ends)}) > 1  # BPTT is variable
    assert data.flatten().tolist() == stream.tolist()


def test_variational_dropout_is_the_same_over_time_and_keeps_expectations() -> None:
    """One mask a row for all its steps; the mean stays."""
    torch.manual_seed(0)
    out = VariationalDropout(0.4).train()(torch.ones(400, 7, 10))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert abs(out.mean().item() - 1) < 0.05
    assert VariationalDropout(0.4).eval()(torch.ones(2, 3, 4)).eq(1).all()


def test_weight_drop_acts_in_training_only() -> None:
    """Two passes in training differ through the recurrent weights; in evaluation they are nn.LSTM's."""
    torch.manual_seed(0)
    layer, x = WeightDropLSTM(4, 5, 0.5), torch.randn(2, 6, 4)
    assert not torch.equal(layer.train()(x)[0], layer(x)[0])
    plain = torch.nn.LSTM(4, 5, batch_first=True)
    plain.load_state_dict({f"{name}_l0": p for name, p in layer.named_parameters()})
    torch.testing.assert_close(layer.eval()(x)[0], plain(x)[0])


def test_the_encoder_carries_its_state() -> None:
    """A text read in two windows gives what it gives in one."""
    torch.manual_seed(0)
    encoder, ids = Encoder(TINY, Dropouts()).eval(), torch.randint(4, 50, (3, 20))
    whole, _ = encoder(ids)
    first, state = encoder(ids[:, :9])
    second, _ = encoder(ids[:, 9:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_a_vocabulary_is_carried_over(tmp_path: Path) -> None:
    """A piece that both tokenisers know keeps its row; a new one gets the mean of what it used to be read as."""
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda".split()
    for name, texts in (("old", words), ("new", ["alphabeta", "alphagamma", *words[4:]])):
        tokenizer.train([" ".join(texts)] * 50, tmp_path / f"{name}.model", vocabulary=49)
    old, new = (tokenizer.load(tmp_path / f"{name}.model") for name in ("old", "new"))
    assert len(tokenizer.stream(old, [])) == 0
    rows = torch.arange(old.vocab_size(), dtype=torch.float32)
    state = {"encoder.embedding.weight": rows[:, None].repeat(1, 3), "bias": -rows, "other": torch.ones(1)}
    found = carried(state, old, new)
    assert found["encoder.embedding.weight"].shape == (new.vocab_size(), 3)
    for i in range(new.vocab_size()):
        piece = new.id_to_piece(i)
        if old.id_to_piece(old.piece_to_id(piece)) == piece:
            assert found["bias"][i] == -old.piece_to_id(piece)
        else:
            read = old.encode(piece.replace("▁", " "))
            assert found["bias"][i].item() == pytest.approx(-sum(read) / len(read))
    assert found["other"] is state["other"]


def test_an_epoch_draws_documents_by_their_weight() -> None:
    """A document without weight is never learned from, and the epochs end when they are through, whatever the clock."""
    seen: list[int] = []

    def watching(ids: list[int], rng: np.random.Generator) -> list[int]:
        seen.append(ids[0])
        return ids

    model = Classifier(Sizes(40, embedding=8, hidden=8), Dropouts())
    documents = [[4 + i % 2, 6, 7] for i in range(40)]
    plan = Schedule(minutes=60, epochs=2, rate=1e-3)
    fit_classifier(model, documents, [1.0] * 40, [float(i % 2) for i in range(40)], plan, print, watching)
    assert set(seen) == {5}
    assert 80 <= len(seen) <= 80 + 4 * 40


def test_batches_hold_every_document_once() -> None:
    """Sorted by length, shuffled, none lost, none doubled."""
    lengths = [len(d) for d in documents(100)]
    found = batches(lengths, 100, np.random.default_rng(0))
    assert sorted(i for chosen in found for i in chosen) == list(range(100))


def test_a_language_model_learns_and_its_encoder_serves_a_classifier(tmp_path: Path) -> None:
    """A repeating stream is learned within seconds, and a classifier from its encoder tells two kinds apart."""
    torch.manual_seed(0)
    stream = np.tile(np.arange(4, 24, dtype=np.uint16), 600)
    model, file = LanguageModel(TINY, Dropouts().scaled(0.0)), tmp_path / "lm.safetensors"
    before = evaluate_language_model(model, stream[:2000]).perplexity
    plan = Schedule(minutes=0.2, epochs=3, rate=1e-2, batch=16, bptt=20)
    after = fit_language_model(model, stream, stream[:2000], plan, file, lambda line: None)
    assert after < before / 2
    classifier = Classifier(TINY, Dropouts().scaled(0.0))
    load_encoder(classifier, file)
    torch.testing.assert_close(classifier.encoder.embedding.weight, model.encoder.embedding.weight)
    rng = np.random.default_rng(0)
    some = [(rng.integers(4, 24, 12) + 24 * (i % 2)).tolist() for i in range(200)]
    labels = [float(i % 2) for i in range(200)]
    fit_classifier(
        classifier,
        some,
        labels,
        [1.0] * 200,
        Schedule(minutes=0.1, epochs=30, rate=1e-2, batch=4),
        lambda line: None,
    )
    right = (logits(classifier, some) > 0) == np.array(labels, bool)
    assert right.mean() > 0.95


def test_long_mail_keeps_its_head_and_tail() -> None:
    """First 256 and last 128 ids; shorter mail is whole."""
    assert tokenizer.cut(range(1000)) == [*range(256), *range(872, 1000)]
    assert tokenizer.cut(range(384)) == list(range(384))


def test_an_artifact_of_other_sizes_is_not_gone_on_from(tmp_path: Path) -> None:
    """Weights come back whole, in half precision or not; a missing or misshapen one is an error, not a fresh start."""
    torch.manual_seed(0)
    model, again, file = Classifier(TINY, Dropouts()), Classifier(TINY, Dropouts()), tmp_path / "weights.safetensors"
    state = {k: v.half() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file({**state, "linear.mix": torch.ones(1)}, file)  # of the linear part, which is no part of this
    load_classifier(again, file)
    torch.testing.assert_close(again.head.linear0.weight, model.head.linear0.weight.half().float())
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_classifier(Classifier(Sizes(50, 8, 16, 2), Dropouts()), file)
    save_file({k: v for k, v in state.items() if "lstm.1" not in k}, file)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_classifier(again, file)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_encoder(again, file)
