"""Read a file of images, trusting nothing in it: whatever is wrong is one InputError that names the file."""

import contextlib
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from distsgd.config import InputError
from distsgd.data.checks import check_unpacked, checked
from distsgd.data.layout import (
    FORMAT,
    MOST_CLASSES,
    REQUIRED,
    SPLITS,
    rows_per_block,
)

_MOST_ATTRIBUTE_BYTES = 64 << 20


@dataclass(frozen=True)
class Description:
    """What a file of images says of itself: `counts` of samples by split, `sha256` over their content.

    The splits are `train` and `test`, and `validation` where the file has one.
    """

    path: Path
    height: int
    width: int
    channels: int
    classes: int
    counts: dict[str, int]
    source: str
    sha256: str
    class_names: tuple[str, ...] = ()


def describe(path: str | Path) -> Description:
    """Open the file, check all of it but the images' own bytes, and close it. Raises InputError."""
    path = Path(path)
    with opened(path) as file:
        splits = [split for split in SPLITS if split in REQUIRED or file.get(split, getlink=True)]
        images = {split: checked(path, file, split, "images") for split in splits}
        if len({dataset.shape[1:] for dataset in images.values()}) > 1:
            raise InputError(
                f"{path}: {', '.join(splits)} have images of different shapes; wanted: one shape"
            )
        for split in splits:
            _labels(path, file, split)
        height, width, channels = images["train"].shape[1:]
        sha256 = _text(path, file, "sha256")
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise InputError(f"{path}: attribute sha256 is {sha256!r}; wanted: 64 hexadecimal digits")
        return Description(
            path,
            height,
            width,
            channels,
            classes=_classes(path, file),
            counts={split: len(dataset) for split, dataset in images.items()},
            source=_text(path, file, "source"),
            sha256=sha256,
            class_names=_class_names(path, file),
        )


def read_labels(path: str | Path, split: str) -> np.ndarray:
    """All labels of `split`, int64 (sample), each in 0..classes-1. Raises InputError."""
    with opened(Path(path)) as file:
        return _labels(Path(path), file, split)


def read_rows(path: str | Path, split: str, rows: np.ndarray) -> np.ndarray:
    """The images numbered `rows` (int64, any order), in that order: uint8 (row, height, width, channel).

    Reads whole blocks one after another and keeps the rows asked for: far quicker than asking HDF5 for single
    rows. Takes the memory of the result and some 8 MiB. Raises InputError for the file, IndexError for a row
    that the split does not have.
    """
    with opened(Path(path)) as file:
        images = checked(Path(path), file, split, "images")
        if len(rows) and (rows.min() < 0 or rows.max() >= len(images)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(images)} images in {split}")
        result = np.empty((len(rows), *images.shape[1:]), np.uint8)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        for start, block in blocks(images, ascending):
            first, last = np.searchsorted(ascending, (start, start + len(block)))
            result[order[first:last]] = block[ascending[first:last] - start]
        return result


def blocks(dataset: h5py.Dataset, ascending: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(start, rows) block by block, in one buffer used again; only blocks that hold some `ascending` row."""
    row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    step = rows_per_block(row_bytes, dataset.chunks[0])
    buffer = np.empty((min(step, len(dataset)), *dataset.shape[1:]), dataset.dtype)
    for start in range(0, len(dataset), step):
        stop = min(start + step, len(dataset))
        if ascending is not None and np.equal(*np.searchsorted(ascending, (start, stop))):
            continue
        check_unpacked(dataset, start, stop)
        dataset.read_direct(buffer, np.s_[start:stop], np.s_[: stop - start])
        yield start, buffer[: stop - start]


def is_images(path: Path) -> bool:
    """Whether the file is what `distsgd data import` writes, whole or not: HDF5."""
    return bool(h5py.is_hdf5(path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file open for reading, its format known; what HDF5 stumbles over in the block is an InputError."""
    if not path.is_file():
        raise InputError(
            f"{path}: {'not a file' if path.exists() else 'no such file'}; wanted: a file of images (HDF5)"
        )
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            if "format" not in file.attrs:
                raise InputError(f"{path}: HDF5, but no file of images; `distsgd data import` makes one")
            found = _text(path, file, "format")
            if found != FORMAT:
                raise InputError(f"{path}: format {found!r}; this version reads {FORMAT!r}")
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError, zlib.error) as error:
        said = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: can not be read as a file of images (damaged or not HDF5; `distsgd data import` makes one): {said}"
        ) from error


def _labels(path: Path, file: h5py.File, split: str) -> np.ndarray:
    labels = np.concatenate([block.copy() for _, block in blocks(checked(path, file, split, "labels"))])
    classes = _classes(path, file)
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"{path}: {split} has labels {labels.min()} to {labels.max()}; wanted: 0 to {classes - 1}"
        )
    return labels


def _attribute(path: Path, file: h5py.File, name: str) -> np.ndarray | None:
    """A root attribute of sane size, or None: numbers or text of fixed length, no references or heaps."""
    if name not in file.attrs:
        return None
    identifier = file.attrs.get_id(name)
    size = int(np.prod(identifier.shape, dtype=float)) * identifier.dtype.itemsize
    if identifier.dtype.kind not in "iuS" or size > _MOST_ATTRIBUTE_BYTES:
        raise InputError(
            f"{path}: attribute {name} is {identifier.dtype}, {size:,} bytes; "
            "wanted: a number or text of fixed length"
        )
    return np.asarray(file.attrs[name])


def _text(path: Path, file: h5py.File, name: str) -> str:
    """A root attribute that is one line of text: printable, as it is shown on terminals."""
    value = _attribute(path, file, name)
    text = _decoded(value)[0] if value is not None and value.ndim == 0 else ""
    if not text.isprintable() or not text:
        raise InputError(f"{path}: attribute {name} is {text or value!r}; wanted: one line of text")
    return text


def _classes(path: Path, file: h5py.File) -> int:
    value = _attribute(path, file, "classes")
    if value is None or value.shape or value.dtype.kind not in "iu" or not 1 <= int(value) <= MOST_CLASSES:
        raise InputError(
            f"{path}: attribute classes is {value!r}; wanted: a number from 1 to {MOST_CLASSES:,}"
        )
    return int(value)


def _class_names(path: Path, file: h5py.File) -> tuple[str, ...]:
    value = _attribute(path, file, "class_names")
    if value is None:
        return ()
    names, classes = _decoded(value), _classes(path, file)
    if value.shape != (classes,) or not all(name.isprintable() for name in names):
        raise InputError(f"{path}: attribute class_names is {value!r}; wanted: {classes} names")
    return names


def _decoded(value: np.ndarray) -> tuple[str, ...]:
    """Text of bytes; numbers are none, so they become nothing printable."""
    return tuple(entry.decode() if isinstance(entry, bytes) else "\0" for entry in value.ravel().tolist())
