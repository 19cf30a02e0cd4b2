"""`rows.sum_rows` by bands of rows, with fewer multiplications: see `winograd`."""

from distsgd.kernels import tile
from distsgd.kernels.compiled import SHIFT, compiled
from distsgd.kernels.rows import sum_rows
from distsgd.kernels.vector import COLUMNS, STRIP, VECTOR
from distsgd.kernels.windows import pool_row
from distsgd.kernels.winograd import mixed, spread_rows


@compiled("void(real[:,:,:,::1], real[:,::1], real[:,:,:,::1])")
def spread_filters(weights, matrix, spread):
    """Write spread[p, c, s, k] = sum over r of matrix[p, r] * weights[c, r, s, k]."""
    channels, height, width, filters = weights.shape
    for c in range(channels):
        seen = weights[c].reshape(height, width * filters)
        for p in range(matrix.shape[0]):
            to = spread[p, c].reshape(width * filters)
            for k in range(to.size):
                to[k] = matrix[p, 0] * seen[0, k]
            for r in range(1, height):
                for k in range(to.size):
                    to[k] += matrix[p, r] * seen[r, k]


@compiled(
    "void(real[::1], int64, int64, int64[::1], int64[:,::1], real[:,::1], real[:,:,::1], int64[:,::1], int64[:,::1],"
    " int64[:,::1], real[:,:,:], real[::1], real[::1], real[:,:,:,:], int64[::1], real[:,::1], int64, real[:,:,:],"
    " real[:,:,:], boolean, int64, real[:,:,:], uint8[:,:,:,:])"
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
            spread_rows(x, at, places, low, high, inputs, points, 1, lanes, spread, c * wide, channels * wide)
        for p in range(points):
            of_point = spread[p].reshape(channels * wide), taps, strips, one, 0, weights[p], bias[:0], partial
            sum_rows(*of_point, products[p], y[:0], False, y[:0], winner[:0])

    def finish(value, k, j, r, out, seen):
        """As many rows of a band of filter k as the tile has, from r on: a strip of lanes."""
        if bias.size > 0:
            value = tile.fill(value, bias[k])
        value = mixed(value, products, k * deep + j, levels, 0, points, outputs, r * points, points, 1)
        if rectify:
            value = tile.rectify(value)
        if gate.size > 0:
            value = tile.gate(value, gate, seen + k * gate_plane + r * gate_line + j, gate_line)
        tile.store(value, y, out + k * y_plane + r * y_line + j, y_line)

    def gather_some(zeros, k, j, begin, end, out, seen):
        """Rows begin..end, as many at once as the tile has."""
        for r in range(begin, end, tile.rows(zeros)):
            finish(zeros, k, j, r, out, seen)

    def gather(k, count, out, seen):
        """The first `count` rows of a band of filter k."""
        fours, pairs = count // 4 * 4, count // 2 * 2
        for lane in range(0, length, STRIP if length >= STRIP else VECTOR):
            if length >= STRIP:
                j = min(lane, length - STRIP)
                gather_some(tile.zeros(4, COLUMNS), k, j, 0, fours, out, seen)
                gather_some(tile.zeros(2, COLUMNS), k, j, fours, pairs, out, seen)
                gather_some(tile.zeros(1, COLUMNS), k, j, pairs, count, out, seen)
            else:
                gather_some(tile.zeros(1, 1), k, lane, 0, count, out, seen)

    for i in range(meeting.shape[0]):
        multiply(i)
        first, count = i * height, min(height, rows - i * height)
        for k in range(filters):
            gather(k, count, 0 if winner.size > 0 else first * y_line, first * gate_line)
        if winner.size > 0:
            for r in range(0, count, pool):
                pool_row(y, r * y_line, y_plane, y_line, pool, pool, pooled, winner, (first + r) // pool)
