"""What importing costs: the start is light, and nothing starts MPI before a world is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = """
import importlib, pkgutil, distsgd
for module in pkgutil.walk_packages(distsgd.__path__, "distsgd."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def imported(code: str) -> set[str]:
    """Return the names of all modules that are loaded after `code` has run in a fresh Python."""
    shown = f"{code}\nimport sys; print('loaded:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("module", ["distsgd", "distsgd.launcher", "distsgd.config"])
def test_import_is_light(module: str) -> None:
    # Thread counts are set before numpy is imported, and by then these have been used.
    assert not imported(f"import {module}") & {"numpy", "numba", "h5py", "mpi4py"}


def test_no_module_starts_mpi_when_imported() -> None:
    loaded = imported(EVERYTHING)
    assert "distsgd.launcher" in loaded
    assert "mpi4py.MPI" not in loaded
