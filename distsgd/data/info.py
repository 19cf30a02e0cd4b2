"""What is in a file of images, for people to read, and whether its content is whole."""

import math
from pathlib import Path

import numpy as np

from distsgd.config import InputError
from distsgd.data.checks import checked
from distsgd.data.layout import FORMAT, ContentHash
from distsgd.data.store import Description, blocks, describe, opened, read_labels

_UNLIKE = 3.0
"""Parts of one set differ by a few percent in their edges; a blur by one pixel takes four fifths of a photograph's."""


def verify(path: str | Path) -> Description:
    """Read all of every split and compare their hash with the recorded one. Raises InputError."""
    return _read(path)[0]


def _read(path: str | Path) -> tuple[Description, "_Moments", dict[str, float]]:
    description = describe(path)
    content = ContentHash((description.height, description.width, description.channels))
    moments, edges = _Moments(description.channels), {split: _Edges() for split in description.counts}
    with opened(description.path) as file:
        for split in description.counts:
            for name in ("images", "labels"):
                for _, block in blocks(checked(description.path, file, split, name)):
                    content.update(split, name, block)
                    if (split, name) == ("train", "images"):
                        moments.update(block)
                    if name == "images":
                        edges[split].update(block)
    if content.hexdigest() != description.sha256:
        raise InputError(
            f"{path}: content has sha256 {content.hexdigest()}; the file was made with {description.sha256}"
        )
    return description, moments, {split: sharp.root_mean_square() for split, sharp in edges.items()}


class _Edges:
    """How sharp images are: the root of the mean square of their Laplacian, from sums of whole numbers."""

    def __init__(self) -> None:
        self._count = self._sum = 0

    def update(self, images: np.ndarray) -> None:
        """Take in images uint8 (sample, height, width, channel), less their borders."""
        values = images.astype(np.int16)
        across = values[:, 1:-1, :-2] + values[:, 1:-1, 2:]
        down = values[:, :-2, 1:-1] + values[:, 2:, 1:-1]
        inner = 4 * values[:, 1:-1, 1:-1] - across - down
        self._count += inner.size
        self._sum += int(np.square(inner, dtype=np.int32).sum(dtype=np.int64))

    def root_mean_square(self) -> float:
        return math.sqrt(self._sum / max(1, self._count))


class _Moments:
    """Mean and deviation of each channel, from sums of whole numbers: exact whatever the size of the set."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sums = [(0, 0)] * channels

    def update(self, block: np.ndarray) -> None:
        """Take in images uint8 (sample, height, width, channel)."""
        squares = np.multiply(block, block, dtype=np.uint16)
        self._count += block[..., 0].size
        self._sums = [
            (
                first + int(block[..., c].sum(dtype=np.uint64)),
                second + int(squares[..., c].sum(dtype=np.uint64)),
            )
            for c, (first, second) in enumerate(self._sums)
        ]

    def mean(self) -> list[float]:
        return [first / self._count for first, _ in self._sums]

    def deviation(self) -> list[float]:
        return [math.sqrt(second * self._count - first**2) / self._count for first, second in self._sums]


def summary(path: str | Path) -> str:
    """Several lines about the file: where from, shape, counts, pixels, hash. Raises InputError if it is not whole."""
    description, moments, sharpness = _read(path)
    size = description.path.stat().st_size
    shape = " x ".join(map(str, (description.height, description.width, description.channels)))
    facts = {
        "path": str(description.path),
        "format": FORMAT,
        "source": description.source,
        "images": f"{shape} (height x width x channel), uint8",
        "counts": ", ".join(f"{count:,} {split}" for split, count in description.counts.items()),
        "classes": f"{description.classes:,}",
        "pixels": f"mean {_row(moments.mean())}, deviation {_row(moments.deviation())} (train, of 0 to 255, by channel)",
        "edges": _compared(sharpness),
        "size": f"{size / 1e6:.1f} MB on disk ({size:,} bytes)",
        "sha256": f"{description.sha256} (content is whole)",
    }
    return "\n".join([*(f"{name:<8} {fact}" for name, fact in facts.items()), "", *_class_table(description)])


def _compared(sharpness: dict[str, float]) -> str:
    """The sharpness of each split, and whether they differ: networks trained on blurred images fail on sharp ones."""
    shown = ", ".join(f"{value:.2f} {split}" for split, value in sharpness.items())
    shown += " (root mean square of the Laplacian)"
    if max(sharpness.values()) <= _UNLIKE * min(sharpness.values()):
        return shown
    return (
        f"{shown}: NOT EQUALLY SHARP, what is learnt from one split may not hold for another "
        "(pictures can be imported with --blurred SPLIT=SIGMA, which sharpens them)"
    )


def _row(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _class_table(description: Description) -> list[str]:
    """A line for each class: its number, its name where known, how many samples each split has of it."""
    counts = [
        np.bincount(read_labels(description.path, split), minlength=description.classes)
        for split in description.counts
    ]
    names = description.class_names or ("",) * description.classes
    titles = [f"{label} {name}".rstrip() for label, name in enumerate(names)]
    width = max(len("class"), *map(len, titles))
    lines = [f"{'class':<{width}}" + "".join(f"{split:>12}" for split in description.counts)]
    for title, row in zip(titles, zip(*counts, strict=True), strict=True):
        lines.append(f"{title:<{width}}" + "".join(f"{count:>12,}" for count in row))
    return lines
