"""The least and the most of what ranks tell each other, in one call: numpy's take longer where no cache holds them any more."""

import numpy as np
from numpy.typing import NDArray

from distsgd.kernels.compiled import compiled


@compiled("void(int64[:, :, ::1], float64[:, ::1])")
def extremes(told: NDArray[np.int64], found: NDArray[np.float64]) -> None:
    """Of amounts and of what they are of, told (2, looks, ranks), write to `found` (looks, 4), over ranks: the least amount, the
    least of what it is of, and the least and the most amount for one of these: of no use where a rank has none.
    """
    for look in range(told.shape[1]):
        amounts, things = told[0, look], told[1, look]
        row = found[look]
        row[0], row[1], row[2], row[3] = np.inf, np.inf, np.inf, 0.0
        for rank in range(amounts.size):
            each = amounts[rank] / things[rank]
            row[0], row[1] = min(row[0], float(amounts[rank])), min(row[1], float(things[rank]))
            row[2], row[3] = min(row[2], each), max(row[3], each)
