"""model.h5: a trained network, read back. Anybody may have written it: nothing in it is trusted."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import h5py
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from distsgd.config import InputError, Network
from distsgd.record.reading import read_summary

MODEL_FORMAT = "distsgd-model-2"
MOST_PARAMETERS = 2**29
"""With Adam's moments and the message of an average that is 16 GB a rank; more is a slip of the finger."""


def weights_sha256(parameters: np.ndarray) -> str:
    """SHA-256 of the parameters as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(parameters, "<f4").data).hexdigest()


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


class About(BaseModel):
    """What model.h5 says of its network: its section of the settings, its classes, the images it takes and how they are scaled."""

    model_config = ConfigDict(frozen=True, strict=True)
    network: Network
    classes: int = Field(ge=1)
    class_names: tuple[Annotated[str, AfterValidator(_printable)], ...]
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    seen_shape: tuple[int, int, int]
    """What the network sees of it: all, or a window in its middle."""
    scaling: tuple[tuple[FiniteFloat, ...], tuple[FiniteFloat, ...]]
    """By channel the mean of the bytes and the inverse of their deviation."""


class TensorPlace(BaseModel):
    """One tensor in the vector of parameters."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """What model.h5 holds: (parameters) float32, the tensors in their order, and what they are parameters of."""

    path: Path
    parameters: np.ndarray
    tensors: list[TensorPlace]
    about: About


def model_path(folder: Path) -> Path:
    """Where a run's model is. Raises InputError where it is not."""
    path = folder / "model.h5"
    if not path.is_file():
        raise InputError(
            f"{folder} holds no model.h5; wanted: the folder of a run that `distsgd train` ended"
        )
    return path


def read_model(folder: Path) -> Stored:
    """Read a run's model.h5, trusting nothing in it. Raises InputError."""
    path = model_path(folder)
    _check_recorded_hash(folder, path)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return _stored(path, file)
    except InputError:
        raise
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{path}: its description is wrong: {where}: {fault['msg']}") from None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"{path}: can not be read as a model (damaged or not HDF5): {said}") from None


def _check_recorded_hash(folder: Path, path: Path) -> None:
    """A file that is not the one that run.json tells of is not even opened."""
    if not (folder / "run.json").exists():
        return
    hashes = read_summary(folder).get("sha256")
    recorded = hashes.get("model.h5") if isinstance(hashes, dict) else None
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if recorded is not None and recorded != found:
        raise InputError(f"{path} is damaged: its sha256 is {found}, and run.json says {recorded}")


def _stored(path: Path, file: h5py.File) -> Stored:
    form = _text(path, file, "format")
    if form != MODEL_FORMAT:
        raise InputError(f"{path}: format {form!r}; this version reads {MODEL_FORMAT!r}")
    tensors = TypeAdapter(list[TensorPlace]).validate_json(_text(path, file, "tensors"))
    about = About.model_validate_json(_text(path, file, "about"))
    parameters: np.ndarray = _checked(path, file)[:].astype(np.float32)
    found, said = weights_sha256(parameters), _text(path, file, "weights_sha256")
    if found != said:
        raise InputError(f"{path} is damaged: its weights have sha256 {found}, and it says {said}")
    if not np.isfinite(parameters).all():
        raise InputError(f"{path}: some parameters are infinite or no numbers")
    return Stored(path, parameters, tensors, about)


def _checked(path: Path, file: h5py.File) -> h5py.Dataset:
    """The parameters, looked at from every side before any is read: here, of float32, and no more than the file has room for."""
    link = file.get("parameters", getlink=True)
    dataset = file["parameters"] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype != np.dtype("<f4") or dataset.ndim != 1:
        raise InputError(
            f"{path}: wanted: a data set /parameters, one row of float32, and no link to elsewhere"
        )
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: /parameters lie in other files; wanted: all data in this one")
    creation = dataset.id.get_create_plist()
    filters = {creation.get_filter(number)[0] for number in range(creation.get_nfilters())}
    if dataset.chunks is None or filters != {h5py.h5z.FILTER_FLETCHER32}:
        raise InputError(f"{path}: /parameters have filters {sorted(filters)}; wanted: fletcher32 (3) only")
    room = min(path.stat().st_size // 4, MOST_PARAMETERS)
    stored, chunks = dataset.id.get_num_chunks(), -(-dataset.size // dataset.chunks[0])
    if not 1 <= dataset.size <= room or dataset.chunks[0] > room or stored != chunks:
        raise InputError(
            f"{path}: {dataset.size:,} parameters in {stored} of {chunks} chunks; wanted: all of 1 to {room:,}"
        )
    return dataset


def _text(path: Path, file: h5py.File, name: str) -> str:
    """An attribute that is one text; references and numbers are not even read."""
    identifier = file.attrs.get_id(name) if name in file.attrs else None
    if identifier is None or identifier.shape or h5py.check_string_dtype(identifier.dtype) is None:
        raise InputError(f"{path}: wanted: an attribute {name}, one text")
    value = file.attrs[name]
    return value if isinstance(value, str) else bytes(value).decode()
