"""Dot products of rows, for the gradients to weights and biases: the dual of `rows`.

The gradient of a weight is the dot product of the inputs its tap saw with the gradients of the outputs it fed::

    dw[t, k] = sum over rows i, lanes j of x[i * step + offsets[t] + j] * dy[k, i, j]

It is summed in LANES chains (lane j goes to chain j mod LANES, rows in order), the chains in a fixed tree: the same bits whatever
the vector's width and the blocking. Lengths are multiples of LANES.
"""

from distsgd.kernels import tile
from distsgd.kernels.compiled import compiled, inlined
from distsgd.kernels.tile import LANES, TAPS, VECTOR

CHANNELS = 4
PARTS = LANES // VECTOR
"""Registers that the LANES chains of one dot product take; they are summed one after another."""
ROOM = TAPS * CHANNELS * LANES
"""float32 values in which the chains of one block of TAPS x CHANNELS dot products rest."""
BLOCK = 1024
"""Lanes of a row after which another block takes its turn, so that the rows of dy are read from the level-1 cache."""


@inlined
def _extend(total, x, at, step, offsets, tap, dy, first, plane, line, rows, length, partial, rest, fresh):
    """One block of dot products, continued over some rows: chains come from and go to `partial`."""
    if not fresh:
        total = tile.load(total, partial, rest, CHANNELS * VECTOR)
    for i in range(rows):
        for j in range(0, length, LANES):
            total = tile.multiply_pairs(total, x, at + j, offsets, tap, dy, first + j, plane)
        at += step
        first += line
    tile.store(total, partial, rest, CHANNELS * VECTOR)


@compiled("void(float32[::1], int64[::1], int64, float32[:,:,:], float32[::1], float32[:,:])")
def sum_pairs(x, offsets, step, dy, partial, dw):
    """Write dw, see the module's equation.

    x, offsets, step: as in `rows.sum_rows`, the offsets' number filled up to a multiple of TAPS. dy: (channels, rows, length), its
    last axis contiguous. partial: room for the chains, see `room`. dw: (taps, channels).
    """
    taps, channels = dw.shape
    plane, line, length = dy.strides[0] >> 2, dy.strides[1] >> 2, dy.shape[2]
    rows, at_once, part = dy.shape[1], max(1, BLOCK // dy.shape[2]), ROOM // PARTS
    four, three, one = tile.zeros(TAPS, 4), tile.zeros(TAPS, 3), tile.zeros(TAPS, 1)
    for i in range(0, rows, at_once):
        count, block = min(at_once, rows - i), 0
        for k in range(0, channels, CHANNELS):
            for t in range(0, taps, TAPS):
                for h in range(PARTS):
                    at, first, rest = (
                        i * step + h * VECTOR,
                        k * plane + i * line + h * VECTOR,
                        block * ROOM + h * part,
                    )
                    if channels - k >= 4:
                        _extend(
                            four,
                            x,
                            at,
                            step,
                            offsets,
                            t,
                            dy,
                            first,
                            plane,
                            line,
                            count,
                            length,
                            partial,
                            rest,
                            i == 0,
                        )
                    elif channels - k == 3:
                        _extend(
                            three,
                            x,
                            at,
                            step,
                            offsets,
                            t,
                            dy,
                            first,
                            plane,
                            line,
                            count,
                            length,
                            partial,
                            rest,
                            i == 0,
                        )
                    else:
                        for c in range(channels - k):
                            next_first, next_rest = first + c * plane, rest + c * VECTOR
                            _extend(
                                one,
                                x,
                                at,
                                step,
                                offsets,
                                t,
                                dy,
                                next_first,
                                plane,
                                line,
                                count,
                                length,
                                partial,
                                next_rest,
                                i == 0,
                            )
                block += 1
    tap_blocks = (taps + TAPS - 1) // TAPS
    for t in range(taps):
        for k in range(channels):
            block = (k // CHANNELS) * tap_blocks + t // TAPS
            dw[t, k] = tile.sum_chains(
                partial, block * ROOM + ((t % TAPS) * CHANNELS + k % CHANNELS) * VECTOR, part
            )


def room(taps: int, channels: int) -> int:
    """float32 values that `partial` needs."""
    return -(-taps // TAPS) * -(-channels // CHANNELS) * ROOM


@compiled("void(float32[:,:,:], float32[::1], float32[::1])")
def sum_lanes(dy, partial, db):
    """Write db[k], the sum of dy[k]: the gradient of a bias. dy and partial as in `sum_pairs`, with room for one tap."""
    plane, line, part = dy.strides[0] >> 2, dy.strides[1] >> 2, ROOM // PARTS
    for k in range(dy.shape[0]):
        for h in range(PARTS):
            total = tile.zeros(1, 1)
            for i in range(dy.shape[1]):
                for j in range(h * VECTOR, dy.shape[2], LANES):
                    total = tile.add(total, dy, k * plane + i * line + j, 0)
            tile.store(total, partial, h * part, VECTOR)
        db[k] = tile.sum_chains(partial, 0, part)
