"""Where files go: the kernel cache, shared memory, locks, free space."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from distsgd.doctor.finding import Finding, Level

DOCKER_BYTES = 64 * 2**20
"""What Docker gives /dev/shm unless told otherwise."""
FEW_BYTES, TOO_FEW_BYTES = 100 * 10**6, 5 * 10**6
NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "cifs",
    "ceph",
    "afs",
    "panfs",
    "9p",
    "fuse.sshfs",
}
_ELSEWHERE = "export DISTSGD_CACHE=/tmp/distsgd-cache-$(id -u)  # any folder of yours on the node itself"


def kernel_cache(mounts: Path = Path("/proc/self/mounts")) -> Finding:
    """Whether kernels load, from a folder that is this node's own; compiles them where they are not there yet."""
    began = time.perf_counter()
    try:
        import distsgd.kernels  # noqa: F401
        from distsgd.kernels.compiled import cache_folder

        folder = cache_folder()
    except OSError as error:
        return Finding("kernel cache", "problem", f"no place for compiled kernels: {error}", _ELSEWHERE)
    except ImportError as error:
        cure = "python -m pip install --upgrade numba numpy"
        return Finding("kernel cache", "problem", f"kernels can't be compiled: {error}", cure)
    return _judged(folder, time.perf_counter() - began, file_system(folder, mounts))


def _judged(folder: Path, seconds: float, kind: str) -> Finding:
    full, others = (folder / "full").exists(), _others(folder)
    seen = f"{folder}, {'full' if full else 'not full'}, ready in {seconds:.1f} s"
    if kind in NETWORK_FILE_SYSTEMS:
        seen += f"; on a network file system ({kind}), which all nodes read at once"
        return Finding("kernel cache", "note", seen, _ELSEWHERE)
    if not full:
        seen += "; the usual folder belongs to someone else or others can write to it: kernels are compiled at every start"
        return Finding("kernel cache", "note", seen, _ELSEWHERE)
    if others:
        seen += f"; {len(others)} of other versions or processors beside it, {_size(others) / 1e6:.0f} MB"
    return Finding("kernel cache", "ok", seen)


def _others(folder: Path) -> list[Path]:
    """What else is a cache there: of other code, processors, versions of Numba."""
    beside = (
        path for path in folder.parent.iterdir() if path != folder and len(path.name) == len(folder.name)
    )
    return [path for path in beside if (path / "lock").is_file()]


def _size(folders: list[Path]) -> int:
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that a folder is on ("ext4", "nfs4"), or nothing where the system does not tell."""
    try:
        fields = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    whole = path.resolve()
    holding = [field for field in fields if whole.is_relative_to(field[1].replace("\\040", " "))]
    return max(holding, key=lambda field: len(field[1]))[2] if holding else ""


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Ranks of a node meet in /dev/shm; where it is full, MPICH's die of a bus error."""
    if not folder.is_dir():
        return Finding(
            "shared memory", "note", f"there is no {folder}: MPI takes slower ways between ranks of a node"
        )
    about = os.statvfs(folder)
    size, free = about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize
    seen = f"{folder} has {size / 2**20:,.0f} MiB, {free / 2**20:,.0f} free"
    if free >= DOCKER_BYTES and size > DOCKER_BYTES:
        return Finding("shared memory", "ok", seen)
    level: Level = "problem" if free < TOO_FEW_BYTES else "note"
    cure = "docker run --shm-size=1g ...  (Kubernetes: an emptyDir of medium Memory there; otherwise remove old files in it)"
    return Finding(
        "shared memory", level, f"{seen}: little for ranks of one node, which may end with a bus error", cure
    )


def locking(environ: Mapping[str, str], folder: Path = Path()) -> Finding:
    """HDF5 locks every file that it opens; some network file systems refuse."""
    chosen = environ.get("HDF5_USE_FILE_LOCKING", "")
    kind = file_system(folder) or "this file system"
    if refusal := _refused_lock(folder):
        seen = f"{kind} in {folder.resolve()} refuses locks ({refusal})"
        if chosen.upper() in ("FALSE", "0"):
            return Finding("file locking", "ok", f"{seen}; HDF5_USE_FILE_LOCKING={chosen}: not needed")
        return Finding("file locking", "problem", seen, "export HDF5_USE_FILE_LOCKING=FALSE")
    return Finding(
        "file locking", "ok", f"{kind} locks files" + (f"; HDF5_USE_FILE_LOCKING={chosen}" * bool(chosen))
    )


def _refused_lock(folder: Path) -> str:
    """Lock a file of our own as HDF5 would; why it could not be."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
    return ""


def space(folder: Path, name: str, cure: str) -> Finding:
    """Whether a folder can be written to and has room."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not _is_writable(there):
        return Finding(name, "problem", f"{there} can't be written to", cure)
    free = shutil.disk_usage(there).free
    seen = f"{there} has {free / 1e9:,.1f} GB free"
    if free >= FEW_BYTES:
        return Finding(name, "ok", seen)
    return Finding(
        name, "problem" if free < TOO_FEW_BYTES else "note", f"{there} has {free / 1e6:.1f} MB free", cure
    )


def _is_writable(folder: Path) -> bool:
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder):
        return True
    return False
