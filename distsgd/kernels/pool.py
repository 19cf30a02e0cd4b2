"""Max pooling over windows that do not overlap.

Buffers are (channels, height, width, batch) with a border around the values; top and left say where the values begin.
"""

import numpy as np

from distsgd.kernels.compiled import compiled


@compiled("void(float32[:,:,:,::1], int64, int64, int64, float32[:,:,:,::1], int64, int64, uint8[:,:,:,::1])")
def max_pool(x, x_top, x_left, size, y, top, left, winner):
    """Write into y, from (top, left) on, the maximum of every size x size window of x, and into `winner` its place in the window.

    winner: (channels, out height, out width, batch) gives the size of y's part that is written. A NaN wins.
    """
    channels, height, width, batch = winner.shape
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                for n in range(batch):
                    y[c, top + i, left + j, n] = x[c, x_top + i * size, x_left + j * size, n]
                    winner[c, i, j, n] = 0
                for place in range(1, size * size):
                    row, column = x_top + i * size + place // size, x_left + j * size + place % size
                    for n in range(batch):
                        value, best = x[c, row, column, n], y[c, top + i, left + j, n]
                        wins = not value <= best
                        y[c, top + i, left + j, n] = value if wins else best
                        winner[c, i, j, n] = np.uint8(place) if wins else winner[c, i, j, n]


@compiled("void(float32[:,:,:,::1], uint8[:,:,:,::1], int64, float32[:,:,:,::1], int64, int64, boolean, float32[:,:,:,::1], int64, int64)")
def max_pool_gradient(dy, winner, size, y, y_top, y_left, gated, dx, top, left):
    """Write dx, from (top, left) on: the gradient goes to the window's winner, zero to the rest.

    dy: as winner, no border. With `gated` the input was rectified: where y, which is the winner's value, is not positive nothing
    goes back. Rows and columns of dx that no window covers are left alone.
    """
    channels, height, width, batch = winner.shape
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                for place in range(size * size):
                    row, column = top + i * size + place // size, left + j * size + place % size
                    for n in range(batch):
                        passes = winner[c, i, j, n] == place and (not gated or not y[c, y_top + i, y_left + j, n] <= 0)
                        dx[c, row, column, n] = dy[c, i, j, n] if passes else np.float32(0)
