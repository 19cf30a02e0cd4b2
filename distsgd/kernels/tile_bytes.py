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
def load_bytes(typing, tile, array, place):
    """A one-row tile shaped as the given one from bytes of the array, as numbers."""

    def generate(context, builder, signature, args):
        pointer, cells = vector.address(context, builder, array, args[1], args[2]), []
        for c in range(tile.columns):
            cells.append(builder.uitofp(_bytes_at(builder, pointer, c), vector.REGISTER))
        return pack(builder, cells)

    return tile(tile, array, place), generate


@intrinsic
def store_bytes(typing, tile, array, place):
    """Write a one-row tile of whole numbers below 256 to the array as bytes."""

    def generate(context, builder, signature, args):
        pointer = vector.address(context, builder, array, args[1], args[2])
        for c, cell in enumerate(cells_of(builder, args[0])):
            target = builder.bitcast(
                builder.gep(pointer, [ir.Constant(vector.INDEX, c * VECTOR)]), _BYTES.as_pointer()
            )
            written = builder.store(builder.fptoui(cell, _BYTES), target)
            written.align = 1
        return context.get_dummy_value()

    return types.none(tile, array, place), generate


@intrinsic
def add_where(typing, tile, array, place, number, slope):
    """The one-row tile plus `slope` where the array's bytes are `number`, and plus zero elsewhere."""

    def generate(context, builder, signature, args):
        pointer, cells = vector.address(context, builder, array, args[1], args[2]), cells_of(builder, args[0])
        first = builder.insert_element(
            _BYTES(ir.Undefined), builder.trunc(args[3], ir.IntType(8)), vector.INDEX(0)
        )
        wanted = builder.shuffle_vector(
            first, first, ir.Constant(ir.VectorType(vector.INDEX, VECTOR), [0] * VECTOR)
        )
        for c, added in enumerate(cells_of(builder, args[4])):
            won = builder.icmp_unsigned("==", _bytes_at(builder, pointer, c), wanted)
            cells[c] = builder.fadd(cells[c], builder.select(won, added, vector.ZERO))
        return pack(builder, cells)

    return tile(tile, array, place, types.int64, slope), generate
