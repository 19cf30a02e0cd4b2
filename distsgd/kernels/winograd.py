"""Convolution by columns with fewer multiplications: Winograd's minimal filtering (1980; Lavin and Gray 2016), along rows only.

m rows of outputs that a filter of r rows gives from m + r - 1 rows of inputs are a product of polynomials, and that can be had
from its values at m + r - 1 points::

    y = outputs @ ((filters @ w) * (inputs @ x))          (m) = (m, n) @ ((n, r) @ (r) * (n, n) @ (n)),   n = m + r - 1

So m r multiplications become n: 8 instead of 20 for four rows of a 5x5 filter. The product * is taken over channels and columns
by `rows.sum_rows`, once for every point, with a filter of one row; of few channels in registers, see `shallow_rows`. With the batch
innermost the three transforms are sums of contiguous rows as well.
"""

import functools
from fractions import Fraction

import numpy as np

from distsgd.kernels import tile
from distsgd.kernels.compiled import FLOAT, inlined
from distsgd.kernels.vector import COLUMNS, STRIP, VECTOR

POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))
"""Where polynomials are evaluated, beside infinity: small numbers and their inverses lose the fewest digits."""


@functools.cache
def transforms(rows: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices outputs (rows, n), filters (n, taps), inputs (n, n) of the module's equation, n = rows + taps - 1 <= 8.

    They are made once; nobody writes to them.
    """
    points = [Fraction(point) for point in POINTS[: rows + taps - 2]]
    others = [[q for q in points if q != p] for p in points]
    scale = [_value(_polynomial(roots), p) for p, roots in zip(points, others, strict=True)]
    outputs = [[p**k for p in points] + [Fraction(k == rows - 1)] for k in range(rows)]
    filters = [[p**k / s for k in range(taps)] for p, s in zip(points, scale, strict=True)]
    filters.append([Fraction(k == taps - 1) for k in range(taps)])
    inputs = [[*_polynomial(roots), Fraction(0)] for roots in others] + [_polynomial(points)]
    first, second, third = (
        np.array(matrix, np.float64).astype(FLOAT) for matrix in (outputs, filters, inputs)
    )
    return first, second, third


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [a - root * b for a, b in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def _value(coefficients: list[Fraction], x: Fraction) -> Fraction:
    return sum((c * x**k for k, c in enumerate(coefficients)), Fraction(0))


@inlined
def mixed(total, x, at, places, low, high, matrix, first, across, down):
    """total[r] + sum over q in low..high of matrix[first + r * across + q * down] * x[at + places[q] : ...]."""
    for q in range(low, high):
        total = tile.multiply_add(total, x, at, places, q, matrix, first + q * down, across)
    return total


@inlined
def spread_rows(x, at, places, low, high, matrix, across, down, length, y, to, point):
    """Write y[to + p * point : ...] = sum over q in low..high of matrix[p * across + q * down] * x[at + places[q] : ...]."""
    points = y.shape[0]

    def spread_some(zeros, begin, end, lane):
        """Points begin..end, as many at once as the tile has rows."""
        for p in range(begin, end, tile.rows(zeros)):
            total = mixed(zeros, x, at + lane, places, low, high, matrix, p * across, across, down)
            tile.store(total, y, to + p * point + lane, point)

    fours, pairs = points // 4 * 4, points // 2 * 2
    for lane in range(0, length, STRIP if length >= STRIP else VECTOR):
        if length >= STRIP:
            j = min(lane, length - STRIP)
            spread_some(tile.zeros(4, COLUMNS), 0, fours, j)
            spread_some(tile.zeros(2, COLUMNS), fours, pairs, j)
            spread_some(tile.zeros(1, COLUMNS), pairs, points, j)
        else:
            spread_some(tile.zeros(1, 1), 0, points, lane)
