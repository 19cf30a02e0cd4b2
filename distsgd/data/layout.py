"""The layout of a file of images: what its writer and its reader must agree on.

Root attributes `format`, `classes` (how many), `class_names` (where known), `source` and `sha256`; groups
`train` and `test`, each with `images` uint8 (sample, height, width, channel), chunked by samples, and
`labels` int64 (sample), both with checksums (fletcher32) and perhaps gzip. A group `validation` of the same
kind may stand beside them.
"""

import hashlib
import math
from pathlib import Path
from typing import final

import numpy as np

from distsgd.config import InputError

FORMAT = "distsgd-images-1"
REQUIRED = ("train", "test")
SPLITS = (*REQUIRED, "validation")

# What is read or written at a time. Keeping rows of a block copies them, so up to twice this is in use.
BLOCK_BYTES = 4 << 20
# Few chunks to look up, little space left over in the last, and all of a chunk within HDF5's cache.
CHUNK_BYTES = 1 << 18
LABELS_PER_CHUNK = 8192

# Far beyond any set of images, and small enough that no file can make a reader ask for memory without end.
MOST_IMAGE_BYTES = 64 << 20
MOST_CHUNK_BYTES = 64 << 20
MOST_SPLIT_BYTES = 1 << 40
MOST_SAMPLES = 100_000_000
MOST_CLASSES = 1 << 20


def rows_per_chunk(image_bytes: int) -> int:
    """How many images of `image_bytes` bytes a new file's chunk holds."""
    return max(1, CHUNK_BYTES // image_bytes)


def rows_per_block(image_bytes: int, chunk_rows: int) -> int:
    """How many images to read or write at a time: whole chunks, so that none is decoded or encoded twice."""
    return max(1, BLOCK_BYTES // (image_bytes * chunk_rows)) * chunk_rows


def check_image_shape(origin: Path, shape: tuple[int, ...]) -> None:
    """Raise InputError, naming `origin`, unless images may have this `shape` (height, width, channel)."""
    if min(shape) < 1 or math.prod(shape) > MOST_IMAGE_BYTES:
        raise InputError(
            f"{origin}: images of {' x '.join(map(str, shape))} (height x width x channel); "
            f"wanted: at least one of each and at most {MOST_IMAGE_BYTES:,} bytes an image"
        )


@final
class ContentHash:
    """SHA-256 over images and labels of all splits, fed block by block; chunks and filters do not matter."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        streams = [f"{split}/{name}" for split in SPLITS for name in ("images", "labels")]
        self._streams = {stream: hashlib.sha256() for stream in streams}
        self._rows = dict.fromkeys(streams, 0)

    def update(self, split: str, name: str, block: np.ndarray) -> None:
        """Take in the next rows of `split`'s `name` ("images" or "labels")."""
        stream = f"{split}/{name}"
        self._streams[stream].update(
            np.ascontiguousarray(block, "<i8" if name == "labels" else np.uint8).data
        )
        self._rows[stream] += len(block)

    def hexdigest(self) -> str:
        """The hash of the image shape and of every stream's row count and own hash, one line each.

        A split that may be absent and is has no line: files with and without it are different content.
        """
        lines = ["images {} {} {}".format(*self._shape)]
        for name, stream in self._streams.items():
            if self._rows[name] or name.startswith(REQUIRED):
                lines.append(f"{name} {self._rows[name]} {stream.hexdigest()}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
