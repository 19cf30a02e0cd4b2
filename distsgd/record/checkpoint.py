"""Checkpoints: all that a run needs to go on, one HDF5 file each, with the hash of its content in its head."""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distsgd.record.files import beside, hdf5, sha256

FORMAT = "distsgd-checkpoint-2"
HEAD = 512
NAME = re.compile(r"checkpoint-\d{4,}-\d{6,}\.h5")

Take = Callable[[str, np.ndarray], None]
"""Fills an array with the checkpoint's content of that name."""


class Damaged(Exception):
    """A checkpoint that can't be gone on from; says why."""


class OtherVersion(Damaged):
    """A checkpoint that another version of distsgd wrote, and can go on from."""


def write(
    folder: Path, keep: int, facts: Mapping[str, Any], arrays: Iterable[tuple[str, np.ndarray]]
) -> Path:
    """Write the checkpoint of the place that `facts` name, and remove all but the last `keep`. OSError leaves the others whole.

    facts: "epoch" and "step", how many of each are done, and whatever JSON can hold. arrays: by name, one at a time.
    """
    path = folder / f"checkpoint-{facts['epoch']:04d}-{facts['step']:06d}.h5"
    folder.mkdir(exist_ok=True)
    with beside(path) as partial:
        with hdf5(partial, HEAD) as file:
            file["facts"] = np.frombuffer(json.dumps(facts, allow_nan=False).encode(), np.uint8)
            for name, array in arrays:
                file[name] = array
        with open(partial, "r+b") as sealed:
            sealed.write(_head(partial))
    for old in saved(folder)[keep:]:
        old.unlink()
    return path


def _head(path: Path) -> bytes:
    """The first bytes of a whole checkpoint: its format, and the hash of all behind them."""
    return f"{FORMAT}\nsha256 {sha256(path, HEAD)}\n".encode().ljust(HEAD, b"\0")


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the last first."""
    names = [path for path in folder.glob("*.h5") if NAME.fullmatch(path.name)]
    return sorted(names, key=_place, reverse=True)


def _place(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.stem)]


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint, every byte of which was looked at. Raises Damaged."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
        if head != _head(path):
            raise _unlike(head)
        with h5py.File(path, "r", locking="best-effort") as file:
            facts: dict[str, Any] = json.loads(_dataset(file, "facts")[:].tobytes())
        return facts
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise Damaged(str(error).partition("\n")[0]) from error


def _unlike(head: bytes) -> Damaged:
    """Why a checkpoint of such a head, which is not that of its content, can't be read."""
    form = head.partition(b"\n")[0]
    if form == FORMAT.encode():
        return Damaged("its SHA-256 differs")
    if re.fullmatch(rb"distsgd-checkpoint-\d+", form):
        return OtherVersion(f"it is a {form.decode()}, wanted: {FORMAT}; the version that wrote it can go on")
    return Damaged("another format")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Take]:
    """A function that fills arrays from a checkpoint. It raises Damaged where one is of another shape or type."""
    with h5py.File(path, "r", locking="best-effort") as file:

        def take(name: str, out: np.ndarray) -> None:
            dataset = _dataset(file, name)
            if dataset.shape != out.shape or dataset.dtype != out.dtype:
                raise Damaged(f"{name} is {dataset.dtype} {dataset.shape}, not {out.dtype} {out.shape}")
            if out.size:
                dataset.read_direct(out)

        yield take


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set of this very file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(
        file[name], h5py.Dataset
    ):
        raise Damaged(f"there is no {name}")
    dataset = file[name]
    if dataset.is_virtual or dataset.external:
        raise Damaged(f"{name} lies in another file")
    return dataset
