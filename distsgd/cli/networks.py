"""`distsgd networks`: what networks are made of, what an image costs, and how much memory a rank will take."""

from collections.abc import Sequence
from pathlib import Path

from distsgd import config, launcher, network, zoo
from distsgd.clock import peak_memory
from distsgd.config import Config, InputError
from distsgd.data import Description
from distsgd.layers import Shape
from distsgd.machine.job import job_of
from distsgd.network import Stage
from distsgd.plan.memory import Memory, memory
from distsgd.training import Experiment, check

GREY = 1, 28, 28
"""What networks of the zoo take, where they are not made for others."""
EXAMPLES = (*config.ZOO, "chavan-3-16-100", "chavan-5-50-100")


def overview() -> str:
    """A line for every network of the zoo, for as many classes as it is made for."""
    lines = [f"{'network':<18}{'images':>10}{'parameters':>14}{'MFLOP an image':>16}"]
    for name in EXAMPLES:
        shape, classes = zoo.MADE_FOR.get(name, GREY), zoo.CLASSES.get(name, 10)
        stages = network.plan(zoo.layers(name, classes), shape)
        lines.append(f"{name:<18}{_size(shape):>10}{_parameters(stages):>14,}{_flops(stages) / 1e6:>16,.2f}")
    return "\n".join([*lines, "", "distsgd networks NAME shows the layers; in chavan-K-F-H any numbers."])


def one(named: str, changes: Sequence[str], ranks: int) -> str:
    """The layers of the network of that name, or of a config, for its images, and the memory of a rank that trains it."""
    path = Path(named) if named.endswith(".toml") else None
    settings, problems = config.read(path, changes if path else [f"network.name={named}", *changes])
    if problems:
        raise InputError("\n".join(problems))
    experiment = _experiment(settings, named, ranks)
    stages, images = experiment.stages, experiment.images
    title = f"{settings.network.name}: images of {_size(stages[0].shape)}, {images.classes} classes"
    taken = memory(job_of(experiment, ranks, ranks), len(launcher.processors()), peak_memory())
    parts = _memory(taken, settings.train.batch, ranks)
    return "\n".join([title, "", *_layers(stages), "", *parts])


def _experiment(settings: Config, named: str, ranks: int) -> Experiment:
    """That of the config's data, or of the images that a network of the zoo is made for: a batch for every worker."""
    if settings.data != config.Data() or named not in zoo.MADE_FOR:
        return check(settings, ranks, [])
    workers, (channels, height, width) = settings.averaging.workers or ranks, zoo.MADE_FOR[named]
    classes, counts = zoo.CLASSES.get(named, 10), {"train": settings.train.batch * workers, "test": 0}
    images = Description(Path(named), height, width, channels, classes, counts, "", "")
    stages = network.plan(zoo.chosen(settings.network, classes), (channels, height, width))
    return Experiment(settings, workers, images, stages)


def _layers(stages: Sequence[Stage]) -> list[str]:
    lines = [f"{'':>3}{'layer':<62}{'output':>12}{'parameters':>13}{'MFLOP':>10}"]
    for stage in stages:
        parameters = sum(tensor.size for tensor in stage.tensors)
        line = f"{stage.number:>2} {_described(stage):<62}{_size(stage.output):>12}{parameters:>13,}"
        lines.append(f"{line}{stage.layer.flops(stage.shape) / 1e6:>10,.3f}")
    total = f"{_parameters(stages):>82,}{_flops(stages) / 1e6:>10,.3f}"
    return [
        *lines,
        f"   total{total}",
        "",
        "MFLOP: an image forward; a training step takes about three times that.",
    ]


def _described(stage: Stage) -> str:
    """A layer in words."""
    layer = stage.layer
    settings = {name: value for name, value in vars(layer).items() if value not in (None, 1, "valid", True)}
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    kind = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(layer).__name__)
    return f"{kind.strip()}{' ' if words else ''}{words}{', rectified' if stage.rectify else ''}"


def _memory(taken: Memory, batch: int, ranks: int) -> list[str]:
    parts = [
        ("Python, packages, kernels", taken.process),
        (f"activations, gradients (batch {batch})", taken.network),
        ("parameters, moments, average", taken.state),
        ("images", taken.images),
        ("together", taken.total),
    ]
    shared = f"{ranks} rank{'s' * (ranks > 1)}"
    lines = [f"  {name:<36}{size / 1e6:>10,.1f} MB" for name, size in parts]
    return [f"memory of one of {shared} in training", *lines]


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _parameters(stages: Sequence[Stage]) -> int:
    return sum(tensor.size for tensor in network.tensors(stages))


def _flops(stages: Sequence[Stage]) -> int:
    return sum(stage.layer.flops(stage.shape) for stage in stages)
