"""Working memory of layers: arrays one after another, each from a cache line on."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

LINE = 16
"""float32 values of a cache line."""


def whole_lines(size: int) -> int:
    """float32 values up to the end of a cache line."""
    return -(-size // LINE) * LINE


def room(shapes: Iterable[Sequence[int]]) -> int:
    """float32 values that arrays of these shapes take."""
    return sum(whole_lines(math.prod(shape)) for shape in shapes)


def parts(scratch: np.ndarray, shapes: Iterable[tuple[int, ...]]) -> list[np.ndarray]:
    """Arrays of these shapes."""
    made = []
    for shape in shapes:
        made.append(scratch[: math.prod(shape)].reshape(shape))
        scratch = scratch[whole_lines(math.prod(shape)) :]
    return made
