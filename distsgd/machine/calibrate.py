"""All that a machine file holds, measured by the ranks there are: under a minute for two."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distsgd import __version__
from distsgd.comm import Alone, Ranks
from distsgd.cost.curve import between
from distsgd.cost.machine import Filling, Machine, Operation, Step
from distsgd.machine import averaging
from distsgd.machine.networks import FEW_LANES, LAYERS_OF, NETWORKS, images_of
from distsgd.machine.once import once
from distsgd.machine.operations import LOSS
from distsgd.machine.passes import merged, passes
from distsgd.machine.rounds import made_up
from distsgd.machine.steps import Seconds, filling_of, steps_of
from distsgd.machine.where import where

SWEEPS = 2
"""How often steps are measured, so that what passes by does not fall on one network alone."""
STATES = {"sgd": 2, "adam": 3}
"""Values that an optimizer keeps for each parameter, itself included."""
SLEEP = 0.01
"""Seconds between two looks of a rank that waits, so that it takes nothing from the one that computes."""

Files = Mapping[tuple[int, int, int], Path]


class Calibration:
    """What the ranks find, on every rank as far as it took part, and whole on rank 0."""

    def __init__(self, ranks: Ranks, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._ranks, self._names, self._say = ranks, list(names) or list(NETWORKS), say
        self._steps: list[Step] = []
        self._operations: list[Operation] = []
        self._filling: list[Filling] = []
        self._copy = 0.0

    def machine(self, seconds: Mapping[str, float]) -> Machine | None:
        """Measure everything. `seconds`: what a process takes before its first round, see once. None on ranks but 0."""
        here = self._ranks.on_node()[1]
        with ExitStack() as stack:
            shapes = dict.fromkeys(map(images_of, self._names))
            files = {shape: stack.enter_context(made_up(shape)) for shape in shapes}
            self._say("one rank computes")
            if self._ranks.rank == 0:
                self._computing(Alone(), files, 1)
                self._ranks.shout()
            else:
                sleep_until(self._ranks.hears)
            if self._ranks.size > 1:
                self._say(f"{here} ranks of a node compute together")
                self._computing(self._ranks, files, here)
            self._say("averages")
            messages = averaging.measure(self._ranks)
            place = where(self._ranks)
            if self._ranks.rank != 0:
                return None
            shape, path = next(iter(files.items()))
            times = {**once(path, int(np.prod(shape))), **seconds, "copy": self._copy}
        return Machine(
            version=__version__,
            where=place,
            steps=tuple(self._steps),
            operations=tuple(self._operations),
            filling=tuple(self._filling),
            overhead=self._overhead(),
            once=times,
            averaging=messages,
        )

    def _computing(self, ranks: Ranks, files: Files, together: int) -> None:
        """Steps and passes, all of these ranks at once."""
        found = {shape: Seconds() for shape in files}
        for _ in range(SWEEPS):
            for shape, path in files.items():
                found[shape].sweep(path, self._of(shape), ranks)
        for shape, path in files.items():
            of_ranks = [Seconds(**content) for content in _gathered(ranks, asdict(found[shape]))]
            if of_ranks:
                self._steps += steps_of(path, self._of(shape), together, of_ranks)
                self._filling += filling_of(shape, self._of(shape), together, of_ranks)
                self._copy = _copied(self._steps, of_ranks, self._of(shape))
        for name in dict.fromkeys([*self._names, *LAYERS_OF]):
            ranks.barrier()
            own = [operation.model_dump() for operation in passes(name, FEW_LANES, together)]
            of_each = _gathered(ranks, own)
            self._operations += merged([Operation(**each) for each in one] for one in of_each)

    def _of(self, shape: tuple[int, int, int]) -> list[str]:
        return [name for name in self._names if images_of(name) == shape]

    def _overhead(self) -> float:
        """Seconds of a step beside its operations: the median over networks and batches."""
        found = []
        for step in self._steps:
            alike = [o for o in self._operations if o.together == step.together]
            mine = [o for o in alike if o.key in step.network.split("; ") or o.what == LOSS]
            mine += [o for o in alike if o.kind == step.optimizer and o.weights == 4 * step.parameters]
            unique = {(o.key, o.what): o for o in mine}.values()
            for place, lanes in enumerate(step.lanes):
                if lanes in FEW_LANES:
                    of_passes = sum(between(o.lanes, o.seconds, lanes) for o in unique)
                    found.append(step.compute[place] - of_passes)
        return max(float(np.median(found)), 0.0)


def _gathered(ranks: Ranks, content: Any) -> list[Any]:
    return [json.loads(part) for part in ranks.gather_bytes(json.dumps(content).encode())]


def sleep_until(done: Callable[[], bool]) -> None:
    """Wait without taking anything from those that compute."""
    while not done():
        time.sleep(SLEEP)


def _copied(steps: Sequence[Step], of_ranks: Sequence[Seconds], names: Sequence[str]) -> float:
    """Seconds a value of copying a worker's state where there is no other to average with."""
    values = [step.parameters * STATES[step.optimizer] for step in steps[-len(names) :]]
    seconds = [np.median([rank.copy[name] for rank in of_ranks]) for name in names]
    return float(np.median(np.array(seconds) / values))
