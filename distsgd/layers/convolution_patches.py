"""Where a convolution of stride 1 takes patches of its outputs at once, with the fewest multiplications: see `kernels.patches`.

Whether it does follows from the shapes alone, never from the batch: the same network gives the same bits everywhere.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distsgd.kernels import order, patches, rows, taps, winograd
from distsgd.kernels.patches import OUTPUTS, POINTS
from distsgd.kernels.taps import Window
from distsgd.kernels.vector import LANES
from distsgd.layers import scratch as memory
from distsgd.layers.place import Call, Program

SIZE = POINTS - OUTPUTS + 1
"""Of the filters that it is for."""
MOVES = 13
"""What a value at a point costs beside a multiply-add of a product: it is made from others, written and read."""
MOVES_OF_FILTERS = 2
"""The same for filters, which some tens of images share."""
NEAR, FEWEST = 600_000, 64
"""float32 values of a piece, at all points, that the nearer caches hold; lanes of one at least, so that weights are read seldom."""


def cost(window: Window, filters: int) -> int:
    """Multiply-adds for an image, about."""
    high, wide = _patches(window)
    product = window.channels * filters
    of_patch = product + MOVES * (window.channels + filters)
    return POINTS**2 * (high * wide * of_patch + MOVES_OF_FILTERS * product)


def _patches(window: Window) -> tuple[int, int]:
    """How many there are, down and across."""
    return -(-window.outputs[0] // OUTPUTS), -(-window.outputs[1] // OUTPUTS)


def fit(window: Window, filters: int, pool: int, instead: int) -> bool:
    """Whether a layer is computed so, `instead` of that many multiply-adds for an image by the best other way."""
    return (
        window.stride == 1
        and window.size == (SIZE, SIZE)
        and OUTPUTS % pool == 0
        and cost(window, filters) < instead
    )


class Piece(NamedTuple):
    """Patches that are computed together."""

    top: int
    """The first one's row of outputs."""
    left: int
    """Its column."""
    bands: int
    """So many patches down."""
    columns: int
    """So many across."""

    def lines(self, window: Window) -> slice:
        """Its rows of outputs."""
        return slice(self.top, min(self.top + self.bands * OUTPUTS, window.outputs[0]))

    def lanes(self, window: Window) -> slice:
        """The lanes of a row that its outputs take."""
        last, batch = min(self.left + self.columns * OUTPUTS, window.outputs[1]), window.buffer[3]
        return slice(self.left * batch, last * batch)


def _largest(window: Window, filters: int) -> tuple[int, int]:
    """Patches of a piece down and across: whole rows of patches where one is near, otherwise parts of one."""
    (high, wide), batch = _patches(window), window.buffer[3]
    values = POINTS**2 * (window.channels + filters) * batch
    most = max(NEAR // values, -(-FEWEST // batch))
    if most >= wide:
        return min(high, most // wide), wide
    return 1, -(-wide // -(-wide // most))


def pieces(window: Window, filters: int) -> Iterator[Piece]:
    """All of them."""
    (high, wide), (bands, columns) = _patches(window), _largest(window, filters)
    for i in range(0, high, bands):
        for j in range(0, wide, columns):
            yield Piece(i * OUTPUTS, j * OUTPUTS, min(bands, high - i), min(columns, wide - j))


def _apart(size: int) -> int:
    """From point to point, so that those of one place do not meet in the same lines of a cache."""
    return memory.whole_lines(size) + memory.LINE * (1 - memory.whole_lines(size) // memory.LINE % 2)


def _shapes(window: Window, filters: int, pool: int) -> list[tuple[int, ...]]:
    """Working memory of `sums`: for sums, rows twice, filters, inputs and products at all points, and outputs before pooling."""
    (bands, columns), batch, points = _largest(window, filters), window.buffer[3], POINTS**2
    lanes, across = bands * columns * batch, (columns * OUTPUTS + SIZE - 1) * batch + memory.LINE
    return [
        (filters * rows.GROUP,),
        (POINTS, across),
        (POINTS, across),
        (points, window.channels, filters),
        (points, _apart(window.channels * lanes)),
        (points, _apart(filters * lanes)),
        (filters if pool > 1 else 0, bands * OUTPUTS, columns * OUTPUTS * batch),
    ]


def room(window: Window, filters: int, pool: int = 1) -> int:
    """float32 values of working memory that `sums` takes."""
    return memory.room(_shapes(window, filters, pool))


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
    """What `convolution_bands.sums` says."""
    count = filters.shape[3]
    partial, room_of_rows, edge, weights, spread, products, before = memory.parts(
        scratch, _shapes(window, count, pool)
    )
    matrix, batch = winograd.transforms(OUTPUTS, SIZE)[1], window.buffer[3]
    program: Program = [(patches.spread_filters, (filters, matrix, weights))]
    for piece in pieces(window, count):
        lanes, lines = piece.lanes(window), piece.lines(window)
        length = piece.bands * piece.columns * batch
        rooms = _spread(spread, window.channels, length), _spread(products, count, length)
        program.append(_spread_patches(x, window, piece, rooms[0], room_of_rows, edge))
        taken = *taps.dense_row_taps(window.channels, length), weights, partial, rooms[1][:, :, None]
        unused = rows.NO_BIAS, rows.NO_ROWS, rows.NO_WINNERS
        program.append((patches.multiply_points, (spread.reshape(-1), spread.shape[1], *taken, *unused)))
        made = y[:, lines, lanes], gate[:, lines, lanes] if gate.size else gate, rectify, pool
        windows = pooled, winner
        if pool > 1:
            until = (lines.stop // pool, lanes.stop // batch // pool)
            places = slice(lines.start // pool, until[0]), slice(lanes.start // batch // pool, until[1])
            of_lanes = slice(places[1].start * batch, places[1].stop * batch)
            windows = pooled[:, places[0], of_lanes], winner[:, places[0], places[1]]
            made = before[:, : lines.stop - lines.start, : lanes.stop - lanes.start], *made[1:]
        taken_back = rooms[1], piece.bands, piece.columns, batch, bias, room_of_rows, edge
        program.append((patches.gather_patches, (*taken_back, *made, *windows)))
    return program


def _spread(room_of_points: np.ndarray, channels: int, length: int) -> np.ndarray:
    """(points, channels, length), as a piece has it in the room for the largest."""
    return room_of_points[:, : channels * length].reshape(len(room_of_points), channels, length)


def _spread_patches(
    x: np.ndarray,
    window: Window,
    piece: Piece,
    spread: np.ndarray,
    room_of_rows: np.ndarray,
    edge: np.ndarray,
) -> Call:
    """A piece's inputs at all points."""
    batch = window.buffer[3]
    seen = [count + SIZE - 1 for count in window.outputs]
    at = piece.top * window.step + piece.left * batch
    plane = window.buffer[1] * window.step
    sizes = plane, window.step, seen[0] - piece.top, seen[1] - piece.left
    return patches.spread_patches, (
        x[at:],
        *sizes,
        piece.bands,
        piece.columns,
        batch,
        spread,
        room_of_rows,
        edge,
    )


def _pair_shapes(window: Window, filters: int) -> list[tuple[int, ...]]:
    """Working memory of `pairs`: as for `sums`, then for slopes, their filters innermost, and for sums."""
    (bands, columns), batch, points = _largest(window, filters), window.buffer[3], POINTS**2
    lanes, across = bands * columns * batch, (columns * OUTPUTS + SIZE - 1) * batch + memory.LINE
    wide = -(-filters // LANES) * LANES
    return [
        (window.channels * rows.GROUP,),
        (POINTS, across),
        (POINTS, across),
        (POINTS, OUTPUTS * wide),
        (points, _apart(window.channels * lanes)),
        (bands * OUTPUTS, columns * OUTPUTS * batch, wide),
        (points, _apart(lanes * wide)),
        (window.channels, 1, filters),
        (points, window.channels, 1, filters),
    ]


def pairs_room(window: Window, filters: int) -> int:
    """float32 values of working memory that `pairs` takes."""
    return memory.room(_pair_shapes(window, filters))


def pairs(x: np.ndarray, window: Window, dy: np.ndarray, scratch: np.ndarray, dw: np.ndarray) -> Program:
    """What `convolution_bands.pairs` says, for LANES filters or more."""
    count, batch = dw.shape[3], window.buffer[3]
    partial, room_of_rows, edge, room_of_slopes, spread, pixels, slopes, added, total = memory.parts(
        scratch, _pair_shapes(window, count)
    )
    wide = pixels.shape[2]
    program: Program = []
    for number, piece in enumerate(pieces(window, count)):
        length = piece.bands * piece.columns * batch
        seen = _spread(spread, window.channels, length)
        program.append(_spread_patches(x, window, piece, seen, room_of_rows, edge))
        lines, lanes = piece.lines(window), piece.lanes(window)
        program += _turned(
            dy[:, lines, lanes], pixels[: piece.bands * OUTPUTS, : piece.columns * OUTPUTS * batch]
        )
        at_points = _spread(slopes, length, wide)
        program.append(
            (patches.spread_slopes, (pixels, piece.bands, piece.columns, batch, room_of_slopes, at_points))
        )
        taken = slopes.reshape(-1), slopes.shape[1], *taps.dense_row_taps(length, count, wide)
        sums_of = seen.transpose(0, 2, 1), partial, added, total, number == 0
        program.append((patches.pair_points, (*taken, *sums_of, rows.NO_BIAS, rows.NO_ROWS, rows.NO_WINNERS)))
    matrix = winograd.transforms(OUTPUTS, SIZE)[1]
    return [*program, (patches.gather_filters, (total.reshape(POINTS**2, -1, count), matrix, 0, dw))]


def _turned(dy: np.ndarray, pixels: np.ndarray) -> Program:
    """Slopes with their filters innermost; zeros where patches reach beyond the outputs."""
    (_, high, lanes), rest = dy.shape, pixels.shape
    program: Program = [(order.transpose, (dy[:, i], pixels[i, :lanes])) for i in range(high)]
    if high < rest[0]:
        program.append((order.clear, (pixels[None, high:],)))
    if lanes < rest[1]:
        program.append((order.clear, (pixels[None, :high, lanes:],)))
    return program
