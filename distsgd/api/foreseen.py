"""What a run will take, said before it begins, where this machine was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distsgd.comm import Ranks
from distsgd.config import Config
from distsgd.machine import where
from distsgd.plan.runs import Run, predict_run
from distsgd.plan.work import Job
from distsgd.training import Experiment


@dataclass(frozen=True)
class Foreseen:
    """A prediction, or what to do to get one."""

    line: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What run.json gets; nothing without a prediction."""
    messages: Mapping[str, Any] | None = None
    """What the machine file says of averages."""


def foresee(settings: Config, experiment: Experiment, ranks: Ranks, epochs: int) -> Foreseen:
    """Predict so many epochs. All ranks call this, and rank 0 has the answer."""
    here = where.where(ranks)
    if ranks.rank > 0:
        return Foreseen("")
    named = settings.prediction.machine
    found = (Path(named), where.read(Path(named))) if named else where.found(here)
    make = f"distsgd calibrate{f' --ranks {here.ranks}' if here.ranks > 1 else ''}"
    if not found:
        return Foreseen(f"not predicted: this machine was not measured (make a machine file: {make})")
    path, machine = found
    if settings.train.threads > 1:
        line = (
            f"not predicted: {path} is of ranks of one thread, and train.threads = {settings.train.threads}"
        )
        return Foreseen(line, messages=machine.averaging)
    stages, workers = tuple(experiment.stages), experiment.workers
    job = Job(stages, settings, experiment.images, workers, ranks.size, here.ranks_per_node)
    try:
        run = predict_run(machine, job, epochs)
    except LookupError as error:
        line = f"not predicted: {path} does not tell: {error.args[0]} (make a new one: {make})"
        return Foreseen(line, messages=machine.averaging)
    return Foreseen(_line(run), {"machine_file": str(path), **run.facts}, machine.averaging)


def _line(run: Run) -> str:
    """The whole, and the phases that take most of it."""
    low, high = run.whole.interval
    most = sorted(run.phases.items(), key=lambda phase: -phase[1].seconds)[:3]
    shares = ", ".join(f"{name} {part.seconds:.3g}" for name, part in most)
    return f"predicted: {run.whole.seconds:.3g} s ({low:.3g} to {high:.3g}): {shares}"
