"""The files in a folder or an archive, one after another; nothing of an archive is written to disk."""

import contextlib
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from bz2 import BZ2File
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from distsgd.config import InputError

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
MOST_FILE_BYTES = 64 << 20
"""What is read at once: a picture's file, or one entry of an archive's own tables."""
_DAMAGE = (
    *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError),
    *(tarfile.TarError, zipfile.BadZipFile),
)


class Broken(Exception):
    """One file that can not be used, with the reason; an import may go on without it."""


@dataclass(frozen=True)
class File:
    """A file and its `name` below the source; `open` it before the next one is asked for."""

    name: PurePosixPath
    origin: str
    size: int
    open: Callable[[], BinaryIO]

    def read(self, most: int = MOST_FILE_BYTES) -> bytes:
        """All of its bytes. Raises Broken where they can not be read or are more than `most`."""
        if self.size > most:
            raise Broken(f"{self.origin}: {self.size:,} bytes; wanted: {most:,} at most")
        try:
            with self.open() as stream:
                data = stream.read(self.size + 1)
        except _DAMAGE as error:
            raise Broken(f"{self.origin}: can not be read: {reason(error)}") from error
        if len(data) != self.size:
            raise Broken(f"{self.origin}: has not the {self.size:,} bytes that it should")
        return data


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    said = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return said or type(error).__name__


def is_archive(source: Path) -> bool:
    """Whether `source` has the name of an archive that `files` reads."""
    return source.is_file() and source.name.lower().endswith(ARCHIVES)


def files(source: Path) -> Iterator[File]:
    """Every file in the folder or archive `source`, a folder's sorted by name, an archive's as they come.

    Hidden files are passed over. Raises InputError where the folder or the archive can not be read.
    """
    walk = _in_folder if source.is_dir() else _in_zip if source.suffix.lower() == ".zip" else _in_tar
    try:
        for file in walk(source):
            if not any(part.startswith((".", "__MACOSX")) for part in file.name.parts):
                yield file
    except _DAMAGE as error:
        what = "folder" if source.is_dir() else "archive (truncated, damaged or of another kind)"
        raise InputError(f"{source}: can not be read as {what}: {reason(error)}") from error


def _in_folder(source: Path) -> Iterator[File]:
    yield from _below(source, PurePosixPath(), ())


def _below(folder: Path, name: PurePosixPath, above: tuple[str, ...]) -> Iterator[File]:
    """Depth first, links followed, but not back to a folder that they are in."""
    real = os.path.realpath(folder)
    if real in above:
        raise InputError(f"{folder}: a link to a folder that it is in; wanted: folders that end")
    with os.scandir(folder) as entries:
        there = sorted((entry.name, entry.is_dir(), entry.is_file()) for entry in entries)
    for entry, is_folder, is_file in there:
        path = folder / entry
        if is_folder and not entry.startswith("."):
            yield from _below(path, name / entry, (*above, real))
        elif is_file:
            opener = cast(Callable[[], BinaryIO], lambda path=path: path.open("rb"))
            yield File(name / entry, str(path), path.stat().st_size, opener)


def _in_zip(source: Path) -> Iterator[File]:
    with zipfile.ZipFile(source) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                opener = cast(Callable[[], BinaryIO], lambda entry=entry: archive.open(entry))
                yield File(
                    PurePosixPath(entry.filename), _inside(source, entry.filename), entry.file_size, opener
                )


def _in_tar(source: Path) -> Iterator[File]:
    """Read from front to end only: whatever is packed is unpacked once, and no list of members is kept."""
    with _unpacked(source) as packed, tarfile.open(fileobj=cast(BinaryIO, packed), mode="r:") as archive:
        while entry := archive.next():
            cast(Any, archive).members.clear()
            if not entry.isdir():
                opener = cast(Callable[[], BinaryIO], lambda entry=entry: _member(archive, entry))
                yield File(PurePosixPath(entry.name), _inside(source, entry.name), entry.size, opener)
        if packed.last.strip(b"\0") or not packed.last:
            raise tarfile.ReadError("it ends before its end mark")
        while packed.read(1 << 16):  # the checksum of what is packed comes last
            pass


def _member(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> BinaryIO:
    stream = archive.extractfile(entry) if entry.isreg() else None
    if stream is None:
        raise OSError("a link or device; wanted: a file")
    return cast(BinaryIO, stream)


def _inside(source: Path, name: str) -> str:
    return f"{source}: {name if name.isprintable() else ascii(name)}"


class _Unpacked:
    """What tarfile reads from: refuses tables of a size that no honest archive has, remembers what came last."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.last = b""
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_FILE_BYTES + 1:
            raise tarfile.ReadError(f"an entry of {size:,} bytes in its tables")
        self.last = self._stream.read(size)
        return self.last


@contextlib.contextmanager
def _unpacked(source: Path) -> Iterator[_Unpacked]:
    """The bytes of a tar file: its beginning says how it is packed."""
    with source.open("rb") as file:
        start = file.read(6)
    kinds: dict[bytes, Callable[..., object]] = {
        b"\x1f\x8b": gzip.open,
        b"\xfd7zXZ\0": lzma.open,
        b"BZh": BZ2File,
    }
    opener = next((kind for magic, kind in kinds.items() if start.startswith(magic)), open)
    with cast(BinaryIO, opener(source, "rb")) as stream:
        yield _Unpacked(stream)
