"""How near to each other the cores of ranks lie, by what their smallest exchange takes.

Cores that share a cache exchange sooner than others, and compute longer where both want much of it (for two of them, a step on
large batches took a quarter longer). Where ranks are bound to cores of their own, these stay. Those of a virtual machine wander,
and what was measured while they lay near says little of what they do while they lie apart.
"""

import os
import time

import numpy as np

from distsgd.comm import Ranks

EXCHANGES, FEW = 200, 20
"""Of one number, whose first quartile is taken; and those that show whether it is worth while."""
BUSY = 50e-6
"""Seconds of an exchange from which on it is others that are waited for, and not a message."""
ALIKE = 1.1
"""Times as long, at most: exchanges of ranks that did not move differ by 3 %, and 25 % or more were seen where they did."""


def nearness(ranks: Ranks) -> float | None:
    """Seconds of the smallest exchange, the same on all ranks, which call this together; takes less than a millisecond.

    None where nothing is to be told: of one rank, of several nodes, of more ranks than cores.
    """
    if ranks.size == 1:
        return None
    able = np.array([ranks.on_node()[1] < ranks.size or (os.cpu_count() or 1) < ranks.size], np.int64)
    ranks.maximum(able)
    if able[0] or _agreed(ranks, FEW) > BUSY:
        return None
    return _agreed(ranks, EXCHANGES)


def _agreed(ranks: Ranks, exchanges: int) -> float:
    """What rank 0 found."""
    number, stamps = np.zeros(1, np.int64), [time.perf_counter()]
    for _ in range(exchanges):
        ranks.maximum(number)
        stamps.append(time.perf_counter())
    quartile = np.array([np.quantile(np.diff(stamps), 0.25)])
    ranks.broadcast(quartile)
    return float(quartile[0])


def alike(one: float | None, *others: float | None) -> bool:
    """Whether ranks lay as near to each other each time; what is not known counts as that."""
    known = [each for each in (one, *others) if each is not None]
    return not known or max(known) <= ALIKE * min(known)
