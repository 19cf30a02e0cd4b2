"""Local response normalization."""

import math
from dataclasses import dataclass

import numpy as np

from distsgd.config import InputError
from distsgd.kernels import normalization
from distsgd.kernels.compiled import FLOAT
from distsgd.kernels.normalization import CHUNK, DIGITS
from distsgd.layers.place import Border, Place, Program, Shape, Tensor

MOST = 1024


@dataclass(frozen=True)
class ResponseNormalization:
    """y = x / (k + alpha * mean of the squares of `size` channels around x's own)^beta (Krizhevsky et al. 2012).

    Channels beyond the first and last count as zeros; of an even size one more lies before than behind. alpha is the mean's
    factor, as in PyTorch; the paper writes that of the sum, alpha / size.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0

    def border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def gradient_border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def output(self, shape: Shape) -> Shape:
        """The same shape. InputError where a number is out of its range."""
        if not 1 <= self.size <= MOST:
            raise InputError(f"response normalization over {self.size} channels: must be 1 to {MOST}")
        if not (0 <= self.alpha < math.inf and 0 < self.beta <= 8 and 0 < self.k < math.inf):
            given = f"alpha {self.alpha}, beta {self.beta}, k {self.k}"
            raise InputError(
                f"response normalization with {given}: alpha must be at least 0, beta above 0 and at most 8, k above 0"
            )
        return shape

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def flops(self, shape: Shape) -> int:
        """Multiplications and additions for an image forward, roots left out."""
        return math.prod(shape) * 2 * self.size

    def scratch(self, shape: Shape, batch: int) -> int:
        """float32 values of working memory: slots for channels, twice."""
        return 2 * self.size * CHUNK

    def own(self, shape: Shape, batch: int, first: bool) -> int:
        """None."""
        return 0

    @property
    def _digits(self) -> int:
        digits: int = round(self.beta * 2**DIGITS)
        return digits

    def forward(self, place: Place, training: bool) -> Program:
        """y from x."""
        numbers = self.size, FLOAT(self.alpha / self.size), FLOAT(self.k), self._digits
        return [(normalization.normalize, (place.x.rows, *numbers, self._slots(place)[0], place.y.rows))]

    def backward(self, place: Place) -> Program:
        """dx from dy."""
        if place.dx is None:
            return []
        numbers = FLOAT(self.alpha / self.size), FLOAT(self.k), FLOAT(self._digits / 2**DIGITS), self._digits
        given, room = (place.x.rows, place.dy.rows, self.size), (*self._slots(place), place.dx.rows)
        return [(normalization.normalize_gradient, (*given, *numbers, place.rectified, *room))]

    def _slots(self, place: Place) -> np.ndarray:
        return place.scratch[: 2 * self.size * CHUNK].reshape(2, self.size, CHUNK)
