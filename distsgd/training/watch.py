"""Names ranks that compute slowly: their own seconds of computing tell, not the waiting of those whom they hold up."""

from dataclasses import dataclass

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
        self._ratios = np.zeros((0, ranks.size))
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
        spent, images = self._told
        known = (images > 0).all(1)  # a rank whose workers have no images left can't be compared
        if known.any():
            usual = _middle(spent[known])
            long = usual >= SHORTEST // 2
            long[0] &= self._warm  # the first round is everywhere as slow as it likes
            self._compare(spent[known][long], images[known][long])
            self._warm = True
            # In integers, so that every rank takes as many rounds together.
            each = max(1, int(usual.sum()) // (len(usual) * self._together))
            self._together = min(max(1, SHORTEST // each), MOST_TOGETHER)
        self._told[:], self._looks = 0, 0

    def _compare(self, spent: np.ndarray, images: np.ndarray) -> None:
        took = spent / images
        ratios = took / _middle(took)[:, None]
        self._ratios = np.concatenate([self._ratios, ratios])[-WINDOW:]
        over = self._ratios > FACTOR
        for rank in np.flatnonzero(over.sum(0) >= FEWEST).tolist():
            self.slow.setdefault(rank, float(np.median(self._ratios[over[:, rank], rank])))


def _middle(table: np.ndarray) -> np.ndarray:
    """The median over ranks of each row; of an even number the lower one, so that of two ranks each is held against the other."""
    middle: np.ndarray = np.sort(table, 1)[:, (table.shape[1] - 1) // 2]
    return middle
