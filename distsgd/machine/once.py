"""What is done once a run or once an epoch: loading kernels, reading, dealing and ordering images, writing files."""

import os
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
EVERY = 16
"""One image of so many is kept, to tell reading from keeping: there is one in every block that a file is read by."""

LOAD = "import time, distsgd.cli; began = time.perf_counter(); import distsgd.kernels; print(time.perf_counter() - began)"
"""What times the loading, after the imports that come before it in a run."""


def once(path: Path, image_bytes: int) -> dict[str, float]:
    """Seconds: of loading kernels; of opening a file, of a byte that is read, and of one that is kept; of an image dealt and
    ordered; of a file that is written, and of a byte in it.
    """
    few, many = (_shortest(partial(_deal, n)) for n in (FEW, MANY))
    small, large = (_shortest(partial(_write, 100 * n)) for n in (FEW, MANY))
    images = data.describe(path).counts["train"]
    rows = np.random.default_rng(0).permutation(images)
    nothing, some, all_of_it = (
        _shortest(partial(_read, path, r)) for r in (rows[:0], np.arange(0, images, EVERY), rows)
    )
    size = images * image_bytes
    kept = max(all_of_it - some, 0.0) / size * EVERY / (EVERY - 1)
    return {
        "compile": min(loading() for _ in range(2)),  # the first finds files that no cache holds any more
        "open": nothing,
        "scan": max((all_of_it - nothing) / size - kept, 0.0),
        "read": kept,
        "deal": many / MANY if many < few else (many - few) / (MANY - FEW),
        "file": small,
        "byte": max(large - small, 0.0) / (100 * (MANY - FEW)),
    }


def loading() -> float:
    """Seconds in which another process loads kernels that are compiled, as every run does: this one may have compiled them."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # -P: not what lies in the current folder.
    done = subprocess.run([sys.executable, "-P", "-c", LOAD], env=environ, stdout=subprocess.PIPE, check=True)
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
