"""Images per second of whole training steps, alone or beside PyTorch in interleaved pairs.

A step of ours fills the batch from bytes, runs forward and backward, over several ranks averages the
gradient exactly, and updates by SGD with momentum. PyTorch trains the same network from the same weights on
the same images; before anything is timed, both must come to the same loss, gradient and parameters. Where a network
has dropout nothing is dropped in that, as each side draws in its own way; what is timed drops at the network's rate.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distsgd import data, network, zoo
from distsgd.bench import pytorch
from distsgd.bench.images import Images, images_for
from distsgd.bench.output import check_file
from distsgd.bench.pytorch import Contestant, Peer
from distsgd.comm import MOST_WIDENINGS, Allreduce, Exact, Ranks, Single, Verdict
from distsgd.config import InputError
from distsgd.kernels.vector import VECTOR, aligned
from distsgd.layers import Dropout
from distsgd.machine.where import processor
from distsgd.metrics import score
from distsgd.network import Network, Stage
from distsgd.optim import Optimizer, Sgd
from distsgd.record import as_json, write_whole
from distsgd.threads import Team

NETWORKS = ("garg", "rendon", "chavan-5-50-100", "lenet5", "cifar")
SGD = Sgd(learning_rate=0.001, momentum=0.9)
"""A small rate: whatever is learnt meanwhile, numbers stay ordinary and steps equally long."""

MOST_BATCHES, MOST_IMAGES = 16, 8192
"""Different batches that take turns, fewer where they would be more than so many images."""
CHECKED_VALUES = 1 << 19
"""Of layers, in a batch that both sides must agree on: among more of them some are always so close that roundings choose the way
of a gradient, whatever the start."""
SECONDS = 8.0
"""How long all pairs of a network take, about."""
LEG_SECONDS = 0.1
"""How long a side runs before it is the other's turn, at least: its first step finds the other side's numbers in the caches."""
FEWEST_PAIRS, WARM_PAIRS, WARM_STEPS = 5, 5, 2


@dataclass(frozen=True)
class Measured:
    """What a network came to: medians, over the images of all ranks. Without PyTorch its part is None."""

    images: str
    images_per_second: float
    torch_images_per_second: float | None = None
    ratio: float | None = None
    torch_layout: str | None = None
    times_one_thread: float | None = None
    """With several threads a rank, how many times as fast they are as one."""


class Ours:
    """One rank's training steps by this package."""

    def __init__(self, task: "Task", start: np.ndarray, team: Team | None = None) -> None:
        """start: flat parameters, copied. team: the rank's threads, if there are several."""
        state = aligned((1 + task.optimizer.moments) * start.size)
        self.parameters = state[: start.size]
        self.parameters[:] = start
        self._batch = task.batch
        self._images, self._scaling = task.images, task.images.scaling()
        self._order = np.arange(len(task.images.labels))
        self._ranks = task.ranks
        sizes = [tensor.size for tensor in network.tensors(task.stages)]
        together = Allreduce(task.ranks, several=False)
        self._average = Exact(together, sizes) if task.ranks.size > 1 else Single(sizes)
        room, own = max(task.batch, task.room), self._average.own
        self._network = Network(task.stages, room, self.parameters, 1, team, own)
        self.gradient = self._average.mean
        self._optimizer = task.optimizer.bind(state, self.gradient, team=team)

    def step(self, number: int) -> None:
        """Take the step of that number, counted from 0, on the batch whose turn it is."""
        images, batch = self._images, self._batch
        first = number * batch % len(self._order)
        self._network.totals[:] = 0
        self._network.batches[0].fill(images.images, images.labels, self._order, first, batch, self._scaling)
        self._network.learn(0, self._ranks.rank, number)
        if self._ranks.size > 1:
            self._meet()
        self._optimizer.step(number + 1)

    def _meet(self) -> None:
        """Average the gradients of all ranks; scales are taken from how large the average before was."""
        average, batch = self._average, self._batch
        for _ in range(MOST_WIDENINGS + 1):
            average.begin(None, batch * self._ranks.size)
            average.add(self._network.gradient, batch, last=True)
            average.exchange()
            verdict = average.finish(self.gradient)
            if verdict != Verdict.OVERFLOW:  # an overflow leaves the magnitudes of the average before
                break
            average.widen()
        if verdict != Verdict.OK:
            raise ArithmeticError("the gradient became infinite or no number")

    @property
    def loss(self) -> float:
        """Mean loss of this rank's batch in the last step."""
        loss = score(self._network.totals).loss
        return math.nan if loss is None else loss


@dataclass(frozen=True)
class Task:
    """A network to train on a rank's images, a multiple of `batch`."""

    name: str
    stages: list[Stage]
    images: Images
    batch: int
    ranks: Ranks
    optimizer: Optimizer = SGD
    room: int = 0
    """Images that our network is laid out for, where they are more than a batch."""

    def ours(self, seed: int, team: Team | None = None) -> Ours:
        """Our side, at the start of that seed."""
        return Ours(self, self.start(seed), team)

    def peer(self, seed: int, layout: str) -> Peer:
        """PyTorch's side, at the same start."""
        batches = self.images.batches(self.batch)
        return Peer(self.stages, self.start(seed), batches, self.optimizer, layout, self.ranks)

    def checked(self) -> "Task":
        """What both sides can compute alike: by the same kernels, with dropout at rate 0, and on no more than CHECKED_VALUES."""
        stages = [
            replace(stage, layer=Dropout(0.0)) if isinstance(stage.layer, Dropout) else stage
            for stage in self.stages
        ]
        batch, values = self.batch, sum(math.prod(stage.output) for stage in stages)
        while batch % 2 == 0 and batch * values > CHECKED_VALUES:
            batch //= 2
        return replace(self, stages=stages, batch=batch, room=self.batch)

    def start(self, seed: int) -> np.ndarray:
        """The flat parameters before the first step."""
        start = aligned(sum(tensor.size for tensor in network.tensors(self.stages)))
        network.initialize(start, self.stages, seed)
        return start


def training(
    ranks: Ranks,
    networks: Sequence[str] | None,
    batch: int,
    against: bool,
    source: str,
    json_path: Path | None,
    say: Callable[[str], None],
    now: Callable[[], int] = time.perf_counter_ns,
    threads: int = 1,
) -> None:
    """Measure each network (None: NETWORKS), say the lines of a table, write the same to `json_path`.

    All ranks call this. against: beside PyTorch. threads: of a rank; several are measured beside one.
    source: a file or an embedded set. say: nothing on ranks
    but 0. now: nanoseconds. InputError before anything is measured, ArithmeticError where sides disagree.
    """
    try:
        if against and threads > 1:
            raise InputError(f"--threads {threads}: are measured beside one thread; leave --against out")
        torch_version = pytorch.version(ranks) if against else None
        tasks = _tasks(networks or NETWORKS, source, batch, ranks)
        check_file("--json", json_path)
    except InputError:
        if ranks.rank > 0:
            ranks.barrier()  # rank 0 says it for all, and ends them
        raise
    about: dict[str, Any] = {"batch": batch, "ranks": ranks.size, "threads": threads, "vector_lanes": VECTOR}
    about |= {"processor": processor(), "torch_version": torch_version}
    say(_heading(about))
    measured: dict[str, Measured] = {}
    with pytorch.process_group(ranks) if against else contextlib.nullcontext():
        for task in tasks:
            found = _beside_one(task, threads, now) if threads > 1 else _measure(task, against, now)
            measured[task.name] = found
            say(_line(task.name, measured[task.name]))
    if json_path is not None and ranks.rank == 0:
        rates = {name: asdict(found) for name, found in measured.items()}
        write_whole(json_path, as_json({**about, "networks": rates}))


def _tasks(names: Sequence[str], source: str, batch: int, ranks: Ranks) -> list[Task]:
    """Each network with other images on each rank. InputError where they do not fit."""
    described = data.describe(data.locate(source))
    samples = batch * max(1, min(MOST_BATCHES, MOST_IMAGES // batch))
    tasks = []
    for name in dict.fromkeys(names):
        images = images_for(name, source, described, samples, ranks)
        stages = network.plan(zoo.layers(name, images.classes), images.shape)
        tasks.append(Task(name, stages, images, batch, ranks))
    return tasks


def _measure(task: Task, against: bool, now: Callable[[], int]) -> Measured:
    images, ours, ranks = task.batch * task.ranks.size, task.ours(0), task.ranks
    if not against:
        return Measured(task.images.source, images / float(np.median(_interleaved([ours], ranks, now))))
    checked = task.checked()
    pytorch.check(task.name, checked.stages, checked.ours, checked.peer, ranks)
    peer = _faster(ours, [task.peer(0, layout) for layout in pytorch.LAYOUTS], ranks, now)
    seconds = _interleaved([ours, peer], ranks, now)
    ours_rate, torch_rate = (images / np.median(seconds, axis=0)).tolist()
    ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
    return Measured(task.images.source, ours_rate, torch_rate, ratio, peer.layout)


def _beside_one(task: Task, threads: int, now: Callable[[], int]) -> Measured:
    with Team(threads) as team:
        seconds = _interleaved([task.ours(0, team), task.ours(0)], task.ranks, now)
    rate = task.batch * task.ranks.size / float(np.median(seconds[:, 0]))
    times = float(np.median(seconds[:, 1] / seconds[:, 0]))
    return Measured(task.images.source, rate, times_one_thread=times)


def _faster(ours: Ours, peers: Sequence[Peer], ranks: Ranks, now: Callable[[], int]) -> Peer:
    seconds = _race([ours, *peers], WARM_PAIRS, WARM_STEPS, ranks, now).min(axis=0)
    return peers[int(np.argmin(seconds[1:]))]


def _interleaved(sides: Sequence[Contestant], ranks: Ranks, now: Callable[[], int]) -> np.ndarray:
    """Seconds a step, (pair, side), for about SECONDS."""
    warm = _race(sides, WARM_PAIRS, WARM_STEPS, ranks, now).min(axis=0)
    steps = math.ceil(LEG_SECONDS / warm.min())
    pairs = max(FEWEST_PAIRS, int(SECONDS / (steps * warm.sum())))
    return _race(sides, pairs, steps, ranks, now)


def _race(
    sides: Sequence[Contestant], pairs: int, steps: int, ranks: Ranks, now: Callable[[], int]
) -> np.ndarray:
    """Seconds a step of the slowest rank, (pair, side). The sides take turns in who goes first."""
    elapsed = np.zeros((pairs, len(sides)), np.int64)
    for pair in range(pairs):
        for turn in range(len(sides)):
            side = (turn + pair) % len(sides)
            ranks.barrier()
            began = now()
            for step in range(steps):
                sides[side].step(pair * steps + step)
            elapsed[pair, side] = now() - began
    ranks.maximum(elapsed)
    return elapsed * 1e-9 / steps


def _heading(about: Mapping[str, Any]) -> str:
    threads = f"{about['threads']} threads" if about["threads"] > 1 else "one thread"
    ranks = f"{about['ranks']} rank{'s' if about['ranks'] > 1 else ''} of {threads}"
    lines = f"batch {about['batch']}, {ranks}, {about['vector_lanes']} vector lanes, {about['processor']}"
    columns = f"{'network':<18}{'images/s':>10}"
    if about["torch_version"]:
        how = ", DistributedDataParallel (gloo)" if about["ranks"] > 1 else ""
        lines += f"\nbeside PyTorch {about['torch_version']}{how}"
        columns += f"{'PyTorch':>10}{'ratio':>8}  {'layout':<13}"
    columns += f"{'1 thread':>10}" if about["threads"] > 1 else ""
    return f"{lines}\n\n{columns}  images"


def _line(name: str, measured: Measured) -> str:
    columns = f"{name:<18}{measured.images_per_second:>10,.0f}"
    if measured.torch_layout:
        columns += f"{measured.torch_images_per_second:>10,.0f}{measured.ratio:>8.2f}"
        columns += f"  {measured.torch_layout:<13}"
    columns += f"{measured.times_one_thread:>9.2f}x" if measured.times_one_thread else ""
    return f"{columns}  {measured.images}"
