"""All that a machine file holds, measured by the ranks there are."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from distsgd import __version__
from distsgd.comm import Alone, Ranks
from distsgd.cost.curve import between
from distsgd.cost.machine import Copying, Filling, Machine, Operation, Step, Whole
from distsgd.machine import averaging
from distsgd.machine.between import Between, Look
from distsgd.machine.jitter import jitter
from distsgd.machine.networks import FEW_LANES, LAYERS_OF, NETWORKS, SOME_LANES, images_of
from distsgd.machine.once import once
from distsgd.machine.passes import merged, passes, quietest
from distsgd.machine.peak import peak
from distsgd.machine.rounds import made_up
from distsgd.machine.steps import Seconds, copying_of, drift, filling_of, steps_of
from distsgd.machine.where import kernels, where
from distsgd.plan.layers import LOSS

AVERAGING_SECONDS, OVER_NETWORK = 0.7, 8.0
"""For all ways to average, about, a sweep: on one node, and on several, which take so much longer for the same."""
SLEEP = 0.01
"""Seconds between two looks of a rank that waits, so that it takes nothing from the one that computes."""

Shape = tuple[int, int, int]
Files = Mapping[Shape, Path]


class Calibration:
    """What the ranks find, on every rank as far as it took part, and whole on rank 0."""

    def __init__(
        self,
        ranks: Ranks,
        names: Sequence[str],
        say: Callable[[str], None],
        sweeps: int,
        threads: int = 1,
    ) -> None:
        """Of the default networks if none are named. sweeps: how often to measure steps: what passes by falls on one.

        threads: of each rank.
        """
        self._sweeps, self._threads = sweeps, threads
        self._ranks, self._names, self._say = ranks, list(dict.fromkeys(names or NETWORKS)), say
        here = np.array([ranks.on_node()[1]])
        ranks.maximum(here)
        self._here = int(here[0])
        """Ranks of the node that has most of them: all ranks do the same, however many are on theirs."""
        self._fewer = fewer(ranks, self._here)
        self._steps: list[Step] = []
        self._passes: dict[int, list[list[Operation]]] = {}
        """By how many computed together: what was found each time."""
        self._filling: list[Filling] = []
        self._looks: list[Look] = []
        self._copying: list[Copying] = []
        self._kernels = kernels()
        """Of the code that is measured, whatever happens to the sources meanwhile."""
        self._near: float | None = None
        """How near to each other ranks lie whose steps the file tells of, see nearness."""
        self._swept: dict[int, dict[Shape, list[Seconds]]] = {}
        """What ranks found that count, by how many computed together and by shape."""

    def machine(self, start: float) -> Machine | None:
        """Measure everything. start: seconds that a process took to begin. None on ranks but 0."""
        with ExitStack() as stack:
            shapes = dict.fromkeys(map(images_of, self._names))
            files = {shape: stack.enter_context(made_up(shape)) for shape in shapes}
            sides = sorted({1, self._here})
            found = {side: {shape: Seconds() for shape in files} for side in (*sides, *self._fewer)}
            self._visit_passes(sides[-1:], 1)  # of one rank alone once, as time is short
            for sweep in range(self._sweeps):
                if sweep == self._sweeps // 2:  # far apart, sweeps see the machine at more times
                    self._visit_passes(sides, 2)
                    messages = self._averages()
                    shape, path = next(iter(files.items()))
                    looking = self._between(path, self._of(shape), messages)
                    self._visit(looking, 0)
                self._say(f"steps of training, {sweep + 1} of {self._sweeps}")
                for side in found:
                    self._together(side, partial(self._sweep, found[side], files))
            self._visit(looking, 1)
            self._on_each(looking, self._looked)
            for side in sides:
                self._together(side, partial(self._settled, found[side], files))
                self._together(side, partial(self._gather, found[side], side, self._near))
            for side in self._fewer:
                self._together(side, partial(self._gather, found[side], side, None))
            self._tell(files)
            hosts = _gathered(self._ranks, platform.node())
            place = where(self._ranks, self._threads).model_copy(
                update={"nearness": self._near, "kernels": self._kernels}
            )
            if self._ranks.rank != 0:
                return None
            times = {**once(path, int(np.prod(shape))), "start": start}
        return Machine(
            version=__version__,
            where=place,
            steps=tuple(self._steps),
            operations=tuple(self._operations),
            filling=tuple(self._filling),
            wholes=tuple(self._wholes()),
            in_place=tuple(look.told(self._steps) for look in self._looks),
            copying=tuple(self._copying),
            once=times,
            averaging=messages,
            jitter=jitter(list(self._swept[sides[-1]].values()), hosts),
            peak=peak(),
        )

    def _together(self, side: int, do: Callable[[Ranks], None]) -> None:
        """So many ranks of a node at once: on all nodes where that is all of its ranks, else on the first of rank 0's."""
        if side in self._fewer:
            self._first(side, do)
        elif side < self._here:
            self._alone(do)
        else:
            self._ranks.barrier()
            do(self._ranks)

    def _first(self, side: int, do: Callable[[Ranks], None]) -> None:
        """On so many ranks while the others sleep."""
        part = self._ranks.first(side)
        if part:
            do(part)
            part.barrier()
            part.close()
        if self._ranks.rank == 0:
            self._ranks.shout()
        else:
            sleep_until(self._ranks.hears)

    def _alone(self, do: Callable[[Ranks], None]) -> None:
        """On rank 0 while the others sleep."""
        self._ranks.barrier()
        if self._ranks.rank == 0:
            do(Alone())
            self._ranks.shout()
        else:
            sleep_until(self._ranks.hears)

    def _sweep(self, found: Mapping[Shape, Seconds], files: Files, ranks: Ranks) -> None:
        for shape, path in files.items():
            found[shape].sweep(path, self._of(shape), ranks, self._threads)

    def _settled(self, found: Mapping[Shape, Seconds], files: Files, ranks: Ranks) -> None:
        """Steps, as averages between them, are of ranks that lie so near; networks that never were measured so are once more."""
        lacking = {shape: one.lacking(self._near) for shape, one in found.items()}
        if any(lacking.values()):
            self._say("some steps of training once more, as cores lay elsewhere")
        for shape, names in lacking.items():
            found[shape].sweep(files[shape], names, ranks, self._threads)
        if any(one.lacking(self._near) for one in found.values()):
            self._say("some steps are of cores that lay elsewhere; another time they may stay")

    def _between(self, path: Path, names: Sequence[str], messages: dict[str, Any]) -> dict[int, Between]:
        """By how many ranks there are: one, and all if they are of one node; over a network they wait for it, not for memory."""
        counts = {1, self._ranks.size} if self._ranks.size <= self._here else {1}
        return {count: Between(path, names, messages, self._threads) for count in sorted(counts)}

    def _visit(self, looking: Mapping[int, Between], number: int) -> None:
        self._say(f"averages between steps, {number + 1} of 2")
        self._on_each(looking, lambda one, ranks: one.visit(number, ranks))

    def _on_each(self, looking: Mapping[int, Between], do: Callable[[Between, Ranks], None]) -> None:
        for count, one in looking.items():
            if count == 1:
                self._alone(partial(do, one))
            else:
                self._together(count, partial(do, one))

    def _looked(self, one: Between, ranks: Ranks) -> None:
        looks, self._near = one.found(ranks, self._say)
        self._looks += looks

    def _averages(self) -> dict[str, Any]:
        self._say("averages")
        seconds = OVER_NETWORK if self._ranks.size > self._here else AVERAGING_SECONDS
        return averaging.measure(self._ranks, seconds * self._sweeps)

    def _gather(
        self, found: Mapping[Shape, Seconds], together: int, near: float | None, ranks: Ranks
    ) -> None:
        self._swept[together] = {
            shape: [Seconds(**content) for content in _gathered(ranks, asdict(one.there(near)))]
            for shape, one in found.items()
        }

    def _tell(self, files: Files) -> None:
        """What the sweeps come to; nothing on ranks but 0. How sure that is they say together: of one rank or of one network,
        strangers may have slowed all that there is.
        """
        if self._ranks.rank > 0:
            return
        deviation = drift(chain(*(of_ranks for swept in self._swept.values() for of_ranks in swept.values())))
        for together, swept in self._swept.items():
            for shape, of_ranks in swept.items():
                if of_ranks:
                    path, names = files[shape], self._of(shape)
                    self._steps += steps_of(path, names, together, of_ranks, deviation)
                    self._filling += filling_of(shape, names, together, of_ranks)
                    if together not in self._fewer:
                        self._copying += copying_of(path, names, of_ranks)

    def _visit_passes(self, sides: Sequence[int], number: int) -> None:
        self._say(f"passes of layers, {number} of 2")
        for side in sides:
            self._passes.setdefault(side, []).append([])
            self._together(side, partial(self._pass, side))

    def _pass(self, together: int, ranks: Ranks) -> None:
        others = LAYERS_OF if together == self._here else ()
        for name in dict.fromkeys([*self._names, *others]):
            lanes = SOME_LANES if name in self._names else FEW_LANES
            own = passes(name, lanes, together, ranks.barrier, self._threads)
            of_each = _gathered(ranks, [operation.model_dump() for operation in own])
            self._passes[together][-1] += merged([Operation(**each) for each in one] for one in of_each)

    @property
    def _operations(self) -> list[Operation]:
        """All passes, each of its quietest time."""
        return list(chain(*(quietest(times) for times in self._passes.values())))

    def _of(self, shape: tuple[int, int, int]) -> list[str]:
        return [name for name in self._names if images_of(name) == shape]

    def _wholes(self) -> Iterator[Whole]:
        """Every network's steps over the sum of their operations, where both were measured."""
        operations = self._operations
        for step in self._steps:
            if step.together in self._fewer:
                continue
            alike = [o for o in operations if o.together == step.together]
            mine = [o for o in alike if o.key in step.network.split("; ") or o.what == LOSS]
            mine += [o for o in alike if o.kind == step.optimizer and o.weights == 4 * step.parameters]
            unique = {(o.key, o.what): o for o in mine}.values()
            for place, lanes in enumerate(step.lanes):
                if lanes in SOME_LANES:
                    of_passes = sum(between(o.lanes, o.seconds, lanes) for o in unique if len(o.lanes) > 1)
                    of_passes += sum(o.seconds[0] for o in unique if len(o.lanes) == 1)
                    yield Whole(
                        together=step.together,
                        parameters=step.parameters,
                        lanes=lanes,
                        factor=step.compute[place] / of_passes,
                    )


def fewer(ranks: Ranks, here: int) -> tuple[int, ...]:
    """With how many ranks of a node steps are measured between one and all: 2, 4, 8 ... All ranks call this.

    Nothing where the first ranks are not those of one node.
    """
    place, _ = ranks.on_node()  # which all call, whoever asks
    elsewhere = np.array([ranks.rank < here and place != ranks.rank], np.int64)
    ranks.maximum(elsewhere)
    return () if elsewhere[0] else tuple(1 << n for n in range(1, here.bit_length()) if 1 << n < here)


def _gathered(ranks: Ranks, content: Any) -> list[Any]:
    return [json.loads(part) for part in ranks.gather_bytes(json.dumps(content).encode())]


def sleep_until(done: Callable[[], bool]) -> None:
    """Wait without taking anything from those that compute."""
    while not done():
        time.sleep(SLEEP)
