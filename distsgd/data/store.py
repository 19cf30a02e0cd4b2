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
from distsgd.data.layout import (
    FORMAT,
    MOST_CHUNK_BYTES,
    MOST_CLASSES,
    MOST_SAMPLES,
    MOST_SPLIT_BYTES,
    REQUIRED,
    SPLITS,
    check_image_shape,
    rows_per_block,
)

# The filters built into HDF5 that a file may use, in the order of writing: any other would load a library to
# read with, and gzip twice could unpack a thousand times a thousand bytes from one.
_GZIP, _SHUFFLE, _CHECKSUM = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32
_FILTERS = ((_CHECKSUM,), (_GZIP, _CHECKSUM), (_SHUFFLE, _CHECKSUM), (_SHUFFLE, _GZIP, _CHECKSUM))
_CHECKSUM_BYTES = 4
_MOST_GZIP_RATIO = 1032
_WANTED = {
    "images": (np.uint8, 4, "uint8 (sample, height, width, channel)"),
    "labels": (np.int64, 1, "int64 (sample)"),
}
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
        if _GZIP in _filters(dataset):
            _check_unpacked(dataset, start, stop)
        dataset.read_direct(buffer, np.s_[start:stop], np.s_[: stop - start])
        yield start, buffer[: stop - start]


def _check_unpacked(dataset: h5py.Dataset, start: int, stop: int) -> None:
    """Raise ValueError where a chunk of these rows is not as long as it says: HDF5 would unpack all of it first."""
    wanted = math.prod(dataset.chunks) * dataset.dtype.itemsize
    for row in range(start, stop, dataset.chunks[0]):
        skipped, packed = dataset.id.read_direct_chunk((row, *[0] * (dataset.ndim - 1)))
        inflater = zlib.decompressobj()
        found = len(inflater.decompress(packed[:-_CHECKSUM_BYTES], wanted + 1))
        if skipped or found != wanted or not inflater.eof:
            raise ValueError(f"{dataset.name}: the chunk of row {row} does not unpack to {wanted:,} bytes")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file open for reading, its format known; what HDF5 stumbles over in the block is an InputError."""
    if not path.is_file():
        raise InputError(
            f"{path}: {'not a file' if path.exists() else 'no such file'}; wanted: a file of images (HDF5)"
        )
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
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


def checked(path: Path, file: h5py.File, split: str, name: str) -> h5py.Dataset:
    """Data set `name` of `split`, looked at from every side before any of it is read. Raises InputError."""
    if split not in SPLITS:
        raise InputError(f"{path}: split {split!r}; choose {', '.join(SPLITS)}")
    group = _member(path, file, split, h5py.Group)
    dataset = _member(path, group, name, h5py.Dataset)
    _check_storage(path, dataset)
    _check_sizes(path, dataset)
    return dataset


def _member(path: Path, group: h5py.Group, name: str, kind: type) -> h5py.Group | h5py.Dataset:
    """One step down by a hard link: soft and external links could lead anywhere, so they are not followed."""
    where = f"{group.name.rstrip('/')}/{name}"
    link = group.get(name, getlink=True)
    if link is None:
        raise InputError(f"{path}: no {where}; wanted: images and labels in each of {', '.join(REQUIRED)}")
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path}: {where} is a {type(link).__name__}; wanted: no links to elsewhere")
    found = group[name]
    if not isinstance(found, kind):
        raise InputError(f"{path}: {where} is a {type(found).__name__}; wanted: a {kind.__name__}")
    return found


def _check_storage(path: Path, dataset: h5py.Dataset) -> None:
    """The right numbers, in chunks of this very file, behind checksums and no unknown filter."""
    dtype, rank, wanted = _WANTED[dataset.name.rpartition("/")[2]]
    if dataset.dtype != dtype or dataset.ndim != rank:
        raise InputError(f"{path}: {dataset.name} is {dataset.dtype} {dataset.shape}; wanted: {wanted}")
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: {dataset.name} lies in other files; wanted: all data in this one")
    if dataset.chunks is None or dataset.chunks[1:] != dataset.shape[1:]:
        raise InputError(
            f"{path}: {dataset.name} has chunks {dataset.chunks}; wanted: chunks of whole samples"
        )
    if _filters(dataset) not in _FILTERS:
        raise InputError(
            f"{path}: {dataset.name} has filters {_filters(dataset)}; wanted: fletcher32 (3), perhaps gzip (1) before"
        )


def _filters(dataset: h5py.Dataset) -> tuple[int, ...]:
    creation = dataset.id.get_create_plist()
    return tuple(creation.get_filter(number)[0] for number in range(creation.get_nfilters()))


def _check_sizes(path: Path, dataset: h5py.Dataset) -> None:
    """Some samples, not beyond all sense, each with a label, every chunk there (others read as zeros)."""
    shapes = {name: _member(path, dataset.parent, name, h5py.Dataset).shape for name in _WANTED}
    lengths = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: {dataset.parent.name} has {lengths}; wanted: one label for each image")
    if dataset.ndim == 4:
        check_image_shape(path, dataset.shape[1:])
    count, sample_bytes = len(dataset), math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    if not 1 <= count <= MOST_SAMPLES or count * sample_bytes > MOST_SPLIT_BYTES:
        raise InputError(
            f"{path}: {dataset.name} has {count:,} samples of {sample_bytes:,} bytes; "
            f"wanted: 1 to {MOST_SAMPLES:,} samples and at most {MOST_SPLIT_BYTES:,} bytes"
        )
    if dataset.chunks[0] * sample_bytes > MOST_CHUNK_BYTES:
        raise InputError(
            f"{path}: {dataset.name} has chunks {dataset.chunks}; wanted: {MOST_CHUNK_BYTES:,} bytes at most"
        )
    stored, chunks = dataset.id.get_num_chunks(), -(-count // dataset.chunks[0])
    if stored != chunks:
        raise InputError(f"{path}: {dataset.name} holds {stored} of its {chunks} chunks; wanted: all")
    # Chunks that lie on each other make a small file look like a large one.
    most = path.stat().st_size * (_MOST_GZIP_RATIO if _GZIP in _filters(dataset) else 1)
    if dataset.id.get_storage_size() > path.stat().st_size or count * sample_bytes > most:
        raise InputError(
            f"{path}: {dataset.name} has more bytes than the file; wanted: each chunk a place of its own"
        )


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
