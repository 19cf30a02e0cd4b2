"""Gradients to the weights of small maps, by products of matrices: the choice, the order of the sums, layers against oracles."""

from typing import Any

import numpy as np
import pytest
from test_layers import NONE, WIDER, bench, check_convolution
from test_winograd import check

from distsgd.kernels import pairs, rows, taps
from distsgd.kernels.vector import LANES
from distsgd.layers import Border, Convolution, Shape, convolution_bands, convolution_passes
from distsgd.layers.convolution_products import FEW, fit


def is_product(layer: Convolution, shape: Shape, batch: int) -> bool:
    return fit(convolution_passes.window_forward(layer, shape, batch), layer.filters // layer.groups)


@pytest.mark.parametrize("batch", [16, 64, 1024])
def test_small_maps_are_chosen_whatever_the_batch(batch: int) -> None:
    assert FEW == 25
    assert is_product(Convolution(LANES, 3, "same"), (4, 5, 5), batch)
    assert not is_product(Convolution(LANES, 3, "same"), (4, 5, 6), batch)
    assert not is_product(Convolution(LANES - 1, 3, "same"), (4, 5, 5), batch)
    assert not is_product(Convolution(LANES, 3, "same", groups=2), (4, 5, 5), batch)
    assert is_product(Convolution(LANES, 3, "same", pool=2), (4, 5, 7), batch)  # 4x6 are pooled


def to_weights(layer: Convolution, shape: Shape, images: int) -> list[tuple[Any, tuple[Any, ...]]]:
    """The calls that write a gradient to weights."""
    tried = bench(layer, shape, images)
    slopes = tried.place.gradients[0]
    return [
        (kernel, arguments)
        for kernel, arguments in layer.backward(tried.place)
        if any(isinstance(one, np.ndarray) and np.may_share_memory(one, slopes) for one in arguments)
    ]


def test_small_maps_are_sums_of_rows_and_others_dot_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_bands, "HEIGHTS", ())
    small, large = (to_weights(Convolution(16, 3, "same"), (2, side, side), 3) for side in (5, 6))
    assert [kernel for kernel, _ in small] == [rows.sum_rows] * 9
    assert [kernel for kernel, _ in large] == [pairs.sum_pairs]


def test_a_border_of_zeros_is_left_out() -> None:
    window = convolution_passes.window_forward(Convolution(16, 3, "same"), (2, 2, 4), LANES)
    seen = [taps.pixel_taps(window, row, column, 16, 48).taps.shape[1] for row, column in np.ndindex(3, 3)]
    assert seen == [LANES * high * wide for high in (1, 2, 1) for wide in (3, 4, 3)]


@pytest.mark.parametrize("size", range(2, 7))
@pytest.mark.parametrize("padding", ["valid", "same", 1])
@pytest.mark.parametrize("around", [NONE, WIDER])
def test_any_size_and_padding_in_whole_numbers(around: Border, padding: int | str, size: int) -> None:
    for number, shape in enumerate([(2, size, size), (5, 3, 4), (3, 2, 1), (7, 5, 5), (4, 1, 6)]):
        layer = Convolution((16, 33, 70, 20, 129)[number], size, padding)
        if min(shape[1:]) + layer.zeros(shape).top + layer.zeros(shape).bottom >= size:
            check_convolution(layer, shape, (3, 16, 40, 64, 5)[number], number, after=around, before=around)


@pytest.fixture(autouse=True)
def row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bands of rows forward: whole numbers stay whole."""
    monkeypatch.setattr(convolution_bands, "HEIGHTS", ())


@pytest.mark.parametrize("images", [5, 33])
def test_strides_groups_and_pooling(images: int) -> None:
    check(Convolution(40, 3, "same", stride=2), (6, 9, 10), images, True)
    check(Convolution(48, 5, 2, stride=3, groups=2), (4, 13, 11), images, False)
    check(Convolution(16, 2, "full", stride=2), (3, 7, 8), images, True)
    check(Convolution(34, 3, "same", groups=2, pool=2), (8, 4, 5), images, True)
    check(Convolution(64, 4, "valid", groups=4, pool=3), (8, 6, 6), images, False)


def test_a_weights_gradient_is_one_chain_over_rows_columns_and_images() -> None:
    # Factors of twelve bits: their products are exact, so a fused sum is rounded as a plain one.
    rng, images = np.random.default_rng(3), 20
    x, dy = (rng.integers(-4095, 4096, (n, 4, 3, images)).astype(np.float32) for n in (2, 16))
    tried = bench(Convolution(16, 3, "same"), (2, 4, 3), images)
    tried.give(x, dy, *tried.place.weights)
    tried.backward()
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted = np.zeros((2, 3, 3, 16), np.float32)
    for i, j, n in np.ndindex(4, 3, images):
        wanted += padded[:, i : i + 3, j : j + 3, n, None] * dy[:, i, j, n]
    assert abs(wanted).max() > 2**25  # something was rounded
    np.testing.assert_array_equal(tried.place.gradients[0], wanted)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_stays_visible(wrong: float) -> None:
    tried = bench(Convolution(20, 3, "same"), (4, 3, 3), 5)
    rng = np.random.default_rng(5)
    x, dy = abs(rng.normal(size=(4, 3, 3, 5))) + 1, rng.normal(size=(20, 3, 3, 5))
    dy[7, 1, 1, 2] = wrong
    tried.give(x, dy, *tried.place.weights)
    tried.backward()
    finite = np.isfinite(tried.place.gradients[0])
    assert not finite[..., 7].any()
    assert np.delete(finite, 7, 3).all()
