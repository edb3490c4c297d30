"""The comparison that `make bench-train` prints."""

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")

from mailtagger.errors import MailtaggerError  # noqa: E402
from mailtagger.ulmfit.model import Dropouts, LanguageModel, Sizes  # noqa: E402
from training import bench_train  # noqa: E402

TINY = Sizes(vocabulary=60, embedding=8, hidden=12, layers=3)
pytestmark = pytest.mark.train


def batches(n: int) -> list[bench_train.Batch]:
    torch.manual_seed(0)
    return [(torch.randint(60, (2, 5)), torch.randint(60, (2, 5))) for _ in range(n)]


def weights(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_contestants_take_turns_on_the_same_batches() -> None:
    """Each gets the batches of a round before the next round begins, and the first round does not count."""
    seen: list[tuple[str, list[int]]] = []
    given = batches(6)

    def timed(name: str, seconds: Sequence[float]) -> bench_train.Trainer:
        left = iter(seconds)

        def train(some: Sequence[bench_train.Batch]) -> float:
            seen.append((name, [next(i for i, b in enumerate(given) if b is one) for one in some]))
            return next(left)

        return train

    slow, fast = bench_train.race({"slow": timed("slow", [90, 4, 8]), "fast": timed("fast", [1, 2, 2])}, given, 3)
    assert seen == [(name, [i, i + 1]) for i in (0, 2, 4) for name in ("slow", "fast")]
    assert slow.rounds == (5.0, 2.5)
    assert fast.over(slow) == [2.0, 4.0]


def test_the_bound_is_the_same_model() -> None:
    """With our weights the plain LSTM computes what ours does when nothing is dropped, and it goes on where it was."""
    torch.manual_seed(0)
    model, bound = LanguageModel(TINY, Dropouts()).eval(), bench_train.Plain(TINY)
    state = {k.removeprefix("encoder."): v for k, v in model.state_dict().items()}
    bound.load_state_dict({f"{k}_l0" if "lstm" in k else k: v for k, v in state.items()})
    ids = torch.randint(60, (3, 14))
    first, after = bound(ids[:, :9], [])
    torch.testing.assert_close(torch.cat([first, bound(ids[:, 9:], after)[0]], 1), model(ids)[0])
    assert weights(bound) == weights(model)


def test_fastai_trains_a_model_of_our_size_on_every_batch() -> None:
    """As many weights as ours has; it takes a step on each batch, and its epochs need no validation."""
    pytest.importorskip("fastai", reason="needs the [train] extra: make .venv/train")
    fastai = bench_train.Fastai(TINY)
    assert weights(fastai.learner.model) == weights(LanguageModel(TINY, Dropouts()))
    before = fastai.learner.model[0].encoder.weight.detach().clone()
    for n in (2, 3):
        assert fastai(batches(n)) > 0
        assert fastai.learner.iter == n - 1
    assert not torch.equal(fastai.learner.model[0].encoder.weight, before)


def test_all_of_it_prints_a_row_for_everyone(capsys: pytest.CaptureFixture[str]) -> None:
    """A speed, and its ratio to the bound with the lowest and highest round; the bound's own is 1."""
    bench_train.main(["--smoke", "--fp32"])
    rows = {line[:36].strip(): line[36:].split() for line in capsys.readouterr().out.splitlines()}
    for name in (bench_train.OURS, "ours, whole softmax", bench_train.BOUND):
        speed, *_, middle, low, high = (float(cell.strip("[],").replace(",", "")) for cell in rows[name] if cell != "×")
        assert speed > 0
        assert low <= middle <= high
    assert rows[bench_train.BOUND][-3:] == ["1.00", "[1.00,", "1.00]"]


def test_a_setting_that_nothing_can_be_trained_with_is_refused() -> None:
    """Before anything is timed."""
    with pytest.raises(MailtaggerError, match="rounds 0"):
        bench_train.main(["--rounds", "0"])
