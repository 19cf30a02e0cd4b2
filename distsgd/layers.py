"""Layers as frozen descriptions: shapes, parameters, and the kernel calls that carry them forward and backward.

A layer holds no arrays. Given a `Place`, the memory that the network planned for it, it returns a program: a list of kernels with
their arguments, bound once and then called at every step. Shapes are (channels, height, width); values lie in memory as
(channels, height, width, batch), the image innermost.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from distsgd.config import InputError
from distsgd.kernels import order, pairs, pool, rows
from distsgd.kernels.tile import LANES, TAPS

Shape = tuple[int, int, int]
Program = list[tuple[Callable[..., object], tuple[object, ...]]]


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


@dataclass(frozen=True)
class Values:
    """The values (or gradients) between two layers: a buffer with a border, and the part inside it."""

    buffer: np.ndarray
    border: Border

    @property
    def flat(self) -> np.ndarray:
        """The whole buffer as a vector."""
        return self.buffer.reshape(-1)

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
    """What a network gives a layer to work with; dx is None where nothing needs the gradient (the images)."""

    number: int
    x: Values
    y: Values
    dx: Values | None
    dy: Values
    weights: tuple[np.ndarray, ...]
    gradients: tuple[np.ndarray, ...]
    winners: (
        np.ndarray
    )  # (channels, height, width, batch) of y, uint8: where in its window a maximum was found
    scratch: np.ndarray
    rectify: bool  # y is max(y, 0)
    rectified: bool  # x was made so: its gradient is zero where x is not positive
    draw: np.ndarray  # (seed, worker, step) of the step that runs

    @property
    def gate(self) -> np.ndarray:
        """What the gradient to x must be gated with."""
        return self.x.rows if self.rectified else rows.NO_GATE


def _tap_offsets(buffer: np.ndarray, size: int) -> np.ndarray:
    """Places of a filter's taps (channel, row, column) in a buffer, counted from the window's first value."""
    _, height, width, batch = buffer.shape
    channel, row, column = np.meshgrid(
        np.arange(len(buffer)), np.arange(size), np.arange(size), indexing="ij"
    )
    places: np.ndarray = ((channel * height + row) * width + column) * batch
    return places.reshape(-1).astype(np.int64)


def _whole_blocks(offsets: np.ndarray) -> np.ndarray:
    """Offsets filled up to a multiple of TAPS, as `pairs.sum_pairs` wants them."""
    return np.concatenate([offsets, np.repeat(offsets[-1:], -len(offsets) % TAPS)])


@dataclass(frozen=True)
class Convolution:
    """`filters` filters of size x size, stride 1, with a bias each: y[k] = b[k] + sum_c x[c] * w[c, :, :, k].

    padding: "valid" (none), "same" (the output is as large as the input; an even filter pads one more at the bottom and right), or
    a number of zeros on every side.
    """

    filters: int
    size: int
    padding: int | str = "valid"

    @property
    def zeros(self) -> Border:
        """The padding on each side."""
        if self.padding == "valid":
            return Border()
        before = (self.size - 1) // 2 if self.padding == "same" else int(self.padding)
        after = self.size - 1 - before if self.padding == "same" else before
        return Border(before, before, after, after)

    def border(self, shape: Shape) -> Border:
        """Zeros around an input of that shape."""
        return self.zeros.spread(shape)

    def gradient_border(self, output: Shape) -> Border:
        """Zeros around the output's gradient, so that the way back is a convolution as well."""
        rest, zeros = self.size - 1, self.zeros
        border = Border(rest - zeros.top, rest - zeros.left, rest - zeros.bottom, rest - zeros.right)
        return border.spread(output)

    def output(self, shape: Shape) -> Shape:
        """The shape that comes out. InputError where the filter does not fit."""
        lost = self.size - 1 - self.zeros.top - self.zeros.bottom
        if self.zeros.top >= self.size:
            raise InputError(
                f"padding {self.padding} of a {self.size}x{self.size} convolution: must be below {self.size}"
            )
        if min(shape[1:]) <= lost:
            raise InputError(
                f"a {self.size}x{self.size} convolution does not fit an input of {shape[1]}x{shape[2]}"
            )
        return self.filters, shape[1] - lost, shape[2] - lost

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """Weights (channels, size, size, filters) and biases (filters,)."""
        weights = (shape[0], self.size, self.size, self.filters)
        return Tensor("weights", weights, shape[0] * self.size**2), Tensor("bias", (self.filters,), 0)

    def scratch(self, shape: Shape, batch: int) -> int:
        """float32 values of working memory."""
        taps = shape[0] * self.size**2
        resting = max(pairs.room(taps, self.filters), rows.GROUP * max(self.filters, shape[0]))
        return self.tensors(shape)[0].size + resting

    def forward(self, place: Place, training: bool) -> Program:
        """y from x."""
        weights, bias = place.weights
        offsets, step = _tap_offsets(place.x.buffer, self.size), place.x.buffer[0, 0].size
        matrix = weights.reshape(-1, self.filters)
        arguments = (
            place.x.flat,
            offsets,
            step,
            matrix,
            bias,
            place.scratch,
            place.y.rows,
            rows.NO_GATE,
            place.rectify,
        )
        return [(rows.sum_rows, arguments)]

    def backward(self, place: Place) -> Program:
        """The gradients to weights and bias, and dx, from dy."""
        weights, bias = place.gradients
        offsets, step = _whole_blocks(_tap_offsets(place.x.buffer, self.size)), place.x.buffer[0, 0].size
        matrix = weights.reshape(-1, self.filters)
        program: Program = [
            (pairs.sum_pairs, (place.x.flat, offsets, step, place.dy.rows, place.scratch, matrix)),
            (pairs.sum_lanes, (place.dy.rows, place.scratch, bias)),
        ]
        return program if place.dx is None else program + self._to_input(place, place.dx)

    def _to_input(self, place: Place, dx: Values) -> Program:
        weights, dy = place.weights[0], place.dy
        turned = place.scratch[: weights.size].reshape(self.filters, self.size, self.size, -1)
        offsets, step = _tap_offsets(dy.buffer, self.size), dy.buffer[0, 0].size
        matrix, partial = turned.reshape(-1, turned.shape[3]), place.scratch[weights.size :]
        arguments = (dy.flat, offsets, step, matrix, rows.NO_BIAS, partial, dx.rows, place.gate, False)
        return [(order.turn_filters, (weights, turned)), (rows.sum_rows, arguments)]


@dataclass(frozen=True)
class Dense:
    """`units` weighted sums of all values of an image: y = x w + b; the values in the order channel, row, column."""

    units: int
    bias: bool = True

    def border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def gradient_border(self, output: Shape) -> Border:
        """None."""
        return Border()

    def output(self, shape: Shape) -> Shape:
        """(units, 1, 1)."""
        return self.units, 1, 1

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """Weights (inputs, units) and, with `bias`, biases (units,)."""
        weights = Tensor("weights", (math.prod(shape), self.units), math.prod(shape))
        return (weights, Tensor("bias", (self.units,), 0)) if self.bias else (weights,)

    def scratch(self, shape: Shape, batch: int) -> int:
        """float32 values of working memory."""
        inputs = math.prod(shape)
        resting = max(
            rows.GROUP * max(self.units, inputs), pairs.room(inputs, self.units) if self.units < LANES else 0
        )
        return batch * (self.units + inputs) + resting

    def forward(self, place: Place, training: bool) -> Program:
        """y from x."""
        x, weights = place.x.units, place.weights[0]
        offsets = np.arange(len(x), dtype=np.int64) * x.shape[1]
        bias = place.weights[1] if self.bias else rows.NO_BIAS
        arguments = (
            place.x.flat,
            offsets,
            0,
            weights,
            bias,
            place.scratch,
            place.y.rows,
            rows.NO_GATE,
            place.rectify,
        )
        return [(rows.sum_rows, arguments)]

    def backward(self, place: Place) -> Program:
        """The gradients to weights and bias, and dx, from dy."""
        few = self.units < LANES  # too few to fill a register: then the batch is the vector
        program = self._dot_products(place) if few else self._outer_products(place)
        if self.bias:
            program.append((pairs.sum_lanes, (place.dy.rows, place.scratch, place.gradients[1])))
        return program if place.dx is None else program + self._to_input(place, place.dx)

    def _dot_products(self, place: Place) -> Program:
        x = place.x.units
        offsets = _whole_blocks(np.arange(len(x), dtype=np.int64) * x.shape[1])
        return [
            (pairs.sum_pairs, (place.x.flat, offsets, 0, place.dy.rows, place.scratch, place.gradients[0]))
        ]

    def _outer_products(self, place: Place) -> Program:
        x, dy = place.x.units, place.dy.units
        turned, partial = place.scratch[: dy.size].reshape(dy.shape[1], self.units), place.scratch[dy.size :]
        offsets = np.arange(dy.shape[1], dtype=np.int64) * self.units
        dw = place.gradients[0].reshape(len(x), 1, self.units)
        arguments = (turned.reshape(-1), offsets, 0, x.T, rows.NO_BIAS, partial, dw, rows.NO_GATE, False)
        return [(order.transpose, (dy, turned)), (rows.sum_rows, arguments)]

    def _to_input(self, place: Place, dx: Values) -> Program:
        dy, inputs, batch = place.dy.units, len(place.weights[0]), place.dy.buffer.shape[3]
        offsets = np.arange(self.units, dtype=np.int64) * batch
        column, partial = (
            place.scratch[: inputs * batch].reshape(inputs, 1, batch),
            place.scratch[inputs * batch :],
        )
        gate = place.x.units.reshape(inputs, 1, batch) if place.rectified else rows.NO_GATE
        target = column if dx.border != Border() else dx.buffer.reshape(inputs, 1, batch)
        arguments = (
            dy.reshape(-1),
            offsets,
            0,
            place.weights[0].T,
            rows.NO_BIAS,
            partial,
            target,
            gate,
            False,
        )
        program: Program = [(rows.sum_rows, arguments)]
        if dx.border != Border():
            program.append((np.copyto, (dx.rows, column.reshape(dx.rows.shape))))
        return program


@dataclass(frozen=True)
class MaxPool:
    """The maximum of each size x size window; windows lie side by side, a rest at the bottom and right is left out."""

    size: int

    def border(self, shape: Shape) -> Border:
        """No zeros, but planes that do not share sets of the cache."""
        return Border().spread(shape)

    def gradient_border(self, output: Shape) -> Border:
        """None."""
        return Border()

    def output(self, shape: Shape) -> Shape:
        """The shape that comes out. InputError where no window fits."""
        if not 0 < self.size <= 16:
            raise InputError(f"pooling size {self.size}: must be 1 to 16")
        if min(shape[1:]) < self.size:
            raise InputError(
                f"a {self.size}x{self.size} pooling does not fit an input of {shape[1]}x{shape[2]}"
            )
        return shape[0], shape[1] // self.size, shape[2] // self.size

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def scratch(self, shape: Shape, batch: int) -> int:
        """None."""
        return 0

    def forward(self, place: Place, training: bool) -> Program:
        """y from x, and which value won."""
        return [(pool.max_pool, (place.x.buffer, self.size, place.y.rows, place.winners))]

    def backward(self, place: Place) -> Program:
        """dx from dy."""
        if place.dx is None:
            return []
        gate = (place.y.rows, place.rectified)
        return [(pool.max_pool_gradient, (place.dy.buffer, place.winners, self.size, *gate, place.dx.rows))]


@dataclass(frozen=True)
class Rectifier:
    """max(x, 0): done by the convolution or dense layer before it, as it writes its output."""


@dataclass(frozen=True)
class Dropout:
    """Each value is dropped with probability `rate` in training and the others grow by 1 / (1 - rate) (Srivastava et al. 2014)."""

    rate: float

    def border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def gradient_border(self, output: Shape) -> Border:
        """None."""
        return Border()

    def output(self, shape: Shape) -> Shape:
        """The same shape. InputError unless 0 <= rate < 1."""
        if not 0 <= self.rate < 1:
            raise InputError(f"dropout rate {self.rate}: must be at least 0 and below 1")
        return shape

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def scratch(self, shape: Shape, batch: int) -> int:
        """float32 values of working memory: one image batch, for the way through borders."""
        return math.prod(shape) * batch

    def forward(self, place: Place, training: bool) -> Program:
        """y from x: thinned in training, the same in evaluation."""
        x, y = place.x, place.y
        if not training:
            return [(np.copyto, (y.rows, x.rows))]
        if y.border == Border():
            return [self._drop(place, x.units, False, x.units, y.units)]
        thinned = place.scratch[: x.units.size].reshape(x.units.shape)
        return [
            self._drop(place, x.units, False, x.units, thinned),
            (np.copyto, (y.rows, thinned.reshape(y.rows.shape))),
        ]

    def backward(self, place: Place) -> Program:
        """dx from dy."""
        if place.dx is None:
            return []
        dy, dx = place.dy, place.dx
        if dx.border == Border():
            return [self._drop(place, dy.units, place.rectified, place.x.units, dx.units)]
        thinned = place.scratch[: dy.units.size].reshape(dy.units.shape)
        passed = self._drop(place, dy.units, place.rectified, place.x.units, thinned)
        return [passed, (np.copyto, (dx.rows, thinned.reshape(dx.rows.shape)))]

    def _drop(
        self, place: Place, x: np.ndarray, gated: bool, gate: np.ndarray, y: np.ndarray
    ) -> tuple[Callable[..., object], tuple[object, ...]]:
        return order.drop, (x, place.draw, np.uint64(place.number), np.float32(self.rate), gated, gate, y)


Layer = Convolution | Dense | MaxPool | Dropout
