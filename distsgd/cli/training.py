"""`distsgd train`: from the settings to the last file, on every rank."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from distsgd import config, doctor, report
from distsgd.cli import progress, saving
from distsgd.cli.ranks import BAD_INPUT, FAILED, complain
from distsgd.cli.saving import Saving, Start
from distsgd.cli.stopping import Stopping
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.config import InputError
from distsgd.record import Record, lock, make_folder
from distsgd.training import (
    Diverged,
    EpochEnd,
    Pause,
    Result,
    Stopped,
    Training,
    check,
    conclude,
    description,
    diverged,
)


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
    for warning in doctor.warnings(ranks, os.environ):
        print(f"distsgd: {warning}", file=sys.stderr, flush=True)
    experiment = check(settings, ranks.size, [])
    say = _speaker(start.folder, ranks)
    record = Record(start.folder, settings, start.facts.get("lines", ())) if ranks.rank == 0 else None
    say(report.opening(settings, experiment.images.path.name, ranks.size, experiment.workers))
    training = Training(experiment, ranks, clock, Pause(ranks, settings.checkpoint.every, stopping.asked))
    saving.restore(training, start, ranks, say)
    files = Saving(training, record, start, ranks, clock, stopping)
    try:
        with progress.shown(say, ranks.rank, settings.train.epochs, clock) as display:
            result = _run(training, record, files, display)
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


def _run(
    training: Training, record: Record | None, files: Saving, display: progress.Lines | progress.Bar
) -> Result:
    """Train, with a line and a record of every epoch."""

    def end_epoch(end: EpochEnd) -> None:
        display.say(report.epoch_line(end, training.experiment.config.train.epochs))
        if record:
            files.attempt("metrics.jsonl", lambda: record.epoch({**asdict(end), "seconds": files.seconds()}))

    result = training.run(display.after_round, end_epoch, files.save)
    if result.last.epoch < training.experiment.config.train.epochs:
        display.say(report.stop_line(result))
    return result


def _diverged(training: Training, record: Record | None, ranks: Ranks) -> int:
    """The end of a run that came to no numbers."""
    if record:
        record.finish(diverged(training, ranks))
        cures = "clip gradients (optimizer.clip), or average more often (averaging.period)"
        advice = f"choose a smaller optimizer.learning_rate, {cures}"
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
            record.model(result.parameters, *description(training))
    summary = conclude(training, result, ranks, clock)
    if record and summary:
        summary["resumed"] = start.resumed(ranks.size)
        record.finish(summary)
        say(f"\n{report.table(summary)}\n\n  run: {record.folder}")
