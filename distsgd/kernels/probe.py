"""What a core can do at most: multiply-adds from registers, and values moved from and to memory."""

from distsgd.kernels import tile
from distsgd.kernels.compiled import compiled
from distsgd.kernels.vector import COLUMNS, STRIP

ROWS = 4


@compiled("void(real[::1], int64[::1], real[::1], real[::1], int64)")
def multiply_adds(x, places, weights, y, times):
    """`times` times ROWS x STRIP multiply-adds into y, as a tile of `rows.sum_rows` does: no order of loads or stores is faster.

    x: STRIP values. places: (1,), 0. weights: (ROWS,). y: (ROWS x STRIP,).
    """
    total = tile.zeros(4, COLUMNS)
    for _ in range(times):
        total = tile.multiply_add(total, x, 0, places, 0, weights, 0, 1)
    tile.store(total, y, 0, STRIP)


@compiled("void(real[::1], real[::1], int64)")
def copy(x, y, times):
    """Write y = x so many times. Both hold whole strips."""
    shape = tile.zeros(1, COLUMNS)
    for _ in range(times):
        for place in range(0, x.size, STRIP):
            tile.store(tile.load(shape, x, place, 0), y, place, 0)
