"""`distsgd train` on every rank: signals in, lines out; the run itself is the same as from Python."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from distsgd import config, doctor, report
from distsgd.api import start as starts
from distsgd.api.running import Running
from distsgd.api.start import Start
from distsgd.cli import progress, terminal
from distsgd.cli.ranks import BAD_INPUT, FAILED, complain
from distsgd.cli.stopping import Stopping
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.config import InputError
from distsgd.training import Diverged, Experiment, Stopped

CURES = (
    "choose a smaller optimizer.learning_rate, clip gradients (optimizer.clip), or average more often "
    "(averaging.period)"
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

    def find() -> Start:
        if resume:
            return starts.again(resume, changes, ranks.size, held, _warn)
        settings, problems = config.read(path, changes)
        stamp = f"{settings.network.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        return starts.new(settings, problems, out or Path("runs") / stamp, ranks.size, held)

    with contextlib.ExitStack() as held:
        try:
            start, experiment = starts.agreed(find, ranks)
        except InputError as error:
            return _told(ranks, str(error), BAD_INPUT)
        stopping = Stopping(lambda code: _end(ranks, code), ranks.rank == 0)
        held.enter_context(stopping.listening())
        return _train(start, experiment, stopping, ranks, clock)


def _train(start: Start, experiment: Experiment, stopping: Stopping, ranks: Ranks, clock: Clock) -> int:
    assert start.folder, "a run of the command line has one"
    folder, settings, last = start.folder, start.settings, start.path
    stopping.advice = lambda: starts.advice(folder, last, ranks.size)
    for warning in doctor.warnings(ranks, os.environ, settings.train.threads):
        _warn(warning)
    say = _speaker(folder, ranks)
    say(report.opening(settings, experiment.images.path.name, ranks.size, experiment.workers))
    if last:
        say(f"going on after {starts.place(start.facts)}, from {last}")
    running = Running(start, experiment, ranks, clock, _warn, stopping.asked, stopping.saving)
    if running.foreseen.line:
        say(running.foreseen.line)
    stopping.advice = lambda: starts.advice(folder, running.checkpoint, ranks.size)
    try:
        with progress.shown(say, ranks.rank, settings.train.epochs, clock) as display:
            result = running.train(display.after_round, display.say)
        summary = running.finish(result)
    except Diverged:
        return _told(ranks, f"the parameters became infinite or no numbers: {CURES}", FAILED)
    except Stopped:
        return _farewell(running, stopping, ranks, say)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _told(ranks, f"{error}; make room, and {stopping.advice()}", FAILED)
    if ranks.rank == 0:
        say(f"\n{report.table(summary)}\n\n  run: {folder}")
    return 0


def _end(ranks: Ranks, code: int) -> None:
    """End all ranks at once, from any thread."""
    terminal.restore()
    ranks.abort(code)


def _warn(line: str) -> None:
    print(f"distsgd: {line}", file=sys.stderr, flush=True)


def _told(ranks: Ranks, message: str, code: int) -> int:
    """Say what is wrong once, before any rank ends: a launcher may end all with the first."""
    if ranks.rank == 0:
        complain(message)
    ranks.barrier()
    return code


def _farewell(running: Running, stopping: Stopping, ranks: Ranks, say: Callable[[str], None]) -> int:
    """Say where a run that was told to stop is saved and how it goes on; the exit code, the same on every rank."""
    number = np.array([stopping.number], np.int64)
    ranks.maximum(number)
    saved = f"saved as {running.checkpoint}" if running.saved else "not saved"
    say(f"stopped after {starts.place(running.training.place())}, {saved}\n  {stopping.advice()}")
    ranks.barrier()  # a launcher may end all ranks with the first
    return 128 + int(number[0])


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
