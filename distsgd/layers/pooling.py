"""Pooling by itself; maxima side by side behind a convolution are taken in the same pass (`Convolution.pool`)."""

from dataclasses import dataclass

from distsgd.config import InputError
from distsgd.kernels import order, pool
from distsgd.layers.place import Border, Place, Program, Shape, Tensor


def _pooled(kind: str, size: tuple[int, int], stride: int, shape: Shape) -> Shape:
    """The shape that comes out. InputError where no window fits."""
    if stride < 1:
        raise InputError(f"{kind} stride {stride}: must be at least 1")
    if shape[1] < size[0] or shape[2] < size[1]:
        raise InputError(f"a {size[0]}x{size[1]} {kind} does not fit an input of {shape[1]}x{shape[2]}")
    return shape[0], (shape[1] - size[0]) // stride + 1, (shape[2] - size[1]) // stride + 1


@dataclass(frozen=True)
class MaxPool:
    """The maximum of each size x size window, `stride` apart (not given: side by side). What no window covers is left out."""

    size: int
    stride: int | None = None

    @property
    def apart(self) -> int:
        """The stride, given or not."""
        return self.size if self.stride is None else self.stride

    def border(self, shape: Shape) -> Border:
        """No zeros, but planes that do not share sets of the cache."""
        return Border().spread(shape)

    def gradient_border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def output(self, shape: Shape) -> Shape:
        """The shape that comes out. InputError where no window fits."""
        if not 0 < self.size <= 16:
            raise InputError(f"pooling size {self.size}: must be 1 to 16")
        return _pooled("pooling", (self.size, self.size), self.apart, shape)

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def flops(self, shape: Shape) -> int:
        """Comparisons for an image forward."""
        channels, height, width = self.output(shape)
        return channels * height * width * self.size**2

    def scratch(self, shape: Shape, batch: int) -> int:
        """None."""
        return 0

    def own(self, shape: Shape, batch: int, first: bool) -> int:
        """None."""
        return 0

    def forward(self, place: Place, training: bool) -> Program:
        """y from x, and which value won."""
        return [(pool.max_pool, (place.x.buffer, self.size, self.apart, place.y.rows, place.winners))]

    def backward(self, place: Place) -> Program:
        """dx from dy."""
        if place.dx is None:
            return []
        sizes, gate = (self.size, self.apart), (place.y.rows, place.rectified)
        return [(pool.max_pool_gradient, (place.dy.buffer, place.winners, *sizes, *gate, place.dx.rows))]


@dataclass(frozen=True)
class AveragePool:
    """The mean of each size x size window, `stride` apart (not given: side by side); without a size, of the whole image."""

    size: int | None = None
    stride: int | None = None

    def _window(self, shape: Shape) -> tuple[tuple[int, int], int]:
        """Rows and columns, and how far apart."""
        size = shape[1:] if self.size is None else (self.size, self.size)
        return size, max(size) if self.stride is None else self.stride

    def border(self, shape: Shape) -> Border:
        """No zeros, but planes that do not share sets of the cache."""
        return Border().spread(shape)

    def gradient_border(self, shape: Shape) -> Border:
        """None."""
        return Border()

    def output(self, shape: Shape) -> Shape:
        """The shape that comes out. InputError where no window fits."""
        if self.size is not None and self.size < 1:
            raise InputError(f"pooling size {self.size}: must be at least 1")
        return _pooled("pooling", *self._window(shape), shape)

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def flops(self, shape: Shape) -> int:
        """Additions for an image forward."""
        (high, wide), (channels, height, width) = self._window(shape)[0], self.output(shape)
        return channels * height * width * high * wide

    def scratch(self, shape: Shape, batch: int) -> int:
        """None."""
        return 0

    def own(self, shape: Shape, batch: int, first: bool) -> int:
        """None."""
        return 0

    def forward(self, place: Place, training: bool) -> Program:
        """y from x."""
        size, stride = self._window(place.x.shape)
        return [(pool.average_pool, (place.x.buffer, *size, stride, place.y.shape[2], place.y.rows))]

    def backward(self, place: Place) -> Program:
        """dx from dy."""
        if place.dx is None:
            return []
        size, stride = self._window(place.x.shape)
        windows = (place.dy.buffer, *size, stride, place.x.rows, place.rectified, place.dx.rows)
        return [(order.clear, (place.dx.inside,)), (pool.average_pool_gradient, windows)]
