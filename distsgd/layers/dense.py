"""The dense layer."""

import math
from dataclasses import dataclass

import numpy as np

from distsgd.kernels import order, pairs, rows, taps
from distsgd.kernels.vector import LANES
from distsgd.layers.place import Border, Call, Place, Program, Shape, Tensor, Values

MANY = 1024
"""Inputs from which a few units are computed as a whole register of them: summing a register for each weight takes longer."""


@dataclass(frozen=True)
class Dense:
    """`units` weighted sums of all values of an image: y = x w + b; the values in the order channel, row, column."""

    units: int
    bias: bool = True

    def border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def gradient_border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def output(self, shape: Shape) -> Shape:
        """(units, 1, 1)."""
        return self.units, 1, 1

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """Weights (inputs, units) and, with `bias`, biases (units,)."""
        weights = Tensor("weights", (math.prod(shape), self.units), math.prod(shape))
        return (weights, Tensor("bias", (self.units,), 0)) if self.bias else (weights,)

    def flops(self, shape: Shape) -> int:
        """Floating-point operations for an image forward, a multiplication and an addition counted as two."""
        return 2 * math.prod(shape) * self.units

    def scratch(self, shape: Shape, batch: int) -> int:
        """float32 values of working memory."""
        inputs, few = math.prod(shape), self._few(math.prod(shape))
        resting = max(rows.GROUP * max(self.units, inputs), taps.pairs_room(inputs, self.units) if few else 0)
        filled = LANES * (batch + inputs) if self.units < LANES and not few else 0
        return batch * (self.units + inputs) + resting + filled

    def _few(self, inputs: int) -> bool:
        """Whether units are too few to fill a register: then the batch is the vector."""
        return self.units < LANES and inputs < MANY

    def own(self, shape: Shape, batch: int, first: bool) -> int:
        """None."""
        return 0

    def forward(self, place: Place, training: bool) -> Program:
        """y from x."""
        bias = place.weights[1] if self.bias else rows.NO_BIAS
        columns, y = (len(place.x.units), place.x.batch), place.y.rows
        return [_sums(place.x.flat, columns, place.weights[0], bias, place.scratch, y, place.rectify)]

    def backward(self, place: Place) -> Program:
        """The gradients to weights and bias, and dx, from dy."""
        few = self._few(len(place.x.units))
        program = self._dot_products(place) if few else self._outer_products(place)
        if self.bias and not few:
            program.append((pairs.sum_lanes, (place.dy.rows, place.scratch, place.gradients[1])))
        return program if place.dx is None else program + self._to_input(place, place.dx)

    def _dot_products(self, place: Place) -> Program:
        seen = taps.dense_pair_taps(len(place.x.units), place.x.batch)
        bias = place.gradients[1] if self.bias else rows.NO_BIAS
        sums = (*seen, 0, place.dy.rows, place.scratch, place.gradients[0], bias)
        return [(pairs.sum_pairs, (place.x.flat, *sums, rows.NO_VALUES, rows.NO_WINNERS))]

    def _outer_products(self, place: Place) -> Program:
        x, dy, wide = place.x.units, place.dy.units, max(self.units, LANES)
        turned, rest = (
            place.scratch[: dy.shape[1] * wide].reshape(-1, wide),
            place.scratch[dy.shape[1] * wide :],
        )
        dw = place.gradients[0].reshape(len(x), 1, self.units)
        if wide == self.units:
            into, partial, narrowed = dw, rest, []
        else:
            filled, partial = rest[: len(x) * wide].reshape(len(x), wide), rest[len(x) * wide :]
            into, narrowed = filled[:, None], [(order.first_columns, (filled, place.gradients[0]))]
        sums = _sums(turned.reshape(-1), turned.shape, x.T, rows.NO_BIAS, partial, into)
        return [(order.transpose, (dy[:, None], turned[None])), sums, *narrowed]

    def _to_input(self, place: Place, dx: Values) -> Program:
        dy, inputs, batch = place.dy.units, len(place.weights[0]), place.x.batch
        column, partial = place.scratch[: inputs * batch], place.scratch[inputs * batch :]
        gate = place.x.units.reshape(inputs, 1, batch) if place.rectified else rows.NO_ROWS
        target = column if dx.border != Border() else dx.flat
        target = target.reshape(inputs, 1, batch)
        weights = place.weights[0].T
        program = [_sums(dy.reshape(-1), dy.shape, weights, rows.NO_BIAS, partial, target, False, gate)]
        if dx.border != Border():
            program.append((order.copy, (dx.inside, target.reshape(dx.inside.shape))))
        return program


def _sums(
    x: np.ndarray,
    columns: tuple[int, int],
    weights: np.ndarray,
    bias: np.ndarray,
    partial: np.ndarray,
    y: np.ndarray,
    rectify: bool = False,
    gate: np.ndarray = rows.NO_ROWS,
) -> Call:
    """y[k, 0] = bias[k] + sum over t of weights[t, k] * x[t], for x of that many columns and lanes."""
    seen = taps.dense_row_taps(*columns)
    sums = (*seen, 0, weights, bias, partial, y, gate, rectify, rows.NO_ROWS, rows.NO_WINNERS)
    return rows.sum_rows, (x, *sums)
