"""Small sets of images to test with: arrays, and IDX files made from them."""

import gzip
import struct
from pathlib import Path

import numpy as np

from distsgd.data import Description, writing

SHAPE = (5, 4, 1)
NAMES = ("ant", "bee", "cat")
CLASSES = 3
Samples = tuple[np.ndarray, np.ndarray]


def samples(count: int, seed: int) -> Samples:
    """Random images uint8 (count, 5, 4, 1) and labels int64 (count) of three classes."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, *SHAPE), np.uint8), np.arange(count) % CLASSES


def write_store(
    path: Path, train: Samples, test: Samples, compress: bool = False, names: tuple[str, ...] = NAMES
) -> None:
    """Write a file of images in two pieces a split, as importers do."""
    with writing(path, SHAPE, "random numbers", names, compress) as writer:
        for split, (images, labels) in (("train", train), ("test", test)):
            writer.append(split, images[:3], labels[:3])
            writer.append(split, images[3:], labels[3:])


def idx_bytes(values: np.ndarray) -> bytes:
    """Return the array as an IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_idx(folder: Path, train: Samples, test: Samples, mark: str = "-", end: str = ".gz") -> None:
    """Write the four files as MNIST names them; `mark` and `end` choose the spelling."""
    folder.mkdir(exist_ok=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        for name, values in ((f"images{mark}idx3", images[..., 0]), (f"labels{mark}idx1", labels)):
            data = idx_bytes(values)
            path = folder / f"{prefix}-{name}-ubyte{end}"
            path.write_bytes(gzip.compress(data, 1) if end == ".gz" else data)


def facts(description: Description) -> tuple[object, ...]:
    """Return all that a description says but where the file is and where its images are from."""
    shape = (description.height, description.width, description.channels)
    return shape, description.classes, description.counts, description.sha256
