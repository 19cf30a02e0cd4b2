"""How kernels are compiled: one explicit signature each, into a cache that can not be stale and is filled once a machine.

Numba's own on-disk cache has two traps: ranks that compile at once may poison it, and a changed intrinsic or another processor
keeps old code. So the folder's name is a hash of everything the machine code depends on, it lives on the node itself, and one
process fills it under a lock while the others wait.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import njit

WIDE = os.environ.get("DISTSGD_FLOAT") == "64"
"""Whether kernels compute in float64, for checking gradients; everything else expects float32."""
FLOAT = np.float64 if WIDE else np.float32
REAL = numba.from_dtype(np.dtype(FLOAT))
LLVM_FLOAT = ir.DoubleType() if WIDE else ir.FloatType()
SHIFT = 3 if WIDE else 2
"""From bytes to values."""

# nogil: the thread that fills the next batch needs the interpreter for microseconds, and a kernel may take long.
_OPTIONS = {"error_model": "numpy", "boundscheck": False, "_nrt": False, "nogil": True}


def compiled(signature: str, kept: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for exactly `signature` when it is defined, or load it from the cache. No fast-math: NaN stays visible.

    In the signature `real` is the type of FLOAT. kept: in the cache; not where a module is not among those that fill it.
    """
    return njit(re.sub(r"\breal\b", REAL.name, signature), cache=kept, **_OPTIONS)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that only compiled functions call: specialised on their types, a part of their code."""
    return njit(forceinline=True, **_OPTIONS)(function)


def processor_features() -> str:
    """The processor's features as LLVM will use them: what Numba was told (of a processor named "generic" none), or the host's."""
    told = numba.config.CPU_FEATURES
    return str(llvmlite.binding.get_host_cpu_features().flatten() if told is None else told)


def cache_folder() -> Path:
    """A folder of this user on this node for this code in this place, this processor and this Numba."""
    recipe = hashlib.sha256("/".join(_surroundings()).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        # Numba keys what it keeps by the source's place and time; a folder that is full must be so for them as well.
        recipe.update(f"{source} {source.stat().st_mtime_ns}".encode() + source.read_bytes())
    return _private_folder() / recipe.hexdigest()[:16]


def _surroundings() -> list[str]:
    """What machine code depends on beside the sources."""
    processor = [processor_features(), numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()]
    return [
        numba.__version__,
        llvmlite.__version__,
        *processor,
        os.environ.get("DISTSGD_VECTOR", ""),
        REAL.name,
    ]


def _private_folder() -> Path:
    """`$DISTSGD_CACHE`, or a folder in the node's temporary space that nobody else can write to (code is loaded from it)."""
    chosen = os.environ.get("DISTSGD_CACHE")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"distsgd-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = folder.stat()
    if chosen or (seen.st_uid == os.getuid() and not seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return folder
    return Path(tempfile.mkdtemp(prefix="distsgd-"))


_CHILD = "DISTSGD_COMPILE"


def modules_to_compile() -> list[str]:
    """What this process was started to compile; nothing, unless it is one of the children of `filled_once`."""
    return os.environ.get(_CHILD, "").split()


@contextlib.contextmanager
def filled_once(*rounds: Sequence[str]) -> Iterator[None]:
    """While this is open, functions load from the cache folder, or compile into it.

    A cache that is not full yet is filled before, by one process of the node while the others wait: a child for each group of
    modules ("rows update") of a round, and the next round when they have ended. Compiling takes some 70 MB that a rank would
    keep, and a second core is there more often than not.
    """
    folder = cache_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    full, usual = folder / "full", numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        with open(folder / "lock", "w") as lock:
            if not full.exists() and not modules_to_compile():
                fcntl.flock(lock, fcntl.LOCK_EX)
                if full.exists():  # by now: all who waited may load at once
                    fcntl.flock(lock, fcntl.LOCK_UN)
                else:
                    _fill(folder, rounds)
            yield  # under the lock still: what a child could not do is compiled here, and what is wrong shows here
            if not modules_to_compile():
                full.touch()
    finally:
        numba.config.CACHE_DIR = usual


@contextlib.contextmanager
def _on_all_cores() -> Iterator[None]:
    """What is started meanwhile may use all cores that the launcher may: this rank may be bound to one, and the others wait."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, own | os.sched_getaffinity(os.getppid()))
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _fill(folder: Path, rounds: Iterable[Sequence[str]]) -> None:
    print("distsgd: compiling kernels, once for this machine", file=sys.stderr, flush=True)
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "DISTSGD_CACHE": str(folder.parent),
    }
    # -P: not what lies in the current folder. A session of their own: Ctrl-C is for this process, which ends them.
    command = [sys.executable, "-P", "-c", "import distsgd.kernels"]
    for groups in rounds:
        _run_children([(command, {**surroundings, _CHILD: group}) for group in groups])


def _run_children(commands: Iterable[tuple[list[str], dict[str, str]]]) -> None:
    """Run commands, each with its environment, at once; none of them outlives this."""
    with _on_all_cores():
        children = [
            subprocess.Popen(command, env=environment, start_new_session=True)
            for command, environment in commands
        ]
    try:
        for child in children:
            child.wait()
    finally:
        for child in children:
            child.kill()
            child.wait()
