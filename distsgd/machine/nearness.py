"""How near to each other the cores of ranks lie, by what their smallest exchange takes.

Cores that share a cache exchange sooner than others, and compute longer where both want much of it (for two of them, a step on
large batches took a quarter longer). Where ranks are bound to cores of their own, these stay. Those of a virtual machine wander,
and what was measured while they lay near says little of what they do while they lie apart.
"""

import os
import time
from bisect import bisect_right
from collections.abc import Sequence
from statistics import median_low

import numpy as np

from distsgd.comm import Ranks

EXCHANGES, FEW = 200, 20
"""Of one number, whose first quartile is taken; and those that show whether it is worth while."""
BUSY = 50e-6
"""Seconds of an exchange from which on it is others that are waited for, and not a message."""
ALIKE = 1.15
"""Times as long, at most: exchanges of ranks that did not move differ by 3 %, by 10 where others are busy, and by 25 or more where
they did."""
PAUSE = 0.1
"""Seconds between two looks at cores that lie elsewhere."""


def nearness(ranks: Ranks) -> float | None:
    """Seconds of the smallest exchange, the same on all ranks, which call this together; takes a millisecond, or some.

    None where nothing is to be told: of one rank, of several nodes, of more ranks than cores, and where exchanges wait for others.
    """
    if ranks.size == 1:
        return None
    crowded = np.array([ranks.on_node()[1] < ranks.size or (os.cpu_count() or 1) < ranks.size], np.int64)
    ranks.maximum(crowded)
    if crowded[0] or _exchange(ranks, FEW) > BUSY:
        return None
    return _exchange(ranks, EXCHANGES)


def _exchange(ranks: Ranks, times: int) -> float:
    """Seconds of one, as rank 0 found them."""
    number, stamps = np.zeros(1, np.int64), [time.perf_counter()]
    for _ in range(times):
        ranks.maximum(number)
        stamps.append(time.perf_counter())
    quartile = np.array([np.quantile(np.diff(stamps), 0.25)])
    ranks.broadcast(quartile)
    return float(quartile[0])


def alike(one: float | None, *others: float | None) -> bool:
    """Whether ranks lay as near to each other each time; what is not known counts as that."""
    known = [each for each in (one, *others) if each is not None]
    return not known or max(known) <= ALIKE * min(known)


def commonest(looks: Sequence[float | None]) -> float | None:
    """How near ranks lay at most looks: the middle one of those that are alike. None where nothing is known.

    Not the middle one of all: where they lay half of the time at one place and half at another, that is of the moment between.
    """
    known = sorted(each for each in looks if each is not None)
    counts = [bisect_right(known, ALIKE * each) - place for place, each in enumerate(known)]
    first = int(np.argmax(counts)) if known else 0
    return median_low(known[first : first + counts[first]]) if known else None


def return_to(ranks: Ranks, near: float | None, until: float) -> bool:
    """Wait until ranks lie so near again; False where rank 0's monotonic clock says `until` first. All ranks call this."""
    while True:
        left = np.array([until - time.monotonic()])
        ranks.broadcast(left)
        if left[0] <= 0:
            return False
        if alike(near, nearness(ranks)):
            return True
        time.sleep(PAUSE)
