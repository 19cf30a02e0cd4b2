"""What is done once a run or once an epoch: reading, dealing and ordering images, writing files."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from distsgd import data
from distsgd.kernels.batch import moments
from distsgd.record import write_whole

MANY, FEW = 64_000, 8_000
"""Images that are dealt, and bytes / 100 of files that are written."""


def once(path: Path, image_bytes: int) -> dict[str, float]:
    """Seconds: of opening a file, of a byte read, of an image dealt and ordered, of a file written and of a byte in it."""
    few, many = (_shortest(partial(_deal, n)) for n in (FEW, MANY))
    small, large = (_shortest(partial(_write, 100 * n)) for n in (FEW, MANY))
    images = data.describe(path).counts["train"]
    little, all_of_it = (_shortest(partial(_read, path, n)) for n in (16, images))
    return {
        "open": little,
        "read": max(all_of_it - little, 0.0) / (images * image_bytes),
        "deal": many / MANY if many < few else (many - few) / (MANY - FEW),
        "file": small,
        "byte": max(large - small, 0.0) / (100 * (MANY - FEW)),
    }


def _shortest(do: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        do()
        best = min(best, time.perf_counter() - began)
    return best


def _read(path: Path, images: int) -> None:
    described = data.describe(path)
    found = data.read_rows(path, "train", np.arange(images))
    data.read_labels(path, "train")
    moments(found, np.zeros((2, described.channels), np.int64))


def _deal(images: int) -> None:
    shards = data.deal(np.arange(images) % 10, 2, 0, 0)
    for shard in shards:
        data.shuffled(len(shard), 0, 0, 0)


def _write(size: int) -> None:
    with tempfile.TemporaryDirectory(prefix="distsgd-") as folder:
        write_whole(Path(folder) / "file", bytes(size))
