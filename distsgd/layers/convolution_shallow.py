"""Where a convolution of few channels is computed in registers: see `kernels.shallow_rows` and `kernels.shallow_pairs`.

The choice follows from the shapes alone: the same network gives the same bits everywhere.
"""

import numpy as np

from distsgd.kernels import band_pairs, rows, shallow_pairs, shallow_rows, winograd
from distsgd.kernels.shallow_pairs import FILTERS, PIXELS
from distsgd.kernels.shallow_rows import OUTPUTS, SIDE
from distsgd.kernels.taps import Window
from distsgd.kernels.vector import LANES
from distsgd.layers import scratch as memory
from distsgd.layers.place import Program, Target

SIZES = (3, 5)
"""Of filters."""
CHANNELS, CHANNELS_TO_WEIGHTS = 4, 8
"""Channels up to which it is faster, forward and to weights."""
SCATTERED = 1 << 14
"""Outputs of an image up to which they may be stored as tiles are ready: of more, row by row is faster. Pooled, they are fewer."""


def fit(window: Window, filters: int, pool: int) -> bool:
    """Whether a layer is computed so. Of 3x3 filters whose outputs are not pooled, storing these takes longer than they do."""
    few = filters * window.outputs[0] * window.outputs[1] <= SCATTERED
    pooled = pool == SIDE or (pool == 1 and window.size[0] == 5 and few)
    return window.channels <= CHANNELS and pooled and _divides(window)


def fit_pairs(window: Window, filters: int, pool: int) -> bool:
    """Whether the gradient to its weights is, from that of windows: the filters fill a tile."""
    few = window.channels <= CHANNELS_TO_WEIGHTS
    return few and filters >= FILTERS and pool == SIDE and _divides(window)


def _divides(window: Window) -> bool:
    """Whether outputs divide into whole bands and tiles."""
    high, wide = window.outputs
    return window.stride == 1 and window.size[0] in SIZES and high % OUTPUTS == 0 and wide % SIDE == 0


def _spread_shape(window: Window) -> tuple[int, ...]:
    """Of some images of a band at all points."""
    return window.channels, _points(window), window.outputs[1] + window.size[1] - 1, LANES


def _points(window: Window) -> int:
    return OUTPUTS + window.size[0] - 1


def _sum_shapes(window: Window, filters: int) -> list[tuple[int, ...]]:
    """Working memory of `sums`: for inputs and for filters at all points."""
    return [_spread_shape(window), (filters, window.channels, _points(window), window.size[1])]


def room(window: Window, filters: int) -> int:
    """float32 values of working memory that `sums` takes."""
    return memory.room(_sum_shapes(window, filters))


def sums(
    x: np.ndarray,
    window: Window,
    filters: np.ndarray,
    bias: np.ndarray,
    scratch: np.ndarray,
    target: Target,
) -> Program:
    """What `convolution_bands.sums` says, of a target without a gate."""
    spread, weights = memory.parts(scratch, _sum_shapes(window, filters.shape[3]))
    _, of_filters, _ = winograd.transforms(OUTPUTS, window.size[0])
    y, pooled = (target.y, rows.NO_ROWS) if target.pool == 1 else (rows.NO_ROWS, target.pooled)
    summed = spread, weights, bias, target.rectify, y, pooled, target.winner
    return [
        (shallow_rows.spread_filters, (filters, of_filters, weights)),
        (shallow_rows.sum_shallow, (x, _plane(window), window.step, window.buffer[3], *summed)),
    ]


def _plane(window: Window) -> int:
    """Values from one channel to the next."""
    return window.buffer[1] * window.step


def _pair_shapes(window: Window, filters: int) -> list[tuple[int, ...]]:
    """Working memory of `pairs`: for inputs and slopes at all points, chains of sums, and products."""
    points, blocks = _points(window), -(-filters // FILTERS)
    return [
        _spread_shape(window),
        (points, PIXELS, FILTERS, LANES),
        (window.channels * points * blocks * window.size[1] * FILTERS * LANES,),
        (points, window.channels, window.size[1], filters),
    ]


def pairs_room(window: Window, filters: int) -> int:
    """float32 values of working memory that `pairs` takes."""
    return memory.room(_pair_shapes(window, filters))


def pairs(
    x: np.ndarray,
    window: Window,
    pooled: np.ndarray,
    winner: np.ndarray,
    scratch: np.ndarray,
    dw: np.ndarray,
) -> Program:
    """The gradient to weights from that of windows. dw: (channels, row, column, filters), contiguous."""
    spread, slopes, partial, products = memory.parts(scratch, _pair_shapes(window, dw.shape[3]))
    _, of_filters, _ = winograd.transforms(OUTPUTS, window.size[0])
    offsets = np.arange(window.size[1]) * LANES
    paired = spread, offsets, slopes, partial, pooled, winner, products
    return [
        (shallow_pairs.pair_shallow, (x, _plane(window), window.step, *paired)),
        (band_pairs.gather_filters, (products, of_filters, 0, dw)),
    ]
