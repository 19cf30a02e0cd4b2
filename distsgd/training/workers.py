"""Workers and the images they have: a worker is one logical SGD process, a rank hosts a block of them."""

from dataclasses import dataclass

import numpy as np

from distsgd import data
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.kernels.batch import moments
from distsgd.training.experiment import Experiment


@dataclass
class Worker:
    """One worker: its shard (images uint8, labels), and the order in which it sees it this epoch."""

    number: int
    images: np.ndarray
    labels: np.ndarray
    order: np.ndarray


class Workers:
    """The workers that this rank hosts, and how many images every worker of the experiment has."""

    def __init__(self, experiment: Experiment, ranks: Ranks, clock: Clock) -> None:
        self._experiment, self._clock = experiment, clock
        config = experiment.config
        self.batch, self._seed = config.train.batch, config.train.seed
        self._first, self._last = data.contiguous(experiment.workers, ranks.size, ranks.rank)
        with clock.phase("load"):
            labels = data.read_labels(experiment.images.path, "train")[: experiment.train_images]
        self._rows, self.held_out = experiment.split(labels)
        self._labels = labels[self._rows]
        self.hosted: list[Worker] = []
        self.sizes: list[int] = []
        self._dealt = 0
        self._deal(0)
        self.batch = min(self.batch, max(self.sizes))  # more lanes than images would only cost time

    def _deal(self, number: int) -> None:
        """Give every worker a new shard, and read those of the hosted ones."""
        with self._clock.phase("shuffle"):
            shards = data.deal(self._labels, self._experiment.workers, self._seed, number)
            self.sizes = [len(shard) for shard in shards]
            hosted = shards[self._first : self._last]
        self.hosted = []  # the memory of the old shards, before the new ones are read
        with self._clock.phase("load"):
            rows = self._rows[np.concatenate(hosted)]
            images = data.read_rows(self._experiment.images.path, "train", rows)
            ends = np.cumsum([len(shard) for shard in hosted])[:-1]
            for number, rows, part in zip(
                range(self._first, self._last), hosted, np.split(images, ends), strict=True
            ):
                self.hosted.append(Worker(number, part, self._labels[rows], np.arange(len(rows))))

    def begin(self, epoch: int) -> None:
        """Order the shards for an epoch (counted from 0), dealing anew when it is time."""
        every = self._experiment.config.data.reshuffle
        deal = epoch // every if every else 0
        if deal != self._dealt:
            self._dealt = deal
            self._deal(deal)
        with self._clock.phase("shuffle"):
            for worker in self.hosted:
                worker.order = data.shuffled(len(worker.labels), self._seed, worker.number, epoch)

    def class_weights(self) -> np.ndarray:
        """(classes,) float32: by how much each class's images count; their mean over all workers' images is one."""
        counts = np.bincount(self._labels, minlength=self._experiment.images.classes)
        if self._experiment.config.train.class_weights == "none":
            return np.ones(len(counts), np.float32)
        share = len(self._labels) / np.count_nonzero(counts)  # what a class would have if all had as many
        return np.where(counts, share / np.maximum(counts, 1), 1).astype(np.float32)

    @property
    def steps(self) -> int:
        """Steps of an epoch: the largest shard's."""
        return -(-max(self.sizes) // self.batch)

    def seen(self, worker: int, first: int, last: int) -> int:
        """Images that a worker sees in the steps first..last of an epoch."""
        return min(self.sizes[worker], last * self.batch) - min(self.sizes[worker], first * self.batch)

    def following(self, worker: Worker, step: int) -> tuple[Worker, int] | None:
        """Whose images this rank sees after those of a worker's step, if the epoch goes on as planned; None at its end."""
        period = self._experiment.config.averaging.rounds_of
        length = self.steps if isinstance(period, str) else period
        first = step - step % length
        last = min(first + length, self.steps)
        rest = [(worker, step + 1)] if step + 1 < last else []
        rest += [(other, first) for other in self.hosted[worker.number - self._first + 1 :]]
        rest += [(self.hosted[0], last)]
        seen = (place for place in rest if self.seen(place[0].number, place[1], place[1] + 1))
        return next(seen, None)

    def all_seen(self, first: int, last: int) -> int:
        """Images that all workers see in those steps."""
        return sum(self.seen(worker, first, last) for worker in range(len(self.sizes)))

    def scaling(self, ranks: Ranks) -> np.ndarray:
        """(2, channels) float32: mean and 1 / deviation of the training images' bytes, the same on any number of ranks."""
        sums = np.zeros((2, self._experiment.images.channels), np.int64)
        for worker in self.hosted:
            moments(worker.images, sums)
        ranks.sum(sums)
        pixels = len(self._labels) * self._experiment.images.height * self._experiment.images.width
        mean = sums[0] / pixels
        deviation = np.sqrt(np.maximum(sums[1] / pixels - mean * mean, 0.0))
        return np.stack([mean, 1 / np.where(deviation > 0, deviation, 1.0)]).astype(np.float32)
