"""The same passes of one layer in PyTorch, in either of its memory layouts."""

from collections.abc import Callable
from typing import Any

from distsgd.bench.pytorch import LAYOUTS, parts
from distsgd.machine.operations import Operation
from distsgd.network import Network, Stage
from distsgd.plan.layers import FORWARD, LOSS, TO_DATA, UPDATE

Repeated = Callable[[int], None]
"""Does it so many times."""


def alike(operation: Operation, network: Network) -> list[Repeated]:
    """What PyTorch does for an operation, once for each layout that makes a difference."""
    if operation.stage is None:
        return [{LOSS: _loss, UPDATE: _update}[operation.what](network)]
    layouts = LAYOUTS if max(operation.stage.shape[1:]) > 1 else LAYOUTS[:1]
    return [_pass(operation.stage, operation.what, network.batch, layout) for layout in layouts]


def _pass(stage: Stage, what: str, batch: int, layout: str) -> Repeated:
    """As ours are split: forward with the rectifier and pooling behind; to weights back through that pooling; to data back through
    the rectifier before, as a rectifier's gradient is a part of the next layer's pass to data.
    """
    import torch
    from torch import nn

    own, behind = parts(stage)
    order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    alone = nn.Sequential(*own).to(memory_format=order)
    rectifier = [nn.ReLU()] if stage.rectify and what == FORWARD else []
    whole = nn.Sequential(alone, *rectifier, *behind)
    x = torch.randn(batch, *stage.shape).contiguous(memory_format=order)
    if what == FORWARD:
        return _forward(whole, x)
    x.requires_grad_(what == TO_DATA)
    seen = torch.relu(x) if what == TO_DATA and stage.rectified else x
    y = (alone if what == TO_DATA else whole)(seen)
    wanted = [x] if what == TO_DATA else list(whole.parameters())
    return _backward(y, wanted, torch.randn_like(y))


def _forward(module: Any, x: Any) -> Repeated:
    import torch

    def repeat(times: int) -> None:
        with torch.no_grad():
            for _ in range(times):
                module(x)

    return repeat


def _backward(y: Any, wanted: list[Any], slope: Any) -> Repeated:
    import torch

    def repeat(times: int) -> None:
        for _ in range(times):
            torch.autograd.grad(y, wanted, slope, retain_graph=True)

    return repeat


def _loss(network: Network) -> Repeated:
    import torch

    scores = torch.randn(network.batch, len(network.scores.units), requires_grad=True)
    labels = torch.zeros(network.batch, dtype=torch.int64)

    def repeat(times: int) -> None:
        for _ in range(times):
            torch.autograd.grad(torch.nn.functional.cross_entropy(scores, labels), scores)

    return repeat


def _update(network: Network) -> Repeated:
    import torch

    parameters = torch.zeros(network.parameters.size, requires_grad=True)
    parameters.grad = torch.zeros_like(parameters)
    optimizer = torch.optim.SGD([parameters], lr=0.001, momentum=0.9)

    def repeat(times: int) -> None:
        for _ in range(times):
            optimizer.step()

    return repeat
