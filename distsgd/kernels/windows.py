"""A row of pooling's windows, forward and back: a part of `pool`, and of the passes of a convolution that is pooled.

Values are (channels, height, width, batch); batches are multiples of LANES.
"""

from distsgd.kernels import tile, tile_bytes
from distsgd.kernels.compiled import FLOAT, SHIFT, inlined
from distsgd.kernels.tile_windows import alternating, every_second
from distsgd.kernels.vector import LANES, VECTOR, fetch

REGISTERS = LANES // VECTOR
SOON = 4096
"""Values from those in use to those that are fetched meanwhile, where windows overlap: others mostly lie in the cache, as what a
convolution is about to pool does."""


@inlined
def pool_row(x, start, plane, line, size, stride, y, winner, i):
    """Row i of windows, `stride` columns apart: maxima into y, their places in the window into `winner`.

    x: any shape, its values for these windows from `start` on, `plane` from channel to channel, `line` from row to row.
    """
    channels, _, width, batch = winner.shape
    y_plane, y_line = y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    for c in range(channels):
        for window in range(width):
            for image in range(0, batch, LANES):
                at = start + c * plane + window * stride * batch + image
                if stride < size:  # windows before fetched the rest
                    for r in range(size - stride, size):
                        for s in range(stride):
                            fetch(x, at + SOON + r * line + s * batch)
                best, place, total = _largest(x, at, line, batch, size)
                if tile.any_nan(total):
                    best, place = _last_nan(x, at, line, batch, size)
                to = window * batch + image
                tile.store(best, y, c * y_plane + i * y_line + to, 0)
                tile_bytes.store_bytes(place, winner, c * winner.strides[0] + i * winner.strides[1] + to, 0)


@inlined
def _largest(x, at, line, batch, size):
    """A window's maximum, its place and its sum, which is a NaN where a value is (and where infinities of both signs are).

    With a NaN no comparison is true, so that the maximum tells of none.
    """
    best = tile.load(tile.zeros(1, REGISTERS), x, at, 0)
    place, total, number = tile.zeros(1, REGISTERS), tile.zeros(1, REGISTERS), FLOAT(0)
    for r in range(size):
        for s in range(size):
            value = tile.load(best, x, at + r * line + s * batch, 0)
            place = tile.where_greater(value, best, tile.fill(best, number), place)
            best = tile.where_greater(value, best, value, best)
            total = tile.add(total, x, at + r * line + s * batch, 0)
            number += FLOAT(1)
    return best, place, total


@inlined
def _last_nan(x, at, line, batch, size):
    """The maximum and its place where there may be NaNs: the last of a window wins."""
    best = tile.load(tile.zeros(1, REGISTERS), x, at, 0)
    place, number = tile.zeros(1, REGISTERS), FLOAT(0)
    for r in range(size):
        for s in range(size):
            value = tile.load(best, x, at + r * line + s * batch, 0)
            place = tile.where_greater_or_nan(value, best, tile.fill(best, number), place)
            best = tile.where_greater_or_nan(value, best, value, best)
            number += FLOAT(1)
    return best, place


@inlined
def pool_twos(values):
    """Maxima of windows of 2 x 2, one below another in a tile of two columns, and their places as `pool_row` tells them."""
    corner, beside = every_second(values, 0, 0), every_second(values, 0, 1)
    below, across = every_second(values, 1, 0), every_second(values, 1, 1)
    best, place = corner, tile.fill(corner, FLOAT(0))
    others = (beside, FLOAT(1)), (below, FLOAT(2)), (across, FLOAT(3))
    for value, number in others:
        place = tile.where_greater(value, best, tile.fill(best, number), place)
        best = tile.where_greater(value, best, value, best)
    if tile.any_nan(tile.plus(tile.plus(corner, beside), tile.plus(below, across))):
        best, place = corner, tile.fill(corner, FLOAT(0))
        for value, number in others:  # the last NaN of a window wins
            place = tile.where_greater_or_nan(value, best, tile.fill(best, number), place)
            best = tile.where_greater_or_nan(value, best, value, best)
    return best, place


@inlined
def unpool_twos(slope, place, column):
    """Column 0.0 or 1.0 of the values before `pool_twos`: windows' gradients where the places are, zeros elsewhere."""
    nothing = tile.fill(slope, FLOAT(0))
    above = tile.where_equal(place, tile.fill(place, column), slope, nothing)
    below = tile.where_equal(place, tile.fill(place, column + FLOAT(2)), slope, nothing)
    return alternating(above, below)


@inlined
def clear_rows(dx, c, first, until):
    """Rows first..until of channel c become zeros: those that the next windows are the first to add to."""
    zeros = tile.zeros(1, REGISTERS)
    for i in range(first, until):
        to = (c * dx.strides[0] + i * dx.strides[1]) >> SHIFT
        for n in range(0, dx.shape[2], LANES):
            tile.store(zeros, dx, to + n, 0)


@inlined
def unpool_row(dy, winner, i, size, stride, gated, y, dx, start, plane, line):
    """Row i of windows: the gradient goes to the window's winner. The dual of `pool_row`.

    The rest of the window is set to zero; where windows overlap (stride < size) the gradient is added and the rest left alone.
    """
    channels, height, width, batch = winner.shape
    shape, y_plane, y_line = tile.zeros(1, REGISTERS), y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    for c in range(channels):
        for window in range(width):
            for image in range(0, batch, LANES):
                flat = (c * height + i) * width * batch + window * batch + image
                slope, place = tile.load(shape, dy, flat, 0), tile_bytes.load_bytes(shape, winner, flat, 0)
                if gated:
                    slope = tile.gate(slope, y, c * y_plane + i * y_line + window * batch + image, 0)
                to, number = start + c * plane + window * stride * batch + image, FLOAT(0)
                for r in range(size):
                    for s in range(size):
                        passed = tile.where_equal(place, tile.fill(shape, number), slope, shape)
                        if stride < size:
                            passed = tile.add(passed, dx, to + r * line + s * batch, 0)
                        tile.store(passed, dx, to + r * line + s * batch, 0)
                        number += FLOAT(1)


@inlined
def unpool_threes(dy, winner, gated, y, dx, c, i):
    """Rows 2 i and 2 i + 1 of channel c of dx where windows of 3 x 3 are 2 apart: as `unpool_row`, but each value is written once.

    Four windows share a block of 2 x 2 values; numbers are places in them, and are added in this order::

        (i - 1, j - 1): 8   (i - 1, j): 6  |  (i - 1, j): 7
        (i, j - 1): 2       (i, j): 0      |  (i, j): 1
        -----------------------------------+---------------
        (i, j - 1): 5       (i, j): 3      |  (i, j): 4
    """
    batch = winner.shape[3]
    plane, line = dx.strides[0] >> SHIFT, dx.strides[1] >> SHIFT
    columns = dx.shape[2] // batch
    for j in range((columns + 1) // 2):
        right, below = 2 * j + 1 < columns, 2 * i + 1 < dx.shape[1]
        for image in range(0, batch, LANES):
            at = c * plane + 2 * i * line + 2 * j * batch + image
            for r in range(2):
                for s in range(2):
                    fetch(dx, at + SOON + r * line + s * batch)
            corner = _slope(dy, winner, gated, y, c, i - 1, j - 1, image)
            above = _slope(dy, winner, gated, y, c, i - 1, j, image)
            beside = _slope(dy, winner, gated, y, c, i, j - 1, image)
            own = _slope(dy, winner, gated, y, c, i, j, image)
            total = _won(_won(tile.zeros(1, REGISTERS), winner, 8, corner), winner, 6, above)
            tile.store(_won(_won(total, winner, 2, beside), winner, 0, own), dx, at, 0)
            if right:
                total = _won(tile.zeros(1, REGISTERS), winner, 7, above)
                tile.store(_won(total, winner, 1, own), dx, at + batch, 0)
            if below:
                total = _won(tile.zeros(1, REGISTERS), winner, 5, beside)
                tile.store(_won(total, winner, 3, own), dx, at + line, 0)
            if right and below:
                total = _won(tile.zeros(1, REGISTERS), winner, 4, own)
                tile.store(total, dx, at + line + batch, 0)


@inlined
def _slope(dy, winner, gated, y, c, i, window, image):
    """The gradient of a window and where in `winner` it is; zeros, and the first place, of a window that is not there."""
    _, height, width, batch = winner.shape
    if min(i, window) < 0 or i >= height or window >= width:
        return tile.zeros(1, REGISTERS), 0
    flat = ((c * height + i) * width + window) * batch + image
    slope = tile.load(tile.zeros(1, REGISTERS), dy, flat, 0)
    if gated:
        at = (c * y.strides[0] + i * y.strides[1]) >> SHIFT
        slope = tile.gate(slope, y, at + window * batch + image, 0)
    return slope, flat


@inlined
def _won(total, winner, place, slope):
    """The total plus a window's gradient, see `_slope`, where the value at that place in it won."""
    return tile_bytes.add_where(total, winner, slope[1], place, slope[0])
