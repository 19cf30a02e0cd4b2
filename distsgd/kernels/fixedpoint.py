"""Weighted averages of float32 vectors, added in float32, or as int64 fixed point where no order matters.

A vector is a row of segments (one per tensor). In fixed point a value v of segment s adds::

    round to nearest even of  v * weight * scales[s]        scales[s] is a power of two

and is refused where |v| is above limits[s]. Comparisons are written so that NaN fails them. Scales stay
between 2^-250 and 2^250 whatever the float32 values are, far inside float64's range.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from distsgd.kernels.compiled import compiled, inlined, processor_features

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

TOTAL_BITS = 62
"""The largest total in fixed point is 2^62: one bit of int64 is the sign, one is left for the roundings."""
INFINITY = np.int32(0x7F800000)
"""The bits of float32's infinity."""

_HIGH_BITS = 31
_HIGH = np.float64(1.5 * 2.0 ** (52 + _HIGH_BITS))
"""A float64 added to this is rounded to multiples of 2^31, and the sum's low bits hold how many."""
_LOW = np.float64(1.5 * 2.0**52)
_CONVERTS = "+avx512dq" in processor_features().split(",")
_HIGH_PATTERN, _LOW_PATTERN = _HIGH.view(np.int64), _LOW.view(np.int64)


@inlined
def magnitude(value: float) -> np.int32:
    """A float32's bits without the sign: integers in the order of the numbers, then infinity, then NaN."""
    return np.int32(np.float32(value).view(np.int32) & np.int32(0x7FFFFFFF))


@intrinsic
def _converted(typing: Any, x: Any) -> Any:
    """The integer nearest to x, by the processor's own instructions."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nearest = builder.module.declare_intrinsic("llvm.rint", [ir.DoubleType()])
        return builder.fptosi(builder.call(nearest, args), ir.IntType(64))

    return types.int64(types.float64), generate


@inlined
def _by_parts(x: float) -> np.int64:
    """The integer nearest to x where there is no vector instruction for it, as in AVX2."""
    high = np.float64(x + _HIGH)
    low = np.float64((x - (high - _HIGH)) + _LOW)
    return ((high.view(np.int64) - _HIGH_PATTERN) << _HIGH_BITS) + (low.view(np.int64) - _LOW_PATTERN)


@inlined
def integer(x: float) -> np.int64:
    """The integer nearest to x, ties to even, for |x| up to 2^62."""
    return _converted(x) if _CONVERTS else _by_parts(x)


@compiled("void(float32[::1], int64[::1], float32[::1])")
def largest_magnitudes(vector: Floats, segments: Integers, largest: Floats) -> None:
    """Write each segment's largest magnitude, infinity and NaN included, to `largest` (segments,)."""
    first = 0
    for s in range(segments.size):
        part = vector[first : first + segments[s]]
        most = np.int32(0)
        for i in range(part.size):
            most = max(most, magnitude(part[i]))
        largest[s] = np.int32(most).view(np.float32)
        first += segments[s]


@compiled("boolean(float32[::1])")
def all_finite(vector: Floats) -> bool:
    """Whether a vector holds neither infinity nor NaN."""
    most = np.int32(0)
    for i in range(vector.size):
        most = max(most, magnitude(vector[i]))
    return bool(most < INFINITY)


@compiled("void(float32[::1], int64, int64, float64[::1], float64[::1])")
def set_scales(largest: Floats, headroom: int, weight_bits: int, limits: Doubles, scales: Doubles) -> None:
    """Write each segment's limit, 2^headroom times the power of two above its largest (1 above 0), and scale.

    Then a sum of values within the limit, with weights that add up to at most 2^weight_bits, stays within
    2^TOTAL_BITS. What a segment gets whose largest is not finite is of no use.
    """
    for s in range(largest.size):
        exponent = headroom + math.frexp(largest[s])[1]
        limits[s] = math.ldexp(1.0, exponent)
        scales[s] = math.ldexp(1.0, TOTAL_BITS - weight_bits - exponent)


@compiled("int64(float32[::1], int64, int64[::1], float64[::1], float64[::1], boolean, int64[::1])")
def add_fixed(
    vector: Floats,
    weight: int,
    segments: Integers,
    limits: Doubles,
    scales: Doubles,
    fresh: bool,
    total: Integers,
) -> int:
    """Add weight times a vector to `total` in place, in fixed point; return how many values were refused.

    vector: (values,), total: at least as long. segments, limits, scales: (segments,). Refused values add
    nothing. fresh: whether `total` begins here, whatever it holds.
    """
    first, refused = 0, 0
    for s in range(segments.size):
        values, sums = vector[first : first + segments[s]], total[first : first + segments[s]]
        limit, scale = limits[s], weight * scales[s]
        for i in range(values.size):
            value = np.float64(values[i])
            within = abs(value) <= limit
            refused += not within
            sums[i] = integer(value * scale if within else 0.0) + (0 if fresh else sums[i])
        first += segments[s]
    return refused


@compiled("void(int64[::1], int64, int64[::1], float64[::1], float32[::1], float32[::1])")
def divide_fixed(
    total: Integers, weight: int, segments: Integers, scales: Doubles, largest: Floats, out: Floats
) -> None:
    """Write total / weight, out of fixed point, to `out` (values,): float64 up to the rounding to float32.

    And each segment's largest magnitude to `largest` (segments,): next to the largest float32 that rounding can reach infinity.
    """
    first = 0
    for s in range(segments.size):
        most = np.int32(0)
        sums, values = total[first : first + segments[s]], out[first : first + segments[s]]
        unit = 1.0 / (scales[s] * weight)
        for i in range(values.size):
            values[i] = np.float32(sums[i] * unit)
            most = max(most, magnitude(values[i]))
        largest[s] = np.int32(most).view(np.float32)
        first += segments[s]


@compiled("void(float32[::1], float32, float32[::1])")
def add_weighted(vector: Floats, weight: int, total: Floats) -> None:
    """Add weight times a vector to `total` in place, in float32."""
    for i in range(vector.size):
        total[i] += weight * vector[i]


@compiled("void(float32[::1], float32, float32[::1])")
def divide(total: Floats, weight: int, out: Floats) -> None:
    """Write total / weight to `out`, in float32."""
    for i in range(total.size):
        out[i] = total[i] / weight
