"""Representative shards: which samples each worker has, and in which order it sees them.

The same numbers on every machine and with every version of NumPy. The methods of `numpy.random.Generator` may
change between versions, so only the raw 64-bit output of Philox4x64-10 is used (Salmon et al. 2011, a
published function of key and counter), and a permutation is the stable order of such outputs. The key is
(seed, purpose) and the counter starts at (0, 0, first, second), so every purpose, deal, worker and epoch has
a stream of its own, which needs no other one to be drawn before it.
"""

import numpy as np

from distsgd.config import InputError

# Part of the key of a stream. Changing one changes the results of every experiment.
_DEAL = 1
_SHUFFLE = 2
_HOLD_OUT = 4  # 3 is that of the weights' start


def deal(labels: np.ndarray, workers: int, seed: int, deal: int) -> list[np.ndarray]:
    """The sample numbers of each worker's shard, int64, from the `labels` (sample) of all: each sample in
    exactly one shard.

    Each class is permuted and dealt round-robin, the next class beginning at the worker after the one that
    got the last sample: counts per class, and sizes of shards, differ by at most one between workers. `deal`
    counts the deals of a run (0, 1, ...): each deals anew. A shard comes sorted by class, see `shuffled`.
    Raises InputError for fewer samples than workers.
    """
    if not 1 <= workers <= len(labels):
        raise InputError(
            f"{workers} workers for {len(labels)} training images; choose 1 to {len(labels)} workers"
        )
    # By class, within a class by random numbers: dealing the whole row carries remainders to the next class.
    order = np.lexsort((_random(_DEAL, seed, deal, 0, len(labels)), labels)).astype(np.int64, copy=False)
    return [order[worker::workers].copy() for worker in range(workers)]


def shuffled(count: int, seed: int, worker: int, epoch: int) -> np.ndarray:
    """A permutation of 0..count-1, int64: in which order `worker` sees its `count` samples in `epoch`."""
    return np.argsort(_random(_SHUFFLE, seed, worker, epoch, count), kind="stable").astype(
        np.int64, copy=False
    )


def hold_out(labels: np.ndarray, part: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The sample numbers to learn from and those held out, int64, ascending, from the `labels` (sample) of all.

    `part` (0 to 1) of each class is held out, rounded, but never all of it.
    """
    order = np.lexsort((_random(_HOLD_OUT, seed, 0, 0, len(labels)), labels))
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the class
    most = np.minimum(np.floor(counts * part + 0.5), counts - 1)
    out = place < np.repeat(most, counts)
    return np.sort(order[~out]), np.sort(order[out])


def contiguous(count: int, ranks: int, rank: int) -> tuple[int, int]:
    """(start, stop) of the part of 0..count-1 that `rank` has; sizes differ by at most one between ranks."""
    return count * rank // ranks, count * (rank + 1) // ranks


def _random(purpose: int, seed: int, first: int, second: int, count: int) -> np.ndarray:
    """`count` random uint64 of the stream that belongs to these four numbers (each 0 to 2**64 - 1)."""
    key = np.array([seed, purpose], np.uint64)
    counter = np.array([0, 0, first, second], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)
