"""Images per second of whole training steps, alone or beside PyTorch: the same network, weights and images, in interleaved pairs.

A step of ours fills the batch from bytes, runs forward and backward, over several ranks averages the gradient exactly, and updates
by SGD with momentum. Before anything is timed, both sides must come to the same loss, gradient and parameters.
"""

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distsgd import data, network, zoo
from distsgd.bench import pytorch
from distsgd.bench.pytorch import Peer
from distsgd.comm import MOST_WIDENINGS, Allreduce, Exact, Ranks, Verdict
from distsgd.config import InputError
from distsgd.data import Description
from distsgd.kernels.tile import VECTOR
from distsgd.metrics import score
from distsgd.network import Network, Stage, aligned
from distsgd.optim import Sgd

NETWORKS = ("garg", "rendon", "chavan-5-50-100", "lenet5", "cifar")
MADE_FOR = {"cifar": (32, 32, 3)}
"""Networks that want images (height, width, channels) of one kind only; the others take those that there are."""
CLASSES = 10
"""Of images made by chance."""
SGD = Sgd(learning_rate=0.001, momentum=0.9)
"""A small rate: whatever the network learns meanwhile, its numbers stay ordinary and its steps equally long."""

MOST_BATCHES, MOST_IMAGES = 16, 8192
"""Different batches that take turns; fewer where that many images would take too much memory."""
SECONDS = 8.0
"""How long a network's pairs take, about."""
LEG_SECONDS = 0.05
"""How long one side runs before it is the other's turn, at least."""
FEWEST_PAIRS, WARM_PAIRS, WARM_STEPS = 5, 5, 2

CHECKED_STEPS = 3
LOSS_TOLERANCE = 1e-5
TENSOR_TOLERANCE = 1e-3
"""Relative. Sums in another order differ by some 1e-6; where two values of a pooling window are that close, another one may win."""


class Contestant(Protocol):
    """A side of the comparison."""

    def step(self, number: int) -> Any:
        """One training step."""


@dataclass(frozen=True)
class Images:
    """A rank's images, uint8 (sample, height, width, channel), their labels, and where they are from."""

    images: np.ndarray
    labels: np.ndarray
    classes: int
    source: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    @property
    def scaling(self) -> np.ndarray:
        """(2, channels) float32, what `Network.fill` wants: mean and 1 / deviation."""
        deviation = self.images.std(axis=(0, 1, 2))
        return np.stack([self.images.mean(axis=(0, 1, 2)), 1 / np.where(deviation > 0, deviation, 1)]).astype(
            np.float32
        )

    def batches(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """The same as float32 (number, batch, channels, height, width) and int64 (number, batch), scaled like ours."""
        mean, inverse = self.scaling
        scaled = ((self.images.astype(np.float32) - mean) * inverse).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(scaled).reshape(-1, batch, *self.shape), self.labels.reshape(-1, batch)


@dataclass(frozen=True)
class Measured:
    """What a network came to: medians, images of all ranks. Without PyTorch its part is None."""

    images: str
    images_per_second: float
    torch_images_per_second: float | None = None
    ratio: float | None = None
    torch_layout: str | None = None


class Ours:
    """One rank's training steps by this package."""

    def __init__(
        self, stages: Sequence[Stage], start: np.ndarray, images: Images, batch: int, ranks: Ranks
    ) -> None:
        """start: flat parameters. images: a multiple of `batch`."""
        state = aligned(2 * start.size)
        self.parameters = state[: start.size]
        self.parameters[:] = start
        self.network = Network(stages, batch, self.parameters)
        self._images, self._order, self._scaling = images, np.arange(len(images.labels)), images.scaling
        self._ranks = ranks
        self._average = Exact(Allreduce(ranks), [tensor.size for tensor in network.tensors(stages)])
        self.gradient = self.network.gradient if ranks.size == 1 else aligned(start.size)
        self._optimizer = SGD.bind(state, self.gradient)

    def step(self, number: int) -> None:
        """The step of that number, counted from 0, on the batch whose turn it is."""
        batch = self.network.batch
        first = number * batch % len(self._order)
        self.network.fill(self._images.images, self._images.labels, self._order, first, batch, self._scaling)
        self.network.learn(0, self._ranks.rank, number)
        if self._ranks.size > 1:
            self._meet()
        self._optimizer.step(number + 1)

    def _meet(self) -> None:
        """Average the gradients of all ranks; the last average is the reference of the next."""
        for _ in range(MOST_WIDENINGS + 1):
            self._average.begin(self.gradient, self.network.batch * self._ranks.size)
            self._average.add(self.network.gradient, self.network.batch)
            self._average.exchange()
            verdict = self._average.finish(self.gradient)
            if verdict != Verdict.OVERFLOW:  # which leaves the reference as it was
                break
            self._average.widen()
        if verdict != Verdict.OK:
            raise ArithmeticError("the gradient became infinite or no number")


def training(
    ranks: Ranks,
    networks: Sequence[str] | None,
    batch: int,
    against: bool,
    source: str,
    json_path: Path | None,
    say: Callable[[str], None],
    now: Callable[[], int] = time.perf_counter_ns,
) -> None:
    """Measure each network (None: NETWORKS), say a table's lines on rank 0 and write them to `json_path`.

    against: beside PyTorch. source: a file or an embedded set. now: a clock in nanoseconds. All ranks call this. Raises InputError
    before anything is measured, and ArithmeticError where the two sides disagree.
    """
    try:
        torch_version = pytorch.version() if against else None
        planned = _plan(networks or NETWORKS, source, batch, ranks)
        _check_folder(json_path)
    except InputError:
        if ranks.rank > 0:
            ranks.barrier()  # rank 0 says it, and ends all
        raise
    about = {"batch": batch, "ranks": ranks.size, "threads": 1, "vector_lanes": VECTOR}
    about |= {"processor": processor(), "torch_version": torch_version}
    tell = say if ranks.rank == 0 else _nothing
    for line in _heading(about, against):
        tell(line)
    measured = {}
    with pytorch.process_group(ranks) if against else contextlib.nullcontext():
        for name, (images, stages) in planned.items():
            measured[name] = _measure(name, images, stages, batch, against, ranks, now)
            tell(_line(name, measured[name]))
    if json_path is not None and ranks.rank == 0:
        _write(json_path, {**about, "networks": {name: asdict(result) for name, result in measured.items()}})


def _nothing(line: str) -> None:
    """Rank 0 says it."""


def _plan(
    names: Sequence[str], source: str, batch: int, ranks: Ranks
) -> dict[str, tuple[Images, list[Stage]]]:
    """Each network's images and layers, different images on each rank. InputError where a network does not fit them."""
    described = data.describe(data.locate(source))
    samples = batch * max(1, min(MOST_BATCHES, MOST_IMAGES // batch))
    planned = {}
    for name in names:
        images = _images(name, source, described, samples, ranks)
        planned[name] = images, network.plan(zoo.layers(name, images.classes), images.shape)
    return planned


def _images(name: str, source: str, described: Description, samples: int, ranks: Ranks) -> Images:
    there = described.height, described.width, described.channels
    wanted = MADE_FOR.get(name, there)
    if wanted != there:
        chance = np.random.default_rng([0, ranks.rank])
        images = chance.integers(0, 256, (samples, *wanted), np.uint8)
        height, width, channels = wanted
        said = f"random: {source} has none of {height}x{width}x{channels}"
        return Images(images, chance.integers(0, CLASSES, samples), CLASSES, said)
    shuffled = data.shuffled(described.counts["train"], 0, 0, 0)
    rows = np.resize(shuffled, samples * ranks.size)[ranks.rank * samples :][:samples]
    labels = data.read_labels(described.path, "train")[rows]
    return Images(data.read_rows(described.path, "train", rows), labels, described.classes, source)


def _measure(
    name: str,
    images: Images,
    stages: list[Stage],
    batch: int,
    against: bool,
    ranks: Ranks,
    now: Callable[[], int],
) -> Measured:
    start = aligned(sum(tensor.size for tensor in network.tensors(stages)))
    network.initialize(start, stages, 0)
    ours = Ours(stages, start, images, batch, ranks)
    if not against:
        seconds = _interleaved([ours], ranks, now)
        return Measured(images.source, batch * ranks.size / float(np.median(seconds)))
    peers = [Peer(stages, start, *images.batches(batch), SGD, layout, ranks) for layout in pytorch.LAYOUTS]
    check(name, stages, start, ours, peers)
    warm = _race([ours, *peers], WARM_PAIRS, WARM_STEPS, ranks, now).min(axis=0)
    peer = peers[int(np.argmin(warm[1:]))]
    seconds = _interleaved([ours, peer], ranks, now)
    rates = batch * ranks.size / np.median(seconds, axis=0)
    ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
    return Measured(images.source, float(rates[0]), float(rates[1]), ratio, peer.layout)


def check(name: str, stages: Sequence[Stage], start: np.ndarray, ours: Ours, peers: Sequence[Peer]) -> None:
    """Take the first steps on both sides from `start`. ArithmeticError where loss, gradient or the way the parameters went differ."""
    sizes = [tensor.size for tensor in network.tensors(stages)]
    for number in range(CHECKED_STEPS):
        ours.step(number)
        losses = [float(peer.step(number)) for peer in peers]
        if number == 0:
            for peer, loss in zip(peers, losses, strict=True):
                _compare_losses(
                    f"{name}: the first loss, {peer.layout}", score(ours.network.totals).loss, loss
                )
                _compare(f"{name}: the first gradient, {peer.layout}", sizes, ours.gradient, peer.gradient)
    for peer in peers:
        said = f"{name}: the way of {CHECKED_STEPS} steps, {peer.layout}"
        _compare(said, sizes, ours.parameters - start, peer.parameters - start)


def _compare_losses(said: str, ours: float | None, theirs: float) -> None:
    if ours is None or not abs(ours - theirs) <= LOSS_TOLERANCE * abs(theirs):
        raise ArithmeticError(
            f"{said}: ours is {ours}, PyTorch's {theirs}; wanted: the same within {LOSS_TOLERANCE:.0e}"
        )


def _compare(said: str, sizes: Sequence[int], ours: np.ndarray, theirs: np.ndarray) -> None:
    """Tensor by tensor, the length of the difference against the length of PyTorch's."""
    ends = np.cumsum(sizes)[:-1]
    for number, (one, other) in enumerate(zip(np.split(ours, ends), np.split(theirs, ends), strict=True)):
        apart, length = np.linalg.norm(one - other), np.linalg.norm(other)
        if not apart <= TENSOR_TOLERANCE * length:  # no number is no agreement either
            raise ArithmeticError(
                f"{said}: tensor {number + 1} of {len(sizes)} is {apart / length:.1e} apart from PyTorch's; "
                f"wanted: at most {TENSOR_TOLERANCE:.0e}"
            )


def _interleaved(contestants: Sequence[Contestant], ranks: Ranks, now: Callable[[], int]) -> np.ndarray:
    """Seconds a step, (pair, contestant), for about SECONDS."""
    warm = _race(contestants, WARM_PAIRS, WARM_STEPS, ranks, now).min(axis=0)
    steps = math.ceil(LEG_SECONDS / warm.min())
    pairs = max(FEWEST_PAIRS, int(SECONDS / (steps * warm.sum())))
    return _race(contestants, pairs, steps, ranks, now)


def _race(
    contestants: Sequence[Contestant], pairs: int, steps: int, ranks: Ranks, now: Callable[[], int]
) -> np.ndarray:
    """Seconds a step of the slowest rank, (pair, contestant). The sides take turns in who goes first."""
    elapsed = np.zeros((pairs, len(contestants)), np.int64)
    for pair in range(pairs):
        for turn in range(len(contestants)):
            who = (turn + pair) % len(contestants)
            ranks.barrier()
            began = now()
            for step in range(steps):
                contestants[who].step(pair * steps + step)
            elapsed[pair, who] = now() - began
    ranks.maximum(elapsed)
    return elapsed * 1e-9 / steps


def processor() -> str:
    """The processor's name where the system tells (Linux), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _heading(about: Mapping[str, Any], against: bool) -> list[str]:
    ranks = f"{about['ranks']} rank{'s' if about['ranks'] > 1 else ''}, one thread each"
    first = f"batch {about['batch']}, {ranks}, {about['vector_lanes']} vector lanes, {about['processor']}"
    columns = f"{'network':<18}{'images/s':>10}"
    if not against:
        return [first, f"{columns}  images"]
    how = "DistributedDataParallel (gloo)" if about["ranks"] > 1 else "one thread"
    return [
        f"{first}; PyTorch {about['torch_version']}, {how}",
        f"{columns}{'PyTorch':>10}{'ratio':>8}  {'layout':<15}images",
    ]


def _line(name: str, measured: Measured) -> str:
    line = f"{name:<18}{measured.images_per_second:>10,.0f}"
    if measured.ratio is not None:
        line += (
            f"{measured.torch_images_per_second:>10,.0f}{measured.ratio:>8.2f}  {measured.torch_layout:<15}"
        )
        return line + measured.images
    return f"{line}  {measured.images}"


def _check_folder(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError(f"--json {path}: there is no folder {path.absolute().parent}")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Beside, then renamed."""
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"--json {path}: can't be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
