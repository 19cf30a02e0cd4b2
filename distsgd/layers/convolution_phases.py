"""The phases of a strided convolution: every stride-th row and column of an image, beginning with each.

Forward, and for the gradient to weights, a window sees them as channels (`taps.Window`). The gradient to data is made phase by
phase, each a convolution of stride 1 by the part of the filter that meets it. With stride 1 there is one phase, the image.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distsgd.kernels import order
from distsgd.layers.place import Border, Place, Program, Shape

if TYPE_CHECKING:
    from distsgd.layers.convolution import Convolution


def phases_size(layer: "Convolution", shape: Shape, batch: int) -> int:
    """float32 values of the phases of an input."""
    return math.prod(phases_shape(layer, shape)) * batch if layer.stride > 1 else 0


def phases_shape(layer: "Convolution", shape: Shape) -> tuple[int, ...]:
    """(channels, stride, stride, height, width): every phase of an input, with its zeros."""
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


def all_phases(layer: "Convolution", shape: Shape) -> Iterator[tuple[Phase, Phase]]:
    """Those of rows with those of columns."""
    zeros = layer.zeros(shape)
    for high in _phases(layer, zeros.top, shape[1]):
        for wide in _phases(layer, zeros.left, shape[2]):
            yield high, wide


def border_back(layer: "Convolution", shape: Shape) -> Border:
    """Zeros around the convolution's gradient, so that every phase of the way back finds its taps' places."""
    _, height, width = convolved = layer.convolved(shape)
    high, wide = zip(*all_phases(layer, shape), strict=True)
    top, bottom = _reach(high, height)
    left, right = _reach(wide, width)
    return Border(top, left, bottom, right).spread(convolved)


def _reach(phases: tuple[Phase, ...], outputs: int) -> tuple[int, int]:
    """Zeros before and behind so many outputs that taps of the way back look at."""
    before = max(phase.taps - 1 - phase.place for phase in phases)
    behind = max(phase.place + phase.length for phase in phases) - outputs
    return max(0, before), max(0, behind)


def split(layer: "Convolution", place: Place) -> tuple[Program, np.ndarray]:
    """The input as `taps.Window` wants it, (channels, phases, height, width, batch), and how to make it."""
    shape, batch = place.x.shape, place.x.batch
    if layer.stride == 1:
        return [], place.x.buffer[:, None]
    phases = phases_of(layer, place)
    image = place.x.buffer.reshape(*shape, batch)
    program: Program = []
    for high, wide in all_phases(layer, shape):
        program.append((order.copy, (inside(phases, high, wide), every(image, layer.stride, high, wide))))
    return program, phases.reshape(shape[0], -1, *phases.shape[3:])


def phases_of(layer: "Convolution", place: Place) -> np.ndarray:
    """Where the phases of a layer's input lie, of that shape and the batch."""
    shape, batch = place.x.shape, place.x.batch
    return place.own[: phases_size(layer, shape, batch)].reshape(*phases_shape(layer, shape), batch)


def inside(phases: np.ndarray, high: Phase, wide: Phase) -> np.ndarray:
    """(channels, height, width, batch) of a phase: the image without its zeros."""
    rows_inside = slice(high.place, high.place + high.length)
    return phases[:, high.first, wide.first, rows_inside, wide.place : wide.place + wide.length]


def every(image: np.ndarray, stride: int, high: Phase, wide: Phase) -> np.ndarray:
    """The pixels of an image that a phase holds, a view."""
    return image[:, high.image :: stride, wide.image :: stride]


def last_first(layer: "Convolution", phase: Phase) -> slice:
    """Rows of a turned filter that meet a phase: row r of the filter is row size - 1 - r of the turned one."""
    last = phase.first + (phase.taps - 1) * layer.stride
    return slice(layer.size - 1 - last, layer.size - phase.first, layer.stride)


def rows_of(part: np.ndarray) -> np.ndarray:
    """(channels, height, width x batch), a view: whole pixels lie side by side."""
    channels, height, width, batch = part.shape
    strides = (*part.strides[:2], part.strides[3])
    return np.lib.stride_tricks.as_strided(part, (channels, height, width * batch), strides)
