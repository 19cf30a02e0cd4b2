"""The optimizers' steps: to the bit what NumPy does in float32, operation by operation, and near float64's."""

import numpy as np
import pytest
from oracle import adam, assert_close, sgd

from distsgd.kernels import update
from distsgd.kernels.update import CHAINS

LENGTHS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 1001]
NORM_LENGTHS = [*LENGTHS, CHAINS - 1, CHAINS, CHAINS + 1, 3 * CHAINS + 5, 100_003]
CANARY = np.float32(-12345.678)
ADAM = np.array([0.1, 0.9, 0.1, 0.999, 0.001, 1, 1e-8, 1, 0], np.float32)


def vectors(length: int, count: int) -> list[np.ndarray]:
    """Return views between canaries, with random values; the last is positive."""
    rng = np.random.default_rng(length)
    drawn = [np.concatenate([[CANARY], rng.normal(size=length), [CANARY]]) for _ in range(count)]
    views = [vector.astype(np.float32)[1:-1] for vector in drawn]
    np.abs(views[-1], out=views[-1])
    return views


def parts(length: int, decays: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and decayed of two tensors (the second, a third, without decay) or, where nothing decays, of one."""
    if not decays:
        return np.array([length]), np.array([False])
    return np.array([length - length // 3, length // 3]), np.array([True, False])


def where(length: int, decays: bool) -> np.ndarray:
    """Which values decay."""
    return np.repeat(*reversed(parts(length, decays)))


def assert_canaries(*views: np.ndarray) -> None:
    for view in views:
        assert view.base[0] == view.base[-1] == CANARY


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("share", "decay"), [(1.0, 0.0), (0.3, 0.25)])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov: bool, share: float, decay: float, momentum: float, length: int) -> None:
    p, g, v = vectors(length, 3)
    rates = np.array([0.05, momentum, share, decay], np.float32)
    decays = where(length, decay > 0)
    exact = (p.astype(np.float64), v.astype(np.float64), share * g.astype(np.float64))
    near = sgd(*exact, 0.05, momentum, nesterov, decay * decays)
    slope = np.where(decays, rates[2] * g + rates[3] * p, rates[2] * g)
    velocity = rates[1] * v + slope
    wanted, gradient = p - rates[0] * (slope + rates[1] * velocity if nesterov else velocity), g.copy()
    update.sgd(p, g, v, rates, nesterov, *parts(length, decay > 0))
    np.testing.assert_array_equal(p, wanted)
    np.testing.assert_array_equal(v, velocity)
    np.testing.assert_array_equal(g, gradient)
    assert_close(p, near[0], 1e-6)
    assert_close(v, near[1], 1e-6)
    assert_canaries(p, g, v)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("number", [1, 2, 1000])
@pytest.mark.parametrize(("share", "decay"), [(1.0, 0.0), (0.3, 0.25)])
def test_adam(share: float, decay: float, number: int, length: int) -> None:
    p, g, m, v = vectors(length, 4)
    settings = (0.01, 0.9, 0.999, 1e-3)  # so large an epsilon that its place in the formula shows
    first, second, decays = 1 - 0.9**number, 1 - 0.999**number, where(length, decay > 0)
    rates = np.array(
        [0.01 / first, 0.9, 0.1, 0.999, 0.001, second**-0.5, 1e-3, share, 0.01 * decay], np.float32
    )
    exact = (p.astype(np.float64), m.astype(np.float64), v.astype(np.float64), share * g.astype(np.float64))
    near, slope = adam(*exact, number, settings, decay * decays), rates[7] * g
    mean, square = rates[1] * m + rates[2] * slope, rates[3] * v + rates[4] * (slope * slope)
    change = rates[0] * mean / (np.sqrt(square) * rates[5] + rates[6])
    wanted, gradient = p - np.where(decays, change + rates[8] * p, change), g.copy()
    update.adam(p, g, m, v, rates, *parts(length, decay > 0))
    np.testing.assert_array_equal(p, wanted)
    np.testing.assert_array_equal(m, mean)
    np.testing.assert_array_equal(v, square)
    np.testing.assert_array_equal(g, gradient)
    for got, value in zip((p, m, v), near, strict=True):
        assert_close(got, value, 1e-6)
    assert_canaries(p, g, m, v)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible_in_its_place_only(bad: float) -> None:
    for place in (0, 8, 20):
        p, g, m, v = vectors(21, 4)
        g[place] = bad
        update.sgd(p, g, m, np.array([0.1, 0.9, 1, 0], np.float32), False, *parts(21))
        assert np.isfinite(p).tolist() == [i != place for i in range(21)]
        p, _, m, v = vectors(21, 4)
        update.adam(p, g, m, v, ADAM, *parts(21))
        assert np.isnan(p).tolist() == [i == place for i in range(21)]


def test_a_parameter_without_gradient_stays_in_adam() -> None:
    p, g, m, v = vectors(9, 4)
    g[:], m[:], v[:], before = 0, 0, 0, p.copy()
    update.adam(p, g, m, v, ADAM, *parts(9))
    np.testing.assert_array_equal(p, before)


def test_without_decay_not_even_the_sign_of_zero_changes() -> None:
    # Zero times a parameter added to a gradient of -0 would be +0.
    p, g, v, m = (np.full(5, value, np.float32) for value in (1, -0.0, -0.0, 0))
    update.sgd(p, g, v, np.array([0.1, 0.9, 1, 0], np.float32), False, *parts(5))
    assert np.signbit(v).all()
    p[:] = -0.0
    update.adam(p, g, v, m, ADAM, *parts(5))
    assert not p.any()


@pytest.mark.parametrize("length", NORM_LENGTHS)
def test_norm(length: int) -> None:
    (vector,) = vectors(length, 1)
    vector *= np.float32(10) ** np.random.default_rng(3).integers(-18, 19, length).astype(np.float32)
    chains = np.full(CHAINS, np.nan)
    exact = np.sqrt(sum(float(value) ** 2 for value in vector))
    assert update.norm(vector, chains) == pytest.approx(exact, rel=1e-14)
    sums = np.zeros(CHAINS)
    for first in range(0, length, CHAINS):
        squares = vector[first : first + CHAINS].astype(np.float64) ** 2
        sums[: len(squares)] += squares
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    assert update.norm(vector, chains) == np.sqrt(sums[0])
    assert_canaries(vector)


def test_the_largest_numbers_have_a_norm() -> None:
    vector, chains = np.full(1000, 3e38, np.float32), np.zeros(CHAINS)
    assert update.norm(vector, chains) == pytest.approx(1000**0.5 * 3e38)
    assert update.norm(np.full(4, 1e-45, np.float32), chains) == 2 * float(np.float32(1e-45))
    assert update.norm(vector[:0], chains) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("length", [1, 16, 17, CHAINS + 3])
def test_what_is_not_finite_has_no_finite_norm(length: int, bad: float) -> None:
    for place in (0, length // 2, length - 1):
        (vector,) = vectors(length, 1)
        vector[place] = bad
        assert not np.isfinite(update.norm(vector, np.zeros(CHAINS)))
