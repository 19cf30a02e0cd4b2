"""Which networks and batches are measured."""

from distsgd import model, network, zoo
from distsgd.config import Network as Settings
from distsgd.network import Stage
from distsgd.plan.work import flops_of

NETWORKS = ("garg", "rendon", "chavan-3-16-100", "chavan-5-50-100", "lenet5", "cifar")
"""Where none are named."""
CLASSES = 10
GREY = (1, 28, 28)
"""Channels, height and width of the images of networks that take any."""
LAYERS_OF = (
    *(
        "chavan-2-8-64",
        "chavan-2-24-128",
        "chavan-3-8-32",
        "chavan-3-32-64",
        "chavan-3-64-48",
        "chavan-4-16-200",
    ),
    *(
        "chavan-4-40-48",
        "chavan-5-12-200",
        "chavan-5-32-80",
        "chavan-6-8-128",
        "chavan-6-24-50",
        "chavan-7-16-100",
    ),
)
"""Networks whose layers alone are measured, so that others can be told from layers like theirs."""
LANES = (16, 32, 48, 64, 80, 112, 128, 144, 192, 208, 256)
"""Images that a batch has room for: others are read off between, within 2 % as a rule. Batches of 128 and 192 still take a tenth
longer to fill than those between which they lie would tell, as their rows share fewer sets of the cache.
"""
SOME_LANES = (16, 32, 64, 112, 144, 208, 256)
"""For layers, and for large networks' steps: how rows of images fill registers matters less to them."""
FEW_LANES = (16, 32, 64, 144, 256)
"""For LAYERS_OF: rounds of networks that were not measured are told as well from these as from SOME_LANES."""
LARGE = 1e7
"""Operations forward, for one image, from which on a network is large."""


def images_of(name: str) -> tuple[int, int, int]:
    """Height, width and channels of the images that a network is measured with."""
    channels, height, width = zoo.MADE_FOR.get(name, GREY)
    return height, width, channels


def plan_of(name: str) -> list[Stage]:
    """A network of the zoo as training has it, for the images that it is measured with."""
    height, width, channels = images_of(name)
    return model.stages(Settings(name=name), CLASSES, (channels, height, width))


def parameters_of(name: str) -> int:
    """How many it has, on such images."""
    return sum(tensor.size for tensor in network.tensors(plan_of(name)))


def lanes_of(name: str) -> tuple[int, ...]:
    """At which sizes of a batch its steps are measured."""
    return SOME_LANES if flops_of(plan_of(name)) >= LARGE else LANES
