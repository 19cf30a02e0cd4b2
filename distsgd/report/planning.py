"""The plan that goes with a run: its settings on other numbers of ranks, by the machine file that predicted it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distsgd import config
from distsgd.config import InputError
from distsgd.machine import where
from distsgd.machine.job import job_of
from distsgd.plan.measured import UNTOLD
from distsgd.plan.planned import MOST, Planned, plan
from distsgd.plan.work import Link
from distsgd.record import read_bounded
from distsgd.report.measured import Measured, measured, runs_of
from distsgd.report.reading import Summary, read_run
from distsgd.training import check


@dataclass(frozen=True)
class Planning:
    """A plan and the runs that belong to it."""

    planned: Planned
    measured: Sequence[Measured]

    def same(self, other: "Planning") -> bool:
        """Whether a reader would learn nothing more."""
        points, others = self.planned.curve.points, other.planned.curve.points
        return [p.training for p in points] == [
            p.training for p in others
        ] and self.measured == other.measured


def planning(folder: Path, others: Sequence[Path], link: Link | None = None) -> "Planning | str":
    """The plan of a run or of a study's first run, beside it the runs in `others` that fit; or why there is none. link: between
    nodes, where none was measured.

    Nothing where the run was not predicted. What the run's files name is read as strictly as what is given to a command.
    """
    try:
        run = next(iter(runs_of(folder)), folder)
        summary, _ = read_run(run)
        if not summary.machine_file:
            return ""
        planned = _planned(run, summary, link, freely=run == folder and summary.workers == summary.ranks)
        return Planning(planned, measured(others, planned)[0])
    except (InputError, MemoryError, *UNTOLD) as error:
        return f"There is no plan: {error}."


def _planned(run: Path, summary: Summary, link: Link | None, freely: bool) -> Planned:
    """freely: with a worker a rank on any number of ranks, not with the run's workers."""
    path = Path(summary.machine_file)
    read_bounded(path)  # what no machine file can be is not waited for
    read_bounded(run / "config.toml")
    settings, problems = config.read(run / "config.toml", [])
    if freely:
        settings = settings.with_workers(None)
    experiment = check(settings, 1, problems)
    hosts = len(set(summary.machine.hosts))
    return plan(
        where.read(path),
        job_of(experiment, link=link),
        MOST,
        -(-summary.ranks // hosts) if hosts > 1 else None,
    )
