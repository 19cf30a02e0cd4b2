"""Convolution by columns with fewer multiplications: Winograd's minimal filtering (1980; Lavin and Gray 2016), along rows only.

m rows of outputs that a filter of r rows gives from m + r - 1 rows of inputs are a product of polynomials, and that can be had
from its values at m + r - 1 points::

    y = outputs @ ((filters @ w) * (inputs @ x))          (m) = (m, n) @ ((n, r) @ (r) * (n, n) @ (n)),   n = m + r - 1

So m r multiplications become n: 8 instead of 20 for four rows of a 5x5 filter. The product * is taken over channels and columns
by `rows.sum_rows`, once for every point, with a filter of one row. With the batch innermost the three transforms are sums of
contiguous rows as well.
"""

from fractions import Fraction

import numpy as np

from distsgd.kernels import tile
from distsgd.kernels.compiled import FLOAT, SHIFT, compiled, inlined
from distsgd.kernels.pairs import sum_pairs
from distsgd.kernels.rows import STRIP, sum_rows
from distsgd.kernels.vector import COLUMNS, VECTOR
from distsgd.kernels.windows import pool_row

POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))
"""Where polynomials are evaluated, beside infinity: small numbers and their inverses lose the fewest digits."""


def transforms(rows: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices outputs (rows, n), filters (n, taps), inputs (n, n) of the module's equation, n = rows + taps - 1 <= 8."""
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


@compiled("void(real[:,:,:,::1], real[:,::1], real[:,:,:,::1])")
def spread_filters(weights, matrix, spread):
    """Write spread[p, c, s, k] = sum over r of matrix[p, r] * weights[c, r, s, k]."""
    channels, height, width, filters = weights.shape
    for p in range(matrix.shape[0]):
        for c in range(channels):
            for s in range(width):
                for k in range(filters):
                    spread[p, c, s, k] = matrix[p, 0] * weights[c, 0, s, k]
                for r in range(1, height):
                    for k in range(filters):
                        spread[p, c, s, k] += matrix[p, r] * weights[c, r, s, k]


@compiled("void(real[:,:,:,::1], real[:,::1], real[:,:,:,::1])")
def gather_filters(spread, matrix, weights):
    """Write weights[c, r, s, k] = sum over p of matrix[p, r] * spread[p, c, s, k]: the dual of `spread_filters`."""
    channels, height, width, filters = weights.shape
    for c in range(channels):
        for r in range(height):
            for s in range(width):
                for k in range(filters):
                    weights[c, r, s, k] = matrix[0, r] * spread[0, c, s, k]
                for p in range(1, matrix.shape[0]):
                    for k in range(filters):
                        weights[c, r, s, k] += matrix[p, r] * spread[p, c, s, k]


@inlined
def _mixed(total, x, at, places, low, high, matrix, first, across, down):
    """total[r] + sum over q in low..high of matrix[first + r * across + q * down] * x[at + places[q] : ...]."""
    for q in range(low, high):
        total = tile.multiply_add(total, x, at, places, q, matrix, first + q * down, across)
    return total


@inlined
def _spread(x, at, places, low, high, matrix, across, down, length, y, to, point):
    """Write y[to + p * point : ...] = sum over q in low..high of matrix[p * across + q * down] * x[at + places[q] : ...]."""
    points = y.shape[0]
    two, one, narrow = tile.zeros(2, COLUMNS), tile.zeros(1, COLUMNS), tile.zeros(1, 1)
    for lane in range(0, length, STRIP if length >= STRIP else VECTOR):
        if length >= STRIP:
            j = min(lane, length - STRIP)
            for p in range(0, points - 1, 2):
                pair = _mixed(two, x, at + j, places, low, high, matrix, p * across, across, down)
                tile.store(pair, y, to + p * point + j, point)
            if points % 2 == 1:
                p = points - 1
                last = _mixed(one, x, at + j, places, low, high, matrix, p * across, across, down)
                tile.store(last, y, to + p * point + j, point)
        else:
            for p in range(points):
                value = _mixed(narrow, x, at + lane, places, low, high, matrix, p * across, across, down)
                tile.store(value, y, to + p * point + lane, point)


@compiled(
    "void(real[::1], int64, int64, int64[::1], int64[:,::1], real[:,::1], real[:,:,::1], int64[:,::1], int64[:,::1],"
    " int64[:,::1], real[:,:,::1], real[::1], real[::1], real[:,:,:,:], int64[::1], real[:,::1], int64, real[:,:,:],"
    " real[:,:,:], boolean, int64, real[:,:,:], uint8[:,:,:,::1])"
)
def sum_bands(
    x, plane, lanes, places, meeting, inputs, spread, taps, strips, one, weights, bias, partial, products, levels, outputs,
    rows, y, gate, rectify, pool, pooled, winner,
):  # fmt: skip
    """Write what `rows.sum_rows` writes, one band of rows after another.

    x, bias, partial, gate, rectify, pooled, winner: as there. plane: from one channel of x to the next. lanes: of a row of x.
    places, meeting: see `taps.BandTaps`. inputs, outputs: see `transforms`. spread: room for a band of x at all points, (points,
    channels, at least `lanes`); taps, strips, one: how a filter of one row follows it. weights: (points, taps, filters), see
    `spread_filters`. products: room for (points, filters, 1, length); levels: its points' places. rows: how many are wanted, the
    last band may be higher. y: as there, but with `winner` as many rows as a band; pool: the side of a window then.
    """
    points, height, (filters, _, length) = inputs.shape[0], outputs.shape[0], y.shape
    y_plane, y_line = y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    gate_plane, gate_line = gate.strides[0] >> SHIFT, gate.strides[1] >> SHIFT
    channels, wide = spread.shape[1:]
    deep = products.strides[1] >> SHIFT

    def multiply(i):
        """Band i of x at all points, and there the sums over channels and columns."""
        low, high = meeting[i]
        for c in range(channels):
            at = i * places[height] + c * plane
            _spread(x, at, places, low, high, inputs, points, 1, lanes, spread, c * wide, channels * wide)
        for p in range(points):
            of_point = spread[p].reshape(channels * wide), taps, strips, one, 0, weights[p], bias[:0], partial
            sum_rows(*of_point, products[p], y[:0], False, y[:0], winner[:0])

    def finish(value, k, j, r, out, seen):
        """Rows r and, in a tile of two, r + 1 of a band of filter k: a strip of lanes."""
        if bias.size > 0:
            value = tile.fill(value, bias[k])
        value = _mixed(value, products, k * deep + j, levels, 0, points, outputs, r * points, points, 1)
        if rectify:
            value = tile.rectify(value)
        if gate.size > 0:
            value = tile.gate(value, gate, seen + k * gate_plane + r * gate_line + j, gate_line)
        tile.store(value, y, out + k * y_plane + r * y_line + j, y_line)

    def gather(k, count, out, seen):
        """The first `count` rows of a band of filter k."""
        two, single, narrow = tile.zeros(2, COLUMNS), tile.zeros(1, COLUMNS), tile.zeros(1, 1)
        for lane in range(0, length, STRIP if length >= STRIP else VECTOR):
            if length >= STRIP:
                j = min(lane, length - STRIP)
                for r in range(0, count - 1, 2):
                    finish(two, k, j, r, out, seen)
                if count % 2 == 1:
                    finish(single, k, j, count - 1, out, seen)
            else:
                for r in range(count):
                    finish(narrow, k, lane, r, out, seen)

    for i in range(meeting.shape[0]):
        multiply(i)
        first, count = i * height, min(height, rows - i * height)
        for k in range(filters):
            gather(k, count, 0 if winner.size > 0 else first * y_line, first * gate_line)
        if winner.size > 0:
            for r in range(0, count, pool):
                pool_row(y, r * y_line, y_plane, y_line, pool, pool, pooled, winner, (first + r) // pool)


@compiled(
    "void(real[::1], int64, int64, int64[::1], int64[:,::1], real[:,::1], real[:,:,:,::1], int64[::1], int64[::1],"
    " int64[:,::1], real[:,:,:], int64[::1], real[:,::1], real[:,:,:,:], real[::1], real[:,:,:,::1], real[:,:,:,::1],"
    " uint8[:,:,:,::1])"
)
def pair_bands(
    x, plane, lanes, places, meeting, inputs, spread, offsets, kernel_places, spans, dy, dy_places, outputs, slopes, partial,
    products, pooled, winner,
):  # fmt: skip
    """Write products (points, channels, filter's columns, filters), of which `gather_filters` makes the gradient to weights.

    x, plane, lanes, places, meeting, inputs, outputs: as in `sum_bands`. spread: room for (points, channels, bands, at least
    `lanes`); offsets, kernel_places, spans: how a filter of one row follows it, as in `pairs.sum_pairs`. dy: (filters, rows,
    length); dy_places: the rows of a band of it. slopes: room for (points, filters, bands, length). pooled, winner: empty.
    """
    points, height, (filters, rows, length) = inputs.shape[0], outputs.shape[0], dy.shape
    _, channels, bands, wide = spread.shape
    dy_plane, dy_line = dy.strides[0] >> SHIFT, dy.strides[1] >> SHIFT
    point, deep, line = slopes.strides[0] >> SHIFT, slopes.strides[1] >> SHIFT, slopes.strides[2] >> SHIFT
    for i in range(bands):
        low, high = meeting[i]
        for c in range(channels):
            at, to = i * places[height] + c * plane, (c * bands + i) * wide
            _spread(x, at, places, low, high, inputs, points, 1, lanes, spread, to, channels * bands * wide)
        count = min(height, rows - i * height)
        for k in range(filters):
            at, to = k * dy_plane + i * height * dy_line, k * deep + i * line
            _spread(dy, at, dy_places, 0, count, outputs, 1, points, length, slopes, to, point)
    for p in range(points):
        of_point = spread[p].reshape(channels * bands * wide), offsets, kernel_places, spans, wide, slopes[p]
        into = products[p].reshape(channels * products.shape[2], filters)
        sum_pairs(*of_point, partial, into, pooled, winner)
