"""Convolution as one would write it first: the loops of its definition, no vectors. What the other kernels are measured against.

Nothing that trains imports this: it is compiled when it is asked for, and not kept.
"""

from distsgd.kernels.compiled import FLOAT, compiled


@compiled("void(real[:,:,:,::1], real[:,:,:,::1], real[:,:,:,::1])", kept=False)
def convolve(x, weights, y):
    """y[k, i, j, n] = sum over c, r, s of weights[c, r, s, k] * x[c, i + r, j + s, n].

    x (channels, height, width, batch); weights (channels, rows, columns, filters); y is written.
    """
    filters, height, width, batch = y.shape
    channels, high, wide, _ = weights.shape
    for k in range(filters):
        for i in range(height):
            for j in range(width):
                for n in range(batch):
                    total = FLOAT(0)
                    for c in range(channels):
                        for r in range(high):
                            for s in range(wide):
                                total += weights[c, r, s, k] * x[c, i + r, j + s, n]
                    y[k, i, j, n] = total
