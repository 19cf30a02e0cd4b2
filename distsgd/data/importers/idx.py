"""Import a folder of IDX files, the format of MNIST and its kin, as they are or with gzip."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from distsgd.config import InputError
from distsgd.data.importers.found import Block, Choices, Found, Say, block_rows, title
from distsgd.data.layout import check_image_shape

_PREFIXES = {"train": "train", "test": "t10k"}
# The third byte is the type (8: unsigned byte), the fourth the number of dimensions.
_MAGIC = {"images": b"\x00\x00\x08\x03", "labels": b"\x00\x00\x08\x01"}


@dataclass(frozen=True)
class _Idx:
    """An open file behind its header, and the sizes that the header states."""

    path: Path
    stream: BinaryIO
    shape: tuple[int, ...]


@contextmanager
def read_idx(source: Path, choices: Choices, say: Say) -> Iterator[Found]:
    """What is in MNIST's four files in the folder `source`: `train-` and `t10k-`, `images-idx3-ubyte` and
    `labels-idx1-ubyte`, also spelt `.idx3-ubyte` and with `.gz`. Raises InputError for files that are missing,
    damaged or do not belong together.
    """
    paths = _find(source)
    with ExitStack() as stack:
        opened = {key: stack.enter_context(_opened(path, key[1])) for key, path in paths.items()}
        shape = _common_shape(opened)
        blocks = (
            block
            for split in _PREFIXES
            for block in _blocks(split, opened[split, "images"], opened[split, "labels"], shape)
        )
        yield Found(shape, f"IDX files in {title(source)}", (), blocks)


def is_idx(name: str) -> bool:
    """Whether a file of this name is one of the four."""
    return any(name in _spellings(prefix, kind) for prefix in _PREFIXES.values() for kind in _MAGIC)


def _find(folder: Path) -> dict[tuple[str, str], Path]:
    """The path of each (split, kind), in the first spelling that is there."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; wanted: a folder of IDX files as MNIST's")
    found: dict[tuple[str, str], Path] = {}
    missing = []
    for split, kind in product(_PREFIXES, _MAGIC):
        names = _spellings(_PREFIXES[split], kind)
        present = next((folder / name for name in names if (folder / name).is_file()), None)
        if present:
            found[split, kind] = present
        else:
            missing.append(names[0])
    if missing:
        there = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
        raise InputError(
            f"{folder}: missing {', '.join(missing)} (or with .gz); the folder has: {shown or 'nothing'}"
        )
    return found


def _spellings(prefix: str, kind: str) -> list[str]:
    """The names that a file may have, MNIST's own first."""
    rank = _MAGIC[kind][3]
    return [f"{prefix}-{kind}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in ("", ".gz")]


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[_Idx]:
    """The file, open behind its header. Raises InputError for a header that is not one of this `kind`."""
    with _unpacked(path) as stream:
        magic, wanted = _read(path, stream, 4), _MAGIC[kind]
        if magic != wanted:
            raise InputError(
                f"{path}: begins with {magic.hex(' ')}; wanted: {wanted.hex(' ')} (IDX {kind}, bytes)"
            )
        yield _Idx(path, stream, struct.unpack(f">{magic[3]}I", _read(path, stream, 4 * magic[3])))


def _unpacked(path: Path) -> BinaryIO:
    """The bytes of the file, without its gzip if its name says that it has one."""
    try:
        return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: can not be opened: {error.strerror}") from error


def _common_shape(files: dict[tuple[str, str], _Idx]) -> tuple[int, int, int]:
    """(height, width, 1) of all images, once the four headers agree with each other."""
    for split in _PREFIXES:
        images, labels = files[split, "images"], files[split, "labels"]
        if images.shape[0] != labels.shape[0]:
            counts = f"{images.shape[0]:,} images, {labels.path.name} has {labels.shape[0]:,} labels"
            raise InputError(f"{images.path}: {counts}; wanted: one label for each image")
        check_image_shape(images.path, (*images.shape[1:], 1))
    train, test = files["train", "images"], files["test", "images"]
    if train.shape[1:] != test.shape[1:]:
        shapes = f"images of {test.shape[1:]}, but {train.shape[1:]} in {train.path.name}"
        raise InputError(f"{test.path}: {shapes}; wanted: one shape")
    return train.shape[1], train.shape[2], 1


def _blocks(split: str, images: _Idx, labels: _Idx, shape: tuple[int, int, int]) -> Iterator[Block]:
    """A split block by block; then both files must end where their headers say."""
    count, image_bytes = images.shape[0], shape[0] * shape[1]
    step = block_rows(shape)
    for start in range(0, count, step):
        rows = min(step, count - start)
        pixels = np.frombuffer(_read(images.path, images.stream, rows * image_bytes), np.uint8)
        values = np.frombuffer(_read(labels.path, labels.stream, rows), np.uint8)
        yield split, pixels.reshape(rows, *shape), values.astype(np.int64)
    for file in (images, labels):
        if _read(file.path, file.stream, 1, short=True):
            raise InputError(f"{file.path}: goes on behind the {count:,} entries that its header states")


def _read(path: Path, stream: BinaryIO, size: int, short: bool = False) -> bytes:
    """The next `size` bytes, fewer only if `short`. Raises InputError if the file is cut off or damaged."""
    try:
        data = stream.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: can not be read (truncated, damaged or not gzip): {error}") from error
    if len(data) < size and not short:
        raise InputError(f"{path}: truncated: ends {size - len(data):,} bytes before what its header states")
    return data
