"""CIFAR-10's binary batches: records of a label's byte and 3,072 of pixels, red, then green, then blue."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from distsgd.config import InputError
from distsgd.data.importers.files import Broken, File, files, reason
from distsgd.data.importers.found import Block, Choices, Found, Say, block_rows, title

SHAPE = (32, 32, 3)
_RECORD = 1 + 32 * 32 * 3
_BATCH = re.compile(r"(data|test)_batch(_\d+)?\.bin")
_NAMES = "batches.meta.txt"
_MOST_NAMES_BYTES = 1 << 16


@contextmanager
def read_cifar(source: Path, choices: Choices, say: Say) -> Iterator[Found]:
    """What is in the batches somewhere below `source`, a folder or an archive. Raises InputError."""
    names: tuple[str, ...] = ()
    batches = 0
    for file in files(source):
        batches += is_batch(file.name.name)
        if file.name.name == _NAMES:
            names = _names(file)
    if not batches:
        raise InputError(
            f"{source}: none of CIFAR-10's batches; wanted: data_batch_1.bin and its kin, test_batch.bin"
        )
    yield Found(SHAPE, f"CIFAR-10 batches in {title(source)}", names, _blocks(source))


def is_batch(name: str) -> bool:
    """Whether a file of this name is one of the batches."""
    return _BATCH.fullmatch(name) is not None


def _names(file: File) -> tuple[str, ...]:
    try:
        lines = file.read(_MOST_NAMES_BYTES).decode().split("\n")
    except (Broken, UnicodeDecodeError) as error:
        raise InputError(f"{file.origin}: can not be read as names of classes: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _blocks(source: Path) -> Iterator[Block]:
    for file in files(source):
        if is_batch(file.name.name):
            if not file.size or file.size % _RECORD:
                raise InputError(
                    f"{file.origin}: {file.size:,} bytes; wanted: records of {_RECORD:,} bytes (truncated?)"
                )
            yield from _records(file, "test" if file.name.name.startswith("test") else "train")


def _records(file: File, split: str) -> Iterator[Block]:
    left, rows = file.size // _RECORD, block_rows(SHAPE)
    try:
        with file.open() as stream:
            while left:
                count = min(left, rows)
                records = np.frombuffer(stream.read(count * _RECORD), np.uint8).reshape(count, _RECORD)
                planes = records[:, 1:].reshape(count, 3, 32, 32)
                yield (
                    split,
                    np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
                    records[:, 0].astype(np.int64),
                )
                left -= count
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{file.origin}: can not be read (truncated?): {reason(error)}") from error
