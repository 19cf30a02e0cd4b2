"""Sums of rows: the one loop behind convolution, dense layers and their gradients to data.

With the batch innermost, a row of outputs (all columns, all images) is a sum of contiguous rows of inputs, each times one weight::

    y[k, i, :] = bias[k] + sum over taps t of weights[t, k] * x[i * step + offsets[t] : ... + length]

A convolution's taps are (channel, filter row, filter column); a dense layer's are its inputs.
"""

import numpy as np

from distsgd.kernels import tile
from distsgd.kernels.compiled import compiled, inlined
from distsgd.kernels.tile import COLUMNS, VECTOR

STRIP = COLUMNS * VECTOR
"""Lanes of a row that one tile covers."""
CHUNK = 64
"""Taps after which a tile rests in memory, so that a strip of x stays in the level-1 cache while all channels use it."""
GROUP = 256 // STRIP * STRIP
"""Lanes that take their turn with the same chunk of taps, so that large weights are fetched from far away once for all of them."""


@inlined
def _sum(
    total,
    x,
    at,
    offsets,
    first,
    last,
    weights,
    k,
    tap,
    row,
    bias,
    partial,
    rest,
    y,
    out,
    plane,
    gate,
    seen,
    gate_plane,
    rectify,
):
    """One tile of y, channels k..: its sum so far plus taps first..last, put to rest in `partial` or, at the end, finished in y."""
    if first > 0:
        total = tile.load(total, partial, rest, STRIP)
    elif bias.size > 0:
        total = tile.add_rows(total, bias, k)
    for t in range(first, last):
        total = tile.multiply_add(total, x, at, offsets, t, weights, k * row + t * tap, row)
    if last < offsets.size:
        tile.store(total, partial, rest, STRIP)
        return
    if rectify:
        total = tile.rectify(total)
    if gate.size > 0:
        total = tile.gate(total, gate, seen, gate_plane)
    tile.store(total, y, out, plane)


@inlined
def _strip(
    tiles,
    x,
    at,
    offsets,
    first,
    last,
    weights,
    tap,
    row,
    bias,
    partial,
    rest,
    y,
    out,
    plane,
    gate,
    seen,
    gate_plane,
    rectify,
):
    """All channels of a strip of lanes, in tiles of four and then of three (of one where neither adds up: 1, 2 and 5)."""
    channels, (four, three, one) = y.shape[0], tiles
    blocks = (channels + 3) // 4
    fours = channels - 3 * blocks
    if fours < 0:
        blocks = channels
    for block in range(blocks):
        k = block if fours < 0 else 3 * block + min(block, fours)
        r, o, s = rest + k * STRIP, out + k * plane, seen + k * gate_plane
        if block < fours:
            _sum(
                four,
                x,
                at,
                offsets,
                first,
                last,
                weights,
                k,
                tap,
                row,
                bias,
                partial,
                r,
                y,
                o,
                plane,
                gate,
                s,
                gate_plane,
                rectify,
            )
        elif fours >= 0:
            _sum(
                three,
                x,
                at,
                offsets,
                first,
                last,
                weights,
                k,
                tap,
                row,
                bias,
                partial,
                r,
                y,
                o,
                plane,
                gate,
                s,
                gate_plane,
                rectify,
            )
        else:
            _sum(
                one,
                x,
                at,
                offsets,
                first,
                last,
                weights,
                k,
                tap,
                row,
                bias,
                partial,
                r,
                y,
                o,
                plane,
                gate,
                s,
                gate_plane,
                rectify,
            )


@inlined
def _row(tiles, width, x, at, offsets, weights, bias, partial, y, out, gate, seen, rectify):
    """One row of all channels, in strips `width` lanes wide."""
    length, taps, tap, row = y.shape[2], offsets.size, weights.strides[0] >> 2, weights.strides[1] >> 2
    plane, gate_plane = y.strides[0] >> 2, gate.strides[0] >> 2
    for group in range(0, length, GROUP):
        for first in range(0, taps, CHUNK):
            last, rest = min(first + CHUNK, taps), 0
            for lane in range(group, min(group + GROUP, length), width):
                j = min(
                    lane, length - width
                )  # the last strip moves back over lanes done before: they get the same again
                _strip(
                    tiles,
                    x,
                    at + j,
                    offsets,
                    first,
                    last,
                    weights,
                    tap,
                    row,
                    bias,
                    partial,
                    rest,
                    y,
                    out + j,
                    plane,
                    gate,
                    seen + j,
                    gate_plane,
                    rectify,
                )
                rest += y.shape[0] * STRIP


@compiled(
    "void(float32[::1], int64[::1], int64, float32[:,:], float32[::1], float32[::1], float32[:,:,:], float32[:,:,:], boolean)"
)
def sum_rows(x, offsets, step, weights, bias, partial, y, gate, rectify):
    """Write y, see the module's equation.

    x: flat, its first element is tap 0's for y[0, 0, 0]. offsets: (taps,) places in x. step: from one row to the next in x.
    weights: (taps, channels), any strides. bias: (channels,), or empty for none. partial: room for channels x GROUP values.
    y: (channels, rows, length) whose last axis is contiguous. gate: y's shape, or empty: y is zero where it is not positive.
    rectify: whether y is max(y, 0). Each value is one chain of fused multiply-adds over the taps in order.
    """
    wide = (tile.zeros(4, COLUMNS), tile.zeros(3, COLUMNS), tile.zeros(1, COLUMNS))
    narrow = (tile.zeros(4, 1), tile.zeros(3, 1), tile.zeros(1, 1))
    line, gate_line = y.strides[1] >> 2, gate.strides[1] >> 2
    for i in range(y.shape[1]):
        if y.shape[2] >= STRIP:
            _row(
                wide,
                STRIP,
                x,
                i * step,
                offsets,
                weights,
                bias,
                partial,
                y,
                i * line,
                gate,
                i * gate_line,
                rectify,
            )
        else:
            _row(
                narrow,
                VECTOR,
                x,
                i * step,
                offsets,
                weights,
                bias,
                partial,
                y,
                i * line,
                gate,
                i * gate_line,
                rectify,
            )


NO_BIAS = np.empty(0, np.float32)
NO_GATE = np.empty((0, 0, 0), np.float32)
