"""Softmax cross-entropy, with an exponential of its own: the C library's differs from machine to machine."""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distsgd.kernels.compiled import FLOAT, WIDE, compiled, inlined

LOSS_UNIT = 2.0**-30
"""Losses are summed as integers of this unit, so that sums over ranks do not depend on the order."""
LOSS_LIMIT = 8192.0
"""A single image's loss counts at most this much, so that 2**20 images can be summed."""
TOTALS = ("samples", "correct", "loss", "not_finite")


@intrinsic
def _bits(typing, x):
    """A float32's 32 bits as an integer."""
    return types.int32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@intrinsic
def _from_bits(typing, x):
    """The float32 with these 32 bits."""
    return types.float32(types.int32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


@inlined
def _exponential32(x):
    """exp(x) for x <= 0 within 2 units in the last place, by plain multiplications and additions (Cephes' polynomial); NaN stays.

    Below exp(-64) it is zero: smaller gradients become subnormal numbers layers later, which make every kernel slow.
    """
    one = np.float32(1)
    tiny = x < np.float32(-64)
    x = np.float32(-64) if tiny else x
    shifted = x * np.float32(1.44269504) + np.float32(
        12582912
    )  # 1.5 * 2**23: the rounded integer is in the low bits
    n = shifted - np.float32(12582912)
    r = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    power = _from_bits(np.int32((_bits(shifted) + np.int32(127)) << np.int32(23)))
    return np.float32(0) if tiny else (p * r * r + r + one) * power


@inlined
def _exponential64(x):
    """The C library's, for checking gradients."""
    return math.exp(x)


exponential = _exponential64 if WIDE else _exponential32


@compiled("void(real[:,::1], int64[::1], int64, real[::1], real[:,::1], real[:,::1])")
def softmax_cross_entropy(z, labels, count, weights, work, dz):
    """Write dz, the gradient of the mean loss of the first `count` images to the scores z (classes, batch); zero for the others.

    An image's loss counts weights[its label] times. The mean is over images, not over weights: then the mean of several batches'
    gradients, each by its number of images, is the gradient of them joined, whichever classes each has.
    work: (4, batch), on return per image the greatest score, the sum of exponentials, the score of the label, and its weight.
    """
    classes, batch = z.shape
    for n in range(batch):
        work[0, n], work[1, n] = z[0, n], FLOAT(0)
        work[2, n], work[3, n] = z[labels[n], n], weights[labels[n]]
    for k in range(1, classes):
        for n in range(batch):
            work[0, n] = work[0, n] if z[k, n] <= work[0, n] else z[k, n]
    for k in range(classes):
        for n in range(batch):
            dz[k, n] = exponential(z[k, n] - work[0, n])
            work[1, n] += dz[k, n]
    for k in range(classes):
        for n in range(batch):
            share = dz[k, n] / work[1, n] - (FLOAT(1) if labels[n] == k else FLOAT(0))
            dz[k, n] = share * work[3, n] / FLOAT(count) if n < count else FLOAT(0)


@inlined
def chosen(z, n):
    """The class of image n's greatest score, the first of equal ones; -1 where a score is no number."""
    best = 0
    for k in range(z.shape[0]):
        if math.isnan(z[k, n]):
            return -1
        if z[k, n] > z[best, n]:
            best = k
    return best


@inlined
def _is_chosen(z, label, n, work):
    """Whether `chosen` is the label: of the rows of a thousand classes few are read, each of which is far from the next."""
    if math.isnan(work[1, n]):  # which score is none, or whether one is infinite, the sum does not tell
        return chosen(z, n) == label
    if work[2, n] != work[0, n]:
        return False
    for k in range(label):
        if z[k, n] == work[0, n]:
            return False
    return True


@compiled("void(real[:,::1], int64[::1], int64, real[:,::1], int64[::1])")
def count_losses(z, labels, count, work, totals):
    """Add to totals (samples, correct, loss in LOSS_UNITs, images whose loss is not finite) what `softmax_cross_entropy` left."""
    totals[0] += count
    for n in range(count):
        loss = math.log(np.float64(work[1, n])) - (np.float64(work[2, n]) - np.float64(work[0, n]))
        totals[1] += np.int64(_is_chosen(z, labels[n], n, work))
        if loss < math.inf:
            totals[2] += np.int64(min(loss * np.float64(work[3, n]), LOSS_LIMIT) / LOSS_UNIT)
        else:
            totals[3] += 1
