"""The runs of a scaling study: the same training on different numbers of ranks, each several times, in shuffled order."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distsgd import config as configs
from distsgd.config import Config, InputError
from distsgd.record import write_whole

Kind = Literal["strong", "weak"]


@dataclass(frozen=True)
class Point:
    """A number of ranks, and the whole settings that they train with. nodes: None where ranks are counted, not nodes."""

    ranks: int
    nodes: int | None
    settings: Config

    @property
    def name(self) -> str:
        """Of its folder in the sweep's."""
        return f"ranks-{self.ranks:05d}" if self.nodes is None else f"nodes-{self.nodes:05d}"

    @property
    def title(self) -> str:
        """For people."""
        if self.nodes is not None:
            return f"{self.nodes} node{'s' * (self.nodes > 1)}, {self.ranks} rank{'s' * (self.ranks > 1)}"
        return f"{self.ranks} rank{'s' * (self.ranks > 1)}"


@dataclass(frozen=True)
class Repeat:
    """One run of a point, counted from 1, in a folder of its own; what it says goes to a file beside that."""

    point: Point
    number: int
    folder: Path

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder.with_suffix(".log")

    @property
    def ended(self) -> Path:
        """Where its batch job writes with which status it ended."""
        return self.folder.with_suffix(".ended")


@dataclass(frozen=True)
class Sweep:
    """A scaling study in the folder `out`; points by rising ranks."""

    kind: Kind
    points: tuple[Point, ...]
    repeats: int
    out: Path

    def config_path(self, point: Point) -> Path:
        """Where a point's settings are written for its runs."""
        return self.out / point.name / "config.toml"

    def hosts_path(self, point: Point) -> Path:
        """Where the hosts of a point that counts nodes are written."""
        return self.out / point.name / "hosts"

    def of(self, point: Point) -> list[Repeat]:
        """A point's runs."""
        folder = self.out / point.name
        return [Repeat(point, number, folder / f"repeat-{number}") for number in range(1, self.repeats + 1)]

    def runs(self) -> Iterator[Repeat]:
        """All runs: every point once, then again, each time in another order, so that what drifts on a machine hits all alike."""
        for number in range(self.repeats):
            for point in random.Random(number).sample(self.points, len(self.points)):
                yield self.of(point)[number]


def strong(config: Config, counts: Sequence[tuple[int, int | None]], repeats: int, out: Path) -> Sweep:
    """The same experiment on each of the (ranks, nodes): as many workers as the most ranks, unless the config names them.

    Raises InputError where the config's workers are fewer than that.
    """
    most = max(ranks for ranks, _ in counts)
    workers = config.averaging.workers or most
    if workers < most:
        raise InputError(
            f"averaging.workers = {workers}: must be at least the largest number of ranks, {most}; "
            "left out, it is that number"
        )
    settings = _bare(config).with_workers(workers)
    points = [Point(ranks, nodes, settings) for ranks, nodes in sorted(counts)]
    return Sweep("strong", tuple(points), repeats, out)


def weak(
    config: Config, counts: Sequence[tuple[int, int | None]], images: int, repeats: int, out: Path
) -> Sweep:
    """A worker a rank, each with as many of the `images` training images as one of the most ranks has: different experiments.

    Raises InputError where the config names the workers, or there are fewer images than ranks.
    """
    most = max(ranks for ranks, _ in counts)
    if config.averaging.workers:
        raise InputError(
            f"averaging.workers = {config.averaging.workers}: weak scaling has a worker a rank; leave it out"
        )
    each = images // most
    if not each:
        raise InputError(f"{images} training images are too few for weak scaling to {most} ranks")
    points = [Point(ranks, nodes, _grown(_bare(config), ranks, each)) for ranks, nodes in sorted(counts)]
    return Sweep("weak", tuple(points), repeats, out)


def _bare(config: Config) -> Config:
    """No checkpoints: they take room and time, and a run that was resumed has no seconds to compare."""
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"every": 0.0})})


def _grown(config: Config, ranks: int, each: int) -> Config:
    data = config.data.model_copy(update={"train_images": each * ranks})
    return config.with_workers(ranks).model_copy(update={"data": data})


def prepare(sweep: Sweep) -> None:
    """Write every point's settings. InputError where the folder has runs of others: they are another study."""
    for point in sweep.points:
        path = sweep.config_path(point)
        if path.exists():
            _check_same(sweep, point, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from None
        write_whole(path, configs.to_toml(point.settings).encode())


def _check_same(sweep: Sweep, point: Point, path: Path) -> None:
    if not any(path.parent.glob("repeat-*")):
        return  # nothing has run
    before, _ = configs.read(path)
    others = configs.differences(point.settings, before)
    if others:
        told = "; ".join(f"{name} was {then!r}, now {now!r}" for name, (now, then) in others.items())
        raise InputError(f"{sweep.out} holds another scaling study: {told}; give another folder with --out")


def clear(run: Repeat) -> None:
    """Put what an interrupted run left aside: it is begun anew, as its seconds would not be whole."""
    if not run.folder.exists():
        return
    number = 1
    while (aside := run.folder.with_name(f"{run.folder.name}-unfinished-{number}")).exists():
        number += 1
    run.folder.rename(aside)
