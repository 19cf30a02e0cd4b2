"""Layers in order, and all memory they work in: one parameter vector, one gradient vector, activations planned once.

A step of training allocates nothing: forward and backward are lists of kernels whose arguments were bound when the
network was built.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distsgd.batch import Batch
from distsgd.config import InputError
from distsgd.kernels import confusion, loss
from distsgd.kernels.compiled import FLOAT
from distsgd.kernels.rows import NO_WINNERS
from distsgd.kernels.vector import LANES, aligned
from distsgd.layers import (
    Border,
    Convolution,
    Dense,
    Layer,
    MaxPool,
    Place,
    Program,
    Rectifier,
    Shape,
    Tensor,
    Values,
)
from distsgd.metrics import Tally
from distsgd.threads import Team, whole
from distsgd.threads.turns import calls

START = 3
"""Part of the key of the random streams of weights; data.shards has 1 and 2."""
DRAWN = 1 << 16
"""Weights drawn at a time, in the cache: a large layer's at once would take more memory than a step."""


@dataclass(frozen=True)
class Stage:
    """One layer of a plan: its number among the layers, what goes in and comes out, whether input and output are rectified."""

    number: int
    layer: Layer
    shape: Shape
    output: Shape
    rectified: bool
    rectify: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The layer's parameters."""
        return self.layer.tensors(self.shape)


def plan(layers: Sequence[Layer | Rectifier], shape: Shape) -> list[Stage]:
    """Follow an image's shape through the layers; rectifiers, and poolings behind convolutions, join the layer before.

    InputError where a layer does not fit.
    """
    stages: list[Stage] = []
    number = 0
    for place, layer in enumerate(layers):
        number += not isinstance(layer, Rectifier)
        try:
            _follow(stages, number, layer, shape)
        except InputError as error:
            raise InputError(f"layer {place + 1}: {error}") from None
    if not stages or stages[-1].rectify or stages[-1].layer.gradient_border(stages[-1].shape) != Border():
        raise InputError(
            "the last layer gives the scores: it must be a dense layer without a rectifier behind it"
        )
    return stages


def _follow(stages: list[Stage], number: int, layer: Layer | Rectifier, shape: Shape) -> None:
    """Add a layer's stage, or change that of the layer it joins."""
    last = stages[-1] if stages else None
    match layer, last:
        case Rectifier(), Stage(layer=Convolution() | Dense()):
            stages[-1] = replace(last, rectify=True)
        case Rectifier(), _:
            raise InputError(
                "a rectifier must follow a convolution, a max pooling without overlap behind one, or a dense layer"
            )
        case MaxPool(size), Stage(layer=Convolution(pool=1) as convolution) if layer.apart == size:
            pooled = replace(convolution, pool=size)
            stages[-1] = replace(last, layer=pooled, output=pooled.output(last.shape))
        case _:
            came, rectified = (last.output, last.rectify) if last else (shape, False)
            stages.append(Stage(number, layer, came, layer.output(came), rectified))


def tensors(stages: Sequence[Stage]) -> list[Tensor]:
    """All parameters in the order in which they lie in the vector, named layer.tensor."""
    return [
        Tensor(f"{stage.number}.{tensor.name}", tensor.shape, tensor.fan_in)
        for stage in stages
        for tensor in stage.tensors
    ]


def initialize(parameters: np.ndarray, stages: Sequence[Stage], seed: int) -> None:
    """Write He's uniform start (He et al. 2015): weights within sqrt(6 / fan in), biases zero; the same on any machine."""
    first = 0
    for number, tensor in enumerate(tensors(stages)):
        part = parameters[first : first + tensor.size]
        part[:] = 0
        if tensor.fan_in:
            stream = np.random.Philox(key=[seed, START], counter=[0, 0, number, 0])
            for some in np.split(part, range(DRAWN, part.size, DRAWN)):
                chance = stream.random_raw(some.size)
                some[:] = ((chance >> np.uint64(11)) * 2.0**-52 - 1.0) * np.sqrt(6.0 / tensor.fan_in)
        first += tensor.size


@dataclass(frozen=True)
class _Programs:
    """What a step on a batch runs: forward in training, back, and forward without dropout."""

    learning: Program
    returning: Program
    judging: Program

    def __add__(self, behind: "_Programs") -> "_Programs":
        """Those of the layers behind as well."""
        learning, judging = self.learning + behind.learning, self.judging + behind.judging
        return _Programs(learning, behind.returning + self.returning, judging)


class Network:
    """A network of a given plan for batches of a given size, working on a parameter vector that it is given."""

    def __init__(
        self,
        stages: Sequence[Stage],
        batch: int,
        parameters: np.ndarray,
        batches: int = 1,
        team: Team | None = None,
        gradient: np.ndarray | None = None,
    ) -> None:
        """`parameters`: float32, as many as `tensors` say; read at every step and never written.

        batches: 2 if one is to be filled while the network computes with the other (`turn`). team: whose threads share out the
        work; not given: the thread that calls does all. gradient: where to write it, from a cache line on; not given: in memory
        of the network's own.
        """
        self._team = team or Team()
        self.stages, self.batch = list(stages), batch
        self.lanes = -(-batch // LANES) * LANES
        self.parameters = parameters
        self.gradient = aligned(parameters.size) if gradient is None else gradient
        self.draw = np.zeros(3, np.uint64)
        self.totals = np.zeros(len(loss.TOTALS), np.int64)
        self._work = aligned((4, self.lanes))
        borders = [stage.layer.border(stage.shape) for stage in self.stages] + [Border()]
        values = self._values(borders)
        gradients = self._values(
            [Border()] + [stage.layer.gradient_border(stage.shape) for stage in self.stages]
        )
        self.scores = values[-1]
        places = self.places = self._places(values, gradients)
        """Where each layer finds its numbers."""
        others = [self._input(borders[0]) for _ in range(batches - 1)]
        self.batches = [Batch(images) for images in (values[0], *others)]
        """The first is the one that the next step computes with."""
        behind = self._bound(self.stages[1:], places[1:])
        self._programs = [
            self._bound(self.stages[:1], [replace(places[0], x=batch.images)]) + behind
            for batch in self.batches
        ]
        self._steps = [
            tuple(
                self._team.bound(each) for each in (programs.learning, programs.returning, programs.judging)
            )
            for programs in self._programs
        ]
        self._score_gradient = gradients[-1].units
        self._equal_weights = np.ones(len(self.scores.units), FLOAT)
        self.class_weights = self._equal_weights.copy()

    @property
    def images(self) -> Values:
        """The images that the next step computes with."""
        return self.batches[0].images

    @property
    def labels(self) -> np.ndarray:
        """Their labels."""
        return self.batches[0].labels

    def _bound(self, stages: Sequence[Stage], places: Sequence[Place]) -> _Programs:
        pairs = list(zip(stages, places, strict=True))
        return _Programs(
            [call for stage, place in pairs for call in stage.layer.forward(place, True)],
            [call for stage, place in reversed(pairs) for call in stage.layer.backward(place)],
            [call for stage, place in pairs for call in stage.layer.forward(place, False)],
        )

    @property
    def memory(self) -> int:
        """Bytes of all that it works in, the parameters apart."""
        own: dict[int, int] = {}
        both = [call for program in self._programs for call in (*program.learning, *program.returning)]
        for argument in (argument for _, arguments in calls(both) for argument in arguments):
            if isinstance(argument, np.ndarray) and not np.shares_memory(argument, self.parameters):
                memory = whole(argument)
                own[id(memory)] = memory.nbytes
        return sum(own.values()) + self._team.memory

    def _input(self, border: Border) -> Values:
        return Values(aligned(self._padded(self.stages[0].shape, border)), border)

    def _values(self, borders: Sequence[Border]) -> list[Values]:
        shapes = [self.stages[0].shape] + [stage.output for stage in self.stages]
        return [
            Values(aligned(self._padded(shape, border)), border)
            for shape, border in zip(shapes, borders, strict=True)
        ]

    def _padded(self, shape: Shape, border: Border) -> tuple[int, ...]:
        channels, height, width = shape
        return channels, border.top + height + border.bottom, border.left + width + border.right, self.lanes

    def _places(self, values: list[Values], gradients: list[Values]) -> list[Place]:
        scratch = aligned(max(stage.layer.scratch(stage.shape, self.lanes) for stage in self.stages))
        places, first = [], 0
        for number, stage in enumerate(self.stages):
            weights, slopes = [], []
            for tensor in stage.tensors:
                weights.append(self.parameters[first : first + tensor.size].reshape(tensor.shape))
                slopes.append(self.gradient[first : first + tensor.size].reshape(tensor.shape))
                first += tensor.size
            dx = gradients[number] if number else None
            around = (values[number], values[number + 1], dx, gradients[number + 1])
            memory = (tuple(weights), tuple(slopes), self._winners(stage), scratch)
            own = aligned(stage.layer.own(stage.shape, self.lanes, number == 0))
            rectifiers = stage.rectify, stage.rectified
            places.append(Place(stage.number - 1, *around, *memory, own, *rectifiers, self.draw))
        return places

    def _winners(self, stage: Stage) -> np.ndarray:
        pools = isinstance(stage.layer, MaxPool) or (
            isinstance(stage.layer, Convolution) and stage.layer.pool > 1
        )
        return aligned((*stage.output, self.lanes), np.uint8) if pools else NO_WINNERS

    def turn(self) -> None:
        """Make the other of two batches the one that the next step computes with."""
        self.batches.reverse()
        self._programs.reverse()
        self._steps.reverse()

    def learn(self, seed: int, worker: int, step: int) -> None:
        """Forward and backward on the batch: writes `gradient`, of the mean loss, and adds to `totals`.

        The three numbers choose what dropout drops.
        """
        self.draw[:] = seed, worker, step
        forward, back, _ = self._steps[0]
        forward()
        self.lose(self.class_weights)
        back()

    def judge(self, weighted: bool = False) -> None:
        """Forward on the batch without dropout: adds to `totals`; losses weigh as in learning only if `weighted`."""
        self._steps[0][2]()
        self.lose(self.class_weights if weighted else self._equal_weights)

    def confuse(self, tally: Tally) -> None:
        """Add to the tally which classes the last batch was taken for."""
        batch = self.batches[0]
        confusion.confuse(self.scores.units, batch.labels, batch.count, tally.confusion, tally.near)

    def lose(self, weights: np.ndarray) -> None:
        """The loss of the scores, with a weight for each class: writes the gradient to them and adds to `totals`."""
        batch, scores, work = self.batches[0], self.scores.units, self._work
        loss.softmax_cross_entropy(scores, batch.labels, batch.count, weights, work, self._score_gradient)
        loss.count_losses(scores, batch.labels, batch.count, work, self.totals)
