"""Prefetching: a thread fills the batch that comes next while this rank computes with the one before.

It is none of those that share out the rank's work (`distsgd.threads`), and wants a core beside theirs.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from distsgd.batch import Batch, prefetches
from distsgd.launcher import processors
from distsgd.network import Network
from distsgd.training.experiment import Experiment

Place = tuple[int, int, int]
"""Worker, epoch and step: what a batch's images depend on."""


def prefetching(experiment: Experiment, ranks_here: int) -> bool:
    """Whether a rank prefetches, where the node has so many; a rank may be bound to some of the cores, and has threads."""
    train = experiment.config.train
    size = train.batch * math.prod(experiment.stages[0].shape)
    return prefetches(experiment.config.data.prefetch, size, ranks_here * train.threads < len(processors()))


class Prefetch:
    """A thread and the batch that it was asked to fill, a network's second one; the thread ends with the context."""

    def __init__(self, network: Network) -> None:
        self._network, self._thread = network, ThreadPoolExecutor(1, "prefetch")
        self._asked: tuple[Place, Future[None]] | None = None

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def ask(self, place: Place, fill: Callable[[Batch], None]) -> None:
        """Begin to fill the batch that the network does not compute with."""
        self._asked = place, self._thread.submit(fill, self._network.batches[1])

    def take(self, place: Place) -> bool:
        """Make the batch asked for the network's, if it is that of this place; returns whether it is.

        In any case the thread rests when this returns. Raises what filling the batch has raised.
        """
        if self._asked is None:
            return False
        (asked, filled), self._asked = self._asked, None
        filled.result()
        if asked == place:
            self._network.turn()
        return asked == place
