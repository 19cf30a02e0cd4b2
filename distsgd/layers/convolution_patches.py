"""Where a convolution of stride 1 takes patches of its outputs at once, with the fewest multiplications: see `kernels.patches`.

Whether it does follows from the shapes alone, never from the batch: the same network gives the same bits everywhere.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distsgd.kernels import order, patch_filters, patch_outputs, patches, rows, taps
from distsgd.kernels.patches import OUTPUTS, SIZES, WINDOW
from distsgd.kernels.taps import Window
from distsgd.kernels.vector import LANES
from distsgd.layers import scratch as memory
from distsgd.layers.place import Call, Program, Target
from distsgd.threads.turns import in_turn

MOVES = 20
"""What a value at a point costs beside a multiply-add of a product: it is made from others, written and read."""
MOVES_OF_FILTERS = 2
"""The same for filters, which some tens of images share."""
RUNS = (4, 16), (2, 4)
"""Runs of the gradient to weights, see `_runs`, and the fewest patches of which so many are made."""
LARGEST = 1 << 18
"""float32 values of filters at all points that are made several times, as sums or for each thread: more take too long to move."""
NEAR, FEWEST = 200_000, 64
"""float32 values of a piece, at all points, that the nearer caches hold; lanes of one at least, so that weights are read seldom."""


def points(window: Window) -> int:
    """Of a patch, along each side."""
    return OUTPUTS + window.size[0] - 1


def cost(window: Window, filters: int) -> int:
    """Multiply-adds for an image, about."""
    (high, wide), product = _patches(window), window.channels * filters
    of_patch = product + MOVES * (window.channels + filters)
    return points(window) ** 2 * (high * wide * of_patch + MOVES_OF_FILTERS * product)


def _patches(window: Window) -> tuple[int, int]:
    """How many there are, down and across."""
    return -(-window.outputs[0] // OUTPUTS), -(-window.outputs[1] // OUTPUTS)


def fit(window: Window, filters: int, pool: int, instead: int) -> bool:
    """Whether a layer is computed so, `instead` of that many multiply-adds for an image by the best other way.

    Its filters must fill a register: they lie innermost where they and their gradients go to points and back.
    """
    return (
        window.stride == 1
        and window.size[0] == window.size[1] in SIZES
        and filters >= LANES
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

    def across(self, window: Window) -> slice:
        """Its columns of outputs."""
        return slice(self.left, min(self.left + self.columns * OUTPUTS, window.outputs[1]))


class Windows(NamedTuple):
    """Slopes of windows of 2 x 2, where those of the values they were taken of are asked for: they are spread in the nearest cache.

    Written to memory they would be four times as many, most of them zeros.
    """

    slopes: np.ndarray
    """(channels, rows, columns, batch)."""
    winner: np.ndarray
    """The same: where in its window each goes."""


def _largest(window: Window, filters: int) -> tuple[int, int]:
    """Patches of a piece down and across: whole rows of patches where one is near, otherwise parts of one."""
    (high, wide), batch = _patches(window), window.buffer[3]
    values = points(window) ** 2 * (window.channels + filters) * batch
    most = max(NEAR // values, -(-FEWEST // batch))
    if most >= wide:
        return min(high, most // wide), wide
    return 1, -(-wide // -(-wide // most))


def pieces(window: Window, filters: int, begin: int = 0, end: int | None = None) -> Iterator[Piece]:
    """All patches begin..end, counted row by row."""
    (high, wide), (bands, columns) = _patches(window), _largest(window, filters)
    at, end = begin, high * wide if end is None else end
    while at < end:
        (i, j), whole_rows = divmod(at, wide), min(bands, (end - at) // wide)
        if j == 0 and columns == wide and whole_rows:
            down, across = whole_rows, wide
        else:
            down, across = 1, min(columns, wide - j, end - at)
        yield Piece(i * OUTPUTS, j * OUTPUTS, down, across)
        at += down * across


def _apart(size: int) -> int:
    """From point to point: an odd number of lines, as else those of one place would share a few sets of the cache."""
    return memory.whole_lines(size) + memory.LINE * (1 - memory.whole_lines(size) // memory.LINE % 2)


class _Seen(NamedTuple):
    """Working memory for inputs of a piece: twice the rows that a row of patches sees, and all of them at all points."""

    rows: np.ndarray
    edge: np.ndarray
    spread: np.ndarray

    @staticmethod
    def shapes(window: Window, filters: int) -> list[tuple[int, ...]]:
        (bands, columns), batch, side = _largest(window, filters), window.buffer[3], points(window)
        of_rows = side, (columns * OUTPUTS + window.size[1] - 1) * batch + memory.LINE
        return [of_rows, of_rows, (side**2, _apart(window.channels * bands * columns * batch))]


class _Made(NamedTuple):
    """Working memory for what `sums` makes: chains, filters and products at all points, and outputs before pooling by others than
    windows of 2 x 2, whose maxima are taken in registers.
    """

    partial: np.ndarray
    weights: np.ndarray
    products: np.ndarray
    before: np.ndarray

    @staticmethod
    def shapes(window: Window, filters: int, pool: int) -> list[tuple[int, ...]]:
        (bands, columns), batch, side = _largest(window, filters), window.buffer[3], points(window)
        return [
            (filters * rows.GROUP,),
            (side**2, window.channels, filters),
            (side**2, _apart(filters * bands * columns * batch)),
            (filters if pool > WINDOW else 0, bands * OUTPUTS, columns * OUTPUTS * batch),
        ]


class _Paired(NamedTuple):
    """Working memory for what `pairs` makes: slopes by pixels and at all points, their filters innermost, and sums; and slopes
    before pooling, touched only where windows are given.
    """

    room: np.ndarray
    pixels: np.ndarray
    slopes: np.ndarray
    total: np.ndarray
    before: np.ndarray

    @staticmethod
    def shapes(window: Window, filters: int) -> list[tuple[int, ...]]:
        (bands, columns), batch, side = _largest(window, filters), window.buffer[3], points(window)
        wide = -(-filters // LANES) * LANES
        return [
            (side, OUTPUTS * wide),
            (bands * OUTPUTS, columns * OUTPUTS * batch, wide),
            (side**2, _apart(bands * columns * batch * wide)),
            (_runs(window, filters), side**2, window.channels, wide),
            (filters, bands * OUTPUTS, columns * OUTPUTS * batch),
        ]


def room(window: Window, filters: int, pool: int = 1) -> int:
    """float32 values of working memory that `sums` takes."""
    return memory.room(_Seen.shapes(window, filters) + _Made.shapes(window, filters, pool))


def sums(
    x: np.ndarray | Windows,
    window: Window,
    filters: np.ndarray,
    bias: np.ndarray,
    scratch: np.ndarray,
    target: Target,
) -> Program:
    """What `convolution_bands.sums` says, for LANES filters or more."""
    count = filters.shape[3]
    shapes = _Seen.shapes(window, count), _Made.shapes(window, count, target.pool)
    parts = memory.parts(scratch, shapes[0] + shapes[1])
    seen, made = _Seen(*parts[:3]), _Made(*parts[3:])
    if target.pool > 1:
        target = target._replace(y=made.before)
    spread: Call = (
        patch_filters.spread_filters,
        (filters, 0, _room_of_filters(window, made.products), made.weights),
    )
    in_pieces: list[Program] = []
    for piece in pieces(window, count):
        part = target.part(piece.lines(window), piece.across(window), window.buffer[3])
        in_pieces.append(_of_piece(x, window, piece, seen, made, bias, part))
    own = *seen, made.partial, made.products, made.before
    if made.weights.size > LARGEST:  # it takes less to make a part, and to read what others made
        return [spread, (in_turn, (in_pieces, own, []))]
    return [(in_turn, (in_pieces, (*own, made.weights), [spread]))]


def _of_piece(
    x: np.ndarray | Windows,
    window: Window,
    piece: Piece,
    seen: _Seen,
    made: _Made,
    bias: np.ndarray,
    target: Target,
) -> Program:
    """Its inputs at all points, there the products, and its outputs."""
    batch = window.buffer[3]
    length = piece.bands * piece.columns * batch
    products = _of_length(made.products, length, made.weights.shape[2])
    taken = *taps.dense_row_taps(window.channels, length), made.weights, made.partial, products[:, :, None]
    at_points = seen.spread.reshape(-1), seen.spread.shape[1], *taken, *_NOTHING
    gathered = products, piece.bands, piece.columns, batch, bias, seen.rows, seen.edge, *target
    return [
        _spread(x, window, piece, seen),
        (patches.multiply_points, at_points),
        (patch_outputs.gather_patches, gathered),
    ]


def _room_of_filters(window: Window, unused: np.ndarray) -> np.ndarray:
    """Of memory that is not used at the same time, what filters are spread and gathered in."""
    side = points(window)
    return unused.reshape(-1)[: side * side * LANES].reshape(side, side * LANES)


_NOTHING = rows.NO_BIAS, rows.NO_ROWS, rows.NO_WINNERS


def _of_length(room_of_points: np.ndarray, length: int, channels: int) -> np.ndarray:
    """(points, channels, length), as a piece has it in the room for the largest."""
    return room_of_points[:, : channels * length].reshape(len(room_of_points), channels, length)


def _spread(x: np.ndarray | Windows, window: Window, piece: Piece, seen: _Seen) -> Call:
    """A piece's inputs at all points."""
    batch, length = window.buffer[3], piece.bands * piece.columns * window.buffer[3]
    high, wide = (count + window.size[0] - 1 for count in window.outputs)
    taken = high - piece.top, wide - piece.left, piece.bands, piece.columns, batch
    spread = _of_length(seen.spread, length, window.channels), seen.rows, seen.edge
    if isinstance(x, Windows):
        flat, line = x.slopes.reshape(-1), x.slopes[0, 0].size
        planes, place = (flat, x.slopes[0].size, line), (piece.top - window.top, piece.left - window.left)
        return patches.spread_patches, (*planes, *taken, *spread, x.winner, *place)
    planes = x[piece.top * window.step + piece.left * batch :], window.buffer[1] * window.step, window.step
    return patches.spread_patches, (*planes, *taken, *spread, rows.NO_WINNERS, 0, 0)


def _runs(window: Window, filters: int) -> int:
    """Parts of all patches, one behind another, whose products are added up each for itself: threads may take them whole."""
    count, sums = math.prod(_patches(window)), points(window) ** 2 * window.channels * filters
    return next((runs for runs, fewest in RUNS if count >= fewest and sums <= LARGEST), 1)


def pairs_room(window: Window, filters: int) -> int:
    """float32 values of working memory that `pairs` takes."""
    return memory.room(_Seen.shapes(window, filters) + _Paired.shapes(window, filters))


def pairs(
    x: np.ndarray, window: Window, dy: np.ndarray | Windows, scratch: np.ndarray, dw: np.ndarray
) -> Program:
    """dw as `convolution_bands.pairs` says, for LANES filters or more: by runs of patches, each in pieces one after another."""
    count = dw.shape[3]
    parts = memory.parts(scratch, _Seen.shapes(window, count) + _Paired.shapes(window, count))
    seen, made = _Seen(*parts[:3]), _Paired(*parts[3:])
    count_of_patches, runs = math.prod(_patches(window)), len(made.total)
    ends = [count_of_patches * run // runs for run in range(runs + 1)]
    each: list[Program] = []
    for first, last, total in zip(ends, ends[1:], made.total, strict=False):
        program: Program = []
        for piece in pieces(window, count, first, last):
            program += _pair_piece(x, window, dy, piece, seen, made._replace(total=total), not program)
        each.append(program)
    own = *seen, made.room, made.pixels, made.slopes, made.before
    gathered = made.total, 0, _room_of_filters(window, made.slopes), dw
    return [(in_turn, (each, own, [])), (patch_filters.gather_filters, gathered)]


def _pair_piece(
    x: np.ndarray,
    window: Window,
    dy: np.ndarray | Windows,
    piece: Piece,
    seen: _Seen,
    made: _Paired,
    first: bool,
) -> Program:
    """The products of a piece, added to `made.total`; written there by the first one."""
    batch = window.buffer[3]
    places = np.arange(piece.bands * piece.columns * batch) * made.pixels.shape[2]
    slopes, inputs = ((part.reshape(-1), part.shape[1]) for part in (made.slopes, seen.spread))
    paired = patches.pair_points, (*slopes, places, batch, *inputs, made.total, first)
    return [_spread(x, window, piece, seen), *_slopes(dy, window, piece, made), paired]


def _slopes(dy: np.ndarray | Windows, window: Window, piece: Piece, made: _Paired) -> Program:
    """A piece's at all points, their filters innermost; patches that reach beyond the outputs see zeros there.

    What lies behind the last filter, up to a whole register, is whatever was there: nothing is made of it.
    """
    batch = window.buffer[3]
    across = piece.across(window)
    pixels = made.pixels[: piece.bands * OUTPUTS, : piece.columns * OUTPUTS * batch]
    program: Program = []
    if isinstance(dy, Windows):
        slopes = made.before[:, : pixels.shape[0], : pixels.shape[1]]
        program.append((patches.unpool_piece, (*dy, piece.top, piece.left, slopes)))
    else:
        slopes = dy[:, piece.lines(window), across.start * batch : across.stop * batch]
    _, high, lanes = slopes.shape
    program.append((order.transpose, (slopes, pixels[:high, :lanes])))
    if high < pixels.shape[0]:
        program.append((order.clear, (pixels[high:, :, None],)))
    if lanes < pixels.shape[1]:
        program.append((order.clear, (pixels[:high, lanes:, None],)))
    at_points = _of_length(made.slopes, pixels.shape[2], piece.bands * piece.columns * batch)
    by_image, by_patch = (part.reshape(len(part), -1, batch, part.shape[2]) for part in (pixels, at_points))
    return [*program, (patches.spread_slopes, (by_image, piece.columns, made.room, by_patch))]
