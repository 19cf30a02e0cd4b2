"""On what a machine file's numbers hold, and where such files are kept and found."""

import contextlib
import hashlib
import os
import platform
import re
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from distsgd.comm import Ranks
from distsgd.config import InputError
from distsgd.cost.machine import Machine, Where
from distsgd.kernels.vector import VECTOR
from distsgd.machine.nearness import nearness
from distsgd.plan.measured import check_threads
from distsgd.record import write_whole


def processor() -> str:
    """The processor's name where the system tells (Linux), else its architecture."""
    known = Path("/proc/cpuinfo")
    names = re.findall("^model name.*: (.+)", known.read_text(), re.MULTILINE) if known.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def megahertz(known: Path = Path("/proc/cpuinfo")) -> float | None:
    """What the clock of the first core does now, where the system tells (Linux on x86)."""
    found = re.search(r"^cpu MHz\s*: ([\d.]+)", known.read_text(), re.MULTILINE) if known.is_file() else None
    return float(found[1]) if found else None


def where(ranks: Ranks, threads: int = 1) -> Where:
    """This rank's node, and the job, of ranks with so many threads. All ranks call this."""
    return Where(
        processor=processor(),
        cores=os.cpu_count() or 1,
        vector_lanes=VECTOR,
        ranks=ranks.size,
        ranks_per_node=ranks.on_node()[1],
        mpi=ranks.mpi_library(),
        threads=threads,
        memory=memory(),
        megahertz=megahertz(),
        nearness=nearness(ranks),
    )


@cache
def kernels(package: Path = Path(__file__).parents[1]) -> str | None:
    """A hash of the code whose seconds a machine file tells: of kernels, of layers, which choose among them, and of threads.

    None where there are no sources to look at.
    """
    code = hashlib.sha256()
    sources = sorted(
        source for room in ("kernels", "layers", "threads") for source in package.glob(f"{room}/*.py")
    )
    try:
        for source in sources:
            code.update(source.read_bytes())
    except OSError:
        return None
    return code.hexdigest()[:12] if sources else None


def outdated(there: Where) -> str:
    """What is to be said of a file that was measured with other kernels than these."""
    if kernels() in (None, there.kernels):
        return ""
    return "the machine file is of another version's kernels, which may be slower or faster (measure again: distsgd calibrate)"


def comparable(there: Where, here: Where) -> float | None:
    """How near to each other ranks lay there, if that can be compared with how they lie here: exchanges of another processor or
    library, or of another number of ranks, take other times anyway.
    """
    same = all(getattr(there, name) == getattr(here, name) for name in ("processor", "mpi", "ranks"))
    return there.nearness if same else None


def memory(limits: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that this node's ranks may share: all of it, or what a container or job is given."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system without these names
        return None
    given = [whole]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            given.append(int((limits / name).read_text()))
    return min(given)


def folder() -> Path:
    """The user's machine files: `$XDG_CONFIG_HOME/distsgd/machines`, by default in ~/.config."""
    chosen = os.environ.get("XDG_CONFIG_HOME")
    return (Path(chosen) if chosen else Path.home() / ".config") / "distsgd" / "machines"


def own_path(here: Where) -> Path:
    """Where the file of such a place is kept: one for each MPI library, layout of ranks and number of their threads."""
    mpi = hashlib.sha256(here.mpi.encode()).hexdigest()[:6]
    threads = f"x{here.threads}" if here.threads > 1 else ""
    return folder() / f"{_mark(here)}-{mpi}-{here.ranks}x{here.ranks_per_node}{threads}.json"


def _mark(here: Where) -> str:
    """Of a kind of machine."""
    text = f"{here.processor} {here.cores} {here.vector_lanes}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write(machine: Machine, path: Path) -> None:
    """Write a machine file beside and rename it. InputError where it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (machine.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"cannot write the machine file {path}: {error.strerror or error}") from None


def read(path: Path) -> Machine:
    """A machine file. InputError where it is none."""
    try:
        return Machine.model_validate_json(path.read_bytes(), strict=False)
    except OSError as error:
        raise InputError(
            f"machine file {path}: {error.strerror or error}; make one with distsgd calibrate"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} is no machine file of this version: {place and place + ': '}{first['msg']}; "
            "make one with distsgd calibrate"
        ) from None


def found(here: Where, ranks: int | None = None) -> tuple[Path, Machine] | None:
    """The file of this kind of machine whose number of ranks is the nearest to `ranks`, not given: to those there are.

    For several ranks only of the same MPI library. One of ranks with other threads only where there is none with as many: it tells
    of averages still. Ranks of one node are told of by such of one node, if there is a file of them. One that can't be read, as of
    another version, is as good as none.
    """
    wanted = ranks or here.ranks
    files = []
    for path in sorted(folder().glob(f"{_mark(here)}-*.json")):
        with contextlib.suppress(InputError):
            files.append((path, read(path)))
    fitting = [file for file in files if here.ranks == 1 or file[1].where.mpi == here.mpi]
    places = [machine.where for _, machine in fitting]
    farness = [
        (
            there.threads != here.threads,
            _other_nodes(there, here),
            abs(there.ranks - wanted),
            _crowd(there, here),
        )
        for there in places
    ]
    return fitting[farness.index(min(farness))] if fitting else None


def _other_nodes(there: Where, here: Where) -> bool:
    """Whether those ranks were of several nodes and these are of one, or the other way round; one rank alone may be either."""
    return here.ranks > 1 and (there.ranks > there.ranks_per_node) != (here.ranks > here.ranks_per_node)


def _crowd(there: Where, here: Where) -> int:
    """By how much ranks are more or fewer to a node."""
    return abs(there.ranks_per_node - here.ranks_per_node)


def chosen(path: str | None, ranks: Ranks, threads: int, wanted: int | None = None) -> Machine:
    """The machine file of that path, or else as `found`, for ranks of so many threads. All ranks call this.

    InputError where there is none, or one of another number of threads.
    """
    here = where(ranks, threads)
    own = (Path(path), read(Path(path))) if path else found(here, wanted)
    make = f"distsgd calibrate{f' --threads {threads}' if threads > 1 else ''} --ranks N makes a machine file"
    make += ", N as many ranks as runs have here"
    if own is None:
        raise InputError(f"this machine was not measured: {make}")
    try:
        check_threads(own[1], threads)
    except LookupError as error:
        raise InputError(f"{own[0]}: {error.args[0]}; {make}") from None
    return own[1]
