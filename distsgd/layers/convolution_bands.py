"""Where a convolution of stride 1 takes several rows at once, with fewer multiplications: see `kernels.winograd`.

How many rows, and whether at all, follows from the shapes alone: the same network gives the same bits everywhere.
"""

import math

import numpy as np

from distsgd.kernels import band_pairs, band_rows, rows, taps, winograd
from distsgd.kernels import pairs as pairing
from distsgd.kernels.taps import Window
from distsgd.layers import convolution_products as matrices
from distsgd.layers.place import Program

HEIGHTS = (2, 3, 4)
"""Rows of a band: with more, the transforms lose digits."""
MOVES, MOVES_TO_WEIGHTS = 3, 7
"""What a multiply-add of a transform costs, beside one of the product: it waits for memory, more so where a whole map is kept."""
MOST_ROOM = 1 << 26
"""float32 values of working memory that the gradient to weights may take for it: about twice what the layer reads."""


def height(window: Window, filters: int, pool: int = 1, moves: int = MOVES) -> int:
    """Rows of outputs to compute together; 1: row by row, by `rows.sum_rows`."""
    fitting = [h for h in HEIGHTS if window.stride == 1 and h % pool == 0 and 1 < window.size[0] <= 9 - h]
    seen = min(window.size[0], window.height)  # row by row, what looks at zeros is left out
    direct = seen * window.size[1] * window.channels * filters * window.outputs[0]
    costs = {h: _cost(window, filters, h, moves) for h in fitting}
    best = min(costs, key=costs.__getitem__, default=1)
    return best if fitting and costs[best] < direct else 1


def _cost(window: Window, filters: int, height: int, moves: int) -> int:
    """Multiply-adds for a column of outputs."""
    n, bands = height + window.size[0] - 1, -(-window.outputs[0] // height)
    product = n * window.size[1] * window.channels * filters
    return bands * (product + moves * (n * n * window.channels + n * height * filters))


def whole_lines(size: int) -> int:
    """float32 values up to the end of a cache line."""
    return -(-size // 16) * 16


def _room(shapes: list[tuple[int, ...]]) -> int:
    return sum(whole_lines(math.prod(shape)) for shape in shapes)


def _parts(scratch: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Arrays of these shapes one after another, each from a cache line on."""
    parts = []
    for shape in shapes:
        parts.append(scratch[: math.prod(shape)].reshape(shape))
        scratch = scratch[whole_lines(math.prod(shape)) :]
    return parts


def _sum_shapes(window: Window, filters: int, pool: int) -> list[tuple[int, ...]]:
    """Working memory of `sums`: for sums and rows before pooling; with bands also for weights, inputs and products."""
    tall, lanes = height(window, filters, pool), window.outputs[1] * window.buffer[3]
    shapes = [(filters * rows.GROUP,), (filters if pool > 1 else 0, max(tall, pool), lanes)]
    if tall == 1:
        return shapes
    n, (channels, _, wide, batch) = tall + window.size[0] - 1, window.of_one_row(1).buffer
    of_points = (
        (n, channels, window.size[1], filters),
        (n, channels, wide * batch),
        (n, filters, 1, lanes + batch),
    )
    return [*shapes, *of_points]


def room(window: Window, filters: int, pool: int = 1) -> int:
    """float32 values of working memory that `sums` takes."""
    return _room(_sum_shapes(window, filters, pool))


def sums(
    x: np.ndarray,
    window: Window,
    filters: np.ndarray,
    bias: np.ndarray,
    scratch: np.ndarray,
    y: np.ndarray,
    gate: np.ndarray,
    rectify: bool,
    pool: int,
    pooled: np.ndarray,
    winner: np.ndarray,
) -> Program:
    """What `rows.sum_rows` says, by it or by bands of rows.

    x: flat, from the first output's window on. filters: (channels, row, column, filters), contiguous. With pool > 1, y is not
    looked at: maxima go to `pooled`.
    """
    tall, count = height(window, filters.shape[3], pool), filters.shape[3]
    partial, band, *parts = _parts(scratch, _sum_shapes(window, count, pool))
    if pool > 1:
        y = band
    if tall == 1:
        taken = (*taps.row_taps(window), window.step, filters.reshape(-1, count), bias, partial)
        return [(rows.sum_rows, (x, *taken, y, gate, rectify, pooled, winner))]
    outputs, of_filters, inputs = winograd.transforms(tall, window.size[0])
    weights, spread, products = parts
    seen = (*taps.band_taps(window, tall), inputs, spread, *taps.row_taps(window.of_one_row(1)))
    levels, lanes = np.arange(len(inputs)) * products[0].size, window.outputs[1] * window.buffer[3]
    summed = (weights.reshape(len(inputs), -1, count), bias, partial, products[..., :lanes])
    made = (levels, outputs, window.outputs[0], y, gate, rectify, pool, pooled, winner)
    return [
        (band_rows.spread_filters, (filters, of_filters, weights)),
        (band_rows.sum_bands, (x, *seen, *summed, *made)),
    ]


def _pair_shapes(window: Window, filters: int) -> list[tuple[int, ...]]:
    """Working memory of `pairs` by dot products: for chains of sums; with bands also for all inputs, slopes and products."""
    tall = height(window, filters, moves=MOVES_TO_WEIGHTS)
    bands, n = -(-window.outputs[0] // tall), tall + window.size[0] - 1
    channels, _, wide, batch = window.of_one_row(bands).buffer
    shapes: list[tuple[int, ...]] = [
        (taps.pairs_room(channels * window.size[1], filters),),
        (n, channels, bands, wide * batch),
        (n, filters, bands, (window.outputs[1] + 1) * batch),
        (n, channels, window.size[1], filters),
    ]
    if tall == 1 or _room(shapes) > MOST_ROOM:
        return [(taps.pairs_room(channels * math.prod(window.size), filters),)]
    return shapes


def pairs_room(window: Window, filters: int) -> int:
    """float32 values of working memory that `pairs` takes."""
    return _room((matrices.shapes if matrices.fit(window, filters) else _pair_shapes)(window, filters))


def pairs(x: np.ndarray, window: Window, dy: np.ndarray, scratch: np.ndarray, dw: np.ndarray) -> Program:
    """What `pairs.sum_pairs` says, by it, by bands of rows or by products. dw: (channels, row, column, filters), contiguous."""
    if matrices.fit(window, dw.shape[3]):
        partial, turned = _parts(scratch, matrices.shapes(window, dw.shape[3]))
        return matrices.products(x, window, dy, partial, turned, dw)
    partial, *parts = _parts(scratch, _pair_shapes(window, dw.shape[3]))
    if not parts:
        sums = (*taps.pair_taps(window), window.step, dy, partial, dw.reshape(-1, dw.shape[3]))
        return [(pairing.sum_pairs, (x, *sums, rows.NO_VALUES, rows.NO_WINNERS))]
    spread, slopes, products = parts
    tall = len(spread) - window.size[0] + 1
    outputs, of_filters, inputs = winograd.transforms(tall, window.size[0])
    one_row = taps.pair_taps(window.of_one_row(spread.shape[2]))
    lines = np.arange(tall) * (dy.strides[1] // dy.itemsize)
    taken = (*taps.band_taps(window, tall), inputs, spread, *one_row, dy, lines, outputs.T.copy())
    made = (slopes[..., : dy.shape[2]], partial, products, rows.NO_VALUES, rows.NO_WINNERS)
    return [
        (band_pairs.pair_bands, (x, *taken, *made)),
        (band_pairs.gather_filters, (products, of_filters, 0, dw)),
    ]
