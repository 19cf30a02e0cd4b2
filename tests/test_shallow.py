"""Convolutions of few channels in registers: the choice, every layer against its oracle, and what is no number."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_layers
from test_layers import NONE, WIDER, bench
from test_threads import written
from test_winograd import check, numbers, results, window

from distsgd.kernels import pool, shallow_pairs, shallow_rows
from distsgd.kernels.vector import LANES
from distsgd.layers import Border, Convolution, Shape, convolution_shallow
from distsgd.threads.parts import parts
from distsgd.threads.team import Rooms
from distsgd.threads.turns import steps

KERNELS = (shallow_rows.sum_shallow, shallow_pairs.pair_shallow)


def called(layer: Convolution, shape: Shape) -> list[bool]:
    """Whether each of the kernels has a part in a layer's passes."""
    tried = bench(layer, shape, 3)
    calls = [kernel for kernel, _ in layer.forward(tried.place, True) + layer.backward(tried.place)]
    return [kernel in calls for kernel in KERNELS]


@pytest.mark.parametrize("size", convolution_shallow.SIZES)
@pytest.mark.parametrize(("padding", "beyond"), [("valid", -1), ("same", 0), ("full", 1)])
@pytest.mark.parametrize(("around", "rectify"), [(NONE, True), (WIDER, False)])
def test_pooled(around: Border, rectify: bool, padding: str, beyond: int, size: int) -> None:
    less = beyond * (size - 1)
    for number, (channels, high, wide) in enumerate(((1, 4, 2), (3, 12, 10), (4, 8, 14), (2, 8, 6))):
        layer, shape = (
            Convolution((4, 5, 6, 11)[number], size, padding, pool=2),
            (channels, high - less, wide - less),
        )
        if min(shape) < 1:
            continue
        assert called(layer, shape) == [True, True]
        check(layer, shape, (3, 16, 40, 70)[number], number % 2 == 0, around, rectify)


def test_a_row_and_a_column_that_no_window_covers() -> None:
    for number, shape in enumerate(((3, 9, 7), (1, 5, 11), (7, 13, 3))):
        layer = Convolution(5, 5 - 2 * (number % 2), "same", pool=2)
        assert called(layer, shape) == [shape[0] < 5, True]
        check(layer, shape, 19, True, WIDER)


@pytest.mark.parametrize("around", [NONE, WIDER])
@pytest.mark.parametrize("filters", [1, 3, 16])
def test_not_pooled(filters: int, around: Border) -> None:
    for images, shape in ((3, (1, 8, 10)), (19, (3, 4, 6)), (64, (4, 12, 8))):
        layer = Convolution(filters, 5, "same")
        assert called(layer, shape) == [True, False]
        check(layer, shape, images, True, around)


@pytest.mark.parametrize("filters", [1, 3, 4, 17])
def test_any_number_of_filters(filters: int) -> None:
    layer = Convolution(filters, 5, pool=2)
    assert called(layer, (2, 12, 8)) == [True, filters >= 4]
    check(layer, (2, 12, 8), 20, False)


def test_more_channels_to_weights_alone() -> None:
    for channels in (5, 8):
        layer = Convolution(6, 3, "same", pool=2)
        assert called(layer, (channels, 8, 8)) == [False, True]
        check(layer, (channels, 8, 8), 33, True)


def test_groups() -> None:
    layer = Convolution(10, 3, "same", groups=2, pool=2)
    assert called(layer, (6, 8, 6)) == [True, True]
    check(layer, (6, 8, 6), 18, True)


def test_what_divides_into_no_bands_and_tiles_is_computed_otherwise() -> None:
    fit, fit_pairs = convolution_shallow.fit, convolution_shallow.fit_pairs
    seen = replace(window(16, 3), outputs=(16, 14))
    for batch in (16, 64, 1024):
        of_batch = replace(seen, buffer=(*seen.buffer[:3], batch))
        assert fit(of_batch, 8, 2)
        assert fit_pairs(of_batch, 8, 2)
    for other in (
        replace(seen, outputs=(14, 14)),
        replace(seen, outputs=(16, 13)),
        replace(seen, size=(4, 4)),
        replace(seen, stride=2),
        window(16, 9),
    ):
        assert not fit(other, 8, 2)
        assert not fit_pairs(other, 8, 2)
    assert [size for size in (1, 2, 3, 4) if fit(seen, 8, size)] == [1, 2]
    assert not fit(seen, 100, 1)  # tiles would be scattered over much memory
    assert not fit(replace(seen, size=(3, 3)), 8, 1)
    assert not fit_pairs(seen, 8, 1)


MANY = [
    (Convolution(6, 5, "same", pool=2), (3, 8, 14), 70, True),
    (Convolution(5, 5, "same"), (1, 8, 6), 19, False),
    (Convolution(9, 3, "full", groups=3, pool=2), (6, 10, 8), 66, True),
]


@pytest.mark.parametrize("more", [3, 8])
def test_room_for_more_images_gives_the_same_bits(more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [results(*each) for each in MANY]
    monkeypatch.setattr(test_layers, "LANES", more * LANES)
    for each, wanted in zip(MANY, whole, strict=True):
        for got, same in zip(results(*each), wanted, strict=True):
            np.testing.assert_array_equal(got, same)


@pytest.mark.parametrize("threads", [2, 3])
def test_no_two_threads_write_to_the_same_place(threads: int) -> None:
    rooms: list[Any] = [lambda memory: memory, *(Rooms() for _ in range(threads - 1))]
    for layer, shape, images, _ in MANY:
        tried = bench(layer, shape, images)
        x, weights = numbers(1, *shape, images), numbers(2, *layer.tensors(shape)[0].shape)
        tried.give(x, numbers(3, *layer.output(shape), images), weights, numbers(4, layer.filters))
        for call in layer.forward(tried.place, True) + layer.backward(tried.place):
            for step in steps([call], threads, rooms, parts):
                shared = [set[int]().union(*map(written, calls)) for calls in step]
                assert len(set().union(*shared)) == sum(map(len, shared)), call[0].__name__
                assert call[0] not in KERNELS or sum(map(bool, shared)) > 1


def pooled(layer: Convolution, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maxima and their places, of a network's first layer; weights and bias are drawn."""
    channels, height, width, images = x.shape
    tried = bench(layer, (channels, height, width), images, rectify=True)
    weights = numbers(2, *layer.tensors((channels, height, width))[0].shape)
    tried.give(
        x, np.zeros((*layer.output((channels, height, width)), images)), weights, numbers(3, layer.filters)
    )
    return tried.forward().copy(), tried.place.winners[..., :images].copy()


def test_what_is_no_number_stays_visible_and_in_its_image() -> None:
    x = numbers(1, 2, 8, 8, 5)
    x[1, 3, 3, 2] = np.nan
    finite = np.isfinite(pooled(Convolution(4, 3, "same", pool=2), x)[0])
    assert not finite[:, 1:3, 1:3, 2].any()
    assert finite[..., [0, 1, 3, 4]].all()


def test_a_slope_that_is_no_number_reaches_its_filter_alone() -> None:
    layer, shape = Convolution(6, 3, "same", pool=2), (2, 8, 8)
    tried, dy = bench(layer, shape, 5), numbers(2, 6, 4, 4, 5)
    dy[4, 1, 2, 3] = np.nan
    tried.give(numbers(1, *shape, 5), dy, numbers(3, 2, 3, 3, 6), numbers(4, 6))
    tried.forward()
    tried.backward()
    found = np.isnan(tried.place.gradients[0]).any(axis=(0, 1, 2))
    assert found.tolist() == [False] * 4 + [True, False]


def test_of_a_window_the_last_nan_wins_as_in_pooling_alone() -> None:
    x = numbers(1, 1, 12, 12, 40)
    x[np.random.default_rng(5).random(x.shape) < 0.01] = np.nan
    got = pooled(Convolution(3, 5, "same", pool=2), x)
    y = np.zeros((3, 12, 12, 48), np.float32)
    tried = bench(Convolution(3, 5, "same"), (1, 12, 12), 40, rectify=True)
    tried.give(x, np.zeros((3, 12, 12, 40)), numbers(2, 1, 5, 5, 3), numbers(3, 3))
    y[..., :40] = tried.forward()
    best, winner = np.zeros((3, 6, 6 * 48), np.float32), np.zeros((3, 6, 6, 48), np.uint8)
    pool.max_pool(y, 2, 2, best, winner)
    assert np.isnan(best).any()
    np.testing.assert_array_equal(got[0], best.reshape(winner.shape)[..., :40])
    np.testing.assert_array_equal(got[1], winner[..., :40])
