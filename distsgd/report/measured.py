"""Runs that have ended, beside a plan: those that had its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distsgd import config
from distsgd.clock import TRAINING
from distsgd.config import Config, InputError
from distsgd.cost.scaling import Spread, spread
from distsgd.plan.planned import Planned
from distsgd.report.reading import Summary, read_run

SAME_TIME = (
    *("data.path", "train.seed", "checkpoint.every", "checkpoint.keep", "prediction.machine"),
    *(f"optimizer.{name}" for name in ("learning_rate", "momentum", "beta1", "beta2", "epsilon", "final")),
    *(f"optimizer.{name}" for name in ("schedule", "step_epochs", "step_factor", "warmup", "scale")),
    "averaging.workers",
)
"""Settings that have no part in how long training takes; workers and images are compared by themselves."""


@dataclass(frozen=True)
class Measured:
    """What runs on so many ranks took to train."""

    ranks: int
    nodes: int
    seconds: Spread
    runs: int
    oversubscribed: bool


def measured(folders: Sequence[Path], planned: Planned) -> tuple[list[Measured], list[str]]:
    """The runs in these folders, or in those of scaling studies, by rising ranks; and why others are none of the plan's.

    Raises InputError where a folder holds neither a run nor a study.
    """
    fitting: dict[int, list[Summary]] = {}
    others = []
    for folder in (run for given in folders for run in runs_of(given)):
        summary, _ = read_run(folder)
        if fault := _fault(folder, summary, planned):
            others.append(f"{folder} is not shown: {fault}")
        else:
            fitting.setdefault(summary.ranks, []).append(summary)
    return [_together(summaries) for _, summaries in sorted(fitting.items())], others


def runs_of(folder: Path) -> list[Path]:
    """The folder, or those of a study's runs."""
    if not (folder / "scale.json").exists():
        return [folder]
    return sorted(
        path.parent for path in folder.glob("*/repeat-*/run.json") if "-unfinished-" not in str(path)
    )


def _together(runs: Sequence[Summary]) -> Measured:
    crowded = any(run.machine.oversubscribed for run in runs)
    return Measured(
        runs[0].ranks, _nodes(runs[0]), spread([_training(run) for run in runs]), len(runs), crowded
    )


def _training(run: Summary) -> float:
    return sum(run.seconds.get(phase, 0.0) for phase in TRAINING)


def _nodes(run: Summary) -> int:
    return len(set(run.machine.hosts)) or 1


def _fault(folder: Path, run: Summary, planned: Planned) -> str:
    """Why a run can't stand beside the plan; nothing where it can."""
    job = planned.job
    if run.outcome != "finished" or run.epochs_done != job.config.train.epochs or not _training(run):
        return f"{run.outcome}, {run.epochs_done} epochs; the plan is for {job.config.train.epochs}"
    if run.data_sha256 != job.images.sha256:
        return "it has learnt from other images"
    if run.workers != (job.config.averaging.workers or run.ranks):
        return (
            f"averaging.workers = {run.workers}; the plan has {job.config.averaging.workers or 'one a rank'}"
        )
    places = {point.job.ranks: point.job.nodes for point in planned.curve.points}
    if _nodes(run) != places.get(run.ranks, _nodes(run)):
        return f"its {run.ranks} ranks were on {_nodes(run)} nodes, in the plan they are on {places[run.ranks]}: --ranks-per-node"
    return _settings_fault(folder, planned)


def _settings_fault(folder: Path, planned: Planned) -> str:
    try:
        settings, problems = config.read(folder / "config.toml", [])
    except InputError as error:
        return str(error)
    if problems:
        return problems[0]
    told = config.differences(_explicit(settings), _explicit(planned.job.config))
    return "; ".join(
        f"{name} = {there!r}; the plan has {here!r}"
        for name, (there, here) in told.items()
        if name not in SAME_TIME
    )


def _explicit(settings: Config) -> Config:
    """With the period that is meant, where none is given."""
    averaging = settings.averaging.model_copy(update={"period": settings.averaging.rounds_of})
    return settings.model_copy(update={"averaging": averaging})
