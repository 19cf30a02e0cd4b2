"""A run on more and more ranks, beforehand: seconds, speed-up, where it stops to pay, and what would help."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from distsgd.clock import TRAINING
from distsgd.cost import Estimate
from distsgd.cost.estimate import total
from distsgd.cost.machine import Machine
from distsgd.plan.runs import Run, predict_run
from distsgd.plan.work import Job

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
    """Whether ranks were never placed like that when the machine was measured."""

    @property
    def training(self) -> Estimate:
        """Seconds of training."""
        return total(self.run.phases[name] for name in TRAINING)

    @property
    def core_hours(self) -> float:
        """Of training."""
        return self.job.cores * self.training.seconds / 3600

    def error(self, name: str) -> float:
        """A phase's deviation as a part of training."""
        return self.run.phases[name].deviation / self.training.seconds

    def share(self, *names: str) -> float:
        """What part of training these phases are."""
        return sum(self.run.phases[name].seconds for name in names) / self.training.seconds


@dataclass(frozen=True)
class Curve:
    """Points of 1, 2, 4 ... ranks, and why there are no more."""

    points: list[Point]
    end: str
    gaps: dict[int, str] = field(default_factory=dict)
    """Why there is no point of so many ranks, though there is one of more."""

    def speed_up(self, point: Point) -> Estimate:
        """Over one rank. The seconds of a step are wrong on one rank as they are on many, so much of their error cancels."""
        base = self.points[0]
        times = base.training.seconds / point.training.seconds
        if point is base:
            return Estimate(times)
        together = sum(base.error(name) - point.error(name) for name in ("data", "compute"))
        apart = [one.error(name) for one in (base, point) for name in ("shuffle", "average", "wait")]
        return Estimate(times, times * math.hypot(together, *apart))

    @property
    def knee(self) -> Point:
        """The last point that twice as many ranks still paid for."""
        last = self.points[0]
        for point in self.points[1:]:
            doublings = math.log2(point.job.ranks / last.job.ranks)
            if last.training.seconds / point.training.seconds < PAYS**doublings:
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
    unknown: dict[int, str] = {}
    workers = job.config.averaging.workers or most
    end = (
        f"there are {workers} workers (averaging.workers), and each rank wants one" if workers < most else ""
    )
    for ranks in counts(min(most, workers)):
        one = job.on(ranks, job.config.averaging.workers or ranks, per_node)
        if one.workers > job.train_images:
            end = f"there are {job.train_images} training images, and each worker wants one"
            break
        try:
            points.append(point_of(machine, one))
        except LookupError as error:
            unknown[ranks] = _unknown(one, error)
            if ranks == 1:  # what all speed-ups are over
                return Curve([], unknown[1])
    last = points[-1].job.ranks if points else 0
    gaps = {ranks: why for ranks, why in unknown.items() if ranks < last}
    return Curve(points, next((why for ranks, why in unknown.items() if ranks > last), end), gaps)


def point_of(machine: Machine, job: Job) -> Point:
    """The job, predicted. LookupError where the machine file has nothing of the kind."""
    return Point(job, predict_run(machine, job), beyond(machine, job))


def beyond(machine: Machine, job: Job) -> bool:
    """Whether it has more ranks, nodes or ranks on a node than were measured; a network between nodes is measured or it is not."""
    if job.ranks == 1:
        return False
    layouts = machine.averaging.get("layouts", [])
    alike = [(ranks, nodes) for ranks, nodes in layouts if (nodes > 1) == (job.nodes > 1)]
    ranks, nodes = (max(sizes) for sizes in zip(*alike, strict=True)) if alike else (0, 0)
    return job.ranks > ranks or job.nodes > nodes or job.together > machine.where.ranks_per_node


def _unknown(job: Job, error: LookupError) -> str:
    """Why there are no more points, and what a person can do."""
    if job.nodes > 1 and not job.link:
        return (
            f"{job.ranks} ranks would be on {job.nodes} nodes, {job.ranks_per_node} on each, and no network was measured: "
            "tell of it with --link, measure it with distsgd calibrate --hostfile, or, where nodes have more cores than the "
            "one measured, plan with more --ranks-per-node"
        )
    if job.ranks == 1:
        return f"not even one rank is known: {error.args[0]}"
    return f"averages of {job.ranks} ranks are not known ({error.args[0]})"


def counts(most: int) -> Iterator[int]:
    """1, 2, 4 ... and `most`."""
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
    """What may be changed; which topology and algorithm are best is searched elsewhere (plan.search)."""
    averaging, batch = job.config.averaging, job.config.train.batch
    if isinstance(averaging.rounds_of, int) and averaging.what == "parameters" and job.workers > 1:
        yield (
            f"averaging.period={2 * averaging.rounds_of} (other results)",
            with_averaging(job, period=2 * averaging.rounds_of),
        )
    larger = job.config.train.model_copy(update={"batch": 2 * batch})
    yield (
        f"train.batch={2 * batch} (other results)",
        replace(job, config=job.config.model_copy(update={"train": larger})),
    )
    if averaging.reduction == "exact" and job.workers > 1:
        yield "averaging.reduction=fast (bits depend on the ranks)", with_averaging(job, reduction="fast")
    if job.nodes > 1:
        yield "a network ten times as fast", replace(job, network_times=10 * job.network_times)


def with_averaging(job: Job, **changes: object) -> Job:
    """The job with other settings of its averages."""
    averaging = job.config.averaging.model_copy(update=changes)
    return replace(job, config=job.config.model_copy(update={"averaging": averaging}))
