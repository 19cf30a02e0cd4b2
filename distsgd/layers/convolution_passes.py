"""How a convolution is computed, forward and backward: by rows over lists of taps, or by `convolution_bands` of them.

A stride is taken out by splitting the image into phases (every stride-th row and column, see `taps.Window`): forward and the
gradient to weights see them as channels. The gradient to data is made phase by phase, each a convolution of stride 1 by the
part of the filter that meets it. Groups take their turns.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distsgd.kernels import order, pairs, pool, rows, taps
from distsgd.kernels.compiled import FLOAT
from distsgd.kernels.taps import Window
from distsgd.layers import convolution_bands as bands
from distsgd.layers.place import Border, Call, Place, Program, Shape, Values

if TYPE_CHECKING:
    from distsgd.layers.convolution import Convolution


def covered(layer: "Convolution", shape: Shape) -> tuple[int, int]:
    """Rows and columns of the convolution that are used: pooling may leave some out."""
    _, height, width = layer.output(shape)
    return height * layer.pool, width * layer.pool


def band_size(layer: "Convolution", shape: Shape, batch: int) -> int:
    """float32 values of the rows that one row of windows covers."""
    return layer.filters * layer.pool * covered(layer, shape)[1] * batch if layer.pool > 1 else 0


def phases_size(layer: "Convolution", shape: Shape, batch: int) -> int:
    """float32 values of the phases of an input."""
    return math.prod(_phases_shape(layer, shape)) * batch if layer.stride > 1 else 0


def _phases_shape(layer: "Convolution", shape: Shape) -> tuple[int, ...]:
    channels, high, wide = layer.zeros(shape).around(shape)
    high, wide = -(-high // layer.stride), -(-wide // layer.stride)
    return channels, layer.stride, layer.stride, high + (high + 1) % 2, wide + (wide + 1) % 2


class Phase(NamedTuple):
    """Every stride-th row (or column) of an image with its zeros, beginning with that of number `first`: what of it is image."""

    first: int
    """Its place in the filter, too: of this phase's taps, the first."""
    image: int
    """The image's first row in this phase."""
    place: int
    """Where in the phase that row is."""
    length: int
    """How many of the image's rows there are."""
    taps: int
    """How many of the filter's rows meet this phase."""


def _phases(layer: "Convolution", before: int, length: int) -> list[Phase]:
    found = []
    for first in range(layer.stride):
        image = (first - before) % layer.stride
        rest = max(0, -(-(length - image) // layer.stride))
        meeting = max(0, -(-(layer.size - first) // layer.stride))
        found.append(Phase(first, image, (image + before) // layer.stride, rest, meeting))
    return found


def _all_phases(layer: "Convolution", shape: Shape) -> Iterator[tuple[Phase, Phase]]:
    """Those of rows with those of columns."""
    zeros = layer.zeros(shape)
    for high in _phases(layer, zeros.top, shape[1]):
        for wide in _phases(layer, zeros.left, shape[2]):
            yield high, wide


def border_back(layer: "Convolution", shape: Shape) -> Border:
    """Zeros around the convolution's gradient, so that every phase of the way back finds its taps' places."""
    _, height, width = convolved = layer.convolved(shape)
    high, wide = zip(*_all_phases(layer, shape), strict=True)
    top, bottom = _reach(high, height)
    left, right = _reach(wide, width)
    return Border(top, left, bottom, right).spread(convolved)


def _reach(phases: tuple[Phase, ...], outputs: int) -> tuple[int, int]:
    """Zeros before and behind so many outputs that taps of the way back look at."""
    before = max(phase.taps - 1 - phase.place for phase in phases)
    behind = max(phase.place + phase.length for phase in phases) - outputs
    return max(0, before), max(0, behind)


def forward(layer: "Convolution", place: Place) -> Program:
    """y from x."""
    program, x = _split(layer, place)
    window = window_forward(layer, place.x.shape, place.x.batch)
    for group, (channels, filters) in enumerate(_groups(layer, place.x.shape)):
        weights, bias = _filters(layer, place.weights[0], group), place.weights[1][filters]
        y = place.y.rows[filters]
        target = (y, rows.NO_ROWS, place.rectify, layer.pool, y, place.winners[filters])
        program += bands.sums(x[channels].reshape(-1), window, weights, bias, place.scratch, *target)
    return program


def _split(layer: "Convolution", place: Place) -> tuple[Program, np.ndarray]:
    """The input as `taps.Window` wants it, (channels, phases, height, width, batch), and how to make it."""
    shape, batch = place.x.shape, place.x.batch
    if layer.stride == 1:
        return [], place.x.buffer[:, None]
    phases = _phases_of(layer, place)
    image = place.x.buffer.reshape(*shape, batch)
    program: Program = []
    for high, wide in _all_phases(layer, shape):
        inside = _inside(phases, high, wide)
        program.append((np.copyto, (inside, _every(image, layer.stride, high, wide))))
    return program, phases.reshape(shape[0], -1, *phases.shape[3:])


def _phases_of(layer: "Convolution", place: Place) -> np.ndarray:
    shape, batch = place.x.shape, place.x.batch
    return place.own[: phases_size(layer, shape, batch)].reshape(*_phases_shape(layer, shape), batch)


def _inside(phases: np.ndarray, high: Phase, wide: Phase) -> np.ndarray:
    """(channels, height, width, batch) of a phase: the image without its zeros."""
    rows_inside = slice(high.place, high.place + high.length)
    return phases[:, high.first, wide.first, rows_inside, wide.place : wide.place + wide.length]


def _every(image: np.ndarray, stride: int, high: Phase, wide: Phase) -> np.ndarray:
    return image[:, high.image :: stride, wide.image :: stride]


def _groups(layer: "Convolution", shape: Shape) -> Iterator[tuple[slice, slice]]:
    """The channels and the filters of each group."""
    channels, filters = shape[0] // layer.groups, layer.filters // layer.groups
    for group in range(layer.groups):
        yield (
            slice(group * channels, (group + 1) * channels),
            slice(group * filters, (group + 1) * filters),
        )


def _filters(layer: "Convolution", weights: np.ndarray, group: int) -> np.ndarray:
    """(channels, row, column, filters) of a group."""
    one = -1, layer.size, layer.size, layer.filters // layer.groups
    filters: np.ndarray = weights.reshape(layer.groups, *one)[group]
    return filters


def window_forward(layer: "Convolution", shape: Shape, batch: int) -> Window:
    """How the filters of a group see its channels."""
    zeros, channels = layer.zeros(shape), shape[0] // layer.groups
    image = (zeros.top, zeros.left, *shape[1:])
    buffer: tuple[int, ...] = channels, *layer.border(shape).around(shape)[1:], batch
    if layer.stride > 1:
        buffer = channels * layer.stride**2, *_phases_shape(layer, shape)[3:], batch
    return Window(buffer, (layer.size, layer.size), *image, covered(layer, shape), layer.stride)


def window_back(layer: "Convolution", shape: Shape, batch: int, high: Phase, wide: Phase) -> Window:
    """How the turned filters of a group see the gradient of what they gave, for a phase of the input."""
    _, height, width = convolved = layer.convolved(shape)
    buffer = layer.filters // layer.groups, *border_back(layer, shape).around(convolved)[1:], batch
    top, left = high.taps - 1 - high.place, wide.taps - 1 - wide.place
    return Window(buffer, (high.taps, wide.taps), top, left, height, width, (high.length, wide.length))


def scratch(layer: "Convolution", shape: Shape, batch: int) -> int:
    """float32 values of working memory."""
    channels, filters = shape[0] // layer.groups, layer.filters // layer.groups
    window = window_forward(layer, shape, batch)
    both = max(bands.room(window, filters, layer.pool), bands.pairs_room(window, filters))
    if layer.pool > 1:  # as the first layer it goes row by row
        both = max(both, taps.pairs_room(window.channels * math.prod(window.size), filters))
    turned = bands.whole_lines(filters * layer.size**2 * channels)
    if layer.stride == 1:
        (phases,) = _all_phases(layer, shape)
        return max(both, turned + bands.room(window_back(layer, shape, batch, *phases), channels))
    phase = -(-shape[1] // layer.stride) * -(-shape[2] // layer.stride) * batch
    return max(both, turned + (phase + rows.GROUP) * channels)


def backward(layer: "Convolution", place: Place) -> Program:
    """The gradients to weights and bias, and dx, from dy."""
    program: Program = [(pairs.sum_lanes, (place.dy.rows, place.scratch, place.gradients[1]))]
    if layer.pool == 1:
        return program + _to_weights(layer, place, place.dy.rows) + _to_input(layer, place, place.dy)
    if place.dx is None:
        return program + _to_weights(layer, place, None)
    spread = _spread(layer, place)
    sizes = (layer.pool, layer.pool)
    windows = (place.dy.buffer, place.winners, *sizes, rows.NO_ROWS, False, spread.rows)
    program.append((pool.max_pool_gradient, windows))
    height, width = covered(layer, place.x.shape)
    used = spread.rows[:, :height, : width * place.x.batch]
    return program + _to_weights(layer, place, used) + _to_input(layer, place, spread)


def _spread(layer: "Convolution", place: Place) -> Values:
    """The gradient before pooling, with its border."""
    shape, batch = place.x.shape, place.x.batch
    border = border_back(layer, shape)
    own = place.own[phases_size(layer, shape, batch) :]
    return Values(own.reshape(*border.around(layer.convolved(shape)), batch), border)


def _to_weights(layer: "Convolution", place: Place, gradient: np.ndarray | None) -> Program:
    """From the convolution's gradient; None: from that of windows, spread over a band at a time."""
    _, x = _split(layer, place)
    window = window_forward(layer, place.x.shape, place.x.batch)
    program: Program = []
    for group, (channels, filters) in enumerate(_groups(layer, place.x.shape)):
        slopes, flat = _filters(layer, place.gradients[0], group), x[channels].reshape(-1)
        if gradient is not None:
            program += bands.pairs(flat, window, gradient[filters], place.scratch, slopes)
            continue
        band = place.own[phases_size(layer, place.x.shape, place.x.batch) :].reshape(
            layer.filters, layer.pool, -1
        )
        sums = (
            *taps.pair_taps(window),
            window.step,
            band[filters],
            place.scratch,
            slopes.reshape(-1, slopes.shape[3]),
        )
        program.append((pairs.sum_pairs, (flat, *sums, place.dy.buffer[filters], place.winners[filters])))
    return program


def _to_input(layer: "Convolution", place: Place, dy: Values) -> Program:
    if place.dx is None:
        return []
    size, shape = place.weights[0].size // layer.groups, place.x.shape
    program: Program = []
    for group, (channels, filters) in enumerate(_groups(layer, shape)):
        weights = _filters(layer, place.weights[0], group)
        turned = place.scratch[:size].reshape(weights.shape[3], layer.size, layer.size, weights.shape[0])
        program.append((order.turn_filters, (weights, turned)))
        for high, wide in _all_phases(layer, shape):
            program += _to_phase(layer, place, dy, turned, channels, filters, high, wide)
    return program


def _to_phase(
    layer: "Convolution",
    place: Place,
    dy: Values,
    turned: np.ndarray,
    channels: slice,
    filters: slice,
    high: Phase,
    wide: Phase,
) -> Program:
    """The gradient to one phase of a group's channels: with stride 1 there is only one, and it is dx."""
    assert place.dx is not None
    gate, rest = rows.NO_ROWS, place.scratch[bands.whole_lines(turned.size) :]
    whole = Values(place.dx.buffer[channels], place.dx.border)
    if layer.stride == 1:
        window, seen = _seen_back(layer, place, dy.buffer[filters], high, wide)
        gate = place.gate[channels] if place.rectified else gate
        last = (whole.rows, gate, False, 1, rows.NO_ROWS, rows.NO_WINNERS)
        return bands.sums(seen, window, turned, rows.NO_BIAS, rest, *last)
    target = _every(whole.inside, layer.stride, high, wide)
    if high.taps * wide.taps * target.size == 0:
        return [(np.copyto, (target, FLOAT(0)))]
    if place.rectified:
        inside = _inside(_phases_of(layer, place), high, wide)[channels]
        gate = _rows_of(inside)
    phase, rest = rest[: target.size].reshape(*target.shape[:2], -1), rest[target.size :]
    sums = _sum_phase(layer, place, dy.buffer[filters], turned, (high, wide), phase, gate, rest)
    return [sums, (np.copyto, (target, phase.reshape(target.shape)))]


def _seen_back(
    layer: "Convolution", place: Place, dy: np.ndarray, high: Phase, wide: Phase
) -> tuple[Window, np.ndarray]:
    """How a phase's gradient sees dy, and dy from its first window on."""
    window, border = (
        window_back(layer, place.x.shape, place.x.batch, high, wide),
        border_back(layer, place.x.shape),
    )
    start = (border.top - window.top) * window.step + (border.left - window.left) * place.x.batch
    return window, dy.reshape(-1)[start:]


def _sum_phase(
    layer: "Convolution",
    place: Place,
    dy: np.ndarray,
    turned: np.ndarray,
    phase: tuple[Phase, Phase],
    y: np.ndarray,
    gate: np.ndarray,
    partial: np.ndarray,
) -> Call:
    """y = sum over filters k and their rows of this phase, from the last to the first, of turned[k, ...] * dy[k, ...]."""
    window, seen = _seen_back(layer, place, dy, *phase)
    places = np.arange(turned.size // turned.shape[3]).reshape(turned.shape[:3])
    weights = places[:, _last_first(layer, phase[0]), :][:, :, _last_first(layer, phase[1])]
    lists = (*taps.row_taps(window, weights), window.step, turned.reshape(-1, turned.shape[3]))
    target = (y, gate, False, rows.NO_ROWS, rows.NO_WINNERS)
    return rows.sum_rows, (seen, *lists, rows.NO_BIAS, partial, *target)


def _last_first(layer: "Convolution", phase: Phase) -> slice:
    """Rows of a turned filter that meet a phase: row r of the filter is row size - 1 - r of the turned one."""
    last = phase.first + (phase.taps - 1) * layer.stride
    return slice(layer.size - 1 - last, layer.size - phase.first, layer.stride)


def _rows_of(inside: np.ndarray) -> np.ndarray:
    """(channels, height, width x batch), a view: whole pixels lie side by side."""
    channels, height, width, batch = inside.shape
    strides = (*inside.strides[:2], inside.strides[3])
    return np.lib.stride_tricks.as_strided(inside, (channels, height, width * batch), strides)
