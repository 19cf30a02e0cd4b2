"""How a convolution is computed, forward and backward: by rows over lists of taps, or by `convolution_bands` of them.

Of few channels, as an image has, it is computed by `convolution_shallow`.

A stride is taken out by `convolution_phases`; groups take their turns.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from distsgd.kernels import order, pairs, pool, rows, taps
from distsgd.kernels.patches import WINDOW
from distsgd.kernels.taps import Window
from distsgd.kernels.vector import LANES
from distsgd.layers import convolution_bands as bands
from distsgd.layers import convolution_patches as patches
from distsgd.layers import convolution_phases as phases
from distsgd.layers import convolution_shallow as shallow
from distsgd.layers import scratch as memory
from distsgd.layers.place import Call, Place, Program, Shape, Target, Values

if TYPE_CHECKING:
    from distsgd.layers.convolution import Convolution


def covered(layer: "Convolution", shape: Shape) -> tuple[int, int]:
    """Rows and columns of the convolution that are used: pooling may leave some out."""
    _, height, width = layer.output(shape)
    return height * layer.pool, width * layer.pool


def first_shapes(layer: "Convolution", shape: Shape, batch: int) -> list[tuple[int, ...]]:
    """What a pooled first layer goes row by row with: chains of sums, and the rows that one row of windows covers.

    Nothing where `convolution_shallow` takes it.
    """
    window, filters = window_forward(layer, shape, batch), layer.filters // layer.groups
    if shallow.fit_pairs(window, filters, layer.pool):
        return []
    chains = taps.pairs_room(window.channels * math.prod(window.size), filters)
    return [(chains,), (layer.filters, layer.pool, covered(layer, shape)[1] * batch)]


def shallow_passes(layer: "Convolution", shape: Shape) -> tuple[bool, bool]:
    """Whether y, and the gradient to weights, are computed by `convolution_shallow`."""
    window, filters = window_forward(layer, shape, LANES), layer.filters // layer.groups
    return shallow.fit(window, filters, layer.pool), shallow.fit_pairs(window, filters, layer.pool)


def forward(layer: "Convolution", place: Place) -> Program:
    """y from x."""
    program, x = phases.split(layer, place)
    window = window_forward(layer, place.x.shape, place.x.batch)
    for group, (channels, filters) in enumerate(_groups(layer, place.x.shape)):
        weights, bias = _filters(layer, place.weights[0], group), place.weights[1][filters]
        y = place.y.rows[filters]
        target = Target(y, rows.NO_ROWS, place.rectify, layer.pool, y, place.winners[filters])
        way = shallow if shallow.fit(window, weights.shape[3], layer.pool) else bands
        program += way.sums(x[channels].reshape(-1), window, weights, bias, place.scratch, target)
    return program


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
        buffer = channels * layer.stride**2, *phases.phases_shape(layer, shape)[3:], batch
    return Window(buffer, (layer.size, layer.size), *image, covered(layer, shape), layer.stride)


def window_back(
    layer: "Convolution", shape: Shape, batch: int, high: phases.Phase, wide: phases.Phase
) -> Window:
    """How the turned filters of a group see the gradient of what they gave, for a phase of the input."""
    _, height, width = convolved = layer.convolved(shape)
    buffer = layer.filters // layer.groups, *phases.border_back(layer, shape).around(convolved)[1:], batch
    top, left = high.taps - 1 - high.place, wide.taps - 1 - wide.place
    return Window(buffer, (high.taps, wide.taps), top, left, height, width, (high.length, wide.length))


def scratch(layer: "Convolution", shape: Shape, batch: int) -> int:
    """float32 values of working memory."""
    channels, filters = shape[0] // layer.groups, layer.filters // layer.groups
    window = window_forward(layer, shape, batch)
    summed, paired = bands.room(window, filters, layer.pool), bands.pairs_room(window, filters)
    if shallow.fit(window, filters, layer.pool):
        summed = shallow.room(window, filters)
    if shallow.fit_pairs(window, filters, layer.pool):
        paired = shallow.pairs_room(window, filters)
    both = max(summed, paired)
    turned = memory.whole_lines(filters * layer.size**2 * channels)
    if layer.stride == 1:
        ((high, wide),) = phases.all_phases(layer, shape)
        return max(both, turned + bands.room(window_back(layer, shape, batch, high, wide), channels))
    phase = -(-shape[1] // layer.stride) * -(-shape[2] // layer.stride) * batch
    return max(both, turned + (phase + rows.GROUP) * channels)


def backward(layer: "Convolution", place: Place) -> Program:
    """The gradients to weights and bias, and dx, from dy."""
    if layer.pool == 1:
        return _to_weights(layer, place, place.dy.rows, place.gradients[1]) + _to_input(
            layer, place, place.dy
        )
    to_bias = bands.to_bias(place.dy.rows, place.scratch, place.gradients[1])
    if place.dx is None or reads_windows(layer, place.x.shape):
        return _to_weights(layer, place, None) + to_bias + _to_input(layer, place, None)
    spread = _spread(layer, place)
    sizes = (layer.pool, layer.pool)
    windows = (place.dy.buffer, place.winners, *sizes, rows.NO_ROWS, False, spread.rows)
    program = [*to_bias, (pool.max_pool_gradient, windows)]
    height, width = covered(layer, place.x.shape)
    used = spread.rows[:, :height, : width * place.x.batch]
    return program + _to_weights(layer, place, used) + _to_input(layer, place, spread)


def reads_windows(layer: "Convolution", shape: Shape) -> bool:
    """Whether the gradient before pooling is never written: both passes read that of windows."""
    if layer.pool != WINDOW or layer.stride > 1:
        return False
    ((high, wide),) = phases.all_phases(layer, shape)
    windows = window_forward(layer, shape, LANES), window_back(layer, shape, LANES, high, wide)
    return bands.reads_windows(*windows)


def _spread(layer: "Convolution", place: Place) -> Values:
    """The gradient before pooling, with its border."""
    shape, batch = place.x.shape, place.x.batch
    border = phases.border_back(layer, shape)
    own = place.own[phases.phases_size(layer, shape, batch) :]
    return Values(own.reshape(*border.around(layer.convolved(shape)), batch), border)


def _to_weights(
    layer: "Convolution", place: Place, gradient: np.ndarray | None, db: np.ndarray = rows.NO_BIAS
) -> Program:
    """From the convolution's gradient, with that to biases; None, and where channels are few: from that of windows."""
    _, x = phases.split(layer, place)
    window = window_forward(layer, place.x.shape, place.x.batch)
    program: Program = []
    for group, (channels, filters) in enumerate(_groups(layer, place.x.shape)):
        slopes, flat = _filters(layer, place.gradients[0], group), x[channels].reshape(-1)
        windows = _windows(place, filters)
        if shallow.fit_pairs(window, slopes.shape[3], layer.pool):
            program += shallow.pairs(flat, window, *windows, place.scratch, slopes)
        elif gradient is not None:
            program += bands.pairs(flat, window, gradient[filters], place.scratch, slopes, db[filters])
        elif place.dx is not None:
            program += bands.pairs(flat, window, windows, place.scratch, slopes, rows.NO_BIAS)
        else:
            chains, band = _first_room(layer, place)
            lists = (*taps.pair_taps(window), window.step)
            sums = (*lists, band[filters], chains, slopes.reshape(-1, slopes.shape[3]), rows.NO_BIAS)
            program.append((pairs.sum_pairs, (flat, *sums, *windows)))
    return program


def _windows(place: Place, filters: slice) -> patches.Windows:
    """The gradient of these filters' windows."""
    return patches.Windows(place.dy.buffer[filters], place.winners[filters])


def _first_room(layer: "Convolution", place: Place) -> list[np.ndarray]:
    """What `first_shapes` says: slopes of windows are spread over a row of them at a time."""
    own = place.own[phases.phases_size(layer, place.x.shape, place.x.batch) :]
    return memory.parts(own, first_shapes(layer, place.x.shape, place.x.batch))


def _to_input(layer: "Convolution", place: Place, dy: Values | None) -> Program:
    """dx from the convolution's gradient; None: from that of windows."""
    if place.dx is None:
        return []
    size, shape = place.weights[0].size // layer.groups, place.x.shape
    program: Program = []
    for group, (channels, filters) in enumerate(_groups(layer, shape)):
        weights = _filters(layer, place.weights[0], group)
        turned = place.scratch[:size].reshape(weights.shape[3], layer.size, layer.size, weights.shape[0])
        program.append((order.turn_filters, (weights, turned)))
        for high, wide in phases.all_phases(layer, shape):
            program += _to_phase(layer, place, dy, turned, channels, filters, high, wide)
    return program


def _to_phase(
    layer: "Convolution",
    place: Place,
    dy: Values | None,
    turned: np.ndarray,
    channels: slice,
    filters: slice,
    high: phases.Phase,
    wide: phases.Phase,
) -> Program:
    """The gradient to one phase of a group's channels: with stride 1 there is only one, and it is dx."""
    assert place.dx is not None
    gate, rest = rows.NO_ROWS, place.scratch[memory.whole_lines(turned.size) :]
    whole = Values(place.dx.buffer[channels], place.dx.border)
    window, seen = _seen_back(layer, place, dy, filters, high, wide)
    if layer.stride == 1:
        gate = place.gate[channels] if place.rectified else gate
        last = Target(whole.rows, gate, False, 1, rows.NO_ROWS, rows.NO_WINNERS)
        return bands.sums(seen, window, turned, rows.NO_BIAS, rest, last)
    target = phases.every(whole.inside, layer.stride, high, wide)
    if high.taps * wide.taps * target.size == 0:
        return [(order.clear, (target,))]
    if place.rectified:
        gate = phases.rows_of(phases.inside(phases.phases_of(layer, place), high, wide)[channels])
    phase, rest = rest[: target.size].reshape(*target.shape[:2], -1), rest[target.size :]
    sums = _sum_phase(layer, window, seen, turned, (high, wide), phase, gate, rest)
    return [sums, (order.copy, (target, phase.reshape(target.shape)))]


def _seen_back(
    layer: "Convolution",
    place: Place,
    dy: Values | None,
    filters: slice,
    high: phases.Phase,
    wide: phases.Phase,
) -> tuple[Window, np.ndarray | patches.Windows]:
    """How a phase's gradient sees dy, and these filters of dy from its first window on; None: their windows."""
    window = window_back(layer, place.x.shape, place.x.batch, high, wide)
    if dy is None:
        return window, _windows(place, filters)
    border = phases.border_back(layer, place.x.shape)
    start = (border.top - window.top) * window.step + (border.left - window.left) * place.x.batch
    return window, dy.buffer[filters].reshape(-1)[start:]


def _sum_phase(
    layer: "Convolution",
    window: Window,
    seen: np.ndarray | patches.Windows,
    turned: np.ndarray,
    phase: tuple[phases.Phase, phases.Phase],
    y: np.ndarray,
    gate: np.ndarray,
    partial: np.ndarray,
) -> Call:
    """y = sum over filters k and their rows of this phase, from the last to the first, of turned[k, ...] * dy[k, ...]."""
    places = np.arange(turned.size // turned.shape[3]).reshape(turned.shape[:3])
    weights = places[:, phases.last_first(layer, phase[0]), :][:, :, phases.last_first(layer, phase[1])]
    lists = (*taps.row_taps(window, weights), window.step, turned.reshape(-1, turned.shape[3]))
    target = (y, gate, False, rows.NO_ROWS, rows.NO_WINNERS)
    return rows.sum_rows, (seen, *lists, rows.NO_BIAS, partial, *target)
