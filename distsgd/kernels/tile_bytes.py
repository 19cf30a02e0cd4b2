"""Tiles of whole numbers below 256, as bytes in memory: places in a pooling's window."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distsgd.kernels import vector
from distsgd.kernels.tile import cells_of, pack
from distsgd.kernels.vector import VECTOR

_BYTES = ir.VectorType(ir.IntType(8), VECTOR)


@intrinsic
def load_bytes(typing, tile, array, place):
    """A one-row tile shaped as the given one from bytes of the array, as numbers."""

    def generate(context, builder, signature, args):
        pointer, cells = vector.address(context, builder, array, args[1], args[2]), []
        for c in range(tile.columns):
            source = builder.bitcast(
                builder.gep(pointer, [ir.Constant(vector.INDEX, c * VECTOR)]), _BYTES.as_pointer()
            )
            loaded = builder.load(source)
            loaded.align = 1
            cells.append(builder.uitofp(loaded, vector.REGISTER))
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
