"""How much memory a run takes, told beforehand."""

from dataclasses import dataclass

from distsgd.clock import peak_memory
from distsgd.network import Network, aligned
from distsgd.training.experiment import Experiment
from distsgd.training.prefetch import prefetches

FLOAT, FIXED = 4, 8
"""Bytes of a value, and of one in an exact average's message."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a rank takes while it trains."""

    process: int
    """Python, its packages and the compiled kernels: what this very process has."""
    network: int
    """Activations, gradients and working memory of a batch."""
    state: int
    """Parameters and the optimizer's moments, the copies that averaging needs, and its message."""
    images: int
    """The rank's share of the training and test images."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.process + self.network + self.state + self.images


def memory(experiment: Experiment, ranks: int) -> Memory:
    """What one of so many ranks, all on this node, will take. Memory that is planned here and not touched costs nothing."""
    size, images = sum(experiment.segments), experiment.images
    batch = min(experiment.config.train.batch, -(-experiment.train_images // experiment.workers))
    batches = 1 + prefetches(experiment, ranks)
    network = Network(experiment.stages, batch, aligned(size), batches).memory
    moments = 0 if experiment.config.averaging.what == "gradients" else experiment.optimizer.moments
    message = FIXED if experiment.workers > 1 and experiment.config.averaging.reduction == "exact" else FLOAT
    copies = 2 * (1 + experiment.optimizer.moments) * FLOAT + (1 + moments) * message
    pixels = images.height * images.width * images.channels
    share = -(-(experiment.train_images + images.counts["test"]) // ranks)
    return Memory(peak_memory(), network, size * copies, share * pixels)
