"""Where a convolution of stride 1 takes several rows at once, with fewer multiplications: see `kernels.winograd`.

How many rows, and whether at all, follows from the shapes alone: the same network gives the same bits everywhere.
"""

import math

import numpy as np

from distsgd.kernels import band_pairs, band_rows, rows, taps, winograd
from distsgd.kernels import pairs as pairing
from distsgd.kernels.taps import Window
from distsgd.kernels.vector import STRIP
from distsgd.layers import convolution_patches as patches
from distsgd.layers import convolution_products as matrices
from distsgd.layers import scratch as memory
from distsgd.layers.convolution_patches import Windows
from distsgd.layers.place import Call, Program, Target

HEIGHTS = (2, 3, 4)
"""Rows of a band: with more, the transforms lose digits."""
MOVES, MOVES_TO_WEIGHTS = 3, 7
"""What a multiply-add of a transform costs, beside one of the product: it waits for memory, more so where a whole map is kept."""
NEAR, FEWEST = 1 << 19, 4
"""float32 values of a band, at all points, that the nearer caches hold: what is more is cut in pieces of columns.

Where those would not be so many times as wide as what they see of their neighbours, it stays whole.
"""
MOST_ROOM = 1 << 26
"""float32 values of working memory that the gradient to weights may take for it: about twice what the layer reads."""


def height(window: Window, filters: int, pool: int = 1, moves: int = MOVES) -> int:
    """Rows of outputs to compute together; 1: row by row, by `rows.sum_rows`."""
    return _least(window, filters, pool, moves)[0]


def _least(window: Window, filters: int, pool: int, moves: int) -> tuple[int, int]:
    """That, and its multiply-adds for a column of outputs."""
    fitting = [h for h in HEIGHTS if window.stride == 1 and h % pool == 0 and 1 < window.size[0] <= 9 - h]
    seen = min(window.size[0], window.height)  # row by row, what looks at zeros is left out
    direct = seen * window.size[1] * window.channels * filters * window.outputs[0]
    costs = {h: _cost(window, filters, h, moves) for h in fitting}
    best = min(costs, key=costs.__getitem__, default=1)
    return (best, costs[best]) if fitting and costs[best] < direct else (1, direct)


def _by_patches(window: Window, filters: int, pool: int = 1, moves: int = MOVES) -> bool:
    """Whether patches of outputs take less than that."""
    return patches.fit(window, filters, pool, _least(window, filters, pool, moves)[1] * window.outputs[1])


def reads_windows(forward: Window, back: Window) -> bool:
    """Whether both gradients of a layer that is pooled by 2 take those of windows, see `patches.Windows`."""
    return _pairs_by_patches(forward, back.channels) and _by_patches(back, forward.channels)


def _cost(window: Window, filters: int, height: int, moves: int) -> int:
    """Multiply-adds for a column of outputs."""
    n, bands = height + window.size[0] - 1, -(-window.outputs[0] // height)
    product = n * window.size[1] * window.channels * filters
    return bands * (product + moves * (n * n * window.channels + n * height * filters))


def _pieces(window: Window, filters: int, tall: int, pool: int) -> list[tuple[int, int]]:
    """The columns first..last of outputs that are computed together, in whole strips."""
    batch, wide, beside = window.buffer[3], window.outputs[1], window.size[1] - 1
    unit = math.lcm(pool, STRIP // math.gcd(STRIP, batch))
    fitting = NEAR // ((tall + window.size[0] - 1) * batch) - beside * window.channels
    most = fitting // ((window.channels + filters) * unit) * unit
    if most >= wide or most < FEWEST * beside:
        return [(0, wide)]
    count = -(-wide // most)
    columns = -(-wide // (count * unit)) * unit
    return [(first, min(first + columns, wide)) for first in range(0, wide, columns)]


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
    if _by_patches(window, filters, pool):
        return patches.room(window, filters, pool)
    return memory.room(_sum_shapes(window, filters, pool))


def sums(
    x: np.ndarray | Windows,
    window: Window,
    filters: np.ndarray,
    bias: np.ndarray,
    scratch: np.ndarray,
    target: Target,
) -> Program:
    """What `rows.sum_rows` says, by it, by bands of rows or by patches.

    x: flat, from the first output's window on; windows where `reads_windows`. filters: (channels, row, column, filters),
    contiguous. With pool > 1 the target's y is not looked at.
    """
    count, pool = filters.shape[3], target.pool
    tall = height(window, count, pool)
    if _by_patches(window, count, pool):
        return patches.sums(x, window, filters, bias, scratch, target)
    assert not isinstance(x, Windows)
    partial, band, *parts = memory.parts(scratch, _sum_shapes(window, count, pool))
    if pool > 1:
        target = target._replace(y=band)
    if tall == 1:
        taken = (*taps.row_taps(window), window.step, filters.reshape(-1, count), bias, partial)
        return [(rows.sum_rows, (x, *taken, *target[:3], *target[4:]))]
    _, of_filters, _ = winograd.transforms(tall, window.size[0])
    program: Program = [(band_rows.spread_filters, (filters, of_filters, parts[0]))]
    (high, _), batch = window.outputs, window.buffer[3]
    for first, last in _pieces(window, count, tall, pool):
        part = target.part(slice(0, high), slice(first, last), batch)
        seen = x[first * batch :], window.of_columns(first, last)
        program.append(_bands(*seen, tall, bias, partial, parts, part))
    return program


def _bands(
    x: np.ndarray,
    window: Window,
    tall: int,
    bias: np.ndarray,
    partial: np.ndarray,
    parts: list[np.ndarray],
    target: Target,
) -> Call:
    """What `band_rows.sum_bands` makes of a piece of columns. parts: room, as `_sum_shapes` has it for all of them."""
    (outputs, _, inputs), one_row = winograd.transforms(tall, window.size[0]), window.of_one_row(1)
    weights, spread, products = parts
    lanes, levels = window.outputs[1] * window.buffer[3], np.arange(len(inputs)) * products[0].size
    seen = *taps.band_taps(window, tall), inputs, _shaped(spread, one_row), *taps.row_taps(one_row)
    summed = weights.reshape(len(inputs), -1, weights.shape[3]), bias, partial, products[..., :lanes]
    return band_rows.sum_bands, (x, *seen, *summed, levels, outputs, window.outputs[0], *target)


def _shaped(spread: np.ndarray, one_row: Window) -> np.ndarray:
    """The first of the room, as a piece of columns has it at all points."""
    shape = (len(spread), one_row.channels, one_row.step)
    return spread.reshape(-1)[: math.prod(shape)].reshape(shape)


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
    if tall == 1 or memory.room(shapes) > MOST_ROOM:
        return [(taps.pairs_room(channels * math.prod(window.size), filters),)]
    return shapes


def pairs_room(window: Window, filters: int) -> int:
    """float32 values of working memory that `pairs` takes."""
    if _pairs_by_patches(window, filters):
        return patches.pairs_room(window, filters)
    if matrices.fit(window, filters):
        return memory.room(matrices.shapes(window, filters))
    return memory.room(_pair_shapes(window, filters))


def _pairs_by_patches(window: Window, filters: int) -> bool:
    """Where maps are not so small that `matrices` are faster."""
    return not matrices.fit(window, filters) and _by_patches(window, filters, moves=MOVES_TO_WEIGHTS)


def pairs(
    x: np.ndarray,
    window: Window,
    dy: np.ndarray | Windows,
    scratch: np.ndarray,
    dw: np.ndarray,
    db: np.ndarray,
) -> Program:
    """What `pairs.sum_pairs` says, by it, by bands of rows, by products or by patches.

    dy: windows where `reads_windows`. dw: (channels, row, column, filters), contiguous. db: (filters,), or empty where others
    write it.
    """
    if _pairs_by_patches(window, dw.shape[3]):
        program = patches.pairs(x, window, dy, scratch, dw)
        return program if isinstance(dy, Windows) else program + to_bias(dy, scratch, db)
    assert not isinstance(dy, Windows)
    if matrices.fit(window, dw.shape[3]):
        partial, turned = memory.parts(scratch, matrices.shapes(window, dw.shape[3]))
        return matrices.products(x, window, dy, partial, turned, dw) + to_bias(dy, scratch, db)
    partial, *parts = memory.parts(scratch, _pair_shapes(window, dw.shape[3]))
    if not parts:
        sums = (*taps.pair_taps(window), window.step, dy, partial, dw.reshape(-1, dw.shape[3]), db)
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
        *to_bias(dy, scratch, db),
    ]


def to_bias(dy: np.ndarray, scratch: np.ndarray, db: np.ndarray) -> Program:
    """The gradient to biases (filters,), unless that is empty: of a convolution that is not pooled after the weights', which brings
    dy near; of windows' gradients that are spread before, as the weights' reads what they are spread to.
    """
    return [(pairing.sum_lanes, (dy, scratch, db))] if db.size else []
