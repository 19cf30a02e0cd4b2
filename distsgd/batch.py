"""A batch on its way into a network: the buffer that its first layer reads, and the room that filling it takes."""

from functools import cached_property
from typing import Literal

import numpy as np

from distsgd.kernels import batch as batch_kernels
from distsgd.kernels.compiled import FLOAT
from distsgd.kernels.vector import LANES
from distsgd.layers import Values

LARGE_BYTES = 1 << 20
"""Of a batch's images. To hand a smaller one to another thread takes about as long as to fill it."""


def prefetches(chosen: bool | Literal["auto"], size: int, spare: bool) -> bool:
    """Whether a thread fills the next batch, whose images have so many bytes: as `data.prefetch` says, or where a core is spare."""
    return size >= LARGE_BYTES and spare if chosen == "auto" else chosen


class Batch:
    """The images of a step as a network reads them, their labels, and how many they are.

    Two batches may be filled at once, by two threads: they share nothing.
    """

    def __init__(self, images: Values) -> None:
        """images: written by `fill`; its border stays as it is."""
        self.images, self.lanes, self.count = images, images.batch, 0
        self.labels = np.zeros(self.lanes, np.int64)
        self._shape, rows = images.shape, images.rows
        channels, _, width = self._shape
        starts, self._part_labels = np.zeros((2, self.lanes), np.int64)
        bytes_of_row = np.zeros(channels * width, np.int64), np.zeros((2, channels * width), FLOAT)
        self._rows = rows
        self._room = rows, starts, np.zeros(LANES * LANES, np.uint8), *bytes_of_row, self.labels

    def fill(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order: np.ndarray,
        first: int,
        count: int,
        scaling: np.ndarray,
        windows: np.ndarray | None = None,
    ) -> None:
        """Make images order[first : first + count] the batch. scaling: (2, channels), mean and 1 / deviation of the bytes.

        Of images larger than the network's the middle; or of each its window, see kernels.batch.draw_windows.
        """
        self.count = count
        size = images.shape[1:3]
        if windows is None:
            if size == self._shape[1:]:
                batch_kernels.fill(images.reshape(-1), labels, order, first, count, scaling, *self._room)
                return
            windows = self._middle(size)
        parts, places = self._parts
        batch_kernels.cut(images, labels, order, first, count, windows, parts, self._part_labels)
        batch_kernels.fill(parts.reshape(-1), self._part_labels, places, 0, count, scaling, *self._room)
        batch_kernels.blank(windows, count, *size, self.lanes, self._rows)

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Room for what is cut out of a batch's images, and the order in which it lies there."""
        channels, height, width = self._shape
        return np.zeros((self.lanes, height, width, channels), np.uint8), np.arange(self.lanes)

    def _middle(self, size: tuple[int, ...]) -> np.ndarray:
        """The middle of images of that height and width as windows of a whole batch."""
        top, left = ((there - wanted) // 2 for there, wanted in zip(size, self._shape[1:], strict=True))
        if top < 0 or left < 0:
            raise ValueError(f"images of {size}, wanted at least {self._shape[1:]}")
        return np.tile(np.array([top, left, 0]), (self.lanes, 1))
