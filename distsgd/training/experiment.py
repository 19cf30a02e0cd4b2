"""What decides the weights of a run, found and checked before any rank computes; the machine has no part in it."""

from dataclasses import dataclass

from distsgd import data, model, network, optim, zoo
from distsgd.config import Config, InputError
from distsgd.config import Sgd as SgdSettings
from distsgd.data import Description
from distsgd.network import Stage
from distsgd.record import MOST_PARAMETERS


@dataclass(frozen=True)
class Experiment:
    """A checked config, its images and its network."""

    config: Config
    workers: int
    images: Description
    stages: list[Stage]

    @property
    def train_images(self) -> int:
        """How many of the training images are used."""
        return self.config.data.train_images or self.images.counts["train"]

    @property
    def segments(self) -> list[int]:
        """The length of each tensor of the network."""
        return [tensor.size for tensor in network.tensors(self.stages)]

    @property
    def optimizer(self) -> optim.Optimizer:
        """The optimizer that the config names."""
        settings = self.config.optimizer
        if isinstance(settings, SgdSettings):
            return optim.Sgd(settings.learning_rate, settings.momentum)
        return optim.Adam(settings.learning_rate, settings.beta1, settings.beta2, settings.epsilon)


def check(config: Config, ranks: int, problems: list[str]) -> Experiment:
    """Open the data, lay out the network. InputError with all that is wrong, `problems` first."""
    workers = config.averaging.workers or ranks
    problems = problems + _too_few_workers(workers, ranks)
    images, stages = None, []
    try:
        images = data.describe(data.locate(config.data.path))
        problems += _too_few_images(config, workers, images)
        shape = images.channels, images.height, images.width
        stages = model.stages(config.network, images.classes, shape)
        problems += _too_many_parameters(config, stages)
    except InputError as error:
        problems.append(_about_network(error, config, images))
        problems += _about_name(config) if images is None else []
    if problems or images is None:
        raise InputError("\n".join(problems))
    return Experiment(config, workers, images, stages)


def _about_network(error: InputError, config: Config, images: Description | None) -> str:
    if images is None or str(error).startswith("network.name"):
        return str(error)
    size = f"{images.height}x{images.width}x{images.channels}"
    return f"network.name = {config.network.name!r} does not fit images of {size}: {error}"


def _about_name(config: Config) -> list[str]:
    """Whether the name is a network's can be told without images."""
    try:
        zoo.layers(config.network.name, 1)
    except InputError as error:
        return [str(error)]
    return []


def _too_many_parameters(config: Config, stages: list[Stage]) -> list[str]:
    size = sum(tensor.size for tensor in network.tensors(stages))
    if size <= MOST_PARAMETERS:
        return []
    return [
        f"network.name = {config.network.name!r} has {size:,} parameters: must be at most {MOST_PARAMETERS:,}"
    ]


def _too_few_workers(workers: int, ranks: int) -> list[str]:
    if workers >= ranks:
        return []
    return [
        f"averaging.workers = {workers}: must be at least the number of ranks, {ranks}, so that each has one"
    ]


def _too_few_images(config: Config, workers: int, images: Description) -> list[str]:
    there, used = images.counts["train"], config.data.train_images or images.counts["train"]
    problems = []
    if used > there:
        problems.append(f"data.train_images = {used}: {images.path} has {there}")
    if min(used, there) < workers:
        problems.append(
            f"averaging.workers = {workers}: must be at most the number of training images, {used}"
        )
    return problems
