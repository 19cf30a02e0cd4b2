"""Which class was taken for which: counted in integers, so that sums over ranks do not depend on the order."""

from distsgd.kernels.compiled import compiled
from distsgd.kernels.loss import chosen

NEAR = 5
"""A label counts as near where fewer than so many classes go before it."""


@compiled("void(real[:,::1], int64[::1], int64, int64[:,::1], int64[::1])")
def confuse(z, labels, count, confusion, near):
    """Add the first `count` images, of scores z (classes, batch), to confusion (label, chosen class) and to near (1).

    The last column of confusion (classes, classes + 1) is for images with a score that is no number; with no rows at all it is
    left alone. Of equal scores the class with the lower number goes first.
    """
    for n in range(count):
        best = chosen(z, n)
        if confusion.shape[0] > 0:
            confusion[labels[n], best if best >= 0 else z.shape[0]] += 1
        own, before = z[labels[n], n], 0
        for k in range(z.shape[0]):
            if z[k, n] > own or (z[k, n] == own and k < labels[n]):
                before += 1
        if best >= 0 and before < NEAR:
            near[0] += 1
