"""Seconds of a layer's passes: measured in another network, or from layers like it by a Gaussian process."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from distsgd.cost import Estimate
from distsgd.cost.curve import between
from distsgd.cost.machine import Machine
from distsgd.cost.machine import Operation as Measured
from distsgd.kernels.vector import LANES
from distsgd.layers import Convolution, Dense
from distsgd.network import Stage
from distsgd.plan.measured import nearest
from distsgd.plan.work import Job, text_of

FORWARD, TO_WEIGHTS, TO_DATA, LOSS, UPDATE = "forward", "to weights", "to data", "loss", "update"
"""Passes, as a machine file names them."""
MEASURED = 0.03
"""Relative deviation of a pass from one network to another."""
REACH, ROUGH, NOISE = 1.5, 0.3, 0.03
"""Of the process: over how far (factor e^REACH in a size) layers resemble each other, how much their speeds differ, and by how
much measurements do."""

FILLED, SHALLOW = 4, 6
"""How much more than in sizes layers differ in which part of their registers they fill, and in whether all is computed there."""


@dataclass(frozen=True)
class Operation:
    """A pass of a layer. flops and moved (bytes) are of one image, weights are bytes."""

    key: str
    what: str
    kind: str
    flops: float
    moved: float
    weights: float
    inputs: float
    """Values that each of its sums is over."""
    outputs: float
    """Filters, or units."""
    shallow: bool = False
    """Whether it is a convolution's that is computed in registers, as its channels are few."""


def operations(job: Job) -> Iterator[Operation]:
    """The passes of a step, but the update."""
    for place, stage in enumerate(job.stages):
        yield of_stage(stage, FORWARD)
        if stage.tensors:
            yield of_stage(stage, TO_WEIGHTS)
        if place:
            yield of_stage(stage, TO_DATA)
    classes = math.prod(job.stages[-1].output)
    yield loss_of(classes)


def of_stage(stage: Stage, what: str) -> Operation:
    """A pass of that layer."""
    layer = stage.layer
    flops = layer.flops(stage.shape) if isinstance(layer, Convolution | Dense) else 0
    moved = 4 * (math.prod(stage.shape) + math.prod(stage.output))
    weights = 4 * sum(tensor.size for tensor in stage.tensors)
    inputs = stage.tensors[0].fan_in if stage.tensors else 0
    sizes = flops, moved, weights, inputs, stage.output[0]
    forward, to_weights = layer.shallow(stage.shape) if isinstance(layer, Convolution) else (False, False)
    shallow = {FORWARD: forward, TO_WEIGHTS: to_weights}.get(what, False)
    return Operation(text_of(stage), what, type(layer).__name__, *sizes, shallow)


def loss_of(classes: int) -> Operation:
    """The loss."""
    return Operation(f"{classes} classes", LOSS, LOSS, 0, 8 * classes, 0, 0, classes)


def update_of(parameters: int, optimizer: str) -> Operation:
    """An update of so many parameters."""
    return Operation(f"{parameters} parameters", UPDATE, optimizer, 0, 0, 4 * parameters, 0, 0)


def update(machine: Machine, job: Job, together: int, optimizer: str | None = None) -> Estimate:
    """The update of a step, by the job's optimizer or another one."""
    name = optimizer or job.config.optimizer.name
    sizes = sorted(
        (o.weights, o.seconds[0]) for o in machine.operations if o.kind == name and o.together == together
    )
    if not sizes:
        sizes = sorted((o.weights, o.seconds[0]) for o in machine.operations if o.kind == name)
    weights, seconds = zip(*sizes, strict=True)
    found = between(weights, seconds, 4.0 * job.parameters)
    return Estimate(found, 0.1 * found)


def seconds(machine: Machine, wanted: Operation, job: Job, together: int) -> Estimate:
    """One pass on a batch of the job's."""
    alike = [o for o in machine.operations if (o.kind, o.what) == (wanted.kind, wanted.what)]
    same = [o for o in alike if o.key == wanted.key]
    if same:
        same = nearest(same, together)
        found = float(np.median([between(o.lanes, o.seconds, job.lanes) for o in same]))
        return Estimate(found, MEASURED * found)
    if not alike:
        raise LookupError(f"no pass {wanted.what!r} of a {wanted.kind} was measured")
    vector = machine.where.vector_lanes
    return _process(tuple(alike), vector).at(_features(wanted, job.lanes, together, vector))


def _features(operation: Operation | Measured, lanes: int, together: int, vector: int) -> tuple[float, ...]:
    """Logarithms of what a pass's time follows from."""
    amounts = operation.flops * lanes, operation.moved * lanes, operation.weights, float(lanes)
    shapes = operation.inputs, operation.outputs, float(together)
    columns = operation.outputs if (operation.kind, operation.what) == (Dense.__name__, TO_WEIGHTS) else 0
    # A register that is not full takes as long as a full one; units that fill none are no columns.
    filled = _registers(columns, vector) if columns >= LANES else 0.0
    ways = FILLED * filled, SHALLOW * float(operation.shallow)
    return *(math.log(number + 1) for number in (*amounts, *shapes)), *ways


def _registers(columns: float, vector: int) -> float:
    """The logarithm of which part of its registers a row of so many columns fills, see kernels.rows.strips."""
    return math.log(columns / (math.ceil(columns / vector) * vector))


@lru_cache(maxsize=64)
def _process(measured: tuple[Measured, ...], vector: int) -> "_Process":
    points = [
        (_features(o, size, o.together, vector), math.log(seconds))
        for o in measured
        for size, seconds in zip(o.lanes, o.seconds, strict=True)
        if seconds > 0
    ]
    return _Process(points)


class _Process:
    """Regression of log seconds: a plane through the logarithms of the sizes, and around it a Gaussian process with a squared
    exponential covariance (Rasmussen & Williams 2006, algorithm 2.1 and section 2.7).
    """

    def __init__(self, points: Sequence[tuple[tuple[float, ...], float]]) -> None:
        self._x = np.array([features for features, _ in points])
        y = np.array([value for _, value in points])
        plane = self._plane(self._x)
        ridge = 1e-3 * np.eye(plane.shape[1])
        self._slopes = np.linalg.solve(plane.T @ plane + ridge, plane.T @ y)
        covariance = self._covariance(self._x, self._x) + NOISE**2 * np.eye(len(y))
        self._inverse = np.linalg.inv(covariance)
        self._weights = self._inverse @ (y - plane @ self._slopes)

    def at(self, features: tuple[float, ...]) -> Estimate:
        """Seconds of what has these sizes."""
        x = np.array([features])
        near = self._covariance(x, self._x)[0]
        log = float((self._plane(x) @ self._slopes)[0] + near @ self._weights)
        variance = max(ROUGH**2 - float(near @ self._inverse @ near), 0.0) + NOISE**2
        return Estimate(math.exp(log), math.exp(log) * math.sqrt(variance))

    def _plane(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(x), 1)), x], axis=1)

    def _covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        distance = ((a[:, None] - b[None]) ** 2).sum(axis=2) / REACH**2
        covariance: np.ndarray = ROUGH**2 * np.exp(-distance / 2)
        return covariance
