"""Max pooling over windows that lie side by side.

Values are (channels, height, width, batch); batches are multiples of LANES.
"""

import numpy as np

from distsgd.kernels import tile
from distsgd.kernels.compiled import compiled
from distsgd.kernels.tile import LANES, VECTOR

REGISTERS = LANES // VECTOR


@compiled("void(float32[:,:,:,::1], int64, float32[:,:,:], uint8[:,:,:,::1])")
def max_pool(x, size, y, winner):
    """Write into y the maximum of every size x size window of x, and into `winner` its place in the window; a NaN wins.

    winner: (channels, out height, out width, batch), at most 256 places.
    y: (channels, out height, out width x batch), last axis contiguous.
    """
    channels, height, width, batch = winner.shape
    shape, line, plane, row = (
        tile.zeros(1, REGISTERS),
        y.strides[1] >> 2,
        y.strides[0] >> 2,
        x.strides[1] >> 2,
    )
    for c in range(channels):
        for i in range(height):
            for j in range(0, width * batch, LANES):
                at = (c * x.shape[1] + i * size) * row + (j // batch * size) * batch + j % batch
                best, place = tile.load(shape, x, at, 0), shape
                for other in range(1, size * size):
                    value = tile.load(shape, x, at + other // size * row + other % size * batch, 0)
                    place = tile.where_greater(value, best, tile.fill(shape, np.float32(other)), place)
                    best = tile.where_greater(value, best, value, best)
                tile.store(best, y, c * plane + i * line + j, 0)
                tile.store_bytes(place, winner, (c * height + i) * width * batch + j)


@compiled("void(float32[:,:,:,::1], uint8[:,:,:,::1], int64, float32[:,:,:], boolean, float32[:,:,:])")
def max_pool_gradient(dy, winner, size, y, gated, dx):
    """Write dx: the gradient goes to the window's winner, zero to the rest of the window.

    dy: as winner. y: as in `max_pool`; with `gated` the input was rectified, and where y, the winner's value, is not
    positive nothing goes back. dx: (channels, height, width x batch), last axis contiguous; what no window covers is left alone.
    """
    channels, height, width, batch = winner.shape
    shape, line, plane, row, depth = (
        tile.zeros(1, REGISTERS),
        y.strides[1] >> 2,
        y.strides[0] >> 2,
        dx.strides[1] >> 2,
        dx.strides[0] >> 2,
    )
    for c in range(channels):
        for i in range(height):
            for j in range(0, width * batch, LANES):
                flat = (c * height + i) * width * batch + j
                slope, place = tile.load(shape, dy, flat, 0), tile.load_bytes(shape, winner, flat)
                if gated:
                    slope = tile.gate(slope, y, c * plane + i * line + j, 0)
                to = c * depth + i * size * row + (j // batch * size) * batch + j % batch
                for other in range(size * size):
                    passed = tile.where_equal(place, tile.fill(shape, np.float32(other)), slope, shape)
                    tile.store(passed, dx, to + other // size * row + other % size * batch, 0)
