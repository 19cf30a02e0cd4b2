"""Names ranks that compute slowly: their own seconds of computing tell, not the waiting of those whom they hold up."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.kernels.extremes import extremes

WINDOW, FEWEST, FACTOR = 5, 3, 1.5
"""A rank is slow when it took more than so many times as long for an image as the median rank, in 3 of the last 5 looks."""
EVERY = 2
"""Looks between two exchanges: one that is slow from now on is named within 5."""
SHORTEST = 10_000_000
"""Nanoseconds of computing that a look takes in on every rank, about: shorter rounds are looked at together, as the system's own
work disturbs them. Of less than half of that nothing is concluded.
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
        self._clock, self._rank, self.on = clock, ranks.rank, on and ranks.size > 1
        """on: whether it is to be called."""
        self._message = np.zeros(1 + 2 * EVERY * ranks.size, np.int64)
        self._told = self._message[1:].reshape(2, EVERY, ranks.size)
        self._extremes = np.zeros((EVERY, 4))
        self._over: deque[dict[int, float]] = deque(maxlen=WINDOW)
        """Of the last looks: the ranks that took longer than FACTOR allows, and how many times as long."""
        self._looks, self.together = 0, 1
        """together: rounds that a look takes in."""
        self._warm = False
        self._before = 0.0, 0
        self.images = 0
        """Learned by this rank so far, in whole vectors: what a short batch costs as well. Who learns counts."""
        self.slow: dict[int, float] = {}
        """Ranks that were found slow, and how many times as long as others they took."""

    def begin(self) -> None:
        """What was computed up to now is no round's."""
        self._before = self._clock.computed(), self.images

    def look(self) -> np.ndarray | None:
        """At the end of the computing of `together` rounds: what is to be told the others now, for `Pause.meet`.

        They put theirs beside it.
        """
        before = self._before
        self.begin()
        seconds, images = (now - then for now, then in zip(self._before, before, strict=True))
        self._told[0, self._looks, self._rank] = int(seconds * 1e9)
        self._told[1, self._looks, self._rank] = images
        self._looks += 1
        return self._message if self._looks == EVERY else None

    def judge(self) -> None:
        """When all have told: who is slow, the same on every rank.

        After 20 ms of training no cache holds this: what is called is little, where nobody is slow.
        """
        extremes(self._told, self._extremes)
        known = []
        for look, (spent, images, least, most) in enumerate(self._extremes.tolist()):
            if not images:  # a rank's workers had none left
                continue
            # the first round is everywhere as slow as it likes
            if self._warm and spent >= SHORTEST // 2:
                self._over.append({})
                if most > FACTOR * least:
                    self._name(self._told[0, look] / self._told[1, look])
            self._warm = True
            known.append(int(spent))
        if sum(known):  # in integers, so that every rank takes as many rounds together
            each = max(1, sum(known) // (len(known) * self.together))
            self.together = min(max(1, SHORTEST // each), MOST_TOGETHER)
        self._message[:], self._looks = 0, 0

    def _name(self, took: np.ndarray) -> None:
        """Note who is slow, given what each rank took for an image; name those who were in FEWEST looks."""
        middle = np.sort(took)[(len(took) - 1) // 2]  # of two each is held against the other
        slow = np.flatnonzero(took > FACTOR * middle)
        self._over[-1].update((rank, float(took[rank] / middle)) for rank in slow.tolist())
        for rank in self._over[-1]:
            times = [over[rank] for over in self._over if rank in over]
            if len(times) >= FEWEST:
                self.slow.setdefault(rank, float(np.median(times)))
