"""The gradient to weights of a pooled convolution of few channels, by bands of rows: the dual of `shallow_rows`.

The gradients of windows become those of a band of outputs, and these go to all points, in registers. What is stored is little
enough to stay in the nearest cache: some pixels of some filters. There, at each point, every pixel's inputs are multiplied by
the slopes of the filters, as in `pairs`.
"""

from distsgd.kernels import tile, tile_bytes, vector
from distsgd.kernels.compiled import FLOAT, compiled
from distsgd.kernels.points import slopes_to_points
from distsgd.kernels.shallow_rows import OUTPUTS, SIDE, spread_band
from distsgd.kernels.vector import LANES, REGISTERS, VECTOR
from distsgd.kernels.windows import unpool_twos

FILTERS = 4
"""Of a block."""
TOGETHER = 4 if REGISTERS == 32 else 2
"""Filters of a tile where they are 5x5: sums of five taps for each, five inputs and a slope must fit the registers."""
PIXELS = 8
"""Outputs of a row: their slopes at eight points take 16 KB."""


@compiled(
    "void(real[::1], int64, int64, real[:,:,:,::1], int64[::1], real[:,:,:,::1], real[::1], real[:,:,:,::1], uint8[:,:,:,::1],"
    " real[:,:,:,:])"
)
def pair_shallow(x, plane, line, spread, offsets, slopes, partial, pooled, winner, products):
    """Write products (points, channels, filter's columns, filters), of which `band_pairs.gather_filters` makes the gradient.

    x, plane, line, spread: as in `sum_shallow`. offsets: of a filter's columns in `spread`. slopes: room for (points, PIXELS,
    FILTERS, LANES). partial: room for as many values as (channels, points, filters in blocks of FILTERS, filter's columns, FILTERS,
    LANES). pooled, winner: the gradient of windows of 2 x 2 and their places (filters, height, width, batch).

    Each product is summed in LANES chains, in the order band, image, pixel, and the chains in a fixed tree.
    """
    points, channels, taps, filters = products.shape
    columns, point = spread.shape[2], PIXELS * FILTERS * LANES
    _, height, width, batch = winner.shape
    blocks, part_of_block = (filters + FILTERS - 1) // FILTERS, taps * FILTERS * VECTOR
    block_room, two = taps * FILTERS * LANES, tile.zeros(2, 1)

    def spread_slopes(inputs, k, band, image, first, count):
        """Those of a filter and LANES images, of the outputs first..first + count of a band."""
        for window in range(count // SIDE):
            for part in range(0, LANES, VECTOR):
                at = (k * height + band * OUTPUTS // SIDE) * width + first // SIDE + window
                at = at * batch + image + part
                slope = tile.load(two, pooled, at, width * batch)
                place = tile_bytes.load_bytes(two, winner, at, width * batch)
                to = (window * SIDE * FILTERS + k % FILTERS) * LANES + part
                left = unpool_twos(slope, place, FLOAT(0))
                tile.store(slopes_to_points(left, inputs), slopes, to, point)
                right = unpool_twos(slope, place, FLOAT(1))
                tile.store(slopes_to_points(right, inputs), slopes, to + FILTERS * LANES, point)

    def extend(zeros, block, first, count):
        """A block's chains, continued over so many pixels: they come from and go to `partial`.

        Beyond the last filter slopes are whatever was there: nothing is made of those chains.
        """
        for at_point in range(channels * points):
            for part in range(0, LANES, VECTOR):
                rest = (at_point * blocks + block) * block_room + part * taps * FILTERS
                at, dy = (at_point * columns + first) * LANES + part, at_point % points * point + part
                for k in range(0, FILTERS, tile.columns(zeros)):
                    total = tile.load(zeros, partial, rest + k * VECTOR, FILTERS * VECTOR)
                    slope = dy + k * LANES
                    for pixel in range(at, at + count * LANES, LANES):
                        total = tile.multiply_pairs(total, spread, pixel, offsets, 0, slopes, slope, LANES)
                        slope += FILTERS * LANES
                    tile.store(total, partial, rest + k * VECTOR, FILTERS * VECTOR)

    def pair_all(zeros, inputs):
        """At as many points as the second tile has rows."""
        for band in range(height * SIDE // OUTPUTS):
            for image in range(0, batch, LANES):
                spread_band(inputs, x, band * OUTPUTS * line + image, plane, line, batch, spread)
                for block in range(blocks):
                    for first in range(0, width * SIDE, PIXELS):
                        count = min(PIXELS, width * SIDE - first)
                        for k in range(block * FILTERS, min((block + 1) * FILTERS, filters)):
                            spread_slopes(inputs, k, band, image, first, count)
                        extend(zeros, block, first, count)

    partial[: channels * points * blocks * block_room] = 0
    if points == 6:
        pair_all(tile.zeros(3, FILTERS), tile.zeros(6, 1))
    else:
        pair_all(tile.zeros(5, TOGETHER), tile.zeros(8, 1))
    for p in range(points):
        for c in range(channels):
            for s in range(taps):
                for k in range(filters):
                    block = (c * points + p) * blocks + k // FILTERS
                    chains = block * block_room + (s * FILTERS + k % FILTERS) * VECTOR
                    products[p, c, s, k] = vector.sum_chains(partial, chains, part_of_block)
