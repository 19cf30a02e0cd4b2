"""A batch on its way into a network: the buffer that its first layer reads, and the room that filling it takes."""

import math
from functools import cached_property

import numpy as np

from distsgd.kernels import batch as batch_kernels
from distsgd.kernels.vector import LANES
from distsgd.layers import Values


class Batch:
    """The images of a step as a network reads them, their labels, and how many they are.

    Two batches may be filled at once, by two threads: they share nothing.
    """

    def __init__(self, images: Values) -> None:
        """images: written by `fill`; its border stays as it is."""
        self.images, self.lanes, self.count = images, images.batch, 0
        self.labels = np.zeros(self.lanes, np.int64)
        self._rows = images.rows
        self._starts, self._part_labels = np.zeros((2, self.lanes), np.int64)
        self._block = np.zeros(LANES * LANES, np.uint8)

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
        if windows is None and images.shape[1:3] == self.images.shape[1:]:
            self._convert(images, labels, order, first, scaling)
            return
        if windows is None:
            windows = self._middle(images.shape[1:3])
        parts, places = self._parts
        batch_kernels.cut(images, labels, order, first, count, windows, parts, self._part_labels)
        self._convert(parts, self._part_labels, places, 0, scaling)
        batch_kernels.blank(windows, count, *images.shape[1:3], self.lanes, self._rows)

    def _convert(
        self, images: np.ndarray, labels: np.ndarray, order: np.ndarray, first: int, scaling: np.ndarray
    ) -> None:
        flat, size = images.reshape(-1), math.prod(images.shape[1:])
        room = self._rows, self._starts, self._block
        batch_kernels.fill(flat, size, labels, order, first, self.count, scaling, *room, self.labels)

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Room for what is cut out of a batch's images, and the order in which it lies there."""
        channels, height, width = self.images.shape
        return np.zeros((self.lanes, height, width, channels), np.uint8), np.arange(self.lanes)

    def _middle(self, size: tuple[int, ...]) -> np.ndarray:
        """The middle of images of that height and width as windows of a whole batch."""
        top, left = ((there - wanted) // 2 for there, wanted in zip(size, self.images.shape[1:], strict=True))
        if top < 0 or left < 0:
            raise ValueError(f"images of {size}, wanted at least {self.images.shape[1:]}")
        return np.tile(np.array([top, left, 0]), (self.lanes, 1))
