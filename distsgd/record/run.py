"""The files of a run's folder, and who may write them."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from distsgd.config import Config, InputError, to_toml
from distsgd.record import checkpoint
from distsgd.record.files import as_json, beside, hdf5, sha256
from distsgd.record.model import MODEL_FORMAT, weights_sha256
from distsgd.record.reading import FORMAT


def make_folder(path: Path) -> None:
    """Make the folder of a new run. InputError where it holds a run already or can't be made."""
    if (path / "run.json").exists() or (path / "config.toml").exists():
        raise InputError(f"{path} holds a run already{_advice(path)}")
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the run's folder {path}: {error.strerror}") from None


def _advice(path: Path) -> str:
    if (path / "run.json").exists():
        return "; give another folder with --out, or remove it"
    if checkpoint.saved(path / "checkpoints"):
        return ", which is not finished: go on with --resume, give another folder with --out, or remove it"
    return (
        ", which ended before its first checkpoint, so there is nothing to go on from: "
        "remove it, or give another folder with --out"
    )


def lock(folder: Path) -> TextIO:
    """Hold a run's folder as long as the file that this returns is open. InputError where another process does."""
    file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115  held until the process ends
    file.seek(0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            raise InputError(f"{folder} is in use by {file.read().strip() or 'another process'}") from None
    except OSError:  # a file system without locks
        return file
    with contextlib.suppress(OSError):  # held all the same, if the disk has no room for who holds it
        file.truncate(0)
        os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())
    return file


def summary(folder: Path) -> dict[str, Any]:
    """What a run came to, as in its run.json; empty where it has not ended."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / "run.json").read_bytes()))
    return {}


class Record:
    """The files of one run, written by rank 0 into its folder. `lines`: of metrics.jsonl, from before the run was resumed."""

    def __init__(self, folder: Path, config: Config, lines: Sequence[str] = ()) -> None:
        self.folder, self.lines = folder, list(lines)
        self._hashes: dict[str, str] = {}
        self._write("config.toml", to_toml(config).encode())

    def prediction(self, facts: Mapping[str, Any]) -> None:
        """Write prediction.json: what the run will take, before its first step."""
        self._write("prediction.json", as_json(facts))

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        self.lines.append(_json(metrics))
        self._write("metrics.jsonl", ("\n".join(self.lines) + "\n").encode())

    def model(
        self, parameters: np.ndarray, tensors: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
    ) -> None:
        """Write model.h5: the flat `parameters` (float32), with what each part of it is and what the network is."""
        with beside(self.folder / "model.h5") as path:
            with hdf5(path) as file:
                file.create_dataset(
                    "parameters", data=parameters.astype("<f4", copy=False), chunks=True, fletcher32=True
                )
                file.attrs["format"] = MODEL_FORMAT
                file.attrs["weights_sha256"] = weights_sha256(parameters)
                file.attrs["tensors"], file.attrs["about"] = _json(tensors), _json(about)
            self._hashes["model.h5"] = sha256(path)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write run.json: the summary, and the SHA-256 of the other files."""
        content = {"format": FORMAT, **summary, "sha256": dict(self._hashes)}
        self._write("run.json", as_json(content))

    def _write(self, name: str, content: bytes) -> None:
        with beside(self.folder / name) as path:
            path.write_bytes(content)
        self._hashes[name] = hashlib.sha256(content).hexdigest()


def _json(content: Any) -> str:
    return json.dumps(content, allow_nan=False)
