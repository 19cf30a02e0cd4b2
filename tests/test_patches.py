"""Convolutions by patches of outputs: the transforms, the choice, and every layer against its oracle."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_layers
from test_layers import NONE, WIDER, bench
from test_winograd import check as check_any
from test_winograd import numbers, results, window

from distsgd.kernels import patch_filters, patches, winograd
from distsgd.kernels.vector import LANES
from distsgd.layers import (
    Border,
    Convolution,
    Shape,
    convolution_bands,
    convolution_passes,
    convolution_patches,
    convolution_products,
    convolution_shallow,
)
from distsgd.threads.turns import calls

FENCED = """
import ctypes, itertools, math, mmap
import numpy as np
import test_layers
from distsgd.layers import Convolution, Values, convolution_patches, convolution_shallow

def fenced(size):
    "A vector that ends where a page begins that nobody may touch."
    pages = -(-size * 4 // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + pages
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0) == 0
    return np.frombuffer(memory, np.float32, size, pages - size * 4)

def values(shape, lanes, border, outside):
    size = (*border.around(shape), lanes)
    return Values(fenced(math.prod(size)).reshape(size), border)

test_layers.values, test_layers.guarded = values, fenced
convolution_patches.cost = lambda *shapes: -1
for (sizes, channels), size, length in itertools.product(
    [(convolution_shallow.SIZES, 2), ((), 2), ((), 17)], (3, 5), range(3, 13)):
        convolution_shallow.SIZES = sizes
        for padding, pool in (("valid", 1), ("same", 1), ("valid", 2), ("same", 2)):
            layer = Convolution(18, size, padding, pool=pool)
            if length - (size - 1) * (padding == "valid") >= pool:
                tried = test_layers.bench(layer, (channels, length, length), 3)
                tried.forward()
                tried.backward()
"""

by_patches = pytest.mark.usefixtures("near")


@pytest.fixture(params=[1, 300_000])
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches wherever they can be had, in small pieces and in large ones."""
    monkeypatch.setattr(convolution_shallow, "SIZES", ())
    monkeypatch.setattr(convolution_patches, "cost", lambda *shapes: -1)
    monkeypatch.setattr(convolution_patches, "NEAR", request.param)
    if request.param == 1:
        monkeypatch.setattr(convolution_patches, "FEWEST", 1)


def kernels_of(layer: Convolution, shape: Shape) -> list[set[object]]:
    """Forward and backward."""
    tried = bench(layer, shape, 3)
    programs = layer.forward(tried.place, True), layer.backward(tried.place)
    return [{kernel for kernel, _ in calls(program)} for program in programs]


def check(layer: Convolution, shape: Shape, *others: Any) -> None:
    """All passes by patches: to data where channels fill a register, to weights where maps are not very small."""
    forward, backward = kernels_of(layer, shape)
    seen = convolution_passes.window_forward(layer, shape, LANES)
    assert patches.multiply_points in forward
    assert (patches.pair_points in backward) != convolution_products.fit(seen, layer.filters // layer.groups)
    assert (patches.multiply_points in backward) == (shape[0] // layer.groups >= LANES)
    check_any(layer, shape, *others)


@pytest.mark.parametrize("size", patches.SIZES)
@pytest.mark.parametrize(("channels", "filters", "runs"), [(1, 16, 1), (3, 23, 2), (8, 32, 3)])
def test_filters_are_spread_and_gathered(channels: int, filters: int, runs: int, size: int) -> None:
    rng, matrix, wide = (
        np.random.default_rng(filters),
        winograd.transforms(4, size)[1],
        -(-filters // LANES) * LANES,
    )
    weights = rng.normal(size=(channels, size, size, filters)).astype(np.float32)
    points = len(matrix)
    spread = np.full((points**2, channels + 2, filters), 7, np.float32)
    room = np.empty((points, points * LANES), np.float32)
    patch_filters.spread_filters(weights, 1, room, spread)
    wanted = np.einsum("pr,qs,crsk->pqck", matrix, matrix, weights)
    np.testing.assert_allclose(spread[:, 1:-1].reshape(wanted.shape), wanted, atol=1e-5)
    assert (spread[:, [0, -1]] == 7).all()
    sums = rng.normal(size=(runs, points**2, channels + 1, wide)).astype(np.float32)
    gathered = np.full((channels + 2, *weights.shape[1:]), 7, np.float32)
    patch_filters.gather_filters(sums, 1, room, gathered[1:-1])
    assert (gathered[[0, -1]] == 7).all()
    added = sums.sum(0)[:, 1:, :filters].reshape(wanted.shape)
    np.testing.assert_allclose(
        gathered[1:-1], np.einsum("pr,qs,pqck->crsk", matrix, matrix, added), atol=1e-5
    )


@by_patches
@pytest.mark.parametrize("size", patches.SIZES)
@pytest.mark.parametrize("padding", ["valid", "same", "full", 1])
@pytest.mark.parametrize("around", [NONE, WIDER])
def test_any_shape_and_padding(around: Border, padding: int | str, size: int) -> None:
    for number, shape in enumerate(((3, size, 5), (16, 7, 6), (5, 9, 13), (17, 8, 5), (20, 12, 16))):
        layer = Convolution((17, 16, 21)[number % 3], size, padding)
        check(layer, shape, (3, 16, 40, 70)[number % 4], number % 2 == 0, around)


@by_patches
@pytest.mark.parametrize("around", [NONE, WIDER])
@pytest.mark.parametrize("pool", [2, 4])
@pytest.mark.parametrize("images", [3, 19, 64])
def test_pooling_in_the_same_pass(images: int, pool: int, around: Border) -> None:
    for shape in ((17, 9, 11), (16, 8, 7), (4, 13, 13)):
        check(Convolution(18, 3, "same", pool=pool), shape, images, True, around, shape[0] != 16)
    check(Convolution(20, 5, "full", pool=pool), (17, 7, 8), images, False, around)


@by_patches
def test_groups() -> None:
    for shape in ((4, 9, 10), (32, 6, 7)):
        check(Convolution(32, 3, "same", groups=2), shape, 5, False)
        check(Convolution(34, 3, "valid", groups=2, pool=2), shape, 33, True)


@by_patches
@pytest.mark.parametrize(("channels", "filters"), [(1, 16), (2, 17), (13, 18), (40, 19), (70, 33)])
def test_any_number_of_channels(channels: int, filters: int) -> None:
    check(Convolution(filters, 3, "same"), (channels, 7, 6), 18, True)


def alone(layer: Convolution, shape: Shape, images: int, rectify: bool) -> np.ndarray:
    """y, rectified in the same pass or not."""
    tried = bench(layer, shape, images, rectify)
    weights = numbers(2, *layer.tensors(shape)[0].shape)
    tried.give(
        numbers(1, *shape, images),
        numbers(4, *layer.output(shape), images),
        weights,
        numbers(3, layer.filters),
    )
    return tried.forward().copy()


@by_patches
@pytest.mark.parametrize("size", patches.SIZES)
def test_rectified_in_the_same_pass(size: int) -> None:
    layer, shape = Convolution(19, size, "same"), (3, 9, 7)
    assert patches.multiply_points in kernels_of(layer, shape)[0]
    plain = alone(layer, shape, 18, False)
    assert plain.min() < 0
    np.testing.assert_array_equal(alone(layer, shape, 18, True), np.maximum(plain, 0))


MANY = [
    (Convolution(20, 3, "same"), (3, 9, 14), 70, True),
    (Convolution(17, 5, 1), (18, 11, 9), 19, False),
    (Convolution(32, 3, "full", groups=2, pool=2), (34, 8, 13), 66, True),
    (Convolution(18, 3, "same"), (16, 16, 18), 70, True),
    (Convolution(18, 3, "same", pool=2), (17, 17, 18), 66, True),
]
"""All are summed in runs of patches, the last two in four."""


def same_bits(whole: list[list[np.ndarray]]) -> None:
    for each, wanted in zip(MANY, whole, strict=True):
        for got, same in zip(results(*each), wanted, strict=True):
            np.testing.assert_array_equal(got, same)


def test_pieces_and_room_for_more_images_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_patches, "cost", lambda *shapes: -1)
    whole = [results(*each) for each in MANY]
    for near, fewest in ((1, 1), (30_000, 1), (1, 200), (10**9, 1)):
        monkeypatch.setattr(convolution_patches, "NEAR", near)
        monkeypatch.setattr(convolution_patches, "FEWEST", fewest)
        same_bits(whole)
    for lanes in (3 * LANES, 8 * LANES):
        monkeypatch.setattr(test_layers, "LANES", lanes)
        same_bits(whole)


@by_patches
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_stays_visible_and_in_its_image(wrong: float) -> None:
    layer, shape = Convolution(16, 3, "same"), (3, 8, 8)
    assert patches.multiply_points in kernels_of(layer, shape)[0]
    tried, x = bench(layer, shape, 5), numbers(1, *shape, 5)
    x[1, 3, 3, 2] = wrong
    tried.give(x, numbers(2, 16, 8, 8, 5), numbers(3, 3, 3, 3, 16), numbers(4, 16))
    finite = np.isfinite(tried.forward())
    assert not finite[:, 2:5, 2:5, 2].any()
    assert finite[..., [0, 1, 3, 4]].all()


@by_patches
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_passes_windows(wrong: float) -> None:
    layer, shape = Convolution(18, 3, "same", pool=2), (17, 8, 8)
    assert convolution_passes.reads_windows(layer, shape)
    tried, x, dy = bench(layer, shape, 5), numbers(1, *shape, 5), numbers(2, 18, 4, 4, 5)
    x[1, 3, 3, 2] = wrong
    tried.give(x, dy, numbers(3, 17, 3, 3, 18), numbers(4, 18))
    finite = np.isfinite(tried.forward())
    assert (
        not finite[:, 1:3, 1:3, 2].any() or wrong == np.inf
    )  # an infinite maximum, or minus infinity is none
    assert finite[..., [0, 1, 3, 4]].all()
    dy[7, 1, 2, 3] = wrong
    tried.give(numbers(1, *shape, 5), dy, numbers(3, 17, 3, 3, 18), numbers(4, 18))
    tried.forward()
    finite = np.isfinite(tried.backward())
    assert not finite[..., 3].all()
    assert finite[..., [0, 1, 2, 4]].all()


def test_the_choice_follows_from_the_shapes_alone() -> None:
    seen, choose = window(16, 32, 3), convolution_bands._by_patches
    for batch in (16, 64, 1024):
        of_batch = replace(seen, buffer=(*seen.buffer[:3], batch))
        assert choose(of_batch, 32)
        assert convolution_bands._pairs_by_patches(of_batch, 32)
    assert choose(window(16, 32), 32)
    assert choose(window(64, 32), LANES)
    assert not choose(window(64, 32), LANES - 1)  # no whole register of filters
    assert not choose(window(16, 1, 3), 32)  # transforms would cost more than they save
    assert not choose(window(2, 512, 3), 512)  # a patch would be mostly zeros
    assert not choose(window(16, 32, 4), 32)
    assert not choose(window(16, 32, 7), 32)
    assert not choose(window(16, 512, 3, stride=2), 512)
    assert not choose(replace(seen, size=(3, 5)), 32)
    assert [pool for pool in range(1, 7) if choose(seen, 32, pool)] == [1, 2, 4]
    assert not convolution_bands._pairs_by_patches(seen, LANES - 1)


def test_whether_windows_are_read_follows_from_the_shapes_alone() -> None:
    pooled = Convolution(32, 3, "same", pool=2)
    assert convolution_passes.reads_windows(pooled, (32, 16, 16))
    assert pooled.own((32, 16, 16), 16, first=False) == 0
    others = replace(pooled, pool=4), replace(pooled, stride=2), replace(pooled, filters=8)
    others += replace(pooled, pool=1), replace(pooled, size=4)
    for layer in others:
        assert not convolution_passes.reads_windows(layer, (32, 16, 16)), layer
    assert not convolution_passes.reads_windows(pooled, (32, 4, 4))
    assert replace(pooled, pool=4).own((32, 16, 16), 16, first=False) > 0


def test_patches_are_summed_in_runs_by_the_shapes_alone() -> None:
    seen, runs = window(16, 32, 3), convolution_patches._runs
    for batch in (16, 64, 1024):
        of_batch = replace(seen, buffer=(*seen.buffer[:3], batch), outputs=(16, 13))
        assert runs(of_batch, 32) == 4
        assert runs(of_batch, 1 << 9) == 1  # too many sums
        assert runs(replace(of_batch, outputs=(12, 13)), 32) == 2
        assert runs(replace(of_batch, outputs=(4, 9)), 32) == 1  # too few patches


def test_pieces_cover_every_patch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = replace(window(16, 8, 3), outputs=(14, 19))

    def patches_of(near: int, *run: int) -> Iterator[tuple[int, int]]:
        monkeypatch.setattr(convolution_patches, "NEAR", near)
        for piece in convolution_patches.pieces(seen, 8, *run):
            for i, j in np.ndindex(piece.bands, piece.columns):
                yield piece.top // patches.OUTPUTS + i, piece.left // patches.OUTPUTS + j

    every = list(np.ndindex(4, 5))
    for near in (1, 30_000, 60_000, 10**9):
        assert list(patches_of(near)) == every
        for begin, end in ((0, 5), (3, 4), (4, 17), (10, 20), (6, 6)):
            assert list(patches_of(near, begin, end)) == every[begin:end]


def test_nothing_beyond_the_end_of_an_array_is_read() -> None:
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", FENCED], check=True, env=surroundings, timeout=120)
