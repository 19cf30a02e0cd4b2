"""Measured beside predicted, phase by phase."""

from dataclasses import dataclass

from distsgd.clock import PHASES, TRAINING
from distsgd.report.reading import Summary


@dataclass(frozen=True)
class Beside:
    """A phase: seconds measured, and where there was a prediction, what it said and between what it was sure to be."""

    phase: str
    measured: float
    predicted: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def error(self) -> float | None:
        """Of the prediction, as a part of what was measured; None where there is nothing to compare."""
        if self.predicted is None or not self.measured:
            return None
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool | None:
        """Whether what was measured lies in the interval."""
        return self.interval[0] <= self.measured <= self.interval[1] if self.interval else None

    def each(self, rounds: int) -> "Beside":
        """Of one of so many rounds."""
        low_high = (self.interval[0] / rounds, self.interval[1] / rounds) if self.interval else None
        predicted = None if self.predicted is None else self.predicted / rounds
        return Beside(self.phase, self.measured / rounds, predicted, low_high)


def phases(summary: Summary) -> list[Beside]:
    """All phases of a run and their total."""
    return [_beside(summary, phase) for phase in (*PHASES, "total") if phase in summary.seconds]


def of_a_round(summary: Summary) -> list[Beside]:
    """What a round of training is made of, the mean over rounds and ranks, in seconds."""
    timed = summary.rounds if summary.rounds_timed is None else summary.rounds_timed
    rounds = max(timed, 1)
    return [_beside(summary, phase).each(rounds) for phase in TRAINING if phase in summary.seconds]


def _beside(summary: Summary, phase: str) -> Beside:
    low_high = (summary.predicted_interval or {}).get(phase)
    interval = (low_high[0], low_high[1]) if low_high else None
    return Beside(phase, summary.seconds[phase], (summary.predicted_seconds or {}).get(phase), interval)
