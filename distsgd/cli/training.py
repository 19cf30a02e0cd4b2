"""`distsgd train`: from the settings to the last file, on every rank."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from distsgd import config, doctor, report
from distsgd.cli import progress
from distsgd.cli.ranks import BAD_INPUT, FAILED, complain
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.config import Config, InputError
from distsgd.record import Record, make_folder
from distsgd.training import (
    Diverged,
    EpochEnd,
    Result,
    Training,
    check,
    conclude,
    description,
    diverged,
)


def train(path: Path | None, changes: Sequence[str], out: Path | None, ranks: Ranks, clock: Clock) -> int:
    """Train and record; returns the exit code, the same on every rank."""
    agreed = _agree(path, changes, out, ranks)
    if agreed is None:
        return BAD_INPUT
    settings, folder = agreed
    for warning in doctor.warnings(ranks, os.environ):
        print(f"distsgd: {warning}", file=sys.stderr, flush=True)
    experiment = check(settings, ranks.size, [])
    say = _speaker(folder, ranks)
    record = Record(folder, settings) if ranks.rank == 0 else None
    say(report.opening(settings, experiment.images.path.name, ranks.size, experiment.workers))
    training = Training(experiment, ranks, clock)
    try:
        with progress.shown(say, ranks.rank, settings.train.epochs, clock) as display:
            result = _run(training, record, display, clock)
    except Diverged:
        return _diverged(training, record, ranks)
    _finish(training, result, record, say, ranks, clock)
    return 0


def _agree(
    path: Path | None, changes: Sequence[str], out: Path | None, ranks: Ranks
) -> tuple[Config, Path] | None:
    """The settings and the run's folder, found by rank 0 for all; None, after its one message, where something is wrong."""
    answer = b""
    if ranks.rank == 0:
        try:
            settings, folder = _prepare(path, changes, out, ranks)
            answer = json.dumps([settings.model_dump(), str(folder)]).encode()
        except InputError as error:
            complain(str(error))
    answer = ranks.broadcast_bytes(answer)
    if not answer:
        return None
    values, folder_name = json.loads(answer)
    return Config.model_validate(values), Path(folder_name)


def _prepare(
    path: Path | None, changes: Sequence[str], out: Path | None, ranks: Ranks
) -> tuple[Config, Path]:
    settings, problems = config.read(path, changes)
    settings = settings.with_workers(check(settings, ranks.size, problems).workers)
    folder = out or Path("runs") / f"{settings.network.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    make_folder(folder)
    return settings, folder


def _speaker(folder: Path, ranks: Ranks) -> Callable[[str], None]:
    """Rank 0 speaks on the standard output, another rank into a file of its own."""
    if ranks.rank == 0:
        return lambda line: print(line, flush=True)
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)  # on another node the folder may not be the one that rank 0 made
    log = open(logs / f"rank-{ranks.rank:04d}.log", "a", encoding="utf-8", buffering=1)  # noqa: SIM115  until the end
    return lambda line: print(line, file=log)


def _run(
    training: Training, record: Record | None, display: progress.Lines | progress.Bar, clock: Clock
) -> Result:
    """Train, with a line and a record of every epoch, and write the model."""

    def end_epoch(end: EpochEnd) -> None:
        display.say(report.epoch_line(end, training.experiment.config.train.epochs))
        if record:
            record.epoch({**asdict(end), "seconds": clock.seconds()["total"]})

    result = training.run(display.after_round, end_epoch)
    if result.last.epoch < training.experiment.config.train.epochs:
        display.say(report.stop_line(result))
    if record:
        with clock.phase("checkpoint"):
            record.model(result.parameters, *description(training))
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
    say: Callable[[str], None],
    ranks: Ranks,
    clock: Clock,
) -> None:
    """Gather every rank's seconds, write run.json, show the table."""
    summary = conclude(training, result, ranks, clock)
    if record and summary:
        record.finish(summary)
        say(f"\n{report.table(summary)}\n\n  run: {record.folder}")
