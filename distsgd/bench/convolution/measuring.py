"""Training by one way, step by step, for an epoch where that can be waited for."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from distsgd import data, model
from distsgd.bench.images import Images
from distsgd.bench.pytorch import Contestant
from distsgd.bench.training import Task
from distsgd.data import Description
from distsgd.kernels.vector import aligned
from distsgd.metrics import Tally, score
from distsgd.network import Network

FEWEST_STEPS = 3
LONGEST_EPOCH = 120.0
"""Seconds: of a way that would take longer only the first steps are taken."""


@dataclass(frozen=True)
class Way:
    """A way to train: a name, and what makes one at a task's start. What it opens is closed with the stack."""

    name: str
    begin: Callable[[Task, ExitStack], Contestant]
    processes: int = 1
    most_images: int | None = None
    """Its steps are on no more than so many, as it takes too long."""


@dataclass(frozen=True)
class Measured:
    """What a way came to."""

    network: str
    way: str
    batch: int
    processes: int
    images: int
    """Of a step that was timed."""
    steps: int
    """How many were timed."""
    seconds: float
    """A step of `batch` images: the median, times batch / images."""
    epoch_images: int
    epoch_seconds: float
    """An epoch of so many images; where it was not finished, what the steps let expect."""
    test_accuracy: float | None
    """After the epoch; None where it was not finished, or had smaller batches."""

    @property
    def finished(self) -> bool:
        """Whether the epoch was."""
        return self.steps * self.images == self.epoch_images


def measured(way: Way, task: Task, test: Images | None, now: Callable[[], int]) -> Measured:
    """Train for an epoch; judge the test images, where there are any, by what came out."""
    images = min(task.batch, way.most_images or task.batch)
    steps = len(task.images.labels) // images
    with ExitStack() as stack:
        trained = way.begin(replace(task, batch=images), stack)
        taken = np.array(_taken(trained, steps, now)) * 1e-9
        parameters = trained.parameters
    # The first step starts processes and compiles: it counts as a usual one.
    step, done = float(np.median(taken[1:] if len(taken) > 1 else taken)), len(taken) == steps
    epoch = float(step + taken[1:].sum()) if done else step * steps
    asked = images == task.batch  # with smaller batches it has learnt something else
    accuracy = _accuracy(task, parameters, test) if done and asked and test else None
    scaled = step * task.batch / images
    what = task.name, way.name, task.batch, way.processes, images
    return Measured(*what, len(taken), scaled, steps * images, epoch, accuracy)


def _taken(trained: Contestant, steps: int, now: Callable[[], int]) -> list[int]:
    """Nanoseconds of each step."""
    taken: list[int] = []
    for number in range(steps):
        began = now()
        trained.step(number)
        taken.append(now() - began)
        if len(taken) >= FEWEST_STEPS and np.median(taken[:FEWEST_STEPS]) * steps > LONGEST_EPOCH * 1e9:
            break
    return taken


def _accuracy(task: Task, parameters: np.ndarray, test: Images) -> float:
    """Judged by our network, which computes what the others do, for all ways."""
    own = aligned(parameters.size)
    own[:] = parameters
    judging = Network(task.stages, model.BATCH, own)
    model.judge(judging, test.images, test.labels, task.images.scaling(), Tally(test.classes))
    return score(judging.totals).accuracy


def held_out(described: Description) -> Images:
    """The test images of a file."""
    rows = np.arange(described.counts["test"])
    labels = data.read_labels(described.path, "test")
    return Images(
        data.read_rows(described.path, "test", rows), labels, described.classes, str(described.path)
    )
