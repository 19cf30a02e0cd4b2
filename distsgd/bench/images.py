"""The images that a benchmark trains on."""

from dataclasses import dataclass

import numpy as np

from distsgd import data, zoo
from distsgd.comm import Ranks
from distsgd.data import Description

MADE_FOR = {name: (height, width, channels) for name, (channels, height, width) in zoo.MADE_FOR.items()}
"""Networks for images (height, width, channels) of one kind only; the others take those that there are."""


@dataclass(frozen=True)
class Images:
    """A rank's images, uint8 (sample, height, width, channel), their labels, and where they are from."""

    images: np.ndarray
    labels: np.ndarray
    classes: int
    source: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    def scaling(self) -> np.ndarray:
        """(2, channels) float32, what `Batch.fill` wants: mean and 1 / deviation."""
        mean, deviation = self.images.mean(axis=(0, 1, 2)), self.images.std(axis=(0, 1, 2))
        return np.stack([mean, 1 / np.where(deviation > 0, deviation, 1)]).astype(np.float32)

    def batches(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """What a Peer wants: float32 (number, batch, channels, height, width), labels (number, batch)."""
        mean, inverse = self.scaling()
        scaled = ((self.images.astype(np.float32) - mean) * inverse).transpose(0, 3, 1, 2)
        return scaled.reshape(-1, batch, *self.shape), self.labels.reshape(-1, batch)


def images_for(name: str, source: str, described: Description, samples: int, ranks: Ranks) -> Images:
    """So many for this rank, other ones on each: of the source, or random where the network wants others."""
    there = described.height, described.width, described.channels
    wanted = MADE_FOR.get(name, there)
    if wanted != there:
        return _random_images(wanted, zoo.CLASSES.get(name, 10), source, samples, ranks)
    shuffled = data.shuffled(described.counts["train"], 0, 0, 0)
    rows = np.resize(shuffled, samples * ranks.size)[ranks.rank * samples :][:samples]
    labels = data.read_labels(described.path, "train")[rows]
    return Images(data.read_rows(described.path, "train", rows), labels, described.classes, source)


def _random_images(
    shape: tuple[int, int, int], classes: int, source: str, samples: int, ranks: Ranks
) -> Images:
    chance = np.random.default_rng([0, ranks.rank])
    images, labels = (
        chance.integers(0, 256, (samples, *shape), np.uint8),
        chance.integers(0, classes, samples),
    )
    return Images(images, labels, classes, f"random, as {source} has none of {'x'.join(map(str, shape))}")
