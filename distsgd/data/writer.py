"""Write a file of images block by block: complete and in its place, or not there at all."""

import contextlib
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import h5py
import numpy as np

from distsgd.config import InputError
from distsgd.data.layout import (
    FORMAT,
    LABELS_PER_CHUNK,
    MOST_CLASSES,
    REQUIRED,
    SPLITS,
    ContentHash,
    check_image_shape,
    rows_per_chunk,
)


@final
class Writer:
    """Takes the samples of each split in order; `writing` makes one and finishes it."""

    def __init__(self, file: h5py.File, shape: tuple[int, int, int], compress: bool) -> None:
        self._file = file
        self._shape = shape
        self._hash = ContentHash(shape)
        self._highest = -1
        self._filters = {"compression": "gzip", "compression_opts": 6} if compress else {}
        # Kept open: what HDF5 can not write when it closes a data set it does not report.
        self._datasets = {split: self._create_split(split) for split in REQUIRED}

    def append(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Add `images` uint8 (sample, height, width, channel) and their `labels` (sample) to `split`.

        `validation` is there once something is added to it. Raises InputError for a negative label and where
        the disk is full.
        """
        if images.dtype != np.uint8 or images.shape != (len(labels), *self._shape):
            raise ValueError(
                f"images {images.dtype} {images.shape}, wanted uint8 {(len(labels), *self._shape)}"
            )
        if len(labels) and labels.min() < 0:
            raise InputError(f"{split}: label {labels.min()}; wanted: 0 or more")
        self._highest = max(self._highest, int(labels.max(initial=-1)))
        try:
            if split in SPLITS and split not in self._datasets:
                self._datasets[split] = self._create_split(split)
            for name, block in (("images", images), ("labels", labels)):
                dataset = self._datasets[split][name]
                dataset.resize(len(dataset) + len(block), axis=0)
                dataset[len(dataset) - len(block) :] = block
                self._hash.update(split, name, block)
            self._file.flush()
        except (OSError, RuntimeError) as error:
            said = str(error).partition("\n")[0]
            raise InputError(f"{self._file.filename}: can not be written (disk full?): {said}") from error

    def _create_split(self, split: str) -> dict[str, h5py.Dataset]:
        rows, filters = rows_per_chunk(math.prod(self._shape)), self._filters
        images = _create(self._file, f"{split}/images", np.uint8, self._shape, rows, filters)
        labels = _create(self._file, f"{split}/labels", np.int64, (), LABELS_PER_CHUNK, filters)
        return {"images": images, "labels": labels}

    def finish(self, source: str, class_names: Sequence[str]) -> None:
        """Write the root's attributes; without names there are as many classes as the highest label says."""
        classes = len(class_names) or self._highest + 1
        if not self._highest < classes <= MOST_CLASSES:
            raise InputError(
                f"label {self._highest} with {classes} classes; wanted: labels below the number of classes"
            )
        for split, datasets in self._datasets.items():
            if not len(datasets["labels"]):
                raise InputError(f"{split}: no images; wanted: at least one in each of {', '.join(REQUIRED)}")
        root = self._file.attrs
        root["classes"] = np.int64(classes)
        for name, text in (("format", FORMAT), ("source", source), ("sha256", self._hash.hexdigest())):
            _write_text(root, name, text)
        if class_names:
            _write_text(root, "class_names", list(class_names))


@contextlib.contextmanager
def writing(
    path: Path,
    shape: tuple[int, int, int],
    source: str,
    class_names: Sequence[str] = (),
    compress: bool = False,
) -> Iterator[Writer]:
    """A Writer of images of `shape` (height, width, channel) to `path`, there when the block has ended well.

    `source` says in one line where the images are from; `compress` packs them with gzip: smaller and several
    times slower to read. When the block raises, what was at `path` before is still there and nothing else.
    Raises InputError for labels beyond `class_names`, for a split without images and for a folder that is not
    there or can not be written.
    """
    check_image_shape(path, shape)
    for text in (source, *class_names):
        if not text or not text.isprintable():
            raise InputError(f"{path}: text {text!r}; wanted: one line of printable text")
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        try:
            writer = Writer(file, shape, compress)
            yield writer
            writer.finish(source, class_names)
        except BaseException:
            # HDF5 writes what it holds when it closes the file, and crashes if the disk is full: make room.
            os.truncate(partial, 0)
            raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path`: at the end safe on disk and renamed, or removed if anything went wrong."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; wanted: the name of a file to write")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        _reserve(partial)
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            why = os.strerror(error.errno) if error.errno else str(error)
            raise InputError(f"{path}: can not be written: {why}") from error
        raise
    _sync(path.parent)


def _reserve(path: Path) -> None:
    """Make the file, empty: a folder that is not there or not ours is found before any work."""
    try:
        path.open("xb").close()
    except OSError as error:
        raise InputError(f"{path.parent}: no file can be written here: {error.strerror}") from error


def _sync(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(
    file: h5py.File, name: str, dtype: type, shape: tuple[int, ...], rows: int, filters: dict[str, object]
) -> h5py.Dataset:
    """An empty data set that grows by samples; no times, so that equal content makes equal bytes."""
    return file.create_dataset(
        name,
        shape=(0, *shape),
        maxshape=(None, *shape),
        dtype=dtype,
        chunks=(rows, *shape),
        fletcher32=True,
        track_times=False,
        **filters,
    )


def _write_text(attributes: h5py.AttributeManager, name: str, text: str | list[str]) -> None:
    """Text of fixed length, or a list of it: it lies in the file as it is, with no heap to be followed."""
    data = np.char.encode(np.array(text), "utf-8")
    attributes.create(name, data, dtype=h5py.string_dtype("utf-8", max(1, data.itemsize)))
