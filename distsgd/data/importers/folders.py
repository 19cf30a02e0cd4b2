"""Class folders of JPEG and PNG, on disk or in an archive: the folder names the class, and perhaps the split.

Two passes from front to end, as a tar file allows no other: the first looks at names and headers only, the
second decodes. So memory stays the same whatever the number of pictures, and none is unpacked to disk.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np

from distsgd.config import InputError
from distsgd.data.importers.files import Broken, File, files
from distsgd.data.importers.found import Choices, Found, Say, gathered, title
from distsgd.data.layout import MOST_CLASSES, check_image_shape

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
FER2013 = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
_FER2013_NAME = re.compile(rf"({'|'.join(FER2013)})_\d+\.\w+")
_MOST_SIZES = 10_000


@dataclass
class _Survey:
    """What the first pass sees: the classes, pictures by split and by size, whether any has colours."""

    classes: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    colours: bool = False
    fer2013: bool = False


@contextmanager
def read_folders(source: Path, choices: Choices, say: Say) -> Iterator[Found]:
    """What is in the class folders of `source`, a folder or an archive. Raises InputError."""
    from distsgd.data.importers import pictures

    with pictures.limited():
        survey = _survey(source, choices)
        names, renamed = tuple(sorted(survey.classes)), _renamed(source, survey, say)
        shape = (*_size(survey, choices, say), 3 if survey.colours and not choices.grey else 1)
        check_image_shape(source, shape)
        broken: list[str] = []
        samples = _samples(source, choices, shape, names, broken)
        kept = ((renamed.get(split, split), image, label) for split, image, label in samples)
        yield Found(shape, f"class folders in {title(source)}", names, gathered(kept, shape), broken)


def is_picture(name: PurePosixPath) -> bool:
    """Whether a file of this name is a picture that can be read."""
    return name.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif", ".png")


def _survey(source: Path, choices: Choices) -> _Survey:
    from distsgd.data.importers.pictures import look

    survey = _Survey()
    for file in _pictures(source):
        try:
            split, label = _place(file, choices)
            size, colours = look(file.read(), file.origin)
        except Broken as error:
            _pass_over(error, choices)
            continue
        survey.classes.add(label)
        survey.counts[split] += 1
        if size in survey.sizes or len(survey.sizes) < _MOST_SIZES:
            survey.sizes[size] += 1
        survey.colours |= colours
        survey.fer2013 |= bool(_FER2013_NAME.fullmatch(file.name.name)) and not choices.patterns
    _check(source, survey)
    return survey


def _samples(
    source: Path, choices: Choices, shape: tuple[int, int, int], names: tuple[str, ...], broken: list[str]
) -> Iterator[tuple[str, np.ndarray, int]]:
    """(split, image, label) of every picture; what is passed over goes to `broken`."""
    from distsgd.data.importers.pictures import decode

    numbers, blurs = {name: number for number, name in enumerate(names)}, dict(choices.blurs)
    for file in _pictures(source):
        try:
            split, label = _place(file, choices)
            yield split, decode(file.read(), file.origin, shape, blurs.get(split, 0.0)), numbers[label]
        except Broken as error:
            _pass_over(error, choices)
            broken.append(str(error))


def _pictures(source: Path) -> Iterator[File]:
    return (file for file in files(source) if is_picture(file.name))


def _pass_over(error: Broken, choices: Choices) -> None:
    if not choices.skip_broken:
        raise InputError(f"{error} (--skip-broken passes over such files and lists them)") from error


def _place(file: File, choices: Choices) -> tuple[str, str]:
    """(split, class) of a picture. Raises Broken where it lies in no class's folder."""
    folders = file.name.parts[:-1]
    label = next((part for part in reversed(folders) if part.lower() not in SPLIT_FOLDERS), "")
    if not label or not label.isprintable():
        raise Broken(f"{file.origin}: in no folder of a class; wanted: CLASS/NAME or SPLIT/CLASS/NAME")
    return _split(file.name, choices), label


def _split(name: PurePosixPath, choices: Choices) -> str:
    """By the patterns given, by the file's name if it is one of FER2013, by a folder's name, or by lot."""
    for pattern, split in choices.patterns:
        if fnmatchcase(name.name, pattern):
            return split
    if fer2013 := _FER2013_NAME.fullmatch(name.name):
        return FER2013[fer2013[1]]
    for part in name.parts[:-1]:
        if part.lower() in SPLIT_FOLDERS:
            return SPLIT_FOLDERS[part.lower()]
    # The name decides alone, so that the same picture is always on the same side.
    lot = int.from_bytes(
        hashlib.sha256("/".join(name.parts[-2:]).encode(errors="replace")).digest()[:8], "big"
    )
    return "test" if lot < choices.test_fraction * 2**64 else "train"


def _check(source: Path, survey: _Survey) -> None:
    if not survey.classes:
        raise InputError(
            f"{source}: no JPEG or PNG in folders of classes; wanted: CLASS/NAME or SPLIT/CLASS/NAME"
        )
    if len(survey.classes) > MOST_CLASSES:
        raise InputError(f"{source}: {len(survey.classes):,} classes; wanted: {MOST_CLASSES:,} at most")


def _renamed(source: Path, survey: _Survey, say: Say) -> dict[str, str]:
    """A set with a validation part and no test part tests on it."""
    there = survey.counts
    if survey.fer2013:
        say(
            f"splits by the files' names, as FER2013's: {', '.join(f'{name}_ {use}' for name, use in FER2013.items())}"
        )
    if there["train"] and there["validation"] and not there["test"]:
        say("no pictures to test with: those for validation are taken as test")
        return {"validation": "test"}
    if not there["train"] or not there["test"]:
        seen = ", ".join(f"{count:,} {split}" for split, count in there.items())
        raise InputError(
            f"{source}: {seen}; wanted: some to train and some to test with, in folders train/ and test/, or by "
            "--split-pattern, or --test-fraction 0.2 to set a fifth aside"
        )
    return {}


def _size(survey: _Survey, choices: Choices, say: Say) -> tuple[int, int]:
    (commonest, count), *others = survey.sizes.most_common()
    chosen = choices.size or commonest
    if not choices.size and others:
        total = survey.counts.total()
        said = f"{total - count:,} of {total:,} pictures are of other sizes and brought to the commonest"
        say(f"{said}, {chosen[0]} x {chosen[1]} (--size N chooses)")
    return chosen
