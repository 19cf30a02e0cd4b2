"""Convolutions by bands of rows: the transforms' algebra, the choice, and every layer against its oracle."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import oracle
import pytest
from oracle import assert_close
from test_layers import CANARY, NONE, WIDER, bench

from distsgd.kernels import band_pairs, band_rows, taps, winograd
from distsgd.kernels.taps import Window
from distsgd.kernels.vector import VECTOR
from distsgd.layers import Border, Convolution, Shape, convolution_bands, convolution_shallow

FITTING = [(height, size) for height in (2, 3, 4) for size in range(2, 10 - height)]


@pytest.mark.parametrize(("height", "size"), FITTING)
def test_the_transforms_are_a_filter(height: int, size: int) -> None:
    outputs, filters, inputs = (matrix.astype(np.float64) for matrix in winograd.transforms(height, size))
    rng = np.random.default_rng(height)
    x, w = rng.normal(size=height + size - 1), rng.normal(size=size)
    wanted = np.correlate(x, w, "valid")
    np.testing.assert_allclose(outputs @ ((filters @ w) * (inputs @ x)), wanted, atol=3e-6)


def test_a_product_of_roots_and_its_values() -> None:
    product = winograd._polynomial([Fraction(1), Fraction(-2)])
    assert product == [-2, 1, 1]
    assert winograd._value(product, Fraction(3)) == 10


@pytest.mark.parametrize(("channels", "filters", "size"), [(1, 1, 2), (3, 7, 5), (8, 16, 3)])
def test_filters_are_spread_and_gathered(channels: int, filters: int, size: int) -> None:
    rng, (_, matrix, _) = np.random.default_rng(size), winograd.transforms(4, size)
    weights = rng.normal(size=(channels, size, size, filters)).astype(np.float32)
    spread = np.empty((len(matrix), channels, size, filters), np.float32)
    band_rows.spread_filters(weights, matrix, spread)
    np.testing.assert_allclose(spread, np.einsum("pr,crsk->pcsk", matrix, weights), atol=1e-5)
    gathered = np.empty_like(weights)
    band_pairs.gather_filters(spread, matrix, 0, gathered)
    np.testing.assert_allclose(gathered, np.einsum("pr,pcsk->crsk", matrix, spread), atol=1e-5)


def window(rows: int, channels: int, size: int = 5, stride: int = 1) -> Window:
    return Window((channels, rows + 4, rows + 5, 16), (size, size), 2, 2, rows, rows, (rows, rows), stride)


def test_bands_are_chosen_where_they_save_multiplications() -> None:
    assert convolution_bands.height(window(16, 32), 32) == 4
    assert convolution_bands.height(window(16, 1), 2) == 1  # transforms would cost more than they save
    assert convolution_bands.height(window(9, 32), 32) == 3  # no row too many
    assert convolution_bands.height(window(9, 32), 32, pool=2) in (2, 4)  # whole windows
    assert convolution_bands.height(window(15, 32), 32, pool=5) == 1
    assert convolution_bands.height(window(16, 32, 1), 32) == 1
    assert convolution_bands.height(window(16, 32, 7), 32) == 2  # eight points at most
    assert convolution_bands.height(window(16, 32, 8), 32) == 1
    assert convolution_bands.height(window(16, 32, 5, stride=2), 32) == 1
    assert convolution_bands.height(window(2, 512, 3), 512) == 1  # one of three rows looks at zeros
    assert convolution_bands.height(replace(window(2, 512, 3), height=4), 512) == 2


def test_large_maps_are_not_kept_for_the_gradient_to_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Window((64, 231, 231, 32), (7, 7), 3, 3, 224, 224, (224, 224))
    assert convolution_bands.height(seen, 64, moves=convolution_bands.MOVES_TO_WEIGHTS) > 1
    assert convolution_bands.pairs_room(seen, 64) == taps.pairs_room(64 * 49, 64)
    assert convolution_bands.pairs_room(replace(seen, outputs=(8, 224)), 64) > taps.pairs_room(64 * 49, 64)
    monkeypatch.setattr(convolution_bands, "MOST_ROOM", 0)
    check(Convolution(13, 5, "same"), (9, 8, 7), 18, True)


@pytest.fixture(params=[2, 3, 4])
def height(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bands of so many rows wherever they can be had."""
    monkeypatch.setattr(convolution_shallow, "SIZES", ())
    monkeypatch.setattr(convolution_bands, "HEIGHTS", (request.param,))
    monkeypatch.setattr(convolution_bands, "_cost", lambda *shapes: 0)
    return int(request.param)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).astype(np.float64)


def check(
    layer: Convolution,
    shape: Shape,
    images: int,
    rectified: bool,
    around: Border = NONE,
    rectify: bool = True,
) -> None:
    """Forward and every gradient, as the first layer as well: one wrong tap is far outside the bounds.

    rectify: what is pooled.
    """
    tried = bench(layer, shape, images, layer.pool > 1 and rectify, rectified, after=around, before=around)
    x, weights = numbers(1, *shape, images), numbers(2, *layer.tensors(shape)[0].shape)
    bias, dy = numbers(3, layer.filters), numbers(4, *layer.output(shape), images)
    x = np.maximum(x, 0) if rectified else x
    tried.give(x, dy, weights, bias)
    border = oracle.strided_border(shape, layer.size, layer.stride, layer.padding)
    grouped = weights.reshape(layer.groups, -1, *weights.shape[-3:])
    y = oracle.strided_convolve(x, grouped, bias, border, layer.stride)
    spread, convolved = dy, y.shape
    if layer.pool > 1:
        y, winner = oracle.max_pool(np.maximum(y, 0) if rectify else y, layer.pool)
        spread = oracle.max_pool_gradient(winner, layer.pool, dy, convolved)
    assert_near(tried.forward(), y)
    dx, dw, db = oracle.strided_convolve_gradient(x, grouped, spread, border, layer.stride)
    wanted = (dx * (x > 0) if rectified else dx, dw.reshape(weights.shape), db)
    own = tried.place.own  # with a stride, phases that were made on the way forward lie there
    if layer.stride == 1:
        own = np.zeros(layer.own(shape, tried.place.x.batch, first=True), np.float32)
    tried.run(layer.backward(replace(tried.place, dx=None, own=own)))
    for got, exact in zip(tried.place.gradients, wanted[1:], strict=True):
        assert_near(got, exact)
        got[:] = CANARY
    for got, exact in zip((tried.backward(), *tried.place.gradients), wanted, strict=True):
        assert_near(got, exact)
    tried.assert_untouched()


def assert_near(got: np.ndarray, wanted: np.ndarray) -> None:
    assert_close(got, wanted, 1e-5 * abs(wanted).max())


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("padding", ["valid", "same", "full", 1])
@pytest.mark.parametrize("around", [NONE, WIDER])
def test_any_size_and_padding(height: int, around: Border, padding: int | str, size: int) -> None:
    for number, shape in enumerate(((3, size, size + 2), (2, 7, 6), (5, 9, 13), (1, 8, 5))):
        check(Convolution(5, size, padding), shape, (3, 16, 40, 64)[number], number % 2 == 0, around)


@pytest.mark.parametrize("pool", [2, 3, 4])
@pytest.mark.parametrize("images", [3, 19, 64])
def test_pooling_in_the_same_pass(height: int, images: int, pool: int) -> None:
    for shape in ((3, 9, 11), (2, 8, 7), (4, 13, 13)):
        check(Convolution(6, 3, "same", pool=pool), shape, images, True)


@pytest.mark.parametrize("images", [5, 33])
def test_groups(height: int, images: int) -> None:
    for shape in ((4, 9, 10), (8, 6, 7)):
        check(Convolution(6, 5, "same", groups=2), shape, images, False)
        check(Convolution(8, 3, "valid", groups=2, pool=2), shape, images, True)


@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (2, 9), (13, 17), (40, 5), (70, 33)])
def test_any_number_of_channels(height: int, channels: int, filters: int) -> None:
    check(Convolution(filters, 3, "same"), (channels, 7, 6), 18, True)


def test_filters_more_than_twice_as_wide_as_the_image(height: int) -> None:
    for shape in ((7, 15, 1), (8, 11, 2)):
        check(Convolution(9, 5, "same"), shape, 6, False)
        check(Convolution(9, 7, "full", pool=2), shape, 18, True)


@pytest.mark.parametrize("filters", [32, 70])
def test_a_pooled_first_layer_has_room_to_go_row_by_row(filters: int) -> None:
    for size, shape in ((5, (8, 7, 7)), (7, (8, 8, 7)), (5, (53, 1, 2))):
        check(Convolution(filters, size, "full" if shape[1] == 1 else "same", pool=2), shape, 16, True)


def test_rows_longer_than_a_group_of_lanes(height: int) -> None:
    check(Convolution(3, 5, "same"), (20, 6, 23), 50, False)


def test_bands_are_cut_where_they_are_larger_than_the_caches_and_pieces_wide_enough() -> None:
    def pieces(channels: int, wide: int, batch: int = 64, pool: int = 1) -> list[tuple[int, int]]:
        image = Window((channels, wide + 2, wide + 3, batch), (3, 3), 1, 1, wide, wide, (wide, wide))
        return convolution_bands._pieces(image, channels, 4, pool)

    # In whole strips: with AVX2 they are three registers wide, and pieces a multiple of three pixels.
    three = VECTOR == 8
    assert pieces(32, 48) == ([(0, 18), (18, 36), (36, 48)] if three else [(0, 16), (16, 32), (32, 48)])
    assert pieces(32, 48, batch=16) == [(0, 48)]  # all of it is near
    assert pieces(64, 24) == ([(0, 9), (9, 18), (18, 24)] if three else [(0, 8), (8, 16), (16, 24)])
    assert pieces(128, 24) == [(0, 24)]  # a piece would see more of its neighbours than of its own
    assert all(first % 3 == 0 for first, _ in pieces(32, 96, pool=3))
    assert pieces(32, 49)[-1][1] == 49


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_pieces_of_columns_give_the_same_bits(
    height: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pieces(window: Window, filters: int, tall: int, pool: int) -> list[tuple[int, int]]:
        wide, piece = window.outputs[1], columns * pool
        return [(first, min(first + piece, wide)) for first in range(0, wide, piece)]

    tried = [
        (Convolution(5, 3, "same"), (3, 8, 13), 40, True),
        (Convolution(6, 5, 3), (2, 9, 7), 19, False),
        (Convolution(6, 3, "same", pool=2), (4, 9, 13), 3, True),
        (Convolution(8, 3, "valid", groups=2, pool=4), (4, 19, 22), 33, True),
    ]
    whole = [results(*each) for each in tried]
    monkeypatch.setattr(convolution_bands, "_pieces", pieces)
    for each, wanted in zip(tried, whole, strict=True):
        check(*each, around=WIDER)
        for got, same in zip(results(*each), wanted, strict=True):
            np.testing.assert_array_equal(got, same)


def results(layer: Convolution, shape: Shape, images: int, rectified: bool) -> list[np.ndarray]:
    """y and every gradient."""
    tried = bench(layer, shape, images, layer.pool > 1, rectified)
    x, weights = numbers(1, *shape, images), numbers(2, *layer.tensors(shape)[0].shape)
    tried.give(x, numbers(4, *layer.output(shape), images), weights, numbers(3, layer.filters))
    return [tried.forward().copy(), tried.backward().copy(), *map(np.copy, tried.place.gradients)]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_stays_visible_and_in_its_image(height: int, wrong: float) -> None:
    layer, shape = Convolution(4, 3, "same"), (3, 8, 8)
    tried = bench(layer, shape, 5)
    x = numbers(1, *shape, 5)
    x[1, 3, 3, 2] = wrong
    tried.give(x, numbers(2, 4, 8, 8, 5), numbers(3, 3, 3, 3, 4), numbers(4, 4))
    finite = np.isfinite(tried.forward())
    assert not finite[:, 2:5, 2:5, 2].any()
    assert finite[..., [0, 1, 3, 4]].all()
