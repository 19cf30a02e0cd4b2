"""Rounds of real training, timed phase by phase: what calibration learns from and what predictions are scored against."""

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from distsgd import data
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.training import EpochEnd, Experiment, Progress, Training

ROUND = ("data", "compute", "average", "wait")
"""The phases of a round; they sum to its seconds."""
IMAGES, BYTES = 2048, 2**22
"""Training images that are made up for each rank, or a multiple, as epochs are to end with whole rounds; and their bytes at least:
enough to lie outside of a core's own caches.
"""


@contextmanager
def made_up(shape: tuple[int, int, int], ranks: int = 1, classes: int = 10) -> Iterator[Path]:
    """A file of random images of (height, width, channels), there while this is open: kernels take as long as for real ones."""
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="distsgd-") as folder:
        path = Path(folder) / "images.h5"
        with data.writing(path, shape, "random") as file:
            images = IMAGES * max(1, -(-BYTES // (IMAGES * math.prod(shape))))
            for split, count in (("train", ranks * images), ("test", classes)):
                labels = np.arange(count) % classes
                file.append(split, chance.integers(0, 256, (count, *shape), np.uint8), labels)
        yield path


class _Enough(Exception):
    """There are as many rounds as were wanted."""


WARM, FEWEST, MOST = 2, 4, 4000
"""Rounds: those that only warm caches up, and those that are kept, at least and at most."""
LONG, FEW = 0.03, 3
"""Seconds that a first round computes from which on it is enough to warm up, as it leaves nothing in a cache that its beginning put
there; and so few are kept then at least.
"""


class _Watch:
    """Keeps what a clock says of each round; says when they are enough, the same on all ranks."""

    def __init__(self, clock: Clock, experiment: Experiment, ranks: Ranks, seconds: float) -> None:
        self._clock, self._ranks, self._seconds = clock, ranks, seconds
        self._length = experiment.config.averaging.rounds_of
        self._last, self._done, self._rounds = self._now(), 0, 0
        self._warm, self._fewest, self._wanted = WARM, FEWEST, 0
        self.kept: list[np.ndarray] = []

    def _now(self) -> np.ndarray:
        seconds = self._clock.seconds()
        return np.array([seconds[name] for name in ROUND])

    def after_epoch(self, _: EpochEnd) -> None:
        """What lies between two epochs belongs to no round."""
        self._last, self._done = self._now(), 0

    def after_round(self, progress: Progress) -> None:
        """Keep a round of full length. Raises _Enough."""
        now, length = self._now(), progress.steps_done - self._done
        self._rounds += 1
        full = min(self._length, progress.steps) if isinstance(self._length, int) else progress.steps
        if self._rounds > self._warm and length == full:
            self.kept.append(now - self._last)
        if self._rounds == 1:
            computed = (now - self._last)[ROUND.index("compute")]
            self._warm, self._fewest = (1, FEW) if self._agreed(computed > LONG) else (WARM, FEWEST)
        if self.kept and not self._wanted:
            seconds = max(float(self.kept[0].sum()), 1e-9)
            self._wanted = self._agreed(np.clip(self._seconds / seconds, self._fewest, MOST))
        if self._wanted and len(self.kept) >= self._wanted:
            raise _Enough
        self._last, self._done = self._now(), progress.steps_done

    def _agreed(self, number: float) -> int:
        """Rank 0's."""
        agreed = np.array([number]).astype(np.int64)
        self._ranks.broadcast(agreed)
        return int(agreed[0])


def timed_rounds(
    experiment: Experiment, ranks: Ranks, seconds: float, meet: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """Train for about so many seconds; return this rank's seconds of each phase of ROUND, one a round.

    All ranks call this, and do equally many; others that compute meanwhile `meet` them when all is ready to begin. Left out are
    the first rounds, an epoch's last one if it is short, and what lies between epochs.
    """
    clock = Clock()
    training = Training(experiment, ranks, clock)
    watch = _Watch(clock, experiment, ranks, seconds)
    meet()
    with suppress(_Enough):
        training.run(watch.after_round, watch.after_epoch)
    return dict(zip(ROUND, np.array(watch.kept).reshape(-1, len(ROUND)).T, strict=True))
