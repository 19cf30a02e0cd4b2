"""distsgd from Python: train, and load what was trained. Nothing is printed, and nothing ends the process."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distsgd import comm, config, report
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.config import Config, InputError
from distsgd.model import Evaluation, Model, load
from distsgd.network import aligned
from distsgd.record import Record, make_folder
from distsgd.training import (
    Diverged,
    EpochEnd,
    Experiment,
    Result,
    Training,
    check,
    conclude,
    description,
    diverged,
)

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Config", "Diverged", "Evaluation", "InputError", "Model", "Run", "load", "train"]


@dataclass(frozen=True)
class Run:
    """A run that ended, the same on every rank: its network, what run.json and metrics.jsonl hold, and its folder, if any."""

    model: Model
    summary: dict[str, Any]
    epochs: list[dict[str, Any]]
    folder: Path | None


def train(
    settings: Config | Mapping[str, Any] | str | Path,
    communicator: "MPI.Intracomm | None" = None,
    out: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Run:
    """Train a network; all ranks call this together.

    settings: a Config, the same as nested mappings ({"train": {"epochs": 3}}), or the path of a TOML file. communicator: of
    mpi4py; without one, the ranks that an MPI launcher started, or this process alone. out: a folder to be written as `distsgd
    train` does, by rank 0. say: called on rank 0 with a line an epoch. Raises InputError with all that is wrong, and Diverged, on
    every rank alike.
    """
    ranks = comm.world(os.environ) if communicator is None else comm.wrap(communicator)
    try:
        experiment = _agree(settings, ranks, out)
        run = _train(experiment, ranks, Path(out) if out is not None else None, say)
    except (InputError, Diverged):
        ranks.close()
        raise
    ranks.close()
    return run


def _agree(
    settings: Config | Mapping[str, Any] | str | Path, ranks: Ranks, out: str | Path | None
) -> Experiment:
    """Rank 0's settings, checked by every rank; what is wrong on any of them is an InputError on all."""
    answer, problem, experiment = b"", "", None
    if ranks.rank == 0:
        try:
            given, problems = _read(settings)
            given = given.with_workers(check(given, ranks.size, problems).workers)
            if out is not None:
                make_folder(Path(out))
            answer = json.dumps(given.model_dump(mode="json")).encode()
        except InputError as error:
            problem = str(error)
    answer = ranks.broadcast_bytes(answer)
    if answer:
        try:
            experiment = check(Config.model_validate_json(answer), ranks.size, [])
        except InputError as error:
            problem = str(error)
    problems = [said.decode() for said in ranks.gather_bytes(problem.encode()) if said]
    problem = ranks.broadcast_bytes("".join(problems[:1]).encode()).decode()
    if problem or experiment is None:
        raise InputError(problem)
    return experiment


def _read(settings: Config | Mapping[str, Any] | str | Path) -> tuple[Config, list[str]]:
    if isinstance(settings, Config):
        return settings, settings.problems()
    return config.read_table(settings) if isinstance(settings, Mapping) else config.read(Path(settings))


def _train(
    experiment: Experiment, ranks: Ranks, folder: Path | None, say: Callable[[str], None] | None
) -> Run:
    clock, epochs = Clock(), list[dict[str, Any]]()
    record = Record(folder, experiment.config) if folder is not None and ranks.rank == 0 else None
    training = Training(experiment, ranks, clock)

    def end_epoch(end: EpochEnd) -> None:
        epochs.append({**asdict(end), "seconds": clock.seconds()["total"]})
        if record:
            record.epoch(epochs[-1])
        if say and ranks.rank == 0:
            say(report.epoch_line(end, experiment.config.train.epochs))

    try:
        result = training.run(lambda progress: None, end_epoch)
    except Diverged:
        if record:
            record.finish(diverged(training, ranks))
        raise
    if record:
        with clock.phase("checkpoint"):
            record.model(result.parameters, *description(training))
    summary = conclude(training, result, ranks, clock)
    if record and summary:
        record.finish(summary)
    summary = json.loads(ranks.broadcast_bytes(json.dumps(summary).encode()))
    return Run(_model(training, result), summary, epochs, folder)


def _model(training: Training, result: Result) -> Model:
    parameters = aligned(result.parameters.size)
    np.copyto(parameters, result.parameters)
    experiment, images = training.experiment, training.experiment.images
    shape = images.channels, images.height, images.width
    return Model(experiment.stages, parameters, training.scaling, images.class_names, shape)
