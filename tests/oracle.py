"""In float64 what every kernel, layer and network is compared with: the slow ways of the benchmark, and what those leave out.

Values are (channels, height, width, batch) as in the package; a border is (top, left, bottom, right) zeros around them. No kernel
is used, and of the layers only what they say of themselves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distsgd import layers, optim
from distsgd.bench.convolution import steps, ways
from distsgd.bench.convolution.steps import Passed

Border = tuple[int, int, int, int]
Back = Callable[[np.ndarray], tuple[np.ndarray, list[np.ndarray]]]
"""From the gradient of what comes out to that of what went in and to those of the parameters."""

NO_BORDER: Border = (0, 0, 0, 0)
ROUNDING = 2.0**-24
"""The largest relative error of one rounding to float32."""


def rounding(terms: int) -> float:
    """How far a float32 sum of so many products may be off, in units of the sum of their magnitudes.

    Roundings go up and down: their sum grows with the square root of their number.
    """
    return 4 * ROUNDING * (2 + math.sqrt(terms))


def assert_close(got: np.ndarray, wanted: np.ndarray, bound: np.ndarray | float) -> None:
    """Fail where |got - wanted| is above `bound` (which broadcasts), or either is not a number."""
    assert got.shape == wanted.shape, f"{got.shape}, wanted {wanted.shape}"
    error = np.abs(got.astype(np.float64) - wanted)
    wrong = ~(error <= bound)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} values wrong, by up to {np.nanmax(error)}"


def slopes(function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient of a function of x by central differences, one value of x at a time."""
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[place] += step
        below[place] -= step
        gradient[place] = (function(above) - function(below)) / (2 * step)
    return gradient


def same_border(size: int) -> Border:
    """Zeros that keep an image's size: an even filter's odd one goes to the bottom and the right."""
    before = (size - 1) // 2
    return before, before, size - 1 - before, size - 1 - before


def convolve(x: np.ndarray, weights: np.ndarray, bias: np.ndarray, border: Border = NO_BORDER) -> np.ndarray:
    """y[k, i, j] = bias[k] + sum over c, r, s of weights[c, r, s, k] x[c, i + r, j + s]."""
    return steps.convolve(ways.matrix, x, weights, bias, layers.Border(*border))


def convolve_gradient(
    x: np.ndarray, weights: np.ndarray, dy: np.ndarray, border: Border = NO_BORDER
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dw and db."""
    zeros = layers.Border(*border)
    dx = steps.convolve_to_data(ways.matrix, weights, dy, zeros)
    return dx, steps.convolve_to_weights(ways.matrix, x, dy, zeros), dy.sum((1, 2, 3))


def strided_border(shape: Sequence[int], size: int, stride: int, padding: int | str) -> Border:
    """The zeros around an image (channels, height, width): "same" keeps the stride-th part of its size, rounded up."""
    if padding == "same":
        both = [max(0, (math.ceil(length / stride) - 1) * stride + size - length) for length in shape[1:3]]
        top, left = (zeros // 2 for zeros in both)
        return top, left, both[0] - top, both[1] - left
    return ({"valid": 0, "full": size - 1}.get(padding, padding),) * 4


def strided_convolve(
    x: np.ndarray, weights: np.ndarray, bias: np.ndarray, border: Border, stride: int
) -> np.ndarray:
    """Every stride-th output of `convolve` in both directions; weights (groups, channels of one, size, size, filters of one)."""
    parts = np.split(x, len(weights))
    biases = np.split(bias, len(weights))
    whole = [convolve(*part, border) for part in zip(parts, weights, biases, strict=True)]
    return np.concatenate(whole)[:, ::stride, ::stride]


def strided_convolve_gradient(
    x: np.ndarray, weights: np.ndarray, dy: np.ndarray, border: Border, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dw and db of `strided_convolve`: outputs between the strides have no gradient."""
    size, (top, left, bottom, right) = weights.shape[2], border
    high, wide = x.shape[1] + top + bottom - size + 1, x.shape[2] + left + right - size + 1
    spread = np.zeros((len(dy), high, wide, dy.shape[3]))
    spread[:, ::stride, ::stride] = dy
    parts = zip(np.split(x, len(weights)), weights, np.split(spread, len(weights)), strict=True)
    dx, dw, db = zip(*(convolve_gradient(*part, border) for part in parts), strict=True)
    return np.concatenate(dx), np.stack(dw), np.concatenate(db)


def max_pool(x: np.ndarray, size: int, stride: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of every window, a NaN if there is one, and the first place where it stands."""
    return steps.max_pool(x, size, stride or size)


def max_pool_gradient(
    winner: np.ndarray, size: int, dy: np.ndarray, shape: tuple[int, ...], stride: int | None = None
) -> np.ndarray:
    """dx of the given shape: the winner of a window gets its gradient, the rest nothing."""
    return steps.max_pool_gradient(winner, size, dy, shape, stride or size)


def average_pool(x: np.ndarray, size: tuple[int, int], stride: int) -> np.ndarray:
    """The mean of every window."""
    return ways.windows(x, *size, stride).mean((1, 2))


def average_pool_gradient(
    size: tuple[int, int], stride: int, dy: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """dx of the given shape: every value of a window gets an equal share of its gradient."""
    dx = np.zeros(shape)
    for i, j in np.ndindex(dy.shape[1:3]):
        dx[:, i * stride :, j * stride :][:, : size[0], : size[1]] += dy[:, None, None, i, j] / math.prod(
            size
        )
    return dx


def _neighbours(c: int, size: int, channels: int) -> slice:
    """The channels that response normalization looks at for one: of an even size one more before than behind."""
    return slice(max(0, c - size // 2), min(channels, c + (size - 1) // 2 + 1))


def response_scale(x: np.ndarray, size: int, alpha: float, k: float) -> np.ndarray:
    """k + alpha times the mean square of a value's neighbours, zeros beyond the first and last channel."""
    scale = np.zeros(x.shape)
    for c in range(len(x)):
        scale[c] = k + alpha / size * (x[_neighbours(c, size, len(x))] ** 2).sum(0)
    return scale


def response_normalization(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """A value over a power of its scale."""
    return x / response_scale(x, size, alpha, k) ** beta


def response_normalization_gradient(
    x: np.ndarray, dy: np.ndarray, size: int, alpha: float, beta: float, k: float
) -> np.ndarray:
    """dx: every output gives back to its own input, and to all in its scale."""
    scale = response_scale(x, size, alpha, k)
    dx = dy / scale**beta
    for c in range(len(x)):
        seen = _neighbours(c, size, len(x))
        dx[seen] -= 2 * alpha / size * beta * (dy[c] * x[c] / scale[c] ** (beta + 1)) * x[seen]
    return dx


def softmax_cross_entropy(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Every image's loss, times the weight of its class if there are weights, and the gradient of their mean to the scores
    (classes, batch)."""
    losses, gradient = steps.softmax_cross_entropy(scores, labels)
    own = np.ones(len(labels)) if weights is None else weights[labels]
    return losses * own, gradient * own


def _mixed(x: int) -> int:
    """splitmix64's finalizer."""
    x &= 2**64 - 1
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def dropout_mask(shape: tuple[int, ...], draw: Sequence[int], layer: int, rate: float) -> np.ndarray:
    """What values are multiplied with, 0 or 1 / (1 - rate), the rate in 65536ths.

    The shape is that of the whole batch, padded images included.
    """
    seed, worker, step = draw
    key = _mixed(_mixed(_mixed(_mixed(seed) + worker) + step) + layer)
    limit = round(float(np.float32(rate)) * 2**16)
    places = (divmod(place, 4) for place in range(math.prod(shape)))
    drawn = ((_mixed(key + four * 0x9E3779B97F4A7C15), quarter) for four, quarter in places)
    kept = [number >> 16 * quarter & 0xFFFF >= limit for number, quarter in drawn]
    return np.array(kept).reshape(shape) / (1 - limit / 2**16)


def fill(
    images: np.ndarray, rows: Sequence[int], mean: np.ndarray, inverse: np.ndarray, lanes: int
) -> np.ndarray:
    """The images of those rows as (channels, height, width, lanes), scaled; zeros beyond the last."""
    _, height, width, channels = images.shape
    x = np.zeros((channels, height, width, lanes))
    for n, row in enumerate(rows):
        for c in range(channels):
            x[c, :, :, n] = (images[row, :, :, c].astype(np.float64) - mean[c]) * inverse[c]
    return x


def windows(
    draw: Sequence[int], first: int, count: int, room: tuple[int, int], shift: int, mirror: bool
) -> list[tuple[int, int, bool]]:
    """Top, left and whether mirrored for the images of an epoch from place `first` on; room: pixels down and right."""
    seed, worker, epoch = draw
    key, found = _mixed(_mixed(_mixed(_mixed(seed) + worker) + epoch) + 2**32), []
    for place in range(first, first + count):
        chance = _mixed(key + place * 0x9E3779B97F4A7C15)
        top, left = (
            math.floor((chance >> bit) % 2**21 / 2**21 * (pixels + 2 * shift + 1)) - shift
            for bit, pixels in zip((43, 22), room, strict=True)
        )
        found.append((top, left, mirror and chance % 2 == 1))
    return found


def fill_windows(
    images: np.ndarray,
    rows: Sequence[int],
    mean: np.ndarray,
    inverse: np.ndarray,
    windows: Sequence[Sequence[int]],
    size: tuple[int, int],
) -> np.ndarray:
    """A window of each of those images, (channels, *size, images), scaled; zero outside of the image."""
    _, height, width, channels = images.shape
    x = np.zeros((channels, *size, len(rows)))
    for n, (row, (top, left, mirrored)) in enumerate(zip(rows, windows, strict=True)):
        for c, i, j in np.ndindex(channels, *size):
            down, right = top + i, left + (size[1] - 1 - j if mirrored else j)
            if 0 <= down < height and 0 <= right < width:
                x[c, i, j, n] = (float(images[row, down, right, c]) - mean[c]) * inverse[c]
    return x


def sgd(
    p: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    rate: float,
    momentum: float,
    nesterov: bool = False,
    decay: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """One step of SGD with momentum, Nesterov's or not, and an L2 penalty: parameters and velocity after it."""
    g = g + decay * p
    v = momentum * v + g
    return p - rate * (g + momentum * v if nesterov else v), v


def adam(
    p: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    number: int,
    settings: Sequence[float],
    decay: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of Adam with the decay of Loshchilov & Hutter (2019), algorithm 2.

    settings: rate, beta1, beta2, epsilon.
    """
    return steps.adam(p - settings[0] * decay * p, m, v, g, number, optim.Adam(*settings))


def clipped(g: np.ndarray, most: float) -> np.ndarray:
    """The gradient, shortened to that 2-norm where it is longer."""
    return g * min(1.0, most / math.sqrt(sum(float(value) ** 2 for value in g)))


def _convolution(layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]) -> Passed:
    border = strided_border(x.shape, layer.size, layer.stride, layer.padding)
    given, bias = next(tensors), next(tensors)
    weights = given.reshape(layer.groups, *given.shape[-4:])

    def back(dy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return strided_convolve_gradient(x, weights, dy, border, layer.stride)

    def to_tensors(dy: np.ndarray) -> list[np.ndarray]:
        _, dw, db = back(dy)
        return [dw.reshape(given.shape), db]

    y = strided_convolve(x, weights, bias, border, layer.stride)
    return Passed(y, lambda dy: back(dy)[0], to_tensors)


def _average_pool(layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]) -> Passed:
    size = x.shape[1:3] if layer.size is None else (layer.size, layer.size)
    stride = layer.stride or max(size)
    y = average_pool(x, size, stride)
    return Passed(y, lambda dy: average_pool_gradient(size, stride, dy, x.shape))


def _response_normalization(layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]) -> Passed:
    settings = layer.size, layer.alpha, layer.beta, layer.k
    y = response_normalization(x, *settings)
    return Passed(y, lambda dy: response_normalization_gradient(x, dy, *settings))


@dataclass(frozen=True)
class Thinned:
    """Dropout as the layer of that number; with no draw everything stays."""

    number: int
    rate: float
    draw: Sequence[int] | None
    lanes: int


def _thinned(layer: Thinned, x: np.ndarray, tensors: Iterator[np.ndarray]) -> Passed:
    if layer.draw is None:
        return Passed(x, lambda dy: dy)
    whole = dropout_mask((*x.shape[:3], layer.lanes), layer.draw, layer.number, layer.rate)
    mask = whole[..., : x.shape[3]]
    return Passed(x * mask, lambda dy: dy * mask)


# Of every stride, in groups; what else the benchmark's networks do not have.
_STEPS = {
    **steps.steps(ways.matrix),
    layers.Convolution: _convolution,
    layers.AveragePool: _average_pool,
    layers.ResponseNormalization: _response_normalization,
    Thinned: _thinned,
}


def forward(
    stack: Sequence[Any],
    tensors: Sequence[np.ndarray],
    x: np.ndarray,
    draw: Sequence[int] | None = None,
    lanes: int = 0,
) -> tuple[np.ndarray, Back]:
    """A network's scores (classes, batch), and its way back; with a draw, dropout thins a batch of so many lanes."""
    passed = steps.forward(_STEPS, list(_numbered(stack, draw, lanes)), tensors, x)
    y = passed[-1].y

    def back(dy: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        dy, gradients = steps.backward(passed, dy.reshape(y.shape))
        return passed[0].to_data(dy), gradients

    return y.reshape(-1, y.shape[3]), back


def _numbered(stack: Sequence[Any], draw: Sequence[int] | None, lanes: int) -> Iterator[Any]:
    """The layers; a dropout with its number, for which a rectifier is a part of the layer before it."""
    number = -1
    for layer in stack:
        number += not isinstance(layer, layers.Rectifier)
        dropped = isinstance(layer, layers.Dropout)
        yield Thinned(number, layer.rate, draw, lanes) if dropped else layer


def learn(
    stack: Sequence[Any], tensors: Sequence[np.ndarray], x: np.ndarray, labels: np.ndarray, **thinning: Any
) -> tuple[float, list[np.ndarray], np.ndarray]:
    """A network's mean loss, its gradients to the parameters, and that to the images."""
    scores, back = forward(stack, tensors, x, **thinning)
    losses, dz = softmax_cross_entropy(scores, labels)
    dx, gradients = back(dz)
    return float(losses.mean()), gradients, dx
