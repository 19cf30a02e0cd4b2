"""Fixed point against Python's integers and fractions, which neither round nor overflow."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from distsgd.kernels import fixedpoint

HEADROOM = 8
LARGEST = float(np.finfo(np.float32).max)
TINY = 2.0**-149
# Both zeros, subnormal numbers, powers of two and their neighbours, the ends of the range.
POSITIVE = [0.0, TINY, 3 * TINY, 2.0**-126, 1e-30, 2.0**-24, 1 / 3, 1 - 2.0**-24, 1.0, 1 + 2.0**-23]
POSITIVE += [255.99998, 256.0, 1e10, 2.0**127, LARGEST]
ADVERSARIAL = [value * sign for value in POSITIVE for sign in (1, -1)]
NAN = np.array([0x7FC00000, 0x7F800001, 0xFFC00000, 0xFFFFFFFF], np.uint32).view(
    np.float32
)  # signs, payloads


def floats(*values: float) -> NDArray[np.float32]:
    """Return these as float32."""
    return np.array(values, np.float32)


def scaled(
    reference: NDArray[np.float32], segments: NDArray[np.int64], total_weight: int, headroom: int = HEADROOM
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return limits and scales as the kernels choose them."""
    largest = np.full(segments.size, np.nan, np.float32)
    fixedpoint.largest_magnitudes(reference, segments, largest)
    limits, scales = np.zeros(segments.size), np.zeros(segments.size)
    fixedpoint.set_scales(largest, headroom, (total_weight - 1).bit_length(), limits, scales)
    return limits, scales


def oracle_scale(values: Sequence[float], total_weight: int) -> Fraction:
    """Return the scale of one segment from its definition: 2^62 holds total_weight times the limit."""
    above = Fraction(1) if not any(values) else Fraction(TINY)
    while any(values) and above <= max(abs(Fraction(value)) for value in values):
        above *= 2
    weights = 1
    while weights < total_weight:
        weights *= 2
    return Fraction(2**62, weights) / (above * 2**HEADROOM)


def oracle_total(
    states: Sequence[NDArray[np.float32]], weights: Sequence[int], scales: Sequence[Fraction]
) -> list[int]:
    """Return the sums in fixed point; scales has one entry a value."""
    return [
        sum(round(Fraction(float(v)) * w * scale) for v, w in zip(values, weights, strict=True))
        for values, scale in zip(zip(*states, strict=True), scales, strict=True)
    ]


def test_largest_magnitude_of_each_segment() -> None:
    vector = floats(-3, 2, -0.0, 0.0, -TINY, TINY / 2, 1, np.inf, 5, -np.inf, 7)
    segments = np.array([2, 2, 2, 0, 2, 3])
    largest = np.full(6, -1, np.float32)
    fixedpoint.largest_magnitudes(vector, segments, largest)
    np.testing.assert_array_equal(largest, floats(3, 0, TINY, 0, np.inf, np.inf))


@pytest.mark.parametrize("length", [1, 7, 8, 33, 100])
def test_not_finite_is_found_at_every_place(length: int) -> None:
    vector = np.full(length, -LARGEST, np.float32)
    assert fixedpoint.all_finite(vector)
    for bad, place in itertools.product([*NAN, np.inf, -np.inf], range(length)):
        vector[place] = bad
        largest = np.zeros(1, np.float32)
        fixedpoint.largest_magnitudes(vector, np.array([length]), largest)
        assert not fixedpoint.all_finite(vector)
        assert not np.isfinite(largest[0])
        vector[place] = LARGEST


@pytest.mark.parametrize("value", ADVERSARIAL)
@pytest.mark.parametrize("total_weight", [1, 2, 3, 60_000, 2**31 + 1])
def test_scales_are_what_they_are_defined_to_be(value: float, total_weight: int) -> None:
    _, scales = scaled(floats(value, value / 2), np.array([2]), total_weight)
    assert Fraction(scales[0]) == oracle_scale([value], total_weight)


@pytest.mark.parametrize("largest", [TINY, 1e-30, 1.0, 1e10, LARGEST])
def test_sums_are_those_of_python_integers(largest: float) -> None:
    rng = np.random.default_rng(3)
    values = [value for value in ADVERSARIAL if abs(value) <= largest * 256]
    states = [rng.permutation(floats(*values, *values)) for _ in range(3)]
    weights, reference = [1, 64, 938], np.full(2 * len(values), largest, np.float32)
    segments = np.array([len(values), len(values)])
    limits, scales = scaled(reference, segments, sum(weights))
    total = np.zeros(reference.size + 1, np.int64)
    for state, weight in zip(states, weights, strict=True):
        assert fixedpoint.add_fixed(state, weight, segments, limits, scales, False, total) == 0
    expected = oracle_total(states, weights, [oracle_scale([largest], sum(weights))] * reference.size)
    assert total.tolist() == [*expected, 0]


def test_ties_are_rounded_to_even() -> None:
    values = floats(0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.75, -0.25, 2.0**31 + 2**8, 2.0**30)
    total = np.zeros(values.size, np.int64)
    one, limit = np.array([values.size]), np.array([2.0**40])
    assert fixedpoint.add_fixed(values, 1, one, limit, np.array([1.0]), False, total) == 0
    assert total.tolist() == [0, 2, 2, 0, -2, -2, 1, 0, 2**31 + 2**8, 2**30]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 31, 65])
def test_each_segment_has_its_own_scale(length: int) -> None:
    rng = np.random.default_rng(length)
    segments = np.array([length, 0, 1, length + 3])
    reference = rng.normal(size=segments.sum()).astype(np.float32)
    reference[length + 1 :] *= 1000
    limits, scales = scaled(reference, segments, 5)
    total = np.zeros(reference.size, np.int64)
    fixedpoint.add_fixed(reference, 5, segments, limits, scales, False, total)
    each = [oracle_scale(part.tolist(), 5) for part in np.split(reference, segments.cumsum()[:-1])]
    assert total.tolist() == oracle_total([reference], [5], np.repeat(each, segments))


def test_a_sum_of_limits_fits_for_every_total_weight() -> None:
    segments, state = np.array([2]), floats(256, -256)
    for weights in ([1], [1, 1, 1], [3, 4], [2**20, 1], [2**29, 2**29 - 1, 1]):
        limits, scales = scaled(floats(0.5, 0.5), segments, sum(weights))
        state[:] = limits[0], -limits[0]
        total = np.zeros(2, np.int64)
        for weight in weights:
            assert fixedpoint.add_fixed(state, weight, segments, limits, scales, False, total) == 0
        exact = round(Fraction(limits[0]) * sum(weights) * Fraction(scales[0]))
        assert total.tolist() == [exact, -exact]
        assert 2**61 < exact <= 2**62


@pytest.mark.parametrize("length", [1, 8, 37])
@pytest.mark.parametrize("bad", [*NAN, np.inf, -np.inf, 256.00003, -256.00003, LARGEST])
def test_a_refused_value_is_told_and_adds_nothing(length: int, bad: float) -> None:
    segments, limits, scales = np.array([length]), np.array([256.0]), np.array([2.0**50])
    for place in range(length):
        state = np.full(length, -256, np.float32)
        state[place] = bad
        total = np.full(length, 11, np.int64)
        refused = fixedpoint.add_fixed(state, 3, segments, limits, scales, False, total)
        assert refused == abs(np.float32(bad)).view(np.int32)
        expected = np.full(length, 11 - 3 * 2**58)
        expected[place] = 11
        np.testing.assert_array_equal(total, expected)
        state[0] = 256 if place else bad
        assert fixedpoint.add_fixed(state, 3, segments, limits, scales, False, total) == refused


def test_a_fresh_total_forgets_what_it_held() -> None:
    segments, limits, scales = np.array([11]), np.array([256.0]), np.array([2.0**50])
    total = np.full(12, 11, np.int64)
    refused = fixedpoint.add_fixed(floats(1, np.nan, -2, *[4] * 8), 3, segments, limits, scales, True, total)
    assert refused > fixedpoint.INFINITY
    assert total.tolist() == [3 * 2**50, 0, -6 * 2**50, *[12 * 2**50] * 8, 11]


def test_the_order_of_additions_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    states = [np.float32(rng.normal(size=50) * 10.0**power) for power in (-9, -4, 0, 1, 2)]
    segments = np.array([20, 30])
    limits, scales = scaled(states[0], segments, 15, headroom=44)
    totals = set()
    for order in itertools.permutations(range(5)):
        total = np.zeros(50, np.int64)
        for worker in order:
            fixedpoint.add_fixed(states[worker], worker + 1, segments, limits, scales, False, total)
        totals.add(total.tobytes())
    assert len(totals) == 1


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**-3, 2.0**40, 2.0**180])
def test_division_rounds_once(scale: float) -> None:
    rng = np.random.default_rng(1)
    total = np.array([0, 1, -1, 2**62, -(2**62), 2**53 + 1, *rng.integers(-(2**62), 2**62, 50)])
    out = np.full(total.size, np.nan, np.float32)
    largest = np.zeros(2, np.float32)
    fixedpoint.divide_fixed(total, 7, np.array([6, 50]), np.array([scale, scale]), largest, out)
    np.testing.assert_array_equal(largest, [abs(out[:6]).max(), abs(out[6:]).max()])
    for number, value in zip(total.tolist(), out, strict=True):
        exact = Fraction(number, 7) / Fraction(scale)
        half = Fraction(float(np.spacing(abs(value)))) / 2
        assert abs(Fraction(float(value)) - exact) <= half * (1 + Fraction(1, 2**20))


def test_division_tells_what_rounds_to_infinity() -> None:
    out, one, largest = np.zeros(2, np.float32), np.array([2]), np.zeros(1, np.float32)
    for number, finite in ((2**24 - 1, True), (2**24, False)):
        total = np.array([1, -number])
        fixedpoint.divide_fixed(total, 1, one, np.array([2.0**-104]), largest, out)
        assert fixedpoint.all_finite(largest) == np.isfinite(out).all() == finite


def test_what_is_left_of_a_value_far_below_its_segments_largest() -> None:
    # Unfavourable: many workers, a total weight just above a power of two, a largest just below one.
    rng = np.random.default_rng(2)
    largest, weights = 2.0 - 2.0**-23, [65] * 64
    states = [(2.0**-20 * rng.uniform(1, 2, 1000)).astype(np.float32) for _ in weights]
    reference = np.full(1000, largest, np.float32)
    segments, total, out = np.array([1000]), np.zeros(1000, np.int64), np.zeros(1000, np.float32)
    limits, scales = scaled(reference, segments, sum(weights))
    for state in states:
        fixedpoint.add_fixed(state, 65, segments, limits, scales, False, total)
    fixedpoint.divide_fixed(total, sum(weights), segments, scales, np.zeros(1, np.float32), out)
    exact = np.sum(states, axis=0, dtype=np.float64) / 64
    fixed = total / scales[0] / sum(weights)
    assert np.max(np.abs(fixed / exact - 1)) < 2.0**-27  # each rounds by half of 2^-40, over 65, over 2^-20
    assert np.max(np.abs(out / exact - 1)) < 2.0**-24 * (1 + 2.0**-5)


@pytest.mark.parametrize("length", [1, 8, 29, 64])
def test_float32_average_is_numpys(length: int) -> None:
    rng = np.random.default_rng(length)
    states = rng.normal(size=(3, length)).astype(np.float32)
    total, expected, out = np.zeros((3, length), np.float32)
    for weight, state in zip((3, 64, 7), states, strict=True):
        fixedpoint.add_weighted(state, weight, total)
        expected += np.float32(weight) * state
    fixedpoint.divide(total, 74, out)
    np.testing.assert_array_equal(total, expected)
    np.testing.assert_array_equal(out, expected / np.float32(74))


def test_scales_stay_far_inside_the_range_of_float64() -> None:
    for value, total_weight, headroom in ((TINY, 1, 8), (LARGEST, 2**52, 56)):
        limits, scales = scaled(floats(value), np.array([1]), total_weight, headroom)
        assert abs(math.log2(limits[0])) < 250
        assert abs(math.log2(scales[0])) < 250
