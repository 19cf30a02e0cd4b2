"""A run that is stopped again and again, and goes on with other ranks and another MPI, comes to the same weights.

This file is also the program that a launcher starts: it trains all kinds, and tells one rank to stop.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from distsgd.cli import main as command_line
from distsgd.cli.stopping import Stopping
from distsgd.record import checkpoint

if TYPE_CHECKING:
    from conftest import Launch

# An epoch is four steps; the fourth has one image of each of the workers 0 to 3, none of the others.
SETTINGS = ["data.train_images=487", "network.name=rendon", "network.dropout=0.5", "train.batch=23"]
SETTINGS += ["averaging.workers=7", "train.epochs=4"]
KINDS = {
    "3": ["averaging.period=3"],
    "epoch": ["averaging.period=epoch", "optimizer.name=sgd", "data.reshuffle=1"],
    "once": ["averaging.period=once"],
    "gradients": ["averaging.what=gradients"],
}
MESSAGE = "go on with: distsgd train --resume"


def options(*changes: str) -> list[str]:
    return [part for change in (*SETTINGS, *changes) for part in ("--set", change)]


@contextmanager
def told(kind: str, stage: int) -> Iterator[None]:
    """The last rank is told to stop after some steps, in every other stage so long ago that it leaves its round."""
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0")))
    size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("PMI_SIZE", "1")))
    calls = [random.Random(f"{kind} {stage}").randrange(5, 25)]

    def asked(stopping: Stopping) -> float | None:
        calls[0] -= 1
        return (100.0 if stage % 2 else 0.0) if rank == size - 1 and calls[0] < 0 else None

    with patch.object(Stopping, "asked", asked):
        yield


def main() -> int:
    """Train every kind in a folder, from the beginning (stage 0) or where it is; the last stage goes on to the end."""
    folder, stage, stages = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for kind, changes in KINDS.items():
        run = str(folder / kind)
        begin = ["train", *options(*changes), "--out", run]
        arguments = ["train", "--resume", run] if stage else begin
        if stage == stages - 1:
            assert command_line(arguments) == 0
        else:
            with told(kind, stage):
                assert command_line(arguments) == 128  # by no signal
    return 0


def outcome(run: Path) -> dict[str, Any]:
    """What does not depend on the machine, of a run and of its epochs."""
    summary = json.loads((run / "run.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [[line[key] for key in ("epoch", "rounds", "train", "test")] for line in lines]
    return {"sha256": summary["weights_sha256"], "rounds": summary["rounds"], "epochs": scores}


@pytest.fixture(scope="module")
def whole(openmpi: "Launch", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    done = openmpi.alone(__file__, folder, 0, 1)
    assert done.rc == 0, done.stderr
    return folder


@pytest.mark.parametrize("sizes", [[3, 1, 4, 2], [1, 3, 2, 7]], ids=str)
def test_other_ranks_and_another_mpi_go_on_to_the_same_weights(
    sizes: list[int], request: pytest.FixtureRequest, whole: Path, tmp_path: Path
) -> None:
    libraries = [request.getfixturevalue("openmpi")]
    if os.environ.get("DISTSGD_TEST_MPICH"):
        libraries.append(request.getfixturevalue("mpich"))
    for stage, ranks in enumerate(sizes):
        launch = libraries[stage % len(libraries)]
        done = launch(ranks, __file__, tmp_path, stage, len(sizes))
        assert done.rc == 0, done.stderr
        assert done.stdout.count(MESSAGE) == (len(KINDS) if stage < len(sizes) - 1 else 0)
    for kind in KINDS:
        assert outcome(tmp_path / kind) == outcome(whole / kind), kind
        resumed = json.loads((tmp_path / kind / "run.json").read_text())["resumed"]
        assert [part["ranks"] for part in resumed] == sizes[1:]


# Rounds take half a second; and, in the other one, checkpoints half a minute.
SLOW_ROUNDS = """
import sys, time
clock = time.perf_counter
def slow():
    if sys._getframe(1).f_code.co_filename.endswith("training/loop.py"):
        time.sleep(0.25)
    return clock()
time.perf_counter = slow
"""
SLOW_DISK = """
import os, time
sync = os.fsync
def slow(descriptor):
    if "/checkpoint-" in os.readlink(f"/proc/self/fd/{descriptor}"):
        time.sleep(30)
    sync(descriptor)
os.fsync = slow
"""


def heed_signals() -> None:
    """As at a terminal: tests that run in the background, or under nohup, would hand down that signals are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def signalled(
    command: list[str], number: int, times: int, code: str, tmp_path: Path
) -> tuple[int, str, float]:
    """Run a command where Python starts with `code`, and signal its first process after an epoch.

    Returns the exit code, the output, and the seconds from the signal on.
    """
    from conftest import clean_environment, end

    (tmp_path / "sitecustomize.py").write_text(code)
    job = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=clean_environment({"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}),
        preexec_fn=heed_signals,
        start_new_session=True,
    )
    try:
        said = first_epoch(job)
        sent = time.monotonic()
        for _ in range(times):
            job.send_signal(number)
            time.sleep(0.8 if times > 1 else 0)
        said += job.communicate(timeout=30)[0]
        return job.returncode, said, time.monotonic() - sent
    finally:
        if job.poll() is None:
            import psutil  # the ranks of another MPI import this file in an environment without

            end([*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)])


def first_epoch(job: "subprocess.Popen[str]", epochs: int = 4) -> str:
    """Read until the first epoch has ended."""
    said = ""
    assert job.stdout is not None
    for line in job.stdout:
        said += line
        if line.startswith(f"epoch 1/{epochs}"):
            return said
    raise AssertionError(f"no epoch ended:\n{said}")


CASES = {
    "alone, SIGTERM": ("openmpi", "alone", signal.SIGTERM, 143),
    "alone, Ctrl-C": ("openmpi", "alone", signal.SIGINT, 130),
    "alone, hung up": ("openmpi", "alone", signal.SIGHUP, 129),
    "ranks of Open MPI, Ctrl-C": ("openmpi", "--ranks", signal.SIGINT, 130),
    "ranks of Open MPI, SIGTERM": ("openmpi", "--ranks", signal.SIGTERM, 143),
    "ranks of MPICH, Ctrl-C": ("mpich", "--ranks", signal.SIGINT, 130),
    "mpiexec of Open MPI, SIGUSR1": ("openmpi", "mpiexec", signal.SIGUSR1, 138),
    "mpiexec of MPICH, SIGTERM": ("mpich", "mpiexec", signal.SIGTERM, 143),
}


def command(launch: "Launch", how: str, *arguments: str) -> list[str]:
    begin = [launch.launcher, "-n", "2"] if how == "mpiexec" else []
    return [
        *begin,
        launch.python,
        "-m",
        "distsgd",
        "train",
        *arguments,
        *(["--ranks", "2"] if how == "--ranks" else []),
    ]


@pytest.mark.parametrize("case", CASES)
def test_a_signal_saves_the_run_and_ends_it(
    case: str, request: pytest.FixtureRequest, whole: Path, tmp_path: Path
) -> None:
    name, how, number, code = CASES[case]
    launch, run = request.getfixturevalue(name), tmp_path / "run"
    arguments = command(launch, how, *options(*KINDS["3"]), "--out", str(run))
    rc, said, seconds = signalled(arguments, number, 1, SLOW_ROUNDS, tmp_path)
    assert (rc, said.count(MESSAGE)) == (code, 1), said
    assert seconds < 10
    assert "Traceback" not in said
    assert len(checkpoint.saved(run / "checkpoints")) == 1
    done = launch.alone("-m", "distsgd", "train", "--resume", run)
    assert done.rc == 0, done.stderr
    assert outcome(run) == outcome(whole / "3")


@pytest.mark.parametrize("how", ["alone", "--ranks"])
def test_a_second_signal_ends_a_run_at_once(how: str, openmpi: "Launch", tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = command(openmpi, how, *options(*KINDS["3"]), "--out", str(run))
    rc, said, seconds = signalled(arguments, signal.SIGTERM, 2, SLOW_ROUNDS + SLOW_DISK, tmp_path)
    assert (rc, seconds < 10) == (143, True), said
    assert (
        how == "--ranks" or "told to stop twice, and ends at once; begin again with" in said
    )  # nothing was saved
    assert not (run / "run.json").exists()


# A round of an epoch takes a quarter of a minute.
SLOW_STEPS = """
import time
from distsgd.training.rounds import Local
learn = Local.learn
def slow(*given):
    time.sleep(1)
    return learn(*given)
Local.learn = slow
"""


@pytest.mark.alone
@pytest.mark.parametrize(("kind", "name"), [("epoch", "openmpi"), ("epoch", "mpich"), ("once", "openmpi")])
def test_a_signal_to_one_rank_ends_a_long_round_of_all(
    kind: str, name: str, request: pytest.FixtureRequest, whole: Path, tmp_path: Path
) -> None:
    import psutil
    from conftest import clean_environment, end

    launch, run = request.getfixturevalue(name), tmp_path / "run"
    (tmp_path / "sitecustomize.py").write_text(SLOW_STEPS)
    job = subprocess.Popen(
        command(launch, "mpiexec", *options(*KINDS[kind]), "--out", str(run)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment({"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}),
        start_new_session=True,
    )
    others: list[psutil.Process] = []
    try:
        assert job.stdout is not None
        next(line for line in job.stdout if line.startswith("rendon on"))
        time.sleep(3)  # rank 0 takes a step of its own before the first round
        others = psutil.Process(job.pid).children(recursive=True)
        (last,) = (process for process in others if rank_of(process) == "1")
        sent = time.monotonic()
        last.send_signal(signal.SIGTERM)
        said = job.communicate(timeout=30)[0]
        assert time.monotonic() - sent < 10
        assert (job.returncode, said.count(MESSAGE)) == (143, 1), said
    finally:
        end([*others, psutil.Process(job.pid)] if job.poll() is None else others)
        job.communicate()
    done = launch.alone("-m", "distsgd", "train", "--resume", run)
    assert done.rc == 0, done.stderr
    assert outcome(run) == outcome(whole / kind)


def rank_of(process: Any) -> str | None:
    """The rank that an MPI launcher made a process, as its environment says."""
    import psutil

    try:
        environ = process.environ() if "distsgd" in process.cmdline() else {}
    except psutil.Error:  # it has ended
        return None
    return environ.get("OMPI_COMM_WORLD_RANK", environ.get("PMI_RANK"))


@pytest.mark.parametrize("name", ["openmpi", "mpich"])
def test_nothing_outlives_the_process_that_started_the_ranks(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import psutil
    from conftest import clean_environment, end

    launch, run = request.getfixturevalue(name), tmp_path / "run"
    changes = options(*KINDS["3"], "train.epochs=100000")
    job = subprocess.Popen(
        command(launch, "--ranks", *changes, "--out", str(run)),
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment({}),
        start_new_session=True,
    )
    first_epoch(job, 100000)
    others = psutil.Process(job.pid).children(recursive=True)
    assert len(others) >= 3  # the launcher and two ranks
    try:
        job.kill()
        _, left = psutil.wait_procs(others, timeout=10)
        assert left == []
        assert len(checkpoint.saved(run / "checkpoints")) == 1
    finally:
        end(others)
        job.communicate()


if __name__ == "__main__":
    sys.exit(main())
