"""Steps that only take time: a run that sleeps for as long as steps took elsewhere, and averages, waits and transfers for real.

It shows what more ranks than there are cores would wait for. Nothing is learned, and run.json says so. Seconds come from a list, or
from a run that was measured: those of its first rounds, which are single steps where it averaged after each (averaging.period=1).
"""

import json
import time
from pathlib import Path

import numpy as np

from distsgd import config, data
from distsgd.config import InputError
from distsgd.record import read_summary

STREAM = 0x72657061
"""Keeps these draws apart from others of the same seed."""


class Replay:
    """Durations of steps, drawn by seed, worker and step: the same on any number of ranks."""

    def __init__(self, seconds: np.ndarray, seed: int) -> None:
        self.seconds, self._seed = seconds, seed

    def draw(self, worker: int, step: int) -> float:
        """Seconds of a worker's step, counted in the experiment."""
        bits = np.random.Philox(key=[self._seed, STREAM], counter=[0, step, worker, 0])
        return float(self.seconds[int(bits.random_raw()) % len(self.seconds)])

    def sleep(self, worker: int, step: int) -> None:
        """Take that long: to the tenth of a millisecond by sleeping, the rest by looking at the clock."""
        end = time.perf_counter() + self.draw(worker, step)
        while (left := end - time.perf_counter()) > 0:
            time.sleep(max(left - 1e-4, 0.0))


def read(path: str, seed: int) -> Replay:
    """A run's folder, or a file of measured seconds: a list in JSON. InputError where it is neither."""
    seconds = np.array(_of_run(Path(path)) if Path(path).is_dir() else _listed(path))
    if seconds.ndim != 1 or not len(seconds) or not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise InputError(f"train.replay = {path!r}: must hold a list of seconds, at least one, none below 0")
    return Replay(seconds, seed)


def _listed(path: str) -> np.ndarray:
    try:
        return np.array(json.loads(Path(path).read_text(encoding="utf-8")), np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"train.replay = {path!r}: must be a run's folder, or a file with a list of seconds, in JSON ({error})"
        ) from None


def _of_run(folder: Path) -> list[float]:
    """Of a worker's step, in the mean over a round of full length."""
    settings, _ = config.read(folder / "config.toml")
    found = read_summary(folder)
    try:
        if found["replay"]:
            raise ValueError("its steps slept themselves; name a run that was measured")
        steps, length = found["steps"] // found["epochs_done"], settings.averaging.rounds_of
        full = min(length, steps) if isinstance(length, int) else steps
        parts = [found["first_rounds"]["phases"].index(phase) for phase in ("data", "compute")]
        seconds = []
        for rank, rounds in enumerate(found["first_rounds"]["seconds_by_rank"]):
            first, last = data.contiguous(found["workers"], found["ranks"], rank)
            busy = [sum(spent[part] for part in parts) for spent in _whole(rounds, steps, full)]
            seconds += [each / (full * (last - first)) for each in busy]
        return seconds
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise InputError(f"train.replay = '{folder}': does not tell what steps took ({error})") from None


def _whole(rounds: list[list[float]], steps: int, full: int) -> list[list[float]]:
    """Those of so many steps as a round has, but the first, in which caches are cold. An epoch's last may be shorter."""
    shorter = -(-steps // full) if steps % full else 0
    whole = [spent for number, spent in enumerate(rounds, 1) if not shorter or number % shorter]
    return whole[1:] or whole
