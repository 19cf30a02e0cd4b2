"""The tile's operations one by one, on one small tile each: what they read, compute and write, lane by lane."""

from collections.abc import Callable

import numpy as np
import pytest

from distsgd.kernels import tile, tile_bytes, vector
from distsgd.kernels.compiled import inlined
from distsgd.kernels.tile_windows import alternating, every_second, store_apart
from distsgd.kernels.vector import FUSED, LANES, VECTOR

CANARY = np.float32(-12345.678)
WIDTH = 2 * VECTOR  # of the tiles here: 3 rows x 2 columns


def lanes(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 10, size).astype(np.float32)


def shaped(array: np.ndarray, first: int, stride: int, rows: int = 3, width: int = WIDTH) -> np.ndarray:
    """The rows of an array that a tile with that place and stride covers."""
    return np.stack([array[first + r * stride : first + r * stride + width] for r in range(rows)])


@inlined
def _copy(x, place, stride, y, to, step):
    tile.store(tile.load(tile.zeros(3, 2), x, place, stride), y, to, step)


def test_load_and_store_at_any_place_and_stride() -> None:
    x = lanes(0, 400)
    for place, stride, to, step in ((0, WIDTH, 0, WIDTH), (3, 50, 7, 61), (5, 0, 1, WIDTH + 1)):
        y = np.full(400, CANARY)
        _copy(x, place, stride, y, to, step)
        np.testing.assert_array_equal(shaped(y, to, step), shaped(x, place, stride))
        assert (y != CANARY).sum() == 3 * WIDTH


@inlined
def _shape(sides):
    shape = tile.zeros(3, 2)
    sides[0], sides[1] = tile.rows(shape), tile.columns(shape)


def test_a_tile_knows_its_sides() -> None:
    sides = np.zeros(2, np.int64)
    _shape(sides)
    assert sides.tolist() == [3, 2]


@inlined
def _turn(x, place, stride, y, to, step):
    tile.store(tile.turned(tile.load(tile.zeros(VECTOR, 1), x, place, stride)), y, to, step)


def test_turned() -> None:
    x, y = lanes(0, 40 * VECTOR), np.full(40 * VECTOR, CANARY)
    _turn(x, 3, VECTOR + 5, y, 7, VECTOR + 2)
    rows, columns = np.ogrid[:VECTOR, :VECTOR]
    np.testing.assert_array_equal(y[7 + columns * (VECTOR + 2) + rows], x[3 + rows * (VECTOR + 5) + columns])
    assert (y != CANARY).sum() == VECTOR**2


@inlined
def _add(x, place, stride, bias, k, y):
    total = tile.add_rows(tile.zeros(3, 2), bias, k)
    tile.store(tile.add(total, x, place, stride), y, 0, WIDTH)


def test_add_and_add_rows() -> None:
    x, bias, y = lanes(1, 300), lanes(2, 9), np.zeros((3, WIDTH), np.float32)
    _add(x, 11, 70, bias, 4, y.reshape(-1))
    np.testing.assert_array_equal(y, shaped(x, 11, 70) + bias[4:7, None])


@inlined
def _multiply_add(x, place, offsets, tap, weights, first, stride, y):
    total = tile.fill(tile.zeros(3, 2), np.float32(100))
    total = tile.multiply_add(total, x, place, offsets, tap, weights, first, stride)
    tile.store(total, y, 0, WIDTH)


def test_multiply_add() -> None:
    x, weights, y = lanes(3, 300), lanes(4, 40), np.zeros((3, WIDTH), np.float32)
    _multiply_add(x, 9, np.array([5, 33, 8]), 1, weights, 6, 11, y.reshape(-1))
    np.testing.assert_array_equal(y, 100 + weights[[6, 17, 28], None] * shaped(x, 42, 0))


@inlined
def _multiply_pairs(x, place, offsets, tap, dy, first, stride, y):
    total = tile.fill(tile.zeros(3, 2), np.float32(100))
    total = tile.multiply_pairs(total, x, place, offsets, tap, dy, first, stride)
    tile.store(total, y, 0, WIDTH)


def test_multiply_pairs() -> None:
    x, dy, y = lanes(5, 300), lanes(6, 300), np.zeros((3, 2, VECTOR), np.float32)
    offsets = np.array([1, 2, 40, 80, 3])
    _multiply_pairs(x, 7, offsets, 1, dy, 13, 90, y.reshape(-1))
    for r, c in np.ndindex(3, 2):
        left = x[7 + offsets[1 + r] :][:VECTOR]
        np.testing.assert_array_equal(y[r, c], 100 + left * dy[13 + c * 90 :][:VECTOR])


@pytest.mark.skipif(not FUSED, reason="this processor has no fused multiply-add")
def test_a_product_is_not_rounded_before_it_is_added() -> None:
    x = np.full(WIDTH, 1 + 2.0**-23, np.float32)
    weights, y = np.full(3, 100 * (2.0**-12 - 1), np.float32), np.zeros((3, WIDTH), np.float32)
    _multiply_add(x, 0, np.zeros(1, np.int64), 0, weights, 0, 1, y.reshape(-1))
    exact = 100 + np.float64(weights[0]) * np.float64(x[0])
    assert (y == np.float32(exact)).all()
    assert np.float32(100) + weights[0] * x[0] != np.float32(exact)


SPECIAL = np.float32([-2, -0.0, 0.0, 3, np.nan, np.inf, -np.inf, 1e-40])


def special() -> tuple[np.ndarray, np.ndarray]:
    """Two tiles of 3 x 2 vectors with every pair of special values that fits, spread over their lanes."""
    places = np.arange(3 * WIDTH)
    return SPECIAL[places % 8], SPECIAL[(places // 8 + places) % 8]


@inlined
def _rectify(x, gate, y, z):
    shape = tile.zeros(3, 2)
    tile.store(tile.rectify(tile.load(shape, x, 0, WIDTH)), y, 0, WIDTH)
    tile.store(tile.gate(tile.load(shape, x, 0, WIDTH), gate, 0, WIDTH), z, 0, WIDTH)


def test_rectify_and_gate_keep_nan() -> None:
    x, gate = special()
    y, z = np.zeros((2, 3 * WIDTH), np.float32)
    _rectify(x, gate, y, z)
    np.testing.assert_array_equal(y, np.where(x <= 0, 0, x))
    np.testing.assert_array_equal(z, np.where(gate <= 0, 0, x))


@inlined
def _choose(x, y, greater, or_nan, equal):
    shape = tile.zeros(3, 2)
    left, right = tile.load(shape, x, 0, WIDTH), tile.load(shape, y, 0, WIDTH)
    yes = tile.fill(shape, np.float32(1))
    tile.store(tile.where_greater(left, right, yes, shape), greater, 0, WIDTH)
    tile.store(tile.where_greater_or_nan(left, right, yes, shape), or_nan, 0, WIDTH)
    tile.store(tile.where_equal(left, right, yes, shape), equal, 0, WIDTH)


def test_where_greater_and_where_equal() -> None:
    x, y = special()
    greater, or_nan, equal = np.zeros((3, 3 * WIDTH), np.float32)
    _choose(x, y, greater, or_nan, equal)
    np.testing.assert_array_equal(greater, x > y)
    np.testing.assert_array_equal(or_nan, (x > y) | np.isnan(x))
    np.testing.assert_array_equal(equal, x == y)


@inlined
def _any_nan(x):
    return tile.any_nan(tile.load(tile.zeros(3, 2), x, 0, WIDTH))


def test_any_nan_sees_every_lane() -> None:
    x = np.full(3 * WIDTH, np.inf, np.float32)
    assert not _any_nan(x)
    for lane in range(x.size):
        bad = x.copy()
        bad[lane] = np.nan
        assert _any_nan(bad)


@inlined
def _bytes(x, place, y, to):
    shape = tile.zeros(2, 2)
    tile_bytes.store_bytes(tile_bytes.load_bytes(shape, x, place, WIDTH + 1), y, to, WIDTH)


@inlined
def _add_where(x, winner, place, number, slopes, y):
    shape = tile.zeros(1, 2)
    total, slope = tile.load(shape, x, 0, 0), tile.load(shape, slopes, 0, 0)
    tile.store(tile_bytes.add_where(total, winner, place, number, slope), y, 0, 0)


@pytest.mark.parametrize("number", [0, 3, 255])
def test_add_where_bytes_are_a_number(number: int) -> None:
    winner = np.random.default_rng(number).choice([0, 3, 200, 255], 3 * WIDTH).astype(np.uint8)
    x, slopes, y = lanes(1, WIDTH), lanes(2, WIDTH), np.zeros(WIDTH, np.float32)
    slopes[winner[5:][:WIDTH] != number] = np.nan  # are not looked at
    _add_where(x, winner, 5, number, slopes, y)
    np.testing.assert_array_equal(y, x + np.nan_to_num(slopes))


def test_bytes_are_numbers_from_0_to_255() -> None:
    x = np.arange(256, dtype=np.uint8)
    for place in range(0, 255 - 2 * WIDTH, 3):
        y = np.full(256, 7, np.uint8)
        _bytes(x, place, y, 11)
        np.testing.assert_array_equal(
            y[11 : 11 + 2 * WIDTH], np.delete(x[place : place + 2 * WIDTH + 1], WIDTH)
        )
        assert (np.delete(y, range(11, 11 + 2 * WIDTH)) == 7).all()


@inlined
def _rearranged(x, y):
    value = tile.load(tile.zeros(4, 2), x, 0, WIDTH)
    store_apart(value, y[0], 3, 50, 200 + VECTOR)
    left, right = every_second(value, 0, 0), every_second(value, 1, 1)
    tile.store(alternating(left, right), y[1], 0, VECTOR)
    tile.store(tile.where_positive(tile.plus(left, right), left), y[2], 0, VECTOR)


def test_rows_and_columns_taken_apart_and_put_together() -> None:
    x = lanes(1, 4 * WIDTH)
    x[x == 0] = 1
    x[2] = np.nan
    y = np.zeros((3, 512), np.float32)
    _rearranged(x, y)
    cells = x.reshape(4, 2, VECTOR)
    for r, c in np.ndindex(4, 2):
        at = 3 + 50 * r + (200 + VECTOR) * c
        np.testing.assert_array_equal(y[0, at : at + VECTOR], cells[r, c])
    assert np.count_nonzero(y[0]) == x.size
    np.testing.assert_array_equal(y[1, : WIDTH * 2].reshape(4, VECTOR), cells[range(4), (0, 1, 0, 1)])
    left, right = cells[0::2, 0], cells[1::2, 1]
    np.testing.assert_array_equal(y[2, :WIDTH].reshape(2, VECTOR), np.where(left <= 0, 0, left + right))


@inlined
def _sum_chains(x, place, part):
    return vector.sum_chains(x, place, part)


@pytest.mark.parametrize("part", [VECTOR, 40])
def test_chains_are_summed_as_a_tree_of_halves(part: int) -> None:
    x = np.random.default_rng(7).normal(size=200).astype(np.float32)
    for place in range(30):
        spread = [x[place + h * part : place + h * part + VECTOR] for h in range(LANES // VECTOR)]
        chains = np.concatenate(spread)
        while chains.size > 1:
            chains = chains[: chains.size // 2] + chains[chains.size // 2 :]
        assert np.float32(_sum_chains(x, place, part)) == chains[0]


@pytest.mark.parametrize("kernel", [_copy, _add, _rectify])
def test_a_tile_needs_no_alignment(kernel: Callable[..., None]) -> None:
    # A load that assumed alignment would end this process.
    shifted = lanes(8, 500)[1:]
    arguments = {
        _copy: (shifted[:200], 1, 33, shifted[200:], 3, 41),
        _add: (shifted[:200], 1, 33, shifted[200:210], 1, shifted[211:]),
        _rectify: (shifted[:100], shifted[101:200], shifted[201:300], shifted[301:400]),
    }
    kernel(*arguments[kernel])
