"""A network's step in NumPy, forward and back, by any way to convolve: values (channels, height, width, batch) as everywhere.

Arrays of any float type come in and the same type goes out. Convolutions are of stride 1 and one group.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from distsgd.bench.convolution.ways import Convolve, windows
from distsgd.layers import Border, Convolution, Dense, MaxPool, Rectifier
from distsgd.optim import Adam


@dataclass(frozen=True)
class Passed:
    """What a layer gave, and its way back: from the gradient of y to that of x, and to those of its tensors."""

    y: np.ndarray
    to_data: Callable[[np.ndarray], np.ndarray]
    to_tensors: Callable[[np.ndarray], list[np.ndarray]] = lambda dy: []


Step = Callable[[Any, np.ndarray, Iterator[np.ndarray]], Passed]
"""A layer forward: its description, x, and the tensors from which it takes its own."""
Steps = Mapping[type, Step]
"""By the kind of the layer."""


def steps(way: Convolve) -> Steps:
    """Those of layers by a way to convolve; the layers that do not convolve are the same for all."""
    convolving = partial(convolution, way)
    return {Convolution: convolving, Dense: dense, MaxPool: max_pooling, Rectifier: rectifier}


def forward(
    steps: Steps, layers: Sequence[Any], tensors: Sequence[np.ndarray], x: np.ndarray
) -> list[Passed]:
    """What each layer gave; the last one's y, (classes, 1, 1, batch), are the scores."""
    own, passed = iter(tensors), []
    for layer in layers:
        passed.append(steps[type(layer)](layer, x, own))
        x = passed[-1].y
    return passed


def backward(passed: Sequence[Passed], dy: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The gradient of what the first layer gave, and those of all tensors, from that of what the last one gave."""
    gradients = passed[-1].to_tensors(dy)
    for one, before in zip(reversed(passed), reversed(passed[:-1]), strict=False):
        dy = one.to_data(dy)
        gradients = before.to_tensors(dy) + gradients
    return dy, gradients


def learn(
    steps: Steps, layers: Sequence[Any], tensors: Sequence[np.ndarray], x: np.ndarray, labels: np.ndarray
) -> tuple[float, list[np.ndarray]]:
    """The mean loss of a batch, and its gradients to the tensors."""
    passed = forward(steps, layers, tensors, x)
    scores = passed[-1].y
    losses, slope = softmax_cross_entropy(scores.reshape(-1, x.shape[3]), labels)
    return float(losses.mean()), backward(passed, slope.reshape(scores.shape))[1]


def convolution(way: Convolve, layer: Convolution, x: np.ndarray, tensors: Iterator[np.ndarray]) -> Passed:
    """By a way to convolve."""
    weights, bias, zeros = next(tensors), next(tensors), layer.zeros(x.shape[:3])

    def to_tensors(dy: np.ndarray) -> list[np.ndarray]:
        return [convolve_to_weights(way, x, dy, zeros), dy.sum((1, 2, 3))]

    y = convolve(way, x, weights, bias, zeros)
    return Passed(y, partial(convolve_to_data, way, weights, zeros=zeros), to_tensors)


def convolve(
    way: Convolve, x: np.ndarray, weights: np.ndarray, bias: np.ndarray, zeros: Border
) -> np.ndarray:
    """The layer's y."""
    y = way(bordered(x, zeros), weights)
    y += bias[:, None, None, None]
    return y


def convolve_to_weights(way: Convolve, x: np.ndarray, dy: np.ndarray, zeros: Border) -> np.ndarray:
    """The convolution of x by the gradient of y: images are its channels, channels its images."""
    return _swapped(way(_swapped(bordered(x, zeros)), _swapped(dy)))


def convolve_to_data(way: Convolve, weights: np.ndarray, dy: np.ndarray, zeros: Border) -> np.ndarray:
    """The full convolution of the gradient of y by the flipped filters: channels are its filters, filters its channels."""
    high, wide = weights.shape[1] - 1, weights.shape[2] - 1
    flipped = _swapped(weights[:, ::-1, ::-1])
    dx = way(bordered(dy, Border(high, wide, high, wide)), flipped)
    return dx[:, zeros.top : dx.shape[1] - zeros.bottom, zeros.left : dx.shape[2] - zeros.right]


def _swapped(values: np.ndarray) -> np.ndarray:
    """The first axis is the last, and the last the first."""
    return values.swapaxes(0, 3)


def bordered(x: np.ndarray, zeros: Border) -> np.ndarray:
    """The values with zeros around them."""
    return np.pad(x, ((0, 0), (zeros.top, zeros.bottom), (zeros.left, zeros.right), (0, 0)))


def dense(layer: Dense, x: np.ndarray, tensors: Iterator[np.ndarray]) -> Passed:
    """A product of matrices."""
    weights, flat = next(tensors), x.reshape(-1, x.shape[3])
    scores = weights.T @ flat
    if layer.bias:
        scores += next(tensors)[:, None]

    def to_data(dy: np.ndarray) -> np.ndarray:
        return (weights @ dy.reshape(scores.shape)).reshape(x.shape)

    def to_tensors(dy: np.ndarray) -> list[np.ndarray]:
        dy = dy.reshape(scores.shape)
        return [flat @ dy.T, dy.sum(1)][: 1 + layer.bias]

    return Passed(scores.reshape(layer.units, 1, 1, -1), to_data, to_tensors)


def max_pooling(layer: MaxPool, x: np.ndarray, tensors: Iterator[np.ndarray]) -> Passed:
    """The gradient goes to the winners."""
    y, winner = max_pool(x, layer.size, layer.apart)
    return Passed(y, lambda dy: max_pool_gradient(winner, layer.size, dy, x.shape, layer.apart))


def max_pool(x: np.ndarray, size: int, apart: int) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of every window, a NaN if there is one, and the first place where it stands."""
    seen = windows(x, size, size, apart)
    flat = seen.reshape(len(x), size * size, *seen.shape[3:])
    winner = flat.argmax(1)  # the first NaN, if there is one
    return np.take_along_axis(flat, winner[:, None], 1)[:, 0], winner


def max_pool_gradient(
    winner: np.ndarray, size: int, dy: np.ndarray, shape: tuple[int, ...], apart: int
) -> np.ndarray:
    """dx of the given shape: the winner of a window gets its gradient, the rest nothing."""
    dx = np.zeros(shape, dy.dtype)
    for place in range(size * size):
        row, column = divmod(place, size)
        down = slice(row, row + apart * dy.shape[1], apart)
        right = slice(column, column + apart * dy.shape[2], apart)
        dx[:, down, right] += np.where(winner == place, dy, 0)
    return dx


def rectifier(layer: Rectifier, x: np.ndarray, tensors: Iterator[np.ndarray]) -> Passed:
    """max(x, 0)."""
    return Passed(np.maximum(x, 0), lambda dy: dy * (x > 0))


def softmax_cross_entropy(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every image's loss, and the gradient of their mean to the scores (classes, batch)."""
    images, below = np.arange(len(labels)), scores - scores.max(0)
    shares = np.exp(below)
    totals = shares.sum(0)
    losses, shares = np.log(totals) - below[labels, images], shares / totals
    shares[labels, images] -= 1
    return losses, shares / len(labels)


def adam(
    p: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, number: int, settings: Adam
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of Adam, algorithm 1 of Kingma & Ba (2015), line by line, the number-th: parameters and moments after it."""
    m = settings.beta1 * m + (1 - settings.beta1) * g
    v = settings.beta2 * v + (1 - settings.beta2) * g * g
    m_hat, v_hat = m / (1 - settings.beta1**number), v / (1 - settings.beta2**number)
    return p - settings.learning_rate * m_hat / (np.sqrt(v_hat) + settings.epsilon), m, v
