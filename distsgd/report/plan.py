"""A plan in words, tables and numbers: the same for a terminal, a page and programs."""

from collections.abc import Iterator, Sequence
from typing import Any

from distsgd import __version__
from distsgd.cost import Estimate
from distsgd.machine.where import outdated
from distsgd.plan.curve import PAYS, Point
from distsgd.plan.planned import Planned
from distsgd.plan.search import FREE, Recommendation, settings
from distsgd.report.measured import Measured

FORMAT = "distsgd-plan-1"
MEANING = (
    "training: shuffle, data, compute, average and wait; starting, reading images and testing come on top"
)
EXTRAPOLATED = "extrapolated"
EVERY = {"epoch": "every epoch", "once": "once, at the end"}
LIMITS = {
    "data": "making batches",
    "compute": "computing",
    "average": "averaging",
    "wait": "waiting for the slowest rank",
}
"""What phases are, in words."""


def heading(planned: Planned) -> str:
    """What is planned."""
    job, where = planned.job, planned.machine.where
    averaging = job.config.averaging
    length = averaging.rounds_of
    every = f"every {length} steps" if isinstance(length, int) else EVERY[length]
    threads = f", ranks of {where.threads} threads" if where.threads > 1 else ""
    every = f"{averaging.what} averaged {every} ({averaging.topology}, {averaging.algorithm}, {averaging.reduction})"
    epochs = job.config.train.epochs
    return (
        f"{job.config.network.name} on {job.images.path.name}: {epochs} epoch{'s' * (epochs > 1)}, batch {job.config.train.batch}, "
        f"{every}; on machines like the one measured ({where.processor}, {where.cores} cores, {where.mpi}){threads}"
    )


def rows(planned: Planned, measured: Sequence[Measured] = ()) -> list[list[str]]:
    """The table's cells, its head first; a column that says nothing anywhere is left out."""
    cells = [_cells(planned, point, measured) for point in planned.curve.points]
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    heads = [name.strip() for name in names]
    return [heads, *([row[name] for name in names] for row in cells)]


def _cells(planned: Planned, point: Point, measured: Sequence[Measured]) -> dict[str, str]:
    """What there is to say of a point, by column."""
    gain = planned.curve.speed_up(point)
    needs = planned.memory[planned.curve.points.index(point)].total
    run = next((one for one in measured if one.ranks == point.job.ranks), None)
    return {
        "ranks": str(point.job.ranks),
        "cores": str(point.job.cores) if point.job.cores > point.job.ranks else "",
        "nodes": str(point.job.nodes),
        "training": f"{_digits(point.training.seconds, 4)} s",
        "90 % of runs": _interval(point.training, " s"),
        "measured": f"{_digits(run.seconds.median, 4)} s" if run else "",
        "error": f"{point.training.seconds / run.seconds.median - 1:+.1%}" if run else "",
        "speed-up": f"{gain.seconds:.2f}",
        # The blank tells it from the other interval; it is not shown.
        "90 % of runs ": _interval(gain) if gain.deviation else "",
        "efficiency": _percent(gain.seconds / point.job.ranks),
        "memory a rank": f"{needs / 1e6:,.0f} MB" + "!" * planned.crowds(point),
        "compute": f"{point.share('data', 'compute'):.0%}",
        "average": f"{point.share('average'):.0%}",
        "wait": f"{point.share('wait'):.0%}",
        "": EXTRAPOLATED if point.beyond else "",
    }


def _percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.095 else f"{part:.2%}"


def _interval(told: Estimate, unit: str = "") -> str:
    low, high = told.interval
    return f"{_digits(low, 3)} to {_digits(high, 3)}{unit}"


def _digits(number: float, count: int) -> str:
    """So many digits, or all before the point."""
    return f"{number:,.0f}" if number >= 10**count else f"{number:.{count}g}"


def notes(planned: Planned, others: Sequence[str] = ()) -> Iterator[str]:
    """What a reader of the table must know, a line each."""
    curve, job = planned.curve, planned.job
    yield MEANING
    if old := outdated(planned.machine.where):
        yield old
    if not job.config.averaging.workers and len(curve.points) > 1:
        yield (
            "each rank has one worker, so every line is another experiment; to compare the time of one and the same, "
            "give averaging.workers (distsgd plan --set averaging.workers=N)"
        )
    empty = [point for point in curve.points if not point.job.fills]
    if empty and not job.config.averaging.workers:
        yield (
            f"from {ranks(empty[0])} on, a worker has too few images for one round of full batches: "
            "rounds are shorter than you asked for, so these are not recommended"
        )
    if not planned.known:
        yield f"{job.config.network.name} itself was not measured: its steps are put together from layers that were"
    if any(point.beyond for point in curve.points):
        yield f"{EXTRAPOLATED}: beyond what was measured ({_layouts(planned)}), calculated from it"
    yield from _taking_turns(planned)
    yield from _crowded(planned)
    for count, why in curve.gaps.items():
        yield f"{count} rank{'s' * (count > 1)}: left out, as {why}"
    if any(point.job.nodes > 1 for point in curve.points):
        room = max(point.job.together for point in curve.points)
        yield f"HOSTS: a file with a node a line and its room, such as node1 slots={room} (Open MPI) or node1:{room} (MPICH)"
    if curve.end:
        yield f"no more ranks: {curve.end}"
    yield from others


def _layouts(planned: Planned) -> str:
    places = [(ranks, nodes) for ranks, nodes in planned.machine.averaging.get("layouts", [])]
    return ", ".join(_place(ranks, nodes) for ranks, nodes in places) or "one rank"


def _taking_turns(planned: Planned) -> Iterator[str]:
    """What follows where more ranks are put on a node than its cores have room for."""
    where = planned.machine.where
    room = max(where.cores // where.threads, where.ranks_per_node)
    if any(point.job.together > room for point in planned.curve.points):
        yield (
            f"WARNING: a node like the one measured has {where.cores} cores, room for {_place(room, 1)}: "
            "lines with more on a node are for nodes with more such cores, each as fast"
        )


def _crowded(planned: Planned) -> Iterator[str]:
    if planned.machine.where.memory is None:
        yield "the machine file does not tell how much memory a node has: a new one does (distsgd calibrate)"
    full = [point for point in planned.curve.points if planned.crowds(point)]
    if full:
        first, there = full[0], planned.machine.where.memory or 0
        yield (
            f"WARNING: from {ranks(first)} on, ranks of a node want {planned.on_a_node(first) / 1e9:.1f} GB together, and it has "
            f"{there / 1e9:.1f} GB (marked !): put fewer on a node, or take a smaller train.batch"
        )


def ranks(point: Point) -> str:
    """How many, with how many cores where a rank has several, and on how many nodes."""
    cores = f" ({point.job.cores} cores)" if point.job.cores > point.job.ranks else ""
    return _place(point.job.ranks, point.job.nodes, cores)


def _place(count: int, nodes: int, cores: str = "") -> str:
    on = f" on {nodes} nodes" if nodes > 1 else ""
    return f"{count} rank{'s' * (count > 1)}{cores}{on}"


def knee(planned: Planned) -> str:
    """Where more ranks stop to pay."""
    point, last = planned.curve.knee, planned.curve.points[-1]
    told = f"knee: {ranks(point)}, {_digits(point.training.seconds, 4)} s"
    if len(planned.curve.points) == 1:
        return f"knee: not known, as there is nothing beyond {ranks(point)}"
    if point is last:
        return f"{told}; up to there twice the ranks gain at least {PAYS} times"
    return f"{told}; from there on twice the ranks gain less than {PAYS} times"


def advice(planned: Planned, one: Recommendation) -> list[tuple[str, str]]:
    """The best for a goal, and what would be better where more may change: each with the options to copy."""
    told = []
    if one.best:
        told.append((f"{one.goal}: {_said(one.best)}", options(planned, one.best)))
    else:
        told.append((f"{one.goal}: nothing that can be predicted will do", ""))
    for names, point in one.others:
        named = " and ".join(f"averaging.{name}" for name in names)
        times = one.best.training.seconds / point.training.seconds if one.best else 0.0
        gain = f", {times:.2f} times as fast" if times > 1 else ""
        told.append(
            (f"if {named} may change: {_said(point)}{gain} ({changed(names)})", options(planned, point))
        )
    return told


def _said(point: Point) -> str:
    marked = f", {EXTRAPOLATED}" if point.beyond else ""
    return (
        f"{ranks(point)}, {_digits(point.training.seconds, 4)} s ({_interval(point.training)}), "
        f"{_digits(point.core_hours, 3)} core-hours{marked}"
    )


def changed(names: Sequence[str]) -> str:
    """What else changes with these settings."""
    return "; ".join(FREE[name] for name in names)


def options(planned: Planned, point: Point) -> str:
    """What to add to `distsgd train`."""
    sets = " ".join(f"--set {setting}" for setting in settings(point.job, planned.job))
    hosts = " --hostfile HOSTS" if point.job.nodes > 1 else ""
    return f"--ranks {point.job.ranks}{hosts} {sets}"


def limit(planned: Planned) -> tuple[str, list[str]]:
    """What most of training is where it takes the least time, and what would shorten that."""
    point = planned.best
    phase = max(LIMITS, key=point.share)
    helps = "it would take, with" if planned.remedies else "no single change would shorten it much"
    told = [
        f"{name}: {_digits(point.training.seconds / gain, 4)} s ({gain:.2f} times as fast)"
        for name, gain in planned.remedies
    ]
    return (
        f"what limits: on {ranks(point)} {point.share(phase):.0%} of training is {LIMITS[phase]}; {helps}",
        told,
    )


def facts(planned: Planned, measured: Sequence[Measured]) -> dict[str, Any]:
    """All of it for programs. Seconds are of training; intervals hold 90 % of runs."""
    curve = planned.curve
    return {
        "format": FORMAT,
        "version": __version__,
        "network": planned.job.config.network.name,
        "network_measured": planned.known,
        "machine": {
            **planned.machine.where.model_dump(),
            "layouts": planned.machine.averaging.get("layouts", []),
        },
        "seconds_are": MEANING,
        "points": [_point(planned, point) for point in curve.points],
        "gaps": [{"ranks": ranks, "why": why} for ranks, why in curve.gaps.items()],
        "end": curve.end,
        "knee": curve.knee.job.ranks,
        "recommended": [_advised(planned, one) for one in planned.recommended],
        "remedies": [{"change": name, "times_as_fast": gain} for name, gain in planned.remedies],
        "measured": [
            {"ranks": one.ranks, "nodes": one.nodes, "runs": one.runs, "oversubscribed": one.oversubscribed}
            | {"seconds": vars(one.seconds)}
            for one in measured
        ],
    }


def _point(planned: Planned, point: Point) -> dict[str, Any]:
    gain, place = planned.curve.speed_up(point), planned.curve.points.index(point)
    needs = planned.memory[place]
    return {
        "ranks": point.job.ranks,
        "cores": point.job.cores,
        "nodes": point.job.nodes,
        "workers": point.job.workers,
        "extrapolated": point.beyond,
        "seconds": point.training.seconds,
        "seconds_interval": list(point.training.interval),
        "seconds_by_phase": {name: part.seconds for name, part in point.run.phases.items()},
        "speed_up": gain.seconds,
        "speed_up_interval": list(gain.interval),
        "efficiency": gain.seconds / point.job.ranks,
        "efficiency_interval": [end / point.job.ranks for end in gain.interval],
        "core_hours": point.core_hours,
        "memory_bytes": {**vars(needs), "total": needs.total},
        "more_memory_than_a_node_has": planned.crowds(point) if planned.machine.where.memory else None,
    }


def _advised(planned: Planned, one: Recommendation) -> dict[str, Any]:
    others = [{"changes": list(names), **_choice(planned, point)} for names, point in one.others]
    return {"goal": one.goal, "best": _choice(planned, one.best) if one.best else None, "others": others}


def _choice(planned: Planned, point: Point) -> dict[str, Any]:
    return {
        "ranks": point.job.ranks,
        "nodes": point.job.nodes,
        "set": settings(point.job, planned.job),
        "extrapolated": point.beyond,
        "seconds": point.training.seconds,
        "seconds_interval": list(point.training.interval),
        "core_hours": point.core_hours,
    }
