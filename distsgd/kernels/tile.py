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

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from distsgd.kernels import vector
from distsgd.kernels.compiled import REAL
from distsgd.kernels.vector import VECTOR


class Tile(types.Type):
    """The Numba type of a tile."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        super().__init__(f"Tile({rows}, {columns}, {VECTOR})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, tile):
        super().__init__(manager, tile, ir.LiteralStructType([vector.REGISTER] * (tile.rows * tile.columns)))


def cells_of(builder, tile):
    """Its registers, row by row."""
    return [builder.extract_value(tile, i) for i in range(len(tile.type.elements))]


def pack(builder, cells):
    """A tile of these registers."""
    tile = ir.Constant(ir.LiteralStructType([vector.REGISTER] * len(cells)), ir.Undefined)
    for i, cell in enumerate(cells):
        tile = builder.insert_value(tile, cell, i)
    return tile


@intrinsic(prefer_literal=True)
def zeros(typing, rows, columns):
    """A tile of `rows` x `columns` vectors (constants) of zeros."""
    shape = Tile(rows.literal_value, columns.literal_value)
    return shape(rows, columns), lambda context, builder, signature, args: pack(
        builder, [vector.ZERO] * (shape.rows * shape.columns)
    )


@intrinsic
def rows(typing, tile):
    """How many rows a tile has."""

    def generate(context, builder, signature, args):
        return context.get_constant(types.int64, tile.rows)

    return types.int64(tile), generate


@intrinsic
def columns(typing, tile):
    """How many columns a tile has."""

    def generate(context, builder, signature, args):
        return context.get_constant(types.int64, tile.columns)

    return types.int64(tile), generate


@intrinsic
def add_rows(typing, tile, array, place):
    """Each row of the tile plus one scalar of the array, from `place` on."""

    def generate(context, builder, signature, args):
        pointer = vector.address(context, builder, array, args[1], args[2])
        cells = cells_of(builder, args[0])
        for r in range(tile.rows):
            scalar = vector.splat(builder, builder.load(builder.gep(pointer, [ir.Constant(vector.INDEX, r)])))
            for c in range(r * tile.columns, (r + 1) * tile.columns):
                cells[c] = builder.fadd(cells[c], scalar)
        return pack(builder, cells)

    return tile(tile, array, place), generate


@intrinsic
def multiply_add(typing, tile, x, place, offsets, tap, weights, first, stride):
    """tile[r, c] += weights[first + r * stride] * (column c of x from place + offsets[tap] on)."""

    def generate(context, builder, signature, args):
        vector.keep_order(builder)
        cells = cells_of(builder, args[0])
        offset = builder.load(vector.address(context, builder, offsets, args[3], args[4]))
        pointer = vector.address(context, builder, x, args[1], builder.add(args[2], offset))
        columns = vector.loads(builder, pointer, tile.columns)
        pointer = vector.address(context, builder, weights, args[5], args[6])
        for r in range(tile.rows):
            weight = vector.splat(builder, builder.load(pointer))
            pointer = builder.gep(pointer, [args[7]])
            for c in range(tile.columns):
                i = r * tile.columns + c
                cells[i] = vector.multiply_add(builder, weight, columns[c], cells[i])
        return pack(builder, cells)

    return tile(tile, x, place, offsets, tap, weights, first, stride), generate


@intrinsic
def multiply_pairs(typing, tile, x, place, offsets, tap, dy, first, stride):
    """tile[r, c] += x[place + offsets[tap + r]] * dy[first + c * stride], lane by lane: a step of a dot product for every pair."""

    def generate(context, builder, signature, args):
        cells = cells_of(builder, args[0])
        rows, pointer = [], vector.address(context, builder, offsets, args[3], args[4])
        for r in range(tile.rows):
            offset = builder.load(builder.gep(pointer, [ir.Constant(vector.INDEX, r)]))
            rows.append(
                vector.load(
                    builder, vector.address(context, builder, x, args[1], builder.add(args[2], offset))
                )
            )
        pointer = vector.address(context, builder, dy, args[5], args[6])
        for c in range(tile.columns):
            column = vector.load(builder, pointer)
            pointer = builder.gep(pointer, [args[7]])
            for r in range(tile.rows):
                i = r * tile.columns + c
                cells[i] = vector.multiply_add(builder, rows[r], column, cells[i])
        return pack(builder, cells)

    return tile(tile, x, place, offsets, tap, dy, first, stride), generate


@intrinsic
def add(typing, tile, array, place, stride):
    """The tile plus the array's rows: row r from `place` + r * `stride` on."""

    def generate(context, builder, signature, args):
        cells, pointer = cells_of(builder, args[0]), vector.address(context, builder, array, args[1], args[2])
        for r in range(tile.rows):
            for c, x in enumerate(vector.loads(builder, pointer, tile.columns)):
                i = r * tile.columns + c
                cells[i] = builder.fadd(cells[i], x)
            pointer = builder.gep(pointer, [args[3]])
        return pack(builder, cells)

    return tile(tile, array, place, stride), generate


@intrinsic
def load(typing, tile, array, place, stride):
    """A tile shaped as the given one: row r from `place` + r * `stride` of the array on."""

    def generate(context, builder, signature, args):
        cells, pointer = [], vector.address(context, builder, array, args[1], args[2])
        for _ in range(tile.rows):
            cells += vector.loads(builder, pointer, tile.columns)
            pointer = builder.gep(pointer, [args[3]])
        return pack(builder, cells)

    return tile(tile, array, place, stride), generate


@intrinsic
def store(typing, tile, array, place, stride):
    """Write row r of the tile to the array from `place` + r * `stride` on."""

    def generate(context, builder, signature, args):
        cells, pointer = cells_of(builder, args[0]), vector.address(context, builder, array, args[1], args[2])
        for r in range(tile.rows):
            for c in range(tile.columns):
                target = builder.gep(pointer, [ir.Constant(vector.INDEX, c * VECTOR)])
                vector.store(builder, cells[r * tile.columns + c], target)
            pointer = builder.gep(pointer, [args[3]])
        return context.get_dummy_value()

    return types.none(tile, array, place, stride), generate


@intrinsic
def turned(typing, tile):
    """A tile of VECTOR rows of one register, transposed: blocks half as wide change places at each step."""

    def generate(context, builder, signature, args):
        cells, half = cells_of(builder, args[0]), VECTOR // 2
        while half:
            low = [j + (VECTOR - half if j & half else 0) for j in range(VECTOR)]
            high = [j + (VECTOR if j & half else half) for j in range(VECTOR)]
            for r in range(VECTOR):
                if r & half == 0:
                    pair = cells[r], cells[r + half]
                    cells[r], cells[r + half] = (vector.chosen(builder, *pair, of) for of in (low, high))
            half //= 2
        return pack(builder, cells)

    return tile(tile), generate


@intrinsic
def rectify(typing, tile):
    """max(tile, 0), where a NaN stays a NaN."""

    def generate(context, builder, signature, args):
        cells = cells_of(builder, args[0])
        return pack(builder, [builder.select(vector.is_positive(builder, x), x, vector.ZERO) for x in cells])

    return tile(tile), generate


@intrinsic
def where_positive(typing, tile, by):
    """The tile where `by`, another, is positive or a NaN, zero elsewhere."""

    def generate(context, builder, signature, args):
        cells = zip(*(cells_of(builder, tile) for tile in args), strict=True)
        return pack(
            builder, [builder.select(vector.is_positive(builder, y), x, vector.ZERO) for x, y in cells]
        )

    return tile(tile, by), generate


@intrinsic
def gate(typing, tile, array, place, stride):
    """The tile where the array (row r from `place` + r * `stride` on) is positive, zero elsewhere: the gradient of `rectify`."""

    def generate(context, builder, signature, args):
        cells, pointer = cells_of(builder, args[0]), vector.address(context, builder, array, args[1], args[2])
        for r in range(tile.rows):
            for c, x in enumerate(vector.loads(builder, pointer, tile.columns)):
                i = r * tile.columns + c
                cells[i] = builder.select(vector.is_positive(builder, x), cells[i], vector.ZERO)
            pointer = builder.gep(pointer, [args[3]])
        return pack(builder, cells)

    return tile(tile, array, place, stride), generate


@intrinsic
def fill(typing, tile, scalar):
    """A tile shaped as the given one, every lane `scalar` (float32)."""

    def generate(context, builder, signature, args):
        return pack(builder, [vector.splat(builder, args[1])] * (tile.rows * tile.columns))

    return tile(tile, REAL), generate


@intrinsic
def raised(typing, tile, scalar):
    """The tile plus `scalar` (float32)."""

    def generate(context, builder, signature, args):
        added = vector.splat(builder, args[1])
        return pack(builder, [builder.fadd(x, added) for x in cells_of(builder, args[0])])

    return tile(tile, REAL), generate


@intrinsic
def scale(typing, tile, scalar):
    """The tile times `scalar` (float32)."""

    def generate(context, builder, signature, args):
        factor = vector.splat(builder, args[1])
        return pack(builder, [builder.fmul(x, factor) for x in cells_of(builder, args[0])])

    return tile(tile, REAL), generate


@intrinsic
def plus(typing, left, right):
    """The sum of two tiles."""

    def generate(context, builder, signature, args):
        cells = zip(*(cells_of(builder, tile) for tile in args), strict=True)
        return pack(builder, [builder.fadd(x, y) for x, y in cells])

    return left(left, right), generate


@intrinsic
def any_nan(typing, tile):
    """Whether a lane is a NaN."""

    def generate(context, builder, signature, args):
        cells = cells_of(builder, args[0])
        found = [builder.fcmp_unordered("uno", x, x) for x in cells]
        whole = ir.IntType(VECTOR)
        bits = [builder.bitcast(x, whole) for x in found]
        for more in bits[1:]:
            bits[0] = builder.or_(bits[0], more)
        return builder.icmp_unsigned("!=", bits[0], ir.Constant(whole, 0))

    return types.boolean(tile), generate


@intrinsic
def where_greater(typing, left, right, yes, no):
    """Lane by lane `yes` where left > right, else `no`."""

    def generate(context, builder, signature, args):
        cells = zip(*(cells_of(builder, tile) for tile in args), strict=True)
        return pack(builder, [builder.select(builder.fcmp_ordered(">", x, y), a, b) for x, y, a, b in cells])

    return left(left, right, yes, no), generate


@intrinsic
def where_greater_or_nan(typing, left, right, yes, no):
    """Lane by lane `yes` where left > right or left is a NaN, else `no`."""

    def generate(context, builder, signature, args):
        def wins(x, y):
            return builder.or_(builder.fcmp_ordered(">", x, y), builder.fcmp_unordered("uno", x, x))

        cells = zip(*(cells_of(builder, tile) for tile in args), strict=True)
        return pack(builder, [builder.select(wins(x, y), a, b) for x, y, a, b in cells])

    return left(left, right, yes, no), generate


@intrinsic
def where_equal(typing, left, right, yes, no):
    """Lane by lane `yes` where left == right, else `no`."""

    def generate(context, builder, signature, args):
        cells = zip(*(cells_of(builder, tile) for tile in args), strict=True)
        return pack(builder, [builder.select(builder.fcmp_ordered("==", x, y), a, b) for x, y, a, b in cells])

    return left(left, right, yes, no), generate
