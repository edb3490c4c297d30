"""What the optimisers and rates of AWD-LSTM and ULMFiT promise."""

import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")

from torch import nn  # noqa: E402

from mailtagger.ulmfit import unfreezing  # noqa: E402
from mailtagger.ulmfit.model import Classifier, Dropouts, Encoder, LanguageModel, Sizes  # noqa: E402
from mailtagger.ulmfit.optimizers import Average, average, optimizer  # noqa: E402
from mailtagger.ulmfit.schedules import SHAPES, cosine, one_cycle, slanted  # noqa: E402

TINY = Sizes(vocabulary=50, embedding=8, hidden=12, layers=2)
pytestmark = pytest.mark.train


def test_slanted_triangular_rate() -> None:
    """Rises to 1 at the cut and falls to 1/32 at the end, in straight lines."""
    assert slanted(0.1) == pytest.approx(1)
    assert slanted(0) == pytest.approx(1 / 32) == pytest.approx(slanted(1))
    assert slanted(0.05) == pytest.approx((1 + 1 / 32) / 2) == pytest.approx(slanted(0.55))


def test_one_cycle_and_cosine() -> None:
    """One cycle: from 1/25 to 1 in a quarter of the way, then to nothing. Cosine: from 1 to nothing."""
    assert (one_cycle(0), one_cycle(0.25), one_cycle(1)) == pytest.approx((1 / 25, 1, 1e-5))
    assert (cosine(0), cosine(0.5), cosine(1)) == pytest.approx((1, 0.5, 0))
    assert all(0 <= shape(i / 100) <= 1 for shape in SHAPES.values() for i in range(101))


def test_the_trigger_is_not_monotone() -> None:
    """The mean begins when a loss is worse than the best of all but the last n: not at the first bad one."""
    weight = nn.Parameter(torch.zeros(1))
    mean = Average([weight], patience=2)
    for loss, begun in ((5, 0), (4, 0), (6, 0), (3, 0), (3.5, 0), (2.9, 0), (3.2, 1), (1.0, 1)):
        mean.validated(loss)  # 3.5 is worse than 3, which is too new to count; 3.2 is worse than 3, now old enough
        assert mean.begun == bool(begun), loss


def test_nothing_is_averaged_before_the_trigger() -> None:
    """Steps before it leave no trace in the mean; those after it count alike."""
    weight = nn.Parameter(torch.zeros(1))
    mean = Average([weight], patience=0)
    for value in (100.0, 200.0):
        weight.data.fill_(value)
        mean.step()
    mean.validated(1.0)
    mean.validated(2.0)
    for value in (1.0, 2.0, 6.0):
        weight.data.fill_(value)
        mean.step()
    with mean.applied():
        assert weight.item() == pytest.approx(3.0)
    assert weight.item() == 6.0
    mean.settle()
    assert weight.item() == pytest.approx(3.0)


def test_asgd_averages_from_the_start_and_beats_its_last_step() -> None:
    """On a noisy slope the mean lies nearer to the bottom than where SGD happens to stand."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(20))
    mean, steps = average("asgd", 5, [weight]), optimizer("sgd", [{"params": [weight], "lr": 0.5}])
    assert mean and mean.begun
    for _ in range(400):
        weight.grad = weight.data + torch.randn(20)
        steps.step()
        mean.step()
    last = weight.norm().item()
    mean.settle()
    assert weight.norm().item() < last / 2


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_nothing_else_averages(name: str) -> None:
    assert average(name, 5, []) is None


def test_gradual_unfreezing_starts_at_the_head() -> None:
    """Each stage adds one layer, at a rate 2.6 times lower; the embedding comes last."""
    model = Classifier(TINY, Dropouts())
    ranked = unfreezing.groups(unfreezing.layers(model), 1.0, 2.6)
    stages = unfreezing.gradual(ranked)
    assert [len(groups) for groups, _ in stages] == [1, 2, 3, 4]
    assert [g["scale"] for g in stages[-1][0]] == pytest.approx([2.6**-i for i in range(4)])
    assert stages[0][0][0]["params"][0] is model.head.norm0.weight
    assert stages[-1][0][-1]["params"] == [model.encoder.embedding.weight]


def test_the_schemes_of_unfreezing() -> None:
    """Every scheme's shares are the whole; chain-thaw takes each layer alone from the first up, then all."""
    ranked = unfreezing.groups(unfreezing.layers(Classifier(TINY, Dropouts())), 1.0, 2.6)
    for name, scheme in unfreezing.SCHEMES.items():
        assert sum(share for _, share in scheme(ranked)) == pytest.approx(1), name
    scales = [group["scale"] for group in ranked]
    thawed = [[scales.index(group["scale"]) for group in groups] for groups, _ in unfreezing.chain_thaw(ranked)]
    assert thawed == [[0], [3], [2], [1], [0], [0, 1, 2, 3]]
    assert [len(groups) for groups, _ in unfreezing.last(ranked)] == [1]
    assert [len(groups) for groups, _ in unfreezing.full(ranked)] == [4]


def test_embedding_dropout_takes_whole_words() -> None:
    """A dropped word is dropped wherever it stands in a batch, the others grow so that the expectation stays."""
    torch.manual_seed(0)
    encoder = Encoder(TINY, Dropouts(0.5, 0, 0, 0, 0)).train()
    seen: list[torch.Tensor] = []
    encoder.inputs.register_forward_hook(lambda module, given, out: seen.append(out))
    ids = torch.arange(4, 44).repeat(2, 2)
    encoder(ids)
    words = seen[0]
    assert torch.equal(words[0, :40], words[0, 40:]) and torch.equal(words[0], words[1])
    gone = words[0, :40].eq(0).all(1)
    assert 8 < gone.sum() < 32
    torch.testing.assert_close(words[0, :40][~gone], 2 * encoder.embedding.weight[4:44][~gone])


def test_weights_are_tied_or_not() -> None:
    """Tied, the softmax learns into the embedding; untied, it has weights of its own that begin the same."""
    tied, free = LanguageModel(TINY, Dropouts()), LanguageModel(TINY, Dropouts(), tied=False)
    assert sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters()) == 50 * 8
    features = torch.randn(3, 8)
    torch.testing.assert_close(tied.logits(features), features @ tied.encoder.embedding.weight.T + tied.bias)
    free.decoder.data += 1
    assert not torch.allclose(free.logits(features), features @ free.encoder.embedding.weight.T + free.bias)


def test_a_sampled_softmax_is_the_whole_one_over_what_it_drew() -> None:
    """With every piece drawn it is the full loss; it never leaves a target out."""
    torch.manual_seed(0)
    model, features, targets = LanguageModel(TINY, Dropouts()), torch.randn(4, 6, 8), torch.randint(0, 50, (4, 6))
    full = model.loss(features, targets)
    torch.testing.assert_close(model.loss(features, targets, sampled=5000), full)
    assert model.loss(features, targets, sampled=1) < full


def test_long_texts_are_learned_from_their_end() -> None:
    """BPTT for text classification: windows put together give what one pass gives, and gradients reach only as far
    back as the windows that hold the last steps."""
    torch.manual_seed(0)
    encoder, ids = Encoder(TINY, Dropouts().scaled(0.0)), torch.arange(4, 44)[None]
    torch.testing.assert_close(encoder.read(ids, 7, 1000), encoder(ids)[0])
    encoder.read(ids, 10, 15).sum().backward()
    reached = encoder.embedding.weight.grad.abs().sum(1)[4:44] > 0
    assert reached.tolist() == [False] * 20 + [True] * 20
