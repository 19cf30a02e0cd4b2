"""Dropout."""

import math
from dataclasses import dataclass

import numpy as np

from distsgd.config import InputError
from distsgd.kernels import order
from distsgd.kernels.compiled import FLOAT
from distsgd.layers import scratch as memory
from distsgd.layers.place import Border, Place, Program, Shape, Tensor, Values


@dataclass(frozen=True)
class Dropout:
    """Each value is dropped with probability `rate` in training and the others grow by 1 / (1 - rate) (Srivastava et al. 2014).

    The rate is rounded to the nearest of order.CHANCES parts.
    """

    rate: float

    def border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def gradient_border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def output(self, shape: Shape) -> Shape:
        """The same shape. InputError unless 0 <= rate < 0.99999: more would be all."""
        if not 0 <= self.rate < 0.99999:
            raise InputError(f"dropout rate {self.rate}: must be at least 0 and below 0.99999")
        return shape

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def flops(self, shape: Shape) -> int:
        """Multiplications for an image forward."""
        return math.prod(shape)

    def scratch(self, shape: Shape, batch: int) -> int:
        """float32 values of working memory: chances, and one image batch for the way through borders."""
        return memory.room(self._room(shape, batch))

    def own(self, shape: Shape, batch: int, first: bool) -> int:
        """None."""
        return 0

    def forward(self, place: Place, training: bool) -> Program:
        """y from x: thinned in training, the same in evaluation."""
        x, y = place.x, place.y
        if not training:
            return [(order.copy, (y.inside, x.inside))]
        return self._drop(place, x, y)

    def backward(self, place: Place) -> Program:
        """dx from dy."""
        if place.dx is None:
            return []
        if place.rectified:  # what was dropped is zero in y, as is what the rectifier stopped
            return [(order.pass_back, (place.dy.inside, self._chance()[1], place.y.inside, place.dx.inside))]
        return self._drop(place, place.dy, place.dx)

    def _room(self, shape: Shape, batch: int) -> list[tuple[int, ...]]:
        """Of chances, and of values that have no border."""
        return [(batch // 2,), (math.prod(shape), batch)]

    def _chance(self) -> tuple[int, np.floating]:
        """Of being lost, in order.CHANCES, and what the others grow by."""
        lost = round(float(FLOAT(self.rate)) * order.CHANCES)
        return lost, FLOAT(order.CHANCES / (order.CHANCES - lost))

    def _drop(self, place: Place, x: Values, y: Values) -> Program:
        """y from x, which has no border."""
        room, thinned = memory.parts(place.scratch, self._room(x.shape, x.batch))
        thinned = y.units if y.border == Border() else thinned
        key = place.draw, np.uint64(place.number)
        given = x.units, *key, *self._chance(), room.view(np.uint64), thinned, 0
        copied = [(order.copy, (y.inside, thinned.reshape(y.inside.shape)))] if y.border != Border() else []
        return [(order.drop, given), *copied]
