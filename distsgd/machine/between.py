"""Averages between steps of training: not as fast or as slow as one after another, as steps leave them other caches.

How much so depends on how much is computed from one average to the next: after a step of microseconds all is still there, after
ten milliseconds not even the interpreter's own memory is near, after forty a cache that cores share has other things as well.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.comm import Ranks
from distsgd.cost.averaging import averaging_estimate
from distsgd.cost.curve import between
from distsgd.cost.estimate import median_error
from distsgd.cost.machine import InPlace, Step
from distsgd.kernels.vector import LANES
from distsgd.machine.nearness import alike, commonest, nearness, return_to
from distsgd.machine.networks import parameters_of, plan_of
from distsgd.machine.rounds import timed_rounds
from distsgd.machine.steps import Make, described, experiment
from distsgd.plan.work import flops_of, network_text
from distsgd.training.algorithm import asked

SECONDS = 0.012
WAYS = [(topology, reduction) for topology in ("allreduce", "master") for reduction in ("exact", "fast")]
"""One rank alone does the same in either topology."""
FEW, MANY, LARGEST = 16, 64, 256
"""Lanes of the steps between two averages: of one step, of as many as compute MUCH, and MORE. Between gradients lies one step, of
FEW or of twice MANY.
"""
MUCH, MORE = 4e8, 1.6e9
"""Operations forward from one average to the next, of a rank: ten milliseconds, after which no cache of its own holds what an
average needs; and forty, after which one that it shares does not.
"""
LEAST = 1e-6
"""Seconds: less than what an average does to caches."""
PATIENCE = 5.0
"""Seconds in which what was measured while cores lay elsewhere is measured again."""
SIZES = 3
"""Networks whose states are averaged, from the smallest to the largest."""


@dataclass(frozen=True)
class Look:
    """An average between steps, and seconds of the computing between two."""

    network: str
    lanes: int
    found: InPlace
    computed: float | None
    """None: of several steps, or of more images than where caches that an average left otherwise can be told from chance."""

    def told(self, steps: Sequence[Step]) -> InPlace:
        """With what a step between two averages takes more than one in a row. steps: as the machine file will hold them."""
        same = [step for step in steps if (step.network, step.together) == (self.network, self.found.ranks)]
        if self.computed is None or not same:
            return self.found
        more = self.computed - between(same[0].lanes, same[0].compute, self.lanes)
        return self.found.model_copy(update={"cooled": max(more, LEAST)})


class Between:
    """Every topology and reduction, for states and for gradients, on ranks of so many threads; what rank 0 finds counts.

    All ranks `visit` together, twice and some time apart: for some seconds other users of a cache leave less of it. So what is
    seen after much computing is of one time for one network, and of another for the next larger one.
    """

    def __init__(self, path: Path, names: Sequence[str], messages: dict[str, Any], threads: int) -> None:
        """messages: as the machine file will hold them."""
        self._path, self._messages, self._threads = path, messages, threads
        ordered = sorted(names, key=parameters_of)
        self._names = list(dict.fromkeys(ordered[round(n)] for n in np.linspace(0, len(ordered) - 1, SIZES)))
        self._images = described(path).counts["train"]
        self._found: dict[tuple[str, _Way], list[Look]] = {}
        self._near: dict[tuple[str, _Way], tuple[float | None, float | None]] = {}
        """How near ranks lay before and after, see nearness."""

    def visit(self, number: int, ranks: Ranks) -> None:
        """What is seen at the visit of that number, 0 or 1: after little computing all at the first."""
        for place, name in enumerate(self._names):
            for way in _ways_of(name, ranks.size, self._images):
                if number == ((place + way.level) % 2 if way.level else 0):
                    self._look(name, way, ranks)

    def _look(self, name: str, way: "_Way", ranks: Ranks) -> None:
        make = partial(experiment, self._path, ranks=ranks.size, threads=self._threads)
        before = nearness(ranks)
        self._found[name, way] = list(_one(make, name, way, self._messages, ranks))
        self._near[name, way] = before, nearness(ranks)

    def found(self, ranks: Ranks, say: Callable[[str], None]) -> tuple[list[Look], float | None]:
        """All looks; and how near ranks lay at most of them, on all ranks. Those at which they lay otherwise are made again, as far
        as patience goes.
        """
        near, until = commonest(list(chain(*self._near.values()))), time.monotonic() + PATIENCE
        while elsewhere := [one for one, both in self._near.items() if not alike(near, *both)]:
            if not return_to(ranks, near, until):
                say(
                    f"{len(elsewhere)} averages between steps are of cores that lay elsewhere; another time they may stay"
                )
                break
            self._look(*elsewhere[0], ranks)
        return list(chain(*self._found.values())), near


@dataclass(frozen=True)
class _Way:
    """How a network is averaged: by so many workers of each rank, after so many steps on batches of so many images."""

    hosted: int
    what: str
    lanes: int
    period: int
    topology: str
    reduction: str
    level: int
    """0: after little computing, 1: after MUCH, or of gradients after a large batch, 2: after MORE."""


def _ways_of(name: str, ranks: int, images: int) -> Iterator[_Way]:
    """By one worker of a rank, and by several, which add sums. One rank alone has several, or there would be nothing to average."""
    for hosted in (1, 2) if ranks > 1 else (2,):
        flops, own = flops_of(plan_of(name)) * hosted, -(-images // (hosted * ranks))
        steps = partial(_steps, flops, own)
        levels = [
            *(("parameters", FEW, 1, 0), ("parameters", MANY, steps(MANY, MUCH), 1)),
            *(("gradients", FEW, 1, 0), ("gradients", 2 * MANY, 1, 1)),
        ]
        more = steps(LARGEST, MORE)
        fits = own >= LARGEST and flops * LARGEST <= 2 * MORE
        if fits and LARGEST * more >= 2 * MANY * steps(MANY, MUCH):
            levels.append(("parameters", LARGEST, more, 2))
        for what, lanes, period, level in levels:
            for topology, reduction in WAYS if ranks > 1 else WAYS[:2]:
                yield _Way(hosted, what, min(lanes, own), period, topology, reduction, level)


def _steps(flops: float, images: int, lanes: int, much: float) -> int:
    """Of a worker between two averages, as many as are so much of a rank, or as the worker's images last for at least.

    flops: for an image of each worker of a rank.
    """
    return max(1, min(round(much / (flops * lanes)), images // lanes))


def _one(make: Make, name: str, way: _Way, messages: dict[str, Any], ranks: Ranks) -> Iterator[Look]:
    settings = {part: getattr(way, part) for part in ("what", "period", "topology", "reduction")}
    made = make(name, way.lanes, {"workers": way.hosted * ranks.size, **settings})
    rounds = timed_rounds(made, ranks, SECONDS)
    own = {phase: float(np.median(rounds[phase])) for phase in ("average", "compute")}
    own["error"] = median_error(rounds["average"].tolist())
    of_ranks = [json.loads(part) for part in ranks.gather_bytes(json.dumps(own).encode())]
    if of_ranks:
        average = asked(made, ranks.size, 1)
        averages = [rank["average"] for rank in of_ranks]
        found = InPlace(
            topology=way.topology,
            reduction=way.reduction,
            kept=average.kept,
            hosted=way.hosted,
            ranks=ranks.size,
            values=average.values,
            flops=flops_of(made.stages) * way.lanes * way.period * way.hosted,
            factor=float(np.mean(averages)) / averaging_estimate(messages, average).whole.seconds,
            latest=max(averages) / float(np.mean(averages)),
            error=float(np.mean([rank["error"] for rank in of_ranks])),
        )
        single = way.period == way.hosted == 1 < ranks.size and way.lanes <= FEW
        computed = float(np.mean([rank["compute"] for rank in of_ranks])) if single else None
        yield Look(network_text(made.stages), -(-way.lanes // LANES) * LANES, found, computed)
