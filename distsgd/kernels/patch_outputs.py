"""Outputs of `patches`, from their products at all points: of a filter first columns, to room for a row of patches, then rows,
which are finished in registers: raised by the bias, rectified, their maxima taken.
"""

from distsgd.kernels import tile, tile_bytes
from distsgd.kernels.compiled import SHIFT, compiled
from distsgd.kernels.patches import OUTPUTS, WINDOW
from distsgd.kernels.points import outputs_from_points
from distsgd.kernels.tile_windows import every_second, side_by_side
from distsgd.kernels.vector import VECTOR
from distsgd.kernels.windows import pool_row, pool_twos


@compiled(
    "void(real[:,:,:], int64, int64, int64, real[::1], real[:,::1], real[:,::1], real[:,:,:], real[:,:,:], boolean, int64,"
    " real[:,:,:], uint8[:,:,:,:])"
)
def gather_patches(products, bands, columns, batch, bias, room, edge, y, gate, rectify, pool, pooled, winner):
    """Write what `rows.sum_rows` writes, the rows of a piece, from products (points, filters, bands x columns x batch).

    bias, y, gate, rectify, pooled, winner: as there. pool: the side of a window; maxima of 2 x 2 are taken in registers and y is
    empty, for others y has as many rows as the piece. room, edge: room for rows of outputs at all points of a column, and for some
    registers.
    """
    outputs, one = tile.zeros(OUTPUTS, 1), tile.zeros(1, 1)
    point, deep, across = products.strides[0] >> SHIFT, products.strides[1] >> SHIFT, room.shape[1]
    plane, line = y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    gate_plane, gate_line = gate.strides[0] >> SHIFT, gate.strides[1] >> SHIFT
    windows_plane, windows_line = pooled.strides[0] >> SHIFT, pooled.strides[1] >> SHIFT
    in_registers = winner.size > 0 and pool == WINDOW
    rows, length = (2 * pooled.shape[1], 2 * pooled.shape[2]) if in_registers else y.shape[1:]

    def finish(value, k, i, lane):
        """Of a whole patch's rows, of four or of one."""
        if gate.size > 0:
            value = tile.gate(value, gate, k * gate_plane + i * gate_line + lane, gate_line)
        tile.store(value, y, k * plane + i * line + lane, line)

    def gather_columns(points, k, i):
        """To room, the columns of a row of patches of filter k from as many points as the tile has rows."""
        for j in range(columns):
            for p in range(tile.rows(points)):
                at = p * tile.rows(points) * point + k * deep + (i * columns + j) * batch
                to = p * across + j * OUTPUTS * batch
                for lane in range(0, batch, VECTOR):
                    patch = outputs_from_points(tile.load(points, products, at + lane, point), outputs)
                    tile.store(patch, room, to + lane, batch)

    def gather_rows(points, k, lane):
        """Rows of outputs from there."""
        value = outputs_from_points(tile.load(points, room, lane, across), outputs)
        if bias.size > 0:
            value = tile.raised(value, bias[k])
        if rectify:
            value = tile.rectify(value)
        return value

    def store_windows(best, place, k, i, lane):
        """Maxima and their places, from row i of windows on."""
        tile.store(best, pooled, k * windows_plane + i * windows_line + lane, windows_line)
        to = k * winner.strides[0] + i * winner.strides[1] + lane
        tile_bytes.store_bytes(place, winner, to, winner.strides[1])

    def gather_windows(points, k, first, count):
        """Maxima of a row of patches, `count` rows of outputs from `first` on."""
        for at in range(0, length, 2 * batch):
            for lane in range(at, at + batch, VECTOR):
                left, right = gather_rows(points, k, lane), gather_rows(points, k, lane + batch)
                best, place = pool_twos(side_by_side(left, right))
                if count == OUTPUTS:
                    store_windows(best, place, k, first // 2, lane - at // 2)
                else:  # the second row of windows is not there
                    upper, its_place = every_second(best, 0, 0), every_second(place, 0, 0)
                    store_windows(upper, its_place, k, first // 2, lane - at // 2)

    def gather_band(points, k, i):
        """A row of patches of filter k."""
        gather_columns(points, k, i)
        first = i * OUTPUTS
        count = min(OUTPUTS, rows - first)
        if in_registers:
            gather_windows(points, k, first, count)
            return
        for lane in range(0, length, VECTOR):
            value = gather_rows(points, k, lane)
            if count == OUTPUTS:
                finish(value, k, first, lane)
            else:
                tile.store(value, edge, 0, VECTOR)
                for r in range(count):
                    finish(tile.load(one, edge, r * VECTOR, 0), k, first + r, lane)

    six, eight = tile.zeros(6, 1), tile.zeros(8, 1)
    for k in range(products.shape[1]):
        for i in range(bands):
            if room.shape[0] == 6:
                gather_band(six, k, i)
            else:
                gather_band(eight, k, i)
        if winner.size > 0 and not in_registers:
            for r in range(rows // pool):
                windows = pooled[k : k + 1], winner[k : k + 1]
                pool_row(y, k * plane + r * pool * line, plane, line, pool, pool, *windows, r)
