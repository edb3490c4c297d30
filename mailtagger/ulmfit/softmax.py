"""Cross entropy of a softmax over many pieces, a few rows at a time.

Logits of a whole batch do not fit a processor's cache, and are written and read five times between the two matrix
products. Here they and their gradient are made slice by slice and never kept (Hsu et al. 2024, arXiv 2410.10989).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CELLS = {"cpu": 1 << 20, "cuda": 1 << 27}  # logits at a time: what a core's cache holds, and what memory does


def cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> Tensor:
    """Mean of F.cross_entropy(F.linear(x, weight, bias), y) in nats: x (N, E), weight (V, E), bias (V,), y (N,).
    Under autocast the products are in its precision, as F.linear's are."""
    if not torch.is_grad_enabled():
        return F.cross_entropy(F.linear(x, weight, bias), y)
    if torch.is_autocast_enabled(x.device.type):
        precision = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(precision), weight.to(precision)
    found: Tensor = _Sliced.apply(x, weight, bias, y)
    return found


class _Sliced(torch.autograd.Function):
    """The gradient comes with the loss: that of a mean needs nothing from later but one factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> Tensor:
        dx, dweight, dbias = (
            torch.empty_like(x),
            weight.new_zeros(weight.shape, dtype=bias.dtype),
            bias.new_zeros(len(bias)),
        )
        total = bias.new_zeros(())
        rows = max(1, CELLS.get(x.device.type, CELLS["cpu"]) // len(weight))
        with torch.autocast(x.device.type, enabled=False):
            offset = bias.to(x.dtype)
            for part, target, out in zip(x.split(rows), y[:, None].split(rows), dx.split(rows), strict=True):
                logits = torch.addmm(offset, part, weight.t()).to(bias.dtype)
                logits -= logits.amax(1, keepdim=True)
                total -= logits.gather(1, target).sum()
                share = logits.exp_()
                sums = share.sum(1, keepdim=True)
                total += sums.log().sum()
                share /= sums * len(x)
                share.scatter_add_(1, target, share.new_full(target.shape, -1 / len(x)))
                dbias += share.sum(0)
                share = share.to(x.dtype)
                torch.mm(share, weight, out=out)
                dweight += share.t() @ part
        ctx.save_for_backward(dx, dweight.to(weight.dtype), dbias)
        return total / len(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        dx, dweight, dbias = ctx.saved_tensors
        return dx * factor.to(dx.dtype), dweight * factor.to(dweight.dtype), dbias * factor, None
