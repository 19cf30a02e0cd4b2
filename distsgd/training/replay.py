"""Steps that only take time: a run that sleeps for as long as steps took elsewhere, and averages, waits and transfers for real.

It shows what more ranks than there are cores would wait for. Nothing is learned, and run.json says so.
"""

import json
import time
from pathlib import Path

import numpy as np

from distsgd.config import InputError

STREAM = 0x72657061
"""Keeps these draws apart from others of the same seed."""


class Replay:
    """Durations of steps, drawn by seed, worker and step: the same on any number of ranks."""

    def __init__(self, seconds: np.ndarray, seed: int) -> None:
        self._seconds, self._seed = seconds, seed

    def draw(self, worker: int, step: int) -> float:
        """Seconds of a worker's step, counted in the experiment."""
        bits = np.random.Philox(key=[self._seed, STREAM], counter=[0, step, worker, 0])
        return float(self._seconds[int(bits.random_raw()) % len(self._seconds)])

    def sleep(self, worker: int, step: int) -> None:
        """Take that long: to the tenth of a millisecond by sleeping, the rest by looking at the clock."""
        end = time.perf_counter() + self.draw(worker, step)
        while (left := end - time.perf_counter()) > 0:
            time.sleep(max(left - 1e-4, 0.0))


def read(path: str, seed: int) -> Replay:
    """A file of measured seconds: a list in JSON. InputError where it is none."""
    try:
        seconds = np.array(json.loads(Path(path).read_text(encoding="utf-8")), np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"train.replay = {path!r}: must be a file with a list of seconds, in JSON ({error})"
        ) from None
    if seconds.ndim != 1 or not len(seconds) or not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise InputError(f"train.replay = {path!r}: must hold a list of seconds, at least one, none below 0")
    return Replay(seconds, seed)
