"""From bytes of images, image by image, to a batch with the image innermost."""

import numpy as np

from distsgd.kernels.compiled import compiled


@compiled(
    "void(uint8[::1], int64, int64[::1], int64[::1], int64, int64, float32[:,::1], float32[:,:,:], int64[::1], int64[::1])"
)
def fill(images, size, labels, order, first, count, scaling, x, starts, y):
    """Write images order[first : first + count] into x and their labels into y; zeros beyond `count`.

    images: flat bytes, `size` to an image, in it (height, width, channel). x: (channels, height, width x batch), its last axis
    contiguous; the batch is y's and a multiple of LANES. scaling: (2, channels), mean and inverse of the deviation:
    x = (byte - mean) * inverse. starts: room for a number an image.
    """
    channels, height, batch = x.shape[0], x.shape[1], y.size
    width = x.shape[2] // batch
    for n in range(batch):
        used = n < count
        y[n] = labels[order[first + n]] if used else 0
        starts[n] = order[first + n] * size if used else 0
    for c in range(channels):
        mean, inverse = scaling[0, c], scaling[1, c]
        for i in range(height):
            for j in range(width):
                pixel = (i * width + j) * channels + c
                for n in range(batch):
                    x[c, i, j * batch + n] = (
                        np.float32(images[np.uint64(starts[n] + pixel)]) - mean
                    ) * inverse
                for n in range(count, batch):
                    x[c, i, j * batch + n] = np.float32(0)


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
