"""What layers work on: shapes, values with a border of zeros, parameters, and the place in memory that a network gives them.

Shapes are (channels, height, width); values lie in memory as (channels, height, width, batch), the image innermost.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from distsgd.kernels import rows

Shape = tuple[int, int, int]
Call = tuple[Callable[..., object], tuple[object, ...]]
Program = list[Call]


@dataclass(frozen=True)
class Border:
    """Zeros around an image, which the layer that reads it wants there."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    def spread(self, shape: Shape) -> "Border":
        """A border with a row and a column more where they make the number of pixels odd.

        Planes an even number of pixels apart, often a power of two, would share a few sets of the cache.
        """
        height, width = self.top + shape[1] + self.bottom, self.left + shape[2] + self.right
        return replace(self, bottom=self.bottom + (height + 1) % 2, right=self.right + (width + 1) % 2)

    def around(self, shape: Shape) -> Shape:
        """The shape with its border."""
        channels, height, width = shape
        return channels, self.top + height + self.bottom, self.left + width + self.right


@dataclass(frozen=True)
class Values:
    """The values (or gradients) between two layers: a buffer with a border, and the part inside it."""

    buffer: np.ndarray
    border: Border

    @property
    def shape(self) -> Shape:
        """Of an image, without the border."""
        channels, height, width, _ = self.buffer.shape
        border = self.border
        return channels, height - border.top - border.bottom, width - border.left - border.right

    @property
    def batch(self) -> int:
        """Images that there is room for."""
        batch: int = self.buffer.shape[3]
        return batch

    @property
    def flat(self) -> np.ndarray:
        """The whole buffer as a vector."""
        return self.buffer.reshape(-1)

    @property
    def inside(self) -> np.ndarray:
        """(channels, height, width, batch) without the border, a view."""
        border, (_, height, width) = self.border, self.shape
        return self.buffer[:, border.top : border.top + height, border.left : border.left + width]

    @property
    def rows(self) -> np.ndarray:
        """The inside as (channels, height, width x batch), a view."""
        channels, height, width, batch = self.buffer.shape
        left, right = self.border.left * batch, (width - self.border.right) * batch
        return self.buffer.reshape(channels, height, -1)[
            :, self.border.top : height - self.border.bottom, left:right
        ]

    @property
    def units(self) -> np.ndarray:
        """All values of an image down a column, (units, batch): for buffers without a border."""
        return self.buffer.reshape(-1, self.buffer.shape[3])


class Target(NamedTuple):
    """Where the outputs of a convolution go, in the order in which its kernels take them; see `rows.sum_rows`."""

    y: np.ndarray
    gate: np.ndarray
    rectify: bool
    pool: int
    """The side of a window; above 1 y is only room for outputs before pooling, and maxima go to `pooled`."""
    pooled: np.ndarray
    winner: np.ndarray

    def part(self, lines: slice, columns: slice, batch: int) -> "Target":
        """Some rows and columns of outputs, in whole windows."""
        lanes = slice(columns.start * batch, columns.stop * batch)
        if self.pool == 1:
            return self._replace(y=self.y[:, lines, lanes], gate=self.gate[:, lines, lanes])
        down, across = (slice(each.start // self.pool, each.stop // self.pool) for each in (lines, columns))
        pooled = self.pooled[:, down, across.start * batch : across.stop * batch]
        room = self.y[:, : lines.stop - lines.start, : lanes.stop - lanes.start]
        return self._replace(y=room, pooled=pooled, winner=self.winner[:, down, across])


@dataclass(frozen=True)
class Tensor:
    """A parameter: its name and shape, and how many inputs each of its sums has (0: it starts at zero)."""

    name: str
    shape: tuple[int, ...]
    fan_in: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Place:
    """What a network gives a layer to work with."""

    number: int
    x: Values
    y: Values
    dx: Values | None
    """None where nothing needs the gradient: it would be that of the images."""
    dy: Values
    weights: tuple[np.ndarray, ...]
    gradients: tuple[np.ndarray, ...]
    winners: np.ndarray
    """(channels, height, width, batch) of y, uint8: where in its window a maximum was found. Empty where nothing is pooled."""
    scratch: np.ndarray
    """Working memory that all layers share."""
    own: np.ndarray
    """Working memory of this layer alone, zero at first."""
    rectify: bool
    """Whether y is max(y, 0)."""
    rectified: bool
    """Whether x was made so: its gradient is zero where x is not positive."""
    draw: np.ndarray
    """(seed, worker, step) of the step that runs."""

    @property
    def gate(self) -> np.ndarray:
        """What the gradient to x must be gated with."""
        return self.x.rows if self.rectified else rows.NO_ROWS
