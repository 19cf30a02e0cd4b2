"""`distsgd plan`: a run on more and more ranks, before any of them is asked for."""

import argparse
import math
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd import launcher
from distsgd.cli.options import add_set, count
from distsgd.clock import Clock
from distsgd.config import InputError

if TYPE_CHECKING:
    from distsgd.plan.planned import Planned
    from distsgd.plan.work import Link
    from distsgd.report.measured import Measured

MOST = 4096
LINK = "MICROSECONDS,MBIT/S"
FORMS = ("png", "svg")


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.set_defaults(command=_plan)
    parser.description = (
        "From what distsgd calibrate measured: seconds, speed-up, efficiency and memory of a run on 1, 2, 4 ... ranks, where more "
        "stop to pay, and which settings are best. Nothing is trained."
    )
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings (default: all defaults)"
    )
    add_set(parser)
    parser.add_argument("--most", type=count, default=MOST, metavar="N", help=f"ranks (default: {MOST})")
    parser.add_argument(
        "--ranks-per-node",
        type=count,
        metavar="R",
        help="(default: as the cores of the machine that was measured have room for)",
    )
    parser.add_argument(
        "--link",
        metavar=LINK,
        help="a network between nodes, where none was measured: of a message, and of its bytes (25,10000: 10-gigabit Ethernet)",
    )
    parser.add_argument(
        "--deadline", type=float, metavar="SECONDS", help="of training: how many ranks does it take?"
    )
    parser.add_argument(
        "--measured",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs that have ended, or folders of `distsgd scale`: those with these settings are shown beside",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture, .png or .svg ('.[plot]')")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")


def _plan(given: argparse.Namespace, clock: Clock) -> int:
    if not launcher.is_first(os.environ):  # one of several ranks: nothing here wants them
        return 0
    os.environ.update(launcher.single_thread(os.environ))
    from distsgd.report.measured import measured

    _look_first(given)
    planned = _planned(given)
    runs, others = measured(given.measured, planned)
    for line in _said(given, planned, runs, others):
        print(line)
    _write(given, planned, runs)
    return 0


def _look_first(given: argparse.Namespace) -> None:
    """InputError for options that can't be, before anything is predicted."""
    from distsgd.bench.output import check_file

    if given.plot and given.plot.suffix[1:].lower() not in FORMS:
        raise InputError(f"--plot {given.plot}: the name must end with one of .{', .'.join(FORMS)}")
    if given.deadline is not None and not 0 < given.deadline < math.inf:
        raise InputError(f"--deadline {given.deadline}: must be above 0")
    for option, path in (("--plot", given.plot), ("--json", given.json)):
        check_file(option, path)


def _planned(given: argparse.Namespace) -> "Planned":
    from distsgd import config
    from distsgd.comm import Alone
    from distsgd.machine.job import job_of
    from distsgd.machine.where import chosen
    from distsgd.plan.measured import UNTOLD
    from distsgd.plan.planned import plan
    from distsgd.training import check

    settings, problems = config.read(given.config, given.set)
    experiment = check(settings, 1, problems)
    machine = chosen(settings.prediction.machine, Alone(), settings.train.threads, given.most)
    job = job_of(experiment, link=link_of(given.link))
    try:
        return plan(machine, job, given.most, given.ranks_per_node, given.deadline)
    except UNTOLD as error:
        raise InputError(f"this machine file does not tell: {' '.join(map(str, error.args))}") from None


def link_of(text: str | None) -> "Link | None":
    """The network that is meant; None where none is. InputError where it can't be read."""
    from distsgd.plan.work import Link

    if text is None:
        return None
    try:
        start, rate = (float(part) for part in text.split(","))
        if not 0 < min(start, rate) <= max(start, rate) < math.inf:
            raise ValueError
    except ValueError:
        raise InputError(
            f"--link {text!r}: must be {LINK}, two numbers above 0, for example 25,10000"
        ) from None
    return Link(start * 1e-6, 8e-6 / rate)


def _said(
    given: argparse.Namespace, planned: "Planned", runs: "Sequence[Measured]", others: Sequence[str]
) -> Iterator[str]:
    from distsgd.report import plan as told

    yield from [f"plan: {told.heading(planned)}", ""]
    cells = told.rows(planned, runs)
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    for row in cells:
        yield "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    yield from (f"  {note}" for note in told.notes(planned, others))
    yield from ["", told.knee(planned)]
    limit, changes = told.limit(planned)
    yield limit
    yield from (f"  {change}" for change in changes)
    yield from ["", f"what to run: {_command(given)}, with"]
    for one in planned.recommended:
        for line, options in told.advice(planned, one):
            yield f"  {line}"
            if options:
                yield f"      {options}"


def _command(given: argparse.Namespace) -> str:
    """That trains what is planned."""
    sets = [part for change in given.set for part in ("--set", change)]
    return shlex.join(["distsgd", "train", *([str(given.config)] if given.config else []), *sets])


def _write(given: argparse.Namespace, planned: "Planned", runs: "Sequence[Measured]") -> None:
    from distsgd import record
    from distsgd.report import pictures, plan_figure
    from distsgd.report import plan as told

    if given.json:
        record.write_whole(given.json, record.as_json(told.facts(planned, runs)))
    if given.plot:
        form = given.plot.suffix[1:].lower()
        (content,) = pictures.rendered(lambda: {"plan": plan_figure.figure(planned, runs)}, [form]).values()
        record.write_whole(given.plot, content)
