"""What more ranks gain, as arithmetic: speed-up, efficiency, and the part of the work that is serial."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing: the middle one, the least and the most."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Gain:
    """What `times` as many ranks gain over the fewest. serial_fraction: None for as many, and in weak scaling."""

    times: float
    speed_up: Spread
    efficiency: float
    serial_fraction: float | None


def strong(times: float, before: float, after: Spread) -> Gain:
    """The same work in `after` seconds on `times` as many ranks as had taken `before` seconds (the median of several)."""
    faster = Spread(before / after.median, before / after.most, before / after.least)
    fraction = karp_flatt(faster.median, times) if times > 1 else None
    return Gain(times, faster, faster.median / times, fraction)


def weak(times: float, before: float, after: Spread) -> Gain:
    """`times` as much work in `after` seconds, so that the speed-up is a scaled one (Gustafson 1988)."""
    one = strong(times, before, after)
    faster = one.speed_up
    scaled = Spread(times * faster.median, times * faster.least, times * faster.most)
    return Gain(times, scaled, faster.median, None)


def karp_flatt(speed_up: float, ranks: float) -> float:
    """The part of the work that behaves as if it were serial, e = (1/S - 1/P) / (1 - 1/P) (Karp and Flatt 1990).

    Where it grows with the ranks, it is not serial work that limits but what grows: messages, waiting. Below 0: faster than ideal.
    """
    return (1 / speed_up - 1 / ranks) / (1 - 1 / ranks)


def dealt(workers: int, ranks: int) -> float:
    """The most that so many ranks can gain over one where each hosts whole workers: the rank with most of them is waited for."""
    return workers / -(-workers // ranks)
