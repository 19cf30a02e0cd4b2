"""The section [optimizer]."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from distsgd.config.section import Section


class _Descent(Section):
    """What both optimizers have."""

    name: str
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """How the learning rate goes on after the warm-up."""
    step_epochs: int = Field(10, ge=1)
    """Schedule "step": epochs, from the first on, after which the learning rate is multiplied with step_factor, again and again."""
    step_factor: float = Field(0.1, gt=0, le=1)
    final: float = Field(0.0, ge=0, le=1)
    """Schedule "cosine": what is left of the learning rate at the end of the last epoch."""
    warmup: float = Field(0.0, ge=0)
    """Epochs, or a part of one, in which the learning rate rises linearly from zero."""
    scale: Literal["none", "linear", "sqrt"] = "none"
    """What else the learning rate is multiplied with: the number of workers (Goyal et al. 2017) or its square root.

    The linear rule is made for SGD with averaged gradients: one step on the workers' joined batches. Averaged parameters with
    period 1 are the same (without momentum exactly). In longer periods a worker takes the larger steps on its own small batches
    and must stand them until the next average: warm up, or use "sqrt", which is also for Adam (Malladi et al. 2022), or "none".
    """
    weight_decay: float = Field(0.0, ge=0)
    """Of weights. Biases are not decayed: few, they hardly overfit, and held back they underfit (Goodfellow et al. 2016, 7.1)."""
    clip: float | None = Field(None, gt=0)
    """The largest 2-norm of the whole gradient: of the average where gradients are averaged, else of a worker's own."""

    def problems(self, epochs: int) -> Iterator[str]:
        """What no single setting shows."""
        if self.warmup > epochs:
            yield f"optimizer.warmup = {self.warmup}: must be at most train.epochs, {epochs}"
        for key, schedule in (("step_epochs", "step"), ("step_factor", "step"), ("final", "cosine")):
            value = getattr(self, key)
            if schedule != self.schedule and value != type(self).model_fields[key].default:
                yield f"optimizer.{key} = {value}: is for {schedule!r}, but optimizer.schedule = {self.schedule!r}"


class Sgd(_Descent):
    """Stochastic gradient descent with momentum; weight decay is a part of the gradient, as in PyTorch's SGD."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    """Step by the gradient and the momentum that comes after it."""

    def problems(self, epochs: int) -> Iterator[str]:
        """What no single setting shows."""
        yield from super().problems(epochs)
        if self.nesterov and self.momentum == 0:
            yield "optimizer.nesterov = true: there must be momentum, but optimizer.momentum = 0"


class Adam(_Descent):
    """Adam (Kingma & Ba 2015); weight decay is apart from the gradient, as in AdamW (Loshchilov & Hutter 2019)."""

    name: Literal["adam"] = "adam"
    learning_rate: float = Field(0.001, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)


def optimizer_name(section: Any) -> Any:
    """Which optimizer a table or a section is for."""
    return section.get("name", "adam") if isinstance(section, dict) else getattr(section, "name", None)


Optimizer = Annotated[
    Annotated[Sgd, Tag("sgd")] | Annotated[Adam, Tag("adam")], Discriminator(optimizer_name)
]
