"""The passes of a network's layers as operations that are timed one by one: what runs, and what it must compute and move."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from distsgd.layers import Convolution, Dense, Dropout, MaxPool, Place, Program, ResponseNormalization
from distsgd.layers.place import Call
from distsgd.network import Network, Stage
from distsgd.optim import Steps
from distsgd.plan.layers import FORWARD, LOSS, TO_DATA, TO_WEIGHTS, UPDATE
from distsgd.threads import Team
from distsgd.threads.turns import calls


@dataclass(frozen=True)
class Operation:
    """A pass of a layer, or of all (the loss, the update)."""

    layer: str
    what: str
    """FORWARD, TO_WEIGHTS, TO_DATA, LOSS or UPDATE."""
    program: Program
    flops: float
    """As by the definition: fewer multiplications by another algorithm count as speed."""
    moved: int
    """Bytes of what it reads and of what it writes, each number once."""
    stage: Stage | None = None
    read_again: int = 0
    """Bytes of `moved` that are written where they were read from."""

    def run(self, times: int) -> None:
        """So many times."""
        for _ in range(times):
            self._once()

    @cached_property
    def _once(self) -> Callable[[], object]:
        """What a step runs: of a layer a list of kernels."""
        if self.stage:
            return Team().bound(self.program)
        ((whole, arguments),) = self.program
        return partial(whole, *arguments)

    @property
    def held(self) -> int:
        """Bytes that it works in."""
        return self.moved - self.read_again

    @property
    def convolves(self) -> bool:
        """Whether it is a pass of a convolution."""
        return self.stage is not None and isinstance(self.stage.layer, Convolution)


def operations(network: Network, steps: Steps) -> Iterator[Operation]:
    """Those of a training step, in its order; on the way back from the last layer on."""
    passes = list(zip(network.stages, network.places, strict=True))
    for stage, place in passes:
        yield _operation(stage, place, FORWARD, stage.layer.forward(place, True), network.batch)
    lose: Program = [(network.lose, (network.class_weights,))]
    yield Operation("all classes", LOSS, lose, 0, 2 * network.scores.flat.nbytes)
    for stage, place in reversed(passes):
        for what, program in _split(stage, place):
            yield _operation(stage, place, what, program, network.batch)
    each = network.parameters.nbytes  # parameters and momentum are read and written, the gradient is read
    step: Program = [(steps.step, (1,))]
    yield Operation("all parameters", UPDATE, step, 0, 5 * each, read_again=2 * each)


def _operation(stage: Stage, place: Place, what: str, program: Program, batch: int) -> Operation:
    sums = stage.layer.flops(stage.shape) if isinstance(stage.layer, Convolution | Dense) else 0
    return Operation(
        f"{stage.number} {name(stage)}",
        what,
        program,
        sums * batch,
        _moved(stage, place, what, batch),
        stage,
    )


def _moved(stage: Stage, place: Place, what: str, batch: int) -> int:
    """Bytes read and written for the images of a batch, each number once; a gradient is as large as what it belongs to."""
    moved = place.x.inside.nbytes + place.y.inside.nbytes + place.winners.nbytes
    # What was rectified says where something goes back, and what is normalized how much.
    looked_at = place.y if isinstance(stage.layer, MaxPool | Dropout) else place.x
    if what == TO_DATA and (place.rectified or isinstance(stage.layer, ResponseNormalization)):
        moved += looked_at.inside.nbytes
    return moved * batch // place.x.batch + sum(array.nbytes for array in place.weights)


def name(stage: Stage) -> str:
    """A layer in a few words."""
    match stage.layer:
        case Convolution(filters, size) as layer:
            behind = f", pool {layer.pool}" if layer.pool > 1 else ""
            return f"convolution {size}x{size}, {stage.shape[0]} to {filters}, {stage.shape[1]}x{stage.shape[2]}{behind}"
        case Dense(units):
            return f"dense, {np.prod(stage.shape)} to {units}"
        case ResponseNormalization(size):
            return f"normalization over {size}, {'x'.join(map(str, stage.shape))}"
        case layer:
            return f"{type(layer).__name__.lower()}, {'x'.join(map(str, stage.shape))}"


def _split(stage: Stage, place: Place) -> Iterator[tuple[str, Program]]:
    """The calls of the way back, each with those that prepare it: told apart by where the last one writes."""
    waiting: Program = []
    found: dict[str, Program] = {}
    for call in stage.layer.backward(place):
        waiting.append(call)
        what = _written(place, call)
        if what:
            found[what] = found.get(what, []) + waiting
            waiting = []
    yield from found.items()


def _written(place: Place, call: Call) -> str | None:
    arrays = [
        array
        for _, arguments in calls([call])
        for array in arguments
        if isinstance(array, np.ndarray) and array.size
    ]
    if any(np.may_share_memory(array, slope) for array in arrays for slope in place.gradients):
        return TO_WEIGHTS
    if place.dx is not None and any(np.may_share_memory(array, place.dx.buffer) for array in arrays):
        return TO_DATA
    return None
