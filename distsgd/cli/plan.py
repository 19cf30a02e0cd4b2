"""`distsgd plan`: a run on more and more ranks, before any of them is asked for."""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd import launcher
from distsgd.clock import Clock
from distsgd.config import InputError

if TYPE_CHECKING:
    from distsgd.cost.machine import Machine
    from distsgd.plan.curve import Curve, Point
    from distsgd.plan.work import Link

MOST = 4096
LINK = "MICROSECONDS,MBIT/S"


def add(parser: argparse.ArgumentParser, add_set: Callable[[argparse.ArgumentParser], None]) -> None:
    """Its options."""
    parser.set_defaults(command=_plan)
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings (default: all defaults)"
    )
    add_set(parser)
    parser.add_argument("--most", type=int, default=MOST, metavar="N", help=f"ranks (default: {MOST})")
    parser.add_argument(
        "--ranks-per-node",
        type=int,
        metavar="R",
        help="(default: the cores of the machine that was measured)",
    )
    parser.add_argument("--link", metavar=LINK, help="a network between nodes, where none was measured")
    parser.add_argument(
        "--deadline", type=float, metavar="SECONDS", help="of training: how many ranks does it take?"
    )


def _plan(given: argparse.Namespace, clock: Clock) -> int:
    os.environ.update(launcher.single_thread(os.environ))
    from distsgd import config
    from distsgd.comm import Alone
    from distsgd.machine.where import chosen
    from distsgd.plan.curve import curve
    from distsgd.plan.work import Job
    from distsgd.training import check

    settings, problems = config.read(given.config, given.set)
    experiment = check(settings, 1, problems)
    machine = chosen(settings.prediction.machine, Alone(), given.most)
    per_node = given.ranks_per_node or machine.where.cores
    if given.most < 1 or per_node < 1:
        raise InputError(f"--most {given.most}, --ranks-per-node {per_node}: must be at least 1")
    job = Job(
        tuple(experiment.stages), settings, experiment.images, experiment.workers, 1, 1, _link(given.link)
    )
    found = curve(machine, job, given.most, per_node)
    if not found.points:
        raise InputError(f"this machine file does not tell: {found.end}")
    for line in [*_table(found), "", *_advice(found, given.deadline)]:
        print(line)
    print(*_remedies(machine, found), sep="\n")
    return 0


def _link(text: str | None) -> "Link | None":
    from distsgd.plan.work import Link

    if text is None:
        return None
    try:
        start, rate = (float(part) for part in text.split(","))
        if min(start, rate) <= 0:
            raise ValueError
    except ValueError:
        raise InputError(
            f"--link {text!r}: must be {LINK}, two numbers above 0, for example 25,10000"
        ) from None
    return Link(start * 1e-6, 8e-6 / rate)


def _table(found: "Curve") -> Iterator[str]:
    yield f"{'ranks':>6}{'nodes':>6}{'training':>12}{'90 % of runs':>22}{'speed-up':>10}{'efficiency':>12}{'average':>9}{'wait':>7}"
    for point in found.points:
        seconds, (low, high) = point.training.seconds, point.training.interval
        gain = found.speed_up(point)
        mark = "   beyond what was measured" if point.beyond else ""
        yield (
            f"{point.job.ranks:>6}{point.nodes:>6}{seconds:>10.4g} s{f'{low:.4g} to {high:.4g} s':>22}{gain:>10.2f}"
            f"{gain / point.job.ranks:>12.0%}{point.share('average'):>9.0%}{point.share('wait'):>7.0%}{mark}"
        )
    if found.end:
        yield f"no more: {found.end}"


def _advice(found: "Curve", deadline: float | None) -> Iterator[str]:
    fastest, knee = found.fastest, found.knee
    yield f"least time: {_ranks(fastest)}, {fastest.training.seconds:.4g} s"
    yield f"as long as twice the ranks gain half as much again: {_ranks(knee)}, {knee.training.seconds:.4g} s"
    yield f"least core-hours: {_ranks(_cheapest(found))}"
    if deadline is not None:
        enough = found.within(deadline)
        yield f"within {deadline:g} s: {_ranks(enough) if enough else 'no number of ranks above'}"


def _cheapest(found: "Curve") -> "Point":
    return min(found.points, key=lambda point: point.job.ranks * point.training.seconds)


def _ranks(point: "Point") -> str:
    nodes = f" on {point.nodes} nodes" if point.nodes > 1 else ""
    return f"{point.job.ranks} rank{'s' * (point.job.ranks > 1)}{nodes}"


def _remedies(machine: "Machine", found: "Curve") -> Iterator[str]:
    from distsgd.plan.curve import remedies

    most = found.fastest
    limit = max(("data", "compute", "average", "wait"), key=most.share)
    changes = remedies(machine, most)
    helps = "it would take, with" if changes else "no single setting helps"
    yield f"with {_ranks(most)} {most.share(limit):.0%} of training is {limit}; {helps}"
    for name, gain in changes:
        yield f"  {name}: {most.training.seconds / gain:.4g} s ({gain:.2f} times as fast)"
