"""How a rate goes over a run: the factor of the highest rate at a share of the way, 0 to 1."""

import math
from collections.abc import Callable


def slanted(share: float, cut: float = 0.1, ratio: float = 32.0) -> float:
    """The slanted triangular rate (ULMFiT §3.2): up in the first `cut`, then slowly down to 1/`ratio`."""
    p = share / cut if share < cut else 1 - (share - cut) / (1 - cut)
    return (1 + max(p, 0.0) * (ratio - 1)) / ratio


def one_cycle(share: float, rise: float = 0.25, start: float = 25.0, end: float = 1e5) -> float:
    """One cycle (Smith 2018, arXiv 1803.09820) with the cosines that fastai gives it: from 1/`start` up, down to
    1/`end`. Of rates only: momentum stays as it is."""
    if share < rise:
        return _between(1 / start, 1.0, share / rise)
    return _between(1.0, 1 / end, (share - rise) / (1 - rise))


def cosine(share: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983), without restarts."""
    return _between(1.0, 0.0, share)


def constant(share: float) -> float:
    """Always 1: what NT-ASGD averages over."""
    return 1.0


SHAPES: dict[str, Callable[[float], float]] = {
    "slanted": slanted,
    "one-cycle": one_cycle,
    "cosine": cosine,
    "constant": constant,
}


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2
