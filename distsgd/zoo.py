"""The networks of the source documents and their kin, by name. Each ends with one score a class."""

from collections.abc import Callable

from distsgd.config import CHAVAN, ListedLayer, check_name
from distsgd.config import Network as Settings
from distsgd.layers import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    Layer,
    MaxPool,
    Rectifier,
    ResponseNormalization,
    Shape,
)

Layers = list[Layer | Rectifier]
MADE_FOR: dict[str, Shape] = {
    "cifar": (3, 32, 32),
    "fer": (1, 48, 48),
    "vgg11": (3, 32, 32),
    "alexnet-small": (3, 112, 112),
    "alexnet": (3, 224, 224),
}
"""What images networks are for, (channels, height, width), where they do not take those of the embedded set."""
CLASSES = {"alexnet": 1000}
"""How many classes networks are for, where they are not ten."""


def garg(classes: int) -> Layers:
    """Garg, Joshi and Sahu's for 28x28 grey images, no biases in the dense layers: 105,496 parameters with 10 classes."""
    convolutions: Layers = [Convolution(8, 5), Rectifier(), Convolution(8, 5), Rectifier(), MaxPool(2)]
    return [*convolutions, Dense(128, bias=False), Rectifier(), Dense(classes, bias=False)]


def rendon(classes: int) -> Layers:
    """Rendon and Sanseviero's for 28x28 grey images: 26,594 parameters with 10 classes."""
    convolutions: Layers = [
        Convolution(4, 2, "same"),
        Rectifier(),
        Convolution(4, 2, "same"),
        Rectifier(),
        MaxPool(4),
    ]
    return [*convolutions, Dense(128), Rectifier(), Dense(classes)]


def chavan(size: int, filters: int, units: int, classes: int) -> Layers:
    """Chavan and Kulkarni's K-F-H: one convolution of F filters KxK, one dense layer of H units; pooling by 2 between them."""
    return [Convolution(filters, size), Rectifier(), MaxPool(2), Dense(units), Rectifier(), Dense(classes)]


def lenet5(classes: int) -> Layers:
    """LeNet-5 (LeCun et al. 1998) as it is used today: rectifiers and max pooling."""
    first: Layers = [Convolution(6, 5, "same"), Rectifier(), MaxPool(2)]
    second: Layers = [Convolution(16, 5), Rectifier(), MaxPool(2)]
    return [*first, *second, Dense(120), Rectifier(), Dense(84), Rectifier(), Dense(classes)]


def cifar(classes: int) -> Layers:
    """Team Incognitos' simple network for 32x32 colour images."""
    stack: Layers = []
    for filters in (32, 32, 64):
        stack += [Convolution(filters, 5, "same"), Rectifier(), MaxPool(2)]
    return [*stack, Dense(64), Rectifier(), Dense(classes)]


def fer(classes: int) -> Layers:
    """For grey faces of 24x24 to 48x48: pairs of 3x3 filters, twice as many each time that images are halved."""
    stack: Layers = []
    for filters in (32, 64, 128):
        one: Layers = [Convolution(filters, 3, "same"), Rectifier()]
        stack += [*one, *one, MaxPool(2)]
    return [*stack, Dropout(0.4), Dense(256), Rectifier(), Dense(classes)]


def vgg11(classes: int) -> Layers:
    """Simonyan and Zisserman's (2015) with 11 layers, for 32x32 colour images: dense layers of 512 units as images are smaller."""
    stack: Layers = []
    for filters, convolutions in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)):
        stack += [Convolution(filters, 3, "same"), Rectifier()] * convolutions
        stack.append(MaxPool(2))
    return [*stack, Dense(512), Rectifier(), Dense(512), Rectifier(), Dense(classes)]


NORMALIZED: Layers = [Rectifier(), ResponseNormalization(5, 5e-4), MaxPool(3, 2)]
"""As in the paper, whose 1e-4 is the factor of the sum over five channels."""


def alexnet(classes: int) -> Layers:
    """Krizhevsky, Sutskever and Hinton's (2012) for 224x224 crops of colour images: 60,965,224 parameters with 1000 classes."""
    stack: Layers = [Convolution(96, 11, 2, stride=4), *NORMALIZED]
    stack += [Convolution(256, 5, "same", groups=2), *NORMALIZED]
    stack += [Convolution(384, 3, "same"), Rectifier(), Convolution(384, 3, "same", groups=2), Rectifier()]
    stack += [Convolution(256, 3, "same", groups=2), Rectifier(), MaxPool(3, 2)]
    return [*stack, Dense(4096), Rectifier(), Dense(4096), Rectifier(), Dense(classes)]


def alexnet_small(classes: int) -> Layers:
    """AlexNet's layers in small, for 112x112 crops of colour images: half the filters, of less reach, and fewer hidden units."""
    stack: Layers = [Convolution(48, 5, 1, stride=2), *NORMALIZED]
    stack += [Convolution(128, 5, "same", groups=2), *NORMALIZED]
    stack += [Convolution(192, 3, "same"), Rectifier(), Convolution(192, 3, "same", groups=2), Rectifier()]
    stack += [Convolution(128, 3, "same", groups=2), Rectifier(), MaxPool(3, 2)]
    return [*stack, Dense(512), Rectifier(), Dense(512), Rectifier(), Dense(classes)]


_BY_NAME: dict[str, Callable[[int], Layers]] = {
    "garg": garg,
    "rendon": rendon,
    "lenet5": lenet5,
    "cifar": cifar,
    "fer": fer,
    "vgg11": vgg11,
    "alexnet-small": alexnet_small,
    "alexnet": alexnet,
}


DROPOUT, USUAL_DROPOUT = {"alexnet": 0.5, "alexnet-small": 0.5}, 0.25
"""Rates behind hidden dense layers, where the config has none: of networks whose paper has one, and of the others."""


def chosen(settings: Settings, classes: int) -> Layers:
    """The layers that a config's section [network] names or lists. InputError names the valid ones."""
    if settings.layers is None:
        given, name = settings.dropout, settings.name
        return layers(name, classes, DROPOUT.get(name, USUAL_DROPOUT) if given is None else given)
    return [_listed(layer, classes) for layer in settings.layers]


def _listed(layer: ListedLayer, classes: int) -> Layer | Rectifier:
    values = layer.model_dump(exclude={"kind"})
    if layer.kind == "dense":
        return Dense(layer.units or classes, layer.bias)
    return _KINDS[layer.kind](**values)


_KINDS: dict[str, Callable[..., Layer | Rectifier]] = {
    "convolution": Convolution,
    "max_pool": MaxPool,
    "average_pool": AveragePool,
    "rectifier": Rectifier,
    "dropout": Dropout,
    "response_normalization": ResponseNormalization,
}


def layers(name: str, classes: int, dropout: float = 0.0) -> Layers:
    """The layers of the network of that name, with dropout behind its hidden dense layers. InputError names the valid ones."""
    stack = _named(name, classes)
    if not dropout:
        return stack
    thinned: Layers = []
    for before, layer in zip([None, *stack], stack, strict=False):
        thinned.append(layer)
        if isinstance(before, Dense) and isinstance(layer, Rectifier):
            thinned.append(Dropout(dropout))
    return thinned


def _named(name: str, classes: int) -> Layers:
    check_name(name)
    if numbers := CHAVAN.fullmatch(name):
        size, filters, units = (int(number) for number in numbers.groups())
        return chavan(size, filters, units, classes)
    return _BY_NAME[name](classes)
