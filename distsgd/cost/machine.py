"""What was measured of a machine, as its file has it: constants for predicting, and where they were found."""

from typing import Any, Literal

from pydantic import Field

from distsgd.config.section import Section

FORMAT: Literal["distsgd-machine-5"] = "distsgd-machine-5"


class Where(Section):
    """What a file's numbers hold for: another processor or MPI library has others."""

    processor: str
    cores: int
    vector_lanes: int
    ranks: int
    """Of the whole job that measured."""
    ranks_per_node: int
    mpi: str
    threads: int = 1
    """Of each rank; files older than this line are of one."""
    memory: int | None = None
    """Bytes of a node that ranks may share; None: the file is older than this line, or the system does not tell."""
    megahertz: float | None = None
    """Of rank 0's core, as the system told when it was measured; None: it does not, or the file is older than this line."""
    nearness: float | None = None
    """Seconds of the ranks' smallest exchange, see machine.nearness; None: not to be told, or the file is older than this line."""
    kernels: str | None = None
    """Which code computed, see machine.where; None: the file is older than this line."""


class Step(Section):
    """A network's steps of training, at several sizes of a batch. Seconds are medians over rounds."""

    network: str
    """Its layers and shapes, see plan.work.text_of; names of networks do not matter."""
    optimizer: str
    together: int
    """How many ranks of a node computed at the same time."""
    parameters: int
    lanes: tuple[int, ...] = Field(strict=False)
    """Room for so many images in a batch: what a step's time depends on, however many are in it."""
    compute: tuple[float, ...] = Field(strict=False)
    data: tuple[float, ...] = Field(strict=False)
    """Of making the batches, where all of each image is seen."""
    deviation: float
    """Of the logarithm of a median, from one measurement of the same to another."""
    turn: float
    """Seconds that a worker's turn adds to those of its steps: its copy of the state, and caches that others have used."""
    passing: float
    """Of the logarithm of a round's seconds around their median, for one step: rounds of n steps have 1/sqrt(n) of it."""
    lasting: float
    """Of the logarithm of what ranks take at the same time: what they differ by for good, and for a while; see
    machine.steps.apart.
    """


class Operation(Section):
    """A pass of one layer (or the loss, the update) within steps of training, at several sizes of a batch."""

    key: str
    what: str
    kind: str
    together: int
    lanes: tuple[int, ...] = Field(strict=False)
    seconds: tuple[float, ...] = Field(strict=False)
    flops: float
    """For one image."""
    moved: float
    """Bytes for one image."""
    weights: float
    """Bytes of parameters."""
    inputs: float
    """Values that each of its sums is over."""
    outputs: float
    """Filters, or units."""
    shallow: bool = False
    """Whether it is a convolution's that is computed in registers, as its channels are few. Files older than this line say no."""
    errors: tuple[float, ...] = Field((), strict=False)
    """Relative standard errors of `seconds`. Files older than this line have none, as with all that is called error below."""


class Whole(Section):
    """How many times as long a step takes as its operations together, each measured in another process at another time."""

    together: int
    parameters: int
    lanes: int
    factor: float


class InPlace(Section):
    """How much longer averages take between steps of training than one after another."""

    topology: str
    reduction: str
    kept: bool
    """Whether it stays where it is made, as a gradient's does."""
    hosted: int
    """Workers of a rank."""
    ranks: int
    values: int
    flops: float
    """Forward, of what a rank computes from one average to the next."""
    factor: float
    latest: float = 1.0
    """By what factor the last rank's takes longer than all in the mean: over it ranks wait for each other in the next round. Files
    older than this line do not tell.
    """
    cooled: float | None = None
    """Seconds that the first worker's turn takes more than its steps, as an average leaves it other caches; None: not measured."""
    error: float | None = None
    """Relative standard error of `factor`."""


class Copying(Section):
    """The average of one worker alone, which copies its state; or looks through a gradient."""

    values: int
    flops: float
    """Forward, from one average to the next."""
    seconds: float
    kept: bool = False
    """Whether it is a gradient's, which stays where it is; files of earlier versions have none of these."""
    error: float | None = None
    """Relative: by what sweeps and ranks differ."""


class Filling(Section):
    """Making a batch from bytes: seconds a step, and seconds a byte of its images."""

    channels: int
    windows: bool
    together: int
    start: float
    per_byte: float
    error: float | None = None
    """Relative: of the batches that it was read off from."""


class Jitter(Section):
    """A rank beside the others, while all of its node compute."""

    rank: int
    host: str
    lasting: float
    """Of the logarithm of its steps' seconds: what it takes for good, or for all the calibration, more than the middle rank."""
    passing: float
    """Of the logarithm of its rounds' seconds around their median, for one step, in the middle of networks and batches."""


class Machine(Section):
    """A machine file."""

    format: Literal["distsgd-machine-5"] = FORMAT
    version: str
    where: Where
    steps: tuple[Step, ...] = Field(strict=False, min_length=1)
    operations: tuple[Operation, ...] = Field(strict=False, min_length=1)
    filling: tuple[Filling, ...] = Field(strict=False, min_length=1)
    wholes: tuple[Whole, ...] = Field(strict=False, min_length=1)
    once: dict[str, float]
    """Seconds, or seconds a piece, of what is done once a run or epoch: see machine.once."""
    copying: tuple[Copying, ...] = Field(strict=False, min_length=1)
    in_place: tuple[InPlace, ...] = Field(strict=False)
    averaging: dict[str, Any]
    """See machine.averaging."""
    jitter: tuple[Jitter, ...] = Field((), strict=False)
    """A rank each; files older than this line have none."""
    peak: float | None = None
    """Floating-point operations a second of rank 0's core, see machine.peak; None: the file is older than this line."""
