"""Where a run begins: a folder of its own, or the checkpoint that another one left; agreed on by all ranks."""

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distsgd import config
from distsgd import record as records
from distsgd.comm import Ranks
from distsgd.config import Config, InputError
from distsgd.machine import where as machine_files
from distsgd.record import checkpoint
from distsgd.training import Experiment, check

MAY_CHANGE = (
    *("data.path", "data.prefetch", "averaging.topology", "averaging.algorithm", "prediction.machine"),
    *("train.epochs", "train.threads", "checkpoint.every", "checkpoint.keep"),
)
"""Settings that a run may go on with others of: they change none of the numbers up to its end."""


@dataclass(frozen=True)
class Start:
    """What a run begins with, the same on every rank; `facts` of the checkpoint at `path` where it goes on from one."""

    settings: Config
    folder: Path | None
    path: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """As it travels to other ranks."""
        paths = [str(path) if path else None for path in (self.folder, self.path)]
        return json.dumps([self.settings.model_dump(), *paths, self.facts]).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Start":
        """What `to_json` gave."""
        settings, *paths, facts = json.loads(content)
        folder, path = (Path(path) if path else None for path in paths)
        return cls(Config.model_validate(settings), folder, path, facts)

    def resumed(self, ranks: int) -> list[dict[str, int]]:
        """Where the run went on, each time, and on how many ranks."""
        if not self.path:
            return []
        here = {name: int(self.facts[name]) for name in ("epoch", "step", "rounds")}
        return [*self.facts["resumed"], {**here, "ranks": ranks}]


def agreed(find: Callable[[], Start], ranks: Ranks) -> tuple[Start, Experiment]:
    """What rank 0 finds, checked by every rank; what is wrong on any of them is an InputError on all."""
    answer, problem, found = b"", "", None
    if ranks.rank == 0:
        try:
            answer = find().to_json()
        except InputError as error:
            problem = str(error)
    answer = ranks.broadcast_bytes(answer)
    if answer:
        start = Start.from_json(answer)
        try:
            found = start, check(start.settings, ranks.size, [])
        except InputError as error:
            problem = str(error)
    problems = [said.decode() for said in ranks.gather_bytes(problem.encode()) if said]
    problem = ranks.broadcast_bytes("".join(problems[:1]).encode()).decode()
    if problem or found is None:
        raise InputError(problem)
    return found


def new(
    settings: Config, problems: list[str], folder: Path | None, ranks: int, held: contextlib.ExitStack
) -> Start:
    """The beginning of a run, in a folder made for it if one is given. InputError with all that is wrong, `problems` first."""
    settings = settings.with_workers(check(settings, ranks, problems).workers)
    _check_machine(settings)
    if folder is not None:
        records.make_folder(folder)
        held.enter_context(records.lock(folder))
        _check_writable(folder, settings)
    return Start(settings, folder)


def _check_machine(settings: Config) -> None:
    """InputError where the machine file that is to predict the run is none."""
    if settings.prediction.machine:
        machine_files.read(Path(settings.prediction.machine))


def _check_writable(folder: Path, settings: Config) -> None:
    """Write the run's settings: a disk that takes nothing at all is told before anything is computed."""
    try:
        records.Record(folder, settings)
    except OSError as error:
        raise InputError(
            f"cannot write into the run's folder {folder}: {error.strerror}; make room there"
        ) from None


def again(
    folder: Path,
    changes: Sequence[str] | Mapping[str, Any],
    ranks: int,
    held: contextlib.ExitStack,
    warn: Callable[[str], None] = lambda line: None,
) -> Start:
    """The last good checkpoint of a run, and its settings with `changes`. InputError where the run can't go on.

    `warn` is told of each checkpoint that is damaged.
    """
    if not (folder / "config.toml").is_file():
        raise InputError(
            f"{folder}: there is no run to go on with; wanted: a run's folder, with its config.toml"
        )
    held.enter_context(records.lock(folder))
    settings, problems = config.read(folder / "config.toml", changes)
    if problems:
        raise InputError("\n".join(problems))
    _check_machine(settings)
    _check_not_over(folder, settings)
    path, facts = _last_good(folder, ranks, warn)
    _check_same(settings, facts)
    images = check(settings, ranks, []).images
    if images.sha256 != facts["data_sha256"]:
        raise InputError(
            f"{images.path} has other images than the run began with: sha256 {images.sha256}, "
            f"wanted: {facts['data_sha256']}"
        )
    _check_writable(folder, settings)
    return Start(settings, folder, path, facts)


def _check_not_over(folder: Path, settings: Config) -> None:
    summary = records.summary(folder)
    if summary.get("outcome") == "diverged":
        raise InputError(f"{folder} has diverged, and would again; begin a new run with other settings")
    if summary.get("outcome") == "finished" and settings.train.epochs <= int(summary.get("epochs", 0)):
        longer = (
            "its learning rate fell along a cosine to the end; begin a new run to train longer"
            if settings.optimizer.schedule == "cosine"
            else f"to train longer than its {summary['epochs']} epochs: --set train.epochs=N"
        )
        raise InputError(f"{folder} is finished; {longer}")


def _last_good(folder: Path, ranks: int, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint that is whole; those after it are told and put aside."""
    damaged = []
    for path in checkpoint.saved(folder / "checkpoints"):
        try:
            facts = checkpoint.read_facts(path)
        except checkpoint.Damaged as error:
            what = "of another version" if isinstance(error, checkpoint.OtherVersion) else "damaged"
            warn(f"{path} is {what}: {error}")
            damaged.append(path)
            continue
        for other in damaged:
            other.rename(other.with_name(other.name + ".damaged"))
        return path, facts
    raise InputError(
        f"{folder} has no {'good ' if damaged else ''}checkpoint to go on from; {advice(folder, None, ranks)}"
    )


def _check_same(settings: Config, facts: dict[str, Any]) -> None:
    before = Config.model_validate(facts["config"])
    others = {
        name: values
        for name, values in config.differences(settings, before).items()
        if name not in MAY_CHANGE
    }
    problems = [
        f"{name} = {now!r}: the run was begun with {then!r}, and only {', '.join(MAY_CHANGE)} may change"
        for name, (now, then) in others.items()
    ]
    epochs = settings.train.epochs, before.train.epochs
    if settings.optimizer.schedule == "cosine" and epochs[0] != epochs[1]:
        problems.append(
            f"train.epochs = {epochs[0]}: the learning rate falls along a cosine over the {epochs[1]} epochs "
            "that the run was begun with; begin a new run for another number"
        )
    if settings.train.epochs <= facts["epoch"]:
        problems.append(f"train.epochs = {settings.train.epochs}: {facts['epoch']} are done already")
    if problems:
        raise InputError("\n".join(problems))


def advice(folder: Path, last: Path | None, ranks: int) -> str:
    """What a person types to go on with a run from its last checkpoint, or to begin anew where there is none."""
    several = f" --ranks {ranks}" if ranks > 1 else ""
    if last:
        return f"go on with: distsgd train --resume {shlex.quote(str(folder))}{several}"
    return (
        f"begin again with: distsgd train {shlex.quote(str(folder / 'config.toml'))} --out ANOTHER{several}"
    )


def place(facts: Mapping[str, Any]) -> str:
    """Where a checkpoint is, in words."""
    epochs, steps = facts["epoch"], facts["step"]
    return f"{epochs} epoch{'s' * (epochs != 1)} and {steps} step{'s' * (steps != 1)}"
