"""The MPI library that mpi4py finds, looked at without joining anything."""

import ctypes
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Library:
    """name: with its version. file: where it was loaded from, "" where nothing tells. survives: it has ULFM's functions."""

    name: str
    file: str
    survives: bool


def library() -> Library:
    """Load the MPI library but do not start it. Raises ImportError or RuntimeError where there is none.

    A process that has called this can not become a rank; MPI libraries that fail here may end the process.
    """
    import mpi4py

    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    from mpi4py import MPI

    from distsgd.comm.ranks import library_name

    file = _file(Path("/proc/self/maps"))
    return Library(library_name(MPI.Get_library_version()), file, _has_ulfm(file))


def _file(maps: Path) -> str:
    """What of this process's memory is an MPI library; vendors call theirs libmpi_cray.so, libmpi_ibm.so and so on."""
    try:
        files = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines()}
    except OSError:
        return ""
    names = {file: Path(file).name for file in files if Path(file).name.startswith("libmpi")}
    return min(names, key=lambda file: (not names[file].startswith("libmpi.so"), file), default="")


def _has_ulfm(file: str) -> bool:
    return hasattr(ctypes.CDLL(file or None), "MPIX_Comm_revoke")
