"""Parallel SGD: workers take local steps, ranks average them, round after round (Zinkevich et al. 2010; McMahan et al. 2017)."""

from distsgd.training.evaluation import EpochEnd
from distsgd.training.experiment import Experiment, check
from distsgd.training.loop import Progress, Result, Training
from distsgd.training.pause import Pause, Stopped
from distsgd.training.rounds import Diverged
from distsgd.training.summary import conclude, description, diverged
from distsgd.training.timeline import Timeline
from distsgd.training.watch import Slow, Watch

__all__ = [
    "Diverged",
    "EpochEnd",
    "Experiment",
    "Pause",
    "Progress",
    "Result",
    "Slow",
    "Stopped",
    "Timeline",
    "Training",
    "Watch",
    "check",
    "conclude",
    "description",
    "diverged",
]
