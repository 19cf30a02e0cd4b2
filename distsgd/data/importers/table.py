"""FER2013's CSV: a line an image, with its emotion's number, its pixels in one field and its use."""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TextIO, cast

import numpy as np

from distsgd.config import InputError
from distsgd.data.importers.files import reason
from distsgd.data.importers.folders import FER2013
from distsgd.data.importers.found import Choices, Found, Say, gathered, title
from distsgd.data.layout import check_image_shape

_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_COLUMNS = ("emotion", "pixels", "usage")
_MOST_FIELD_BYTES = 1 << 20


@dataclass(frozen=True)
class _Line:
    """The three fields that count, and where they stand."""

    origin: str
    emotion: str
    pixels: str
    usage: str


@contextmanager
def read_table(source: Path, choices: Choices, say: Say) -> Iterator[Found]:
    """What is in the CSV file `source`, as it is or with gzip. Raises InputError."""
    csv.field_size_limit(_MOST_FIELD_BYTES)
    opener = gzip.open if source.suffix.lower() == ".gz" else open
    with cast(TextIO, opener(source, "rt", encoding="utf-8-sig", newline="")) as stream:
        lines = _lines(source, stream)
        first = next(lines, None)
        if first is None:
            raise InputError(f"{source}: no images; wanted: a line of {', '.join(_COLUMNS)} for each")
        shape = _shape(source, first)
        samples = (_sample(line, shape) for line in chain([first], lines))
        yield Found(shape, f"FER2013's CSV {title(source)}", _NAMES, gathered(samples, shape))


def _lines(source: Path, stream: TextIO) -> Iterator[_Line]:
    """The lines behind the titles. Raises InputError where the file is no such table."""
    reader = csv.reader(stream, strict=True)
    try:
        titles = [field.strip().lower() for field in next(reader, [])]
        if not set(_COLUMNS) <= set(titles):
            shown = ", ".join(titles)[:200]
            raise InputError(f"{source}: columns {shown!r}; wanted: {', '.join(_COLUMNS)} (FER2013's CSV)")
        places = [titles.index(column) for column in _COLUMNS]
        for fields in filter(None, reader):
            origin = f"{source}, line {reader.line_num:,}"
            if len(fields) != len(titles):
                raise InputError(f"{origin}: {len(fields)} fields; wanted: {len(titles)} (truncated?)")
            yield _Line(origin, *(fields[place].strip() for place in places))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise InputError(f"{source}, line {reader.line_num:,}: can not be read: {reason(error)}") from error


def _shape(source: Path, line: _Line) -> tuple[int, int, int]:
    """The images are squares, so the first one's number of pixels says how large."""
    count = len(line.pixels.split())
    side = math.isqrt(count)
    if not count or side * side != count:
        raise InputError(f"{line.origin}: {count:,} pixels; wanted: a square of them")
    check_image_shape(source, (side, side, 1))
    return side, side, 1


def _sample(line: _Line, shape: tuple[int, int, int]) -> tuple[str, np.ndarray, int]:
    split = FER2013.get(line.usage)
    if split is None:
        raise InputError(f"{line.origin}: Usage {line.usage[:40]!r}; wanted: {', '.join(FER2013)}")
    if line.emotion not in map(str, range(len(_NAMES))):
        raise InputError(f"{line.origin}: emotion {line.emotion[:40]!r}; wanted: 0 to {len(_NAMES) - 1}")
    try:
        values = np.array(line.pixels.split(), np.int32)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{line.origin}: pixels that are no numbers: {reason(error)[:80]}") from error
    if len(values) != math.prod(shape) or values.min() < 0 or values.max() > 255:
        shown = f"{len(values):,} pixels of {values.min()} to {values.max()}" if len(values) else "no pixels"
        raise InputError(f"{line.origin}: {shown}; wanted: {math.prod(shape):,} of 0 to 255")
    return split, values.astype(np.uint8).reshape(shape), int(line.emotion)
