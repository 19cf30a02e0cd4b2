"""An exact average by ranks that share memory: each averages a part of the vector for all, in chunks that stay in its cache.

`words` (ranks, width) is that memory, a row a rank: a line for meetings, of which row 0's counts; what the rank adds; the
largest magnitudes of the averages that it wrote; its sums in fixed point; and float32 values, which are shorter, where it adds
a single vector. `floats` (ranks, 2 * width) is the same memory. Magnitudes are a float32's bits without the sign.
"""

import numpy as np

from distsgd.kernels.compiled import compiled, inlined
from distsgd.kernels.fixedpoint import add_values, divide_sums
from distsgd.kernels.waiting import LINE, TURNS, YIELDS, give_way, load, nap, turn
from distsgd.kernels.waiting import add as count

ARRIVED, REFUSED, KIND, WEIGHT, LARGEST = 0, LINE, LINE + 1, LINE + 2, 2 * LINE
"""Words of a row. REFUSED: the largest magnitude that was too large for its scale."""
NOTHING, SUMS, FLOATS = 0, 1, 2
"""Kinds of what a rank adds."""
CHUNK = 512
"""Values whose sums stay in the level-1 cache."""
NAPS = 100
"""After so many, some milliseconds, the interpreter gets its turn."""


@compiled("boolean(int64[:, ::1], int64)")
def all_there(words, arrivals):
    """Wait until ranks have arrived so many times; False if that takes long: then to be called again."""
    for look in range(TURNS + YIELDS // 10 + NAPS):
        if load(words, ARRIVED) >= arrivals:
            return True
        if look < TURNS:
            turn()
        elif look < TURNS + YIELDS // 10:
            give_way()
        else:
            nap()
    return False


@compiled("void(int64[:, ::1])")
def arrive(words):
    """Show the others all that this rank wrote."""
    count(words, ARRIVED, 1)


@inlined
def _add_sums(others, fresh, sums):
    for i in range(others.size):
        sums[i] = others[i] + (0 if fresh else sums[i])


@compiled(
    "void(int64[:, ::1], float32[:, ::1], int64, float32[::1], int64[::1], float64[::1], float64[::1], int64, int64, int64, int64,"
    "int64, int64, int64[::1], float32[::1])"
)
def average_part(
    words,
    floats,
    rank,
    vector,
    segments,
    limits,
    scales,
    total_weight,
    refused,
    first,
    last,
    sums_at,
    floats_at,
    room,
    mean,
):
    """Write the values first..last of the average over all ranks to `mean` (values,), and what became of them to this rank's row.

    vector: this rank's, where it adds FLOATS: of its own row the others read. segments, limits, scales: as `fixedpoint` has them.
    refused: of this rank's sums. sums_at, floats_at: where they begin in a row. room (CHUNK,).
    """
    own, begin = words[rank], 0
    for s in range(segments.size):
        end = begin + segments[s]
        stop, unit, most = min(end, last), 1.0 / (scales[s] * total_weight), np.int32(0)
        for at in range(max(begin, first), stop, CHUNK):
            size, fresh = min(CHUNK, stop - at), True
            sums = room[:size]
            for r in range(words.shape[0]):
                if words[r, KIND] == SUMS:
                    _add_sums(words[r, sums_at + at : sums_at + at + size], fresh, sums)
                elif words[r, KIND] == FLOATS:
                    there = floats[r, floats_at + at : floats_at + at + size]
                    values = vector[at : at + size] if r == rank else there
                    scale = words[r, WEIGHT] * scales[s]
                    refused = max(refused, np.int64(add_values(values, limits[s], scale, fresh, sums)))
                fresh = fresh and words[r, KIND] == NOTHING
            if fresh:
                sums[:] = 0
            most = max(most, divide_sums(sums, unit, mean[at : at + size]))
        own[LARGEST + s] = most
        begin = end
    own[REFUSED] = refused


@compiled("int64(int64[:, ::1], float32[::1], float32[::1], float32[::1])")
def take(words, mean, largest, out):
    """Write the average to `out` and its segments' largest magnitudes to `largest`; return the largest that any rank refused.

    If that is not 0 nothing is written.
    """
    refused = np.int64(0)
    for r in range(words.shape[0]):
        refused = max(refused, words[r, REFUSED])
    if refused != 0:
        return refused
    for s in range(largest.size):
        most = np.int64(0)
        for r in range(words.shape[0]):
            most = max(most, words[r, LARGEST + s])
        largest[s] = np.int32(most).view(np.float32)
    for i in range(out.size):
        out[i] = mean[i]
    return refused
