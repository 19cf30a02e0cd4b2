"""Ways to convolve, told in full: to compare with, and to test against.

Each is one function `convolve(x, weights)` and means

    y[k, i, j, n] = sum over c, r, s of weights[c, r, s, k] * x[c, i + r, j + s, n]

for x (channels, height, width, batch) and weights (channels, rows, columns, filters) of one type; y, (filters, height - rows + 1,
width - columns + 1, batch), is a new array of that type. `steps` makes all passes of a layer out of it.
"""

from collections.abc import Callable
from itertools import product

import numpy as np

Convolve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def naive(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Loops in Python, one multiplication at a time."""
    y = _room(x, weights)
    taps = list(product(*map(range, weights.shape[:3])))
    for k, i, j, n in product(*map(range, y.shape)):
        total = y.dtype.type(0)
        for c, r, s in taps:
            total += weights[c, r, s, k] * x[c, i + r, j + s, n]
        y[k, i, j, n] = total
    return y


def matrix(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A product of matrices for every place in the image: all filters by that window of all images."""
    y, (_, high, wide, filters) = _room(x, weights), weights.shape
    flat = weights.reshape(-1, filters).T
    for i, j in np.ndindex(y.shape[1:3]):
        y[:, i, j] = flat @ x[:, i : i + high, j : j + wide].reshape(-1, x.shape[3])
    return y


def unrolled(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Every window written out as a column (im2col), and one product of matrices by BLAS."""
    y, (_, high, wide, filters) = _room(x, weights), weights.shape
    columns = windows(x, high, wide).reshape(weights.size // filters, -1)
    return np.matmul(weights.reshape(-1, filters).T, columns, out=y.reshape(filters, -1)).reshape(y.shape)


def scalar(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The naive loops compiled by Numba, when this is first called."""
    from distsgd.kernels import scalar as kernel

    y = _room(x, weights)
    kernel.convolve(np.ascontiguousarray(x), np.ascontiguousarray(weights), y)
    return y


def windows(x: np.ndarray, high: int, wide: int, stride: int = 1) -> np.ndarray:
    """All windows of the images as a view, (channels, high, wide, down, right, batch): the last three say which window."""
    seen = np.lib.stride_tricks.sliding_window_view(x, (high, wide), (1, 2))
    return seen[:, ::stride, ::stride].transpose(0, 4, 5, 1, 2, 3)


def _room(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """An array for y."""
    _, height, width, batch = x.shape
    _, high, wide, filters = weights.shape
    return np.empty((filters, height - high + 1, width - wide + 1, batch), np.result_type(x, weights))
