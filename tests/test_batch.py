"""Batches from bytes: the right image in the right lane, scaled, inside its border."""

import numpy as np
import pytest
from oracle import assert_close, fill

from distsgd.kernels import batch

CANARY = np.float32(-12345.678)


def images(channels: int, height: int = 3, width: int = 5, samples: int = 90) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 256, (samples, height, width, channels)).astype(np.uint8)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 23, 32, 33, 48, 70])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("border", [(0, 0, 0, 0), (1, 2, 3, 4)])
def test_images_and_labels(border: tuple[int, int, int, int], channels: int, count: int) -> None:
    top, left, bottom, right = border
    pictures, labels = images(channels), np.arange(1000, 1090)
    order = np.random.default_rng(9).permutation(90)
    scaling = np.array([[10.5, 128, 99][:channels], [0.0123, 0.5, 1 / 77][:channels]], np.float32)
    lanes = max(16, -(-count // 16) * 16)
    x = np.full((channels, top + 3 + bottom, left + 5 + right, lanes), CANARY)
    y = np.full(lanes, -1)
    batch.fill(pictures, labels, order, 7, count, scaling, x, top, left, y)
    rows = order[7 : 7 + count]
    wanted = fill(pictures, rows, *scaling.astype(np.float64), lanes)
    inside = x[:, top : top + 3, left : left + 5]
    assert_close(inside, wanted, 2.0**-22 * abs(wanted))
    assert not inside[..., count:].any()
    assert y.tolist() == [*labels[rows], *[0] * (lanes - count)]
    inside[:] = CANARY
    assert (x == CANARY).all()


def test_more_lanes_than_the_images_need_are_emptied() -> None:
    x, y = np.full((1, 3, 5, 64), CANARY), np.full(64, -1)
    batch.fill(images(1), np.ones(90, np.int64), np.arange(90), 0, 5, np.ones((2, 1), np.float32), x, 0, 0, y)
    assert not x[..., 5:].any()
    assert y.tolist() == [1] * 5 + [0] * 59


def test_a_byte_is_scaled_to_the_bit_as_written() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    scaling = np.array([[33.318], [1 / 78.567]], np.float32)
    x, y = np.zeros((1, 1, 1, 256), np.float32), np.zeros(256, np.int64)
    batch.fill(every, np.zeros(256, np.int64), np.arange(256), 0, 256, scaling, x, 0, 0, y)
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
