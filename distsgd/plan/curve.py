"""A run on more and more ranks, beforehand: seconds, speed-up, where it stops to pay, and what would help."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from distsgd.cost import Estimate
from distsgd.cost.estimate import total
from distsgd.cost.machine import Machine
from distsgd.plan.runs import Run, predict_run
from distsgd.plan.work import Job, Link

TRAINING = ("shuffle", "data", "compute", "average", "wait")
"""What more ranks are for: starting, reading and looking at test images are left out."""
PAYS = 1.5
"""What twice as many ranks must at least gain."""
HELPS = 1.02
"""What a change must at least gain to be named."""


@dataclass(frozen=True)
class Point:
    """The run on so many ranks."""

    job: Job
    run: Run
    beyond: bool
    """Whether there were never so many ranks when the machine was measured."""

    @property
    def nodes(self) -> int:
        """As many as it takes."""
        return -(-self.job.ranks // self.job.ranks_per_node)

    @property
    def training(self) -> Estimate:
        """Seconds of training."""
        return total(self.run.phases[name] for name in TRAINING)

    def share(self, *names: str) -> float:
        """What part of training these phases are."""
        return sum(self.run.phases[name].seconds for name in names) / self.training.seconds


@dataclass(frozen=True)
class Curve:
    """Points of 1, 2, 4 ... ranks, and why there are no more."""

    points: list[Point]
    end: str

    def speed_up(self, point: Point) -> float:
        """Over one rank."""
        return self.points[0].training.seconds / point.training.seconds

    @property
    def knee(self) -> Point:
        """The last point that twice as many ranks still paid for."""
        last = self.points[0]
        for point in self.points[1:]:
            if last.training.seconds / point.training.seconds < PAYS:
                break
            last = point
        return last

    @property
    def fastest(self) -> Point:
        """The least time."""
        return min(self.points, key=lambda point: point.training.seconds)

    def within(self, seconds: float) -> Point | None:
        """The fewest ranks that train in that time, by the upper end of the interval."""
        return next((point for point in self.points if point.training.interval[1] <= seconds), None)


def curve(machine: Machine, job: Job, most: int, per_node: int) -> Curve:
    """Up to `most` ranks, so many to a node; without averaging.workers each rank has one worker."""
    points: list[Point] = []
    for ranks in _counts(most):
        workers = job.config.averaging.workers or ranks
        if ranks > workers:
            return Curve(points, f"there are {workers} workers (averaging.workers), and each rank wants one")
        if workers > job.train_images:
            return Curve(points, f"there are {job.train_images} training images, and each worker wants one")
        one = replace(job, workers=workers, ranks=ranks, ranks_per_node=min(ranks, per_node))
        try:
            points.append(Point(one, predict_run(machine, one), ranks > machine.where.ranks))
        except LookupError as error:
            return Curve(points, f"averages of {ranks} ranks are not known ({error.args[0]})")
    return Curve(points, "")


def _counts(most: int) -> Iterator[int]:
    ranks = 1
    while ranks < most:
        yield ranks
        ranks *= 2
    yield most


def remedies(machine: Machine, point: Point) -> Sequence[tuple[str, float]]:
    """What would shorten training, and by which factor; the greatest gain first."""
    job, found = point.job, []
    for name, other in _changes(job):
        try:
            run = predict_run(machine, other)
        except LookupError:
            continue
        seconds = Point(other, run, point.beyond).training.seconds
        found.append((name, point.training.seconds / seconds))
    return sorted(((name, gain) for name, gain in found if gain >= HELPS), key=lambda change: -change[1])


def _changes(job: Job) -> Iterator[tuple[str, Job]]:
    """Settings that change the numbers, and say so, and those that do not."""
    averaging, batch = job.config.averaging, job.config.train.batch
    if isinstance(averaging.rounds_of, int) and averaging.what == "parameters" and job.workers > 1:
        yield (
            f"averaging.period={2 * averaging.rounds_of} (other results)",
            _set(job, period=2 * averaging.rounds_of),
        )
    larger = job.config.train.model_copy(update={"batch": 2 * batch})
    yield (
        f"train.batch={2 * batch} (other results)",
        replace(job, config=job.config.model_copy(update={"train": larger})),
    )
    if averaging.reduction == "exact" and job.workers > 1:
        yield "averaging.reduction=fast (bits depend on the ranks)", _set(job, reduction="fast")
    if averaging.topology == "master" and job.workers > 1:
        yield "averaging.topology=allreduce", _set(job, topology="allreduce")
    if job.link:
        yield (
            "a network ten times as fast",
            replace(job, link=Link(job.link.start / 10, job.link.per_byte / 10)),
        )


def _set(job: Job, **changes: object) -> Job:
    averaging = job.config.averaging.model_copy(update=changes)
    return replace(job, config=job.config.model_copy(update={"averaging": averaging}))
