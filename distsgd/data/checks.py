"""What a data set must be before any of it is read: HDF5 itself trusts a file far too much."""

import math
import zlib
from pathlib import Path

import h5py
import numpy as np

from distsgd.config import InputError
from distsgd.data.layout import (
    MOST_CHUNK_BYTES,
    MOST_SAMPLES,
    MOST_SPLIT_BYTES,
    REQUIRED,
    SPLITS,
    check_image_shape,
)

# The filters built into HDF5 that a file may use, in the order of writing: any other would load a library to
# read with, and gzip twice could unpack a thousand times a thousand bytes from one.
_GZIP, _SHUFFLE, _CHECKSUM = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32
_FILTERS = ((_CHECKSUM,), (_GZIP, _CHECKSUM), (_SHUFFLE, _CHECKSUM), (_SHUFFLE, _GZIP, _CHECKSUM))
_CHECKSUM_BYTES = 4
_WANTED = {
    "images": (np.uint8, 4, "uint8 (sample, height, width, channel)"),
    "labels": (np.int64, 1, "int64 (sample)"),
}


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
    try:
        found = group[name]
    except IndexError as error:  # h5py, of a filter without its settings
        raise InputError(f"{path}: {where} can not be read (damaged)") from error
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
    _check_chunks(path, dataset)


def _check_chunks(path: Path, dataset: h5py.Dataset) -> None:
    """Every chunk there, with a place of its own, and of its size: HDF5 reads beyond its memory where one is too short."""
    whole, packed = math.prod(dataset.chunks) * dataset.dtype.itemsize, _GZIP in _filters(dataset)
    least = 1 if packed else whole
    most = whole + (whole // 1000 + 64 if packed else 0)
    file_bytes = path.stat().st_size
    found = total = 0

    def look(chunk: h5py.h5d.StoreInfo) -> bool | None:
        nonlocal found, total
        found, total = found + 1, total + chunk.size
        sound = not chunk.filter_mask and least <= chunk.size - _CHECKSUM_BYTES <= most
        return (
            None
            if sound and 0 < chunk.byte_offset <= file_bytes - chunk.size and total < file_bytes
            else True
        )

    wanted = -(-len(dataset) // dataset.chunks[0])
    if dataset.id.get_num_chunks() and dataset.id.chunk_iter(look):
        raise InputError(
            f"{path}: {dataset.name}: chunk number {found:,} has a wrong size or place (damaged)"
        )
    if found != wanted:
        raise InputError(f"{path}: {dataset.name} holds {found:,} of its {wanted:,} chunks; wanted: all")


def check_unpacked(dataset: h5py.Dataset, start: int, stop: int) -> None:
    """Raise ValueError where a chunk of these rows is not as long as it says: HDF5 would unpack all of it first."""
    if _GZIP not in _filters(dataset):
        return
    wanted = math.prod(dataset.chunks) * dataset.dtype.itemsize
    for row in range(start, stop, dataset.chunks[0]):
        skipped, packed = dataset.id.read_direct_chunk((row, *[0] * (dataset.ndim - 1)))
        inflater = zlib.decompressobj()
        found = len(inflater.decompress(packed[:-_CHECKSUM_BYTES], wanted + 1))
        if skipped or found != wanted or not inflater.eof:
            raise ValueError(f"{dataset.name}: the chunk of row {row} does not unpack to {wanted:,} bytes")
