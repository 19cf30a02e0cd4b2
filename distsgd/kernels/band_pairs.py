"""`pairs.sum_pairs` by bands of rows, with fewer multiplications: see `winograd`."""

from distsgd.kernels.compiled import SHIFT, compiled
from distsgd.kernels.pairs import sum_pairs
from distsgd.kernels.winograd import spread_rows


@compiled("void(real[:,:,:,::1], real[:,::1], int64, real[:,:,:,::1])")
def gather_filters(spread, matrix, first, weights):
    """Write weights[c, r, s, k] = sum over p of matrix[p, r] * spread[p, first + c, s, k]: the dual of `spread_filters`."""
    channels, height, width, filters = weights.shape
    for c in range(channels):
        for r in range(height):
            for s in range(width):
                for k in range(filters):
                    weights[c, r, s, k] = matrix[0, r] * spread[0, first + c, s, k]
                for p in range(1, matrix.shape[0]):
                    for k in range(filters):
                        weights[c, r, s, k] += matrix[p, r] * spread[p, first + c, s, k]


@compiled(
    "void(real[::1], int64, int64, int64[::1], int64[:,::1], real[:,::1], real[:,:,:,::1], int64[::1], int64[::1],"
    " int64[:,::1], real[:,:,:], int64[::1], real[:,::1], real[:,:,:,:], real[::1], real[:,:,:,::1], real[:,:,:,::1],"
    " uint8[:,:,:,::1])"
)
def pair_bands(
    x, plane, lanes, places, meeting, inputs, spread, offsets, kernel_places, spans, dy, dy_places, outputs, slopes, partial,
    products, pooled, winner,
):  # fmt: skip
    """Write products (points, channels, filter's columns, filters), of which `gather_filters` makes the gradient to weights.

    x, plane, lanes, places, meeting, inputs: as in `sum_bands`; outputs: as there, transposed. The rows of both are points, all of
    them or some. spread: room for (points, channels, bands, at least `lanes`); offsets, kernel_places, spans: how a filter of one
    row follows it, as in `pairs.sum_pairs`. dy: (filters, rows, length); dy_places: the rows of a band of it. slopes: room for
    (points, filters, bands, length). pooled, winner: empty.
    """
    points, height, (filters, rows, length) = inputs.shape[0], outputs.shape[1], dy.shape
    _, channels, bands, wide = spread.shape
    dy_plane, dy_line = dy.strides[0] >> SHIFT, dy.strides[1] >> SHIFT
    point, deep, line = slopes.strides[0] >> SHIFT, slopes.strides[1] >> SHIFT, slopes.strides[2] >> SHIFT
    for i in range(bands):
        low, high = meeting[i]
        for c in range(channels):
            at, to = i * places[height] + c * plane, (c * bands + i) * wide
            spread_rows(
                x,
                at,
                places,
                low,
                high,
                inputs,
                inputs.shape[1],
                1,
                lanes,
                spread,
                to,
                channels * bands * wide,
            )
        count = min(height, rows - i * height)
        for k in range(filters):
            at, to = k * dy_plane + i * height * dy_line, k * deep + i * line
            spread_rows(dy, at, dy_places, 0, count, outputs, height, 1, length, slopes, to, point)
    for p in range(points):
        of_point = spread[p].reshape(channels * bands * wide), offsets, kernel_places, spans, wide, slopes[p]
        into = products[p].reshape(channels * products.shape[2], filters)
        sum_pairs(*of_point, partial, into, partial[:0], pooled, winner)
