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
from distsgd.machine.nearness import alike, nearness, return_to
from distsgd.machine.networks import parameters_of, plan_of
from distsgd.machine.rounds import IMAGES, timed_rounds
from distsgd.machine.steps import Make, experiment
from distsgd.plan.work import flops_of, network_text
from distsgd.training import Experiment
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
PATIENCE = 4.0
"""Seconds in which what was measured while cores lay elsewhere is measured again."""
SIZES = 4
"""Networks whose states are averaged, from the smallest to the largest."""


def in_place(
    path: Path,
    names: Sequence[str],
    messages: dict[str, Any],
    steps: Sequence[Step],
    ranks: Ranks,
    threads: int,
    near: float | None,
    say: Callable[[str], None],
) -> list[InPlace]:
    """Every topology and reduction, for states and for gradients, on ranks of so many threads; what rank 0 returns counts.

    messages, steps: as the machine file will hold them. near: how near ranks should lie, see nearness; what was measured while
    they did not is measured again, as far as patience goes.
    """
    make = partial(experiment, path, ranks=ranks.size, threads=threads)
    ordered = sorted(names, key=parameters_of)
    some = dict.fromkeys(ordered[round(n)] for n in np.linspace(0, len(ordered) - 1, SIZES))
    wanted = [(name, way) for name in some for way in _ways_of(name, ranks.size)]
    found: dict[tuple[str, _Way], list[InPlace]] = {}

    def look(name: str, way: _Way) -> None:
        before = nearness(ranks)
        found[name, way] = list(_one(make, name, way, messages, steps, ranks))
        if alike(near, before, nearness(ranks)):
            wanted.remove((name, way))

    for one in wanted.copy():
        look(*one)
    until = time.monotonic() + PATIENCE
    while wanted and return_to(ranks, near, until):
        look(*wanted[0])
    if wanted:
        say(f"{len(wanted)} averages between steps are of cores that lay elsewhere")
    return list(chain(*found.values()))


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
            ("parameters", MANY, _much(name, hosted * ranks)),
            ("gradients", FEW, 1),
            ("gradients", 2 * MANY, 1),
        ):
            for topology, reduction in WAYS if ranks > 1 else WAYS[:2]:
                yield _Way(hosted, what, lanes, period, topology, reduction)


def _much(name: str, workers: int) -> int:
    """Steps between two averages, as many as are much, or as a worker has."""
    wanted = round(MUCH / (flops_of(plan_of(name)) * MANY))
    return max(1, min(wanted, IMAGES // (workers * MANY)))


def _one(
    make: Make, name: str, way: _Way, messages: dict[str, Any], steps: Sequence[Step], ranks: Ranks
) -> Iterator[InPlace]:
    settings = {part: getattr(way, part) for part in ("what", "period", "topology", "reduction")}
    made = make(name, way.lanes, {"workers": way.hosted * ranks.size, **settings})
    rounds = timed_rounds(made, ranks, SECONDS)
    own = {phase: float(np.median(rounds[phase])) for phase in ("average", "compute")}
    of_ranks = [json.loads(part) for part in ranks.gather_bytes(json.dumps(own).encode())]
    if of_ranks:
        average = asked(made, ranks.size, 1)
        expected = averaging_estimate(messages, average).whole.seconds
        computed = float(np.mean([rank["compute"] for rank in of_ranks]))
        averages = [rank["average"] for rank in of_ranks]
        single = way.period == way.hosted == 1
        yield InPlace(
            topology=way.topology,
            reduction=way.reduction,
            kept=average.kept,
            hosted=way.hosted,
            ranks=ranks.size,
            values=average.values,
            flops=flops_of(made.stages) * way.lanes * way.period * way.hosted,
            factor=float(np.mean(averages)) / expected,
            latest=max(averages) / float(np.mean(averages)),
            cooled=_cooled(made, computed, way.lanes, steps, ranks) if single else None,
        )


def _cooled(
    made: Experiment, computed: float, lanes: int, steps: Sequence[Step], ranks: Ranks
) -> float | None:
    """What a step between two averages took more than one in a row: of small batches, where it is more than chance."""
    same = [
        step for step in steps if step.network == network_text(made.stages) and step.together == ranks.size
    ]
    if ranks.size == 1 or lanes > FEW or not same:
        return None
    return max(computed - between(same[0].lanes, same[0].compute, lanes), LEAST)
