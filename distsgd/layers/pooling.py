"""Max pooling by itself; behind a convolution it is done in the same pass (`Convolution.pool`)."""

from dataclasses import dataclass

from distsgd.config import InputError
from distsgd.kernels import pool
from distsgd.layers.place import Border, Place, Program, Shape, Tensor


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

    def own(self, shape: Shape, batch: int, first: bool) -> int:
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
