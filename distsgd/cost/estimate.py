"""Predicted seconds, and how sure they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

NORMAL_90 = 1.6449
"""Standard deviations to each side of the middle that hold 90 % of a normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """Seconds: the middle (median) of what is to be expected, and the standard deviation around it, in seconds too."""

    seconds: float
    deviation: float = 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The seconds between which nine of ten measurements are expected."""
        reach = NORMAL_90 * self.deviation
        return max(0.0, self.seconds - reach), self.seconds + reach

    def times(self, count: float) -> "Estimate":
        """So many of them, one behind the other, that err together."""
        return Estimate(count * self.seconds, count * self.deviation)


def total(parts: Iterable[Estimate]) -> Estimate:
    """One behind the other, each erring by itself."""
    parts = list(parts)
    return Estimate(sum(part.seconds for part in parts), math.hypot(*(part.deviation for part in parts)))
