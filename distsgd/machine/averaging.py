"""Measures what an averaging takes here: every topology, algorithm and reduction, on all ranks and on fewer of them.

All ranks call `measure` together. The real classes of distsgd.comm are timed, call by call, as a round uses them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.comm import OF_ALL, OF_MASTER, Ranks, hosts
from distsgd.cost.algorithms import Layout
from distsgd.cost.averaging import BYTES
from distsgd.machine.timed import CALLS, Timed, Way, middle

SIZES, FEWEST_REPEATS, REPEATS, MOST_REPEATS = 16, 2, 4, 20
"""Random sizes, and how often each is measured after a warm-up: more often where there is time, less where there is none."""
SMALL, IN_TURN = 8, 5
"""Sizes of less than the largest one's such part are measured more often, the more the smaller; so often in each turn, over a
network once.
"""
UNSTEADY, STEADIER, MORE = 1.1, 16, 0.5
"""Over a network, what takes so many times as long in the third quartile as in the first is measured so often in all, as far as
such a part of the seconds reaches.
"""
TURNS, ALL = 4, slice(None)
FEWEST_VALUES, MOST_VALUES = 2048, 4 * 2**20
LARGE, MUCH_LARGER, BRIEF = 8, 32, 0.05
"""By what the smallest size is multiplied, to see how large the largest can be; once more where that takes a brief part of all."""
KINDS = {"exact": np.int64, "fast": np.float32}


@dataclass
class Measured:
    """Of one way on one layout: seconds by size, in the mean over ranks and of the last one."""

    way: Way
    layout: Layout
    ran: str = ""
    values: list[int] = field(default_factory=list)
    mean: list[NDArray[np.float64]] = field(default_factory=list)
    """For each size (calls,): of all ranks, the middle of repeats."""
    last: list[float] = field(default_factory=list)
    """For each size: the exchange of the last rank to end, likewise."""


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
    sizes = of_layouts(ranks, seconds, seed)
    by_turns(ranks, sizes)
    return concluded(ranks, sizes)


def of_layouts(ranks: Ranks, seconds: float, seed: int) -> "list[Sizes | None]":
    """What is to be measured of every layout; None for those that this rank has no part in."""
    counts = layouts(ranks.size)
    return [
        sizes_of(ranks, count, seconds / len(counts), np.random.default_rng([seed, number]))
        for number, count in enumerate(counts)
    ]


def sizes_of(
    ranks: Ranks, count: int, seconds: float, rng: np.random.Generator, sizes: int = SIZES
) -> "Sizes | None":
    """So many sizes on the first `count` ranks; None on the others."""
    part = ranks.first(count)
    found = Sizes(part, seconds, rng, sizes) if part else None
    ranks.barrier()
    return found


def by_turns(ranks: Ranks, sizes: "Sequence[Sizes | None]") -> None:
    """Measure some of each, and some more: a machine is faster in some seconds than in others, in all that it does."""
    for turn in range(TURNS):
        for one in sizes:
            if one:
                one.measure((turn + 1) / TURNS)
            ranks.barrier()


def concluded(ranks: Ranks, sizes: "Sequence[Sizes | None]") -> dict[str, Any]:
    """The constants, when all is measured."""
    from distsgd.machine.constants import agreed

    measured = [one for there in sizes if there for one in there.found()]
    for there in sizes:
        if there:
            there.close()
    return agreed(ranks, measured, adding())


class Sizes:
    """Averages in all ways on these ranks, of so many sizes, as large as can be measured in so many seconds."""

    def __init__(self, ranks: Ranks, seconds: float, rng: np.random.Generator, count: int = SIZES) -> None:
        """The ranks are closed with it."""
        self._ranks, self._seconds, self._rng = ranks, seconds, rng
        self._ways, self._layout = ways(ranks.size), Layout(ranks.size, hosts(ranks))
        sizes, repeats = _plan(ranks, self._ways, seconds, rng, count)
        states = _states(ranks, max(sizes))
        self._timed = [
            Timed(ranks, _some(self._ways, place, often > min(repeats)), values, states)
            for place, (values, often) in enumerate(zip(sizes, repeats, strict=True))
        ]
        self._turns = _turns(repeats, IN_TURN if self._layout.hosts == 1 else 1, rng)

    def measure(self, until: float) -> None:
        """The turns up to such a part of all; at the end, over a network, what is not sure yet."""
        while self._turns and self._turns[0][0] <= until:
            _, place, often = self._turns.pop(0)
            self._timed[place].measure(often, self._rng)
        if until >= 1 and self._layout.hosts > 1:
            self._steady()

    def _steady(self) -> None:
        """What differs from one time to the next: again, in random order."""
        unsteady = [
            (size, way, max(STEADIER - times.shape[1], 0), float(np.median(times[1].sum(1))))
            for size in self._timed
            for way, times in size.seconds().items()
            if np.divide(*np.quantile(times[1, :, CALLS.index("exchange")], [0.75, 0.25])) > UNSTEADY
        ]
        part = self._seconds * MORE / max(sum(count * seconds for *_, count, seconds in unsteady), 1e-9)
        again = [(size, way) for size, way, count, _ in unsteady for _ in range(int(min(part, 1.0) * count))]
        for number in self._rng.permutation(len(again)).tolist():
            size, way = again[number]
            size.again([way])

    def found(self, repeats: slice = ALL) -> list[Measured]:
        """What was measured; of the repeats of each, in the order of time, only some."""
        found = {way: Measured(way, self._layout) for way in self._ways}
        for size in self._timed:
            for way, times in size.seconds().items():
                one, some = found[way], times[:, repeats]
                one.ran = size.ran(way)
                one.values.append(size.values)
                one.mean.append(middle(some[0]))
                one.last.append(float(middle(some[1, :, CALLS.index("exchange")])))
        return list(found.values())

    def close(self) -> None:
        """The ranks, all together."""
        self._ranks.close()


def _states(ranks: Ranks, values: int) -> NDArray[np.float32]:
    return np.random.default_rng([values, ranks.rank]).normal(size=(2, values)).astype(np.float32)


def _some(ways: list[Way], turn: int, small: bool = False) -> list[Way]:
    """The library's ways, and of each of ours one reduction, the other one next time: its messages take as long in either.

    small: both, as there is time for it.
    """
    ours = list(dict.fromkeys((way.topology, way.algorithm) for way in ways))
    turns = {name: list(BYTES)[(turn + place) % len(BYTES)] for place, name in enumerate(ours)}
    return [
        way
        for way in ways
        if small or way.algorithm == "library" or way.reduction == turns[way.topology, way.algorithm]
    ]


def _plan(
    ranks: Ranks, ways: list[Way], seconds: float, rng: np.random.Generator, count: int
) -> tuple[list[int], list[int]]:
    """So many sizes, as large as there is time for, and how often to measure each; on all ranks alike; in random order."""
    few = _some(ways, 0)
    small, large = (_seconds_of(ranks, few, values, rng) for values in (FEWEST_VALUES, LARGE * FEWEST_VALUES))
    reach = LARGE
    if MUCH_LARGER * large < BRIEF * seconds:  # what no cache holds takes longer
        reach *= MUCH_LARGER
        large = _seconds_of(ranks, few, reach * FEWEST_VALUES, rng)
    per_value = max((large - small) / ((reach - 1) * FEWEST_VALUES), 1e-10)

    def takes(most: float, repeats: int) -> float:
        sizes = _spread(most, np.full(count, 0.5))
        return float((_repeats(sizes, repeats) + 1) @ (small + per_value * sizes))

    largest = np.geomspace(MOST_VALUES, LARGE * FEWEST_VALUES, 100)
    most = next((most for most in largest if takes(most, REPEATS) <= seconds), largest[-1])
    often = [n for n in range(FEWEST_REPEATS, MOST_REPEATS + 1) if takes(most, n) <= seconds]
    agreed = np.array([most, max(often, default=min(FEWEST_REPEATS, MOST_REPEATS))], np.int64)
    ranks.broadcast(agreed)
    sizes = rng.permutation(_spread(float(agreed[0]), rng.random(count)).astype(int))
    return sizes.tolist(), _repeats(sizes, int(agreed[1])).tolist()


def _spread(most: float, within: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-uniform sizes, in each of equal parts the one that is told; more of them are small, which takes no time."""
    count = len(within)
    large = -(-count // 4)
    middle = max(most / SMALL, (FEWEST_VALUES * most) ** 0.5)
    places = np.arange(count) + within
    logs = np.interp(places, [0, count - large, count], np.log([FEWEST_VALUES, middle, most]))
    return np.exp(logs)


def _repeats(sizes: NDArray[Any], repeats: int) -> NDArray[np.int64]:
    """How often to measure each: so often, and more often what is small."""
    more = repeats * sizes.max() / (SMALL * sizes)
    return np.asarray(np.clip(more, repeats, MOST_REPEATS).astype(np.int64))


def _seconds_of(ranks: Ranks, ways: list[Way], values: int, rng: np.random.Generator) -> float:
    """Of an average of so many values in each of these ways."""
    timed = Timed(ranks, ways, values, _states(ranks, values))
    timed.measure(2, rng)
    return sum(float(np.median(times[1].sum(1))) for times in timed.seconds().values())


def _turns(repeats: list[int], in_turn: int, rng: np.random.Generator) -> list[tuple[float, int, int]]:
    """When, as a part of the time that there is, which size and how often: each size's turns lie all over it."""
    turns = []
    for place, often in enumerate(repeats):
        parts = np.array_split(np.arange(often), max(2, often // in_turn))
        times = (np.arange(len(parts)) + rng.random(len(parts))) / len(parts)
        turns += [(float(at), place, len(part)) for at, part in zip(times, parts, strict=True) if len(part)]
    return sorted(turns)


def adding(values: int = 2**20) -> dict[str, list[float]]:
    """Seconds per byte to add two arrays that no cache holds, several times, by reduction."""
    found = {}
    for reduction, kind in KINDS.items():
        size = values * 8 // BYTES[reduction]
        total, parts = np.ones(size, kind), np.ones((4, size), kind)
        found[reduction] = [_timed_add(total, part) / total.nbytes for part in (*parts, *parts)]
    return found


def _timed_add(total: NDArray[Any], part: NDArray[Any]) -> float:
    began = time.perf_counter()
    total += part
    return time.perf_counter() - began
