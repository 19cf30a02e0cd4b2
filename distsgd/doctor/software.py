"""Versions of what distsgd stands on, from what their packages say of themselves: nothing is imported."""

import platform
import re
import sys
from importlib import metadata

from distsgd.doctor.finding import Finding

OLDEST = {"mpi4py": "4.1", "numpy": "2", "numba": "0.61", "h5py": "3.12", "pydantic": "2.10"}
"""As pyproject.toml declares them, which is not there in an installed package."""


def python() -> Finding:
    """The interpreter."""
    seen = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if platform.python_implementation() != "CPython":
        return Finding(
            "python", "problem", f"{seen}: Numba needs CPython", "python3 -m venv .venv, with CPython"
        )
    return Finding("python", "ok", seen)


def packages() -> Finding:
    """Whether packages are there, new enough, and versions that go together."""
    found = {name: _version(name) for name in OLDEST}
    seen = ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
    wrong = [
        f"'{name}>={oldest}'"
        for name, oldest in OLDEST.items()
        if not found[name] or _numbers(found[name]) < _numbers(oldest)
    ]
    if wrong:
        return Finding(
            "packages", "problem", f"{seen}; missing or too old", f"python -m pip install {' '.join(wrong)}"
        )
    if fault := too_new(found["numpy"], found["numba"], metadata.requires("numba") or []):
        return Finding("packages", "problem", f"{seen}; {fault[0]}", f"python -m pip install {fault[1]}")
    return Finding("packages", "ok", seen)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def too_new(numpy: str, numba: str, required: list[str]) -> tuple[str, str] | None:
    """What is wrong with this NumPy beside this Numba, and what to install; every Numba works up to some NumPy only."""
    for requirement in required:
        limit = re.search(r"<\s*([\d.]+)", requirement)
        if re.match(r"numpy\b", requirement) and limit and _numbers(numpy) >= _numbers(limit[1]):
            return f"numba {numba} needs numpy<{limit[1]}", f"--upgrade numba 'numpy<{limit[1]}'"
    return None
