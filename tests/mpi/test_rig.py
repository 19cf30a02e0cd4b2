"""The rig proves itself: what hangs is ended, what fails is seen, what the launcher writes starts ranks."""

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, Launch

DEADLOCK = """
import time
from mpi4py import MPI
MPI.COMM_WORLD.Barrier() if MPI.COMM_WORLD.rank else time.sleep(600)
"""
RAISES = """
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 1:
    raise RuntimeError("the first cause")
MPI.COMM_WORLD.Barrier()
"""
LAUNCH = """
import os, subprocess, sys
from distsgd import launcher
found = launcher.find(os.environ)
version = subprocess.run([found.path, "--version"], capture_output=True, text=True).stdout
assert found.kind == launcher.kind(version) is not None, (found, version)
ranks = int(sys.argv[1])
argv, added = launcher.command(found, ranks, ["one word"], launcher.cores(), os.environ, os.geteuid())
sys.exit(subprocess.run(argv, env={**os.environ, **added}).returncode)
"""
RANK = """
import os, pathlib, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
seen = world.size, sys.argv[1], os.environ["OMP_NUM_THREADS"]
pathlib.Path(f"rank-{world.rank}").write_text(repr(seen))
"""
ISOLATED = """
import time
import pytest

@pytest.mark.mpi(ranks=[1, 2, 3])
def test_sum(mpi_ranks, comm):
    assert comm.size == mpi_ranks
    assert comm.allreduce(1) == mpi_ranks

@pytest.mark.mpi(ranks=2)
def test_one_rank_is_wrong(mpi_ranks, comm):
    assert comm.rank != 1, "rank one is wrong"

@pytest.mark.mpi(ranks=2, timeout=4)
def test_deadlock(mpi_ranks, comm):
    comm.Barrier() if comm.rank else time.sleep(600)
"""


def script(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(text)
    return path


def left_running(folder: Path) -> list[str]:
    """Return the processes that still run in `folder`, or name a file of it, after five seconds."""
    for _ in range(50):
        shown = [f"{p.info['cwd']} {p.info['cmdline']}" for p in psutil.process_iter(["cwd", "cmdline"])]
        left = [line for line in shown if str(folder) in line]
        if not left:
            break
        time.sleep(0.1)
    return left


def test_deadlock_is_ended_with_every_rank(mpiexec: Launch, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="not done after 3 s"):
        mpiexec(2, script(tmp_path, DEADLOCK), timeout=3)
    assert left_running(tmp_path) == []


def test_rank_that_raises_ends_the_job(mpiexec: Launch, tmp_path: Path) -> None:
    done = mpiexec(2, "-m", "mpi4py", script(tmp_path, RAISES), timeout=30)
    assert done.rc != 0
    assert done.stderr.count("RuntimeError: the first cause") == 1
    assert done.seconds < 10
    assert left_running(tmp_path) == []


def test_launchers_are_told_from_their_ranks(mpiexec: Launch) -> None:
    code = "import os; from distsgd.launcher import launched; print('launched', launched(os.environ))"
    assert mpiexec(3, "-c", code).stdout.split("\n").count("launched 3") == 3
    assert mpiexec.alone("-c", code).stdout == "launched None\n"


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_launchers_command_starts_all_ranks(mpiexec: Launch, ranks: int, tmp_path: Path) -> None:
    package = tmp_path / "distsgd"
    package.mkdir()
    (package / "__main__.py").write_text(RANK)
    (package / "__init__.py").write_text("")
    program = script(
        tmp_path.parent, LAUNCH
    )  # elsewhere: it imports the true distsgd, what it starts the one here
    done = mpiexec.alone(program, ranks, cwd=tmp_path)
    assert done.rc == 0, done.stderr
    seen = [path.read_text() for path in sorted(tmp_path.glob("rank-*"))]
    assert seen == [repr((ranks, "one word", "1"))] * ranks


def test_isolated_tests_show_what_happens_on_each_rank(openmpi: Launch, tmp_path: Path) -> None:
    tests = tmp_path / "test_isolated.py"
    tests.write_text(ISOLATED)
    # The rig's conftest as a plugin: it ends the ranks of the test that ran out of time.
    done = openmpi.alone(
        *("-m", "pytest", "-p", "conftest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, tests),
        environment={"PYTHONPATH": str(ROOT / "tests")},
        cwd=tmp_path,
    )
    assert done.rc == 1, done.stdout + done.stderr
    assert (
        "2 failed, 7 passed" in done.stdout
    )  # three jobs of 1 + 2 + 3 ranks; one rank wrong, one right; a hang
    assert "test_one_rank_is_wrong[2][rank=1] - AssertionError: rank one is wrong" in done.stdout
    assert "Timeout occurred for test_isolated.py::test_deadlock" in done.stdout
    assert left_running(tmp_path) == []


@pytest.mark.mpi(ranks=[1, 2, 3])
def test_isolated_ranks_meet(mpi_ranks: int, comm: Any) -> None:
    assert comm.size == mpi_ranks
    assert comm.allreduce(comm.rank) == sum(range(mpi_ranks))
