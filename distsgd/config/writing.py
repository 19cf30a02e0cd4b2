"""Settings as TOML, and beside each other."""

import json
from typing import Any

from distsgd.config.settings import Config


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
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(part)}' for key, part in value.items())} }}"
    if isinstance(value, list | tuple):
        return "[\n" + "".join(f"    {_toml(part)},\n" for part in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
