"""Measures what an averaging takes here: every topology, algorithm and reduction, on all ranks and on fewer of them.

All ranks call `measure` together. The real classes of distsgd.comm are timed, call by call, as a round uses them.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.comm import OF_ALL, OF_MASTER, Allreduce, Average, Exact, Fast, Master, Ranks, hosts
from distsgd.cost.algorithms import Layout
from distsgd.cost.averaging import BYTES

CALLS = ("begin", "add", "again", "exchange", "finish", "several")
SIZES, FEWEST_REPEATS, REPEATS, MOST_REPEATS = 12, 2, 4, 20
"""Random sizes, and how often each is measured after a warm-up: more often where there is time, less where there is none."""
FEWEST_VALUES, MOST_VALUES = 2048, 4 * 2**20
KINDS = {"exact": np.int64, "fast": np.float32}


@dataclass(frozen=True)
class Way:
    """A way to average: its settings' names."""

    topology: str
    algorithm: str
    reduction: str

    def average(self, ranks: Ranks, values: int) -> tuple[Average, str]:
        """One of so many values, and what will add: all ranks together."""
        topology = (Master if self.topology == "master" else Allreduce)(ranks, self.algorithm)
        average = (Exact if self.reduction == "exact" else Fast)(topology, [values])
        return average, topology.ran


@dataclass
class Measured:
    """Of one way on one layout: seconds by size, in the mean over ranks and of the last one."""

    way: Way
    layout: Layout
    ran: str = ""
    values: list[int] = field(default_factory=list)
    mean: list[NDArray[np.float64]] = field(default_factory=list)
    """For each size (calls,): of all ranks, the median over repeats."""
    last: list[float] = field(default_factory=list)
    """For each size: the exchange of the last rank to end, the median over repeats."""


def ways(ranks: int) -> list[Way]:
    """All that there are; alone there is nothing to choose from."""
    more = ranks > 1
    named = [("allreduce", name) for name in ("library", *(OF_ALL if more else ()))]
    named += [("master", name) for name in ("library", *(OF_MASTER if more else ()))]
    return [Way(*name, reduction) for name in named for reduction in BYTES]


def layouts(ranks: int) -> list[int]:
    """With how many ranks to measure: with 2, 4, 8 ... and with all."""
    return sorted({*(1 << n for n in range(1, ranks.bit_length()) if 1 << n < ranks), ranks})


def measure(ranks: Ranks, seconds: float = 20.0, seed: int = 0) -> dict[str, Any]:
    """Return the constants as `distsgd.cost.averaging` reads them, the same on every rank; takes about so many seconds.

    On a slow network more of them let larger averages be measured.
    """
    from distsgd.machine.constants import agreed

    counts = layouts(ranks.size)
    measured: list[Measured] = []
    for number, count in enumerate(counts):
        part = ranks.first(count)
        if part:
            measured += on_these(part, seconds / len(counts), np.random.default_rng([seed, number]))
            part.close()
        ranks.barrier()
    return agreed(ranks, measured, adding())


def on_these(ranks: Ranks, seconds: float, rng: np.random.Generator, count: int = SIZES) -> list[Measured]:
    """All ways on these ranks, so many sizes and the ways in random order."""
    layout = Layout(ranks.size, hosts(ranks))
    found = {way: Measured(way, layout) for way in ways(ranks.size)}
    sizes, repeats = _plan(ranks, list(found), seconds, rng, count)
    for turn, values in enumerate(sizes):
        for way, (ran, times) in _times(ranks, _some(list(found), turn), values, repeats, rng).items():
            one = found[way]
            one.ran = ran
            one.values.append(values)
            one.mean.append(np.median(times[0], axis=0))
            one.last.append(float(np.median(times[1, :, CALLS.index("exchange")])))
    return list(found.values())


def _some(ways: list[Way], turn: int) -> list[Way]:
    """The library's ways, and of each of ours one reduction, the other one next time: its messages take as long in either."""
    ours = list(dict.fromkeys((way.topology, way.algorithm) for way in ways))
    turns = {name: list(BYTES)[(turn + place) % len(BYTES)] for place, name in enumerate(ours)}
    return [
        way
        for way in ways
        if way.algorithm == "library" or way.reduction == turns[way.topology, way.algorithm]
    ]


def _plan(
    ranks: Ranks, ways: list[Way], seconds: float, rng: np.random.Generator, count: int
) -> tuple[list[int], int]:
    """So many sizes, as large as there is time for, and how often to measure each; on all ranks alike.

    Sizes are log-uniform, one in each of equal parts, in random order.
    """
    few = _some(ways, 0)
    small, large = (
        sum(float(np.median(times[1].sum(1))) for _, times in _times(ranks, few, values, 2, rng).values())
        for values in (FEWEST_VALUES, 8 * FEWEST_VALUES)
    )
    per_value = max((large - small) / (7 * FEWEST_VALUES), 1e-10)
    each = seconds / (count * (REPEATS + 1)) - small
    most = float(8 * FEWEST_VALUES)
    for _ in range(20):  # the mean of log-uniform sizes is (most - fewest) / log(most / fewest)
        most = max(each / per_value * np.log(most / FEWEST_VALUES), 8.0 * FEWEST_VALUES)
    most = min(most, MOST_VALUES)
    once = count * (small + per_value * most / np.log(most / FEWEST_VALUES))
    agreed = np.array([most, np.clip(round(seconds / once) - 1, FEWEST_REPEATS, MOST_REPEATS)], np.int64)
    ranks.broadcast(agreed)
    places = (np.arange(count) + rng.random(count)) / count
    sizes = FEWEST_VALUES * (int(agreed[0]) / FEWEST_VALUES) ** places
    return [int(size) for size in rng.permutation(sizes)], int(agreed[1])


def _times(
    ranks: Ranks, ways: list[Way], values: int, repeats: int, rng: np.random.Generator
) -> dict[Way, tuple[str, NDArray[np.float64]]]:
    """For each way, what added and (2, repeats, calls) seconds: the mean over ranks and the last rank's, after a warm-up."""
    averages = {way: way.average(ranks, values) for way in ways}
    own = np.random.default_rng([values, ranks.rank]).normal(size=(2, values)).astype(np.float32)
    reference, wish = np.ones(values, np.float32), np.zeros(1, np.int64)
    out = np.empty_like(reference)
    times = np.zeros((len(ways), repeats + 1, len(CALLS)), np.int64)
    for repeat, number in _in_random_order(len(ways), repeats + 1, rng):
        average, ran = averages[ways[number]]
        begin = None if repeat else reference
        times[number, repeat] = _once(ranks, average, begin, own, wish, out, ran == "shared")
    mean, latest = times.copy(), times.copy()
    ranks.sum(mean)
    ranks.maximum(latest)
    both = np.stack([mean / ranks.size, latest])[:, :, 1:] * 1e-9
    return {way: (averages[way][1], both[:, number]) for number, way in enumerate(ways)}


def _in_random_order(ways: int, repeats: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    for repeat in range(repeats):
        for way in rng.permutation(ways):
            yield repeat, int(way)


def _once(
    ranks: Ranks,
    average: Average,
    reference: NDArray[np.float32] | None,
    states: NDArray[np.float32],
    wish: NDArray[np.int64],
    out: NDArray[np.float32],
    shared: bool,
) -> list[int]:
    """Nanoseconds of each call of an averaging of one worker, on this rank, and what a further worker's state takes.

    Ranks meet as a round does before they exchange. shared: in memory, where a rank with several workers leaves sums, which take
    longer than a state: how much is the last number.
    """
    now = time.perf_counter_ns
    average.begin(reference, 4)
    began = now()
    average.add(states[0], 1)
    first = now()
    average.add(states[1], 1, last=True)
    both, sums = now(), 0
    if shared:
        ranks.maximum(wish)
        met = now()
        average.exchange()
        average.finish(out)
        sums = first - began + now() - met
    began = now()
    average.begin(reference, 2)
    begun = now()
    average.add(states[0], 1, last=True)
    added = now()
    ranks.maximum(wish)
    met = now()
    average.exchange()
    exchanged = now()
    average.finish(out)
    finished = now()
    several = (sums - (added - begun) - (finished - met)) * shared
    return [begun - began, added - begun, both - first, exchanged - met, finished - exchanged, several]


def adding(values: int = 2**20) -> dict[str, float]:
    """Seconds per byte to add two arrays that no cache holds, by reduction."""
    found = {}
    for reduction, kind in KINDS.items():
        size = values * 8 // BYTES[reduction]
        total, parts = np.ones(size, kind), np.ones((4, size), kind)
        times = [_timed_add(total, part) for part in (*parts, *parts)]
        found[reduction] = float(np.median(times)) / total.nbytes
    return found


def _timed_add(total: NDArray[Any], part: NDArray[Any]) -> float:
    began = time.perf_counter()
    total += part
    return time.perf_counter() - began
