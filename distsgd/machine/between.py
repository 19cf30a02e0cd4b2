"""Averages between steps of training: not as fast or as slow as one after another, as steps leave them other caches.

How much so depends on how much is computed from one average to the next: after a step of microseconds all is still there, after
ten milliseconds not even the interpreter's own memory is near.
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
from distsgd.cost.machine import InPlace, Step
from distsgd.machine.nearness import alike, commonest, nearness, return_to
from distsgd.machine.networks import parameters_of, plan_of
from distsgd.machine.rounds import IMAGES, timed_rounds
from distsgd.machine.steps import Make, experiment
from distsgd.plan.work import flops_of, network_text
from distsgd.training.algorithm import asked

SECONDS = 0.02
WAYS = [(topology, reduction) for topology in ("allreduce", "master") for reduction in ("exact", "fast")]
"""One rank alone does the same in either topology."""
FEW, MANY = 16, 64
"""Lanes of the steps between two averages: of one step, and of as many as compute MUCH."""
MUCH = 4e8
"""Operations forward from one average to the next: ten milliseconds, after which no cache holds what an average needs."""
LEAST = 1e-6
"""Seconds: less than what an average does to caches."""
PATIENCE = 3.0
"""Seconds in which what was measured while cores lay elsewhere is measured again."""
SIZES = 4
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

    All ranks `visit` together, some time apart: for some seconds other users of a cache leave less of it.
    """

    def __init__(self, path: Path, names: Sequence[str], messages: dict[str, Any], threads: int) -> None:
        """messages: as the machine file will hold them."""
        self._path, self._messages, self._threads = path, messages, threads
        ordered = sorted(names, key=parameters_of)
        self._names = list(dict.fromkeys(ordered[round(n)] for n in np.linspace(0, len(ordered) - 1, SIZES)))
        self._found: dict[tuple[str, _Way], list[_Visit]] = {}

    def visit(self, ranks: Ranks, again: bool = False) -> None:
        """Look at each once. again: only after much computing, where few rounds fit into a look."""
        for name in self._names:
            for way in _ways_of(name, ranks.size):
                if way.lanes > FEW or not again:
                    self._look(name, way, ranks)

    def _look(self, name: str, way: "_Way", ranks: Ranks) -> None:
        make = partial(experiment, self._path, ranks=ranks.size, threads=self._threads)
        before = nearness(ranks)
        looks = list(_one(make, name, way, self._messages, ranks))
        self._found.setdefault((name, way), []).append(_Visit(looks, (before, nearness(ranks))))

    def found(self, ranks: Ranks, say: Callable[[str], None]) -> tuple[list[Look], float | None]:
        """All looks; and how near ranks lay at most of them, see nearness, on all ranks. Those at which they lay otherwise do not
        count, and are made again where there is no other, as far as patience goes.
        """
        visits = list(chain(*self._found.values()))
        near, until = commonest([each for one in visits for each in one.near]), time.monotonic() + PATIENCE
        while elsewhere := [key for key, of_one in self._found.items() if not _there(of_one, near)]:
            if not return_to(ranks, near, until):
                say(
                    f"{len(elsewhere)} averages between steps are of cores that lay elsewhere; another time they may stay"
                )
                break
            self._look(*elsewhere[0], ranks)
        count = [_there(of_one, near) or of_one for of_one in self._found.values()]
        return [look for visit in chain(*count) for look in visit.looks], near


@dataclass(frozen=True)
class _Visit:
    """A look, on rank 0; and how near ranks lay before and after, see nearness."""

    looks: list[Look]
    near: tuple[float | None, float | None]


def _there(visits: Sequence[_Visit], near: float | None) -> list[_Visit]:
    """Those at which ranks lay so near."""
    return [one for one in visits if alike(near, *one.near)]


@dataclass(frozen=True)
class _Way:
    """How a network is averaged: by so many workers of each rank, after so many steps on batches with room for so many images."""

    hosted: int
    what: str
    lanes: int
    period: int
    topology: str
    reduction: str


def _ways_of(name: str, ranks: int) -> Iterator[_Way]:
    """After little computing and after much; by one worker of a rank, and by several, which add sums. One rank alone has
    several, or there would be nothing to average.
    """
    for hosted in (1, 2) if ranks > 1 else (2,):
        for what, lanes, period in (
            ("parameters", FEW, 1),
            ("parameters", MANY, _much(name, hosted, ranks)),
            ("gradients", FEW, 1),
            ("gradients", 2 * MANY, 1),
        ):
            for topology, reduction in WAYS if ranks > 1 else WAYS[:2]:
                yield _Way(hosted, what, lanes, period, topology, reduction)


def _much(name: str, hosted: int, ranks: int) -> int:
    """Steps of a worker between two averages, as many as are much of a rank, or as a worker's images last for at least."""
    wanted = round(MUCH / (flops_of(plan_of(name)) * MANY * hosted))
    return max(1, min(wanted, IMAGES // (hosted * ranks * MANY)))


def _one(make: Make, name: str, way: _Way, messages: dict[str, Any], ranks: Ranks) -> Iterator[Look]:
    settings = {part: getattr(way, part) for part in ("what", "period", "topology", "reduction")}
    made = make(name, way.lanes, {"workers": way.hosted * ranks.size, **settings})
    rounds = timed_rounds(made, ranks, SECONDS)
    own = {phase: float(np.median(rounds[phase])) for phase in ("average", "compute")}
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
        )
        single = way.period == way.hosted == 1 < ranks.size and way.lanes <= FEW
        computed = float(np.mean([rank["compute"] for rank in of_ranks])) if single else None
        yield Look(network_text(made.stages), way.lanes, found, computed)
