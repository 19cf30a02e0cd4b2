"""A register tile: rows x columns of SIMD vectors as one Numba value, so that a short kernel serves every block size.

Numba does not keep an array of accumulators in registers; a value whose data model is LLVM vectors it does::

                 columns of VECTOR lanes, contiguous in memory
               +----------+----------+----------+
    row 0      | v v v v  | v v v v  | v v v v  |   += weight of row 0  *  the same
    row 1      | v v v v  | v v v v  | v v v v  |   += weight of row 1  *  three
    row 2      | v v v v  | v v v v  | v v v v  |   += weight of row 2  *  vectors
    row 3      | v v v v  | v v v v  | v v v v  |   += weight of row 3  *  of x
               +----------+----------+----------+

Every operation is one vector instruction per cell (a load, a multiply-add, a store). All arithmetic is fused multiply-add in
the order written: no result depends on the tile's shape, on the vector's width or on how loops are blocked (of finite numbers:
which zeros of a border are left out does depend on them, and zero times infinity is no number).
Places in an array are counted in elements from its first, whatever its shape.
"""

import os

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from distsgd.kernels.compiled import LLVM_FLOAT, REAL, SHIFT, processor_features

_FEATURES = set(processor_features().split(","))
LANES = 16
"""Logical lanes of every reduction, on every processor: results must not depend on the vector's width."""
VECTOR = int(
    os.environ.get("DISTSGD_VECTOR") or (16 if "+avx512f" in _FEATURES else 8 if "+avx" in _FEATURES else 4)
)
"""float32 values in one of the processor's registers. DISTSGD_VECTOR overrides it, to test the code of another processor."""
ROWS = 4
COLUMNS = {16: 4, 8: 3, 4: 5 if "+neon" in _FEATURES else 2}[VECTOR]
"""The accumulators, a column of x and one weight must fit the registers: 32 with AVX-512 and NEON, otherwise 16."""
TAPS = {16: 5, 8: 3, 4: 5 if "+neon" in _FEATURES else 2}[VECTOR]
"""Taps of a weight-gradient tile, beside ROWS channels."""
FUSED = bool(_FEATURES & {"+fma", "+avx512f", "+neon"})
"""Whether the processor multiplies and adds in one instruction. Without, two roundings are taken: slower, and other bits."""

_FLOAT, _INT = LLVM_FLOAT, ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, VECTOR)
_ZERO = ir.Constant(_VECTOR, [0.0] * VECTOR)


class Tile(types.Type):
    """The Numba type of a tile."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        super().__init__(f"Tile({rows}, {columns}, {VECTOR})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, tile):
        super().__init__(manager, tile, ir.LiteralStructType([_VECTOR] * (tile.rows * tile.columns)))


def _address(context, builder, array_type, array, place):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [place])


def _load(builder, pointer):
    vector = builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()))
    vector.align = 1 << SHIFT
    return vector


def _loads(builder, pointer, columns):
    return [_load(builder, builder.gep(pointer, [ir.Constant(_INT, c * VECTOR)])) for c in range(columns)]


def _splat(builder, scalar):
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT, VECTOR), [0] * VECTOR))


def _multiply_add(builder, x, y, z):
    if not FUSED:
        return builder.fadd(builder.fmul(x, y), z)
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = builder.module.declare_intrinsic(f"llvm.fma.v{VECTOR}f{8 << SHIFT}", (), kind)
    return builder.call(function, [x, y, z])


def _keep_order(builder):
    """Keep LLVM from gathering the loads of several steps ahead of the arithmetic: accumulators would leave their registers."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)


def _is_positive(builder, x):
    return builder.fcmp_unordered(">", x, _ZERO)  # unordered: a NaN counts as positive and so stays visible


def _cells(builder, tile):
    return [builder.extract_value(tile, i) for i in range(len(tile.type.elements))]


def _pack(builder, cells):
    tile = ir.Constant(ir.LiteralStructType([_VECTOR] * len(cells)), ir.Undefined)
    for i, cell in enumerate(cells):
        tile = builder.insert_value(tile, cell, i)
    return tile


@intrinsic(prefer_literal=True)
def zeros(typing, rows, columns):
    """A tile of `rows` x `columns` vectors (constants) of zeros."""
    shape = Tile(rows.literal_value, columns.literal_value)
    return shape(rows, columns), lambda context, builder, signature, args: _pack(
        builder, [_ZERO] * (shape.rows * shape.columns)
    )


@intrinsic
def rows(typing, tile):
    """How many rows a tile has."""

    def generate(context, builder, signature, args):
        return context.get_constant(types.int64, tile.rows)

    return types.int64(tile), generate


@intrinsic
def add_rows(typing, tile, array, place):
    """Each row of the tile plus one scalar of the array, from `place` on."""

    def generate(context, builder, signature, args):
        pointer = _address(context, builder, array, args[1], args[2])
        cells = _cells(builder, args[0])
        for r in range(tile.rows):
            scalar = _splat(builder, builder.load(builder.gep(pointer, [ir.Constant(_INT, r)])))
            for c in range(r * tile.columns, (r + 1) * tile.columns):
                cells[c] = builder.fadd(cells[c], scalar)
        return _pack(builder, cells)

    return tile(tile, array, place), generate


@intrinsic
def multiply_add(typing, tile, x, place, offsets, tap, weights, first, stride):
    """tile[r, c] += weights[first + r * stride] * (column c of x from place + offsets[tap] on)."""

    def generate(context, builder, signature, args):
        _keep_order(builder)
        cells = _cells(builder, args[0])
        offset = builder.load(_address(context, builder, offsets, args[3], args[4]))
        pointer = _address(context, builder, x, args[1], builder.add(args[2], offset))
        columns = _loads(builder, pointer, tile.columns)
        pointer = _address(context, builder, weights, args[5], args[6])
        for r in range(tile.rows):
            weight = _splat(builder, builder.load(pointer))
            pointer = builder.gep(pointer, [args[7]])
            for c in range(tile.columns):
                i = r * tile.columns + c
                cells[i] = _multiply_add(builder, weight, columns[c], cells[i])
        return _pack(builder, cells)

    return tile(tile, x, place, offsets, tap, weights, first, stride), generate


@intrinsic
def multiply_pairs(typing, tile, x, place, offsets, tap, dy, first, stride):
    """tile[r, c] += x[place + offsets[tap + r]] * dy[first + c * stride], lane by lane: a step of a dot product for every pair."""

    def generate(context, builder, signature, args):
        cells = _cells(builder, args[0])
        rows, pointer = [], _address(context, builder, offsets, args[3], args[4])
        for r in range(tile.rows):
            offset = builder.load(builder.gep(pointer, [ir.Constant(_INT, r)]))
            rows.append(_load(builder, _address(context, builder, x, args[1], builder.add(args[2], offset))))
        pointer = _address(context, builder, dy, args[5], args[6])
        for c in range(tile.columns):
            column = _load(builder, pointer)
            pointer = builder.gep(pointer, [args[7]])
            for r in range(tile.rows):
                i = r * tile.columns + c
                cells[i] = _multiply_add(builder, rows[r], column, cells[i])
        return _pack(builder, cells)

    return tile(tile, x, place, offsets, tap, dy, first, stride), generate


@intrinsic
def add(typing, tile, array, place, stride):
    """The tile plus the array's rows: row r from `place` + r * `stride` on."""

    def generate(context, builder, signature, args):
        cells, pointer = _cells(builder, args[0]), _address(context, builder, array, args[1], args[2])
        for r in range(tile.rows):
            for c, vector in enumerate(_loads(builder, pointer, tile.columns)):
                i = r * tile.columns + c
                cells[i] = builder.fadd(cells[i], vector)
            pointer = builder.gep(pointer, [args[3]])
        return _pack(builder, cells)

    return tile(tile, array, place, stride), generate


@intrinsic
def load(typing, tile, array, place, stride):
    """A tile shaped as the given one: row r from `place` + r * `stride` of the array on."""

    def generate(context, builder, signature, args):
        cells, pointer = [], _address(context, builder, array, args[1], args[2])
        for _ in range(tile.rows):
            cells += _loads(builder, pointer, tile.columns)
            pointer = builder.gep(pointer, [args[3]])
        return _pack(builder, cells)

    return tile(tile, array, place, stride), generate


@intrinsic
def store(typing, tile, array, place, stride):
    """Write row r of the tile to the array from `place` + r * `stride` on."""

    def generate(context, builder, signature, args):
        cells, pointer = _cells(builder, args[0]), _address(context, builder, array, args[1], args[2])
        for r in range(tile.rows):
            for c in range(tile.columns):
                target = builder.gep(pointer, [ir.Constant(_INT, c * VECTOR)])
                written = builder.store(
                    cells[r * tile.columns + c], builder.bitcast(target, _VECTOR.as_pointer())
                )
                written.align = 1 << SHIFT
            pointer = builder.gep(pointer, [args[3]])
        return context.get_dummy_value()

    return types.none(tile, array, place, stride), generate


@intrinsic
def rectify(typing, tile):
    """max(tile, 0), where a NaN stays a NaN."""

    def generate(context, builder, signature, args):
        cells = _cells(builder, args[0])
        return _pack(builder, [builder.select(_is_positive(builder, x), x, _ZERO) for x in cells])

    return tile(tile), generate


@intrinsic
def gate(typing, tile, array, place, stride):
    """The tile where the array (row r from `place` + r * `stride` on) is positive, zero elsewhere: the gradient of `rectify`."""

    def generate(context, builder, signature, args):
        cells, pointer = _cells(builder, args[0]), _address(context, builder, array, args[1], args[2])
        for r in range(tile.rows):
            for c, x in enumerate(_loads(builder, pointer, tile.columns)):
                i = r * tile.columns + c
                cells[i] = builder.select(_is_positive(builder, x), cells[i], _ZERO)
            pointer = builder.gep(pointer, [args[3]])
        return _pack(builder, cells)

    return tile(tile, array, place, stride), generate


@intrinsic
def sum_chains(typing, array, place, part):
    """The sum of LANES chains that rest in registers' worths `part` apart from `place` on, as a tree of halves of halves."""

    def generate(context, builder, signature, args):
        pointer, vectors = _address(context, builder, array, args[0], args[1]), []
        for _ in range(LANES // VECTOR):
            vectors.append(_load(builder, pointer))
            pointer = builder.gep(pointer, [args[2]])
        while len(vectors) > 1:
            half = len(vectors) // 2
            vectors = [builder.fadd(x, y) for x, y in zip(vectors[:half], vectors[half:], strict=True)]
        return _halve(builder, vectors[0], VECTOR)

    return REAL(array, place, part), generate


def _halve(builder, vector, width):
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(_INT, width), list(range(at, at + width))) for at in (0, width)]
        low, high = (
            builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), half) for half in halves
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(_INT, 0))


@intrinsic
def fill(typing, tile, scalar):
    """A tile shaped as the given one, every lane `scalar` (float32)."""

    def generate(context, builder, signature, args):
        return _pack(builder, [_splat(builder, args[1])] * (tile.rows * tile.columns))

    return tile(tile, REAL), generate


@intrinsic
def scale(typing, tile, scalar):
    """The tile times `scalar` (float32)."""

    def generate(context, builder, signature, args):
        factor = _splat(builder, args[1])
        return _pack(builder, [builder.fmul(x, factor) for x in _cells(builder, args[0])])

    return tile(tile, REAL), generate


@intrinsic
def where_greater(typing, left, right, yes, no):
    """Lane by lane `yes` where left > right or left is a NaN, else `no`."""

    def generate(context, builder, signature, args):
        def wins(x, y):
            return builder.or_(builder.fcmp_ordered(">", x, y), builder.fcmp_unordered("uno", x, x))

        cells = zip(*(_cells(builder, tile) for tile in args), strict=True)
        return _pack(builder, [builder.select(wins(x, y), a, b) for x, y, a, b in cells])

    return left(left, right, yes, no), generate


@intrinsic
def where_equal(typing, left, right, yes, no):
    """Lane by lane `yes` where left == right, else `no`."""

    def generate(context, builder, signature, args):
        cells = zip(*(_cells(builder, tile) for tile in args), strict=True)
        return _pack(
            builder, [builder.select(builder.fcmp_ordered("==", x, y), a, b) for x, y, a, b in cells]
        )

    return left(left, right, yes, no), generate


_BYTES = ir.VectorType(ir.IntType(8), VECTOR)


@intrinsic
def load_bytes(typing, tile, array, place):
    """A one-row tile shaped as the given one from bytes of the array, as numbers."""

    def generate(context, builder, signature, args):
        pointer, cells = _address(context, builder, array, args[1], args[2]), []
        for c in range(tile.columns):
            source = builder.bitcast(
                builder.gep(pointer, [ir.Constant(_INT, c * VECTOR)]), _BYTES.as_pointer()
            )
            loaded = builder.load(source)
            loaded.align = 1
            cells.append(builder.uitofp(loaded, _VECTOR))
        return _pack(builder, cells)

    return tile(tile, array, place), generate


@intrinsic
def store_bytes(typing, tile, array, place):
    """Write a one-row tile of whole numbers below 256 to the array as bytes."""

    def generate(context, builder, signature, args):
        pointer = _address(context, builder, array, args[1], args[2])
        for c, cell in enumerate(_cells(builder, args[0])):
            target = builder.bitcast(
                builder.gep(pointer, [ir.Constant(_INT, c * VECTOR)]), _BYTES.as_pointer()
            )
            written = builder.store(builder.fptoui(cell, _BYTES), target)
            written.align = 1
        return context.get_dummy_value()

    return types.none(tile, array, place), generate
