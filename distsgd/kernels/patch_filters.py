"""Filters of `patches`, at all points and back, in registers of neighbouring filters: of a channel first columns, by tiles whose
rows are a filter's, then rows.
"""

from distsgd.kernels import tile
from distsgd.kernels.compiled import compiled
from distsgd.kernels.points import filters_from_points, filters_to_points
from distsgd.kernels.vector import VECTOR


@compiled("void(real[:,:,:,::1], int64, real[:,::1], real[:,:,::1])")
def spread_filters(weights, first, room, spread):
    """Write spread[p n + q, first + c, k] = sum over r, s of matrix[p, r] * weights[c, r, s, k] * matrix[q, s].

    matrix: that of filters of `winograd.transforms`, for patches of n points along a side. room: (n, n * VECTOR) or
    more. There are LANES filters or more; where they are no whole registers, the last moves back over filters done before.
    """
    channels, size, _, filters = weights.shape
    point, across = spread.shape[1] * filters, room.shape[1]

    def spread_some(taps, points, c, k):
        """Filters k.. of channel c."""
        n = tile.rows(points)
        for s in range(size):
            column = tile.load(taps, weights, (c * size * size + s) * filters + k, size * filters)
            tile.store(filters_to_points(column, points), room, s * VECTOR, across)
        for p in range(n):
            row = tile.load(taps, room, p * across, VECTOR)
            to = p * n * point + (first + c) * filters + k
            tile.store(filters_to_points(row, points), spread, to, point)

    for c in range(channels):
        for k in range(0, filters, VECTOR):
            begin = min(k, filters - VECTOR)
            if size == 3:
                spread_some(tile.zeros(3, 1), tile.zeros(6, 1), c, begin)
            else:
                spread_some(tile.zeros(5, 1), tile.zeros(8, 1), c, begin)


@compiled("void(real[:,:,:,::1], int64, real[:,::1], real[:,:,:,::1])")
def gather_filters(spread, first, room, weights):
    """Write weights[c, r, s, k] = sum over p, q of matrix[p, r] * spread[p n + q, first + c, k] * matrix[q, s]: its dual.

    spread: (runs, points, channels, filters), its filters whole registers; runs are added up, one after another. The rest as above.
    """
    channels, size, _, filters = weights.shape
    runs, _, deep, wide = spread.shape
    point, across = deep * wide, room.shape[1]

    def gather_some(taps, points, c, k):
        """Filters k.. of channel c."""
        n = tile.rows(points)
        for q in range(n):
            at = q * point + (first + c) * wide + k
            column = tile.load(points, spread, at, n * point)
            for run in range(1, runs):
                column = tile.add(column, spread, at + run * n * n * point, n * point)
            tile.store(filters_from_points(column, taps), room, q * VECTOR, across)
        for r in range(size):
            row = tile.load(points, room, r * across, VECTOR)
            to = (c * size + r) * size * filters + k
            tile.store(filters_from_points(row, taps), weights, to, filters)

    for c in range(channels):
        for k in range(0, filters, VECTOR):
            begin = min(k, filters - VECTOR)
            if size == 3:
                gather_some(tile.zeros(3, 1), tile.zeros(6, 1), c, begin)
            else:
                gather_some(tile.zeros(5, 1), tile.zeros(8, 1), c, begin)
