"""Convolution, with the rectifier and the pooling behind it in the same pass."""

import math
from dataclasses import dataclass

from distsgd.config import InputError
from distsgd.kernels import order, pairs, pool, rows, taps
from distsgd.kernels.taps import Window
from distsgd.layers.place import Border, Place, Program, Shape, Tensor, Values
from distsgd.layers.pooling import MaxPool


@dataclass(frozen=True)
class Convolution:
    """`filters` filters of size x size, stride 1, with a bias each: y[k] = b[k] + sum_c x[c] * w[c, :, :, k].

    padding: "valid" (none), "same" (the output is as large as the input; an even filter pads one more at the bottom and right), or
    a number of zeros on every side. pool: above 1, y is the maximum of each pool x pool window of that; of what the convolution
    itself gives only a band of `pool` rows is ever in memory.
    """

    filters: int
    size: int
    padding: int | str = "valid"
    pool: int = 1

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
        """Zeros around the output's gradient, so that the way back is a convolution as well. That of windows comes without."""
        return Border() if self.pool > 1 else self._border_back(output)

    def _border_back(self, convolved: Shape) -> Border:
        rest, zeros = self.size - 1, self.zeros
        border = Border(rest - zeros.top, rest - zeros.left, rest - zeros.bottom, rest - zeros.right)
        return border.spread(convolved)

    def convolved(self, shape: Shape) -> Shape:
        """The shape before pooling. InputError where the filter does not fit."""
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

    def output(self, shape: Shape) -> Shape:
        """The shape that comes out. InputError where the filter or a window does not fit."""
        return MaxPool(self.pool).output(self.convolved(shape))

    def _covered(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns of the convolution that are used."""
        _, height, width = self.output(shape)
        return height * self.pool, width * self.pool

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """Weights (channels, size, size, filters) and biases (filters,)."""
        weights = (shape[0], self.size, self.size, self.filters)
        return Tensor("weights", weights, shape[0] * self.size**2), Tensor("bias", (self.filters,), 0)

    def scratch(self, shape: Shape, batch: int) -> int:
        """float32 values of working memory."""
        weights = self.tensors(shape)[0]
        forward = self._band(shape, batch) + rows.GROUP * self.filters
        to_weights = taps.pairs_room(weights.fan_in, self.filters)
        return max(forward, to_weights, weights.size + rows.GROUP * shape[0])

    def own(self, shape: Shape, batch: int, first: bool) -> int:
        """float32 values for the gradient before pooling; the first layer needs only a band of it."""
        if self.pool == 1 or first:
            return self._band(shape, batch)
        convolved = self.convolved(shape)
        return math.prod(self._border_back(convolved).around(convolved)) * batch

    def _band(self, shape: Shape, batch: int) -> int:
        """float32 values of the rows that one row of windows covers."""
        return self.filters * self.pool * self._covered(shape)[1] * batch if self.pool > 1 else 0

    def _window(self, x: Values) -> Window:
        zeros = self.zeros
        return Window(x.buffer.shape, self.size, zeros.top, zeros.left, *x.shape[1:], self._covered(x.shape))

    def forward(self, place: Place, training: bool) -> Program:
        """y from x."""
        size, window = self._band(place.x.shape, place.x.batch), self._window(place.x)
        band, partial = place.scratch[:size], place.scratch[size:]
        y, pooled = place.y.rows, rows.NO_ROWS
        if self.pool > 1:
            y, pooled = band.reshape(self.filters, self.pool, -1), place.y.rows
        matrix, bias = place.weights[0].reshape(-1, self.filters), place.weights[1]
        sums = (*taps.row_taps(window), window.step, matrix, bias, partial, y, rows.NO_ROWS, place.rectify)
        return [(rows.sum_rows, (place.x.flat, *sums, pooled, place.winners))]

    def backward(self, place: Place) -> Program:
        """The gradients to weights and bias, and dx, from dy."""
        bias = (pairs.sum_lanes, (place.dy.rows, place.scratch, place.gradients[1]))
        if self.pool == 1:
            return [bias, *self._to_weights(place, place.dy, False), *self._to_input(place, place.dy)]
        if place.dx is None:
            return [bias, *self._to_weights(place, place.dy, True)]
        spread = self._spread(place)
        windows = (place.dy.buffer, place.winners, self.pool, rows.NO_ROWS, False, spread.rows)
        program: Program = [bias, (pool.max_pool_gradient, windows)]
        return program + self._to_weights(place, spread, False) + self._to_input(place, spread)

    def _spread(self, place: Place) -> Values:
        """The gradient before pooling, with its border."""
        convolved = self.convolved(place.x.shape)
        border = self._border_back(convolved)
        return Values(place.own.reshape(*border.around(convolved), place.x.batch), border)

    def _to_weights(self, place: Place, dy: Values, pooled: bool) -> Program:
        window = self._window(place.x)
        seen, matrix = taps.pair_taps(window), place.gradients[0].reshape(-1, self.filters)
        gradient, windows = dy.rows, (rows.NO_VALUES, rows.NO_WINNERS)
        if pooled:
            gradient = place.own.reshape(self.filters, self.pool, -1)
            windows = (dy.buffer, place.winners)
        elif self.pool > 1:
            height, width = self._covered(place.x.shape)
            gradient = gradient[:, :height, : width * place.x.batch]
        sums = (*seen, window.step, gradient, place.scratch, matrix, *windows)
        return [(pairs.sum_pairs, (place.x.flat, *sums))]

    def _to_input(self, place: Place, dy: Values) -> Program:
        if place.dx is None:
            return []
        weights, outputs = place.weights[0], place.dx.shape[1:]
        turned = place.scratch[: weights.size].reshape(self.filters, self.size, self.size, -1)
        border, covered = dy.border, self._covered(place.dx.shape)
        window = Window(dy.buffer.shape, self.size, border.top, border.left, *covered, outputs)
        matrix, partial = turned.reshape(-1, turned.shape[3]), place.scratch[weights.size :]
        sums = (*taps.row_taps(window), window.step, matrix, rows.NO_BIAS, partial)
        target = (place.dx.rows, place.gate, False, rows.NO_ROWS, rows.NO_WINNERS)
        return [(order.turn_filters, (weights, turned)), (rows.sum_rows, (dy.flat, *sums, *target))]
