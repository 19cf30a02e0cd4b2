"""Parallel SGD: workers take local steps, ranks average them, round after round (Zinkevich et al. 2010; McMahan et al. 2017)."""

from distsgd.train.evaluation import EpochEnd
from distsgd.train.experiment import Experiment, check
from distsgd.train.loop import Progress, Result, Training
from distsgd.train.memory import Memory, memory
from distsgd.train.rounds import Diverged

__all__ = [
    "Diverged",
    "EpochEnd",
    "Experiment",
    "Memory",
    "Progress",
    "Result",
    "Training",
    "check",
    "memory",
]
