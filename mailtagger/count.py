"""So many of a thing in words; so many of so many, with what that tells of the rest."""

import math
from dataclasses import dataclass


def many(number: int, what: str, it: str = "", they: str = "") -> str:
    """`1 lesson is`, `2 lessons are`: the number, the noun, and the verb that goes with it."""
    return " ".join(filter(None, [str(number), what if number == 1 else f"{what}s", it if number == 1 else they]))


@dataclass(frozen=True)
class Count:
    """So many of so many; prints with its rate and the 95 % interval in percent."""

    hits: int
    of: int

    @property
    def rate(self) -> float:
        return self.hits / self.of if self.of else math.nan

    def wilson(self, z: float = 1.959964) -> tuple[float, float]:
        """The 95 % interval of the rate (Wilson 1927), which is sound near zero too."""
        if not self.of:
            return math.nan, math.nan
        middle = self.rate + z * z / (2 * self.of)
        reach = z * math.sqrt(self.rate * (1 - self.rate) / self.of + z * z / (4 * self.of**2))
        scale = 1 + z * z / self.of
        return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)

    def __add__(self, other: "Count") -> "Count":
        return Count(self.hits + other.hits, self.of + other.of)

    def __str__(self) -> str:
        low, high = self.wilson()
        return f"{self.hits}/{self.of} = {self.rate:.2%} ({100 * low:.2f}–{100 * high:.2f})" if self.of else "–"
