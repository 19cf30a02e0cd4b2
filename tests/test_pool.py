"""Max pooling, forward and backward, against loops over windows."""

import numpy as np
import pytest
from oracle import max_pool, max_pool_gradient, slopes

from distsgd.kernels import pool

CANARY = np.float32(-12345.678)
SHAPES = [(1, 2, 2, 16), (3, 7, 9, 16), (2, 12, 11, 48), (5, 16, 17, 32)]
SIZES = [1, 2, 3, 4, 6]


def values(seed: int, shape: tuple[int, ...], many: int = 100) -> np.ndarray:
    """Whole numbers, with many equal ones where `many` is small."""
    return np.random.default_rng(seed).integers(-many, many + 1, shape).astype(np.float32)


def run(x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the maxima, the winners, and the buffer of canaries in which the maxima lie."""
    channels, height, width, batch = (*x.shape[:1], x.shape[1] // size, x.shape[2] // size, x.shape[3])
    winner = np.full((channels, height, width, batch), 255, np.uint8)
    buffer = np.full((channels, height + 3, (width + 2) * batch), CANARY)
    pool.max_pool(x, size, size, buffer[:, 1:-2, batch:-batch], winner)
    maxima = buffer[:, 1:-2, batch:-batch].reshape(winner.shape).copy()
    buffer[:, 1:-2, batch:-batch] = CANARY
    return maxima, winner, buffer


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("many", [1, 1000])
def test_maxima_and_winners(many: int, shape: tuple[int, ...], size: int) -> None:
    if min(shape[1:3]) < size:
        shape = (shape[0], size, size + 1, shape[3])
    x = values(size, shape, many)
    maxima, winner, around = run(x, size)
    wanted, first = max_pool(x, size)
    np.testing.assert_array_equal(maxima, wanted)
    np.testing.assert_array_equal(winner, first)
    assert (around == CANARY).all()


def test_the_largest_window() -> None:
    x = values(1, (1, 16, 33, 16))
    maxima, winner, _ = run(x, 16)
    wanted, first = max_pool(x, 16)
    np.testing.assert_array_equal(maxima, wanted)
    np.testing.assert_array_equal(winner, first)
    x[:] = 0
    x[0, 15, [15, 31]] = 1
    assert (run(x, 16)[1] == 255).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
def test_infinity_is_a_number_like_others(place: int, bad: float) -> None:
    x = values(2, (2, 4, 6, 16))
    x[1, 2 + place // 2, 4 + place % 2, 3] = bad
    maxima, winner, _ = run(x, 2)
    wanted, first = max_pool(x, 2)
    np.testing.assert_array_equal(maxima, wanted)
    np.testing.assert_array_equal(winner, first)


def test_nothing_but_minus_infinity_is_minus_infinity() -> None:
    maxima, winner, _ = run(np.full((1, 2, 2, 16), -np.inf, np.float32), 2)
    assert (maxima == -np.inf).all()
    assert (winner == 0).all()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_go_to_the_winners(shape: tuple[int, ...], size: int, gated: bool) -> None:
    if min(shape[1:3]) < size:
        shape = (shape[0], size, size + 1, shape[3])
    x = values(size, shape, 3)
    x = np.maximum(x, 0) if gated else x
    maxima, first = max_pool(x, size)
    dy, y = values(7, maxima.shape), maxima.astype(np.float32).reshape(*maxima.shape[:2], -1)
    dx = np.full((shape[0], shape[1] + 3, (shape[2] + 2) * shape[3]), CANARY)
    inside = dx[:, 1:-2, shape[3] : -shape[3]]
    pool.max_pool_gradient(dy, first.astype(np.uint8), size, size, y, gated, inside)
    wanted = max_pool_gradient(first, size, np.where(maxima > 0, dy, 0) if gated else dy, shape)
    height, width = maxima.shape[1] * size, maxima.shape[2] * size
    covered = inside[:, :height, : width * shape[3]]
    np.testing.assert_array_equal(covered, wanted[:, :height, :width].reshape(covered.shape))
    covered[:] = CANARY
    assert (dx == CANARY).all()


OVERLAPPING = [(3, 2), (2, 1), (3, 1), (4, 2), (5, 2), (5, 4)]
"""Sizes and strides. 3 and 2 have kernels of their own."""
ODD_AND_EVEN = [(3, 7, 9, 16), (2, 8, 6, 48), (1, 5, 12, 32), (2, 12, 5, 16)]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("window", OVERLAPPING)
@pytest.mark.parametrize("shape", ODD_AND_EVEN)
def test_windows_that_overlap(shape: tuple[int, ...], window: tuple[int, int], gated: bool) -> None:
    x = values(window[0], shape, 2)
    check_overlapping(np.maximum(x, 0) if gated else x, *window, gated)


@pytest.mark.parametrize("window", [*OVERLAPPING, (2, 2), (3, 3)])
def test_of_nans_the_last_wins_and_infinities_are_numbers(window: tuple[int, int]) -> None:
    x = values(window[1], (3, 11, 8, 32), 3)
    chance = np.random.default_rng(5)
    bad = chance.random(x.shape) < 0.1
    x[bad] = chance.choice([np.nan, np.inf, -np.inf], bad.sum())
    maxima, _, winner = pooled(x, *window)
    np.testing.assert_array_equal(maxima, max_pool(x, *window)[0])
    seen = windows_of(x, *window)
    last = len(seen) - 1 - np.isnan(seen[::-1]).argmax(0)
    expected = np.where(np.isnan(seen).any(0), last, np.nan_to_num(seen, nan=-np.inf).argmax(0))
    np.testing.assert_array_equal(winner, expected)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("window", OVERLAPPING)
@pytest.mark.parametrize("shape", ODD_AND_EVEN)
def test_gradients_add_up_in_the_order_of_windows(
    shape: tuple[int, ...], window: tuple[int, int], gated: bool
) -> None:
    """To the bit: a window adds to a value, zero where it is not the winner."""
    chance, (size, stride) = np.random.default_rng(shape[3]), window
    maxima, y, winner = pooled(chance.normal(size=shape).astype(np.float32), size, stride)
    dy = (chance.normal(size=winner.shape) * 10.0 ** chance.integers(-3, 4, winner.shape)).astype(np.float32)
    dy[chance.random(dy.shape) < 0.1] = -0.0
    wanted, dx = np.zeros(shape, np.float32), np.empty((*shape[:2], shape[2] * shape[3]), np.float32)
    for i, j in np.ndindex(winner.shape[1:3]):
        slope = np.where(maxima[:, i, j] > 0, dy[:, i, j], np.float32(0)) if gated else dy[:, i, j]
        for r, s in np.ndindex(size, size):
            won = winner[:, i, j] == r * size + s
            wanted[:, i * stride + r, j * stride + s] += np.where(won, slope, np.float32(0))
    pool.max_pool_gradient(dy, winner, size, stride, y, gated, dx)
    np.testing.assert_array_equal(dx.reshape(shape).view(np.uint32), wanted.view(np.uint32))


def check_overlapping(x: np.ndarray, size: int, stride: int, gated: bool) -> None:
    """Maxima, winners and gradients are the oracle's, and what lies around is left alone."""
    maxima, y, winner = pooled(x, size, stride)
    wanted, first = max_pool(x, size, stride)
    np.testing.assert_array_equal(maxima, wanted)
    np.testing.assert_array_equal(winner, first)
    dy, batch = values(7, winner.shape), x.shape[3]
    dx = np.full((x.shape[0], x.shape[1] + 3, (x.shape[2] + 2) * batch), CANARY)
    inside = dx[:, 1:-2, batch:-batch]
    pool.max_pool_gradient(dy, winner, size, stride, y, gated, inside)
    passed = np.where(wanted > 0, dy, 0) if gated else dy
    expected = max_pool_gradient(first, size, passed, x.shape, stride)
    np.testing.assert_array_equal(inside.reshape(x.shape), expected)
    inside[:] = CANARY
    assert (dx == CANARY).all()


def pooled(x: np.ndarray, size: int, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maxima, the same as rows, and the winners."""
    high, wide = ((side - size) // stride + 1 for side in x.shape[1:3])
    winner = np.full((x.shape[0], high, wide, x.shape[3]), 255, np.uint8)
    y = np.full((x.shape[0], high, wide * x.shape[3]), CANARY)
    pool.max_pool(x, size, stride, y, winner)
    return y.reshape(winner.shape), y, winner


def windows_of(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """The values of every window: its places first."""
    high, wide = ((side - size) // stride + 1 for side in x.shape[1:3])
    rows, columns = stride * np.arange(high), stride * np.arange(wide)
    return np.stack([x[:, rows + r][:, :, columns + s] for r in range(size) for s in range(size)])


@pytest.mark.parametrize("size", [2, 3])
def test_a_nan_gradient_stays_visible_and_a_nan_maximum_lets_it_through(size: int) -> None:
    dy, y = np.ones((1, 1, 1, 16), np.float32), np.zeros((1, 1, 16), np.float32)
    winner, dx = np.full((1, 1, 1, 16), size, np.uint8), np.zeros((1, size, size * 16), np.float32)
    dy[..., 3], y[..., 3:5] = np.nan, (1, np.nan)
    pool.max_pool_gradient(dy, winner, size, 2, y, True, dx)
    np.testing.assert_array_equal(dx[0, 1, 3:6], [np.nan, 1, 0])
    assert not np.delete(dx.reshape(size**2, 16), size, 0).any()


def test_the_oracles_gradient_is_its_slope() -> None:
    rng = np.random.default_rng(3)
    x, dy = rng.normal(size=(2, 5, 7, 3)), rng.normal(size=(2, 2, 3, 3))
    wanted = slopes(lambda x: float((max_pool(x, 2)[0] * dy).sum()), x)
    got = max_pool_gradient(max_pool(x, 2)[1], 2, dy, x.shape)
    np.testing.assert_allclose(got, wanted, atol=1e-8)
