"""Sums of rows against the equation at the head of the module, one row, tap and channel at a time."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from oracle import assert_close, rounding

from distsgd.kernels import rows
from distsgd.kernels.rows import CHUNK, GROUP, NEAR, NEXT, NO_BIAS, NO_ROWS, NO_WINNERS, PAGES
from distsgd.kernels.vector import COLUMNS, STRIP, VECTOR

LENGTHS = sorted({16, 17, 31, 32, 48, STRIP - 1, STRIP, STRIP + 1, 80, 128, 200, GROUP - 1, GROUP, GROUP + 1})
LENGTHS += [2 * GROUP + 5, 1008]
TAPS = [1, 2, 5, 75, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7]
CANARY = np.float32(-12345.678)


@dataclass
class Case:
    """What `sum_rows` is called with: y inside a larger buffer of canaries, x between NaN that must not be read."""

    x: np.ndarray
    offsets: np.ndarray
    step: int
    weights: np.ndarray
    bias: np.ndarray
    partial: np.ndarray
    buffer: np.ndarray
    y: np.ndarray

    def run(self, gate: np.ndarray = NO_ROWS, rectify: bool = False) -> np.ndarray:
        room, count = self.partial[: self.y.shape[0] * GROUP], len(self.offsets)
        taps = np.stack([self.offsets, np.arange(count)])
        strips = np.array([(0, count, *strip) for strip in rows.strips(self.y.shape[2])])
        bands = np.array([(0, 1)] * self.y.shape[1])
        sums = (taps, strips, bands, self.step, self.weights, self.bias, room, self.y, gate, rectify)
        rows.sum_rows(self.x, *sums, NO_ROWS, NO_WINNERS)
        return self.y

    def expected(self) -> np.ndarray:
        """The equation's sums."""
        return self._sums(self.x.astype(np.float64), self.weights.astype(np.float64), self.bias)

    def magnitudes(self) -> np.ndarray:
        """The sums of the magnitudes of what is added."""
        return self._sums(abs(self.x.astype(np.float64)), abs(self.weights), abs(self.bias))

    def _sums(self, x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        y = np.zeros(self.y.shape)
        for k, i in np.ndindex(y.shape[:2]):
            y[k, i] = bias[k] if bias.size else 0
            for t, offset in enumerate(self.offsets):
                first = i * self.step + offset
                y[k, i] += weights[t, k] * x[first : first + y.shape[2]]
        return y

    def outside(self) -> np.ndarray:
        """What of the buffer does not belong to y."""
        left = self.buffer.copy()
        left[:, 1:-2, 3:-5] = CANARY
        return left


def numbers(rng: np.random.Generator, shape: tuple[int, ...], whole: bool) -> np.ndarray:
    """Random values; whole ones are so small that no sum of a test is rounded."""
    drawn = rng.integers(-8, 9, shape) if whole else rng.normal(size=shape)
    return drawn.astype(np.float32)


def case(seed: int, taps: int, channels: int, length: int, whole: bool = True, lines: int = 2) -> Case:
    rng = np.random.default_rng(seed)
    step = int(rng.integers(0, 40))
    offsets = rng.integers(0, 300, taps)
    needed = (lines - 1) * step + int(offsets.max()) + length
    around = np.full(needed + 50, np.nan, np.float32)
    x = around[25 : 25 + needed]
    x[:] = numbers(rng, (needed,), whole)
    weights = numbers(rng, (channels, taps) if seed % 2 else (taps, channels), whole)
    bias = numbers(rng, (channels,), whole) if seed % 3 else NO_BIAS
    partial = np.full(channels * GROUP + 64, CANARY)
    buffer = np.full((channels, lines + 3, length + 8), CANARY)
    turned = weights.T if seed % 2 else weights
    return Case(x, offsets, step, turned, bias, partial, buffer, buffer[:, 1:-2, 3:-5])


def test_strips_cover_a_row_with_as_few_registers_as_will_do() -> None:
    for length in range(VECTOR, 4 * STRIP):
        strips = rows.strips(length)
        covered = {lane for begin, registers in strips for lane in range(begin, begin + registers * VECTOR)}
        assert covered == set(range(length))
        assert {registers for _, registers in strips} <= set(rows.WIDTHS)
        spare = sum(registers for _, registers in strips) - -(-length // VECTOR)
        assert spare == 0 or (spare == 1 and COLUMNS > 4)
        if COLUMNS <= 4 and length >= STRIP:
            widths = [registers for _, registers in strips]
            assert len(widths) == -(-length // STRIP)
            assert max(widths) - min(widths) <= 1


def test_channels_are_split_without_single_rows_where_that_adds_up() -> None:
    for channels in range(1, 400):
        begin, *ends = (place - 7 for place in rows.split.py_func(7, 7 + channels))
        fours, threes, ones, low, single, end = ends
        assert (begin, end) == (0, channels)
        assert (low, (single - low) % 4) == (channels // rows.TALL * rows.TALL, 0)
        assert low <= single
        assert end - single < 4
        assert (fours % rows.HIGH, (threes - fours) % 4, (ones - threes) % 3) == (0, 0, 0)
        # As many high tiles as may be: with one more there were 1, 2 or 5 channels left, or less than none.
        assert channels - fours - rows.HIGH in (1, 2, 5) or channels - fours < rows.HIGH
        assert 0 <= fours <= threes <= ones <= channels
        assert ones == channels or (channels in (1, 2, 5) and ones == 0)


@pytest.mark.parametrize("channels", range(1, 15))
@pytest.mark.parametrize("length", LENGTHS)
def test_whole_numbers_add_up_exactly_and_nothing_else_is_written(length: int, channels: int) -> None:
    for taps in TAPS[(length + channels) % 3 :: 3]:
        tried = case(1000 * length + 10 * channels + taps, taps, channels, length)
        np.testing.assert_array_equal(tried.run(), tried.expected())
        assert (tried.outside() == CANARY).all()
        assert (tried.partial[channels * GROUP :] == CANARY).all()


@pytest.mark.parametrize("taps", [*TAPS, 1000])
def test_real_numbers_add_up_within_float32(taps: int) -> None:
    tried = case(taps, taps, 7, 100, whole=False)
    assert_close(tried.run(), tried.expected(), rounding(taps) * tried.magnitudes())


@pytest.mark.parametrize("turned", [0, 1], ids=["channels side by side", "taps side by side"])
@pytest.mark.parametrize(
    "channels", [1, 2, 3, 4, 5, 6, 7, 11, 32, PAGES - 1, PAGES, PAGES + 1, 2 * PAGES + 5, 130]
)
def test_many_channels(channels: int, turned: int) -> None:
    tried = case(2 * channels + turned, CHUNK + 3, channels, GROUP + 20, lines=1 + channels % 2)
    np.testing.assert_array_equal(tried.run(), tried.expected())
    assert (tried.outside() == CANARY).all()


@pytest.mark.parametrize("turned", [0, 1], ids=["channels side by side", "taps side by side"])
@pytest.mark.parametrize("channels", [1, 3, 5, 17, NEXT + 2, 3 * NEXT + 1, NEAR + 3])
def test_more_weights_than_the_cache_holds_give_the_same_bits(channels: int, turned: int) -> None:
    taps, last = NEAR // channels + 1, slice(channels - 1, channels)
    for length in (16, 48, STRIP + 16) if channels < NEAR else (16,):
        many = case(2 * (3 * channels + length) + turned, taps, channels, length, whole=False, lines=1)
        weights, bias, y = many.weights[:, last], many.bias[last], np.empty_like(many.y[last])
        few = replace(many, weights=weights, bias=bias, y=y)
        np.testing.assert_array_equal(many.run()[last], few.run())
        assert_close(few.y, few.expected(), rounding(taps) * few.magnitudes())
        assert (many.outside() == CANARY).all()


@pytest.mark.parametrize("channels", [1, 4, 7])
@pytest.mark.parametrize("length", [16, STRIP + 3, GROUP + 16])
def test_rectifying_and_gating(length: int, channels: int) -> None:
    tried = case(length + channels, 9, channels, length)
    rng = np.random.default_rng(length)
    wide = rng.integers(-1, 2, (channels, 4, length + 6)).astype(np.float32)
    wide[wide == 0] = np.float32(-0.0)
    gate = wide[:, 1:3, 2:-4]
    wanted = tried.expected()
    np.testing.assert_array_equal(tried.run(rectify=True), np.maximum(wanted, 0))
    np.testing.assert_array_equal(tried.run(gate), np.where(gate > 0, wanted, 0))
    np.testing.assert_array_equal(tried.run(gate, True), np.where(gate > 0, np.maximum(wanted, 0), 0))
    assert (tried.outside() == CANARY).all()


@pytest.mark.parametrize("taps", [3, CHUNK + 4])
def test_a_lanes_bits_do_not_depend_on_where_it_stands(taps: int) -> None:
    # The same lane computed in wide strips, in one that moved back, in a narrow one, in another group.
    whole = case(1, taps, 6, 2 * GROUP + 16, whole=False, lines=1)
    whole.run()
    for first, length in ((0, 16), (5, 19), (STRIP - 1, 2 * STRIP + 1), (GROUP - 9, 40), (2 * GROUP, 16)):
        part = case(1, taps, 6, length, whole=False, lines=1)
        part.x, part.weights, part.bias = whole.x[first:], whole.weights, whole.bias
        part.offsets = whole.offsets
        np.testing.assert_array_equal(part.run(), whole.y[:, :, first : first + length])


@pytest.mark.parametrize("length", [16, STRIP + 3])
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible(bad: float, rectify: bool, length: int) -> None:
    for place in (0, 7, length - 1):
        tried = case(6, 1, 5, length, lines=1)
        tried.weights[:] = np.float32(2)
        tried.x[tried.offsets[0] + place] = bad
        y, wanted = tried.run(rectify=rectify), tried.expected()
        wanted = np.where(wanted <= 0, 0, wanted) if rectify else wanted
        np.testing.assert_array_equal(y, wanted)
        assert np.isnan(y[:, 0, place]).all() == np.isnan(bad)


def test_a_nan_in_weight_or_bias_reaches_its_whole_channel_and_no_other() -> None:
    for taken in ("weights", "bias"):
        tried = case(7, 20, 6, STRIP + 16)
        getattr(tried, taken)[..., 4] = np.nan
        y = tried.run(rectify=True)
        assert np.isnan(y[4]).all()
        assert np.isfinite(np.delete(y, 4, 0)).all()


def test_a_nan_in_the_gate_lets_the_gradient_through() -> None:
    # The rectifier passed that NaN on: its gradient must not be hidden either.
    tried = case(8, 3, 2, 32)
    gate = np.zeros(tried.y.shape, np.float32)
    gate[:, :, 5] = np.nan
    y = tried.run(gate)
    np.testing.assert_array_equal(y[:, :, 5], tried.expected()[:, :, 5])
    assert not np.delete(y, 5, 2).any()
