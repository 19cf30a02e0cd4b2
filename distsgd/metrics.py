"""What the images showed, from totals summed as integers: the same numbers on any number of ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from distsgd.kernels.confusion import NEAR
from distsgd.kernels.loss import LOSS_UNIT

MOST_CONFUSED = 1024
"""Of more classes than so many only the totals are kept: a matrix of all of them would be for no one to read."""


@dataclass(frozen=True)
class Score:
    """Mean loss and accuracy over so many images; there is no loss (None) where one image's was not finite."""

    samples: int
    accuracy: float
    loss: float | None


def score(totals: np.ndarray) -> Score:
    """The score of `totals` (kernels.loss.TOTALS), summed over all ranks."""
    samples, correct, loss, not_finite = (int(total) for total in totals)
    return Score(
        samples, correct / max(samples, 1), None if not_finite else loss * LOSS_UNIT / max(samples, 1)
    )


class Tally:
    """Room to count images by class. `counts` is all of it, one int64 vector to be summed over ranks."""

    def __init__(self, classes: int) -> None:
        self.classes, rows = classes, classes if classes <= MOST_CONFUSED else 0
        self.counts = np.zeros(rows * (classes + 1) + 1, np.int64)
        self.confusion, self.near = self.counts[:-1].reshape(rows, classes + 1), self.counts[-1:]


@dataclass(frozen=True)
class ByClass:
    """What was taken for what. Empty, all but the last, where there are more classes than MOST_CONFUSED.

    confusion[label][class]: images of that label taken for that class. recall, precision: by class, None for a class that has no
    images; the precision of a class that nothing was taken for is 0. top5_accuracy: the share of images whose label is among the
    five greatest scores, None where there are no more than five classes.
    """

    images_by_class: list[int]
    confusion: list[list[int]]
    recall: list[float | None]
    precision: list[float | None]
    top5_accuracy: float | None


def by_class(tally: Tally, samples: int) -> ByClass:
    """The shares of a tally of so many images, summed over all ranks. An image without a choice is wrong."""
    confusion = tally.confusion[:, : len(tally.confusion)]
    right, there, taken = confusion.diagonal(), tally.confusion.sum(1), confusion.sum(0)
    near = int(tally.near[0]) / max(samples, 1) if tally.classes > NEAR else None
    recall, precision = _shares(right, there, there), _shares(right, taken, there)
    return ByClass(there.tolist(), confusion.tolist(), recall, precision, near)


def _shares(parts: np.ndarray, wholes: np.ndarray, there: np.ndarray) -> list[float | None]:
    triples = zip(parts.tolist(), wholes.tolist(), there.tolist(), strict=True)
    return [part / max(whole, 1) if images else None for part, whole, images in triples]


def mean(shares: Sequence[float | None]) -> float | None:
    """The unweighted mean over the classes that have images."""
    known = [share for share in shares if share is not None]
    return fmean(known) if known else None
