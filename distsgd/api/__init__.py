"""distsgd from Python: train, go on, and load what was trained. Nothing is printed, and nothing ends the process."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distsgd import comm, config
from distsgd.api import start
from distsgd.api.running import Running
from distsgd.api.start import Start
from distsgd.clock import Clock
from distsgd.config import Config, InputError
from distsgd.kernels.vector import aligned
from distsgd.model import Evaluation, Model, load
from distsgd.training import Diverged, Result, Training

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Config", "Diverged", "Evaluation", "InputError", "Model", "Run", "load", "resume", "train"]

Say = Callable[[str], None]


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
    say: Say | None = None,
) -> Run:
    """Train a network; all ranks call this together.

    settings: a Config, the same as nested mappings ({"train": {"epochs": 3}}), or the path of a TOML file. communicator: of
    mpi4py; without one, the ranks that an MPI launcher started, or this process alone. out: a folder to be written as `distsgd
    train` does, by rank 0, with checkpoints to `resume` from. say: called on rank 0 with a line an epoch, and where the disk takes
    no more. Raises InputError with all that is wrong, Diverged, and OSError where the model can't be written, on every rank alike.
    """
    folder = None if out is None else Path(out)
    return _conduct(
        lambda ranks, held: start.new(*_read(settings), folder, ranks, held), communicator, say or _silent
    )


def resume(
    run: str | Path,
    changes: Mapping[str, Any] | None = None,
    communicator: "MPI.Intracomm | None" = None,
    say: Say | None = None,
) -> Run:
    """Go on with the run in a folder from its last good checkpoint; all ranks, of whatever number, call this together.

    It comes to the same weights as if it had never stopped. changes: settings as `train` takes them, of those that change no
    number up to there, for example {"train": {"epochs": 30}} to make a run longer. The rest, and what is raised, as with `train`;
    InputError also where the run can't go on.
    """
    return _conduct(
        lambda ranks, held: start.again(Path(run), changes or {}, ranks, held), communicator, say or _silent
    )


def _conduct(
    find: Callable[[int, contextlib.ExitStack], Start], communicator: "MPI.Intracomm | None", say: Say
) -> Run:
    ranks = comm.world(os.environ) if communicator is None else comm.wrap(communicator)
    said = say if ranks.rank == 0 else _silent
    try:
        with contextlib.ExitStack() as held:
            begun, experiment = start.agreed(lambda: find(ranks.size, held), ranks)
            running = Running(begun, experiment, ranks, Clock(), said)
            result = running.train(lambda progress: None, said)
            summary = running.finish(result)
    except (InputError, Diverged):
        ranks.close()
        raise
    ranks.close()
    return Run(_model(running.training, result), summary, running.epochs, begun.folder)


def _read(settings: Config | Mapping[str, Any] | str | Path) -> tuple[Config, list[str]]:
    if isinstance(settings, Config):
        return settings, settings.problems()
    return config.read_table(settings) if isinstance(settings, Mapping) else config.read(Path(settings))


def _silent(line: str) -> None:
    """What other ranks than 0 say."""


def _model(training: Training, result: Result) -> Model:
    parameters = aligned(result.parameters.size)
    np.copyto(parameters, result.parameters)
    experiment, images = training.experiment, training.experiment.images
    shape = images.channels, images.height, images.width
    return Model(experiment.stages, parameters, training.scaling, images.class_names, shape)
