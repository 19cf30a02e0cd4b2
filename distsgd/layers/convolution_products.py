"""The gradient to weights of small maps as products of matrices.

`kernels.pairs` sums a dot product in chains, and these at its end: for a few pixels that takes longer than the rest. Here every
value of x multiplies the slopes of all filters, which are laid side by side before::

    dw[c, r, s, :] = sum over rows i, columns j, images n of x[c, i + r, j + s, n] * dy[:, i, j, n]

That is what `rows.sum_rows` computes, once for each (r, s): its taps are pixels, x its weights. A weight's gradient is one chain in
the order i, j, n; pixels for which (r, s) looks at a zero of the border are left out.
"""

import math

import numpy as np

from distsgd.kernels import order, rows, taps
from distsgd.kernels.taps import Window
from distsgd.kernels.vector import LANES
from distsgd.layers.place import Call, Program

FEW = 25
"""Pixels up to which that is faster with 16 images, and with 64. The choice, and so the bits, must not depend on the batch."""


def fit(window: Window, filters: int) -> bool:
    """Whether a layer's gradient to weights is computed so: filters must fill a register."""
    return filters >= LANES and math.prod(window.outputs) <= FEW


def shapes(window: Window, filters: int) -> list[tuple[int, ...]]:
    """Working memory of `products`: for sums, and for dy turned, its rows an odd number of cache lines apart."""
    lines = -(-filters // LANES) | 1
    lanes = window.outputs[1] * window.buffer[3]
    return [(rows.GROUP * window.channels,), (window.outputs[0], lanes, lines * LANES)]


def products(
    x: np.ndarray, window: Window, dy: np.ndarray, partial: np.ndarray, turned: np.ndarray, dw: np.ndarray
) -> Program:
    """dw as `convolution_bands.pairs` says, for LANES filters or more. partial, turned: see `shapes`."""
    program: Program = [(order.transpose, (dy, turned))]
    planes = x.reshape(window.channels, -1).T

    def of_tap(row: int, column: int) -> Call:
        seen = taps.pixel_taps(window, row, column, len(dy), turned.shape[2])
        target = (dw[:, row, column, None], rows.NO_ROWS, False, rows.NO_ROWS, rows.NO_WINNERS)
        return rows.sum_rows, (turned.reshape(-1), *seen, 0, planes, rows.NO_BIAS, partial, *target)

    return program + [of_tap(*place) for place in np.ndindex(window.size)]
