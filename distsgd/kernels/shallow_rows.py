"""Convolutions of few channels, of grey or colour images for example, by bands of rows in registers: see `winograd`.

`band_rows` keeps the products at all points in memory. Over few channels sums are short, and moving products would cost more than
computing them. So a tile holds all points of two neighbouring pixels, in each register VECTOR images, until its outputs are ready:
they are pooled, raised by the bias and rectified before they are stored. Where there are 16 registers, as with AVX2, some spill::

     points x pixels (of 5x5)    += weight at point * x there    outputs x pixels
    +---------+---------+                                     +---------+---------+
    | v v v v | v v v v |  point 0                            | v v v v | v v v v |  row 0  \\  a window
    | v v v v | v v v v |    ...      --- outputs @ points -> | v v v v | v v v v |    1    /
    |   ...   |   ...   |                                     | v v v v | v v v v |    2    \\  a window
    | v v v v | v v v v |  point 7                            | v v v v | v v v v |    3    /
    +---------+---------+                                     +---------+---------+

Images take their turns by LANES, so that what all filters read of a band stays near.
"""

from distsgd.kernels import tile, tile_bytes
from distsgd.kernels.compiled import SHIFT, compiled, inlined
from distsgd.kernels.points import inputs_to_points, multiply_pixels, outputs_from_points
from distsgd.kernels.tile_windows import store_apart
from distsgd.kernels.vector import LANES, VECTOR
from distsgd.kernels.windows import pool_twos

OUTPUTS = 4
"""Rows of a band."""
SIDE = 2
"""Pixels of a tile: those of a window."""


@compiled("void(real[:,:,:,:], real[:,::1], real[:,:,:,::1])")
def spread_filters(weights, matrix, spread):
    """Write spread[k, c, p, s] = sum over r of matrix[p, r] * weights[c, r, s, k]: each filter's values lie side by side."""
    filters, channels, points, taps = spread.shape
    for k in range(filters):
        for c in range(channels):
            for p in range(points):
                for s in range(taps):
                    total = matrix[p, 0] * weights[c, 0, s, k]
                    for r in range(1, taps):
                        total += matrix[p, r] * weights[c, r, s, k]
                    spread[k, c, p, s] = total


@inlined
def spread_band(inputs, x, at, plane, line, batch, spread):
    """Write spread (channels, points, columns, LANES): LANES images of a band of x, from `at` on, at as many points as `inputs` has
    rows.
    """
    channels, points, columns, _ = spread.shape
    for c in range(channels):
        for column in range(columns):
            for part in range(0, LANES, VECTOR):
                rows = tile.load(inputs, x, at + c * plane + column * batch + part, line)
                to = (c * points * columns + column) * LANES + part
                tile.store(inputs_to_points(rows), spread, to, columns * LANES)


@compiled(
    "void(real[::1], int64, int64, int64, real[:,:,:,::1], real[:,:,:,::1], real[::1], boolean, real[:,:,:], real[:,:,:],"
    " uint8[:,:,:,:])"
)
def sum_shallow(x, plane, line, batch, spread, weights, bias, rectify, y, pooled, winner):
    """Write what `rows.sum_rows` writes: y, or of windows of 2 x 2 `pooled` and `winner`; the other is empty.

    x: flat, from the first window on; plane, line: from channel to channel and from row to row; batch: images. spread: room for
    (channels, points, columns that the windows see, LANES). weights: see `spread_filters`. bias: (filters,). rectify: whether y is
    max(y, 0). Rows of y are whole bands, its columns whole tiles. Maxima are taken before the bias is added: of two values that
    only rounding then makes equal, the larger one wins.
    """
    channels, points, columns, _ = spread.shape
    taps, outputs = points - OUTPUTS + 1, tile.zeros(OUTPUTS, SIDE)
    plane_of_y, line_of_y = y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    plane_of_pooled, line_of_pooled = pooled.strides[0] >> SHIFT, pooled.strides[1] >> SHIFT

    def sum_pixels(total, k, pixel, part):
        """Filter k's outputs at a pixel of the band and at the next."""
        for c in range(channels):
            at, first = (c * points * columns + pixel) * LANES + part, (k * channels + c) * points * taps
            total = multiply_pixels(total, outputs, spread, at, columns * LANES, weights, first)
        return outputs_from_points(total, outputs)

    def store_windows(value, k, row, lane):
        """The maxima of windows, from row `row` of them on; where all are rectified to zero the first value wins."""
        best, place = pool_twos(value)
        best = tile.raised(best, bias[k])
        if rectify:
            best, place = tile.rectify(best), tile.where_positive(place, best)
        tile.store(best, pooled, k * plane_of_pooled + row * line_of_pooled + lane, line_of_pooled)
        to = k * winner.strides[0] + row * winner.strides[1] + lane
        tile_bytes.store_bytes(place, winner, to, winner.strides[1])

    def store_rows(value, k, row, lane):
        """Outputs, from row `row` of them on."""
        value = tile.raised(value, bias[k])
        if rectify:
            value = tile.rectify(value)
        store_apart(value, y, k * plane_of_y + row * line_of_y + lane, line_of_y, batch)

    def sum_band(zeros, band, image):
        """All filters and pixels of LANES images."""
        for k in range(bias.size):
            for pixel in range(0, columns - taps + 1, SIDE):
                for part in range(0, LANES, VECTOR):
                    value, lane = sum_pixels(zeros, k, pixel, part), image + part
                    if winner.size > 0:
                        store_windows(value, k, band * OUTPUTS // SIDE, pixel // SIDE * batch + lane)
                    else:
                        store_rows(value, k, band * OUTPUTS, pixel * batch + lane)

    def sum_all(zeros, inputs):
        """At as many points as the tiles have rows."""
        for band in range((pooled.shape[1] * SIDE if winner.size > 0 else y.shape[1]) // OUTPUTS):
            for image in range(0, batch, LANES):
                spread_band(inputs, x, band * OUTPUTS * line + image, plane, line, batch, spread)
                sum_band(zeros, band, image)

    if points == 6:
        sum_all(tile.zeros(6, SIDE), tile.zeros(6, 1))
    else:
        sum_all(tile.zeros(8, SIDE), tile.zeros(8, 1))
