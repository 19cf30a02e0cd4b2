"""How much memory a run takes, told beforehand."""

from dataclasses import dataclass

from distsgd.clock import peak_memory
from distsgd.network import Network, aligned
from distsgd.threads import Team
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
    team = Team(experiment.config.train.threads)
    network = Network(experiment.stages, batch, aligned(size), batches, team).memory
    copies = _copies(experiment, ranks) * FLOAT + _message(experiment, ranks)
    pixels = images.height * images.width * images.channels
    share = -(-(experiment.train_images + images.counts["test"]) // ranks)
    return Memory(peak_memory(), network, int(size * copies), share * pixels)


def _copies(experiment: Experiment, ranks: int) -> int:
    """Values a parameter that rounds work with (`training.rounds`), the average's message apart."""
    averaging, state = experiment.config.averaging, 1 + experiment.optimizer.moments
    if averaging.what == "gradients":
        return state + 1
    hosted = -(-experiment.workers // ranks)
    return (3 + hosted) * state if averaging.rounds_of == "once" else 2 * state


def _message(experiment: Experiment, ranks: int) -> float:
    """Bytes a parameter: the moments travel too, but for gradients. Where ranks share memory, what each touches is counted for it,
    as the system does: its own array, the sum, and its part of the others' arrays."""
    averaging = experiment.config.averaging
    values = 1 if averaging.what == "gradients" else 1 + experiment.optimizer.moments
    kind = FIXED if experiment.workers > 1 and averaging.reduction == "exact" else FLOAT
    arrays = 3 - 1 / ranks if ranks > 1 and averaging.topology == "allreduce" else 1
    return values * kind * arrays
