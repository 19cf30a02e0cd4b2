"""What ranks differ by while they do the same: for good, and from one step to the next."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from distsgd.cost.machine import Jitter
from distsgd.machine.steps import Seconds


def jitter(of_ranks: Sequence[Sequence[Seconds]], hosts: Sequence[str]) -> tuple[Jitter, ...]:
    """A rank each. of_ranks: for each shape of images what the ranks, in their order, found."""
    known = [ranks for ranks in of_ranks if ranks]
    lasting = [_against_the_middle([rank.compute for rank in ranks]) for ranks in known]
    slower = np.median(np.concatenate(lasting, axis=1), axis=1)
    return tuple(
        Jitter(
            rank=rank,
            host=host,
            lasting=float(slower[rank]),
            passing=float(np.median(list(chain(*chain(*(ranks[rank].passing.values() for ranks in known)))))),
        )
        for rank, host in enumerate(hosts)
    )


def _against_the_middle(of_ranks: Sequence[dict[str, list[float]]]) -> np.ndarray:
    """(ranks, networks and batches): of the logarithm of what all sweeps say."""
    logs = np.log([[np.median(sweeps) for sweeps in rank.values()] for rank in of_ranks])
    return np.asarray(logs - np.median(logs, axis=0))
