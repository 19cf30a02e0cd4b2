"""What is done once a run or once an epoch: loading kernels, reading, dealing and ordering images, writing files."""

import subprocess
import sys
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
SOME = 16
"""Images that are kept of all: to find them all are read."""


LOAD = "import time, distsgd.cli; began = time.perf_counter(); import distsgd.kernels; print(time.perf_counter() - began)"


def once(path: Path, image_bytes: int) -> dict[str, float]:
    """Seconds: of loading kernels; of opening a file, of a byte that is read, and of one that is kept; of an image dealt and
    ordered; of a file that is written, and of a byte in it.
    """
    few, many = (_shortest(partial(_deal, n)) for n in (FEW, MANY))
    small, large = (_shortest(partial(_write, 100 * n)) for n in (FEW, MANY))
    images = data.describe(path).counts["train"]
    kept = np.arange(0), np.linspace(0, images - 1, SOME), np.random.default_rng(0).permutation(images)
    nothing, some, all_of_it = (_shortest(partial(_read, path, rows.astype(np.int64))) for rows in kept)
    return {
        "compile": min(loading() for _ in range(2)),  # what nobody read for a minute takes longer
        "open": nothing,
        "scan": max(some - nothing, 0.0) / (images * image_bytes),
        "read": max(all_of_it - some, 0.0) / (images * image_bytes),
        "deal": many / MANY if many < few else (many - few) / (MANY - FEW),
        "file": small,
        "byte": max(large - small, 0.0) / (100 * (MANY - FEW)),
    }


def loading() -> float:
    """Seconds in which another process loads kernels that are compiled, as every run does: this one may have compiled them."""
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _shortest(do: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        do()
        best = min(best, time.perf_counter() - began)
    return best


def _read(path: Path, rows: np.ndarray) -> None:
    described = data.describe(path)
    found = data.read_rows(path, "train", rows)
    data.read_labels(path, "train")
    moments(found, np.zeros((2, described.channels), np.int64))


def _deal(images: int) -> None:
    shards = data.deal(np.arange(images) % 10, 2, 0, 0)
    for shard in shards:
        data.shuffled(len(shard), 0, 0, 0)


def _write(size: int) -> None:
    with tempfile.TemporaryDirectory(prefix="distsgd-") as folder:
        write_whole(Path(folder) / "file", bytes(size))
