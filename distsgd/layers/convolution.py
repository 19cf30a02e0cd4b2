"""Convolution: its shapes and memory. `convolution_passes` says how it is computed."""

import math
from dataclasses import dataclass

from distsgd.config import InputError
from distsgd.layers import convolution_passes as passes
from distsgd.layers import convolution_phases as phases
from distsgd.layers import scratch as memory
from distsgd.layers.place import Border, Place, Program, Shape, Tensor
from distsgd.layers.pooling import MaxPool

PADDINGS = ("valid", "same", "full")


@dataclass(frozen=True)
class Convolution:
    """`filters` filters of size x size with a bias each: y[k, i, j] = b[k] + sum of w[c, r, s, k] x[c, i stride + r, j stride + s].

    padding: "valid" (none), "same" (the output is as large as the input, or as its stride-th part rounded up; an odd zero goes to
    the bottom and right), "full" (every output that sees any of the image), or a number of zeros on every side. groups: so many
    parts of channels and filters do not see each other (Krizhevsky et al. 2012). pool: above 1, y is the maximum of each
    pool x pool window of that; of what the convolution itself gives only a band of rows or a piece is ever in memory, or nothing.
    """

    filters: int
    size: int
    padding: int | str = "valid"
    stride: int = 1
    groups: int = 1
    pool: int = 1

    def zeros(self, shape: Shape) -> Border:
        """The padding around an input of that shape."""
        if self.padding == "same":
            both = [max(0, (-(-n // self.stride) - 1) * self.stride + self.size - n) for n in shape[1:]]
            top, left = (n // 2 for n in both)
            return Border(top, left, both[0] - top, both[1] - left)
        if self.padding == "full":
            return Border(*[self.size - 1] * 4)
        return Border(*[0 if self.padding == "valid" else int(self.padding)] * 4)

    def border(self, shape: Shape) -> Border:
        """Zeros around an input of that shape; with a stride its phases get them."""
        return self.zeros(shape).spread(shape) if self.stride == 1 else Border()

    def gradient_border(self, shape: Shape) -> Border:
        """Zeros that the gradient of what comes out is given with; that of windows comes without."""
        return Border() if self.pool > 1 else phases.border_back(self, shape)

    def convolved(self, shape: Shape) -> Shape:
        """The shape before pooling. InputError where the filter does not fit."""
        self._check(shape)
        zeros = self.zeros(shape)
        _, height, width = zeros.around(shape)
        if min(height, width) < self.size:
            raise InputError(
                f"a {self.size}x{self.size} convolution does not fit an input of {shape[1]}x{shape[2]}"
            )
        return self.filters, (height - self.size) // self.stride + 1, (width - self.size) // self.stride + 1

    def _check(self, shape: Shape) -> None:
        about = f"a {self.size}x{self.size} convolution"
        number = self.padding if isinstance(self.padding, int) else 0
        if number >= self.size or number < 0:
            raise InputError(f"padding {number} of {about}: must be at least 0 and below {self.size}")
        if isinstance(self.padding, str) and self.padding not in PADDINGS:
            raise InputError(
                f"padding {self.padding!r} of {about}: must be {', '.join(PADDINGS)} or a number"
            )
        if min(self.filters, self.size, self.stride, self.groups) < 1:
            raise InputError(f"{about}: filters, size, stride and groups must be at least 1")
        if shape[0] % self.groups or self.filters % self.groups:
            raise InputError(
                f"{about} in {self.groups} groups: must divide its {shape[0]} channels and its {self.filters} filters"
            )

    def output(self, shape: Shape) -> Shape:
        """The shape that comes out. InputError where the filter or a window does not fit."""
        return MaxPool(self.pool).output(self.convolved(shape))

    def tensors(self, shape: Shape) -> tuple[Tensor, ...]:
        """Weights (channels, size, size, filters), with groups (groups, channels / groups, ...), and biases (filters,)."""
        one = shape[0] // self.groups, self.size, self.size, self.filters // self.groups
        weights = one if self.groups == 1 else (self.groups, *one)
        return Tensor("weights", weights, math.prod(one[:3])), Tensor("bias", (self.filters,), 0)

    def flops(self, shape: Shape) -> int:
        """Floating-point operations for an image forward, a multiplication and an addition counted as two."""
        _, height, width = self.convolved(shape)
        return 2 * height * width * self.tensors(shape)[0].fan_in * self.filters

    def scratch(self, shape: Shape, batch: int) -> int:
        """float32 values of working memory."""
        return passes.scratch(self, shape, batch)

    def own(self, shape: Shape, batch: int, first: bool) -> int:
        """float32 values for the input's phases, and for the gradient before pooling.

        The first layer needs only a band of that, and the chains of `pairs.sum_pairs`; or nothing, see `convolution_shallow`.
        Others need nothing of it where both passes read the gradient of windows.
        """
        strided = phases.phases_size(self, shape, batch)
        if self.pool == 1 or (not first and passes.reads_windows(self, shape)):
            return strided
        if first:
            return strided + memory.room(passes.first_shapes(self, shape, batch))
        return strided + math.prod(phases.border_back(self, shape).around(self.convolved(shape))) * batch

    def shallow(self, shape: Shape) -> tuple[bool, bool]:
        """Whether y is computed by `convolution_shallow`, and whether the gradient to weights is."""
        return passes.shallow_passes(self, shape)

    def forward(self, place: Place, training: bool) -> Program:
        """y from x."""
        return passes.forward(self, place)

    def backward(self, place: Place) -> Program:
        """The gradients to weights and bias, and dx, from dy."""
        return passes.backward(self, place)
