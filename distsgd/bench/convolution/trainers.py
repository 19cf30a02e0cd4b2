"""Training steps in NumPy by any way to convolve: by one process, or by several that share the images of each batch."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from distsgd import network, zoo
from distsgd.bench.convolution import steps
from distsgd.bench.convolution.ways import Convolve
from distsgd.bench.training import Task
from distsgd.optim import Adam
from distsgd.zoo import Layers

Learn = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""From flat parameters, images (channels, height, width, batch) and labels to their mean loss and its flat gradient."""


@dataclass(frozen=True)
class OneProcess:
    """Learns from a batch by a way to convolve. shapes: of the tensors of those layers, in order."""

    way: Convolve
    layers: Layers
    shapes: Sequence[tuple[int, ...]]

    def __call__(
        self, parameters: np.ndarray, images: np.ndarray, labels: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The mean loss and its flat gradient."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = np.split(parameters, ends)
        tensors = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        loss, gradients = steps.learn(steps.steps(self.way), self.layers, tensors, images, labels)
        return loss, np.concatenate([gradient.ravel() for gradient in gradients])


@dataclass(frozen=True)
class Processes:
    """Those of a pool: each learns from its part of a batch's images, and what they find is added."""

    one: OneProcess
    pool: Executor
    number: int

    def __call__(
        self, parameters: np.ndarray, images: np.ndarray, labels: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The mean loss and its flat gradient."""
        number = min(self.number, len(labels))
        dealt = np.array_split(labels, number)
        found = self.pool.map(self.one, repeat(parameters), np.array_split(images, number, axis=3), dealt)
        loss, gradient = 0.0, np.zeros_like(parameters)
        for own, (its_loss, its_gradient) in zip(dealt, found, strict=True):
            share = len(own) / len(labels)
            loss += share * its_loss
            gradient += share * its_gradient
        return loss, gradient


class InNumpy:
    """A task's training steps by NumPy and Adam, on float32 batches made beforehand: no bytes to convert."""

    def __init__(self, task: Task, learn: Learn) -> None:
        """At the task's start of seed 0."""
        assert isinstance(task.optimizer, Adam)  # that of the documents
        images, self._labels = task.images.batches(task.batch)
        self._images = [np.ascontiguousarray(batch.transpose(1, 2, 3, 0)) for batch in images]
        self._learn, self._settings = learn, task.optimizer
        self.parameters, self.loss = task.start(0), math.nan
        self.gradient = np.zeros_like(self.parameters)
        self._first = self._second = self.gradient

    def step(self, number: int) -> None:
        """Take the step of that number, counted from 0, on the batch whose turn it is."""
        turn = number % len(self._images)
        self.loss, self.gradient = self._learn(self.parameters, self._images[turn], self._labels[turn])
        moved = self.parameters, self._first, self._second
        moved = steps.adam(*moved, self.gradient, number + 1, self._settings)
        self.parameters, self._first, self._second = moved


def one_process(task: Task, way: Convolve) -> OneProcess:
    """One that learns the network of the zoo that a task is named for."""
    shapes = [tensor.shape for tensor in network.tensors(task.stages)]
    return OneProcess(way, zoo.layers(task.name, task.images.classes), shapes)
