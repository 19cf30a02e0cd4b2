"""Augmentation: which part of each image a step of training sees."""

import numpy as np

from distsgd.kernels.batch import draw_windows
from distsgd.training.experiment import Experiment


class Windows:
    """Draws a window for every image of a batch: the same on any number of ranks, another one in every epoch."""

    def __init__(self, experiment: Experiment, batch: int) -> None:
        augment, images = experiment.config.augment, experiment.images
        _, height, width = experiment.stages[0].shape
        self._seed, self._draw = experiment.config.train.seed, np.zeros(3, np.uint64)
        self._reach = images.height - height, images.width - width, augment.shift, augment.mirror
        self._windows = np.zeros((batch, 3), np.int64)

    def draw(self, worker: int, epoch: int, first: int) -> np.ndarray | None:
        """Windows (kernels.batch.draw_windows) of a worker's images from place `first` of its epoch on; None: all is seen."""
        if not any(self._reach):
            return None
        self._draw[:] = self._seed, worker, epoch
        draw_windows(self._draw, first, *self._reach, self._windows)
        return self._windows
