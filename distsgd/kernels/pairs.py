"""Dot products of rows, for the gradients to weights and biases: the dual of `rows`.

The gradient of a weight is the dot product of the inputs its tap saw with the gradients of the outputs it fed::

    dw[t, k] = sum over rows i, lanes j of x[i * step + place of t + j] * dy[k, i, j]

It is summed in LANES chains (lane j goes to chain j mod LANES, rows in order), the chains in a fixed tree: the same bits whatever
the vector's width and the blocking. Lengths are multiples of LANES.
"""

from distsgd.kernels import tile, vector
from distsgd.kernels.compiled import SHIFT, compiled
from distsgd.kernels.vector import LANES, TAPS, VECTOR
from distsgd.kernels.windows import unpool_row

CHANNELS = 4
PARTS = LANES // VECTOR
"""Registers that the LANES chains of one dot product take; they are summed one after another."""
ROOM = TAPS * CHANNELS * LANES
"""float32 values in which the chains of one block of TAPS x CHANNELS dot products rest."""
LANES_ROOM = CHANNELS * LANES
"""The same, in which the sums of CHANNELS channels' lanes rest."""
BLOCK = 1024
"""Lanes of a row after which another block takes its turn, so that the rows of dy are read from the level-1 cache."""
SEEN = 80 * BLOCK
"""Values of x, of so many taps' rows, that stay in the level-2 cache while all channels of dy pass by."""


@compiled(
    "void(real[::1], int64[::1], int64[::1], int64[:,::1], int64, real[:,:,:], real[::1], real[:,:], real[::1],"
    " real[:,:,:,::1], uint8[:,:,:,::1])"
)
def sum_pairs(x, offsets, places, spans, step, dy, partial, dw, db, pooled, winner):
    """Write dw, see the module's equation, and db, not empty, as `sum_lanes` does, while dy is near.

    x, step: as in `rows.sum_rows`. offsets, places, spans: see `taps.PairTaps`. dy: (channels, rows, length), its last axis
    contiguous. partial: room for the chains, see `taps.pairs_room`. dw: (taps, channels). db: (channels,).

    With `winner` (channels, height, width, batch), not empty, the gradient is that of windows' maxima, `pooled` of the same shape,
    and db is empty; dy then has as many rows as a window and is written for one row of windows after another (see
    `pool.max_pool_gradient`).
    """
    channels, size, length = dy.shape
    plane, line = dy.strides[0] >> SHIFT, dy.strides[1] >> SHIFT
    rows = winner.shape[1] * size if winner.size > 0 else size
    at_once = size if winner.size > 0 else max(1, BLOCK // length)
    # Of a row that is longer, a piece: of one row alone, so that chains go on in the order of rows.
    at_a_time, piece = (1, BLOCK) if length > BLOCK else (at_once, length)
    # Windows' maxima are spread once only: then all blocks take their turns with every row of windows.
    together = spans.shape[0] if winner.size > 0 else max(1, SEEN // (TAPS * at_a_time * piece))
    columns, part = (channels + CHANNELS - 1) // CHANNELS, ROOM // PARTS
    lanes_part, has_bias = LANES_ROOM // PARTS, db.size > 0

    def extend(total, x_at, tap, dy_at, count, first, last, rest):
        """A block of dot products, continued over some rows: chains come from and go to `partial`."""
        total = tile.load(total, partial, rest, CHANNELS * VECTOR)
        for i in range(count):
            for j in range(first, last, LANES):
                total = tile.multiply_pairs(total, x, x_at + j, offsets, tap, dy, dy_at + j, plane)
            x_at += step
            dy_at += line
        tile.store(total, partial, rest, CHANNELS * VECTOR)

    def extend_some(zeros, k, i, until, start, rest):
        """The sums of so many channels' lanes, the same way."""
        for h in range(PARTS):
            total = tile.load(zeros, partial, rest + h * lanes_part, VECTOR)
            for row in range(i, until):
                for j in range(start, min(start + piece, length), LANES):
                    total = tile.add(total, dy, k * plane + row * line + j + h * VECTOR, plane)
            tile.store(total, partial, rest + h * lanes_part, VECTOR)

    def extend_lanes(k, i, until, start, rest):
        """Of CHANNELS, or of those that are left."""
        rest += k * LANES
        if channels - k >= CHANNELS:
            extend_some(tile.zeros(CHANNELS, 1), k, i, until, start, rest)
        else:
            for c in range(channels - k):
                extend_some(tile.zeros(1, 1), k + c, i, until, start, rest + c * VECTOR)

    four, three, one = tile.zeros(TAPS, 4), tile.zeros(TAPS, 3), tile.zeros(TAPS, 1)

    def extend_all(begin, end, i, until, shift, start):
        """Blocks begin..end of taps, all channels, over a piece of the rows i..until."""
        block = 0
        for k in range(0, channels, CHANNELS):
            for b in range(begin, end):
                low, high = max(i, spans[b, 0]), min(until, spans[b, 1])
                first, last = max(start, spans[b, 2]), min(start + piece, spans[b, 3])
                for h in range(PARTS):
                    at, rest = low * step + h * VECTOR, block * ROOM + h * part
                    out, count = k * plane + (low - shift) * line + h * VECTOR, high - low
                    if channels - k >= 4:
                        extend(four, at, b * TAPS, out, count, first, last, rest)
                    elif channels - k == 3:
                        extend(three, at, b * TAPS, out, count, first, last, rest)
                    else:
                        for c in range(channels - k):
                            extend(one, at, b * TAPS, out + c * plane, count, first, last, rest + c * VECTOR)
                block += 1
            if begin == 0 and has_bias:
                extend_lanes(k, i, until, start, end * columns * ROOM)

    for begin in range(0, spans.shape[0], together):
        end = min(begin + together, spans.shape[0])
        partial[: (end - begin) * columns * ROOM] = 0
        if begin == 0 and has_bias:
            partial[end * columns * ROOM :][: columns * LANES_ROOM] = 0
        for i in range(0, rows, at_once):
            if winner.size > 0:
                unpool_row(pooled, winner, i // size, size, size, False, dy, dy, 0, plane, line)
            until, shift = min(i + at_once, rows), i if winner.size > 0 else 0
            for low in range(i, until, at_a_time):
                for start in range(0, length, piece):
                    extend_all(begin, end, low, min(low + at_a_time, until), shift, start)
        for t in range(begin * TAPS, min(end * TAPS, places.size)):
            for k in range(channels):
                block = (k // CHANNELS) * (end - begin) + t // TAPS - begin
                chains = block * ROOM + ((t % TAPS) * CHANNELS + k % CHANNELS) * VECTOR
                dw[places[t], k] = vector.sum_chains(partial, chains, part)
        if begin == 0 and has_bias:
            for k in range(channels):
                chains = end * columns * ROOM + k // CHANNELS * LANES_ROOM + k % CHANNELS * VECTOR
                db[k] = vector.sum_chains(partial, chains, lanes_part)


@compiled("void(real[:,:,:], real[::1], real[::1])")
def sum_lanes(dy, partial, db):
    """Write db[k], the sum of dy[k]: the gradient of a bias. dy and partial as in `sum_pairs`, with room for one tap."""
    plane, line, part = dy.strides[0] >> SHIFT, dy.strides[1] >> SHIFT, ROOM // PARTS

    def sum_some(zeros, k, count):
        """So many channels at once: each is a chain that waits for its last addition."""
        for h in range(PARTS):
            total = zeros
            for i in range(dy.shape[1]):
                for j in range(h * VECTOR, dy.shape[2], LANES):
                    total = tile.add(total, dy, k * plane + i * line + j, plane)
            tile.store(total, partial, h * part, VECTOR)
        for c in range(count):
            db[k + c] = vector.sum_chains(partial, c * VECTOR, part)

    fours = dy.shape[0] // CHANNELS * CHANNELS
    for k in range(0, fours, CHANNELS):
        sum_some(tile.zeros(4, 1), k, CHANNELS)
    for k in range(fours, dy.shape[0]):
        sum_some(tile.zeros(1, 1), k, 1)
