"""Files that are whole or not there: written beside, made durable, renamed."""

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from distsgd.config import InputError


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path beside to write to, then made durable and renamed; removed on failure."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Stream(io.FileIO):
    """A file of which HDF5 is never told that it could not be written: it would end the process, or keep it to itself."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or note the first error."""
        left = memoryview(data).cast("B")
        length = len(left)
        with self._noting():
            while left and not self.error:
                left = left[super().write(left) :]
        return length

    def truncate(self, size: int | None = None) -> int:
        """Give the file this size, or note the first error."""
        with self._noting():
            super().truncate(size)
        return size or 0

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error


@contextlib.contextmanager
def hdf5(path: Path, head: int = 0) -> Iterator[h5py.File]:
    """A new HDF5 file, behind `head` bytes that are not HDF5's. OSError at the end where the disk did not take all of it."""
    with _Stream(path, "w+") as stream:
        with h5py.File(stream, "w", userblock_size=head) as file:
            yield file
        if stream.error:
            raise stream.error


def sha256(path: Path, head: int = 0) -> str:
    """The hash of a file's bytes behind the first `head`."""
    with open(path, "rb") as file:
        file.seek(head)
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(content: Mapping[str, Any]) -> bytes:
    """A file of JSON for people: a key a line, numbers of a list on one line."""
    lines = json.dumps(content, indent=2, allow_nan=False)
    rows = re.sub(r"\[\n\s*([-\w.,\s]*?)\s*\]", lambda row: f"[{' '.join(row[1].split())}]", lines)
    return rows.encode() + b"\n"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside and rename it. InputError where that can't be."""
    try:
        with beside(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
