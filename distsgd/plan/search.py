"""Which ranks and which settings are best: for the least time, the fewest core-hours, or a deadline."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from distsgd.cost.machine import Machine
from distsgd.plan.curve import Curve, Point, counts, point_of, with_averaging
from distsgd.plan.rounds import predict_round
from distsgd.plan.work import Job

ALIKE = 1.05
"""Predictions that differ by less are taken for the same: then as little as possible is changed."""
FREE = {
    "reduction": "the same but for rounding: the bits depend on the ranks",
    "period": "another experiment: workers meet less often, look at the accuracy",
    "workers": "another experiment: each worker sees other images, look at the accuracy",
}
"""Settings of `averaging` that change more than the time, and what else they change."""

Cost = Callable[[Point], float]


@dataclass(frozen=True)
class Space:
    """Where to search: up to `most` ranks, so many to a node, and only jobs that there is room for in its memory."""

    most: int
    per_node: int
    room: Callable[[Job], bool]


@dataclass(frozen=True)
class Recommendation:
    """The best for a goal. others: the best where more may change, with what of FREE it was."""

    goal: str
    best: Point | None
    """With what changes the result as it is: other ranks, topologies and algorithms alone. None: there is nothing that will do."""
    others: list[tuple[tuple[str, ...], Point]]


def recommend(
    machine: Machine, curve: Curve, job: Job, space: Space, deadline: float | None = None
) -> list[Recommendation]:
    """For each goal, searched over ranks, topologies, algorithms, and then over each setting of FREE and all of them."""
    known = list(candidates(machine, curve, job, space))
    return [_recommended(goal, cost, known, job) for goal, cost in goals(deadline)]


def goals(deadline: float | None) -> Iterator[tuple[str, Cost]]:
    """What can be wanted, and what it costs."""
    yield "least time", lambda point: point.training.seconds
    yield "least core-hours", lambda point: point.core_hours
    if deadline is not None:
        yield (
            f"surely within {deadline:g} s, on the fewest ranks",
            lambda point: point.job.ranks if point.training.interval[1] <= deadline else math.inf,
        )


def candidates(machine: Machine, curve: Curve, job: Job, space: Space) -> Iterator[Point]:
    """All that may be best: every number of ranks with every setting of FREE, as the job averages and in the fastest way.

    Which way is the fastest follows from ranks, workers and reduction, not from the period.
    """
    sizes = [job.on(ranks, workers, space.per_node) for ranks, workers in _sizes(curve, job, space.most)]
    for placed in (size for size in sizes if space.room(size)):
        for reduction in ("exact", "fast"):
            one = with_averaging(placed, reduction=reduction)
            ways = _ways(machine, one)
            for period, way in product(_periods(one), ways):
                yield point_of(machine, with_averaging(one, **period, **way))


def _sizes(curve: Curve, job: Job, most: int) -> list[tuple[int, int]]:
    """Ranks and workers: those of the curve, and one worker a rank where all still fill a round of batches."""
    own = job.config.averaging.workers
    sizes = [(point.job.ranks, own) for point in curve.points if own]
    sizes += [(ranks, ranks) for ranks in counts(most) if ranks == 1 or replace(job, workers=ranks).fills]
    return list(dict.fromkeys(sizes))


def _periods(job: Job) -> Sequence[Mapping[str, object]]:
    """The job's own, twice, four times ... as long ones, and an epoch."""
    averaging = job.config.averaging
    own = averaging.rounds_of
    if isinstance(own, str) or averaging.what == "gradients" or job.workers == 1:
        return [{}]
    longer = [own << n for n in range(1, (job.steps // own).bit_length())]
    whole = [{"period": "epoch"}] if max([own, *longer]) < job.steps else []
    return [{}, *({"period": steps} for steps in longer), *whole]


def _ways(machine: Machine, job: Job) -> list[dict[str, object]]:
    """The job's own topology and algorithm, and the fastest ones; nothing where neither is known."""
    averaging = job.config.averaging
    own = averaging.topology, averaging.algorithm
    seconds: dict[tuple[str, str], float] = {}
    for way in {own: None, **dict.fromkeys(_measured(machine))} if job.ranks > 1 else [own]:
        try:
            found = predict_round(machine, with_averaging(job, topology=way[0], algorithm=way[1]), 1)
        except LookupError:
            continue
        seconds[way] = found.whole.seconds
    best = [min(seconds, key=lambda way: seconds[way])] if seconds else []
    chosen = dict.fromkeys([*([own] if own in seconds else []), *best])
    return [{"topology": topology, "algorithm": algorithm} for topology, algorithm in chosen]


def _measured(machine: Machine) -> list[tuple[str, str]]:
    return [(entry["topology"], entry["algorithm"]) for entry in machine.averaging.get("exchanges", [])]


def _recommended(goal: str, cost: Cost, known: Sequence[Point], job: Job) -> Recommendation:
    best = chosen(known, cost, job)
    others: list[tuple[tuple[str, ...], Point]] = []
    for free in [*((name,) for name in FREE), tuple(FREE)]:
        point = chosen(known, cost, job, free)
        before = min((cost(one) for one in (best, *(other for _, other in others)) if one), default=math.inf)
        limit = math.inf if best is None else cost(best)
        if point and ALIKE * cost(point) <= (limit if len(free) == 1 else before):
            others.append((tuple(name for name in free if _differs(point.job, job, name)), point))
    return Recommendation(goal, best, others)


def chosen(known: Sequence[Point], cost: Cost, job: Job, free: Collection[str] = ()) -> Point | None:
    """The cheapest that differs from the job in no more of FREE than may be; of those ALIKE the one that changes the least."""
    allowed = [p for p in known if not any(_differs(p.job, job, name) for name in FREE if name not in free)]
    least = min(map(cost, allowed), default=math.inf)
    if least == math.inf:
        return None
    alike = [point for point in allowed if cost(point) <= ALIKE * least]
    return min(
        alike, key=lambda point: (*_departure(point.job, job), point.job.ranks, point.training.seconds)
    )


def _departure(job: Job, own: Job) -> tuple[float, ...]:
    """How far a job is from the own one: first what changes the result the most."""
    averaging, before = job.config.averaging, own.config.averaging
    workers = abs(math.log(job.workers / before.workers)) if before.workers else 0.0
    period = job.period if _differs(job, own, "period") else 0
    way = (averaging.topology, averaging.algorithm) != (before.topology, before.algorithm)
    return workers, period, averaging.reduction != before.reduction, way


def _differs(job: Job, own: Job, name: str) -> bool:
    """Whether a job has another value of a setting; workers that are not told are as many as ranks."""
    if name == "workers":
        return job.workers != (own.config.averaging.workers or job.ranks)
    return bool(getattr(job.config.averaging, name) != getattr(own.config.averaging, name))


def settings(job: Job, own: Job) -> list[str]:
    """What to change so that the own job becomes this one, workers always among it: "averaging.period=16" and so on."""
    averaging, before = job.config.averaging, own.config.averaging
    names = ("period", "topology", "algorithm", "reduction")
    others = [name for name in names if getattr(averaging, name) != getattr(before, name)]
    return [
        f"averaging.workers={job.workers}",
        *(f"averaging.{name}={getattr(averaging, name)}" for name in others),
    ]
