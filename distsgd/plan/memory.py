"""How much memory a run takes, told beforehand."""

from dataclasses import dataclass

from distsgd.kernels.vector import aligned
from distsgd.network import Network
from distsgd.plan.work import STATES, Job
from distsgd.threads import Team

SCRATCH = {"recursive-doubling": 1.0, "rabenseifner": 0.5, "binomial": 1.0}
"""What part of a message an algorithm of our own receives beside it at once."""
FLOAT, FIXED = 4, 8
"""Bytes of a value, and of one in an exact average's message."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a rank takes while it trains."""

    process: int
    """Python, its packages and the compiled kernels."""
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


def memory(job: Job, cores: int, process: int) -> Memory:
    """What a rank of the job will take on a node of so many cores; `process`: without network and images.

    Memory that is planned here and not touched costs nothing.
    """
    counts, images = job.images.counts, job.images
    pixels = images.height * images.width * images.channels
    used = (job.config.data.train_images or counts["train"]) + counts["test"] + counts.get("validation", 0)
    size = int(job.parameters * (_copies(job) * FLOAT + _message(job)))
    return Memory(process, _network(job, cores), size, -(-used // job.ranks) * pixels)


def _network(job: Job, cores: int) -> int:
    team, batches = Team(job.config.train.threads), 1 + job.prefetches(cores)
    return Network(job.stages, job.batch, aligned(job.parameters), batches, team).memory


def _copies(job: Job) -> int:
    """Values a parameter that rounds work with (`training.rounds`), the average's message apart. Where there is one worker, it
    has its own gradient's average."""
    averaging, state = job.config.averaging, STATES[job.config.optimizer.name]
    if averaging.what == "gradients":
        return state + (job.workers > 1)
    return (3 + max(job.hosted)) * state if averaging.rounds_of == "once" else 2 * state


def _message(job: Job) -> float:
    """Bytes a parameter: the moments travel too, but for gradients. Where ranks share memory, what each touches is counted for it,
    as the system does: its own sums if it has several workers, the sum or the average, and its part of what the others add."""
    averaging = job.config.averaging
    if job.workers == 1:
        return 0
    values = 1 if averaging.what == "gradients" else STATES[job.config.optimizer.name]
    kind = FIXED if averaging.reduction == "exact" else FLOAT
    if job.ranks == 1 or averaging.algorithm != "library":
        return values * kind * (1 + SCRATCH.get(averaging.algorithm, 0.0))
    if averaging.topology == "master" or job.nodes > 1:
        return values * kind
    others = 1 - 1 / job.ranks
    # Where a worker computes, and where a gradient's average stays, is among the copies.
    if kind == FIXED:
        mean = FLOAT * (averaging.what == "parameters")
        several = job.workers > job.ranks  # else each rank's own vector is all that it adds
        return values * (FIXED * several + mean + (FIXED if several else FLOAT) * others)
    return values * kind * (2 + others)
