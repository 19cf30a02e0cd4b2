"""The command line that starts ranks by an MPI launcher: text, nothing is run."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from distsgd.config import InputError
from distsgd.launcher import hostfile
from distsgd.launcher.environment import TERMINAL, THREADS, single_thread
from distsgd.launcher.find import Kind, Launcher

ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "PE_HOSTFILE")
CARRIED = ("PYTHONPATH", "DISTSGD_CACHE", "HDF5_USE_FILE_LOCKING", TERMINAL, *THREADS)
"""What ranks on other hosts need of this environment. MPICH carries all of it there, Open MPI only what it is told to."""


class Cores(NamedTuple):
    """Physical cores: those this process may use, and all that the machine has."""

    usable: int
    machine: int


TOPOLOGY = Path("/sys/devices/system/cpu")


def cores(topology: Path = TOPOLOGY) -> Cores:
    """Count physical cores; two hardware threads of one core do not run two ranks any faster."""
    machine = range(os.cpu_count() or 1)
    return Cores(len(physical(processors(), topology)), len(physical(machine, topology)))


def processors() -> set[int]:
    """The processors, hardware threads included, that this process may run on."""
    return set(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def physical(processors: Iterable[int], topology: Path = TOPOLOGY) -> set[str]:
    """The cores that processors belong to, each named by its processors ("0,64")."""

    def siblings(processor: int) -> str:
        try:
            return (topology / f"cpu{processor}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            return str(processor)

    return {siblings(processor) for processor in processors}


def command(
    launcher: Launcher,
    ranks: int,
    arguments: list[str],
    cores: Cores,
    environ: Mapping[str, str],
    uid: int,
    hosts: Path | None = None,
    threads: int = 1,
) -> tuple[list[str], dict[str, str]]:
    """Write the command that runs `distsgd ARGUMENTS` on so many ranks, and what to add to its environment.

    `uid` is the effective user; `hosts` a file that names the hosts to run on; `threads` how many a rank has. Raises
    InputError where Open MPI would refuse it, because it is root, or where the file is wrong.
    """
    added = single_thread(environ)
    if launcher.kind == "openmpi":
        _check_root(environ, uid)
        if "OMPI_MCA_btl" not in environ:
            added["OMPI_MCA_btl"] = "^ofi"  # its start sleeps for a whole second, network or not
    if hosts is not None:
        hostfile.check(hosts, launcher, ranks)
        placement = _on_hosts(launcher.kind, hosts, {**environ, **added}, threads)
    else:
        placement = _placement(launcher.kind, ranks, cores, environ, threads)
    return [launcher.path, "-n", str(ranks), *placement, sys.executable, "-m", "distsgd", *arguments], added


def _check_root(environ: Mapping[str, str], uid: int) -> None:
    if uid == 0 and any(environ.get(name) != "1" for name in ROOT):
        raise InputError(
            "Open MPI does not start ranks as root: run as another user or, where root is meant "
            f"(a container), set {ROOT[0]}=1 and {ROOT[1]}=1."
        )


def _on_hosts(kind: Kind | None, hosts: Path, environ: Mapping[str, str], threads: int) -> list[str]:
    if kind == "mpich":
        return ["-f", str(hosts)]
    carried = [part for name in CARRIED if name in environ for part in ("-x", name)]
    return ["--hostfile", str(hosts), *_unbound(kind, threads), *carried]


def _unbound(kind: Kind | None, threads: int) -> list[str]:
    """Left alone Open MPI binds a rank, and all its threads, to one core; MPICH binds nothing unless told to."""
    return ["--bind-to", "none"] if kind == "openmpi" and threads > 1 else []


def _placement(
    kind: Kind | None, ranks: int, cores: Cores, environ: Mapping[str, str], threads: int
) -> list[str]:
    # In a batch job the launcher knows the nodes and their slots; this node's cores say nothing about them.
    if kind is None or any(name in environ for name in BATCH_JOBS):
        return _unbound(kind, threads)
    # Both launchers bind from core 0 up, whatever affinity they were started with: bound ranks of two jobs,
    # or of one that was given a part of the machine, share cores. So only a job that fills the machine binds.
    if threads == 1 and ranks == cores.usable == cores.machine:
        return ["--bind-to", "core"]
    oversubscribe = ["--oversubscribe"] if kind == "openmpi" and ranks > cores.usable else []
    return [*oversubscribe, "--bind-to", "none"]
