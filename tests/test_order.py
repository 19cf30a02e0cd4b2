"""Turned filters, transposed matrices, and dropout's draws, compared with loops."""

import numpy as np
import pytest
from oracle import dropout_mask

from distsgd.kernels import order

SEED = 2**63 + 12345
LAYER = 3


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (16, 16), (15, 17), (33, 64), (130, 5)])
def test_rows_are_transposed_and_nothing_else_is_written(shape: tuple[int, int], rows: int) -> None:
    """Into the first columns of longer ones."""
    x = np.random.default_rng(0).normal(size=(shape[0], rows, shape[1])).astype(np.float32)
    memory = np.full((rows, shape[1], shape[0] + 2), 7, np.float32)
    order.transpose(x, memory[:, :, :-2])
    np.testing.assert_array_equal(memory[:, :, :-2], x.transpose(1, 2, 0))
    assert (memory[:, :, -2:] == 7).all()


def test_the_first_columns_are_taken() -> None:
    x, y = np.arange(48, dtype=np.float32).reshape(3, 16), np.empty((3, 10), np.float32)
    order.first_columns(x, y)
    np.testing.assert_array_equal(y, x[:, :10])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 3, 5), (5, 4, 4, 1), (3, 2, 2, 11), (19, 3, 2, 35)])
def test_filters_are_turned_by_half_a_circle(shape: tuple[int, int, int, int]) -> None:
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    channels, height, width, filters = shape
    turned = np.zeros((filters, height, width, channels), np.float32)
    order.turn_filters(weights, turned)
    for c, r, s, k in np.ndindex(shape):
        assert turned[k, r, s, c] == weights[c, height - 1 - r, width - 1 - s, k]


def drop(
    x: np.ndarray,
    rate: float,
    draw: tuple[int, int, int] = (SEED, 2, 5),
    layer: int = LAYER,
) -> np.ndarray:
    memory = np.full((x.shape[0] + 2, x.shape[1]), -1, np.float32)
    lost = round(rate * order.CHANCES)
    factor = np.float32(order.CHANCES / (order.CHANCES - lost))
    given = np.array(draw, np.uint64), np.uint64(layer), lost, factor
    room = np.empty(x.shape[1] // 4 + 1, np.uint64)
    room[-1] = LAYER
    order.drop(x, *given, room[:-1], memory[1 : x.shape[0] + 1], 0)
    assert room[-1] == LAYER
    assert (memory[[0, -1]] == -1).all()
    return memory[1:-1]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("draw", [(SEED, 2, 5), (0, 0, 0), (2**64 - 1, 2**40, 2**63)])
def test_values_are_dropped_as_the_loop_says(draw: tuple[int, int, int], rate: float) -> None:
    x = np.random.default_rng(1).normal(size=(37, 48)).astype(np.float32)
    mask = dropout_mask(x.shape, draw, LAYER, rate)
    np.testing.assert_array_equal(drop(x, rate, draw) != 0, mask != 0)
    np.testing.assert_allclose(drop(x, rate, draw), x * mask, rtol=2e-7)


def test_rate_zero_changes_nothing() -> None:
    x = np.random.default_rng(2).normal(size=(20, 16)).astype(np.float32)
    np.testing.assert_array_equal(drop(x, 0.0), x)


def test_what_is_dropped_does_not_depend_on_the_values() -> None:
    x = np.random.default_rng(3).normal(size=(40, 32)).astype(np.float32)
    np.testing.assert_array_equal(drop(x, 0.5) == 0, drop(np.ones_like(x), 0.5) == 0)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.75])
def test_the_rate_is_kept_everywhere_and_the_mean_stays(rate: float) -> None:
    thinned = drop(np.ones((1000, 64), np.float32), rate)
    deviation = (rate * (1 - rate)) ** 0.5
    assert abs((thinned == 0).mean() - rate) < 4 * deviation / 64000**0.5
    assert abs((thinned == 0).mean(1) - rate).max() < 6 * deviation / 64**0.5  # of 1000 rows
    assert abs((thinned == 0).mean(0) - rate).max() < 5 * deviation / 1000**0.5
    assert abs(thinned.mean() - 1) < 4 * deviation / (1 - rate) / 64000**0.5


@pytest.mark.parametrize(
    ("draw", "layer"),
    [
        ((SEED + 1, 2, 5), LAYER),
        ((SEED, 3, 5), LAYER),
        ((SEED, 2, 6), LAYER),
        ((SEED, 2, 5), LAYER + 1),
        ((2, SEED, 5), LAYER),
        ((SEED, 5, 2), LAYER),
        ((SEED, 3, 4), LAYER),
        ((SEED, 2, 4), LAYER + 1),
    ],
)
def test_seed_worker_step_and_layer_each_give_another_draw(draw: tuple[int, int, int], layer: int) -> None:
    x = np.ones((100, 64), np.float32)
    same = ((drop(x, 0.5) == 0) == (drop(x, 0.5, draw, layer) == 0)).mean()
    assert abs(same - 0.5) < 4 * 0.5 / 80


def test_neighbouring_values_and_steps_are_independent() -> None:
    masks = [drop(np.ones((100, 64), np.float32), 0.5, (SEED, 2, step)) > 0 for step in range(2)]
    for left, right in (
        (masks[0][1:], masks[0][:-1]),
        (masks[0][:, 1:], masks[0][:, :-1]),
        (masks[0][:, 2:], masks[0][:, :-2]),
        (masks[0][:, 3:], masks[0][:, :-3]),
        (masks[0][1:], masks[1][:-1]),
        (masks[0][:, 1:], masks[1][:, :-1]),
    ):
        assert abs((left == right).mean() - 0.5) < 0.03


def test_back_comes_what_was_positive() -> None:
    chance = np.random.default_rng(4)
    x = chance.normal(size=(3, 4, 5, 32)).astype(np.float32)
    gate = chance.integers(-1, 2, (3, 6, 5, 32)).astype(np.float32)
    gate[gate < 0] = -0.0
    gate[1, 1:3, :, 7] = np.nan  # is not hidden
    seen, y = gate[:, 1:5], np.full((3, 6, 7, 32), 9, np.float32)
    order.pass_back(x, np.float32(1.25), seen, y[:, 1:5, 1:6])
    np.testing.assert_array_equal(y[:, 1:5, 1:6], np.where(seen <= 0, 0, x * np.float32(1.25)))
    assert (y[:, [0, 5]] == 9).all()
    assert (y[:, :, [0, 6]] == 9).all()


def test_what_is_not_finite_stays_visible_where_it_is_not_dropped() -> None:
    mask = dropout_mask((8, 16), (SEED, 2, 5), LAYER, 0.5) > 0
    for bad in (np.nan, np.inf, -np.inf):
        thinned = drop(np.full((8, 16), bad, np.float32), 0.5)
        np.testing.assert_array_equal(thinned, np.where(mask, np.float32(bad), 0))
