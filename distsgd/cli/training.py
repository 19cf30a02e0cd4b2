"""`distsgd train`: from the settings to the last file, on every rank."""

import contextlib
import errno
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from distsgd import __version__, config, network, report
from distsgd.cli import saving
from distsgd.cli.ranks import BAD_INPUT, FAILED, complain
from distsgd.cli.saving import Saving, Start
from distsgd.cli.stopping import Stopping
from distsgd.clock import Clock, peak_memory
from distsgd.comm import Ranks
from distsgd.config import InputError
from distsgd.kernels.tile import FUSED, VECTOR
from distsgd.record import Record, lock, make_folder, weights_sha256
from distsgd.train import (
    Diverged,
    EpochEnd,
    Experiment,
    Pause,
    Progress,
    Result,
    Stopped,
    Training,
    check,
)

QUIET_SECONDS = 2.0
"""On a screen a line a round is read by people: at most one in so many seconds, however short rounds are."""


def train(
    path: Path | None,
    changes: Sequence[str],
    out: Path | None,
    resume: Path | None,
    ranks: Ranks,
    clock: Clock,
) -> int:
    """Train and record, from the beginning or where the run `resume` is; returns the exit code, the same on every rank."""
    with contextlib.ExitStack() as held:
        start = _agree(path, changes, out, resume, ranks, held)
        if start is None:
            return BAD_INPUT
        advice = f"go on with: {saving.command(start.folder, ranks.size)}"
        stopping = Stopping(ranks.abort, ranks.rank == 0, advice)
        held.enter_context(stopping.listening())
        return _train(start, stopping, ranks, clock)


def _train(start: Start, stopping: Stopping, ranks: Ranks, clock: Clock) -> int:
    settings = start.settings
    experiment = check(settings, ranks.size, [])
    say = _speaker(start.folder, ranks)
    record = Record(start.folder, settings, start.facts.get("lines", ())) if ranks.rank == 0 else None
    say(report.opening(settings, experiment.images.path.name, ranks.size, experiment.workers))
    training = Training(experiment, ranks, clock, Pause(ranks, settings.checkpoint.every, stopping.asked))
    saving.restore(training, start, ranks, say)
    files = Saving(training, record, start, ranks, clock, stopping)
    try:
        result = _run(training, record, files, say)
    except Diverged:
        return _diverged(training, record, ranks)
    except Stopped:
        return files.farewell(say)
    try:
        _finish(training, result, record, start, say, ranks, clock)
    except BrokenPipeError:
        raise
    except OSError as error:  # of rank 0, for which the others wait
        advice = f"make room, and go on with: {saving.command(start.folder, ranks.size)}"
        complain(f"cannot write the model to {start.folder}: {error.strerror or error}; {advice}")
        ranks.abort(FAILED)
    return 0


def _agree(
    path: Path | None,
    changes: Sequence[str],
    out: Path | None,
    resume: Path | None,
    ranks: Ranks,
    held: contextlib.ExitStack,
) -> Start | None:
    """What the run begins with, found by rank 0 for all; None, after its one message, where something is wrong."""
    answer = b""
    if ranks.rank == 0:
        try:
            start = (
                saving.find(resume, changes, ranks.size, held)
                if resume
                else _prepare(path, changes, out, ranks, held)
            )
            answer = start.to_json()
        except InputError as error:
            complain(str(error))
    answer = ranks.broadcast_bytes(answer)
    return Start.from_json(answer) if answer else None


def _prepare(
    path: Path | None,
    changes: Sequence[str],
    out: Path | None,
    ranks: Ranks,
    held: contextlib.ExitStack,
) -> Start:
    settings, problems = config.read(path, changes)
    settings = settings.with_workers(check(settings, ranks.size, problems).workers)
    folder = out or Path("runs") / f"{settings.network.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    make_folder(folder)
    held.enter_context(lock(folder))
    return Start(settings, folder)


def _speaker(folder: Path, ranks: Ranks) -> Callable[[str], None]:
    """Rank 0 speaks on the standard output, another rank into a file of its own."""
    if ranks.rank == 0:
        return lambda line: _say(line, sys.stdout)
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)  # on another node the folder may not be the one that rank 0 made
    log = open(logs / f"rank-{ranks.rank:04d}.log", "a", encoding="utf-8", buffering=1)  # noqa: SIM115  until the end
    return lambda line: _say(line, log)


def _say(line: str, file: TextIO) -> None:
    """A full disk does not end a run: it is worth more than its lines."""
    try:
        print(line, file=file, flush=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _run(training: Training, record: Record | None, files: Saving, say: Callable[[str], None]) -> Result:
    """Train, with a line and a record of every epoch, and write the model."""
    experiment, lines = training.experiment, RoundLines(say, always=record is None)

    def end_epoch(end: EpochEnd) -> None:
        say(report.epoch_line(end, experiment.config.train.epochs))
        if record:
            files.attempt("metrics.jsonl", lambda: record.epoch({**asdict(end), "seconds": files.seconds()}))

    return training.run(lines.after_round, end_epoch, files.save)


def _diverged(training: Training, record: Record | None, ranks: Ranks) -> int:
    """The end of a run that came to no numbers."""
    if record:
        about = {"version": __version__, "outcome": "diverged", "ranks": ranks.size, "ranks_lost": 0}
        record.finish({**about, "workers": training.experiment.workers, "rounds": training.rounds_done})
        advice = "choose a smaller optimizer.learning_rate, or average more often (averaging.period)"
        print(f"distsgd: the parameters became infinite or no numbers: {advice}", file=sys.stderr, flush=True)
    return FAILED


def _finish(
    training: Training,
    result: Result,
    record: Record | None,
    start: Start,
    say: Callable[[str], None],
    ranks: Ranks,
    clock: Clock,
) -> None:
    """Write the model, gather every rank's seconds, write run.json, show the table."""
    if record:
        with clock.phase("checkpoint"):
            record.model(result.parameters, *_description(training))
    with clock.phase("wait"):
        ranks.barrier()
    part = {"seconds": clock.seconds(), "peak_memory_bytes": peak_memory()}
    parts = [json.loads(part) for part in ranks.gather_bytes(json.dumps(part).encode())]
    if record:
        summary = _summary(training.experiment, ranks, result, parts)
        summary["resumed"] = start.resumed(ranks.size)
        record.finish(summary)
        say(f"\n{report.table(summary)}\n\n  run: {record.folder}")


class RoundLines:
    """A line a round, but on a screen no more than people can read."""

    def __init__(self, say: Callable[[str], None], always: bool) -> None:
        self._say, self._always, self._spoke = say, always, float("-inf")

    def after_round(self, progress: Progress) -> None:
        """Say how far the run is."""
        now = time.monotonic()
        if self._always or now - self._spoke >= QUIET_SECONDS:
            self._spoke = now
            self._say(report.round_line(progress))


def _description(training: Training) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the numbers in model.h5 are: each tensor's name and shape, the network, and how images are scaled."""
    experiment, images = training.experiment, training.experiment.images
    tensors = [{"name": tensor.name, "shape": tensor.shape} for tensor in network.tensors(experiment.stages)]
    shape = [images.channels, images.height, images.width]
    about = {"network": experiment.config.network.name, "classes": images.classes, "image_shape": shape}
    return tensors, {**about, "class_names": images.class_names, "scaling": training.scaling.tolist()}


def _summary(
    experiment: Experiment, ranks: Ranks, result: Result, parts: list[dict[str, Any]]
) -> dict[str, Any]:
    """What run.json holds; `parts` are the ranks' own, in their order."""
    end, settings = result.last, experiment.config
    seconds = [part["seconds"] for part in parts]
    return {
        "version": __version__,
        "outcome": "finished",
        "network": settings.network.name,
        "parameters": int(result.parameters.size),
        "ranks": ranks.size,
        "workers": experiment.workers,
        "ranks_lost": 0,
        "epochs": settings.train.epochs,
        "rounds": result.rounds,
        "steps": result.steps,
        "test_accuracy": end.test.accuracy,
        "test_loss": end.test.loss,
        "train_accuracy": end.train.accuracy,
        "train_loss": end.train.loss,
        "images_per_second": end.images_per_second,
        "peak_memory_bytes": max(part["peak_memory_bytes"] for part in parts),
        "weights_sha256": weights_sha256(result.parameters),
        "data_sha256": experiment.images.sha256,
        "seconds": {phase: sum(rank[phase] for rank in seconds) / len(seconds) for phase in seconds[0]},
        "seconds_by_rank": seconds,
        "machine": {
            "vector_lanes": VECTOR,
            "fused": FUSED,
            "mpi": ranks.mpi_library(),
            "host": platform.node(),
        },
    }
