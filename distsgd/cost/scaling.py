"""What more ranks gain, as arithmetic: speed-up, efficiency, and the part of the work that is serial."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distsgd.cost.estimate import Estimate


@dataclass(frozen=True)
class Spread:
    """Of several measurements the middle one, the least and the most; of a prediction the ends that hold 90 % of runs."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Gain:
    """What `times` as many ranks gain over the fewest. serial_fraction: None for as many, and in weak scaling.

    The ranges are what the ends of speed_up come to, the least first.
    """

    times: float
    speed_up: Spread
    efficiency: float
    efficiency_range: tuple[float, float]
    serial_fraction: float | None = None
    serial_range: tuple[float, float] | None = None


def measured(before: float, after: Spread) -> Spread:
    """How many times as fast `after` seconds are as `before`, the median of several."""
    return Spread(before / after.median, before / after.most, before / after.least)


def ratio(before: Estimate, after: Estimate) -> Spread:
    """The same of predictions of two runs, both above 0."""
    return Spread(before.seconds / after.seconds, *before.over(after))


def strong(times: float, faster: Spread) -> Gain:
    """The same work, so many times as fast on `times` as many ranks."""
    ends = faster.least, faster.most
    gain = Gain(times, faster, faster.median / times, (ends[0] / times, ends[1] / times))
    if times <= 1:
        return gain
    serial = karp_flatt(faster.most, times), karp_flatt(faster.least, times)
    return replace(gain, serial_fraction=karp_flatt(faster.median, times), serial_range=serial)


def weak(times: float, faster: Spread) -> Gain:
    """`times` as much work, done so many times as fast, so that the speed-up is a scaled one (Gustafson 1988)."""
    scaled = Spread(times * faster.median, times * faster.least, times * faster.most)
    return Gain(times, scaled, faster.median, (faster.least, faster.most))


def karp_flatt(speed_up: float, ranks: float) -> float:
    """The part of the work that behaves as if it were serial, e = (1/S - 1/P) / (1 - 1/P) (Karp and Flatt 1990).

    Where it grows with the ranks, it is not serial work that limits but what grows: messages, waiting. Below 0: faster than ideal.
    """
    return (1 / speed_up - 1 / ranks) / (1 - 1 / ranks)


def dealt(workers: int, ranks: int) -> float:
    """The most that so many ranks can gain over one where each hosts whole workers: the rank with most of them is waited for."""
    return workers / -(-workers // ranks)
