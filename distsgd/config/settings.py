"""All settings of a run, section by section."""

from typing import Annotated, Literal

from pydantic import Field

from distsgd.config.network import Network, check_name
from distsgd.config.optimizer import Adam, Optimizer
from distsgd.config.section import InputError, Section


class Data(Section):
    """Which images, and how often they are dealt anew."""

    path: str = "fashion-mnist-small"
    """A file made by `distsgd data import`, or the name of an embedded set."""
    train_images: int | None = Field(None, ge=1)
    """Use only the first so many training images."""
    reshuffle: int = Field(0, ge=0)
    """Deal the images to the workers anew every so many epochs; 0: never."""
    validation: float | None = Field(None, gt=0, lt=1)
    """Hold out this part of the training images of each class; not given: the file's validation images, if it has any."""
    prefetch: bool | Literal["auto"] = "auto"
    """Whether a thread fills the next batch while a rank computes: the weights are the same. "auto": where a core is spare and a
    batch's images have a megabyte or more; a smaller one is filled sooner than handed over."""


class Augment(Section):
    """How training images change at random, anew in every epoch."""

    shift: int = Field(0, ge=0)
    """Pixels by which an image is moved at most, up or down and left or right; what comes in is the mean."""
    mirror: bool = False
    """Whether every other image has left and right exchanged."""
    crop: int | None = Field(None, ge=1)
    """Train on squares of so many pixels anywhere in the image, and judge the one in its middle."""


Period = Annotated[int, Field(ge=1)] | Literal["epoch", "once"]


ALGORITHMS = {
    "allreduce": ("library", "ring", "recursive-doubling", "rabenseifner", "auto"),
    "master": ("library", "binomial", "auto"),
}
"""By topology."""


class Averaging(Section):
    """How many workers there are, and when and how they are averaged."""

    workers: int | None = Field(None, ge=1)
    """Logical SGD processes; not given: as many as ranks."""
    period: Period | None = None
    """Local steps between two averages: a number, "epoch", or "once" (only at the end); not given: 8, or 1 for gradients."""
    what: Literal["parameters", "gradients"] = "parameters"
    topology: Literal["allreduce", "master"] = "allreduce"
    reduction: Literal["exact", "fast"] = "exact"
    algorithm: Literal["library", "ring", "recursive-doubling", "rabenseifner", "binomial", "auto"] = (
        "library"
    )
    """How ranks add: as the MPI library sees fit (in memory that they share where they are on one node), by an algorithm of our own
    ("binomial" is for topology "master"), or "auto": the one predicted to be the fastest here."""

    @property
    def rounds_of(self) -> int | Literal["epoch", "once"]:
        """The period, given or not."""
        return self.period or (1 if self.what == "gradients" else 8)


class Train(Section):
    """How long, in which batches, from which seed."""

    epochs: int = Field(20, ge=1)
    batch: int = Field(32, ge=1, le=65536)
    """Images in a worker's step."""
    seed: int = Field(0, ge=0, lt=2**63)
    threads: int = Field(1, ge=1, le=256)
    """Of a rank, where ranks are fewer than cores: they share out its work, and the weights are the same with any number."""
    patience: int | None = Field(None, ge=1)
    """End after so many epochs without a better loss on the validation images; not given: after all epochs."""
    replay: str | None = None
    """A run's folder, or a JSON file with a list of seconds: every step sleeps for what one took there, drawn by seed, worker and
    step. Nothing is learned; averages and waiting are real."""
    class_weights: Literal["none", "balanced"] = "none"
    """What an image's loss is multiplied with; balanced: with the inverse frequency of its class, one in the mean over images."""


class Checkpoint(Section):
    """How often a run saves all that it needs to go on, and how many of these files are kept."""

    every: float = Field(60.0, ge=0)
    """Seconds between two, and one at the end; 0: only when the run is told to stop."""
    keep: int = Field(3, ge=1)


class Prediction(Section):
    """What a run's prediction is taken from."""

    machine: str | None = None
    """A file made by `distsgd calibrate`; not given: the one of this machine and these ranks that the user has, if any."""


class Config(Section):
    """All settings of a run."""

    data: Data = Data()
    augment: Augment = Augment()
    network: Network = Network()
    optimizer: Optimizer = Adam()
    averaging: Averaging = Averaging()
    train: Train = Train()
    checkpoint: Checkpoint = Checkpoint()
    prediction: Prediction = Prediction()

    def with_workers(self, workers: int | None) -> "Config":
        """The same settings with the number of workers written down, so that they say the whole experiment; None: one a rank."""
        return self.model_copy(update={"averaging": self.averaging.model_copy(update={"workers": workers})})

    def problems(self) -> list[str]:
        """What no single setting shows."""
        averaging, network = self.averaging, self.network
        problems = list(self.optimizer.problems(self.train.epochs))
        if network.layers is None:
            try:
                check_name(network.name)
            except InputError as error:
                problems.append(str(error))
        if averaging.what == "gradients" and averaging.rounds_of != 1:
            problems.append(
                f"averaging.period = {averaging.period!r}: gradients are averaged at every step, so it must be 1"
            )
        if averaging.algorithm not in ALGORITHMS[averaging.topology]:
            wanted = ", ".join(map(repr, ALGORITHMS[averaging.topology]))
            problems.append(
                f"averaging.algorithm = {averaging.algorithm!r}: with topology {averaging.topology!r} it must be one of {wanted}"
            )
        if network.layers == ():
            problems.append("network.layers = []: must hold at least one layer, the last of kind 'dense'")
        if network.layers and network.dropout:
            problems.append(
                f"network.dropout = {network.dropout}: beside network.layers, list layers of kind 'dropout'"
            )
        return problems
