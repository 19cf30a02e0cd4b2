"""Convolution by patches of outputs, with fewer multiplications still: `winograd`'s minimal filtering along rows and columns.

A patch of m x m outputs that a filter of r x r gives from n x n inputs, n = m + r - 1, is had from n x n products, one for every
pair of points (Lavin and Gray 2016): 36 instead of 144 for 4 x 4 outputs of a 3x3 filter::

    y = outputs @ ((filters @ w @ filters.T) * (inputs @ x @ inputs.T)) @ outputs.T

All channels, patches and images of a point are one product of matrices, by `rows.sum_rows`. So a convolution takes turns, a piece
of its patches after another, small enough for the nearer caches: spread x, multiply, gather y.

     x        image by rows           spread      (points, channels, patches x images)
    +-----------------------+        +----------+
    |  +-----+-+            |        | point 0  |      products    (points, filters, patches x images)
    |  | n x | |  patches   |  --->  | point 1  | --> +----------+
    |  |   n | |  overlap   |        |   ...    |     | point 0  | --->  y, m x m outputs of each patch
    |  +-----+-+            |        +----------+     |   ...    |
    +-----------------------+                         +----------+
"""

from distsgd.kernels import tile
from distsgd.kernels.compiled import SHIFT, compiled, inlined
from distsgd.kernels.points import inputs_to_points, outputs_from_points, slopes_to_points
from distsgd.kernels.rows import sum_rows
from distsgd.kernels.vector import VECTOR
from distsgd.kernels.windows import pool_row

OUTPUTS, POINTS = 4, 6
"""Of a patch, along each side."""


@compiled("void(real[:,:,:,::1], real[:,::1], real[:,:,::1])")
def spread_filters(weights, matrix, spread):
    """Write spread[p n + q, c, k] = sum over r, s of matrix[p, r] * weights[c, r, s, k] * matrix[q, s]."""
    channels, size, _, filters = weights.shape
    points = matrix.shape[0]
    for c in range(channels):
        for p in range(points):
            for q in range(points):
                to = spread[p * points + q, c]
                for k in range(filters):
                    to[k] = 0
                for r in range(size):
                    for s in range(size):
                        for k in range(filters):
                            to[k] += matrix[p, r] * matrix[q, s] * weights[c, r, s, k]


@compiled("void(real[:,:,::1], real[:,::1], int64, real[:,:,:,::1])")
def gather_filters(spread, matrix, first, weights):
    """Write weights[c, r, s, k] = sum over p, q of matrix[p, r] * spread[p n + q, first + c, k] * matrix[q, s]: its dual."""
    channels, size, _, filters = weights.shape
    points = matrix.shape[0]
    for c in range(channels):
        for r in range(size):
            for s in range(size):
                to = weights[c, r, s]
                for k in range(filters):
                    to[k] = 0
                for p in range(points):
                    for q in range(points):
                        for k in range(filters):
                            to[k] += matrix[p, r] * matrix[q, s] * spread[p * points + q, first + c, k]


@inlined
def fill_up(x, at, line, count, length, edge):
    """Write edge: `count` rows of x, `line` apart, then zeros."""
    edge[count:] = 0
    one = tile.zeros(1, 1)
    for r in range(count):
        for lane in range(0, length, VECTOR):
            tile.store(tile.load(one, x, at + r * line + lane, 0), edge, r * edge.shape[1] + lane, 0)


@compiled(
    "void(real[::1], int64, int64, int64, int64, int64, int64, int64, real[:,:,:], real[:,::1], real[:,::1])"
)
def spread_patches(x, plane, line, high, wide, bands, columns, batch, spread, room, edge):
    """Write spread (points, channels, bands x columns x batch): the patches of a piece at all points.

    x: flat, from the first patch's first input on; plane, line: from channel to channel and from row to row. high, wide: the rows
    and columns of x that there are, zeros follow. room, edge: room for POINTS rows of inputs each.
    """
    inputs = tile.zeros(POINTS, 1)
    point, deep = spread.strides[0] >> SHIFT, spread.strides[1] >> SHIFT
    length, across = min(wide, OUTPUTS * columns + POINTS - OUTPUTS) * batch, room.shape[1]
    room[:, length:] = 0
    for c in range(spread.shape[1]):
        for i in range(bands):
            source, at, down = x, c * plane + i * OUTPUTS * line, line
            count = min(POINTS, high - i * OUTPUTS)
            if count < POINTS:
                fill_up(x, at, line, count, length, edge)
                source, at, down = edge.reshape(edge.size), 0, edge.shape[1]
            for lane in range(0, length, VECTOR):
                rows = inputs_to_points(tile.load(inputs, source, at + lane, down))
                tile.store(rows, room, lane, across)
            for j in range(columns):
                for p in range(POINTS):
                    at = p * across + j * OUTPUTS * batch
                    to = p * POINTS * point + c * deep + (i * columns + j) * batch
                    for lane in range(0, batch, VECTOR):
                        patch = inputs_to_points(tile.load(inputs, room, at + lane, batch))
                        tile.store(patch, spread, to + lane, point)


@compiled(
    "void(real[::1], int64, int64[:,::1], int64[:,::1], int64[:,::1], real[:,:,:], real[::1], real[:,:,:,:], real[::1],"
    " real[:,:,:], uint8[:,:,:,:])"
)
def multiply_points(spread, point, taps, strips, one, weights, partial, products, bias, gate, winner):
    """Write products (points, filters, 1, length), at each point what `rows.sum_rows` makes of its channels.

    spread: flat, `point` values from point to point. taps, strips, one: how a filter of one pixel follows it. weights: (points,
    channels, filters). bias, gate, winner: empty.
    """
    for p in range(products.shape[0]):
        of_point = spread[p * point :], taps, strips, one, 0, weights[p], bias, partial
        sum_rows(*of_point, products[p], gate, False, gate, winner)


@compiled(
    "void(real[:,:,:], int64, int64, int64, real[::1], real[:,::1], real[:,::1], real[:,:,:], real[:,:,:], boolean, int64,"
    " real[:,:,:], uint8[:,:,:,:])"
)
def gather_patches(
    products, bands, columns, batch, bias, room, edge, y, gate, rectify, pool, pooled, winner
):  # fmt: skip
    """Write what `rows.sum_rows` writes, the rows of a piece, from products (points, filters, bands x columns x batch).

    bias, y, gate, rectify, pooled, winner: as there, but with `winner` y has as many rows as the piece. pool: the side of a window
    then. room, edge: room for POINTS rows of outputs each.
    """
    points, outputs, one = tile.zeros(POINTS, 1), tile.zeros(OUTPUTS, 1), tile.zeros(1, 1)
    point, deep, across = products.strides[0] >> SHIFT, products.strides[1] >> SHIFT, room.shape[1]
    plane, line = y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    gate_plane, gate_line = gate.strides[0] >> SHIFT, gate.strides[1] >> SHIFT
    filters, rows, length = y.shape

    def finish(value, k, i, lane):
        """Of a whole patch's rows, of four or of one."""
        if rectify:
            value = tile.rectify(value)
        if gate.size > 0:
            value = tile.gate(value, gate, k * gate_plane + i * gate_line + lane, gate_line)
        tile.store(value, y, k * plane + i * line + lane, line)

    for k in range(filters):
        for i in range(bands):
            for j in range(columns):
                for p in range(POINTS):
                    at = p * POINTS * point + k * deep + (i * columns + j) * batch
                    to = p * across + j * OUTPUTS * batch
                    for lane in range(0, batch, VECTOR):
                        patch = outputs_from_points(tile.load(points, products, at + lane, point), outputs)
                        tile.store(patch, room, to + lane, batch)
            first = i * OUTPUTS
            count = min(OUTPUTS, rows - first)
            for lane in range(0, length, VECTOR):
                value = outputs_from_points(tile.load(points, room, lane, across), outputs)
                if bias.size > 0:
                    value = tile.raised(value, bias[k])
                if count == OUTPUTS:
                    finish(value, k, first, lane)
                else:
                    tile.store(value, edge, 0, VECTOR)
                    for r in range(count):
                        finish(tile.load(one, edge, r * VECTOR, 0), k, first + r, lane)
        if winner.size > 0:
            for r in range(rows // pool):
                windows = pooled[k : k + 1], winner[k : k + 1]
                pool_row(y, k * plane + r * pool * line, plane, line, pool, pool, *windows, r)


@compiled("void(real[:,:,:], int64, int64, int64, real[:,::1], real[:,:,:])")
def spread_slopes(turned, bands, columns, batch, room, slopes):
    """Write slopes (points, bands x columns x batch, filters) from turned (rows, pixels x batch, filters), those of the outputs.

    Their filters are whole registers and contiguous. room: for (POINTS, OUTPUTS x filters).
    """
    outputs, points = tile.zeros(OUTPUTS, 1), tile.zeros(POINTS, 1)
    line, pixel = turned.strides[0] >> SHIFT, turned.strides[1] >> SHIFT
    point, deep, filters = slopes.strides[0] >> SHIFT, slopes.strides[1] >> SHIFT, turned.shape[2]
    across = OUTPUTS * filters
    for patch in range(bands * columns):
        i, j = patch // columns, patch % columns
        for image in range(batch):
            for s in range(OUTPUTS):
                at = i * OUTPUTS * line + ((j * OUTPUTS + s) * batch + image) * pixel
                for k in range(0, filters, VECTOR):
                    rows = slopes_to_points(tile.load(outputs, turned, at + k, line), points)
                    tile.store(rows, room, s * filters + k, across)
            for p in range(POINTS):
                to = p * POINTS * point + (patch * batch + image) * deep
                for k in range(0, filters, VECTOR):
                    value = slopes_to_points(tile.load(outputs, room, p * across + k, filters), points)
                    tile.store(value, slopes, to + k, point)


@compiled(
    "void(real[::1], int64, int64[:,::1], int64[:,::1], int64[:,::1], real[:,:,:], real[::1], real[:,:,::1], real[:,:,:,::1],"
    " boolean, real[::1], real[:,:,:], uint8[:,:,:,:])"
)
def pair_points(slopes, point, taps, strips, one, seen, partial, sums, total, first, bias, gate, winner):
    """Add to total (points, channels, 1, filters) the products of a piece's inputs with its slopes; write it for the first piece.

    slopes: flat, `point` values from point to point; taps, strips, one: how `rows.sum_rows` follows it, a tap for every
    patch and image. seen: (points, patches x images, channels), any strides. sums: room for (channels, 1, filters). bias, gate, winner: empty.
    """
    for p in range(total.shape[0]):
        of_point = slopes[p * point :], taps, strips, one, 0, seen[p], bias, partial
        sum_rows(*of_point, sums, gate, False, gate, winner)
        to, added = total[p].reshape(sums.size), sums.reshape(sums.size)
        for k in range(to.size):
            to[k] = added[k] if first else to[k] + added[k]
