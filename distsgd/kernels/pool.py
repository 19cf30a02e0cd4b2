"""Pooling: the maximum or the mean of windows of an image.

Values are (channels, height, width, batch); batches are multiples of LANES.
"""

from distsgd.kernels import tile
from distsgd.kernels.compiled import FLOAT, SHIFT, compiled
from distsgd.kernels.vector import LANES
from distsgd.kernels.windows import REGISTERS, clear_rows, pool_row, unpool_row, unpool_threes


@compiled("void(real[:,:,:,::1], int64, int64, real[:,:,:], uint8[:,:,:,::1])")
def max_pool(x, size, stride, y, winner):
    """Write into y the maximum of size x size windows of x, `stride` apart, and into `winner` its place in the window; a NaN wins.

    winner: (channels, out height, out width, batch), at most 256 places.
    y: (channels, out height, out width x batch), last axis contiguous.
    """
    plane, line = x.strides[0] >> SHIFT, x.strides[1] >> SHIFT
    for c in range(winner.shape[0]):
        one = slice(c, c + 1)
        for i in range(winner.shape[1]):
            start = c * plane + i * stride * line
            # AlexNet's: with constants there is no loop over a window.
            if size == 3 and stride == 2:
                pool_row(x, start, plane, line, 3, 2, y[one], winner[one], i)
            else:
                pool_row(x, start, plane, line, size, stride, y[one], winner[one], i)


@compiled("void(real[:,:,:,::1], uint8[:,:,:,::1], int64, int64, real[:,:,:], boolean, real[:,:,:])")
def max_pool_gradient(dy, winner, size, stride, y, gated, dx):
    """Write dx: the gradient goes to the window's winner, zero to the rest of the window; where windows overlap it adds up.

    dy: as winner, of at least one window. y: as in `max_pool`; with `gated` the input was rectified, and where y, the winner's
    value, is not positive nothing goes back. dx: (channels, height, width x batch), last axis contiguous; what no window covers is
    left alone, and where windows overlap it is set to zero.
    """
    plane, line = dx.strides[0] >> SHIFT, dx.strides[1] >> SHIFT
    channels, rows, _, _ = winner.shape
    if size == 3 and stride == 2:
        for c in range(channels):
            for i in range((dx.shape[1] + 1) // 2):
                unpool_threes(dy, winner, gated, y, dx, c, i)
        return
    for c in range(channels):
        one, cleared = slice(c, c + 1), 0
        for i in range(rows):
            if stride < size:
                until = dx.shape[1] if i == rows - 1 else i * stride + size
                clear_rows(dx, c, cleared, until)
                cleared = until
            start = i * stride * line
            unpool_row(dy[one], winner[one], i, size, stride, gated, y[one], dx[one], start, plane, line)


@compiled("void(real[:,:,:,::1], int64, int64, int64, int64, real[:,:,:])")
def average_pool(x, high, wide, stride, outputs, y):
    """Write into y the means of high x wide windows of x, `stride` apart, `outputs` in a row; y as in `max_pool`."""
    batch, plane, line = x.shape[3], y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    x_plane, x_line = x.strides[0] >> SHIFT, x.strides[1] >> SHIFT
    share, shape = FLOAT(1) / FLOAT(high * wide), tile.zeros(1, REGISTERS)
    for c in range(y.shape[0]):
        for i in range(y.shape[1]):
            for window in range(outputs):
                for image in range(0, batch, LANES):
                    at, total = c * x_plane + i * stride * x_line + window * stride * batch + image, shape
                    for r in range(high):
                        for s in range(wide):
                            total = tile.add(total, x, at + r * x_line + s * batch, 0)
                    total = tile.scale(total, share)
                    tile.store(total, y, c * plane + i * line + window * batch + image, 0)


@compiled("void(real[:,:,:,::1], int64, int64, int64, real[:,:,:], boolean, real[:,:,:])")
def average_pool_gradient(dy, high, wide, stride, x, gated, dx):
    """Add to dx every window's equal shares of its gradient; with `gated`, only where x is positive. x and dx: (channels, height,
    width x batch), last axis contiguous; dy: (channels, out height, out width, batch)."""
    channels, height, width, batch = dy.shape
    plane, line, x_plane, x_line = (
        dx.strides[0] >> SHIFT,
        dx.strides[1] >> SHIFT,
        x.strides[0] >> SHIFT,
        x.strides[1] >> SHIFT,
    )
    share, shape = FLOAT(1) / FLOAT(high * wide), tile.zeros(1, REGISTERS)
    for c in range(channels):
        for i in range(height):
            for window in range(width):
                for image in range(0, batch, LANES):
                    slope = tile.load(shape, dy, ((c * height + i) * width + window) * batch + image, 0)
                    slope = tile.scale(slope, share)
                    at = window * stride * batch + image
                    for r in range(i * stride, i * stride + high):
                        for s in range(wide):
                            to, passed = c * plane + r * line + at + s * batch, slope
                            if gated:
                                passed = tile.gate(passed, x, c * x_plane + r * x_line + at + s * batch, 0)
                            tile.store(tile.add(passed, dx, to, 0), dx, to, 0)
