"""What a run will take, said before it begins, where this machine was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distsgd.clock import TRAINING
from distsgd.comm import Ranks
from distsgd.config import Config
from distsgd.cost.averaging import advice
from distsgd.cost.machine import Machine, Where
from distsgd.machine import where
from distsgd.machine.job import job_of
from distsgd.machine.nearness import alike
from distsgd.plan.measured import UNTOLD
from distsgd.plan.rounds import asked_of
from distsgd.plan.runs import Run, predict_run
from distsgd.plan.work import Job
from distsgd.training import Experiment

MATTERS = 0.05
"""Of training, what averages must take before another way to make them is named."""


@dataclass(frozen=True)
class Foreseen:
    """A prediction, or what to do to get one."""

    line: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What run.json gets; nothing without a prediction."""
    messages: Mapping[str, Any] | None = None
    """What the machine file says of averages."""


def foresee(
    settings: Config, experiment: Experiment, ranks: Ranks, epoch: int = 0, step: int = 0
) -> Foreseen:
    """Predict what is left from a step of an epoch on. All ranks call this, and rank 0 has the answer.

    No machine file, whatever is in it, keeps a run from beginning.
    """
    here = where.where(ranks, settings.train.threads)
    if ranks.rank > 0:
        return Foreseen("")
    named = settings.prediction.machine
    found = (Path(named), where.read(Path(named))) if named else where.found(here)
    wanted = {"ranks": here.ranks, "threads": here.threads}
    make = " ".join(["distsgd calibrate", *(f"--{name} {n}" for name, n in wanted.items() if n > 1)])
    if not found:
        return Foreseen(f"not predicted: this machine was not measured (make a machine file: {make})")
    path, machine = found
    job = job_of(experiment, ranks.size, here.ranks_per_node)
    crowded = here.ranks_per_node * here.threads > here.cores and not job.slept
    if crowded and machine.where.ranks_per_node < here.ranks_per_node:
        line = f"not predicted: {here.ranks_per_node} ranks take turns on {here.cores} cores, and {path} is of fewer"
        return Foreseen(f"{line} (make a new one: {make})", messages=machine.averaging)
    try:
        run = predict_run(machine, job, settings.train.epochs - epoch - step / job.steps)
        more = _elsewhere(machine.where, here) + _faster(machine, job, run)
    except UNTOLD as error:
        line = (
            f"not predicted: {path} does not tell: {' '.join(map(str, error.args))} (make a new one: {make})"
        )
        return Foreseen(line, messages=machine.averaging)
    slept = f"; steps sleep for what {settings.train.replay} tells" if job.slept else ""
    line = _line(run) + slept + more
    return Foreseen(line, {"machine_file": str(path), **run.facts}, machine.averaging)


def _elsewhere(there: Where, here: Where) -> str:
    """What a file was measured with, where that is not what there is: a file that was named may be of anywhere."""
    differs = [name for name in ("processor", "mpi") if getattr(there, name) != getattr(here, name)]
    if here.ranks == 1:
        differs = [name for name in differs if name != "mpi"]
    told = " and ".join(f"{getattr(there, name)}, here is {getattr(here, name)}" for name in differs)
    said = [f"the machine file is of {told}" if told else "", where.outdated(there)]
    return "".join(f"; {one}" for one in said if one) + _wandered(there, here)


def _wandered(there: Where, here: Where) -> str:
    """What follows where cores lie otherwise than when they were measured."""
    then, now = where.comparable(there, here), here.nearness
    if then is None or now is None or alike(then, now):
        return ""
    nearer, longer, shorter = (
        ("nearer", "longer", "shorter") if now < then else ("farther", "shorter", "longer")
    )
    return (
        f"; cores lie {nearer} to each other than when they were measured (the smallest exchange takes "
        f"{1e6 * now:.2f} us, then {1e6 * then:.2f}): steps on large batches may take {longer}, averages {shorter}"
    )


def _faster(machine: Machine, job: Job, run: Run) -> str:
    """Which other way to average would gain something, where averages take long enough to matter."""
    average = run.phases["average"].seconds
    if job.ranks == 1 or average < MATTERS * sum(run.phases[name].seconds for name in TRAINING):
        return ""
    told = advice(machine.averaging, asked_of(job))
    return f"\n{told}" if told else ""


def _line(run: Run) -> str:
    """The whole, and the phases that take most of it."""
    low, high = run.whole.interval
    most = sorted(run.phases.items(), key=lambda phase: -phase[1].seconds)[:3]
    shares = ", ".join(f"{name} {part.seconds:.3g}" for name, part in most)
    return f"predicted: {run.whole.seconds:.3g} s ({low:.3g} to {high:.3g}): {shares}"
