"""Convolution by patches of outputs, with fewer multiplications still: `winograd`'s minimal filtering along rows and columns.

A patch of m x m outputs that a filter of r x r gives from n x n inputs, n = m + r - 1, is had from n x n products, one for every
pair of points (Lavin and Gray 2016): 36 instead of 144 for 4 x 4 outputs of a 3x3 filter::

    y = outputs @ ((filters @ w @ filters.T) * (inputs @ x @ inputs.T)) @ outputs.T

All channels, patches and images of a point are one product of matrices, by `rows.sum_rows`. So a convolution takes turns, a piece
of its patches after another, small enough for the nearer caches: spread x, multiply, gather y. Maxima of windows are taken before
y is stored; on the way back slopes of windows are spread where they are read, so that those of all values are never in memory.
Filters go to points and back in `patch_filters`, products to outputs in `patch_outputs`.

     x        image by rows           spread      (points, channels, patches x images)
    +-----------------------+        +----------+
    |  +-----+-+            |        | point 0  |      products    (points, filters, patches x images)
    |  | n x | |  patches   |  --->  | point 1  | --> +----------+
    |  |   n | |  overlap   |        |   ...    |     | point 0  | --->  y, m x m outputs of each patch
    |  +-----+-+            |        +----------+     |   ...    |
    +-----------------------+                         +----------+
"""

from distsgd.kernels import tile, tile_bytes
from distsgd.kernels.compiled import SHIFT, compiled, inlined
from distsgd.kernels.points import inputs_to_points, slopes_to_points
from distsgd.kernels.rows import CHUNK, TALL, sum_rows
from distsgd.kernels.vector import COLUMNS, STRIP, VECTOR

OUTPUTS = 4
"""Of a patch, along each side."""
WINDOW = 2
"""The side of windows whose maxima are taken in registers, and whose slopes are spread in the nearest cache."""
SIZES = (3, 5)
"""Of filters; from six points on transforms lose digits, from nine on too many."""


@inlined
def fill_up(x, at, line, count, length, edge):
    """Write edge: `length` values of `count` rows of x, from `at` on and `line` apart, then rows of zeros."""
    edge[count:] = 0
    one = tile.zeros(1, 1)
    for r in range(count):
        for lane in range(0, length, VECTOR):
            tile.store(tile.load(one, x, at + r * line + lane, 0), edge, r * edge.shape[1] + lane, 0)


@inlined
def unpool_block(slopes, plane, line, winner, c, top, left, batch, rows, columns, y, at, down):
    """Write rows x columns pixels of channel c, from row `top` and column `left` on, to y from `at` on, its rows `down` apart.

    slopes: flat, of windows of 2 x 2; winner: where in them each goes. Zeros stand elsewhere, outside of windows as well.
    """
    zeros, (_, high, wide, _) = tile.zeros(1, 1), winner.shape
    for r in range(top, top + rows):
        i = r >> 1
        for s in range(left, left + columns):
            j, to = s >> 1, at + (r - top) * down + (s - left) * batch
            outside = i < 0 or i >= high or j < 0 or j >= wide
            place, number = (c * high + i) * wide + j, 2 * (r & 1) + (s & 1)
            for lane in range(0, batch, VECTOR):
                value = zeros
                if not outside:
                    value = tile.load(zeros, slopes, c * plane + i * line + j * batch + lane, 0)
                    value = tile_bytes.where_equal(value, winner, place * batch + lane, number)
                tile.store(value, y, to + lane, 0)


@compiled("void(real[:,:,:,::1], uint8[:,:,:,::1], int64, int64, real[:,:,:])")
def unpool_piece(slopes, winner, top, left, y):
    """Write y (channels, rows, columns x batch), pixels from row `top` and column `left` on, from windows' slopes.

    slopes, winner: (channels, rows, columns, batch).
    """
    channels, high, wide, batch = winner.shape
    line, rows, columns = wide * batch, y.shape[1], y.shape[2] // batch
    plane_of_y, line_of_y = y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    flat = slopes.reshape(slopes.size)
    for c in range(channels):
        windows = flat, high * line, line, winner, c, top, left, batch, rows, columns
        unpool_block(*windows, y, c * plane_of_y, line_of_y)


@compiled(
    "void(real[::1], int64, int64, int64, int64, int64, int64, int64, real[:,:,:], real[:,::1], real[:,::1],"
    " uint8[:,:,:,::1], int64, int64)"
)
def spread_patches(x, plane, line, high, wide, bands, columns, batch, spread, room, edge, winner, top, left):
    """Write spread (points, channels, bands x columns x batch): the patches of a piece at all points.

    x: flat, from the first patch's first input on; plane, line: from channel to channel and from row to row. high, wide: the rows
    and columns of x that there are, zeros follow. room, edge: room for as many rows of inputs as a patch sees.

    With `winner`, not empty, x are the slopes of windows of 2 x 2, see `unpool_block`, from the first window on, plane and line
    are those of windows, and the first patch sees pixels from row `top` and column `left` on.
    """
    point, deep, across = spread.strides[0] >> SHIFT, spread.strides[1] >> SHIFT, room.shape[1]
    length = min(wide, OUTPUTS * (columns - 1) + room.shape[0]) * batch
    room[:, length:] = 0

    def spread_all(inputs):
        """By points as many as the tile has rows."""
        points = tile.rows(inputs)
        for c in range(spread.shape[1]):
            for i in range(bands):
                source, at, down = x, c * plane + i * OUTPUTS * line, line
                count = min(points, high - i * OUTPUTS)
                if winner.size > 0:
                    row, block = top + i * OUTPUTS, (points, length // batch)
                    windows = x, plane, line, winner, c, row, left, batch, *block
                    unpool_block(*windows, edge.reshape(edge.size), 0, across)
                elif count < points:
                    fill_up(x, at, line, count, length, edge)
                if winner.size > 0 or count < points:
                    source, at, down = edge.reshape(edge.size), 0, across
                for lane in range(0, length, VECTOR):
                    rows = inputs_to_points(tile.load(inputs, source, at + lane, down))
                    tile.store(rows, room, lane, across)
                for j in range(columns):
                    for p in range(points):
                        at = p * across + j * OUTPUTS * batch
                        to = p * points * point + c * deep + (i * columns + j) * batch
                        for lane in range(0, batch, VECTOR):
                            patch = inputs_to_points(tile.load(inputs, room, at + lane, batch))
                            tile.store(patch, spread, to + lane, point)

    if room.shape[0] == 6:
        spread_all(tile.zeros(6, 1))
    else:
        spread_all(tile.zeros(8, 1))


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


@compiled("void(real[:,:,:,:], int64, real[:,::1], real[:,:,:,:])")
def spread_slopes(turned, columns, room, slopes):
    """Write slopes (points, bands x columns, images, filters) from turned (rows, pixels, images, filters), those of the outputs.

    Their filters are whole registers and contiguous. room: (points along a side, OUTPUTS x filters).
    """
    outputs, (rows, across) = tile.zeros(OUTPUTS, 1), room.shape
    line, pixel, image = turned.strides[0] >> SHIFT, turned.strides[1] >> SHIFT, turned.strides[2] >> SHIFT
    point, deep, side = slopes.strides[0] >> SHIFT, slopes.strides[1] >> SHIFT, slopes.strides[2] >> SHIFT
    filters = turned.shape[3]

    def spread_image(points, at, to):
        """A patch of an image at as many points as the tile has rows."""
        for s in range(OUTPUTS):
            for k in range(0, filters, VECTOR):
                value = tile.load(outputs, turned, at + s * pixel + k, line)
                tile.store(slopes_to_points(value, points), room, s * filters + k, across)
        for p in range(rows):
            for k in range(0, filters, VECTOR):
                value = slopes_to_points(tile.load(outputs, room, p * across + k, filters), points)
                tile.store(value, slopes, to + p * rows * point + k, point)

    six, eight = tile.zeros(6, 1), tile.zeros(8, 1)
    for patch in range(slopes.shape[1]):
        i, j = patch // columns, patch % columns
        for b in range(slopes.shape[2]):
            at, to = OUTPUTS * (i * line + j * pixel) + b * image, patch * deep + b * side
            if rows == 6:
                spread_image(six, at, to)
            else:
                spread_image(eight, at, to)


@compiled("void(real[::1], int64, int64[::1], int64, real[::1], int64, real[:,:,::1], boolean)")
def pair_points(slopes, point, places, batch, spread, plane, total, first):
    """Add to total (points, channels, filters) the products of a piece's inputs with its slopes; write it for a run's first piece.

    slopes: flat, `point` values from point to point; places: of each patch and image. Filters are whole registers. spread: flat,
    `plane` values from point to point, then from channel to channel as many as there are places.

    Each value adds up, patch by patch, chains of fused multiply-adds over CHUNK images: however a run of patches is cut in pieces,
    and however much larger than its images a batch is.
    """
    points, channels, filters = total.shape
    length, flat = places.size, total.reshape(total.size)

    def add_some(zeros, p, c, k, begin, end):
        """Images begin..end of all patches', for a tile of channels and filters."""
        to, new = (p * channels + c) * filters + k, first and begin == 0
        value, at = zeros, p * plane + c * length
        for t in range(begin, end):
            value = tile.multiply_add(value, slopes, p * point + k, places, t, spread, at + t, length)
        if not new:
            value = tile.add(value, flat, to, filters)
        tile.store(value, flat, to, filters)

    def add_strip(tall, single, p, k, begin, end):
        """All channels of some filters."""
        whole = channels // tile.rows(tall) * tile.rows(tall)
        for c in range(0, whole, tile.rows(tall)):
            add_some(tall, p, c, k, begin, end)
        for c in range(whole, channels):
            add_some(single, p, c, k, begin, end)

    strips = filters // STRIP * STRIP
    if strips > 0 and filters - strips == VECTOR:
        strips -= STRIP  # rather two strips of two registers than one of one, whose multiply-adds wait for each other
    pairs = strips + (filters - strips) // (2 * VECTOR) * 2 * VECTOR
    for p in range(points):
        for patch in range(0, length, batch):
            for begin in range(patch, patch + batch, CHUNK):
                end = min(begin + CHUNK, patch + batch)
                for k in range(0, strips, STRIP):
                    add_strip(tile.zeros(4, COLUMNS), tile.zeros(1, COLUMNS), p, k, begin, end)
                for k in range(strips, pairs, 2 * VECTOR):
                    add_strip(tile.zeros(TALL, 2), tile.zeros(1, 2), p, k, begin, end)
                for k in range(pairs, filters, VECTOR):
                    add_strip(tile.zeros(TALL, 1), tile.zeros(1, 1), p, k, begin, end)
