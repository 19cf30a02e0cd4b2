"""Tiles of whole numbers below 256, as bytes in memory: places in a pooling's window."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distsgd.kernels import vector
from distsgd.kernels.tile import cells_of, pack
from distsgd.kernels.vector import VECTOR

_BYTES = ir.VectorType(ir.IntType(8), VECTOR)


def _bytes_at(builder, pointer, column):
    """The bytes of a tile's column from an address on."""
    place = builder.gep(pointer, [ir.Constant(vector.INDEX, column * VECTOR)])
    loaded = builder.load(builder.bitcast(place, _BYTES.as_pointer()))
    loaded.align = 1
    return loaded


@intrinsic
def load_bytes(typing, tile, array, place, stride):
    """A tile shaped as the given one from bytes of the array, as numbers: row r from `place` + r * `stride` on."""

    def generate(context, builder, signature, args):
        pointer, cells = vector.address(context, builder, array, args[1], args[2]), []
        for _ in range(tile.rows):
            for c in range(tile.columns):
                cells.append(builder.uitofp(_bytes_at(builder, pointer, c), vector.REGISTER))
            pointer = builder.gep(pointer, [args[3]])
        return pack(builder, cells)

    return tile(tile, array, place, stride), generate


@intrinsic
def store_bytes(typing, tile, array, place, stride):
    """Write a tile of whole numbers below 256 to the array as bytes: row r from `place` + r * `stride` on."""

    def generate(context, builder, signature, args):
        pointer, cells = vector.address(context, builder, array, args[1], args[2]), cells_of(builder, args[0])
        for r in range(tile.rows):
            for c in range(tile.columns):
                target = builder.gep(pointer, [ir.Constant(vector.INDEX, c * VECTOR)])
                numbers = builder.fptoui(cells[r * tile.columns + c], _BYTES)
                builder.store(numbers, builder.bitcast(target, _BYTES.as_pointer())).align = 1
            pointer = builder.gep(pointer, [args[3]])
        return context.get_dummy_value()

    return types.none(tile, array, place, stride), generate


def _equal(builder, pointer, column, number):
    """Where the bytes of a tile's column from an address on are `number`, an int64."""
    first = builder.insert_element(
        _BYTES(ir.Undefined), builder.trunc(number, ir.IntType(8)), vector.INDEX(0)
    )
    lanes = ir.Constant(ir.VectorType(vector.INDEX, VECTOR), [0] * VECTOR)
    wanted = builder.shuffle_vector(first, first, lanes)
    return builder.icmp_unsigned("==", _bytes_at(builder, pointer, column), wanted)


@intrinsic
def where_equal(typing, tile, array, place, number):
    """The one-row tile where the array's bytes from `place` on are `number`, zero elsewhere."""

    def generate(context, builder, signature, args):
        pointer, cells = vector.address(context, builder, array, args[1], args[2]), cells_of(builder, args[0])
        for c, x in enumerate(cells):
            cells[c] = builder.select(_equal(builder, pointer, c, args[3]), x, vector.ZERO)
        return pack(builder, cells)

    return tile(tile, array, place, types.int64), generate


@intrinsic
def add_where(typing, tile, array, place, number, slope):
    """The one-row tile plus `slope` where the array's bytes are `number`, and plus zero elsewhere."""

    def generate(context, builder, signature, args):
        pointer, cells = vector.address(context, builder, array, args[1], args[2]), cells_of(builder, args[0])
        for c, added in enumerate(cells_of(builder, args[4])):
            won = _equal(builder, pointer, c, args[3])
            cells[c] = builder.fadd(cells[c], builder.select(won, added, vector.ZERO))
        return pack(builder, cells)

    return tile(tile, array, place, types.int64, slope), generate
