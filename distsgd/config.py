"""The one model of a run's settings: the same for a TOML file, for `--set section.key=value` and for Python."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError


class InputError(ValueError):
    """What a user gave is wrong: shown as one message without a traceback, exit code 2."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Data(_Section):
    """Which images, and how often they are dealt anew."""

    path: str = "fashion-mnist-small"
    """A file made by `distsgd data import`, or the name of an embedded set."""
    train_images: int | None = Field(None, ge=1)
    """Use only the first so many training images."""
    reshuffle: int = Field(0, ge=0)
    """Deal the images to the workers anew every so many epochs; 0: never."""


class Network(_Section):
    """Which network."""

    name: str = "chavan-3-16-100"
    dropout: float = Field(0.25, ge=0, lt=1)
    """Rate behind the hidden dense layers."""


class Sgd(_Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)


class Adam(_Section):
    """Adam (Kingma & Ba 2015)."""

    name: Literal["adam"] = "adam"
    learning_rate: float = Field(0.001, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)


def _optimizer_name(section: Any) -> Any:
    return section.get("name", "adam") if isinstance(section, dict) else getattr(section, "name", None)


Optimizer = Annotated[
    Annotated[Sgd, Tag("sgd")] | Annotated[Adam, Tag("adam")], Discriminator(_optimizer_name)
]

Period = Annotated[int, Field(ge=1)] | Literal["epoch", "once"]


class Averaging(_Section):
    """How many workers there are, and when and how they are averaged."""

    workers: int | None = Field(None, ge=1)
    """Logical SGD processes; not given: as many as ranks."""
    period: Period | None = None
    """Local steps between two averages: a number, "epoch", or "once" (only at the end); not given: 8, or 1 for gradients."""
    what: Literal["parameters", "gradients"] = "parameters"
    topology: Literal["allreduce", "master"] = "allreduce"
    reduction: Literal["exact", "fast"] = "exact"

    @property
    def rounds_of(self) -> int | Literal["epoch", "once"]:
        """The period, given or not."""
        return self.period or (1 if self.what == "gradients" else 8)


class Train(_Section):
    """How long, in which batches, from which seed."""

    epochs: int = Field(20, ge=1)
    batch: int = Field(32, ge=1, le=65536)
    """Images in a worker's step."""
    seed: int = Field(0, ge=0, lt=2**63)


class Checkpoint(_Section):
    """How often a run saves all that it needs to go on, and how many of these files are kept."""

    every: float = Field(60.0, ge=0)
    """Seconds between two; 0: only when the run is told to stop."""
    keep: int = Field(3, ge=1)


class Config(_Section):
    """All settings of a run."""

    data: Data = Data()
    network: Network = Network()
    optimizer: Optimizer = Adam()
    averaging: Averaging = Averaging()
    train: Train = Train()
    checkpoint: Checkpoint = Checkpoint()

    def with_workers(self, workers: int) -> "Config":
        """The same settings with the number of workers written down, so that they say the whole experiment."""
        return self.model_copy(update={"averaging": self.averaging.model_copy(update={"workers": workers})})

    def problems(self) -> list[str]:
        """What no single setting shows."""
        averaging = self.averaging
        if averaging.what == "gradients" and averaging.rounds_of != 1:
            return [
                f"averaging.period = {averaging.period!r}: gradients are averaged at every step, so it must be 1"
            ]
        return []


def read(path: Path | None, changes: Sequence[str] = ()) -> tuple[Config, list[str]]:
    """Read a TOML file (None: all defaults) and apply `section.key=value` changes.

    Returns the settings and all that is wrong with them, one text each; where something is, its setting has the default. InputError
    where the file can't be read or is no TOML.
    """
    table = _table(path) if path else {}
    problems = [problem for change in changes if (problem := _change(table, change))]
    config, found = _checked(table)
    return config, problems + found + config.problems()


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "; settings are given with --set" if "=" in path.name else ""
        raise InputError(f"cannot read the config {path}: {error.strerror}{hint}") from None
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def _change(table: dict[str, Any], change: str) -> str | None:
    key, equals, text = change.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) != 2:
        return f"--set {change}: must be section.key=value, for example --set train.epochs=3"
    section = table.setdefault(names[0], {})
    if not isinstance(section, dict):
        return f"--set {change}: {names[0]} is not a section"
    section[names[1]] = _value(text.strip())
    return None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text  # a plain word is a string: nobody quotes twice in a shell


def _checked(table: dict[str, Any]) -> tuple[Config, list[str]]:
    """The settings that are right, with what is said of the others."""
    problems: list[str] = []
    while True:
        try:
            return Config.model_validate(table), problems
        except ValidationError as error:
            faults = {
                tuple(_keys(fault["loc"])): fault for fault in error.errors()
            }  # one a setting: a union has several
            problems += [_fault(keys, fault, table) for keys, fault in faults.items()]
            for keys in faults:
                _remove(table, keys)


def _keys(location: Sequence[int | str]) -> list[str]:
    """Section and key of a location, without the names of a union's members that pydantic puts between and behind."""
    section, *rest = (str(part) for part in location)
    return [section, *(rest[1:2] if section == "optimizer" else rest[:1])]


def _fault(keys: Sequence[str], fault: Mapping[str, Any], table: dict[str, Any]) -> str:
    name, given, message = ".".join(keys), fault["input"], fault["msg"]
    if fault["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; {_choices(keys, table)}"
    if fault["type"].startswith("union_tag") and not isinstance(given, dict):
        return f"{name} = {given!r}: must be a section, for example optimizer.name = 'adam'"
    if fault["type"] == "union_tag_invalid":
        return f"optimizer.name = {given.get('name')!r}: must be 'sgd' or 'adam'"
    if name == "averaging.period":
        return f"{name} = {given!r}: must be a whole number, at least 1, or 'epoch' or 'once'"
    return f"{name} = {given!r}: {message[0].lower()}{message[1:]}".replace("input should be", "must be")


def _choices(keys: Sequence[str], table: dict[str, Any]) -> str:
    sections: dict[str, type[BaseModel]] = {
        "data": Data,
        "network": Network,
        "averaging": Averaging,
        "train": Train,
        "checkpoint": Checkpoint,
    }
    sections["optimizer"] = Sgd if _optimizer_name(table.get("optimizer", {})) == "sgd" else Adam
    if len(keys) > 1 and keys[0] in sections:
        return f"{keys[0]} has {', '.join(sections[keys[0]].model_fields)}"
    return f"the sections are {', '.join(Config.model_fields)}"


def _remove(table: dict[str, Any], keys: Sequence[str]) -> None:
    section, *key = keys
    if key:
        table[section].pop(key[0])
    elif section == "optimizer" and isinstance(
        table[section], dict
    ):  # its name is wrong: look at the rest all the same
        table[section]["name"] = "sgd" if "momentum" in table[section] else "adam"
    else:
        table.pop(section)


def differences(config: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """What each setting that is not the same is in the two, by "section.key"."""
    sections = config.model_dump(), other.model_dump()
    both = [
        {f"{name}.{key}": value for name in part for key, value in part[name].items()} for part in sections
    ]
    keys = dict.fromkeys([*both[0], *both[1]])
    return {key: (both[0].get(key), both[1].get(key)) for key in keys if both[0].get(key) != both[1].get(key)}


def to_toml(config: Config) -> str:
    """The settings as TOML, every one of them."""
    sections = []
    for name, section in config.model_dump(exclude_none=True).items():
        lines = [f"{key} = {_toml(value)}" for key, value in section.items()]
        sections.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(sections) + "\n"


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
