"""Averages of one size in several ways, timed call by call, as a round uses them. All ranks do the same together."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distsgd.comm import Allreduce, Average, Exact, Fast, Master, Ranks

CALLS = ("begin", "add", "again", "exchange", "finish", "kept", "several")
LEFT_OUT = 1 / 8
"""Of repeats, at either end, when their mean is taken; one at least."""


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


class Timed:
    """Averages of so many values in some ways, and what they took."""

    def __init__(self, ranks: Ranks, ways: list[Way], values: int, states: NDArray[np.float32]) -> None:
        """states: (2, at least so many values) that workers may have."""
        self._ranks, self.values = ranks, values
        self._averages = {way: way.average(ranks, values) for way in ways}
        self._states, self._out = states[:, :values], np.ones(values, np.float32)
        self._wish = np.zeros(1, np.int64)
        for average, ran in self._averages.values():
            if ran == "shared":
                average.own[:] = self._states[1]
        self._times: dict[Way, list[list[int]]] = {way: [] for way in ways}
        """Nanoseconds of this rank, for each repeat those of CALLS."""
        self._cold = True

    def ran(self, way: Way) -> str:
        """What added."""
        return self._averages[way][1]

    def measure(self, repeats: int, rng: np.random.Generator) -> None:
        """All ways so many times more, in random order; the first time after a warm-up."""
        ways = list(self._averages)
        for way in ways if self._cold else ():
            self._once(way, self._out)
        self._cold = False
        for _ in range(repeats):
            self.again(ways[number] for number in rng.permutation(len(ways)).tolist())

    def again(self, ways: Iterable[Way]) -> None:
        """Each of these once more."""
        for way in ways:
            self._times[way].append(self._once(way, None))

    def _once(self, way: Way, reference: NDArray[np.float32] | None) -> list[int]:
        average, ran = self._averages[way]
        return _once(self._ranks, average, reference, self._states, self._wish, self._out, ran == "shared")

    def seconds(self) -> dict[Way, NDArray[np.float64]]:
        """For each way (2, repeats, calls): the mean over ranks, and the last rank's."""
        mean = np.concatenate([np.array(times) for times in self._times.values()])
        latest = mean.copy()
        self._ranks.sum(mean)
        self._ranks.maximum(latest)
        both = np.stack([mean / self._ranks.size, latest]) * 1e-9
        ends = np.cumsum([len(times) for times in self._times.values()])
        return dict(zip(self._times, np.split(both, ends[:-1], axis=1), strict=True))


def middle(repeats: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the first axis of all but the largest and the least, an eighth at either end.

    An exchange that takes now one, now another time has no middle one to go by; of what disturbs one in eight nothing is seen.
    """
    count = len(repeats)
    out = min(max(1, round(LEFT_OUT * count)), (count - 1) // 2)
    return np.asarray(np.sort(repeats, axis=0)[out : count - out].mean(axis=0))


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

    Ranks meet as a round does before they exchange. shared: in memory, where workers compute in the average's own array, a
    gradient's average stays where it is made, and a rank with several workers leaves sums, which take longer than a state: how
    much is the last number.
    """
    now = time.perf_counter_ns
    vectors = (average.own, average.own) if shared else states
    average.begin(reference, 4)
    began = now()
    average.add(vectors[0], 1)
    first = now()
    average.add(vectors[1], 1, last=True)
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
    average.add(vectors[0], 1, last=True)
    added = now()
    ranks.maximum(wish)
    met = now()
    average.exchange()
    exchanged = now()
    average.finish(out)
    finished = now()
    if shared:
        average.finish(average.mean)
    kept = now() - finished if shared else finished - exchanged
    several = (sums - (added - begun) - (finished - met)) * shared
    return [begun - began, added - begun, both - first, exchanged - met, finished - exchanged, kept, several]
