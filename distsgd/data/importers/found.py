"""What an importer finds in a source, and what a person may ask of one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distsgd.data.layout import rows_per_block, rows_per_chunk

Block = tuple[str, np.ndarray, np.ndarray]
"""A split, images uint8 (sample, height, width, channel) and labels int64 (sample)."""


@dataclass(frozen=True)
class Choices:
    """What may be chosen for pictures: `size` (height, width), the splits and what is not to stop an import.

    blurs: splits whose pictures are blurred, and the deviation of that Gaussian in pixels of theirs, which is undone.
    """

    size: tuple[int, int] | None = None
    grey: bool = False
    patterns: tuple[tuple[str, str], ...] = ()
    test_fraction: float = 0.0
    skip_broken: bool = False
    blurs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Found:
    """Images of one `shape`, read when `blocks` is drawn from. `broken` grows with what is passed over."""

    shape: tuple[int, int, int]
    source: str
    class_names: tuple[str, ...]
    blocks: Iterator[Block]
    broken: list[str] = field(default_factory=list)


Say = Callable[[str], None]


def block_rows(shape: tuple[int, int, int]) -> int:
    """How many images of `shape` to read at a time."""
    image_bytes = shape[0] * shape[1] * shape[2]
    return rows_per_block(image_bytes, rows_per_chunk(image_bytes))


def gathered(samples: Iterator[tuple[str, np.ndarray, int]], shape: tuple[int, int, int]) -> Iterator[Block]:
    """Blocks of single samples (split, image of `shape`, label), each split's in order; one buffer a split."""
    buffers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    used: dict[str, int] = {}
    rows = block_rows(shape)
    for split, image, label in samples:
        if split not in buffers:
            buffers[split] = np.empty((rows, *shape), np.uint8), np.empty(rows, np.int64)
        images, labels = buffers[split]
        position = used.get(split, 0)
        images[position], labels[position] = image, label
        used[split] = (position + 1) % rows
        if position + 1 == rows:
            yield split, images, labels
    for split, (images, labels) in buffers.items():
        yield split, images[: used[split]], labels[: used[split]]


def title(source: Path) -> str:
    """The source's own name, in printable characters, as a file of images records it."""
    return "".join(letter if letter.isprintable() else "?" for letter in source.resolve().name)
