"""The processor's vectors: how wide they are, and the instructions that a tile's operations are put together from.

`builder` is LLVM's, which writes down one instruction after another; values are of the type REGISTER, addresses of VALUE.
"""

import os

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distsgd.kernels.compiled import FLOAT, LLVM_FLOAT, REAL, SHIFT, processor_features

_FEATURES = set(processor_features().split(","))
LANES = 16
"""Logical lanes of every reduction, on every processor: results must not depend on the vector's width."""
VECTOR = int(
    os.environ.get("DISTSGD_VECTOR") or (16 if "+avx512f" in _FEATURES else 8 if "+avx" in _FEATURES else 4)
)
"""float32 values in one of the processor's registers. DISTSGD_VECTOR overrides it, to test the code of another processor."""
REGISTERS = 32 if VECTOR == 16 or "+neon" in _FEATURES else 16
"""So many the processor has."""
COLUMNS = {16: 4, 8: 3, 4: 5 if "+neon" in _FEATURES else 2}[VECTOR]
"""The accumulators, a column of x and one weight must fit the registers."""
STRIP = COLUMNS * VECTOR
"""Lanes of a row that one tile covers."""
TAPS = {16: 5, 8: 3, 4: 5 if "+neon" in _FEATURES else 2}[VECTOR]
"""Taps of a weight-gradient tile, beside four channels."""
FUSED = bool(_FEATURES & {"+fma", "+avx512f", "+neon"})
"""Whether the processor multiplies and adds in one instruction. Without, two roundings are taken: slower, and other bits."""

VALUE, INDEX = LLVM_FLOAT, ir.IntType(32)
REGISTER = ir.VectorType(VALUE, VECTOR)
ZERO = ir.Constant(REGISTER, [0.0] * VECTOR)


ALIGNMENT = 64
"""Bytes: a cache line, and the widest register."""


def aligned(shape: int | tuple[int, ...], dtype: type = FLOAT) -> np.ndarray:
    """Zeros that begin at a cache line, so that no register's load spans two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def address(context, builder, array_type, array, place):
    """Of an array's element, counted from its first."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [place])


def load(builder, pointer):
    """A register's worth of values from an address on, which need not be that of a whole line."""
    loaded = builder.load(builder.bitcast(pointer, REGISTER.as_pointer()))
    loaded.align = 1 << SHIFT
    return loaded


def loads(builder, pointer, columns, apart=VECTOR):
    """So many registers from an address on, side by side or `apart` values from one to the next."""
    return [load(builder, builder.gep(pointer, [ir.Constant(INDEX, c * apart)])) for c in range(columns)]


def store(builder, register, pointer):
    """Write a register from an address on."""
    written = builder.store(register, builder.bitcast(pointer, REGISTER.as_pointer()))
    written.align = 1 << SHIFT


def splat(builder, scalar):
    """A register of which every lane is the scalar."""
    undefined = ir.Constant(REGISTER, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(INDEX, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INDEX, VECTOR), [0] * VECTOR))


def splats(builder, pointer, count):
    """So many registers, each of one scalar, from an address on."""
    places = [builder.gep(pointer, [ir.Constant(INDEX, n)]) for n in range(count)]
    return [splat(builder, builder.load(place)) for place in places]


def chosen(builder, x, y, lanes):
    """A register of these lanes of two, those of the second numbered from VECTOR on."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(INDEX, VECTOR), lanes))


def multiply_add(builder, x, y, z):
    """x * y + z."""
    if not FUSED:
        return builder.fadd(builder.fmul(x, y), z)
    kind = ir.FunctionType(REGISTER, [REGISTER] * 3)
    function = builder.module.declare_intrinsic(f"llvm.fma.v{VECTOR}f{8 << SHIFT}", (), kind)
    return builder.call(function, [x, y, z])


def keep_order(builder):
    """Keep LLVM from gathering the loads of several steps ahead of the arithmetic: accumulators would leave their registers."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)


def is_positive(builder, x):
    """Lane by lane x > 0; a NaN counts as positive and so stays visible."""
    return builder.fcmp_unordered(">", x, ZERO)


def sum_halves(builder, vector, width):
    """The sum of a vector's lanes: halves added to each other until one is left."""
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(INDEX, width), list(range(at, at + width))) for at in (0, width)]
        low, high = (
            builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), half) for half in halves
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(INDEX, 0))


@intrinsic
def fetch(typing, array, place):
    """Tell the processor that the array's element at `place` is wanted soon, in the level-2 cache; it need not exist."""

    def generate(context, builder, signature, args):
        pointer = address(context, builder, array, args[0], args[1])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(function, [builder.bitcast(pointer, byte), *(ir.Constant(number, n) for n in (0, 2, 1))])
        return context.get_dummy_value()

    return types.none(array, place), generate


@intrinsic
def sum_chains(typing, array, place, part):
    """The sum of LANES chains that rest in registers' worths `part` apart from `place` on, as a tree of halves of halves."""

    def generate(context, builder, signature, args):
        pointer, vectors = address(context, builder, array, args[0], args[1]), []
        for _ in range(LANES // VECTOR):
            vectors.append(load(builder, pointer))
            pointer = builder.gep(pointer, [args[2]])
        while len(vectors) > 1:
            half = len(vectors) // 2
            vectors = [builder.fadd(x, y) for x, y in zip(vectors[:half], vectors[half:], strict=True)]
        return sum_halves(builder, vectors[0], VECTOR)

    return REAL(array, place, part), generate
