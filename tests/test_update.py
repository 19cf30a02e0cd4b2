"""The optimizers' steps: to the bit what NumPy does in float32, operation by operation, and near float64's."""

import numpy as np
import pytest
from oracle import adam, assert_close, sgd

from distsgd.kernels import update

LENGTHS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 1001]
CANARY = np.float32(-12345.678)


def vectors(length: int, count: int) -> list[np.ndarray]:
    """Return views between canaries, with random values; the last is positive."""
    rng = np.random.default_rng(length)
    drawn = [np.concatenate([[CANARY], rng.normal(size=length), [CANARY]]) for _ in range(count)]
    views = [vector.astype(np.float32)[1:-1] for vector in drawn]
    np.abs(views[-1], out=views[-1])
    return views


def assert_canaries(*views: np.ndarray) -> None:
    for view in views:
        assert view.base[0] == view.base[-1] == CANARY


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd(momentum: float, length: int) -> None:
    p, g, v = vectors(length, 3)
    rates = np.array([0.05, momentum], np.float32)
    near = sgd(p.astype(np.float64), v.astype(np.float64), g.astype(np.float64), 0.05, momentum)
    velocity = rates[1] * v + g
    wanted, gradient = p - rates[0] * velocity, g.copy()
    update.sgd(p, g, v, rates)
    np.testing.assert_array_equal(p, wanted)
    np.testing.assert_array_equal(v, velocity)
    np.testing.assert_array_equal(g, gradient)
    assert_close(p, near[0], 1e-6)
    assert_close(v, near[1], 1e-6)
    assert_canaries(p, g, v)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("number", [1, 2, 1000])
def test_adam(number: int, length: int) -> None:
    p, g, m, v = vectors(length, 4)
    settings = (0.01, 0.9, 0.999, 1e-3)  # so large an epsilon that its place in the formula shows
    first, second = 1 - 0.9**number, 1 - 0.999**number
    rates = np.array([0.01 / first, 0.9, 0.1, 0.999, 0.001, second**-0.5, 1e-3], np.float32)
    near = adam(*(x.astype(np.float64) for x in (p, m, v, g)), number, settings)
    mean, square = rates[1] * m + rates[2] * g, rates[3] * v + rates[4] * (g * g)
    wanted, gradient = p - rates[0] * mean / (np.sqrt(square) * rates[5] + rates[6]), g.copy()
    update.adam(p, g, m, v, rates)
    np.testing.assert_array_equal(p, wanted)
    np.testing.assert_array_equal(m, mean)
    np.testing.assert_array_equal(v, square)
    np.testing.assert_array_equal(g, gradient)
    for got, exact in zip((p, m, v), near, strict=True):
        assert_close(got, exact, 1e-6)
    assert_canaries(p, g, m, v)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible_in_its_place_only(bad: float) -> None:
    for place in (0, 8, 20):
        p, g, m, v = vectors(21, 4)
        g[place] = bad
        update.sgd(p, g, m, np.array([0.1, 0.9], np.float32))
        assert np.isfinite(p).tolist() == [i != place for i in range(21)]
        p, _, m, v = vectors(21, 4)
        update.adam(p, g, m, v, np.array([0.1, 0.9, 0.1, 0.999, 0.001, 1, 1e-8], np.float32))
        assert np.isnan(p).tolist() == [i == place for i in range(21)]


def test_a_parameter_without_gradient_stays_in_adam() -> None:
    p, g, m, v = vectors(9, 4)
    g[:], m[:], v[:], before = 0, 0, 0, p.copy()
    update.adam(p, g, m, v, np.array([0.1, 0.9, 0.1, 0.999, 0.001, 1, 1e-8], np.float32))
    np.testing.assert_array_equal(p, before)
