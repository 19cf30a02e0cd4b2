"""Tiles whose rows and columns are those of an image: taken apart into windows of 2 x 2, put together, and stored."""

from numba import types
from numba.extending import intrinsic

from distsgd.kernels import vector
from distsgd.kernels.tile import Tile, cells_of, pack


@intrinsic(prefer_literal=True)
def every_second(typing, tile, row, column):
    """Column `column` of rows `row`, `row` + 2, ... (constants), as a tile of one column."""
    found = Tile(tile.rows // 2, 1)

    def generate(context, builder, signature, args):
        cells = cells_of(builder, args[0])
        return pack(
            builder, cells[row.literal_value * tile.columns + column.literal_value :: 2 * tile.columns]
        )

    return found(tile, row, column), generate


@intrinsic
def side_by_side(typing, left, right):
    """Two columns as a tile."""
    made = Tile(left.rows, 2)

    def generate(context, builder, signature, args):
        rows = zip(*(cells_of(builder, tile) for tile in args), strict=True)
        return pack(builder, [cell for row in rows for cell in row])

    return made(left, right), generate


@intrinsic
def alternating(typing, first, second):
    """A column whose rows are in turn those of two: the dual of `every_second`."""
    made = Tile(2 * first.rows, 1)

    def generate(context, builder, signature, args):
        pairs = zip(*(cells_of(builder, tile) for tile in args), strict=True)
        return pack(builder, [cell for pair in pairs for cell in pair])

    return made(first, second), generate


@intrinsic
def store_apart(typing, tile, array, place, down, across):
    """Write column c of row r of the tile to the array from `place` + r * `down` + c * `across` on."""

    def generate(context, builder, signature, args):
        cells, pointer = cells_of(builder, args[0]), vector.address(context, builder, array, args[1], args[2])
        for r in range(tile.rows):
            target = pointer
            for c in range(tile.columns):
                vector.store(builder, cells[r * tile.columns + c], target)
                target = builder.gep(target, [args[4]])
            pointer = builder.gep(pointer, [args[3]])
        return context.get_dummy_value()

    return types.none(tile, array, place, down, across), generate
