"""Names ranks that compute slowly: their own seconds of computing tell, not the waiting of those whom they hold up."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.kernels.vector import LANES

WINDOW, FEWEST, FACTOR = 5, 3, 1.5
"""A rank is slow when it took more than so many times as long for an image as the median rank, in 3 of the last 5 looks."""
EVERY = 2
"""Looks between two exchanges: one that is slow from now on is named within 5."""
SHORTEST = 10_000_000
"""Nanoseconds of computing that a look takes in, about: shorter rounds are looked at together, as the system's own work disturbs
them. Of less than half of that nothing is concluded.
"""
MOST_TOGETHER = 10_000


@dataclass(frozen=True)
class Slow:
    """A rank that was found slow after a round, counted from 1, by how much."""

    rank: int
    round: int
    times: float


class Watch:
    """What the ranks of a run took to compute, told where they meet anyway. `on`: the same on every rank."""

    def __init__(self, ranks: Ranks, clock: Clock, on: bool) -> None:
        self._clock, self._rank, self._on = clock, ranks.rank, on and ranks.size > 1
        self._told = np.zeros((2, EVERY, ranks.size), np.int64)
        self._ratios, self._seen = np.zeros((WINDOW, ranks.size)), 0
        self._looks, self._rounds, self._together = 0, 0, 1
        self._warm = False
        self._before = 0.0, 0
        self.images = 0
        """Learned by this rank so far, in whole vectors: what a short batch costs as well."""
        self.slow: dict[int, float] = {}
        """Ranks that were found slow, and how many times as long as others they took."""

    def learned(self, images: int) -> None:
        """Count a batch."""
        self.images += -(-images // LANES) * LANES

    def begin(self) -> None:
        """What was computed up to now is no round's."""
        self._before = self._clock.spent("compute", "data"), self.images

    def look(self) -> np.ndarray | None:
        """At the end of a round's computing: what is to be told the others now, in int64; they put theirs beside it."""
        self._rounds += 1
        if not self._on or self._rounds < self._together:
            return None
        before, self._rounds = self._before, 0
        self.begin()
        seconds, images = (now - then for now, then in zip(self._before, before, strict=True))
        self._told[:, self._looks, self._rank] = int(seconds * 1e9), images
        self._looks += 1
        return self._told if self._looks == EVERY else None

    def judge(self) -> None:
        """When all have told: who is slow, the same on every rank."""
        usual = [self._compare(*look) for look in zip(*self._told, strict=True)]
        known = [spent for spent in usual if spent]
        if known:  # in integers, so that every rank takes as many rounds together
            each = max(1, sum(known) // (len(known) * self._together))
            self._together = min(max(1, SHORTEST // each), MOST_TOGETHER)
        self._told[:], self._looks = 0, 0

    def _compare(self, spent: np.ndarray, images: np.ndarray) -> int:
        """Put a look beside those before; returns what the median rank spent, 0 where ranks can't be compared."""
        if not images.all():  # a rank's workers had no images left
            return 0
        usual, warm, self._warm = int(_middle(spent)), self._warm, True
        if warm and usual >= SHORTEST // 2:  # the first round is everywhere as slow as it likes
            took = spent / images
            self._ratios[self._seen % WINDOW] = took / _middle(took)
            self._seen += 1
            over = self._ratios > FACTOR
            if over.any():
                self._name(over)
        return usual

    def _name(self, over: np.ndarray) -> None:
        for rank in np.flatnonzero(over.sum(0) >= FEWEST).tolist():
            self.slow.setdefault(rank, float(np.median(self._ratios[over[:, rank], rank])))


def _middle(values: np.ndarray) -> Any:
    """The median over ranks; of an even number the lower one, so that of two ranks each is held against the other."""
    return np.sort(values)[(len(values) - 1) // 2]
