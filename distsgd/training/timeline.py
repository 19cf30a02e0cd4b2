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
        self._began: dict[str, float] = {}
        self.rounds: list[list[float]] = []
        """Seconds of each of PHASES."""
        self.full = False
        """Whether there are enough: no more are to be noted."""

    def begin(self) -> None:
        """A round begins."""
        self._began = self._clock.seconds()

    def end(self) -> None:
        """It has ended."""
        now = self._clock.seconds()
        self.rounds.append([round(now[phase] - self._began[phase], 7) for phase in PHASES])
        self.full = len(self.rounds) >= self._most
