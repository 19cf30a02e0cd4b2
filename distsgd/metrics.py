"""What the images showed, from totals summed as integers: the same numbers on any number of ranks."""

from dataclasses import dataclass

import numpy as np

from distsgd.kernels.loss import LOSS_UNIT


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
