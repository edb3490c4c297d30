"""What the sliced cross entropy promises."""

import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra: make .venv/train")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from mailtagger.ulmfit import softmax  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(autouse=True)
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at a time, so that eleven end in half a slice."""
    monkeypatch.setitem(softmax.CELLS, "cpu", 100)


def some(dtype: torch.dtype, n: int = 11) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(0)
    sizes = (n, 6), (50, 6), (50,)
    return [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes], torch.randint(50, (n,))


def naive(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight, bias), y)


def test_loss_and_gradients_are_those_of_the_whole_softmax() -> None:
    """To the last digits, whatever the loss is multiplied by, and with no gradient wanted."""
    given, y = some(torch.float64)
    loss = softmax.cross_entropy(*given, y)
    torch.testing.assert_close(loss, naive(*given, y))
    found = torch.autograd.grad(3 * loss, given)
    torch.testing.assert_close(found, torch.autograd.grad(3 * naive(*given, y), given))
    with torch.no_grad():
        torch.testing.assert_close(softmax.cross_entropy(*given, y), loss)


def test_logits_beyond_what_exp_can_hold() -> None:
    """Large logits give a finite loss and gradient."""
    (x, weight, bias), y = some(torch.float32)
    loss = softmax.cross_entropy(1e4 * x, weight, bias, y)
    torch.testing.assert_close(loss, naive(1e4 * x, weight, bias, y))
    assert torch.autograd.grad(loss, weight)[0].isfinite().all()


def test_under_autocast_it_is_no_farther_off_than_the_whole_softmax() -> None:
    """bf16 costs both alike, however many slices are added up; the gradients of fp32 weights are fp32."""
    given, y = some(torch.float32, 400)
    exact = torch.autograd.grad(naive(*given, y), given)
    with torch.autocast("cpu", torch.bfloat16):
        losses = naive(*given, y), softmax.cross_entropy(*given, y)
    whole, sliced = (torch.autograd.grad(loss, given) for loss in losses)
    assert losses[1].dtype == torch.float32
    for a, b, right in zip(sliced, whole, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - right).abs().max() < 1.5 * (b - right).abs().max() + 1e-5
