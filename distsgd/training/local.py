"""Local steps: the workers of a rank take turns in one working copy of the state.

They run inside a round of the clock, and add what of it was filling batches.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from distsgd.batch import Batch
from distsgd.clock import Clock
from distsgd.kernels.vector import LANES
from distsgd.network import Network
from distsgd.optim import Steps
from distsgd.training.pause import Pause
from distsgd.training.prefetch import Prefetch
from distsgd.training.replay import Replay
from distsgd.training.watch import Watch
from distsgd.training.windows import Windows
from distsgd.training.workers import Worker, Workers


@dataclass
class Local:
    """One working copy of the state, in which a rank's workers take turns."""

    network: Network
    state: np.ndarray
    optimizer: Steps
    workers: Workers
    scaling: np.ndarray
    windows: Windows
    seed: int
    clock: Clock
    pause: Pause
    watch: Watch
    prefetch: Prefetch | None = None
    """While the run goes on, if it prefetches."""
    replay: Replay | None = None
    """Where steps only take time."""
    epoch: int = 0
    reached: int = 0
    """The step of the epoch before which the last worker that ran stands: `last`, or an earlier one if it was told to stop."""

    def number(self, step: int) -> int:
        """A step's number in the experiment, the same for all workers, counted from 0."""
        return self.epoch * self.workers.steps + step

    def learn(self, worker: Worker, step: int) -> int:
        """The gradient of a worker's batch. Returns the number of images in it: 0, doing nothing, if its shard is used up."""
        count = self.workers.seen(worker.number, step, step + 1)
        if count and self.replay:
            self.replay.sleep(worker.number, self.number(step))
        elif count:
            began = self.clock.now()
            self._load(worker, step)
            self.clock.data += self.clock.now() - began
            self.network.learn(self.seed, worker.number, self.number(step))
            if self.watch.on:
                self.watch.images += -(-count // LANES) * LANES
        return count

    def update(self, step: int) -> None:
        """Change the state by the gradient of a step."""
        if not self.replay:
            self.optimizer.step(self.number(step) + 1)

    def _load(self, worker: Worker, step: int) -> None:
        """Make a worker's images the batch, prefetched or not; what was not foreseen, as a round done again, is not."""
        if self.prefetch is None:
            self._fill(self.network.batches[0], worker, self.epoch, step)
            return
        if not self.prefetch.take((worker.number, self.epoch, step)):
            self._fill(self.network.batches[0], worker, self.epoch, step)
        if following := self.workers.following(worker, step):
            other, its = following
            place = other.number, self.epoch, its
            self.prefetch.ask(place, partial(self._fill, worker=other, epoch=self.epoch, step=its))

    def _fill(self, batch: Batch, worker: Worker, epoch: int, step: int) -> None:
        first, count = step * self.workers.batch, self.workers.seen(worker.number, step, step + 1)
        windows = self.windows.draw(worker.number, epoch, first)
        batch.fill(worker.images, worker.labels, worker.order, first, count, self.scaling, windows)

    def run(self, worker: Worker, first: int, last: int) -> None:
        """A worker's steps first..last of the epoch, changing the state; fewer where the run is to stop."""
        for self.reached in range(first, last):
            if self.pause.impatient():
                break
            if self.learn(worker, self.reached) == 0:
                self.reached = last
                break
            self.update(self.reached)
        else:
            self.reached = last
