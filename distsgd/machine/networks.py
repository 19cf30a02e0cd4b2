"""Which networks and batches are measured."""

from distsgd.config import CHAVAN

NETWORKS = ("garg", "rendon", "chavan-3-16-100", "chavan-5-50-100", "lenet5", "cifar")
"""Where none are named."""
MADE_FOR = {
    "cifar": (32, 32, 3),
    "fer": (48, 48, 1),
    "vgg11": (32, 32, 3),
    "alexnet": (224, 224, 3),
    "alexnet-small": (224, 224, 3),
}
OTHERS = (28, 28, 1)
"""Images (height, width, channels) of networks that take any."""
LAYERS_OF = ("chavan-3-8-32", "chavan-7-24-64", "chavan-5-12-200", "chavan-4-40-48")
"""Networks whose layers alone are measured, so that others can be told from layers like theirs."""
LANES = (16, 32, 64, 96, 128, 192, 256)
FEW_LANES = (16, 64, 256)


def images_of(name: str) -> tuple[int, int, int]:
    """Height, width and channels of the images that a network is measured with."""
    return OTHERS if CHAVAN.fullmatch(name) else MADE_FOR.get(name, OTHERS)
