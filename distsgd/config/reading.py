"""Settings from a TOML file, a table and `--set section.key=value`; all that is wrong in words a user understands."""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from distsgd.config.network import ListedLayer, Network
from distsgd.config.optimizer import Adam, Sgd, optimizer_name
from distsgd.config.section import InputError
from distsgd.config.settings import Augment, Averaging, Checkpoint, Config, Data, Train


def read(path: Path | None, changes: Sequence[str] | Mapping[str, Any] = ()) -> tuple[Config, list[str]]:
    """Read a TOML file (None: all defaults) and apply changes: `section.key=value` each, or in nested mappings.

    Returns the settings and all that is wrong with them, one text each; where something is, its setting has the default. InputError
    where the file can't be read or is no TOML.
    """
    table = _table(path) if path else {}
    problems = []
    if isinstance(changes, Mapping):
        _merge(table, changes)
    else:
        problems = [problem for change in changes if (problem := _change(table, change))]
    config, found = _checked(table)
    return config, problems + found + config.problems()


def read_table(table: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """The settings in nested mappings, as `read` returns those of a file."""
    config, found = _checked(copy.deepcopy({**table}))
    return config, found + config.problems()


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "; settings are given with --set" if "=" in path.name else ""
        raise InputError(f"cannot read the config {path}: {error.strerror}{hint}") from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is no text, so no config; images are given with --set data.path={path}"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def _merge(table: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for section, keys in copy.deepcopy({**changes}).items():
        before = table.get(section)
        if isinstance(before, dict) and isinstance(keys, Mapping):
            keys = {**before, **keys}
        table[section] = keys


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
            # One a setting: a union has several.
            faults = {_path(fault["loc"]): fault for fault in error.errors()}
            problems += [_fault(path, fault, table) for path, fault in faults.items()]
            for keys in dict.fromkeys(tuple(_keys(fault["loc"])) for fault in faults.values()):
                _remove(table, keys)


def _keys(location: Sequence[int | str]) -> list[str]:
    """Section and key of a location, without the names of a union's members that pydantic puts between and behind."""
    section, *rest = (str(part) for part in location)
    return [section, *(rest[1:2] if section == "optimizer" else rest[:1])]


def _path(location: Sequence[int | str]) -> str:
    """The setting as a user would write it; network.layers[2].size is the second layer's."""
    name = ".".join(_keys(location))
    if len(location) < 3 or not isinstance(location[2], int):
        return name
    return f"{name}[{location[2] + 1}]" + (f".{location[4]}" if len(location) > 4 else "")


def _fault(name: str, fault: Mapping[str, Any], table: dict[str, Any]) -> str:
    given, message, keys = fault["input"], fault["msg"], _keys(fault["loc"])
    if name.startswith("network.layers["):
        return f"{name}: {_layer_fault(fault)}"
    if fault["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; {_choices(keys, table)}"
    if fault["type"].startswith("union_tag") and not isinstance(given, dict):
        return f"{name} = {given!r}: must be a section, for example optimizer.name = 'adam'"
    if fault["type"] == "model_type":
        return f"{name} = {given!r}: must be a section, a table of settings"
    if fault["type"] == "union_tag_invalid":
        return f"optimizer.name = {given.get('name')!r}: must be 'sgd' or 'adam'"
    if fault["type"] == "string_pattern_mismatch":
        return f"{name} = {given!r}: must be letters, digits, '_', '.' and '-'"
    if name == "network.layers":
        return f"{name} = {given!r}: must be a list of layers, for example [{{ kind = 'dense' }}]"
    if name == "averaging.period":
        return f"{name} = {given!r}: must be a whole number, at least 1, or 'epoch' or 'once'"
    if name == "data.prefetch":
        return f"{name} = {given!r}: must be true, false or 'auto'"
    return f"{name} = {given!r}: {message[0].lower()}{message[1:]}".replace("input should be", "must be")


def _layer_fault(fault: Mapping[str, Any]) -> str:
    kinds = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(ListedLayer)[0])}
    given, place, message = fault["input"], fault["loc"], fault["msg"]
    if fault["type"].startswith("union_tag") or len(place) < 5:
        kind = given.get("kind") if isinstance(given, dict) else given
        return f"kind = {kind!r}: must be one of {', '.join(kinds)}"
    settings = ", ".join(name for name in kinds[str(place[3])].model_fields if name != "kind")
    if fault["type"] == "extra_forbidden":
        return f"there is no such setting; a {place[3]} has {settings or 'none'}"
    if fault["type"] == "missing":
        return f"must be given; a {place[3]} has {settings}"
    if place[4] == "padding":
        return f"{given!r}: must be 'valid', 'same', 'full' or a number of zeros"
    return f"{given!r}: {message[0].lower()}{message[1:]}".replace("input should be", "must be")


def _choices(keys: Sequence[str], table: dict[str, Any]) -> str:
    sections: dict[str, type[BaseModel]] = {
        "data": Data,
        "augment": Augment,
        "network": Network,
        "averaging": Averaging,
        "train": Train,
        "checkpoint": Checkpoint,
    }
    sections["optimizer"] = Sgd if optimizer_name(table.get("optimizer", {})) == "sgd" else Adam
    if len(keys) > 1 and keys[0] in sections:
        section = sections[keys[0]]
        which = f" {section.model_fields['name'].default!r}" if keys[0] == "optimizer" else ""
        return f"{keys[0]}{which} has {', '.join(section.model_fields)}"
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
