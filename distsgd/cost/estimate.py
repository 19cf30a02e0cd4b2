"""Predicted seconds, and how sure they are."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

NORMAL_90 = 1.6449
"""Standard deviations to each side of the middle that hold 90 % of a normal distribution."""
MOST_AWAY = 10.0
"""Of a ratio's logarithm: beyond it nothing is known."""


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

    @classmethod
    def within(cls, seconds: float, high: float) -> "Estimate":
        """What `interval` was made from, given its upper end: the lower one may have been cut off at 0."""
        return cls(seconds, max(high - seconds, 0.0) / NORMAL_90)

    def over(self, other: "Estimate") -> tuple[float, float]:
        """The ratio to another one, both above 0: between which values nine of ten are expected, if each errs by itself.

        Where both err together, as predictions from one machine file do in part, they lie closer to the middle.
        """
        away = math.hypot(self.deviation / self.seconds, other.deviation / other.seconds)
        middle, factor = self.seconds / other.seconds, math.exp(min(NORMAL_90 * away, MOST_AWAY))
        return middle / factor, middle * factor

    def times(self, count: float) -> "Estimate":
        """So many of them, one behind the other, that err together."""
        return Estimate(count * self.seconds, count * self.deviation)


def total(parts: Iterable[Estimate]) -> Estimate:
    """One behind the other, each erring by itself."""
    parts = list(parts)
    return Estimate(sum(part.seconds for part in parts), math.hypot(*(part.deviation for part in parts)))


def median_error(values: Sequence[float]) -> float:
    """Relative standard error of the median of values above 0: of normal ones, sqrt(pi / 2) times that of their mean. The deviation
    is told by the middle one of the distances, which a few values far off do not move.
    """
    middle = median(values)
    deviation = 1.4826 * median(abs(value - middle) for value in values)
    return math.sqrt(math.pi / 2 / len(values)) * deviation / middle if middle else 0.0


def last_of(ranks: int) -> float:
    """Standard deviations by which the last of so many ranks is later than their mean: the expected largest of as many normal
    numbers (Blom 1958).
    """
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))
