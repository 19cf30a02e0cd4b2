"""Sums of rows: the one loop behind convolution, dense layers and their gradients to data.

With the batch innermost, a row of outputs (all columns, all images) is a sum of contiguous rows of inputs, each times one weight::

    y[k, i, :] = bias[k] + sum over taps t of weights[t, k] * x[i * step + place of t : ... + length]

A convolution's taps are (channel, filter row, filter column); a dense layer's are its inputs. `taps` says which there are.
"""

import numpy as np

from distsgd.kernels import tile
from distsgd.kernels.compiled import FLOAT, SHIFT, compiled, inlined
from distsgd.kernels.vector import COLUMNS, LANES, STRIP, VECTOR, fetch
from distsgd.kernels.windows import pool_row

HIGH = 6 if VECTOR == 16 else 4
"""Channels of a tile that is COLUMNS wide: what the registers hold. Of x, which may come from the level-2 cache, each register is
loaded for so many multiply-adds.
"""
TALL = {16: 8, 8: 6, 4: 8}[VECTOR]
"""Channels of a narrower tile: with fewer, each multiply-add would wait for the one before."""
CHUNK = 64
"""Taps after which a tile rests in memory, so that a strip of x stays in the level-1 cache while all channels use it."""
FAR = 16
"""So many times as many where weights lie tap by tap: each row is on a page of its own, which the processor fetches ahead."""
TOGETHER = 256 // STRIP
"""Strips that take their turn with the same chunk of taps, so that large weights are fetched from far away once for all of them."""
GROUP = TOGETHER * STRIP
"""Their lanes."""
PAGES = 48
"""Channels of several strips each that are finished before others begin: their rows may all be on pages of their own, and of no
more than 64 pages do processors keep near where they are.
"""
NEAR = 1 << 11
"""Weights of a sum that are near without being asked for. Of more, which may be those of one point of many (`patches`), the next
are fetched while others are used.
"""
NEXT = 32
"""Channels, two lines of the cache, from those in use to those that are fetched."""
WIDTHS = tuple(sorted({1, 2, min(3, COLUMNS), COLUMNS}))
"""Registers of a strip."""


def strips(length: int) -> list[tuple[int, int]]:
    """Where the strips of a row of so many lanes begin, and how many registers each takes: as equal as may be, so that none is of
    one register, whose multiply-adds wait for each other, beside wider ones.

    Where the row is no whole number of registers, the last moves back over lanes done before, which get the same again.
    """
    found: list[tuple[int, int]] = []
    lane, fitting = 0, [registers for registers in WIDTHS if registers * VECTOR <= length]
    while lane < length:
        left = -(-(length - lane) // VECTOR)
        share = -(-left // -(-left // COLUMNS))
        registers = min((each for each in fitting if each >= share), default=max(fitting))
        found.append((min(lane, length - registers * VECTOR), registers))
        lane += registers * VECTOR
    return found


@inlined
def split(begin, end):
    """Where in channels begin..end the tiles of a wide strip have HIGH rows, four, three and one (only of 1, 2 and 5 channels),
    where those of a narrower one have four and one, and the end.
    """
    channels = end - begin
    high = channels // HIGH * HIGH
    while high > 0 and (channels - high == 1 or channels - high == 2 or channels - high == 5):
        high -= HIGH
    threes = -(channels - high) % 4
    adds_up = 3 * threes <= channels - high
    threes_from, ones_from = end - 3 * threes if adds_up else begin + high, end if adds_up else begin + high
    return begin, begin + high, threes_from, ones_from, end - channels % TALL, end - channels % TALL % 4, end


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
    channels, size = y.shape[:2]
    most = 0
    for s in range(strips.shape[0]):
        most = max(most, strips[s, 1])

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
            turns = 7 if tile.rows(total) > 4 else 3
            for t in range(first, last):
                fetch(weights, ahead + taps[1, t] * tap + (t & turns) * line_apart)
                total = tile.multiply_add(total, x, at, taps, t, weights, k * row + taps[1, t] * tap, row)
        else:
            for t in range(first, last):
                total = tile.multiply_add(total, x, at, taps, t, weights, k * row + taps[1, t] * tap, row)
        return total

    def sum_tile(total, k, strip):
        """Channels k.. of a strip: the sum so far plus some taps, put to rest in `partial` or finished in y."""
        at, first, last, begin, end, rest, out, seen = strip
        if first > begin:
            total = tile.load(total, partial, rest + k * STRIP, STRIP)
        elif bias.size > 0:
            total = tile.add_rows(total, bias, k)
        total = sum_taps(total, k, at, first, last)
        if last < end:
            tile.store(total, partial, rest + k * STRIP, STRIP)
        else:
            if rectify:
                total = tile.rectify(total)
            if gate.size > 0:
                total = tile.gate(total, gate, seen + k * gate_plane, gate_plane)
            tile.store(total, y, out + k * plane, plane)

    def sum_tiles(zeros, low, high, strip):
        """Channels low..high, as many at once as the tile has rows."""
        for k in range(low, high, tile.rows(zeros)):
            sum_tile(zeros, k, strip)

    def sum_narrow(high, low, one, tiles, strip):
        """The channels of a strip that is not COLUMNS wide."""
        begin, _, _, _, low_from, single_from, end = tiles
        sum_tiles(high, begin, low_from, strip)
        sum_tiles(low, low_from, single_from, strip)
        sum_tiles(one, single_from, end, strip)

    def sum_strip(registers, tiles, strip):
        """The channels: by tiles as high as may be, then lower ones, single rows where these do not add up."""
        if registers == COLUMNS:
            begin, fours_from, threes_from, ones_from, _, _, end = tiles
            sum_tiles(tile.zeros(HIGH, COLUMNS), begin, fours_from, strip)
            sum_tiles(tile.zeros(4, COLUMNS), fours_from, threes_from, strip)
            sum_tiles(tile.zeros(3, COLUMNS), threes_from, ones_from, strip)
            sum_tiles(tile.zeros(1, COLUMNS), ones_from, end, strip)
        elif registers == 3:
            sum_narrow(tile.zeros(TALL, 3), tile.zeros(4, 3), tile.zeros(1, 3), tiles, strip)
        elif registers == 2:
            sum_narrow(tile.zeros(TALL, 2), tile.zeros(4, 2), tile.zeros(1, 2), tiles, strip)
        else:
            sum_narrow(tile.zeros(TALL, 1), tile.zeros(4, 1), tile.zeros(1, 1), tiles, strip)

    piece = CHUNK * (COLUMNS // strips[0, 3] * FAR if tap < row else 1)

    def sum_group(group, i, tiles):
        """Those channels of the strips of a group, of row i."""
        low, high = bands[i]
        # An output may see nothing: it is written.
        for chunk in range(0, max(1, (high - low) * most), piece):
            for s in range(group, min(group + TOGETHER, strips.shape[0])):
                begin, of_row, j, registers = strips[s]
                begin, end = begin + low * of_row, begin + high * of_row
                first, last = begin + chunk, min(begin + chunk + piece, end)
                rest = (s - group) * channels * STRIP
                if first < last or chunk == 0:
                    out, seen = i % size * line + j, i * gate_line + j
                    sum_strip(registers, tiles, (i * step + j, first, last, begin, end, rest, out, seen))

    block = PAGES if tap < row and strips.shape[0] > 1 and winner.size == 0 else channels
    for channel in range(0, channels, block):
        tiles = split(channel, min(channel + block, channels))
        for i in range(bands.shape[0]):
            for group in range(0, strips.shape[0], TOGETHER):
                sum_group(group, i, tiles)
            if winner.size > 0 and (i + 1) % size == 0:
                pool_row(y, 0, plane, line, size, size, pooled, winner, i // size)


NO_BIAS = np.empty(0, FLOAT)
NO_ROWS = np.empty((0, 0, 0), FLOAT)
NO_VALUES = np.empty((0, 0, 0, 0), FLOAT)
NO_WINNERS = np.empty((0, 0, 0, 0), np.uint8)
