"""What a run is judged by: validation images after every epoch, which choose the best one, and test images."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distsgd import data
from distsgd.comm import Ranks
from distsgd.metrics import Score, Tally
from distsgd.model import judge
from distsgd.network import Network
from distsgd.training.experiment import Experiment


@dataclass(frozen=True)
class Part:
    """A rank's part of the images that a run looks at without learning from them."""

    images: np.ndarray
    labels: np.ndarray
    weighted: bool
    """Whether losses weigh as in training."""

    def judge(
        self, network: Network, scaling: np.ndarray, tally: Tally, impatient: Callable[[], bool]
    ) -> None:
        """Add them to the network's totals and to the tally, or as many as there is the patience for."""
        judge(network, self.images, self.labels, scaling, tally, self.weighted, impatient)


def for_test(experiment: Experiment, ranks: Ranks) -> Part:
    """Test images. Their loss is the plain one, so that runs can be compared whatever they minimise."""
    return _part(experiment, ranks, "test", np.arange(experiment.images.counts["test"]), False)


def for_validation(experiment: Experiment, ranks: Ranks, held_out: np.ndarray) -> Part | None:
    """Validation images: training images held out, or the file's own, or None. Their loss is the one that training minimises."""
    if len(held_out):
        return _part(experiment, ranks, "train", held_out, True)
    own = experiment.images.counts.get("validation", 0)
    return _part(experiment, ranks, "validation", np.arange(own), True) if own else None


def _part(experiment: Experiment, ranks: Ranks, split: str, rows: np.ndarray, weighted: bool) -> Part:
    first, last = data.contiguous(len(rows), ranks.size, ranks.rank)
    path, own = experiment.images.path, rows[first:last]
    return Part(data.read_rows(path, split, own), data.read_labels(path, split)[own], weighted)


@dataclass(frozen=True)
class EpochEnd:
    """What an epoch came to, over all ranks. There is no test score (None) where validation images judge the epochs."""

    epoch: int
    rounds: int
    train: Score
    test: Score | None
    images_per_second: float
    learning_rate: float
    """Of the epoch's last step."""
    validation: Score | None = None


class Best:
    """The best epoch so far, the one with the lowest loss on the validation images.

    Scores are the same on all ranks, so that all keep the same epoch and end in the same one.
    """

    def __init__(self) -> None:
        self.kept: tuple[EpochEnd, np.ndarray] | None = None
        """The epoch, and a copy of the parameters after it."""

    def consider(self, end: EpochEnd, parameters: np.ndarray) -> None:
        """Keep this epoch if it is better than all before."""
        if self.kept is None or _loss(end) < _loss(self.kept[0]):
            self.kept = end, parameters.copy()

    def facts(self) -> dict[str, Any] | None:
        """The epoch that is kept, as JSON can hold it."""
        return asdict(self.kept[0]) if self.kept else None

    def restore(self, facts: dict[str, Any], parameters: np.ndarray) -> None:
        """Keep what another run kept."""
        scores = {name: facts[name] and Score(**facts[name]) for name in ("train", "test", "validation")}
        self.kept = EpochEnd(**{**facts, **scores}), parameters

    def waited(self, epoch: int) -> int:
        """How many epochs ago the best one was; 0 where none is kept."""
        return epoch - self.kept[0].epoch if self.kept else 0


def _loss(end: EpochEnd) -> float:
    """One that is not finite is worse than any other."""
    loss = end.validation.loss if end.validation else None
    return float("inf") if loss is None else loss
