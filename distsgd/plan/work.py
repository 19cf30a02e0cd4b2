"""What a run is to a prediction: which network, how large its batches are, who computes how much of it before ranks meet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distsgd.batch import prefetches
from distsgd.config import Config
from distsgd.data import Description
from distsgd.kernels.vector import LANES
from distsgd.layers import Convolution, Dense, Dropout
from distsgd.network import Stage
from distsgd.optim import Adam, Sgd

STATES = {"sgd": 1 + Sgd.moments, "adam": 1 + Adam.moments}
"""Values that an optimizer keeps for each parameter, itself included."""


def text_of(stage: Stage) -> str:
    """What a layer's time depends on."""
    layer = replace(stage.layer, rate=0.5) if isinstance(stage.layer, Dropout) else stage.layer
    flags = "".join(
        f" {name}"
        for name, said in (("behind a rectifier", stage.rectified), ("rectifies", stage.rectify))
        if said
    )
    first = " first" if stage.number == 1 else ""
    return f"{layer!r} of {'x'.join(map(str, stage.shape))}{flags}{first}"


def network_text(stages: Sequence[Stage]) -> str:
    """What a network's time depends on."""
    return "; ".join(map(text_of, stages))


def flops_of(stages: Sequence[Stage]) -> float:
    """Of an image, forward."""
    return sum(
        stage.layer.flops(stage.shape) for stage in stages if isinstance(stage.layer, Convolution | Dense)
    )


@dataclass(frozen=True)
class Link:
    """A network that was not measured: seconds to begin a message, and seconds a byte."""

    start: float
    per_byte: float


@dataclass(frozen=True)
class Job:
    """A run on so many ranks, so many of them on a node."""

    stages: tuple[Stage, ...]
    config: Config
    images: Description
    workers: int
    ranks: int
    ranks_per_node: int
    link: Link | None = None
    """Between nodes, where the machine file has none."""
    network_times: float = 1.0
    """How many times as fast the network between nodes is as the one that was measured, or as that link."""
    slept: tuple[float, ...] = ()
    """Where steps only take time: the seconds of which theirs are drawn, see training.replay."""

    def on(self, ranks: int, workers: int, per_node: int) -> "Job":
        """The same on so many ranks, with so many workers."""
        return replace(self, ranks=ranks, workers=workers, ranks_per_node=min(ranks, per_node))

    @property
    def network(self) -> str:
        """What the network's time depends on."""
        return network_text(self.stages)

    @property
    def parameters(self) -> int:
        """Values in the network."""
        return sum(tensor.size for stage in self.stages for tensor in stage.tensors)

    @property
    def state(self) -> int:
        """Values that a worker has: parameters, and the optimizer's moments."""
        return self.parameters * STATES[self.config.optimizer.name]

    @property
    def train_images(self) -> int:
        """Those that are learnt from."""
        held = self.config.data.validation or 0.0
        return round((self.config.data.train_images or self.images.counts["train"]) * (1 - held))

    @property
    def shard(self) -> int:
        """Images of the largest."""
        return -(-self.train_images // self.workers)

    @property
    def batch(self) -> int:
        """Images of a worker's step."""
        return min(self.config.train.batch, self.shard)

    @property
    def lanes(self) -> int:
        """Room in a batch."""
        return -(-self.batch // LANES) * LANES

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-self.shard // self.batch)

    @property
    def period(self) -> int:
        """Steps of a round."""
        period = self.config.averaging.rounds_of
        return self.steps if isinstance(period, str) else min(period, self.steps)

    @property
    def rounds(self) -> int:
        """Of an epoch; the last may be short."""
        return -(-self.steps // self.period)

    @property
    def fills(self) -> bool:
        """Whether a worker has images for a round of full batches; with fewer, another number of workers is hardly comparable."""
        period = self.config.averaging.rounds_of
        steps = 1 if isinstance(period, str) else period
        return self.train_images // self.workers >= steps * self.config.train.batch

    @property
    def nodes(self) -> int:
        """As many as it takes."""
        return -(-self.ranks // self.ranks_per_node)

    @property
    def together(self) -> int:
        """Ranks of a node that compute at the same time."""
        return min(self.ranks, self.ranks_per_node)

    @property
    def cores(self) -> int:
        """That it keeps busy: one for each thread of each rank."""
        return self.ranks * self.config.train.threads

    @property
    def hosted(self) -> dict[int, int]:
        """How many ranks have so many workers: they are dealt as evenly as can be."""
        least, more = divmod(self.workers, self.ranks)
        return {least: self.ranks - more, **({least + 1: more} if more else {})}

    @property
    def image_bytes(self) -> int:
        """Of what the network sees of an image."""
        return math.prod(self.stages[0].shape)

    def spares(self, cores: int) -> bool:
        """Whether ranks leave one of a node's cores idle."""
        return self.together * self.config.train.threads < cores

    def prefetches(self, cores: int) -> bool:
        """Whether a thread fills the next batch, on nodes of so many cores."""
        size = self.config.train.batch * self.image_bytes
        return prefetches(self.config.data.prefetch, size, self.spares(cores))

    @property
    def windows(self) -> bool:
        """Whether a window of each image is drawn."""
        augment = self.config.augment
        return bool(augment.shift or augment.mirror or augment.crop)
