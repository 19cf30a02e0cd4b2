"""The first rounds of a run one by one: what a rank did in each, and for how long."""

from distsgd.clock import Clock

PHASES = ("data", "compute", "wait", "average")
"""Of a round. A sum over its steps and workers each."""
MOST_ROUNDS, MOST_OF_ALL = 64, 8192
"""Rounds of a rank, and of all ranks together: a file has room for so many, and what is noted costs time."""


class Timeline:
    """Seconds of a rank's rounds, until there are enough."""

    def __init__(self, clock: Clock, ranks: int) -> None:
        self._clock, self._most = clock, min(MOST_ROUNDS, max(1, MOST_OF_ALL // ranks))
        self._began: list[float] = []
        self.rounds: list[list[float]] = []
        """Seconds of each of PHASES."""

    def begin(self) -> None:
        """A round begins."""
        if len(self.rounds) < self._most:
            self._began = [self._clock.spent(phase) for phase in PHASES]

    def end(self) -> None:
        """It has ended."""
        if len(self.rounds) < self._most:
            now = [self._clock.spent(phase) for phase in PHASES]
            self.rounds.append([round(a - b, 7) for a, b in zip(now, self._began, strict=True)])
