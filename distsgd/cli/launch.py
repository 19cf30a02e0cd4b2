"""`distsgd launch`: a run as the text of a batch job, printed, written, or handed to the scheduler."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from distsgd import config, launcher
from distsgd.cli.options import add_set, count
from distsgd.cli.ranks import FAILED
from distsgd.clock import Clock
from distsgd.config import InputError
from distsgd.launcher import Job
from distsgd.launcher.job import Mpi

CONTAINER_PYTHON = "/opt/distsgd/bin/python"
"""In the image that launch/Dockerfile makes."""
PROGRAMS: dict[Mpi, str] = {"openmpi": "mpirun", "mpich": "mpiexec", "cray": "mpiexec"}


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `distsgd launch`."""
    parser.set_defaults(command=run)
    _add_job(parser)
    add_site(parser)
    parser.add_argument("--image", default="", help="Kubernetes: container image, see launch/Dockerfile")
    parser.add_argument("--claim", default="", help="Kubernetes: volume claim for images and runs, at /data")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the text there (default: print it)")
    parser.add_argument("--submit", action="store_true", help="hand the text to the scheduler")


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.toml", help="settings, as for train")
    add_set(parser)
    parser.add_argument("--scheduler", required=True, choices=list(launcher.SUBMIT))
    parser.add_argument("--nodes", required=True, type=count, metavar="N")
    parser.add_argument(
        "--ranks-per-node",
        required=True,
        type=count,
        metavar="R",
        help="one a core, or a core for each of train.threads",
    )
    parser.add_argument("--name", help="of the job (default: the config's)")
    parser.add_argument(
        "--run",
        default="",
        help="folder of the run, which goes on if it is there (default: a new one in runs/)",
    )


def add_site(parser: argparse.ArgumentParser) -> None:
    """Options of whatever becomes batch jobs."""
    site = parser.add_argument_group("of the site")
    site.add_argument("--time", type=_seconds, metavar="HH:MM:SS", help="time limit (default: the site's)")
    site.add_argument("--account", default="", help="project that pays")
    site.add_argument("--queue", "--partition", default="", help="queue, in Slurm the partition")
    site.add_argument(
        "--before",
        action="append",
        default=[],
        metavar="LINE",
        help="shell line to begin with, such as 'module load openmpi'; may be repeated",
    )
    site.add_argument("--python", default="", help="on the nodes (default: this one)")
    site.add_argument("--mpi", choices=list(PROGRAMS), help="the MPI there (default: this environment's)")
    site.add_argument("--jsrun", action="store_true", help="LSF: start by jsrun")


def _seconds(text: str) -> int:
    try:
        return launcher.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(given: argparse.Namespace, clock: Clock) -> int:
    """Render and print; with --out write, with --submit submit instead."""
    text = launcher.render(job(given, _threads(given)))
    if given.out:
        _write(given.out, text)
    if given.submit:
        return submit(launcher.SUBMIT[given.scheduler], text)
    if not given.out:
        print(text, end="")
    return 0


def _threads(given: argparse.Namespace) -> int:
    """How many a rank will have. InputError where the settings are wrong; in pods they lie on a volume, and only --set tells."""
    contained = given.scheduler == "kubernetes"
    changes = [
        change for change in given.set if not contained or change.partition("=")[0].strip() == "train.threads"
    ]
    settings, problems = config.read(None if contained else Path(given.config), changes)
    if problems:
        raise InputError("\n".join(problems))
    return settings.train.threads


def job(given: argparse.Namespace, threads: int) -> Job:
    """The job that was asked for, of ranks with so many threads."""
    contained = given.scheduler == "kubernetes"
    mpi = given.mpi or ("openmpi" if contained else _mpi_here())
    python = given.python or (CONTAINER_PYTHON if contained else sys.executable)
    program = str(PurePosixPath(python).parent / PROGRAMS[mpi]) if contained else _program(mpi)
    name = _default_name(given.config, contained) if given.name is None else given.name
    same = (
        "scheduler",
        "config",
        "nodes",
        "ranks_per_node",
        "run",
        "account",
        "queue",
        "image",
        "claim",
        "jsrun",
    )
    asked: dict[str, Any] = {option: getattr(given, option) for option in same}
    asked |= {"changes": tuple(given.set), "before": tuple(given.before), "seconds": given.time}
    return Job(name=name, mpi=mpi, launcher=program, python=python, threads=threads, **asked)


def _mpi_here() -> Mpi:
    try:
        kind = launcher.find(os.environ).kind
    except InputError:
        kind = None
    if kind is None:
        raise InputError(f"which MPI the nodes have is not seen here: give --mpi {', '.join(PROGRAMS)}")
    return kind


def _program(mpi: Mpi) -> str:
    """This environment's launcher, whole, where it is of that MPI; else the name, for PATH on the nodes to find."""
    try:
        found = launcher.find(os.environ)
    except InputError:
        return PROGRAMS[mpi]
    return found.path if found.kind == mpi else PROGRAMS[mpi]


def _default_name(path: str, contained: bool) -> str:
    """The config's name with nothing in it that a name may not have."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(path).stem).strip("-")[:40].rstrip("-")
    name = name if name[:1].isalpha() else f"run-{name}"[:40].rstrip("-")
    return name.lower() if contained else name


def _write(path: Path, text: str) -> None:
    """A file that is there may have been changed by hand: it stays."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"--out {path}: can't be written: {error.strerror}") from None


def submit(command: list[str], text: str) -> int:
    """Hand a text to the scheduler; returns the exit code."""
    if shutil.which(command[0]) is None:
        raise InputError(
            f"--submit: there is no {command[0]} on PATH; take the text to where the scheduler is, with --out FILE"
        )
    return FAILED if subprocess.run(command, input=text, text=True, check=False).returncode else 0
