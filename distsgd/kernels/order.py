"""Numbers in another order, and numbers left out: what layers need beside the two loops in `rows` and `pairs`."""

import numpy as np

from distsgd.kernels import tile
from distsgd.kernels.compiled import FLOAT, SHIFT, compiled, inlined
from distsgd.kernels.vector import LANES, VECTOR
from distsgd.kernels.windows import REGISTERS


@inlined
def transposed(x, y):
    """Write y = x transposed, in blocks that stay in registers; the last axes of both are contiguous."""
    rows, columns = x.shape
    across, down = x.strides[0] >> SHIFT, y.strides[0] >> SHIFT
    full_rows, full_columns = rows // VECTOR * VECTOR, columns // VECTOR * VECTOR
    square = tile.zeros(VECTOR, 1)
    for i in range(0, full_rows, VECTOR):
        for j in range(0, full_columns, VECTOR):
            block = tile.turned(tile.load(square, x, i * across + j, across))
            tile.store(block, y, j * down + i, down)
    for i in range(rows):
        for j in range(0 if i >= full_rows else full_columns, columns):
            y[j, i] = x[i, j]


@compiled("void(real[:,:,:], real[:,:,:])")
def transpose(x, y):
    """Write y[r, n, k] = x[k, r, n]: each row transposed. Last axes are contiguous; y's may be longer than it need be."""
    for r in range(y.shape[0]):
        transposed(x[:, r], y[r])


@compiled("void(real[:,:], real[:,::1])")
def first_columns(x, y):
    """Write y, as many columns of x as it has. The last axis of x is contiguous."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = x[i, j]


@compiled("void(real[:,:,:,:], real[:,:,:,::1])")
def turn_filters(weights, turned):
    """Write turned[k, r, s, c] = weights[c, R-1-r, S-1-s, k]: the filters that carry a convolution's gradient back to its input."""
    _, height, width, _ = weights.shape
    for r in range(height):
        for s in range(width):
            transposed(weights[:, height - 1 - r, width - 1 - s], turned[:, r, s])


@compiled("void(real[:,:,:,:], real[:,:,:,:])")
def copy(y, x):
    """Write y = x. Both: (channels, height, width, batch), their last axis contiguous, a multiple of LANES."""
    shape = tile.zeros(1, REGISTERS)
    for c in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                to = (c * y.strides[0] + i * y.strides[1] + j * y.strides[2]) >> SHIFT
                at = (c * x.strides[0] + i * x.strides[1] + j * x.strides[2]) >> SHIFT
                for n in range(0, y.shape[3], LANES):
                    tile.store(tile.load(shape, x, at + n, 0), y, to + n, 0)


@compiled("void(real[:,:,:,:], real, real[:,:,:,:], real[:,:,:,:])")
def pass_back(x, factor, gate, y):
    """Write y = factor * x where gate is positive or no number, zero elsewhere. All as in `copy`."""
    shape = tile.zeros(1, REGISTERS)
    for c in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                to = (c * y.strides[0] + i * y.strides[1] + j * y.strides[2]) >> SHIFT
                at = (c * x.strides[0] + i * x.strides[1] + j * x.strides[2]) >> SHIFT
                seen = (c * gate.strides[0] + i * gate.strides[1] + j * gate.strides[2]) >> SHIFT
                for n in range(0, y.shape[3], LANES):
                    value = tile.scale(tile.load(shape, x, at + n, 0), factor)
                    tile.store(tile.gate(value, gate, seen + n, 0), y, to + n, 0)


@compiled("void(real[:,:,:,:])")
def clear(y):
    """Write zeros to y, as in `copy`."""
    zeros = tile.zeros(1, REGISTERS)
    for c in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                to = (c * y.strides[0] + i * y.strides[1] + j * y.strides[2]) >> SHIFT
                for n in range(0, y.shape[3], LANES):
                    tile.store(zeros, y, to + n, 0)


@inlined
def mixed(x):
    """A bijection of 64 bits that leaves no pattern: splitmix64's finalizer (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


CHANCES = 1 << 16
"""Of each value, all as likely: a quarter of a random number."""


@compiled("void(real[:,::1], uint64[::1], uint64, int64, real, uint64[::1], real[:,::1], int64)")
def drop(x, draw, layer, lost, factor, room, y, first):
    """Write y: factor * x, or zero by `lost` of CHANCES (inverted dropout).

    What is dropped depends on draw (seed, worker, step), the layer and the value's place alone, so that the way back drops the same
    on any machine (of those that have a number's lowest byte first). x, y: (units, batch), of which `first` is the layer's first
    unit here. room: a number for every four images, whose quarters are their chances.
    """
    (units, batch), limit = x.shape, np.uint32(lost)
    key = mixed(mixed(mixed(mixed(draw[0]) + draw[1]) + draw[2]) + layer)
    chances = room.view(np.uint16)
    for i in range(units):
        for n in range(batch // 4):
            place = np.uint64((first + i) * (batch // 4) + n)
            room[n] = mixed(key + place * np.uint64(0x9E3779B97F4A7C15))
        for n in range(batch):
            y[i, n] = x[i, n] * factor if np.uint32(chances[n]) >= limit else FLOAT(0)
