"""The section [network]: a network of the zoo by name, or layers one by one."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distsgd.config.section import InputError, Section


class ConvolutionLayer(Section):
    """See `layers.Convolution`."""

    kind: Literal["convolution"] = "convolution"
    filters: int = Field(ge=1)
    size: int = Field(ge=1)
    padding: Annotated[int, Field(ge=0)] | Literal["valid", "same", "full"] = "valid"
    stride: int = Field(1, ge=1)
    groups: int = Field(1, ge=1)


class MaxPoolLayer(Section):
    """See `layers.MaxPool`."""

    kind: Literal["max_pool"] = "max_pool"
    size: int = Field(ge=1, le=16)
    stride: int | None = Field(None, ge=1)


class AveragePoolLayer(Section):
    """See `layers.AveragePool`."""

    kind: Literal["average_pool"] = "average_pool"
    size: int | None = Field(None, ge=1)
    stride: int | None = Field(None, ge=1)


class DenseLayer(Section):
    """See `layers.Dense`; without `units` it has one a class: the last layer."""

    kind: Literal["dense"] = "dense"
    units: int | None = Field(None, ge=1)
    bias: bool = True


class RectifierLayer(Section):
    """See `layers.Rectifier`."""

    kind: Literal["rectifier"] = "rectifier"


class DropoutLayer(Section):
    """See `layers.Dropout`."""

    kind: Literal["dropout"] = "dropout"
    rate: float = Field(ge=0, lt=1)


class ResponseNormalizationLayer(Section):
    """See `layers.ResponseNormalization`."""

    kind: Literal["response_normalization"] = "response_normalization"
    size: int = Field(5, ge=1, le=1024)
    alpha: float = Field(1e-4, ge=0)
    beta: float = Field(0.75, gt=0, le=8)
    k: float = Field(2.0, gt=0)


ZOO = ("garg", "rendon", "lenet5", "cifar", "fer", "vgg11", "alexnet-small", "alexnet")
CHAVAN = re.compile(r"chavan-([1-9]\d*)-([1-9]\d*)-([1-9]\d*)")
"""What chavan-K-F-H may be. The zoo has the layers; the names are known here, where no kernels are wanted to read them."""


def check_name(name: str) -> None:
    """InputError names the valid ones where there is no such network in the zoo."""
    if name not in ZOO and not CHAVAN.fullmatch(name):
        raise InputError(
            f"network.name = {name!r}: must be one of {', '.join(ZOO)}, chavan-K-F-H (numbers for K, F, H: chavan-5-50-100)"
        )


ListedLayer = Annotated[
    ConvolutionLayer
    | MaxPoolLayer
    | AveragePoolLayer
    | DenseLayer
    | RectifierLayer
    | DropoutLayer
    | ResponseNormalizationLayer,
    Field(discriminator="kind"),
]


class Network(Section):
    """Which network: one of the zoo, or layers one by one."""

    name: str = Field("chavan-3-16-100", pattern=r"^[\w.-]+$")
    """A network of the zoo; beside `layers` any name, for the run's folder."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Rate behind the hidden dense layers of a network of the zoo; None: see zoo.DROPOUT."""
    layers: tuple[ListedLayer, ...] | None = Field(None, strict=False)
    """From the images to the scores."""

    @model_validator(mode="before")
    @classmethod
    def _without_a_zoo(cls, values: Any) -> Any:
        listed = isinstance(values, dict) and values.get("layers") is not None
        return {"name": "layers", "dropout": 0.0, **values} if listed else values
