"""What decides the weights of a run, found and checked before any rank computes; the machine has no part in it."""

import math
from dataclasses import dataclass

import numpy as np

from distsgd import data, model, network, optim
from distsgd.config import Config, InputError
from distsgd.config import Sgd as SgdSettings
from distsgd.data import Description
from distsgd.network import Stage
from distsgd.record import MOST_PARAMETERS
from distsgd.training import replay


@dataclass(frozen=True)
class Experiment:
    """A checked config, its images and its network."""

    config: Config
    workers: int
    images: Description
    stages: list[Stage]

    @property
    def train_images(self) -> int:
        """How many of the training images are used, those held out for validation among them."""
        return self.config.data.train_images or self.images.counts["train"]

    def split(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the training images to learn from and of those held out, given the labels of those that are used."""
        return _split(self.config, labels)

    @property
    def segments(self) -> list[int]:
        """The length of each tensor of the network."""
        return [tensor.size for tensor in network.tensors(self.stages)]

    @property
    def optimizer(self) -> optim.Optimizer:
        """The optimizer that the config names."""
        settings = self.config.optimizer
        rate, decay, clip = settings.learning_rate, settings.weight_decay, settings.clip
        if isinstance(settings, SgdSettings):
            return optim.Sgd(rate, settings.momentum, settings.nesterov, decay, clip)
        return optim.Adam(rate, settings.beta1, settings.beta2, settings.epsilon, decay, clip)

    @property
    def decayed(self) -> list[tuple[int, bool]]:
        """The length of each tensor of the network, and whether weight decay is for it: for weights, not for biases."""
        return [(tensor.size, tensor.fan_in > 0) for tensor in network.tensors(self.stages)]

    def learning_rate(self, number: int, steps: int) -> float:
        """That of the step of that number, counted from 1, where an epoch has so many steps."""
        settings = self.config
        return optim.learning_rate(settings.optimizer, number, steps, settings.train.epochs, self.workers)


def check(
    config: Config, ranks: int, problems: list[str], described: Description | None = None
) -> Experiment:
    """Open the data, lay out the network. InputError with all that is wrong, `problems` first.

    described: the data, where they were opened before.
    """
    workers = config.averaging.workers or ranks
    problems = problems + _too_few_workers(workers, ranks)
    images, stages = described, []
    try:
        images = images or data.describe(data.locate(config.data.path))
        problems += _too_few_images(config, workers, images)
        problems += _validation_problems(config, workers, images)
        if config.train.replay:
            replay.read(config.train.replay, config.train.seed)
        height, width = _seen_size(config, images)
        stages = model.stages(config.network, images.classes, (images.channels, height, width))
        problems += _too_many_parameters(config, stages) + _other_classes(config, stages, images)
    except InputError as error:
        problems += [_about_network(error, config, images), *config.problems()]
    if problems or images is None:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return Experiment(config, workers, images, stages)


def _split(config: Config, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if config.data.validation is None:
        return np.arange(len(labels)), np.arange(0)
    return data.hold_out(labels, config.data.validation, config.train.seed)


def _seen_size(config: Config, images: Description) -> tuple[int, int]:
    """Height and width of what the network sees of an image. InputError where an image is too small for `config.augment`."""
    crop, shift, size = config.augment.crop, config.augment.shift, f"{images.height}x{images.width}"
    if crop and crop > min(images.height, images.width):
        raise InputError(f"augment.crop = {crop}: must fit into the images, {size} pixels")
    seen = (crop, crop) if crop else (images.height, images.width)
    if shift >= min(seen):
        raise InputError(
            f"augment.shift = {shift}: must be below {min(seen)}, the pixels that the network sees"
        )
    return seen


def _validation_problems(config: Config, workers: int, images: Description) -> list[str]:
    part, own = config.data.validation, "validation" in images.counts
    if part is None:
        return [] if own or config.train.patience is None else [_no_patience(config)]
    if own:
        return [f"data.validation = {part}: {images.path} has validation images of its own; leave it out"]
    labels = data.read_labels(images.path, "train")[: config.data.train_images]
    rest, held = (len(rows) for rows in _split(config, labels))
    if not held:
        return [f"data.validation = {part}: holds out none of {rest} training images; give a larger part"]
    if rest < workers <= len(labels):
        return [f"data.validation = {part}: leaves {rest} images to train on for {workers} workers"]
    return []


def _no_patience(config: Config) -> str:
    return (
        f"train.patience = {config.train.patience}: there are no validation images to wait for; hold some out, for example with "
        "data.validation = 0.1, or use a file that has validation images"
    )


def _about_network(error: InputError, config: Config, images: Description | None) -> str:
    if images is None or str(error).startswith(("network.name", "augment.", "train.replay")):
        return str(error)
    size = "x".join(map(str, (*_seen_size(config, images), images.channels)))
    return f"{_called(config)} does not fit images of {size}: {error}"


def _called(config: Config) -> str:
    return "network.layers" if config.network.layers else f"network.name = {config.network.name!r}"


def _too_many_parameters(config: Config, stages: list[Stage]) -> list[str]:
    size = sum(tensor.size for tensor in network.tensors(stages))
    if size <= MOST_PARAMETERS:
        return []
    return [f"{_called(config)} has {size:,} parameters: must be at most {MOST_PARAMETERS:,}"]


def _other_classes(config: Config, stages: list[Stage], images: Description) -> list[str]:
    scores = math.prod(stages[-1].output)
    if scores == images.classes:
        return []
    return [
        f"{_called(config)} ends with {scores} scores: {images.path} has {images.classes} classes "
        "(a last layer of kind 'dense' without units has one each)"
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
