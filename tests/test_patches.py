"""Convolutions by patches of outputs: the transforms, the choice, and every layer against its oracle."""

import numpy as np
import pytest
from test_layers import NONE, WIDER
from test_winograd import check

from distsgd.kernels import patches, winograd
from distsgd.layers import Border, Convolution, convolution_bands, convolution_patches


@pytest.fixture(autouse=True, params=[1, 300_000])
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches wherever they can be had, in small pieces and in large ones."""
    monkeypatch.setattr(convolution_patches, "cost", lambda *shapes: -1)
    monkeypatch.setattr(convolution_patches, "NEAR", request.param)
    if request.param == 1:
        monkeypatch.setattr(convolution_patches, "FEWEST", 1)


@pytest.mark.parametrize("size", patches.SIZES)
@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (3, 7), (8, 16)])
def test_filters_are_spread_and_gathered(channels: int, filters: int, size: int) -> None:
    rng, matrix = np.random.default_rng(filters), winograd.transforms(4, size)[1]
    weights = rng.normal(size=(channels, size, size, filters)).astype(np.float32)
    spread, room = (
        np.empty((len(matrix) ** 2, channels, filters), np.float32),
        np.empty((8, filters), np.float32),
    )
    patches.spread_filters(weights, matrix, 0, room, spread)
    wanted = np.einsum("pr,qs,crsk->pqck", matrix, matrix, weights)
    np.testing.assert_allclose(spread.reshape(wanted.shape), wanted, atol=1e-5)
    gathered = np.empty_like(weights)
    patches.gather_filters(spread, matrix, 0, room, gathered)
    np.testing.assert_allclose(gathered, np.einsum("pr,qs,pqck->crsk", matrix, matrix, wanted), atol=1e-5)


@pytest.mark.parametrize("size", patches.SIZES)
@pytest.mark.parametrize("padding", ["valid", "same", "full", 1])
@pytest.mark.parametrize("around", [NONE, WIDER])
def test_any_shape_and_padding(around: Border, padding: int | str, size: int) -> None:
    for number, shape in enumerate(((3, size, 5), (2, 7, 6), (5, 9, 13), (1, 8, 5), (4, 12, 16))):
        layer = Convolution((5, 16, 21)[number % 3], size, padding)
        check(layer, shape, (3, 16, 40, 64)[number % 4], number % 2 == 0, around)


@pytest.mark.parametrize("pool", [2, 4])
@pytest.mark.parametrize("images", [3, 19, 64])
def test_pooling_in_the_same_pass(images: int, pool: int) -> None:
    for shape in ((3, 9, 11), (2, 8, 7), (4, 13, 13)):
        check(Convolution(18, 3, "same", pool=pool), shape, images, True)


def test_groups() -> None:
    for shape in ((4, 9, 10), (8, 6, 7)):
        check(Convolution(32, 3, "same", groups=2), shape, 5, False)
        check(Convolution(8, 3, "valid", groups=2, pool=2), shape, 33, True)


@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (2, 9), (13, 17), (40, 5), (70, 33)])
def test_any_number_of_channels(channels: int, filters: int) -> None:
    check(Convolution(filters, 3, "same"), (channels, 7, 6), 18, True)


def test_the_choice() -> None:
    assert convolution_bands._by_patches(__import__("test_winograd").window(16, 32, 3), 32)
