"""From bytes of images, image by image, to a batch with the image innermost."""

import numpy as np

from distsgd.kernels.compiled import compiled
from distsgd.kernels.tile import LANES


@compiled(
    "void(uint8[:,:,:,::1], int64[::1], int64[::1], int64, int64, float32[:,::1], float32[:,:,:,::1], int64, int64, int64[::1])"
)
def fill(images, labels, rows, first, count, scaling, x, top, left, y):
    """Write images rows[first : first + count] into x from (top, left) on, and their labels into y; zeros beyond `count`.

    images: (sample, height, width, channel). x: (channels, height, width, batch) with borders; batch a multiple of LANES.
    scaling: (2, channels), the mean and the inverse of the deviation: x = (byte - mean) * inverse.
    """
    height, width, channels = images.shape[1:]
    for n in range(y.size):
        y[n] = labels[rows[first + n]] if n < count else 0
    for block in range(0, x.shape[3], LANES):
        full = max(0, min(LANES, count - block))
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    mean, inverse = scaling[0, c], scaling[1, c]
                    for n in range(block, block + full):
                        x[c, top + i, left + j, n] = (
                            np.float32(images[rows[first + n], i, j, c]) - mean
                        ) * inverse
                    for n in range(block + full, block + LANES):
                        x[c, top + i, left + j, n] = np.float32(0)


@compiled("void(uint8[:,:,:,::1], int64[:,::1])")
def moments(images, sums):
    """Add to sums (2, channels) the sum of the bytes and of their squares, per channel: exact, in any order."""
    samples, height, width, channels = images.shape
    for s in range(samples):
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    value = np.int64(images[s, i, j, c])
                    sums[0, c] += value
                    sums[1, c] += value * value
