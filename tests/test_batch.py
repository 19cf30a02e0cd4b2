"""Batches from bytes: the right image in the right lane, scaled, inside its border."""

import numpy as np
import pytest
from oracle import assert_close, fill

from distsgd.kernels import batch

CANARY = np.float32(-12345.678)


def images(channels: int, height: int = 3, width: int = 5, samples: int = 90) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 256, (samples, height, width, channels)).astype(np.uint8)


def run(
    pictures: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    span: tuple[int, int],
    scaling: np.ndarray,
    lanes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill a batch inside a buffer of canaries: return it as (channels, height, width, batch), and its labels."""
    _, height, width, channels = pictures.shape
    buffer, y, starts = np.full((channels, height + 4, width + 7, lanes), CANARY), *np.full((2, lanes), -1)
    rows = buffer.reshape(channels, height + 4, -1)[:, 1:-3, 2 * lanes : -5 * lanes]
    batch.fill(pictures.reshape(-1), pictures[0].size, labels, order, *span, scaling, rows, starts, y)
    filled = buffer[:, 1:-3, 2:-5].copy()
    buffer[:, 1:-3, 2:-5] = CANARY
    assert (buffer == CANARY).all()
    return filled, y


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 23, 32, 33, 48, 70])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spare", [0, 16, 32])
def test_images_and_labels(spare: int, channels: int, count: int) -> None:
    pictures, labels = images(channels), np.arange(1000, 1090)
    order, lanes = np.random.default_rng(9).permutation(90), max(16, -(-count // 16) * 16) + spare
    scaling = np.array([[10.5, 128, 99][:channels], [0.0123, 0.5, 1 / 77][:channels]], np.float32)
    x, y = run(pictures, labels, order, (7, count), scaling, lanes)
    rows = order[7 : 7 + count]
    wanted = fill(pictures, rows, *scaling.astype(np.float64), lanes)
    assert_close(x, wanted, 2.0**-22 * abs(wanted))
    assert not x[..., count:].any()
    assert y.tolist() == [*labels[rows], *[0] * (lanes - count)]


def test_the_last_images_of_an_order_need_none_behind_them() -> None:
    # Lanes without an image must not ask the order or the labels for one: -1 and 10**9 are far outside of both.
    order = np.array([*[10**9] * 3, 4, 89, -1, 10**9])
    x, y = run(images(1), np.arange(90), order, (3, 2), np.ones((2, 1), np.float32), 16)
    assert y.tolist() == [4, 89, *[0] * 14]
    assert x[..., :2].any()
    assert not x[..., 2:].any()


def test_a_byte_is_scaled_to_the_bit_as_written() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    scaling, order = np.array([[33.318], [1 / 78.567]], np.float32), np.arange(256)
    x, _ = run(every, order, order, (0, 256), scaling, 256)
    wanted = (np.arange(256, dtype=np.float32) - scaling[0]) * scaling[1]
    np.testing.assert_array_equal(x[0, 0, 0], wanted)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_moments_are_exact_and_added(channels: int) -> None:
    pictures = images(channels)
    sums = np.arange(2 * channels).reshape(2, channels)
    for part in np.split(pictures, [0, 20, 21]):
        batch.moments(part, sums)
    values = pictures.reshape(-1, channels).astype(np.int64)
    exact = np.stack([values.sum(0), (values**2).sum(0)])
    np.testing.assert_array_equal(sums, exact + np.arange(2 * channels).reshape(2, channels))


def test_moments_do_not_overflow_32_bits() -> None:
    sums = np.zeros((2, 1), np.int64)
    batch.moments(np.full((70, 32, 32, 1), 255, np.uint8), sums)
    assert sums.tolist() == [[71680 * 255], [71680 * 255**2]]
