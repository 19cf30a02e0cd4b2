"""Naive loops in float64: what every kernel, layer and network is compared with.

Values are (channels, height, width, batch) as in the package; a border is (top, left, bottom, right) zeros around them. Nothing of
the package is used but what its layers say of themselves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

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


def bordered(x: np.ndarray, border: Border) -> np.ndarray:
    """The values with zeros around them."""
    top, left, bottom, right = border
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def convolve(x: np.ndarray, weights: np.ndarray, bias: np.ndarray, border: Border = NO_BORDER) -> np.ndarray:
    """y[k, i, j] = bias[k] + sum over c, r, s of weights[c, r, s, k] x[c, i + r, j + s]."""
    x, size = bordered(x, border), weights.shape[1]
    _, height, width, batch = x.shape
    y = np.zeros((weights.shape[3], height - size + 1, width - size + 1, batch))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = x[:, i : i + size, j : j + size]
            y[:, i, j] = bias[:, None] + np.tensordot(weights, window, ([0, 1, 2], [0, 1, 2]))
    return y


def convolve_gradient(
    x: np.ndarray, weights: np.ndarray, dy: np.ndarray, border: Border = NO_BORDER
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dw and db, each the sum of what every output position gives back."""
    x, size = bordered(x, border), weights.shape[1]
    dx, dw = np.zeros(x.shape), np.zeros(weights.shape)
    for i in range(dy.shape[1]):
        for j in range(dy.shape[2]):
            window = (slice(None), slice(i, i + size), slice(j, j + size))
            dx[window] += np.tensordot(weights, dy[:, i, j], (3, 0))
            dw += np.tensordot(x[window], dy[:, i, j], (3, 1))
    top, left, bottom, right = border
    inside = dx[:, top : dx.shape[1] - bottom, left : dx.shape[2] - right]
    return inside, dw, dy.sum((1, 2, 3))


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


def pooling_windows(
    shape: Sequence[int], size: tuple[int, int], stride: int
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice, slice]]]:
    """Each window of an image: the output's row and column, and where in the image it is."""
    for i in range((shape[1] - size[0]) // stride + 1):
        for j in range((shape[2] - size[1]) // stride + 1):
            place = slice(i * stride, i * stride + size[0]), slice(j * stride, j * stride + size[1])
            yield (i, j), (slice(None), *place)


def max_pool(x: np.ndarray, size: int, stride: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of every window, a NaN if there is one, and the first place where it stands."""
    found = dict(pooling_windows(x.shape, (size, size), stride or size))
    height, width = (last + 1 for last in max(found))
    y = np.zeros((len(x), height, width, x.shape[3]))
    winner = np.zeros(y.shape, np.int64)
    for (i, j), place in found.items():
        window = x[place].reshape(len(x), -1, x.shape[3])
        winner[:, i, j] = window.argmax(1)  # the first NaN, if there is one
        y[:, i, j] = np.take_along_axis(window, winner[:, None, i, j], 1)[:, 0]
    return y, winner


def max_pool_gradient(
    winner: np.ndarray, size: int, dy: np.ndarray, shape: tuple[int, ...], stride: int | None = None
) -> np.ndarray:
    """dx of the given shape: the winner of a window gets its gradient, the rest nothing."""
    dx = np.zeros(shape)
    for c, i, j, n in np.ndindex(dy.shape):
        row, column = divmod(winner[c, i, j, n], size)
        dx[c, i * (stride or size) + row, j * (stride or size) + column, n] += dy[c, i, j, n]
    return dx


def average_pool(x: np.ndarray, size: tuple[int, int], stride: int) -> np.ndarray:
    """The mean of every window."""
    found = dict(pooling_windows(x.shape, size, stride))
    height, width = (last + 1 for last in max(found))
    y = np.zeros((len(x), height, width, x.shape[3]))
    for (i, j), place in found.items():
        y[:, i, j] = x[place].mean((1, 2))
    return y


def average_pool_gradient(
    size: tuple[int, int], stride: int, dy: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """dx of the given shape: every value of a window gets an equal share of its gradient."""
    dx = np.zeros(shape)
    for (i, j), place in pooling_windows(shape, size, stride):
        dx[place] += dy[:, None, None, i, j] / (size[0] * size[1])
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
    losses, gradient = np.zeros(len(labels)), np.zeros(scores.shape)
    for n, label in enumerate(labels):
        below = scores[:, n] - scores[:, n].max()
        total = np.exp(below).sum()
        losses[n] = np.log(total) - below[label]
        gradient[:, n] = np.exp(below) / total
        gradient[label, n] -= 1
        if weights is not None:
            losses[n] *= weights[label]
            gradient[:, n] *= weights[label]
    return losses, gradient / len(labels)


def _mixed(x: int) -> int:
    """splitmix64's finalizer."""
    x &= 2**64 - 1
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def dropout_mask(shape: tuple[int, ...], draw: Sequence[int], layer: int, rate: float) -> np.ndarray:
    """What values are multiplied with, 0 or 1 / (1 - rate); the shape is that of the whole batch, padded images included."""
    seed, worker, step = draw
    key = _mixed(_mixed(_mixed(_mixed(seed) + worker) + step) + layer)
    limit = int(np.float32(rate) * 2.0**32)
    places = range(math.prod(shape))
    kept = [_mixed(key + place * 0x9E3779B97F4A7C15) >> 32 >= limit for place in places]
    return np.array(kept).reshape(shape) / (1 - float(np.float32(rate)))


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
    """One step of Adam, algorithm 1 of Kingma & Ba (2015), line by line, with the decay of Loshchilov & Hutter (2019), algorithm 2.

    settings: rate, beta1, beta2, epsilon.
    """
    rate, beta1, beta2, epsilon = settings
    p = p - rate * decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**number), v / (1 - beta2**number)
    return p - rate * m_hat / (np.sqrt(v_hat) + epsilon), m, v


def clipped(g: np.ndarray, most: float) -> np.ndarray:
    """The gradient, shortened to that 2-norm where it is longer."""
    return g * min(1.0, most / math.sqrt(sum(float(value) ** 2 for value in g)))


def _convolution(layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]) -> tuple[np.ndarray, Back]:
    border = strided_border(x.shape, layer.size, layer.stride, layer.padding)
    given, bias = next(tensors), next(tensors)
    weights = given.reshape(layer.groups, *given.shape[-4:])

    def back(dy: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        dx, dw, db = strided_convolve_gradient(x, weights, dy, border, layer.stride)
        return dx, [dw.reshape(given.shape), db]

    return strided_convolve(x, weights, bias, border, layer.stride), back


def _dense(layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]) -> tuple[np.ndarray, Back]:
    weights, flat = next(tensors), x.reshape(-1, x.shape[3])
    bias = next(tensors) if layer.bias else np.zeros(layer.units)

    def back(dy: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        dy = dy.reshape(layer.units, -1)
        gradients = [flat @ dy.T, dy.sum(1)]
        return (weights @ dy).reshape(x.shape), gradients[: 1 + layer.bias]

    return (weights.T @ flat + bias[:, None]).reshape(layer.units, 1, 1, -1), back


def _max_pool(layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]) -> tuple[np.ndarray, Back]:
    y, winner = max_pool(x, layer.size, layer.stride)
    return y, lambda dy: (max_pool_gradient(winner, layer.size, dy, x.shape, layer.stride), [])


def _average_pool(layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]) -> tuple[np.ndarray, Back]:
    size = x.shape[1:3] if layer.size is None else (layer.size, layer.size)
    stride = layer.stride or max(size)
    return average_pool(x, size, stride), lambda dy: (average_pool_gradient(size, stride, dy, x.shape), [])


def _response_normalization(
    layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]
) -> tuple[np.ndarray, Back]:
    settings = layer.size, layer.alpha, layer.beta, layer.k
    y = response_normalization(x, *settings)
    return y, lambda dy: (response_normalization_gradient(x, dy, *settings), [])


def _rectifier(layer: Any, x: np.ndarray, tensors: Iterator[np.ndarray]) -> tuple[np.ndarray, Back]:
    return np.maximum(x, 0), lambda dy: (dy * (x > 0), [])


_STEPS = {
    "Convolution": _convolution,
    "Dense": _dense,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Rectifier": _rectifier,
    "ResponseNormalization": _response_normalization,
}


def forward(
    layers: Sequence[Any],
    tensors: Sequence[np.ndarray],
    x: np.ndarray,
    draw: Sequence[int] | None = None,
    lanes: int = 0,
) -> tuple[np.ndarray, Back]:
    """A network's scores (classes, batch), and its way back; with a draw, dropout thins a batch of so many lanes."""
    tensors, backs, number = iter(tensors), [], -1
    for layer in layers:
        kind = type(layer).__name__
        number += kind != "Rectifier"  # it is a part of the layer before it
        if kind == "Dropout":
            mask = _thinned(x, draw, number, layer.rate, lanes)
            x, back = x * mask, lambda dy, mask=mask: (dy * mask, [])
        else:
            x, back = _STEPS[kind](layer, x, tensors)
        backs.append(back)
    shape = x.shape

    def way_back(dy: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        dy, gradients = dy.reshape(shape), []
        for back in reversed(backs):
            dy, own = back(dy)
            gradients = own + gradients
        return dy, gradients

    return x.reshape(-1, x.shape[3]), way_back


def _thinned(
    x: np.ndarray, draw: Sequence[int] | None, number: int, rate: float, lanes: int
) -> np.ndarray | float:
    if draw is None:
        return 1.0
    return dropout_mask((*x.shape[:3], lanes), draw, number, rate)[..., : x.shape[3]]


def learn(
    layers: Sequence[Any], tensors: Sequence[np.ndarray], x: np.ndarray, labels: np.ndarray, **thinning: Any
) -> tuple[float, list[np.ndarray], np.ndarray]:
    """A network's mean loss, its gradients to the parameters, and that to the images."""
    scores, back = forward(layers, tensors, x, **thinning)
    losses, dz = softmax_cross_entropy(scores, labels)
    dx, gradients = back(dz)
    return float(losses.mean()), gradients, dx
