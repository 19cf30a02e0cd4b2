"""Sums of rows: the one loop behind convolution, dense layers and their gradients to data.

With the batch innermost, a row of outputs (all columns, all images) is a sum of contiguous rows of inputs, each times one weight::

    y[k, i, :] = bias[k] + sum over taps t of weights[t, k] * x[i * step + place of t : ... + length]

A convolution's taps are (channel, filter row, filter column); a dense layer's are its inputs. `taps` says which there are.
"""

import numpy as np

from distsgd.kernels import tile
from distsgd.kernels.compiled import FLOAT, SHIFT, compiled
from distsgd.kernels.vector import COLUMNS, LANES, STRIP, VECTOR, fetch
from distsgd.kernels.windows import pool_row

TALL = {16: 8, 8: 4, 4: 8}[VECTOR]
"""Channels of a tile that is one or two columns wide: with fewer, each multiply-add would wait for the one before."""
CHUNK = 64
"""Taps after which a tile rests in memory, so that a strip of x stays in the level-1 cache while all channels use it."""
FAR = 16
"""So many times as many where weights lie tap by tap: each row is on a page of its own, which the processor fetches ahead."""
GROUP = 256 // STRIP * STRIP
"""Lanes that take their turn with the same chunk of taps, so that large weights are fetched from far away once for all of them."""
NEAR = 1 << 16
"""Weights that the level-2 cache holds beside all else. Of more, those that are next are fetched while others are used."""
NEXT = 32
"""Channels, two lines of the cache, from those in use to those that are fetched."""


def strip_width(length: int) -> int:
    """Lanes that a row of that length is computed in at once."""
    return STRIP if length >= STRIP else 2 * VECTOR if length >= 2 * VECTOR else VECTOR


def strip_starts(length: int) -> list[int]:
    """Where the strips of a row begin: the last moves back over lanes done before, which get the same again."""
    width = strip_width(length)
    return [min(lane, length - width) for lane in range(0, length, width)]


@compiled(
    "void(real[::1], int64[:,::1], int64[:,::1], int64[:,::1], int64, real[:,:], real[::1], real[::1],"
    " real[:,:,:], real[:,:,:], boolean, real[:,:,:], uint8[:,:,:,:])"
)
def sum_rows(x, taps, strips, bands, step, weights, bias, partial, y, gate, rectify, pooled, winner):
    """Write y, see the module's equation.

    x: flat, its first element is where the first window begins. taps, strips, bands: see `taps.RowTaps`.
    step: from one row to the next in x. weights: (taps, channels), any strides. bias: (channels,), or empty for none.
    partial: room for channels x GROUP values. y: (channels, rows, length) whose last axis is contiguous. gate: y's shape, or
    empty: y is zero where it is not positive. rectify: whether y is max(y, 0).

    With `winner` (channels, height, width, batch), not empty, the maxima of windows go to `pooled` (channels, height, width x
    batch), as `pool.max_pool` writes them; y then has as many rows as a window, and they are used again for every row of windows.

    Each value is one chain of fused multiply-adds over its taps in the order row, channel, column.
    """
    tap, row = weights.strides[0] >> SHIFT, weights.strides[1] >> SHIFT
    plane, line = y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    gate_plane, gate_line = gate.strides[0] >> SHIFT, gate.strides[1] >> SHIFT
    channels, size, length = y.shape
    widest = 0
    for s in range(strips.shape[0]):
        widest = max(widest, strips[s, 1])

    def next_weights(total, k, first, last):
        """Where in `weights` those are that come after these; and from one row of theirs to the next, where each is a line."""
        if tap < row:
            return (k + tile.rows(total)) * row, row
        if k + NEXT < channels:
            return (k + NEXT) * row, 0
        return (k + NEXT - channels) * row + (last - first) * tap, 0

    def sum_taps(total, k, at, first, last):
        """The sum so far of channels k.. plus taps first..last."""
        # Where channels lie side by side, one tile of a line's LANES channels fetches for all of them.
        if weights.size > NEAR and (tap < row or k % LANES < tile.rows(total)):
            ahead, line_apart = next_weights(total, k, first, last)
            # Else a tile's rows take turns: a line holds the weights of several taps.
            turns = TALL - 1 if tile.rows(total) == TALL else 3
            for t in range(first, last):
                fetch(weights, ahead + taps[1, t] * tap + (t & turns) * line_apart)
                total = tile.multiply_add(total, x, at, taps, t, weights, k * row + taps[1, t] * tap, row)
        else:
            for t in range(first, last):
                total = tile.multiply_add(total, x, at, taps, t, weights, k * row + taps[1, t] * tap, row)
        return total

    def sum_tile(total, k, at, first, last, ends, rest, out, seen):
        """Channels k.. of a strip: the sum so far plus taps first..last, put to rest in `partial` or finished in y."""
        if first > ends[0]:
            total = tile.load(total, partial, rest + k * STRIP, STRIP)
        elif bias.size > 0:
            total = tile.add_rows(total, bias, k)
        total = sum_taps(total, k, at, first, last)
        if last < ends[1]:
            tile.store(total, partial, rest + k * STRIP, STRIP)
        else:
            if rectify:
                total = tile.rectify(total)
            if gate.size > 0:
                total = tile.gate(total, gate, seen + k * gate_plane, gate_plane)
            tile.store(total, y, out + k * plane, plane)

    def sum_row(tall, short, one, shorts_from, ones_from, width, i):
        """A row of all channels: tall tiles up to channel `shorts_from`, short ones up to `ones_from`, single rows beyond."""
        low, high = bands[i]
        piece = CHUNK * (STRIP // width * FAR if tap < row else 1)
        for group in range(0, length, GROUP):
            until = min(group + GROUP, length)
            for chunk in range(
                0, max(1, (high - low) * widest), piece
            ):  # an output may see nothing: it is written
                rest = 0
                for lane in range(group, until, width):
                    begin, of_row = strips[lane // width]
                    ends = (begin + low * of_row, begin + high * of_row)
                    first, last = ends[0] + chunk, min(ends[0] + chunk + piece, ends[1])
                    j = min(lane, length - width)
                    at, out, seen = i * step + j, i % size * line + j, i * gate_line + j
                    if first < last or chunk == 0:
                        for k in range(0, shorts_from, tile.rows(tall)):
                            sum_tile(tall, k, at, first, last, ends, rest, out, seen)
                        for k in range(shorts_from, ones_from, tile.rows(short)):
                            sum_tile(short, k, at, first, last, ends, rest, out, seen)
                        for k in range(ones_from, channels):
                            sum_tile(one, k, at, first, last, ends, rest, out, seen)
                    rest += channels * STRIP

    # Wide strips: tiles of four and three channels, of one where neither adds up: 1, 2 and 5.
    blocks = (channels + 3) // 4
    fours = channels - 3 * blocks
    wide_from, wide_ones = max(0, 4 * fours), channels if fours >= 0 else 0
    for i in range(bands.shape[0]):
        if length >= STRIP:
            four, three, one = tile.zeros(4, COLUMNS), tile.zeros(3, COLUMNS), tile.zeros(1, COLUMNS)
            sum_row(four, three, one, wide_from, wide_ones, STRIP, i)
        elif length >= 2 * VECTOR:
            tall, four, one = tile.zeros(TALL, 2), tile.zeros(4, 2), tile.zeros(1, 2)
            sum_row(tall, four, one, channels // TALL * TALL, channels // 4 * 4, 2 * VECTOR, i)
        else:
            tall, four, one = tile.zeros(TALL, 1), tile.zeros(4, 1), tile.zeros(1, 1)
            sum_row(tall, four, one, channels // TALL * TALL, channels // 4 * 4, VECTOR, i)
        if winner.size > 0 and (i + 1) % size == 0:
            pool_row(y, 0, plane, line, size, size, pooled, winner, i // size)


NO_BIAS = np.empty(0, FLOAT)
NO_ROWS = np.empty((0, 0, 0), FLOAT)
NO_VALUES = np.empty((0, 0, 0, 0), FLOAT)
NO_WINNERS = np.empty((0, 0, 0, 0), np.uint8)
