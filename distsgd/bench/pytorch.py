"""The same training steps in PyTorch: same network, weights, images and optimizer; over ranks by DistributedDataParallel.

PyTorch is imported when something here is called, and nowhere else: the package works without it.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from distsgd.comm import Ranks
from distsgd.config import InputError
from distsgd.layers import Convolution, Dense, Dropout, MaxPool
from distsgd.network import Stage, tensors
from distsgd.optim import Sgd

LAYOUTS = ("NCHW", "channels_last")
PATIENCE = timedelta(seconds=60)


def version() -> str:
    """PyTorch's version. InputError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"--against torch: this Python can't import PyTorch ({error}); install it (pip install torch) or leave --against out"
        ) from None
    return str(torch.__version__)


@contextlib.contextmanager
def process_group(ranks: Ranks) -> Iterator[None]:
    """One thread a rank, and PyTorch's own group of the same processes, by gloo over the loopback interface.

    They find each other by a file, which only this user can read. InputError where ranks are on several nodes.
    """
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    if ranks.size == 1:
        yield
        return
    if ranks.on_node()[1] != ranks.size:
        raise InputError(
            f"--against torch: {ranks.size} ranks on several nodes; they must be on one, PyTorch's meet by loopback"
        )
    # By itself gloo takes the interface that the host's name resolves to, which fails or is slow where it resolves to nothing.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-") as folder:
        file = os.path.join(os.fsdecode(ranks.broadcast_bytes(os.fsencode(folder))), "store")
        store = distributed.FileStore(file, ranks.size)
        distributed.init_process_group(
            "gloo", store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE
        )
        yield
        ranks.barrier()  # rank 0's folder must outlive everybody's use of it
        distributed.destroy_process_group()
        ranks.barrier()


def modules(stages: Sequence[Stage]) -> list[Any]:
    """The layers of a plan as PyTorch's modules, with weights of their own."""
    from torch import nn

    found: list[Any] = []
    for stage in stages:
        found += _module(stage)
        found += [nn.ReLU()] if stage.rectify else []
    return found


def _module(stage: Stage) -> list[Any]:
    from torch import nn

    layer, channels = stage.layer, stage.shape[0]
    match layer:
        case Convolution():
            return _convolution(layer, channels)
        case Dense():
            return [nn.Flatten(), nn.Linear(int(np.prod(stage.shape)), layer.units, bias=layer.bias)]
        case MaxPool():
            return [nn.MaxPool2d(layer.size)]
        case Dropout():
            return [nn.Dropout(layer.rate)]


def _convolution(layer: Convolution, channels: int) -> list[Any]:
    from torch import nn

    border = layer.border
    if border.top == border.bottom:  # its own padding, which is faster than a layer of zeros
        return [nn.Conv2d(channels, layer.filters, layer.size, padding=border.top)]
    zeros = nn.ZeroPad2d((border.left, border.right, border.top, border.bottom))
    return [zeros, nn.Conv2d(channels, layer.filters, layer.size)]


class Peer:
    """One rank's training steps by PyTorch, on float32 batches made beforehand: it has no bytes to convert."""

    def __init__(
        self,
        stages: Sequence[Stage],
        start: np.ndarray,
        images: np.ndarray,
        labels: np.ndarray,
        settings: Sgd,
        layout: str,
        ranks: Ranks,
    ) -> None:
        """start: flat parameters. images: (number, batch, channels, height, width) float32. labels: (number, batch). layout: of LAYOUTS."""
        import torch

        memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.layout = layout
        self._images = [torch.from_numpy(batch).to(memory_format=memory) for batch in images]
        self._labels = [torch.from_numpy(batch) for batch in labels]
        model = torch.nn.Sequential(*modules(stages)).to(memory_format=memory)
        _put(start, stages, list(model.parameters()))
        self._model = torch.nn.parallel.DistributedDataParallel(model) if ranks.size > 1 else model
        self._loss = torch.nn.CrossEntropyLoss()
        self._optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, settings.momentum)

    def step(self, number: int) -> Any:
        """The step of that number, counted from 0, on the batch whose turn it is. Returns this rank's loss as a tensor."""
        turn = number % len(self._images)
        self._optimizer.zero_grad()
        loss = self._loss(self._model(self._images[turn]), self._labels[turn])
        loss.backward()
        self._optimizer.step()
        return loss

    @property
    def gradient(self) -> np.ndarray:
        """The last step's gradient as a flat vector, in the order of this package; over ranks, the mean."""
        return _flat(parameter.grad for parameter in self._model.parameters())

    @property
    def parameters(self) -> np.ndarray:
        """The parameters as a flat vector, in the order of this package."""
        return _flat(parameter.detach() for parameter in self._model.parameters())


def _put(start: np.ndarray, stages: Sequence[Stage], parameters: Sequence[Any]) -> None:
    """Copy a flat vector into PyTorch's tensors, which have the filters or units first where ours have them last."""
    import torch

    first = 0
    for tensor, parameter in zip(tensors(stages), parameters, strict=True):
        part = start[first : first + tensor.size].reshape(tensor.shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(np.moveaxis(part, -1, 0))))
        first += tensor.size


def _flat(values: Iterator[Any]) -> np.ndarray:
    return np.concatenate([np.moveaxis(value.numpy(), 0, -1).ravel() for value in values])
