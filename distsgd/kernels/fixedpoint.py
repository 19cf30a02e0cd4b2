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
from distsgd.kernels.vector import address

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
AT_ONCE = 8
"""Values that are added together, by one instruction with AVX-512: left to itself, LLVM takes half as many of float64."""
_SINGLES, _DOUBLES, _WORDS = (
    ir.VectorType(kind, AT_ONCE) for kind in (ir.FloatType(), ir.DoubleType(), ir.IntType(64))
)


@inlined
def magnitude(value: float) -> np.int32:
    """A float32's bits without the sign: integers in the order of the numbers, then infinity, then NaN."""
    return np.int32(np.float32(value).view(np.int32) & np.int32(0x7FFFFFFF))


def _constant(kind: Any, value: Any) -> Any:
    """A number, or a vector of it."""
    return ir.Constant(kind, [value] * AT_ONCE if isinstance(kind, ir.VectorType) else value)


def _spread(builder: Any, scalar: Any) -> Any:
    """A vector of a scalar."""
    kind, number = ir.VectorType(scalar.type, AT_ONCE), ir.IntType(32)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, number(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(number, AT_ONCE), [0] * AT_ONCE))


def _converted(builder: Any, x: Any, integers: Any) -> Any:
    """The integers nearest to x by the processor's own instructions: for a vector by a single one, which LLVM does not find."""
    module = builder.module
    if x.type != _DOUBLES:
        return builder.fptosi(builder.call(module.declare_intrinsic("llvm.rint", [x.type]), [x]), integers)
    all_of_them = ir.IntType(AT_ONCE)(-1)
    as_usual = ir.IntType(32)(4)  # as the processor rounds, to nearest even
    arguments = x, _constant(integers, 0), all_of_them, as_usual
    kind = ir.FunctionType(integers, [argument.type for argument in arguments])
    name = "llvm.x86.avx512.mask.cvtpd2qq.512"
    return builder.call(module.declare_intrinsic(name, (), kind), arguments)


def _nearest(builder: Any, x: Any, integers: Any) -> Any:
    """The integers nearest to x, by an instruction or, where there is none (AVX2), by the low bits of two sums."""
    if _CONVERTS:
        return _converted(builder, x, integers)
    parts, rest = [], x
    for large in (_HIGH, _LOW):
        constant = _constant(x.type, float(large))
        total = builder.fadd(rest, constant)
        rest = builder.fsub(x, builder.fsub(total, constant))
        pattern = _constant(integers, int(large.view(np.int64)))
        parts.append(builder.sub(builder.bitcast(total, integers), pattern))
    return builder.add(builder.shl(parts[0], _constant(integers, _HIGH_BITS)), parts[1])


@intrinsic
def integer(typing: Any, x: Any) -> Any:
    """The integer nearest to x, ties to even, for |x| up to 2^62."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _nearest(builder, args[0], ir.IntType(64))

    return types.int64(types.float64), generate


def _some(context: Any, builder: Any, kind: Any, array: Any, data: Any, place: Any) -> Any:
    """The address of a vector of that kind in an array."""
    return builder.bitcast(address(context, builder, array, data, place), kind.as_pointer())


@intrinsic(prefer_literal=True)
def _add_some(typing: Any, values: Any, limit: Any, scale: Any, fresh: Any, sums: Any, place: Any) -> Any:
    """Add scale times AT_ONCE values to sums, from `place` on, or with `fresh` write them.

    It returns a bit for each that is above the limit, which counts as 0.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        limits, scales = (_spread(builder, scalar) for scalar in args[1:3])
        value = builder.load(_some(context, builder, _SINGLES, values, args[0], args[5]), align=4)
        value = builder.fpext(value, _DOUBLES)
        size = builder.and_(builder.bitcast(value, _WORDS), _constant(_WORDS, 2**63 - 1))
        within = builder.fcmp_ordered("<=", builder.bitcast(size, _DOUBLES), limits)
        scaled = builder.select(within, builder.fmul(value, scales), _constant(_DOUBLES, 0.0))
        whole, to = _nearest(builder, scaled, _WORDS), _some(context, builder, _WORDS, sums, args[4], args[5])
        if not fresh.literal_value:
            whole = builder.add(whole, builder.load(to, align=8))
        builder.store(whole, to, align=8)
        refused = builder.bitcast(builder.not_(within), ir.IntType(AT_ONCE))
        return builder.zext(refused, ir.IntType(64))

    return types.int64(values, types.float64, types.float64, fresh, sums, types.int64), generate


@intrinsic
def _divide_some(typing: Any, sums: Any, unit: Any, mean: Any, place: Any) -> Any:
    """mean = unit * sums, AT_ONCE of them, in float64 up to the rounding to float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = builder.load(_some(context, builder, _WORDS, sums, args[0], args[3]), align=8)
        product = builder.fmul(builder.sitofp(whole, _DOUBLES), _spread(builder, args[1]))
        to = _some(context, builder, _SINGLES, mean, args[2], args[3])
        builder.store(builder.fptrunc(product, _SINGLES), to, align=4)
        return context.get_dummy_value()

    return types.none(sums, types.float64, mean, types.int64), generate


@inlined
def add_values(values: Any, limit: float, scale: float, fresh: bool, sums: Any) -> np.int32:
    """Add scale times values to sums, which begin here if `fresh`; return the largest magnitude above the limit, or 0.

    What is above it adds nothing.
    """
    bits, whole = np.int64(0), values.size // AT_ONCE * AT_ONCE
    if fresh:
        for i in range(0, whole, AT_ONCE):
            bits |= _add_some(values, limit, scale, True, sums, i)
    else:
        for i in range(0, whole, AT_ONCE):
            bits |= _add_some(values, limit, scale, False, sums, i)
    for i in range(whole, values.size):
        value = np.float64(values[i])
        within = abs(value) <= limit
        bits |= np.int64(not within)
        sums[i] = integer(value * scale if within else 0.0) + (0 if fresh else sums[i])
    refused = np.int32(0)
    if bits != 0:
        for i in range(values.size):
            within = abs(np.float64(values[i])) <= limit
            refused = max(refused, np.int32(0) if within else magnitude(values[i]))
    return refused


@inlined
def divide_sums(sums: Any, unit: float, mean: Any) -> np.int32:
    """Write unit times sums to mean; its largest magnitude."""
    most, whole = np.int32(0), mean.size // AT_ONCE * AT_ONCE
    for i in range(0, whole, AT_ONCE):
        _divide_some(sums, unit, mean, i)
    for i in range(whole, mean.size):
        mean[i] = np.float32(sums[i] * unit)
    for i in range(mean.size):
        most = max(most, magnitude(mean[i]))
    return most


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
    """Add weight times a vector to `total` in place, in fixed point; return the largest magnitude that was refused, or 0.

    vector: (values,), total: at least as long. segments, limits, scales: (segments,). Refused values add
    nothing. fresh: whether `total` begins here, whatever it holds.
    """
    first, refused = 0, np.int32(0)
    for s in range(segments.size):
        values, sums = vector[first : first + segments[s]], total[first : first + segments[s]]
        refused = max(refused, add_values(values, limits[s], weight * scales[s], fresh, sums))
        first += segments[s]
    return int(refused)


@compiled("void(int64[::1], int64, int64[::1], float64[::1], float32[::1], float32[::1])")
def divide_fixed(
    total: Integers, weight: int, segments: Integers, scales: Doubles, largest: Floats, out: Floats
) -> None:
    """Write total / weight, out of fixed point, to `out` (values,): float64 up to the rounding to float32.

    And each segment's largest magnitude to `largest` (segments,): next to the largest float32 that rounding can reach infinity.
    """
    first = 0
    for s in range(segments.size):
        sums, values = total[first : first + segments[s]], out[first : first + segments[s]]
        most = divide_sums(sums, 1.0 / (scales[s] * weight), values)
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
