"""Dot products of rows against loops over taps, channels and rows."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from oracle import assert_close, rounding
from test_layers import bench

from distsgd.kernels import pairs
from distsgd.kernels.pairs import BLOCK, ROOM, SEEN
from distsgd.kernels.rows import NO_BIAS, NO_VALUES, NO_WINNERS
from distsgd.kernels.taps import Window, pair_taps, pairs_room
from distsgd.kernels.vector import LANES, TAPS, aligned
from distsgd.layers import Convolution, Dense
from distsgd.threads.parts import parts

LENGTHS = [16, 32, 48, 64, 80, 160, BLOCK // 4 * 3 // LANES * LANES, BLOCK, BLOCK + 16]
CANARY = np.float32(-12345.678)


@dataclass
class Case:
    """What `sum_pairs` is called with: dy inside NaN that must not be read, x between them too, dw inside canaries."""

    x: np.ndarray
    offsets: np.ndarray
    step: int
    dy: np.ndarray
    partial: np.ndarray
    buffer: np.ndarray
    dw: np.ndarray

    def run(self) -> np.ndarray:
        taps, channels = self.dw.shape
        room = self.partial[: pairs_room(taps, channels)]
        filled_up = np.concatenate([self.offsets, np.repeat(self.offsets[-1:], -taps % TAPS)])
        spans = np.array([(0, self.dy.shape[1], 0, self.dy.shape[2])] * (len(filled_up) // TAPS))
        db, alone = np.full(channels + 2, CANARY), np.empty(channels, np.float32)
        sums = (filled_up, np.arange(taps), spans, self.step, self.dy, room, self.dw, db[1:-1])
        pairs.sum_pairs(self.x, *sums, NO_VALUES, NO_WINNERS)
        pairs.sum_lanes(self.dy, np.empty(ROOM, np.float32), alone)
        np.testing.assert_array_equal(db[1:-1], alone)
        assert (db[[0, -1]] == CANARY).all()
        with_bias = self.dw.copy()
        pairs.sum_pairs(self.x, *sums[:-1], NO_BIAS, NO_VALUES, NO_WINNERS)
        np.testing.assert_array_equal(self.dw, with_bias)
        return self.dw

    def expected(self) -> np.ndarray:
        """The equation's sums."""
        return self._sums(self.x.astype(np.float64), self.dy.astype(np.float64))

    def magnitudes(self) -> np.ndarray:
        """The sums of the magnitudes of what is added."""
        return self._sums(abs(self.x.astype(np.float64)), abs(self.dy.astype(np.float64)))

    def _sums(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dw = np.zeros(self.dw.shape)
        for t, offset in enumerate(self.offsets):
            for i in range(dy.shape[1]):
                first = i * self.step + offset
                dw[t] += dy[:, i] @ x[first : first + dy.shape[2]]
        return dw


def numbers(rng: np.random.Generator, shape: tuple[int, ...], whole: bool) -> np.ndarray:
    drawn = rng.integers(-8, 9, shape) if whole else rng.normal(size=shape)
    return drawn.astype(np.float32)


def case(seed: int, taps: int, channels: int, lines: int, length: int, whole: bool = True) -> Case:
    rng = np.random.default_rng(seed)
    step = int(rng.integers(0, 40))
    offsets = rng.integers(0, 200, taps)
    needed = (lines - 1) * step + int(offsets.max()) + length
    around = np.full(needed + 40, np.nan, np.float32)
    x = around[20 : 20 + needed]
    x[:] = numbers(rng, (needed,), whole)
    wide = np.full((channels, lines + 2, length + 24), np.nan, np.float32)
    dy = wide[:, 1:-1, 11:-13]
    dy[:] = numbers(rng, dy.shape, whole)
    partial = np.full(pairs_room(taps, channels) + 64, CANARY)
    buffer = np.full((taps + 2, channels + 3), CANARY)
    return Case(x, offsets, step, dy, partial, buffer, buffer[1:-1, 1:-2])


@pytest.mark.parametrize("channels", range(1, 12))
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 6, 7, 9, 25, 100])
def test_whole_numbers_add_up_exactly_and_nothing_else_is_written(taps: int, channels: int) -> None:
    for lines, length in ((1, 16), (3, 48), (7, 32)):
        tried = case(100 * taps + channels + lines, taps, channels, lines, length)
        np.testing.assert_array_equal(tried.run(), tried.expected())
        tried.dw[:] = CANARY
        assert (tried.buffer == CANARY).all()
        assert (tried.partial[pairs_room(*tried.dw.shape) :] == CANARY).all()


@pytest.mark.parametrize("lines", [1, 2, 13])
@pytest.mark.parametrize("length", LENGTHS)
def test_rows_shorter_and_longer_than_a_block(length: int, lines: int) -> None:
    tried = case(length + lines, TAPS + 1, 5, lines, length)
    np.testing.assert_array_equal(tried.run(), tried.expected())


@pytest.mark.parametrize("length", [48, BLOCK, BLOCK + 16])
def test_more_taps_than_take_turns_with_the_same_rows(length: int) -> None:
    lines = BLOCK // length * 2 + 1
    assert 120 * max(1, BLOCK // length) * length > SEEN
    tried = case(length, 120, 6, lines, length)
    np.testing.assert_array_equal(tried.run(), tried.expected())


def test_real_numbers_add_up_within_float32() -> None:
    tried = case(5, 11, 6, 20, 320, whole=False)
    assert_close(tried.run(), tried.expected(), rounding(20 * 320 // LANES) * tried.magnitudes())


def test_a_batchs_padding_adds_nothing_to_the_bits() -> None:
    # Images 16 to 31 of every position are padding: the sum over 16 lanes a position is the same, bit for bit.
    positions, lines = 9, 4
    half = case(6, 4, 3, lines, positions * LANES, whole=False)
    half.offsets, half.step = np.array([0, 1, 2, 3]) * LANES, 12 * LANES
    half.x = np.random.default_rng(1).normal(size=(lines + 2) * half.step).astype(np.float32)
    whole = case(7, 4, 3, lines, positions * 2 * LANES, whole=False)
    whole.offsets, whole.step = half.offsets * 2, half.step * 2
    whole.x = np.random.default_rng(2).normal(size=2 * half.x.size).astype(np.float32)
    whole.x.reshape(-1, 2, LANES)[:, 0] = half.x.reshape(-1, LANES)
    whole.dy[:] = 0
    for k, i, position in np.ndindex(3, lines, positions):
        first = position * LANES
        whole.dy[k, i, 2 * first : 2 * first + LANES] = half.dy[k, i, first : first + LANES]
    np.testing.assert_array_equal(whole.run(), half.run())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("line", "lane"), [(0, 0), (0, 9), (1, 36), (2, 63)])
def test_what_is_not_finite_stays_visible(line: int, lane: int, bad: float) -> None:
    tried = case(8, 4, 6, 3, 64)
    tried.x[:] = 1  # infinity times zero would be a NaN
    tried.dy[2, line, lane] = bad
    dw = tried.run()
    np.testing.assert_array_equal(dw[:, 2], [bad] * 4)
    assert np.isfinite(np.delete(dw, 2, 1)).all()
    tried.x[:] = np.nan
    assert np.isnan(tried.run()).all()


@pytest.mark.parametrize(("lines", "length"), [(1, 16), (1, 48), (5, 16), (3, 176), (2, BLOCK + 32)])
def test_lanes_add_up_exactly_to_a_bias_gradient(lines: int, length: int) -> None:
    tried = case(lines, 1, 7, lines, length)
    db, partial = np.full(9, CANARY), np.full(ROOM + 8, CANARY)
    pairs.sum_lanes(tried.dy, partial[:ROOM], db[1:-1])
    np.testing.assert_array_equal(db[1:-1], tried.dy.sum((1, 2), dtype=np.float64))
    assert (db[[0, -1]] == CANARY).all()
    assert (partial[ROOM:] == CANARY).all()


def test_a_bias_gradient_is_summed_in_sixteen_chains_and_a_tree() -> None:
    dy = case(9, 1, 1, 5, 80, whole=False).dy
    chains = np.zeros(LANES, np.float32)
    for i in range(5):
        for j in range(0, 80, LANES):
            chains += dy[0, i, j : j + LANES]
    db = np.zeros(1, np.float32)
    pairs.sum_lanes(dy, np.zeros(ROOM, np.float32), db)
    while chains.size > 1:
        chains = chains[: chains.size // 2] + chains[chains.size // 2 :]
    assert db[0] == chains[0]


@pytest.mark.parametrize(
    ("layer", "calls_of_it"),
    [
        (Convolution(5, 3, "same"), 1),
        (Convolution(32, 3, "same"), 1),
        (Convolution(16, 3, groups=2), 2),
        (Convolution(8, 4, stride=2), 1),
        (Convolution(18, 3, "same", pool=2), 1),
        (Dense(5), 1),
        (Dense(40), 1),
    ],
)
@pytest.mark.parametrize("length", [5, 12])
def test_a_bias_gradient_is_written_once(layer: Convolution | Dense, calls_of_it: int, length: int) -> None:
    place = bench(layer, (2, length, length), 3).place
    for dx in (place.dx, None):
        calls = layer.backward(replace(place, dx=dx))
        written = [
            array for _, given in calls for array in given if np.may_share_memory(array, place.gradients[1])
        ]
        assert len(written) == calls_of_it
        assert sum(array.size for array in written) == place.gradients[1].size


def test_one_thread_sums_the_lanes_when_taps_are_shared_out() -> None:
    taps = 4 * TAPS
    dy, dw, db = aligned((4, 3, 16)), aligned((taps, 4)), aligned(4)
    window = Window((taps, 3, 1, 16), (1, 1), 0, 0, 3, 1, (3, 1))
    given = aligned(taps * 48), *pair_taps(window), window.step, dy, aligned(pairs_room(taps, 4)), dw, db
    shared = parts((pairs.sum_pairs, (*given, NO_VALUES, NO_WINNERS)), 2, [lambda memory: memory] * 2)
    assert [part[1][8].size for part in shared if part] == [4, 0]
    assert [part[1][1].size for part in shared if part] == [2 * TAPS, 2 * TAPS]
