"""Steps of training, measured as training does them: real rounds on made-up images, every rank by itself."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from distsgd import data
from distsgd.comm import Alone, Ranks
from distsgd.config import Config
from distsgd.cost.estimate import last_of
from distsgd.cost.machine import Copying, Filling, Step
from distsgd.machine.nearness import alike, nearness
from distsgd.machine.networks import LANES, lanes_of, parameters_of, plan_of
from distsgd.machine.rounds import timed_rounds
from distsgd.plan.work import STATES, flops_of, network_text
from distsgd.training import Experiment, check

SECONDS = 0.015
"""For each network and batch, each time."""
COPIED_AT = (LANES[0], LANES[3], LANES[-1])
WINDOWS_AT = (32, 128)
"""Lanes for which batches of windows are measured."""
LARGE, MUCH = 64, 5e8
"""Lanes, and operations forward, beyond which rounds have fewer steps."""
BEFOREHAND, AS_MANY = 0.025, 2
"""Deviation of the logarithm of a step's seconds from one run to another, as seen on several machines; and how many times as much
it counts as what sweeps differ by: these may agree by chance, or not.
"""


def experiment(
    path: Path,
    name: str,
    batch: int,
    averaging: dict[str, Any],
    ranks: int = 1,
    threads: int = 1,
    **more: Any,
) -> Experiment:
    """A network on made-up images, for so many ranks of so many threads; `more`: other sections of the config."""
    settings = {
        "data": {"path": str(path)},
        "network": {"name": name},
        "train": {"batch": batch, "epochs": 1_000_000, "threads": threads},
        "averaging": averaging,
        **more,
    }
    return check(Config.model_validate(settings), ranks, [], described(path))


described = cache(data.describe)
"""Each file is made up once, and looked at hundreds of times."""


def period(flops: float, lanes: int) -> int:
    """Steps of a round that is measured: so many that it is no instant, and so few that there are several in that time."""
    return max(1, min(8 if lanes <= LARGE else 2, round(MUCH / (flops * lanes))))


ALONE = {"workers": 1, "reduction": "fast"}
"""Averaging without another worker, which is a copy; "fast" needs no gradient beforehand to find its scale."""
KEPT = {**ALONE, "what": "gradients", "period": 1}
"""Averaging that copies nothing."""
LARGE_STATE = 2**20
"""Bytes of parameters from which on to copy a state makes the next step longer, where a core's own caches are no larger. Steps are
measured in rounds of one then, which copy nothing.
"""
Make = Callable[..., Experiment]
"""`experiment` on the images and with the threads that are measured."""
Meet = Callable[[], None]
"""Returns when all ranks have called."""


@dataclass
class Seconds:
    """Medians of a rank, a number for each sweep; JSON can hold it."""

    compute: dict[str, list[float]] = field(default_factory=dict)
    """Of a step, by network and lanes."""
    data: dict[str, list[float]] = field(default_factory=dict)
    """Of a step's batch, by network, lanes and whether windows were drawn."""
    turn: dict[str, list[float]] = field(default_factory=dict)
    """By network."""
    copy: dict[str, list[float]] = field(default_factory=dict)
    """Of one worker's average, which copies its state, by network and those lanes at which it is looked at."""
    kept: dict[str, list[float]] = field(default_factory=dict)
    """Likewise of a large gradient, which stays where it is and is looked through for what is not finite."""
    passing: dict[str, list[float]] = field(default_factory=dict)
    """Deviation of a step's logarithm from its median, by network and lanes."""
    near: dict[str, list[tuple[float | None, float | None]]] = field(default_factory=dict)
    """How near ranks lay before and after, by network."""

    def sweep(self, path: Path, names: Sequence[str], ranks: Ranks, threads: int) -> None:
        """Measure these networks once; ranks, of so many threads, begin each measurement together. Windows: of the first ever."""
        make = partial(experiment, path, threads=threads)
        for name in names:
            before = nearness(ranks)
            for lanes in lanes_of(name):
                self._steps(make, name, lanes, ranks.barrier)
            self._turn(make, name, 32, ranks.barrier)
            for lanes in WINDOWS_AT if name == next(iter(self.near), name) else ():
                self._windows(make, name, lanes, ranks.barrier)
            self.near.setdefault(name, []).append((before, nearness(ranks)))

    def lacking(self, near: float | None) -> list[str]:
        """Networks that never were measured while ranks lay so near."""
        return [name for name, times in self.near.items() if not any(alike(near, *each) for each in times)]

    def there(self, near: float | None) -> "Seconds":
        """The sweeps in which ranks lay so near; all those of a network that has none."""
        kept = {name: [alike(near, *each) for each in times] for name, times in self.near.items()}

        def of(lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
            return {key: list(compress(all_, kept[key.split()[0]])) or all_ for key, all_ in lists.items()}

        return Seconds(**{part.name: of(getattr(self, part.name)) for part in fields(self)})

    def _steps(self, make: Make, name: str, lanes: int, meet: Meet) -> None:
        steps, key = period(flops_of(plan_of(name)), lanes), f"{name} {lanes}"
        copying, large = {**ALONE, "period": steps}, 4 * parameters_of(name) > LARGE_STATE
        steps = 1 if large else steps
        found = timed_rounds(make(name, lanes, KEPT if large else copying), Alone(), SECONDS, meet)
        middle = float(np.median(found["compute"]))
        around = np.abs(np.log(found["compute"] / middle))
        _add(self.compute, key, middle / steps)
        _add(self.data, f"{key} {False}", of_later_rounds(found["data"]) / steps)
        _add(self.passing, key, 1.4826 * float(np.median(around)) * steps**0.5)
        if lanes in COPIED_AT:
            if large:
                _add(self.kept, key, float(np.median(found["average"])))
                found = timed_rounds(make(name, lanes, copying), Alone(), SECONDS, meet)
            _add(self.copy, key, float(np.median(found["average"])))

    def _turn(self, make: Make, name: str, lanes: int, meet: Meet) -> None:
        """What a round of one step takes more than a step, with two workers that take turns."""
        found = timed_rounds(make(name, lanes, {"workers": 2, "period": 1}), Alone(), SECONDS, meet)
        more = float(np.median(found["compute"])) / 2 - self.compute[f"{name} {lanes}"][-1]
        _add(self.turn, name, max(more, 0.0))

    def _windows(self, make: Make, name: str, lanes: int, meet: Meet) -> None:
        steps = period(flops_of(plan_of(name)), lanes)
        averaging = {**ALONE, "period": steps}
        found = timed_rounds(make(name, lanes, averaging, augment={"shift": 2}), Alone(), SECONDS, meet)
        _add(self.data, f"{name} {lanes} {True}", of_later_rounds(found["data"]) / steps)


def _add(lists: dict[str, list[float]], key: str, value: float) -> None:
    lists.setdefault(key, []).append(value)


def steps_of(
    path: Path, names: Sequence[str], together: int, of_ranks: Sequence[Seconds], deviation: float
) -> Iterator[Step]:
    """What ranks that computed together found, a network each. deviation: see `drift`."""
    for name in names:
        stages = experiment(path, name, LANES[0], {"workers": 1})
        keys = [f"{name} {lanes}" for lanes in lanes_of(name)]
        calm = np.array([[quiet(rank.compute[key]) for key in keys] for rank in of_ranks])
        data = np.array([[far(rank.data[f"{key} {False}"]) for key in keys] for rank in of_ranks])
        yield Step(
            network=network_text(stages.stages),
            optimizer=stages.config.optimizer.name,
            together=together,
            parameters=sum(stages.segments),
            lanes=lanes_of(name),
            compute=tuple(calm.mean(axis=0).tolist()),
            data=tuple(data.mean(axis=0).tolist()),
            deviation=deviation,
            turn=float(np.mean([quiet(rank.turn[name]) for rank in of_ranks])),
            passing=float(np.median([np.median(rank.passing[key]) for rank in of_ranks for key in keys])),
            lasting=apart(np.array([[rank.compute[key] for key in keys] for rank in of_ranks])),
        )


def apart(seconds: np.ndarray) -> float:
    """By how much ranks differ while they measure the same (ranks, measurements, sweeps): of the logarithm, such that `last_of`
    times it is the middle one of what the last rank takes longer than all in the mean.

    Of few ranks that is less than the deviation (0.8 of it for two), and what passes within SECONDS is in it. A core is slower than
    others for seconds: means over all sizes and sweeps would not show that.
    """
    logs = np.log(seconds)
    later = logs.max(axis=0) - logs.mean(axis=0)
    return float(np.median(later)) / last_of(len(seconds)) if len(seconds) > 1 else 0.0


def of_later_rounds(rounds: np.ndarray) -> float:
    """The median of the later half: images that were just read still lie nearer than they will in a run of seconds."""
    return float(np.median(rounds[len(rounds) // 2 :]))


def quiet(sweeps: Sequence[float]) -> float:
    """The mean of the lower half: what else a machine does makes some sweeps longer, and none shorter."""
    return float(np.mean(sorted(sweeps)[: -(-len(sweeps) // 2)]))


def far(sweeps: Sequence[float]) -> float:
    """The mean of the upper half: images lie nearer in a moment's measurement than in a run, as it has just read them all."""
    return float(np.mean(sorted(sweeps)[len(sweeps) // 2 :]))


def drift(of_ranks: Iterable[Seconds]) -> float:
    """Deviation of the logarithm of a step's seconds at another time from what all sweeps together say.

    Of a network's mean over all sizes, from sweep to sweep: what is over within a sweep evens out in a run of seconds. By the
    median, as a few sweeps do not move what is predicted either. Two sweeps say little: see BEFOREHAND.
    """
    away: list[float] = []
    for rank in of_ranks:
        levels: dict[str, list[list[float]]] = {}
        for key, sweeps in rank.compute.items():
            levels.setdefault(key.split()[0], []).append(sweeps)
        for of_sizes in levels.values():
            level = np.log(of_sizes).mean(axis=0)
            count = len(level)
            if count > 1:
                away += (abs(level - level.mean()) * math.sqrt((count + 1) / (count - 1))).tolist()
    seen = 1.4826 * float(np.median(away)) if away else BEFOREHAND
    return math.sqrt((AS_MANY * BEFOREHAND**2 + seen**2) / (AS_MANY + 1))


def copying_of(path: Path, names: Sequence[str], of_ranks: Sequence[Seconds]) -> Iterator[Copying]:
    """Averages that had no other worker, after little and after much computing: of states, which are copied, and of gradients."""
    for name in names:
        made = experiment(path, name, LANES[0], {"workers": 1})
        flops, parameters = flops_of(made.stages), sum(made.segments)
        for lanes in COPIED_AT:
            key, steps = f"{name} {lanes}", period(flops, lanes)
            for kept, values in (
                (False, parameters * STATES[made.config.optimizer.name]),
                (True, parameters),
            ):
                times = [rank.kept.get(key) if kept else rank.copy[key] for rank in of_ranks]
                if found := [quiet(sweeps) for sweeps in times if sweeps]:
                    computed = flops * lanes * (1 if kept else steps)
                    seconds = float(np.median(found))
                    error = float(np.std(np.log([each for sweeps in times for each in sweeps or ()])))
                    yield Copying(values=values, flops=computed, seconds=seconds, kept=kept, error=error)


def filling_of(
    shape: tuple[int, int, int], names: Sequence[str], together: int, of_ranks: Sequence[Seconds]
) -> Iterator[Filling]:
    """Seconds to fill a batch of images of (height, width, channels): a start and so many a byte, by relative least squares."""
    for windows in (False, True):
        of = {name: WINDOWS_AT if windows else lanes_of(name) for name in (names[:1] if windows else names)}
        keys = [(f"{name} {n} {windows}", n) for name, lanes in of.items() for n in lanes]
        points = [(n * np.prod(shape), far(rank.data[key])) for rank in of_ranks for key, n in keys]
        size, seconds = np.array(points).T
        start, per_byte = np.linalg.lstsq(
            np.stack([1 / seconds, size / seconds], 1), np.ones(len(size)), rcond=None
        )[0]
        start = max(float(start), 0.0)
        per_byte = max(float(per_byte), 0.0)
        yield Filling(
            channels=shape[2],
            windows=windows,
            together=together,
            start=start,
            per_byte=per_byte,
            error=float(np.std((start + per_byte * size) / seconds)),
        )
