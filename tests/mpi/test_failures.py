"""What goes wrong on one rank reaches all of them: numbers, exceptions, settings, time.

This file is also the program that mpiexec starts; its first argument says what to do there.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest

from distsgd.cli import main as command_line
from distsgd.clock import PHASES, Clock
from distsgd.comm import Exact, Ranks, world
from distsgd.config import Config
from distsgd.record import weights_sha256
from distsgd.training import Diverged, Training, check
from distsgd.training.rounds import Local
from distsgd.training.workers import Worker, Workers

if TYPE_CHECKING:
    from conftest import Finished, Launch

# An epoch is four steps; the fourth has one image of each of the workers 0 to 3, none of the others.
EXPERIMENT: dict[str, Any] = {
    "data": {"train_images": 487},
    "network": {"name": "rendon", "dropout": 0.5},
    "optimizer": {"name": "sgd", "learning_rate": 0.01},
    "averaging": {"workers": 7},
    "train": {"epochs": 2, "batch": 23},
}
AVERAGES: dict[str, dict[str, Any]] = {
    "1": {"period": 1},
    "3": {"period": 3, "topology": "master"},
    "once": {"period": "once"},
    "gradients": {"what": "gradients"},
}
PLACE = 7
ROUNDS_BEFORE_STEP_5 = {"1": 5, "3": 2, "once": 2, "gradients": 5}
EPOCHS_BEFORE_STEP_5 = 1
SETTINGS = ["data.train_images=487", "network.name=rendon", "train.batch=23", "averaging.workers=7"]


def train_options(*changes: str) -> list[str]:
    """Return the arguments of a short run of `distsgd train` with these settings too."""
    return ["train", *(part for change in (*SETTINGS, *changes) for part in ("--set", change))]


@contextmanager
def spoiled(worker: int, step: int, value: float) -> Iterator[None]:
    """Put `value` into a worker's parameters, or the gradient if these are averaged, after one of its steps."""
    run, learn = Local.run, Local.learn
    alone = [True]  # gradients are averaged by calling `learn` from outside `run`

    def spoiling_run(self: Local, hosted: Worker, first: int, last: int) -> None:
        alone[0] = False
        run(self, hosted, first, last)
        alone[0] = True
        if hosted.number == worker and self.number(first) <= step <= self.number(last - 1):
            self.state[PLACE] = value

    def spoiling_learn(self: Local, hosted: Worker, number: int) -> int:
        count = learn(self, hosted, number)
        if alone[0] and hosted.number == worker and self.number(number) == step:
            self.network.gradient[PLACE] = value
        return count

    with patch.object(Local, "run", spoiling_run), patch.object(Local, "learn", spoiling_learn):
        yield


def outcome(averaging: dict[str, Any], ranks: Ranks, **train: Any) -> dict[str, Any]:
    """Train; return how many rounds and epochs ended, whether all diverged, and what came out."""
    sections = {
        "averaging": {**EXPERIMENT["averaging"], **averaging},
        "train": {**EXPERIMENT["train"], **train},
    }
    config = Config.model_validate({**EXPERIMENT, **sections})
    rounds: list[Any] = []
    epochs: list[Any] = []
    clock, widened, widen = Clock(), [0], Exact.widen

    def counting(average: Exact) -> None:
        widened[0] += 1
        widen(average)

    seen: dict[str, Any] = {"diverged": False}
    with patch.object(Exact, "widen", counting):
        training = Training(check(config, ranks.size, []), ranks, clock)
        try:
            result = training.run(rounds.append, epochs.append)
            seen |= {"value": float(result.parameters[PLACE]), "sha256": weights_sha256(result.parameters)}
            seen |= {"samples": [end.train.samples for end in epochs]}
        except Diverged:
            seen["diverged"] = True
    seconds = clock.seconds()
    return {**seen, "rounds": len(rounds), "epochs": len(epochs), "widened": widened[0], "seconds": seconds}


def not_finite(ranks: Ranks) -> dict[str, Any]:
    """One worker, of the first, the last or another rank, has infinity or no number at step 5."""
    seen = {}
    for name, averaging in AVERAGES.items():
        for worker, value in ((0, np.nan), (3, -np.inf), (6, -np.nan)):
            for reduction in ("exact", "fast"):
                with spoiled(worker, 5, value):
                    own = outcome({**averaging, "reduction": reduction}, ranks)
                seen[f"{name}: {value} in {worker}, {reduction}"] = [
                    own["diverged"],
                    own["rounds"] - ROUNDS_BEFORE_STEP_5[name],
                    own["epochs"] - EPOCHS_BEFORE_STEP_5,
                ]
    return seen


def overflow(ranks: Ranks) -> dict[str, Any]:
    """One worker, at its last step, has a value far beyond its scale, or beyond all scales."""
    seen: dict[str, Any] = {}
    for name, averaging in AVERAGES.items():
        with spoiled(2, 7, 1e9):
            seen[name] = {**outcome(averaging, ranks), "seconds": None}
        with spoiled(2, 7, 1e30):
            seen[f"{name}, beyond all scales"] = {**outcome(averaging, ranks), "seconds": None}
    return seen


def late(ranks: Ranks) -> dict[str, Any]:
    """Rank 1 sleeps for a while in its first round."""
    run, begun = Local.run, [False]

    def sleeping(self: Local, worker: Worker, first: int, last: int) -> None:
        if ranks.rank == 1 and not begun[0]:
            begun[0] = True
            time.sleep(1.0)
        run(self, worker, first, last)

    with patch.object(Local, "run", sleeping):
        return outcome({"period": "epoch"}, ranks, epochs=1)["seconds"]  # type: ignore[no-any-return]


def raising(folder: str, rank: str, error: str) -> int:
    """`distsgd train`, in which one rank raises in its second epoch."""
    ranks, begin = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")), Workers.begin

    def failing(self: Workers, epoch: int) -> None:
        if epoch == 1 and ranks == rank:
            (Path(folder) / "raised").write_text(str(time.time()))
            raise {"RuntimeError": RuntimeError, "MemoryError": MemoryError}[error]("the first cause")
        begin(self, epoch)

    with patch.object(Workers, "begin", failing):
        options = train_options("train.epochs=3", "averaging.period=1")
        return command_line([*options, "--out", f"{folder}/run"])


def unreadable(folder: str) -> int:
    """`distsgd train`, in which the data is not there for rank 2, as if on another node."""
    if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) == "2":
        with patch("distsgd.data.locate", return_value=Path(folder) / "elsewhere.h5"):
            return command_line([*train_options(), "--out", f"{folder}/run"])
    return command_line([*train_options(), "--out", f"{folder}/run"])


PROGRAMS: dict[str, Callable[[Ranks], dict[str, Any]]] = {
    "not_finite": not_finite,
    "overflow": overflow,
    "late": late,
}


def main() -> int:
    """Do what the first argument says; print what every rank saw."""
    what, *given = sys.argv[1:]
    if what == "raising":
        return raising(*given)
    if what == "unreadable":
        return unreadable(*given)
    ranks = world(os.environ)
    every = ranks.gather_bytes(json.dumps(PROGRAMS[what](ranks)).encode())
    if ranks.rank == 0:
        print(json.dumps([json.loads(part) for part in every]))
    return 0


def seen_by_all(done: "Finished", ranks: int) -> list[dict[str, Any]]:
    assert done.rc == 0, done.stderr
    every: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(every) == ranks
    return every


def test_what_is_not_finite_stops_every_rank_in_that_round(mpiexec: "Launch") -> None:
    for seen in seen_by_all(mpiexec(3, __file__, "not_finite"), 3):
        assert len(seen) == len(AVERAGES) * 3 * 2
        assert {case: what for case, what in seen.items() if what != [True, 0, 0]} == {}


@pytest.fixture(scope="module")
def overflow_alone(openmpi: "Launch") -> dict[str, Any]:
    """What one rank makes of values that outgrow their scales."""
    return seen_by_all(openmpi.alone(__file__, "overflow"), 1)[0]


def test_overflow_widens_and_does_the_round_again(overflow_alone: dict[str, Any]) -> None:
    # 1e9 / 2^8 is above 1 and below 2^24: two widenings by 12 bits. 487 images are seen in an epoch, 70 by worker 2.
    shares = {"1": 1 / 4, "3": 1 / 4, "once": 70 / 487}
    for name in AVERAGES:
        seen, beyond = overflow_alone[name], overflow_alone[f"{name}, beyond all scales"]
        assert not seen["diverged"]
        assert 1 <= seen["widened"] <= 3
        assert seen["samples"] == [487, 487]
        if name in shares:
            assert seen["value"] == pytest.approx(1e9 * shares[name], rel=1e-6)
        assert beyond["diverged"]
        assert beyond["epochs"] == 1


@pytest.mark.parametrize("ranks", [2, 3])
def test_overflow_gives_the_same_on_any_number_of_ranks(
    ranks: int, mpiexec: "Launch", overflow_alone: dict[str, Any]
) -> None:
    for seen in seen_by_all(mpiexec(ranks, __file__, "overflow"), ranks):
        assert seen == overflow_alone


def test_waiting_for_a_late_rank_is_told_from_transfer(mpiexec: "Launch") -> None:
    first, sleeper, last = seen_by_all(mpiexec(3, __file__, "late"), 3)
    for seconds in (first, sleeper, last):
        assert set(seconds) == {"total", *PHASES}
        assert sum(seconds[phase] for phase in PHASES) == pytest.approx(seconds["total"], rel=0.01)
    for seconds in (first, last):
        assert seconds["wait"] > 0.6
        assert seconds["average"] < seconds["wait"] / 2
        assert sleeper["wait"] < seconds["wait"] / 2
    assert sleeper["compute"] > 1.0


@pytest.mark.parametrize(("rank", "error"), [("0", "RuntimeError"), ("2", "MemoryError")])
def test_a_rank_that_raises_ends_the_job(rank: str, error: str, mpiexec: "Launch", tmp_path: Path) -> None:
    done = mpiexec(3, __file__, "raising", tmp_path, rank, error)
    ended = time.time() - float((tmp_path / "raised").read_text())
    assert done.rc not in (0, 2)
    assert ended < 10
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.count(f"{error}: the first cause") == 1
    assert "in failing" in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_rank_that_cannot_read_the_data_ends_the_job(mpiexec: "Launch", tmp_path: Path) -> None:
    done = mpiexec(3, __file__, "unreadable", tmp_path)
    assert done.rc != 0
    assert done.seconds < 20
    assert done.stderr.count("elsewhere.h5: no such file") == 1
    assert "Traceback" not in done.stderr


def test_wrong_settings_are_told_once_before_any_rank_computes(mpiexec: "Launch", tmp_path: Path) -> None:
    options = train_options("averaging.workers=2", "train.batch=0", "network.name=garg9", "nosuch.key=1")
    done = mpiexec(3, "-m", "distsgd", *options, "--out", tmp_path / "run")
    assert done.rc != 0
    wanted = (
        "averaging.workers = 2: must be at least the number of ranks, 3",
        "train.batch = 0",
        "garg9",
        "nosuch",
    )
    for text in ("4 things are wrong", *wanted):
        assert done.stderr.count(text) == 1, text
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_told_once(mpiexec: "Launch", tmp_path: Path) -> None:
    options = train_options(f"data.path={tmp_path / 'none.h5'}")
    done = mpiexec(3, "-m", "distsgd", *options, "--out", tmp_path / "run")
    assert done.rc != 0
    assert done.stderr.count("none.h5' is not a file") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", ["optimizer.weight_decay=0.1", "optimizer.clip=1", "averaging.what=gradients"]
)
def test_parameters_that_diverge_are_told_once(change: str, mpiexec: "Launch", tmp_path: Path) -> None:
    options = train_options("optimizer.name=sgd", "optimizer.learning_rate=1e30", "train.epochs=2", change)
    done = mpiexec(3, "-m", "distsgd", *options, "--out", tmp_path / "run")
    assert done.rc == 1
    assert done.stderr.count("distsgd: the parameters became infinite or no numbers") == 1
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["outcome"] == "diverged"


if __name__ == "__main__":
    sys.exit(main())
