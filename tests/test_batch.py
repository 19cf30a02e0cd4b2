"""Batches from bytes: the right image in the right lane, scaled, inside its border."""

import numpy as np
import pytest
from oracle import assert_close, fill, fill_windows, windows

from distsgd.kernels import batch
from distsgd.kernels.vector import aligned
from distsgd.layers import Dense
from distsgd.network import Network, plan

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
    room = np.full(256, 77, np.uint8), np.full(width * channels, -1), np.full((2, width * channels), CANARY)
    batch.fill(pictures.reshape(-1), labels, order, *span, scaling, rows, starts, *room, y)
    filled = buffer[:, 1:-3, 2:-5].copy()
    buffer[:, 1:-3, 2:-5] = CANARY
    assert (buffer == CANARY).all()
    return filled, y


# Bytes of a row: fewer than a block of 16, as many, some more, several blocks, and a rest.
SIZES = [(3, 5), (1, 1), (4, 16), (5, 16), (2, 9), (3, 37)]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 23, 32, 33, 48, 70])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spare", [0, 16, 32])
@pytest.mark.parametrize("size", SIZES)
def test_images_and_labels(size: tuple[int, int], spare: int, channels: int, count: int) -> None:
    pictures, labels = images(channels, *size), np.arange(1000, 1090)
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


REACHES = {
    "shift": ((0, 0), 2, False),
    "mirror": ((0, 0), 0, True),
    "crop": ((6, 3), 0, False),
    "all": ((6, 3), 4, True),
    "further than the image": ((0, 0), 40, True),
}


def drawn(draw: tuple[int, ...], first: int, count: int, reach: str) -> np.ndarray:
    found, (room, shift, mirror) = np.full((count, 3), -99), REACHES[reach]
    batch.draw_windows(np.array(draw, np.uint64), first, *room, shift, mirror, found)
    return found


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("draw", [(0, 0, 0), (2**63 - 1, 3, 5)])
def test_windows_are_the_oracles(draw: tuple[int, ...], reach: str) -> None:
    found = drawn(draw, 7, 500, reach)
    assert found.tolist() == [list(window) for window in windows(draw, 7, 500, *REACHES[reach])]


def test_windows_reach_everywhere_equally_often() -> None:
    found, (room, shift, _) = drawn((1, 2, 3), 0, 60_000, "all"), REACHES["all"]
    for axis in range(2):
        values, counts = np.unique(found[:, axis], return_counts=True)
        assert values.tolist() == list(range(-shift, room[axis] + shift + 1))
        assert abs(counts * len(values) / 60_000 - 1).max() < 0.06
    assert abs(found[:, 2].mean() - 0.5) < 0.01
    assert abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.02  # each axis moves by itself


def test_windows_do_not_depend_on_the_batch_but_on_all_else() -> None:
    whole = drawn((1, 2, 3), 0, 96, "all")
    parts = np.concatenate([drawn((1, 2, 3), first, 24, "all") for first in range(0, 96, 24)])
    np.testing.assert_array_equal(parts, whole)
    others = [drawn(draw, 0, 96, "all") for draw in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (2, 1, 3), (1, 3, 2))]
    assert all((whole != other).any(1).mean() > 0.9 for other in others)


@pytest.mark.parametrize("count", [0, 1, 16, 23, 32])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [(3, 5), (9, 8), (12, 21), (8, 40)])
@pytest.mark.parametrize("reach", REACHES)
def test_windows_of_images(reach: str, size: tuple[int, int], channels: int, count: int) -> None:
    room, pictures = REACHES[reach][0], images(channels, *size)
    seen = size[0] - room[0], size[1] - room[1]
    if min(seen) < 1:
        seen = size
    stages = plan([Dense(3)], (channels, *seen))
    network = Network(stages, 23, aligned(sum(tensor.size for stage in stages for tensor in stage.tensors)))
    labels, order = np.arange(90) % 3, np.random.default_rng(5).permutation(90)
    scaling = np.array([[10.5, 128, 99][:channels], [0.0123, 0.5, 1 / 77][:channels]], np.float32)
    network.batches[0].fill(
        pictures, labels, order, 40, 23, scaling, drawn((9, 9, 9), 1, 32, reach)
    )  # to be overwritten
    chosen = drawn((1, 2, 3), 7, 32, reach)
    network.batches[0].fill(pictures, labels, order, 7, count, scaling, chosen)
    x, rows = network.images.rows.reshape(channels, *seen, 32), order[7 : 7 + count]
    wanted = fill_windows(pictures, rows, *scaling.astype(np.float64), chosen[:count].tolist(), seen)
    assert_close(x[..., :count], wanted, 2.0**-22 * abs(wanted))
    assert not x[..., count:].any()
    assert network.labels.tolist() == [*labels[rows], *[0] * (32 - count)]


def test_larger_images_are_seen_in_the_middle_and_smaller_ones_refused() -> None:
    stages, pictures = plan([Dense(3)], (2, 4, 5)), images(2, 9, 8)
    network, order = Network(stages, 16, aligned(stages[0].tensors[0].size + 3)), np.arange(90)
    network.batches[0].fill(pictures, order % 3, order, 5, 16, np.array([[0, 0], [1, 1]], np.float32))
    middle = pictures[5:21, 2:6, 1:6].transpose(3, 1, 2, 0)
    np.testing.assert_array_equal(network.images.rows.reshape(2, 4, 5, 16), middle)
    with pytest.raises(ValueError, match="wanted at least"):
        network.batches[0].fill(pictures[:, :3].copy(), order, order, 0, 16, np.ones((2, 2), np.float32))
