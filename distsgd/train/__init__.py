"""Parallel SGD: workers take local steps, ranks average them, round after round (Zinkevich et al. 2010; McMahan et al. 2017)."""

from distsgd.train.experiment import Experiment, check
from distsgd.train.loop import EpochEnd, Progress, Result, Training
from distsgd.train.pause import Pause, Stopped
from distsgd.train.rounds import Diverged

__all__ = [
    "Diverged",
    "EpochEnd",
    "Experiment",
    "Pause",
    "Progress",
    "Result",
    "Stopped",
    "Training",
    "check",
]
