"""Checkpoints of a run: when it writes them, and how another run goes on from one."""

import collections
import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distsgd import __version__, config
from distsgd import record as records
from distsgd.cli.stopping import Stopping
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.config import Config, InputError
from distsgd.record import Record, checkpoint
from distsgd.training import Training, check

MAY_CHANGE = (
    *("data.path", "data.prefetch", "averaging.topology"),
    *("train.epochs", "checkpoint.every", "checkpoint.keep"),
)
"""Settings that a run may go on with others of: they change none of the numbers up to its end."""


@dataclass(frozen=True)
class Start:
    """What a run begins with, the same on every rank; `facts` of the checkpoint at `path` where it goes on from one."""

    settings: Config
    folder: Path
    path: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """As it travels to other ranks."""
        path = str(self.path) if self.path else None
        return json.dumps([self.settings.model_dump(), str(self.folder), path, self.facts]).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Start":
        """What `to_json` gave."""
        settings, folder, path, facts = json.loads(content)
        return cls(Config.model_validate(settings), Path(folder), Path(path) if path else None, facts)

    def resumed(self, ranks: int) -> list[dict[str, int]]:
        """Where the run went on, each time, and on how many ranks."""
        if not self.path:
            return []
        here = {name: int(self.facts[name]) for name in ("epoch", "step", "rounds")}
        return [*self.facts["resumed"], {**here, "ranks": ranks}]


def command(folder: Path, ranks: int) -> str:
    """What a person types to go on with a run."""
    return f"distsgd train --resume {shlex.quote(str(folder))}" + (f" --ranks {ranks}" if ranks > 1 else "")


def find(folder: Path, changes: Sequence[str], ranks: int, held: contextlib.ExitStack) -> Start:
    """The last good checkpoint of a run, and its settings with `changes`. InputError where the run can't go on."""
    if not (folder / "config.toml").is_file():
        raise InputError(f"--resume {folder}: there is no run; wanted: a run's folder, with its config.toml")
    held.enter_context(records.lock(folder))
    settings, problems = config.read(folder / "config.toml", changes)
    if problems:
        raise InputError("\n".join(problems))
    _check_not_over(folder, settings)
    path, facts = _last_good(folder)
    _check_same(settings, facts)
    images = check(settings, ranks, []).images
    if images.sha256 != facts["data_sha256"]:
        raise InputError(
            f"{images.path} has other images than the run began with: sha256 {images.sha256}, "
            f"wanted: {facts['data_sha256']}"
        )
    return Start(settings, folder, path, facts)


def _check_not_over(folder: Path, settings: Config) -> None:
    summary = records.summary(folder)
    if summary.get("outcome") == "diverged":
        raise InputError(f"{folder} has diverged, and would again; begin a new run with other settings")
    if summary.get("outcome") == "finished" and settings.train.epochs <= int(summary.get("epochs", 0)):
        raise InputError(
            f"{folder} is finished; to train longer than its {summary['epochs']} epochs: --set train.epochs=N"
        )


def _last_good(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint that is whole; those after it are told and put aside."""
    damaged = []
    for path in checkpoint.saved(folder / "checkpoints"):
        try:
            facts = checkpoint.read_facts(path)
        except checkpoint.Damaged as error:
            print(f"distsgd: {path} is damaged: {error}", file=sys.stderr, flush=True)
            damaged.append(path)
            continue
        for other in damaged:
            other.rename(other.with_name(other.name + ".damaged"))
        return path, facts
    raise InputError(
        f"{folder} has no {'good ' if damaged else ''}checkpoint to go on from; "
        f"begin again with: distsgd train {shlex.quote(str(folder / 'config.toml'))} --out ANOTHER"
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
    if settings.train.epochs <= facts["epoch"]:
        problems.append(f"train.epochs = {settings.train.epochs}: {facts['epoch']} are done already")
    if problems:
        raise InputError("\n".join(problems))


def restore(training: Training, start: Start, ranks: Ranks, say: Callable[[str], None]) -> None:
    """Put a run where its checkpoint was: rank 0 reads and the others get it from there."""
    if not start.path:
        return
    say(f"going on after {_place(start.facts)}, from {start.path}")
    with checkpoint.reading(start.path) if ranks.rank == 0 else contextlib.nullcontext() as read:

        def take(name: str, out: np.ndarray) -> None:
            if read:
                read(name, out)
            ranks.broadcast(out)

        training.restore(start.facts, take)


def _place(facts: dict[str, Any]) -> str:
    epochs, steps = facts["epoch"], facts["step"]
    return f"{epochs} epoch{'s' * (epochs != 1)} and {steps} step{'s' * (steps != 1)}"


class Saving:
    """Writes a run's files while it goes on. A disk that takes no more is told once, and does not end the run."""

    def __init__(
        self,
        training: Training,
        record: Record | None,
        start: Start,
        ranks: Ranks,
        clock: Clock,
        stopping: Stopping,
    ) -> None:
        self._training, self._record, self._ranks, self._clock = training, record, ranks, clock
        self._start, self._stopping, self._troubled = start, stopping, set[str]()
        self.last = start.path

    def save(self) -> None:
        """Write a checkpoint: rank 0 does, and the others have a part in it."""
        self._stopping.saving = True
        place, arrays = self._training.place(), self._training.arrays()
        if self._record:
            record, facts = self._record, self._facts(place)
            keep = self._start.settings.checkpoint.keep
            folder = record.folder / "checkpoints"
            self.attempt("checkpoints", lambda: self._note(checkpoint.write(folder, keep, facts, arrays)))
        collections.deque(arrays, maxlen=0)  # what was not written is sent all the same
        self._stopping.saving = self._stopping.asked() is not None

    def farewell(self, say: Callable[[str], None]) -> int:
        """Say where a run that was told to stop is saved and how it goes on; the exit code, the same on every rank."""
        number = np.array([self._stopping.number], np.int64)
        self._ranks.maximum(number)
        saved = "not saved" if "checkpoints" in self._troubled else f"saved as {self.last}"
        on = command(self._start.folder, self._ranks.size)
        place = _place(self._training.place())
        say(f"stopped after {place}, {saved}\n  go on with: {on}")
        self._ranks.barrier()  # a launcher may end all ranks with the first
        return 128 + int(number[0])

    def _note(self, path: Path) -> None:
        self.last = path

    def seconds(self) -> float:
        """Of this run, with those up to the checkpoint that it went on from."""
        return float(self._start.facts.get("seconds", 0.0)) + self._clock.seconds()["total"]

    def _facts(self, place: dict[str, Any]) -> dict[str, Any]:
        return {
            **place,
            "version": __version__,
            "config": self._start.settings.model_dump(),
            "data_sha256": self._training.experiment.images.sha256,
            "lines": self._record.lines if self._record else [],
            "resumed": self._start.resumed(self._ranks.size),
            "seconds": self.seconds(),
        }

    def attempt(self, name: str, write: Callable[[], None]) -> None:
        """Write a file of the run; where that fails, say so, once until it works again."""
        try:
            write()
            self._troubled.discard(name)
        except OSError as error:
            if name not in self._troubled:
                left = (
                    f"the last good checkpoint is {self.last}" if self.last else "there is no checkpoint yet"
                )
                why = f"cannot write {self._start.folder / name}: {error.strerror or error}"
                print(f"distsgd: {why}; training goes on, {left}", file=sys.stderr, flush=True)
            self._troubled.add(name)
