"""What a run leaves behind. Every file is written beside and renamed, so that it is whole or not there."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distsgd.config import Config, InputError, to_toml

FORMAT = "distsgd-run-1"
MODEL_FORMAT = "distsgd-model-1"


def weights_sha256(parameters: np.ndarray) -> str:
    """SHA-256 of the parameters as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(parameters, "<f4").tobytes()).hexdigest()


def make_folder(path: Path) -> None:
    """Make the folder of a new run. InputError where it holds a run already or can't be made."""
    if (path / "run.json").exists() or (path / "config.toml").exists():
        raise InputError(f"{path} holds a run already; give another folder with --out, or remove it")
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the run's folder {path}: {error.strerror}") from None


class Record:
    """The files of one run, written by rank 0 into its folder."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self._lines: list[str] = []
        self._hashes: dict[str, str] = {}
        self._write("config.toml", to_toml(config).encode())

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        self._lines.append(_json(metrics))
        self._write("metrics.jsonl", ("\n".join(self._lines) + "\n").encode())

    def model(
        self, parameters: np.ndarray, tensors: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
    ) -> None:
        """Write model.h5: the flat `parameters` (float32), with what each part of it is and what the network is."""
        with _beside(self.folder / "model.h5") as path:
            with h5py.File(path, "w") as file:
                file.create_dataset("parameters", data=parameters.astype("<f4"), chunks=True, fletcher32=True)
                file.attrs["format"] = MODEL_FORMAT
                file.attrs["weights_sha256"] = weights_sha256(parameters)
                file.attrs["tensors"], file.attrs["about"] = _json(tensors), _json(about)
            self._hashes["model.h5"] = hashlib.sha256(path.read_bytes()).hexdigest()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write run.json: the summary, and the SHA-256 of the other files."""
        content = {"format": FORMAT, **summary, "sha256": dict(self._hashes)}
        self._write("run.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def _write(self, name: str, content: bytes) -> None:
        with _beside(self.folder / name) as path:
            path.write_bytes(content)
        self._hashes[name] = hashlib.sha256(content).hexdigest()


def _json(content: Any) -> str:
    return json.dumps(content, allow_nan=False)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path beside to write to, then made durable and renamed; removed on failure."""
    beside = path.with_name(path.name + ".partial")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
