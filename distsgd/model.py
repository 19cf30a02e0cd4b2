"""A trained network: takes images as they are in files, says which class each is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distsgd import config, data, network, zoo
from distsgd.comm import Alone, Ranks
from distsgd.config import InputError
from distsgd.data.layout import check_image_shape
from distsgd.kernels.vector import aligned
from distsgd.layers import Shape
from distsgd.metrics import ByClass, Score, Tally, by_class, score
from distsgd.network import Network, Stage
from distsgd.record import Stored, read_model

BATCH = 32
"""Images judged at a time; what is said of one does not depend on it."""
BLOCK_BYTES = 32 << 20
"""Images are read from a file in parts of about so many bytes."""


def stages(settings: config.Network, classes: int, shape: Shape) -> list[Stage]:
    """The plan of the network that a config's section [network] asks for. InputError where it does not fit `shape`."""
    return network.plan(zoo.chosen(settings, classes), shape)


def judge(
    judging: Network,
    images: np.ndarray,
    labels: np.ndarray,
    scaling: np.ndarray,
    tally: Tally,
    weighted: bool = False,
    impatient: Callable[[], bool] = lambda: False,
) -> None:
    """Add what the network says of all images to its totals, losses weighted by class where asked, and to the tally.

    Leaves off where `impatient` says so, asked before every batch.
    """
    order = np.arange(len(labels))
    for first in range(0, len(order), judging.batch):
        if impatient():
            return
        count = min(judging.batch, len(order) - first)
        judging.batches[0].fill(images, labels, order, first, count, scaling)
        judging.judge(weighted)
        judging.confuse(tally)


@dataclass(frozen=True)
class Evaluation:
    """What a network said of a split of images: the same on any number of ranks."""

    score: Score
    by_class: ByClass


class Model:
    """A trained network. Not for two threads at once: it works in memory of its own.

    parameters: one float32 vector. scaling: (2, channels) float32, mean and 1 / deviation of the bytes. class_names: as many as
    classes, or none where they are not known. shape: (channels, height, width) of images, of which the network may see a window in
    the middle only.
    """

    def __init__(
        self,
        plan: Sequence[Stage],
        parameters: np.ndarray,
        scaling: np.ndarray,
        class_names: Sequence[str],
        shape: Shape,
    ) -> None:
        self._network = Network(plan, BATCH, parameters)
        self.parameters, self.scaling, self.class_names = parameters, scaling, tuple(class_names)
        channels, height, width = shape
        self.image_shape, self.classes = (height, width, channels), plan[-1].output[0]

    def scores(self, images: np.ndarray) -> np.ndarray:
        """The scores of images, uint8 (n, height, width, channels): float32 (n, classes); of a single image, (classes)."""
        several = self._checked(images)
        found = np.empty((len(several), self.classes), np.float32)
        order, labels = np.arange(len(several)), np.zeros(len(several), np.int64)
        for first in range(0, len(several), BATCH):
            count = min(BATCH, len(several) - first)
            self._network.batches[0].fill(several, labels, order, first, count, self.scaling)
            self._network.judge()
            found[first : first + count] = self._network.scores.units[:, :count].T
        return found if np.ndim(images) == 4 else found[0]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """The softmax of the scores: float32, in the same shape; each image's sum to 1."""
        scores = self.scores(images).astype(np.float64)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        return np.asarray(shares / shares.sum(-1, keepdims=True), np.float32)

    def predict(self, images: np.ndarray) -> Any:
        """The class of each image: int64 (n), or one number for a single image; -1 where a score is no number."""
        scores = self.scores(images)
        return np.where(np.isnan(scores).any(-1), -1, scores.argmax(-1))[()]

    def evaluate(self, path: str | Path, split: str = "test", ranks: Ranks | None = None) -> Evaluation:
        """Judge a split of a file of images, or of an embedded set; with `ranks`, each judges its part.

        InputError where it does not fit.
        """
        ranks, described = ranks or Alone(), self.fitting(path, split)
        first, last = data.contiguous(described.counts[split], ranks.size, ranks.rank)
        tally = Tally(self.classes)
        self._network.totals[:] = 0
        labels = data.read_labels(described.path, split)
        step = max(BATCH, BLOCK_BYTES // int(np.prod(self.image_shape)))
        for start in range(first, last, step):
            rows = np.arange(start, min(start + step, last))
            images = data.read_rows(described.path, split, rows)
            judge(self._network, images, labels[rows], self.scaling, tally)
        totals = self._network.totals.copy()
        ranks.sum(totals)
        ranks.sum(tally.counts)
        return Evaluation(score(totals), by_class(tally, int(totals[0])))

    def fitting(self, path: str | Path, split: str) -> data.Description:
        """What a file of images says of itself. InputError unless it has this split, and images and classes as this network's."""
        described = data.describe(data.locate(path))
        there, problems = (described.height, described.width, described.channels), []
        if there != self.image_shape:
            problems.append(
                f"{path} has images of {_times(there)}; the network takes {_times(self.image_shape)}"
            )
        if described.classes != self.classes:
            problems.append(f"{path} has {described.classes} classes; the network knows {self.classes}")
        if split not in described.counts:
            problems.append(f"{path} has no split {split!r}; it has {', '.join(described.counts)}")
        if problems:
            raise InputError("\n".join(problems))
        return described

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[-3:] != self.image_shape or images.ndim not in (3, 4):
            raise InputError(
                f"images of {images.dtype} {images.shape}; the network takes uint8, {_times(self.image_shape)} "
                "(height x width x channels), one or, with an axis before these, several"
            )
        return np.ascontiguousarray(images).reshape(-1, *self.image_shape)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(length) for length in shape)


def load(run: str | Path) -> Model:
    """The network that a run trained. InputError where RUN/model.h5 is not there or not whole."""
    stored = read_model(Path(run).expanduser())
    plan, about = _plan(stored), stored.about
    scaling = np.array(about.scaling, np.float32)
    parameters = aligned(stored.parameters.size)
    np.copyto(parameters, stored.parameters)
    return Model(plan, parameters, scaling, about.class_names, about.image_shape)


def _plan(stored: Stored) -> list[Stage]:
    """The network that the file describes, if its parts agree."""
    about, path = stored.about, stored.path
    channels, height, width = about.image_shape
    check_image_shape(path, (height, width, channels))
    if (
        about.seen_shape[0] != channels
        or not 0 < about.seen_shape[1] <= height
        or not 0 < about.seen_shape[2] <= width
    ):
        raise InputError(f"{path}: the network sees {about.seen_shape} of images of {about.image_shape}")
    if {len(row) for row in about.scaling} != {channels} or len(about.class_names) not in (0, about.classes):
        raise InputError(f"{path}: scaling, class names, channels and classes do not agree in number")
    try:
        plan = stages(about.network, about.classes, about.seen_shape)
    except InputError as error:
        raise InputError(f"{path}: its network can not be built: {error}") from None
    wanted = [(tensor.name, tuple(tensor.shape)) for tensor in network.tensors(plan)]
    size = sum(tensor.size for tensor in network.tensors(plan))
    if [(place.name, place.shape) for place in stored.tensors] != wanted or size != stored.parameters.size:
        raise InputError(f"{path}: its tensors are not those of the network {about.network.name!r}")
    return plan
