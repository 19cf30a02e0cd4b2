"""The same training steps in PyTorch: network, weights, images, optimizer; ranks by DistributedDataParallel.

PyTorch is imported when something here is called, and nowhere else: the package works without it.
"""

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Protocol

import numpy as np

from distsgd.comm import Ranks
from distsgd.config import InputError
from distsgd.layers import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    MaxPool,
    ResponseNormalization,
    Shape,
    Tensor,
)
from distsgd.network import Stage, tensors
from distsgd.optim import Adam, Optimizer, Sgd

LAYOUTS = ("NCHW", "channels_last")
PATIENCE = timedelta(seconds=60)

GROUPED = 5
"""Axes of a convolution's weights in groups: groups, channels, height, width, filters."""

CHECKED_STEPS = 2
"""The second shows the momentum."""
CHECKED_STARTS = 8
LOSS_TOLERANCE = 1e-5
TENSOR_TOLERANCE = 1e-3
"""Relative. Sums in another order differ by some 1e-6. Where two values of a pooling window, or a value and a
rectifier's zero, are that close, the gradient may rightly take another way: then another start is tried."""


class Contestant(Protocol):
    """One rank's part in training a network, by this package or by PyTorch."""

    def step(self, number: int) -> None:
        """Take the step of that number, counted from 0, on the batch whose turn it is."""

    @property
    def loss(self) -> float:
        """Mean loss of this rank's batch in the last step."""

    @property
    def gradient(self) -> np.ndarray:
        """The last step's gradient over all ranks, a flat vector in the order of this package."""

    @property
    def parameters(self) -> np.ndarray:
        """The parameters, a flat vector in the order of this package."""


def version(ranks: Ranks) -> str:
    """PyTorch's version. InputError where it is not installed, or ranks are on several nodes."""
    if ranks.on_node()[1] != ranks.size:
        raise InputError(f"--against torch: {ranks.size} ranks on several nodes; wanted: all on one")
    try:
        import torch
    except ImportError as error:
        wanted = "install it (pip install torch) or leave --against out"
        raise InputError(f"--against torch: this Python finds no PyTorch ({error}); {wanted}") from None
    return str(torch.__version__)


@contextlib.contextmanager
def process_group(ranks: Ranks) -> Iterator[None]:
    """One thread a rank, and PyTorch's own group of the same processes, by gloo over the loopback interface.

    They find each other by a file that only this user can read.
    """
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    if ranks.size == 1:
        yield
        return
    # Left alone gloo takes the interface of the host's name, which in containers often leads nowhere.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-") as folder:
        file = os.path.join(os.fsdecode(ranks.broadcast_bytes(os.fsencode(folder))), "store")
        store = distributed.FileStore(file, ranks.size)
        distributed.init_process_group(
            "gloo", store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE
        )
        yield
        ranks.barrier()
        distributed.destroy_process_group()
        ranks.barrier()  # rank 0's folder outlives everybody's use of it


def modules(stages: Sequence[Stage]) -> list[Any]:
    """The layers of a plan as PyTorch's modules, with weights of their own."""
    from torch import nn

    found: list[Any] = []
    for stage in stages:
        own, behind = parts(stage)
        found += [*own, *([nn.ReLU()] if stage.rectify else []), *behind]
    return found


def parts(stage: Stage) -> tuple[list[Any], list[Any]]:
    """What a layer is in front of its rectifier, and behind it."""
    from torch import nn

    match stage.layer:
        case Convolution() as layer:
            pools = [nn.MaxPool2d(layer.pool)] if layer.pool > 1 else []
            return _convolution(layer, stage.shape), pools
        case Dense() as layer:
            return [nn.Flatten(), nn.Linear(math.prod(stage.shape), layer.units, bias=layer.bias)], []
        case MaxPool() as layer:
            return [nn.MaxPool2d(layer.size, layer.apart)], []
        case AveragePool() as layer:
            return [nn.AvgPool2d(layer.size or stage.shape[1:], layer.stride)], []
        case Dropout() as layer:
            return [nn.Dropout(layer.rate)], []
        case ResponseNormalization() as layer:
            # Its alpha too is the factor of the mean; zeros beyond the channels count, an even size looks further before.
            return [nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)], []


def _convolution(layer: Convolution, shape: Shape) -> list[Any]:
    from torch import nn

    border, sizes = layer.zeros(shape), (shape[0], layer.filters, layer.size, layer.stride)
    if border.top == border.bottom == border.left == border.right:  # its own, quicker than a layer of zeros
        return [nn.Conv2d(*sizes, padding=border.top, groups=layer.groups)]
    zeros = nn.ZeroPad2d((border.left, border.right, border.top, border.bottom))
    return [zeros, nn.Conv2d(*sizes, groups=layer.groups)]


class Peer:
    """One rank's training steps by PyTorch, on float32 batches made beforehand: no bytes to convert."""

    def __init__(
        self,
        stages: Sequence[Stage],
        start: np.ndarray,
        batches: tuple[np.ndarray, np.ndarray],
        settings: Optimizer,
        layout: str,
        ranks: Ranks,
    ) -> None:
        """Copy everything.

        start: flat parameters. batches: float32 (number, batch, channels, height, width), and their labels
        int64 (number, batch). layout: of LAYOUTS.
        """
        import torch

        memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.layout = layout
        self._images = [torch.tensor(images).to(memory_format=memory) for images in batches[0]]
        self._labels = [torch.tensor(labels) for labels in batches[1]]
        model = torch.nn.Sequential(*modules(stages)).to(memory_format=memory)
        self._tensors = tensors(stages)
        _put(start, self._tensors, list(model.parameters()))
        self._model = torch.nn.parallel.DistributedDataParallel(model) if ranks.size > 1 else model
        self._criterion = torch.nn.CrossEntropyLoss()
        self._optimizer = _optimizer(settings, model.parameters())

    def step(self, number: int) -> None:
        """Take the step of that number, counted from 0, on the batch whose turn it is."""
        turn = number % len(self._images)
        self._optimizer.zero_grad()
        self._loss = self._criterion(self._model(self._images[turn]), self._labels[turn])
        self._loss.backward()
        self._optimizer.step()

    @property
    def loss(self) -> float:
        """Mean loss of this rank's batch in the last step."""
        return float(self._loss.item())

    @property
    def gradient(self) -> np.ndarray:
        """The last step's gradient over all ranks, a flat vector in the order of this package."""
        return _flat(self._tensors, (parameter.grad for parameter in self._model.parameters()))

    @property
    def parameters(self) -> np.ndarray:
        """The parameters, a flat vector in the order of this package."""
        return _flat(self._tensors, (parameter.detach() for parameter in self._model.parameters()))


def _optimizer(settings: Optimizer, parameters: Any) -> Any:
    from torch import optim

    match settings:
        case Sgd():
            return optim.SGD(parameters, settings.learning_rate, settings.momentum)
        case Adam():
            betas = settings.beta1, settings.beta2
            return optim.Adam(parameters, settings.learning_rate, betas, settings.epsilon)


def _put(start: np.ndarray, ours: Sequence[Tensor], theirs: Sequence[Any]) -> None:
    """Copy a flat vector into PyTorch's tensors: filters or units come first there, and last here in each group."""
    import torch

    first = 0
    for tensor, parameter in zip(ours, theirs, strict=True):
        groups, rest = _in_groups(tensor)
        part = np.moveaxis(start[first : first + tensor.size].reshape(groups, *rest, -1), -1, 1)
        with torch.no_grad():
            parameter.copy_(torch.tensor(np.ascontiguousarray(part.reshape(-1, *rest))))
        first += tensor.size


def _flat(ours: Sequence[Tensor], theirs: Iterable[Any]) -> np.ndarray:
    """The flat vector of what PyTorch has in its order."""
    parts = []
    for tensor, value in zip(ours, theirs, strict=True):
        groups, rest = _in_groups(tensor)
        parts.append(np.moveaxis(value.numpy().reshape(groups, -1, *rest), 1, -1).ravel())
    return np.concatenate(parts)


def _in_groups(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    """How many groups of filters or units there are, and the shape of the weights of one filter or unit."""
    if len(tensor.shape) == GROUPED:
        return tensor.shape[0], tensor.shape[1:-1]
    return 1, tensor.shape[:-1]


def check(
    name: str,
    stages: Sequence[Stage],
    ours: Callable[[int], Contestant],
    theirs: Callable[[int, str], Contestant],
    ranks: Ranks,
) -> None:
    """Take first steps on both sides, in each layout. ArithmeticError where more than roundings differ.

    Compared are loss and gradient of the first step, and what CHECKED_STEPS changed in the parameters.
    ours, theirs: make the two sides, at the start of the number given, PyTorch's in the layout given.
    """
    for layout in LAYOUTS:
        for start in range(CHECKED_STARTS):
            found = list(_differences(tensors(stages), ours(start), theirs(start, layout)))
            differ = np.array([len(found)], np.int64)
            ranks.maximum(differ)
            if differ[0] == 0:
                break
        else:
            difference = found[0] if found else "another rank differs from PyTorch"
            raise ArithmeticError(f"{name}, {layout}: {difference}")


def _differences(names: Sequence[Tensor], ours: Contestant, theirs: Contestant) -> Iterator[str]:
    start = ours.parameters.copy()
    for number in range(CHECKED_STEPS):
        ours.step(number)
        theirs.step(number)
        if number == 0:
            yield from _apart("the first loss", ours.loss, theirs.loss, LOSS_TOLERANCE)
            yield from _apart_by_tensor("the first gradient", names, ours.gradient, theirs.gradient)
    change = f"the change by {CHECKED_STEPS} steps"
    yield from _apart_by_tensor(change, names, ours.parameters - start, theirs.parameters - start)


def _apart_by_tensor(
    what: str, names: Sequence[Tensor], ours: np.ndarray, theirs: np.ndarray
) -> Iterator[str]:
    ends = np.cumsum([tensor.size for tensor in names])[:-1]
    for tensor, one, other in zip(names, np.split(ours, ends), np.split(theirs, ends), strict=True):
        yield from _apart(f"{what}, tensor {tensor.name}", one, other, TENSOR_TOLERANCE)


def _apart(what: str, ours: Any, theirs: Any, tolerance: float) -> Iterator[str]:
    apart, length = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
    if not apart <= tolerance * length:  # no number is no agreement either
        yield f"{what} is {apart:.2e} from PyTorch's, {length:.2e} long; wanted: at most {tolerance:.0e} of it"
