"""NumPy's .npz archives of arrays `x_train`, `y_train`, `x_test`, `y_test` and their kin; nothing is unpickled."""

import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from distsgd.config import InputError
from distsgd.data.importers.files import reason
from distsgd.data.importers.found import Block, Choices, Found, Say, block_rows, title
from distsgd.data.layout import MOST_SAMPLES, check_image_shape

_SPLITS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_KINDS = {"x": "images", "images": "images", "y": "labels", "labels": "labels"}
_NAME = re.compile(r"(?:(x|y|images|labels)_(\w+?)|(\w+?)_(x|y|images|labels))\.npy", re.IGNORECASE)
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class _Array:
    """An open member behind its header."""

    origin: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype


@contextmanager
def read_npz(source: Path, choices: Choices, say: Say) -> Iterator[Found]:
    """What is in the arrays of `source`. Raises InputError."""
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(source))
        except _DAMAGE as error:
            raise InputError(f"{source}: can not be read as .npz: {reason(error)}") from error
        arrays = {
            key: stack.enter_context(_opened(source, archive, name))
            for key, name in _names(source, archive.namelist()).items()
        }
        splits = [split for split in dict.fromkeys(_SPLITS.values()) if (split, "images") in arrays]
        shapes = {split: _image_shape(arrays[split, "images"]) for split in splits}
        if len(set(shapes.values())) > 1:
            raise InputError(f"{source}: images of {shapes}; wanted: one shape")
        shape = shapes["train"]
        check_image_shape(source, shape)
        blocks = (
            block
            for split in splits
            for block in _blocks(split, arrays[split, "images"], arrays[split, "labels"], shape)
        )
        yield Found(shape, f"NumPy's arrays in {title(source)}", (), blocks)


def _names(source: Path, members: list[str]) -> dict[tuple[str, str], str]:
    """The member of each (split, kind): whole pairs, of train and test at least."""
    found = {}
    for name in members:
        if match := _NAME.fullmatch(name):
            kind, split = (match[1] or match[4]).lower(), (match[2] or match[3]).lower()
            if split in _SPLITS:
                found[_SPLITS[split], _KINDS[kind]] = name
    wanted = {
        (split, kind)
        for split in ("train", "test", *(key[0] for key in found))
        for kind in ("images", "labels")
    }
    if missing := sorted(wanted - set(found)):
        there = ", ".join(members[:12]) or "nothing"
        raise InputError(
            f"{source}: no {', '.join(f'{kind} of {split}' for split, kind in missing)}; wanted: arrays x_train, y_train, "
            f"x_test, y_test (or train_images and so on); there are: {there}"
        )
    return found


@contextmanager
def _opened(source: Path, archive: zipfile.ZipFile, name: str) -> Iterator[_Array]:
    origin = f"{source}: {name}"
    try:
        with archive.open(name) as stream:
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            if fortran or dtype.kind not in "iu" or not shape or shape[0] > MOST_SAMPLES:
                order = ", column by column" if fortran else ""
                raise InputError(f"{origin}: {dtype} {shape}{order}; wanted: whole numbers, sample by sample")
            yield _Array(origin, stream, shape, dtype)
    except InputError:  # from the block, and said in full
        raise
    except _DAMAGE as error:
        raise InputError(f"{origin}: can not be read: {reason(error)}") from error


def _image_shape(images: _Array) -> tuple[int, int, int]:
    """(height, width, channels), the channels being last, first where only that makes sense, or none."""
    sizes = images.shape[1:]
    if len(sizes) == 2:
        return sizes[0], sizes[1], 1
    if len(sizes) == 3 and sizes[2] in (1, 3):
        return sizes
    if len(sizes) == 3 and sizes[0] in (1, 3):
        return sizes[1], sizes[2], sizes[0]
    raise InputError(
        f"{images.origin}: shape {images.shape}; wanted: (sample, height, width) or one more of 1 or 3 channels"
    )


def _blocks(split: str, images: _Array, labels: _Array, shape: tuple[int, int, int]) -> Iterator[Block]:
    count = images.shape[0]
    if labels.shape not in ((count,), (count, 1)):
        raise InputError(f"{labels.origin}: shape {labels.shape}; wanted: ({count},), a label for each image")
    step = block_rows(shape)
    for start in range(0, count, step):
        rows = min(step, count - start)
        block = _rows(images, rows)
        if block.min() < 0 or block.max() > 255:
            raise InputError(f"{images.origin}: values of {block.min()} to {block.max()}; wanted: 0 to 255")
        if block.shape[1:] not in (shape, shape[:2]):
            block = block.transpose(0, 2, 3, 1)
        yield (
            split,
            block.reshape(rows, *shape).astype(np.uint8),
            _rows(labels, rows).reshape(rows).astype(np.int64),
        )


def _rows(array: _Array, rows: int) -> np.ndarray:
    size = rows * math.prod(array.shape[1:]) * array.dtype.itemsize
    data = array.stream.read(size)
    if len(data) < size:
        raise InputError(f"{array.origin}: truncated: ends before what its header states")
    return np.frombuffer(data, array.dtype).reshape(rows, *array.shape[1:])
