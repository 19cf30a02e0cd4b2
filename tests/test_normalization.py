"""Local response normalization's kernels against loops over channels, and against PyTorch's."""

import numpy as np
import oracle
import pytest

from distsgd.kernels import normalization
from distsgd.kernels.normalization import CHUNK, DIGITS

CANARY = np.float32(-12345.678)
ALPHA, K = 0.4, 1.5
SHAPES = [(1, 2, 3, 16), (2, 3, 1, 48), (3, 1, 11, 16), (6, 3, 40, 16), (11, 2, 5, 112)]


def numbers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(
    x: np.ndarray, dy: np.ndarray, size: int, beta: float, gated: bool = False, alpha: float = ALPHA
) -> list[np.ndarray]:
    """y and dx, made in the middle of canaries; slots hold canaries before."""
    channels, height, _, batch = x.shape
    share, k, digits = np.float32(alpha / size), np.float32(K), round(beta * 2**DIGITS)
    slots, found = np.full((2, size, CHUNK), CANARY), []
    for back in (False, True):
        buffer = np.full((channels, height + 3, (x.shape[2] + 2) * batch), CANARY)
        inside = buffer[:, 1:-2, batch:-batch]
        rows, slopes = (array.reshape(inside.shape) for array in (x, dy))
        if back:
            settings = size, share, k, np.float32(beta), digits, gated
            normalization.normalize_gradient(rows, slopes, *settings, *slots, inside)
        else:
            normalization.normalize(rows, size, share, k, digits, slots[0], inside)
        found.append(inside.reshape(x.shape).copy())
        inside[:] = CANARY
        assert (buffer == CANARY).all()
    return found


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 1.0, 0.6, 2.3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape: tuple[int, ...], size: int, beta: float, gated: bool) -> None:
    x, dy = numbers(size, shape), numbers(9, shape)
    x = np.maximum(x, 0) if gated else x
    y, dx = run(x, dy, size, beta, gated)
    exact, slopes = x.astype(np.float64), dy.astype(np.float64)
    oracle.assert_close(y, oracle.response_normalization(exact, size, ALPHA, beta, K), 2e-6 * abs(x))
    wanted = oracle.response_normalization_gradient(exact, slopes, size, ALPHA, beta, K)
    oracle.assert_close(dx, wanted * (x > 0) if gated else wanted, 1e-5)


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("size", range(1, 9))
def test_pytorch_agrees_for_any_number_of_channels(size: int, channels: int) -> None:
    torch = pytest.importorskip("torch", reason="NO SECOND OPINION: PyTorch is not installed")
    x, dy = numbers(size, (channels, 2, 3, 16)), numbers(channels, (channels, 2, 3, 16))
    y, dx = run(x, dy, size, 0.75)
    theirs = torch.tensor(np.moveaxis(x, 3, 0).astype(np.float64), requires_grad=True)
    normalized = torch.nn.functional.local_response_norm(theirs, size, ALPHA, 0.75, K)
    normalized.backward(torch.tensor(np.moveaxis(dy, 3, 0).astype(np.float64)))
    oracle.assert_close(y, np.moveaxis(normalized.detach().numpy(), 0, 3), 2e-6 * abs(x))
    oracle.assert_close(dx, np.moveaxis(theirs.grad.numpy(), 0, 3), 1e-5)


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 1.0, 1.75])
def test_quarters_are_right_to_some_of_the_last_bits_for_scales_of_any_size(beta: float) -> None:
    """Scales from `K` to 4e17; powers of more would be too small for a float32."""
    x = np.geomspace(1e-3, 1e9, 4096).astype(np.float32).reshape(1, 2, 1, 2048)
    y, dx = run(x, x, 1, beta)
    doubles = x.astype(np.float64)
    exact = oracle.response_normalization(doubles, 1, ALPHA, beta, K)
    slopes = oracle.response_normalization_gradient(doubles, doubles, 1, ALPHA, beta, K)
    np.testing.assert_allclose(y, exact, rtol=4e-7 * (1 + 2 * beta))
    oracle.assert_close(
        dx, slopes, 4e-7 * (1 + 2 * beta) * (1 + 2 * beta) * abs(exact)
    )  # a difference of two such


def test_by_hand() -> None:
    # One pixel of three channels, size 2: a channel sees itself and the one before. k + alpha / 2 * (1 + 4) = 2.5 for the second.
    x = np.zeros((3, 1, 1, 16), np.float32)
    x[:, 0, 0, 5] = 1, 2, 3
    y, _ = run(x, x, 2, 1.0)
    np.testing.assert_allclose(y[:, 0, 0, 5], [1 / 1.7, 2 / 2.5, 3 / 4.1], rtol=1e-6)
    assert not np.delete(y, 5, 3).any()


def test_a_nan_stays_visible_and_among_its_neighbours() -> None:
    x, dy = numbers(1, (7, 3, 4, 32)), numbers(2, (7, 3, 4, 32))
    x[3, 1, 2, 20] = np.nan
    y, dx = run(x, dy, 3, 0.75)
    expected = np.zeros(x.shape, bool)
    expected[2:5, 1, 2, 20] = True
    np.testing.assert_array_equal(np.isnan(y), expected)
    expected[1:6, 1, 2, 20] = True  # a neighbour's neighbour
    np.testing.assert_array_equal(np.isnan(dx), expected)


def test_numbers_too_large_to_be_squared_become_zero_not_nan() -> None:
    x = np.full((2, 1, 1, 16), 1e30, np.float32)
    y, dx = run(x, x, 5, 0.75)
    assert not y.any()
    assert np.isfinite(dx).all()


def test_without_alpha_only_k_counts() -> None:
    x, dy = numbers(1, (3, 2, 2, 16)), numbers(2, (3, 2, 2, 16))
    for got, given in zip(run(x, dy, 5, 1.0, alpha=0.0), (x, dy), strict=True):
        np.testing.assert_allclose(got, given / K, rtol=1e-6)
