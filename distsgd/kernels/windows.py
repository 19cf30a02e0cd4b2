"""A row of pooling's windows, forward and back: a part of `pool`, and of the passes of a convolution that is pooled.

Values are (channels, height, width, batch); batches are multiples of LANES.
"""

from distsgd.kernels import tile, tile_bytes
from distsgd.kernels.compiled import FLOAT, SHIFT, inlined
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
    shape, y_plane, y_line = tile.zeros(1, REGISTERS), y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    for c in range(channels):
        for window in range(width):
            for image in range(0, batch, LANES):
                at = start + c * plane + window * stride * batch + image
                best, place, number = tile.load(shape, x, at, 0), shape, FLOAT(0)
                for r in range(size):
                    for s in range(size):
                        value = tile.load(shape, x, at + r * line + s * batch, 0)
                        if stride < size:
                            fetch(x, at + SOON + r * line + s * batch)
                        place = tile.where_greater(value, best, tile.fill(shape, number), place)
                        best = tile.where_greater(value, best, value, best)
                        number += FLOAT(1)
                to = window * batch + image
                tile.store(best, y, c * y_plane + i * y_line + to, 0)
                tile_bytes.store_bytes(place, winner, c * winner.strides[0] + i * winner.strides[1] + to)


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
                slope, place = tile.load(shape, dy, flat, 0), tile_bytes.load_bytes(shape, winner, flat)
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
