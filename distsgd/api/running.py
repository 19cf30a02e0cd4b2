"""A run while it goes on: its training, and the files that it leaves."""

import collections
import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distsgd import __version__, report
from distsgd.api.foreseen import foresee
from distsgd.api.start import Start
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.doctor import place
from distsgd.record import Record, checkpoint
from distsgd.training import (
    Diverged,
    EpochEnd,
    Experiment,
    Pause,
    Progress,
    Result,
    Training,
    Watch,
    conclude,
    description,
    diverged,
)


class Running:
    """Trains from a start to the last file. A disk that takes no more is told once, and only at the end is it an error."""

    def __init__(
        self,
        start: Start,
        experiment: Experiment,
        ranks: Ranks,
        clock: Clock,
        warn: Callable[[str], None],
        asked: Callable[[], float | None] = lambda: None,
        writing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """`warn` is told of the disk, and of the algorithm where "auto" chose it.

        `asked`: seconds since this process was asked to stop; `writing` is entered to save.
        """
        self._start, self._ranks, self._clock, self._warn, self._writing = start, ranks, clock, warn, writing
        folder, lines, every = start.folder, start.facts.get("lines", []), start.settings.checkpoint.every
        self._troubled = set[str]()
        self._record = Record(folder, start.settings, lines) if folder and ranks.rank == 0 else None
        done = (int(start.facts.get(name, 0)) for name in ("epoch", "step"))
        self.foreseen = foresee(start.settings, experiment, ranks, *done)
        """What the run will take."""
        places = place.places(ranks)
        crowding = place.crowding(places, start.settings.train.threads)
        self._hosts, self._crowded = [at.host for at in places], crowding.level != "ok"
        watched = bool(ranks.broadcast_bytes(b"" if self._crowded else b"watched"))
        self.checkpoint, self.saved = start.path, False
        """The last good one; and whether the last try to write one went well."""
        self.epochs: list[dict[str, Any]] = [json.loads(line) for line in lines]
        if self.foreseen.facts:
            self._attempt("prediction.json", lambda record: record.prediction(self.foreseen.facts))
        pause = Pause(ranks, every if folder else 0.0, asked)
        watch = Watch(ranks, clock, watched)
        self.training = Training(experiment, ranks, clock, pause, self.foreseen.messages, watch)
        if self.training.why_algorithm and ranks.rank == 0:
            warn(self.training.why_algorithm)
        if start.path:
            self._restore(start.path)

    def _restore(self, path: Path) -> None:
        """Put the run where its checkpoint was: rank 0 reads and the others get it from there."""
        with checkpoint.reading(path) if self._ranks.rank == 0 else contextlib.nullcontext() as read:

            def take(name: str, out: np.ndarray) -> None:
                if read:
                    read(name, out)
                self._ranks.broadcast(out)

            self.training.restore(self._start.facts, take)

    def train(self, after_round: Callable[[Progress], None], say: Callable[[str], None]) -> Result:
        """To the end of training, with a line and a record of every epoch. Raises Diverged; Stopped when it was asked to stop."""
        last, told = self._start.settings.train.epochs, 0

        def end_round(progress: Progress) -> None:
            nonlocal told
            after_round(progress)
            for slow in self.training.slow[told:]:
                say(report.slow_line(slow, self._hosts))
            told = len(self.training.slow)

        def end_epoch(end: EpochEnd) -> None:
            self.epochs.append({**asdict(end), "seconds": self._seconds()})
            self._attempt("metrics.jsonl", lambda record: record.epoch(self.epochs[-1]))
            say(report.epoch_line(end, last))

        try:
            result = self.training.run(end_round, end_epoch, self.save)
        except Diverged:
            if self._record:
                with contextlib.suppress(OSError):  # that it diverged is what to say, disk or not
                    self._record.finish(diverged(self.training, self._ranks))
            raise
        if result.last.epoch < last:
            say(report.stop_line(result))
        return result

    def finish(self, result: Result) -> dict[str, Any]:
        """Write the model and run.json; what that holds, on every rank. OSError, on all, where they can't be written."""
        why = ""
        try:
            with self._clock.phase("checkpoint"):
                if self._record:
                    self._record.model(result.parameters, *description(self.training))
        except OSError as error:
            why = error.strerror or str(error)
        summary = conclude(self.training, result, self._ranks, self._clock)
        if summary:
            summary["resumed"] = self._start.resumed(self._ranks.size)
            summary |= self.foreseen.facts
            summary["machine"] |= {"oversubscribed": self._crowded, "hosts": sorted(set(self._hosts))}
        try:
            if self._record and summary and not why:
                self._record.finish(summary)
        except OSError as error:
            why = error.strerror or str(error)
        why, summary = json.loads(self._ranks.broadcast_bytes(json.dumps([why, summary]).encode()))
        if why:
            raise OSError(f"cannot write the model to {self._start.folder}: {why}")
        return dict(summary or {})

    def save(self) -> None:
        """Write a checkpoint: rank 0 does, and the others have a part in it."""
        with self._writing():
            place, arrays = self.training.place(), self.training.arrays()
            facts, keep = self._facts(place), self._start.settings.checkpoint.keep

            def write(record: Record) -> None:
                self.checkpoint = checkpoint.write(record.folder / "checkpoints", keep, facts, arrays)

            self.saved = self._attempt("checkpoints", write)
            collections.deque(arrays, maxlen=0)  # what was not written is sent all the same

    def _facts(self, place: dict[str, Any]) -> dict[str, Any]:
        return {
            **place,
            "version": __version__,
            "config": self._start.settings.model_dump(),
            "data_sha256": self.training.experiment.images.sha256,
            "lines": self._record.lines if self._record else [],
            "resumed": self._start.resumed(self._ranks.size),
            "seconds": self._seconds(),
        }

    def _seconds(self) -> float:
        """Of this run, with those up to the checkpoint that it went on from."""
        return float(self._start.facts.get("seconds", 0.0)) + self._clock.seconds()["total"]

    def _attempt(self, name: str, write: Callable[[Record], None]) -> bool:
        """Write a file of the run, on rank 0; where that fails, say so, once until it works again."""
        if self._record is None:
            return False
        try:
            write(self._record)
            self._troubled.discard(name)
        except OSError as error:
            if name not in self._troubled:
                last = self.checkpoint
                left = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
                why = f"cannot write {self._record.folder / name}: {error.strerror or error}"
                self._warn(f"{why}; training goes on, {left}")
            self._troubled.add(name)
        return name not in self._troubled
