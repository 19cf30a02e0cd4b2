"""Checkpoints: whole or refused, and a run that goes on from them comes to the same weights."""

import errno
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import room

from distsgd import data
from distsgd.cli import main
from distsgd.cli.stopping import Stopping
from distsgd.clock import Clock
from distsgd.comm import Alone
from distsgd.config import Config, InputError, differences
from distsgd.record import Record, checkpoint, lock, weights_sha256
from distsgd.record.files import beside, hdf5
from distsgd.training import Pause, Stopped, Training, check

STATE = np.linspace(-1, 1, 3000, dtype=np.float32)
FACTS = {"epoch": 3, "step": 17, "lines": ["a line"]}
ARRAYS = [("state", STATE), ("seen", np.arange(7))]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return checkpoint.write(tmp_path / "checkpoints", 3, FACTS, ARRAYS)


def test_a_checkpoint_is_read_as_it_was_written(written: Path) -> None:
    assert written.name == "checkpoint-0003-000017.h5"
    assert checkpoint.read_facts(written) == FACTS
    with checkpoint.reading(written) as take:
        for name, array in ARRAYS:
            out = np.zeros_like(array)
            take(name, out)
            np.testing.assert_array_equal(out, array)


def test_every_byte_counts(written: Path) -> None:
    content = written.read_bytes()
    chance = random.Random(1)
    places = [*range(0, 600, 7), *(chance.randrange(len(content)) for _ in range(200)), len(content) - 1]
    for place in places:
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << chance.randrange(8)
        written.write_bytes(spoiled)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.read_facts(written)
    for other in (b"", content[:100], content[:-1], content[:5000], content + b"\0", content[512:]):
        written.write_bytes(other)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.read_facts(written)
    written.write_bytes(content)
    assert checkpoint.read_facts(written) == FACTS


def test_arrays_that_do_not_fit_are_refused(written: Path) -> None:
    with checkpoint.reading(written) as take:
        for name, out in (
            ("state", np.zeros(2999, np.float32)),
            ("state", np.zeros(3000)),
            ("none", np.zeros(1)),
        ):
            with pytest.raises(checkpoint.Damaged, match=name):
                take(name, out)


def test_the_last_ones_are_kept_in_the_order_of_their_places(tmp_path: Path) -> None:
    for epoch, step in ((9, 8), (9999, 999_999), (9999, 1_000_000), (10_000, 0), (9, 10)):
        checkpoint.write(tmp_path, 9, {"epoch": epoch, "step": step}, [])
    (tmp_path / "checkpoint-7.h5").write_text("not one")
    checkpoint.write(tmp_path, 3, {"epoch": 10_001, "step": 0}, [])
    names = [path.stem for path in checkpoint.saved(tmp_path)]
    assert names == ["checkpoint-10001-000000", "checkpoint-10000-000000", "checkpoint-9999-1000000"]
    assert (tmp_path / "checkpoint-7.h5").exists()


@pytest.mark.parametrize("size", [0, 300, 600, 3000, 8000, 12_000, 13_500])
def test_a_full_disk_leaves_the_last_one_whole(size: int, written: Path) -> None:
    before, taken = written.read_bytes(), []

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for name, array in ARRAYS:
            yield name, array * 2
            taken.append(name)

    for step in (17, 18):
        rest = arrays()
        with room(size), pytest.raises(OSError, match="File too large"):
            checkpoint.write(written.parent, 1, {**FACTS, "step": step}, rest)
        list(rest)
    assert taken == ["state", "seen"] * 2
    assert [path.name for path in written.parent.iterdir()] == [written.name]
    assert written.read_bytes() == before


def test_no_write_of_hdf5_fails_unseen(tmp_path: Path) -> None:
    # Chunks are written when the file is closed, where HDF5 tells nobody.
    def write(path: Path) -> None:
        with beside(path) as partial, hdf5(partial) as file:
            for name in "abc":
                file.create_dataset(name, data=STATE, chunks=True, fletcher32=True)

    for size in range(0, 40_000, 3_000):
        with room(size), pytest.raises(OSError, match="File too large"):
            write(tmp_path / "model.h5")
    assert list(tmp_path.iterdir()) == []


# 487 images for seven workers: an epoch's fourth step has one image or none.
KINDS: dict[str, dict[str, Any]] = {
    "1": {"averaging": {"period": 1}},
    "3": {"averaging": {"period": 3}},
    "epoch": {"averaging": {"period": "epoch"}},
    "once": {"averaging": {"period": "once"}},
    "gradients": {"averaging": {"what": "gradients"}},
    "dealt anew": {"averaging": {"period": 3}, "data": {"reshuffle": 2}},
    "one worker": {"averaging": {"workers": 1}},
}
OPTIMIZERS = ({"name": "adam"}, {"name": "sgd", "learning_rate": 0.02})


def settings(kind: str, optimizer: dict[str, Any]) -> Config:
    sections: dict[str, dict[str, Any]] = {
        "data": {"train_images": 487},
        "network": {"name": "rendon", "dropout": 0.5},
        "averaging": {"workers": 7},
        "train": {"epochs": 5, "batch": 23, "seed": 5},
    }
    changed = {name: {**section, **KINDS[kind].get(name, {})} for name, section in sections.items()}
    return Config.model_validate({**changed, "optimizer": optimizer})


def part(
    config: Config, folder: Path, asked: Callable[[], float | None], lines: list[Any]
) -> np.ndarray | None:
    """Train from the last checkpoint until told to stop: the parameters, or None where it was stopped before the end."""
    training = Training(check(config, 1, []), Alone(), Clock(), Pause(Alone(), 0, asked))
    for path in checkpoint.saved(folder)[:1]:
        with checkpoint.reading(path) as take:
            facts = checkpoint.read_facts(path)
            training.restore(facts, take)
            lines[:] = lines[: facts["epoch"]]

    def save() -> None:
        checkpoint.write(folder, 2, training.place(), training.arrays())

    try:
        return training.run(lambda progress: None, lines.append, save).parameters
    except Stopped:
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_was_saved_is_taken_back(kind: str, tmp_path: Path) -> None:
    config = settings(kind, OPTIMIZERS[0])
    assert part(config, tmp_path, asked_after(60, 100.0), []) is None
    (path,) = checkpoint.saved(tmp_path)
    facts = checkpoint.read_facts(path)
    training = Training(check(config, 1, []), Alone(), Clock())
    with checkpoint.reading(path) as take:
        training.restore(facts, take)
        assert training.place() == facts
        for name, array in training.arrays():
            saved = np.empty_like(array)
            take(name, saved)
            assert array.tobytes() == saved.tobytes(), name
            assert np.any(saved), name


def score_lines(ends: list[Any]) -> list[Any]:
    return [(end.epoch, end.rounds, end.train, end.test) for end in ends]


def asked_after(calls: int, seconds: float) -> Callable[[], float | None]:
    """Told to stop, so many seconds ago, from the call of that number on."""
    left = [calls]

    def asked() -> float | None:
        left[0] -= 1
        return seconds if left[0] < 0 else None

    return asked


@pytest.mark.parametrize("seconds", [0.0, 100.0], ids=["at the round's end", "at once"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adam", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_pieces_comes_to_the_same(
    kind: str, optimizer: dict[str, Any], seconds: float, tmp_path: Path
) -> None:
    config = settings(kind, optimizer)
    whole: list[Any] = []
    expected = part(config, tmp_path / "none", lambda: None, whole)
    assert expected is not None
    chance, ends, parameters, parts = random.Random(kind), list[Any](), None, 0
    while parameters is None:
        # Longer and longer, as a round that is left every time is never done.
        asked = asked_after(chance.randrange(40 + 10 * parts), seconds)
        parameters, parts = part(config, tmp_path / "run", asked, ends), parts + 1
    assert parts > 2
    assert weights_sha256(parameters) == weights_sha256(expected)
    assert score_lines(ends) == score_lines(whole)


def test_what_changes_an_experiment_is_told(written: Path) -> None:
    adam, sgd = settings("3", OPTIMIZERS[0]), settings("1", OPTIMIZERS[1])
    assert differences(adam, adam) == {}
    seen = differences(adam, sgd)
    assert seen["averaging.period"] == (3, 1)
    assert seen["optimizer.momentum"] == (None, 0.9)
    assert "train.epochs" not in seen


QUICK = ["data.train_images=487", "network.name=rendon", "averaging.workers=7", "train.batch=23"]


def options(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The folder of a run that saved at every round and was told to stop after some."""
    with monkeypatch.context() as patched:
        asked = asked_after(150, 0.0)
        patched.setattr(Stopping, "asked", lambda self: asked())
        patched.setattr(Stopping, "listening", lambda self: nullcontext())
        run = tmp_path / "run"
        changes = (*QUICK, "train.epochs=9", "averaging.period=1", "checkpoint.every=1e-9")
        assert main(["train", *options(*changes), "--out", str(run)]) == 128  # by no signal
    said = capsys.readouterr().out
    assert f"saved as {checkpoint.saved(run / 'checkpoints')[0]}\n" in said
    assert f"  go on with: distsgd train --resume {run}\n" in said
    return run


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text())
    return content


def resume(run: Path, *changes: str) -> int:
    return main(["train", "--resume", str(run), *options(*changes)])


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *options(*QUICK, "train.epochs=9", "averaging.period=1"), "--out", str(run)]) == 0
    return summary(run)


def test_a_resumed_run_is_as_if_it_had_not_stopped(
    stopped: Path, whole_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    facts = checkpoint.read_facts(checkpoint.saved(stopped / "checkpoints")[0])
    assert resume(stopped) == 0
    said = capsys.readouterr().out
    assert f"going on after {facts['epoch']} epochs and {facts['step']} step" in said
    seen = summary(stopped)
    same = ("weights_sha256", "rounds", "steps", "test_accuracy", "train_loss", "outcome")
    assert {key: seen[key] for key in same} == {key: whole_run[key] for key in same}
    place = {"epoch": facts["epoch"], "step": facts["step"], "rounds": facts["rounds"], "ranks": 1}
    assert (seen["resumed"], whole_run["resumed"]) == ([place], [])
    assert whole_run["rounds_timed"] == whole_run["rounds"]
    assert seen["rounds_timed"] == seen["rounds"] - facts["rounds"] < seen["rounds"]
    lines = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 10))
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert len(checkpoint.saved(stopped / "checkpoints")) == 3


def test_damaged_ones_are_named_and_the_one_before_is_used(
    stopped: Path, whole_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    last, second, third = checkpoint.saved(stopped / "checkpoints")
    last.write_bytes(last.read_bytes()[:-100])
    second.write_bytes(b"")
    assert resume(stopped) == 0
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        f"distsgd: {last} is damaged: its SHA-256 differs",
        f"distsgd: {second} is damaged: another format",
    ]
    assert f"from {third}" in output.out
    assert summary(stopped)["weights_sha256"] == whole_run["weights_sha256"]
    assert {path.name for path in third.parent.glob("*.damaged")} == {
        f"{path.name}.damaged" for path in (last, second)
    }


def refused(run: Path, capsys: pytest.CaptureFixture[str], *changes: str) -> str:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert resume(run, *changes) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert before == {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"
    }
    return output.err


def test_no_good_one_is_told(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in checkpoint.saved(stopped / "checkpoints"):
        path.write_bytes(b"\0" * 5000)
    said = refused(stopped, capsys)
    assert said.count("is damaged") == 3
    assert "has no good checkpoint to go on from; begin again with: distsgd train" in said


def test_one_of_another_version_is_not_called_damaged(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in checkpoint.saved(stopped / "checkpoints"):
        path.write_bytes(path.read_bytes().replace(checkpoint.FORMAT.encode(), b"distsgd-checkpoint-1", 1))
    said = refused(stopped, capsys)
    told = (
        f"is of another version: it is a distsgd-checkpoint-1, wanted: {checkpoint.FORMAT}; the version that"
    )
    assert (said.count(told), said.count("is damaged")) == (3, 0)


def test_only_what_changes_no_number_may_change(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(stopped, capsys, "train.seed=1", "optimizer.name=sgd", "train.epochs=0")
    assert "train.epochs = 0: must be" in said
    said = refused(stopped, capsys, "train.seed=1", "averaging.period=2", "train.epochs=1")
    assert said.startswith("distsgd: 3 things are wrong:\n")
    assert "averaging.period = 2: the run was begun with 1, and only data.path, " in said
    assert "train.epochs = 1: 2 are done already" in said or "train.epochs = 1: 1 are done already" in said
    assert resume(stopped, "averaging.topology=master", "train.epochs=6", "checkpoint.keep=1") == 0
    assert summary(stopped)["epochs"] == 6


def test_a_finished_run_is_only_made_longer(
    stopped: Path, whole_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert resume(stopped, "train.epochs=7") == 0
    capsys.readouterr()
    assert "is finished; to train longer than its 7 epochs" in refused(stopped, capsys)
    assert "is finished" in refused(stopped, capsys, "train.epochs=7")
    assert resume(stopped, "train.epochs=9", "checkpoint.every=60") == 0
    assert summary(stopped)["weights_sha256"] == whole_run["weights_sha256"]
    assert len(summary(stopped)["resumed"]) == 2


def test_a_short_run_can_be_made_longer_too(
    whole_run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", *options(*QUICK, "train.epochs=4", "averaging.period=1"), "--out", str(run)]) == 0
    (saved,) = checkpoint.saved(run / "checkpoints")
    assert resume(run, "train.epochs=9") == 0
    said = capsys.readouterr().out
    assert f"going on after 3 epochs and 4 steps, from {saved}\n" in said
    assert "epoch 4/9" in said
    assert "epoch 3/9" not in said
    assert summary(run)["weights_sha256"] == whole_run["weights_sha256"]


def test_a_cosine_over_other_epochs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, cosine = tmp_path / "run", "optimizer.schedule=cosine"
    assert main(["train", *options(*QUICK, "train.epochs=2", cosine), "--out", str(run)]) == 0
    capsys.readouterr()
    assert "is finished; its learning rate fell along a cosine" in refused(run, capsys)
    said = refused(run, capsys, "train.epochs=3")
    assert "falls along a cosine over the 2 epochs that the run was begun with; begin a new run" in said


@pytest.fixture
def no_room_for_models(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Record, "model", full)
    return monkeypatch


def test_a_model_that_has_no_room_is_written_when_the_run_goes_on(
    no_room_for_models: pytest.MonkeyPatch,
    whole_run: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    arguments = options(*QUICK, "train.epochs=9", "averaging.period=1")
    assert main(["train", *arguments, "--out", str(run)]) == 1
    assert capsys.readouterr().err == (
        f"distsgd: cannot write the model to {run}: No space left on device; "
        f"make room, and go on with: distsgd train --resume {run}\n"
    )
    no_room_for_models.undo()
    assert resume(run) == 0
    assert summary(run)["weights_sha256"] == whole_run["weights_sha256"]


def test_a_disk_that_takes_nothing_is_told_before_training(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = tmp_path / "another", sorted(stopped.rglob("*"))
    with room(0):
        assert main(["train", *options(*QUICK, "train.epochs=1"), "--out", str(run)]) == 2
        said = refused(stopped, capsys)
    for folder in (run, stopped):
        assert (
            f"distsgd: cannot write into the run's folder {folder}: File too large; make room there\n" in said
        )
    assert sorted(stopped.rglob("*")) == before
    assert resume(stopped) == 0
    assert main(["train", *options(*QUICK, "train.epochs=1"), "--out", str(run)]) == 0


def test_where_nothing_was_saved_nobody_is_told_to_go_on(
    no_room_for_models: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    assert main(["train", *options(*QUICK, "train.epochs=1", "checkpoint.every=0"), "--out", str(run)]) == 1
    advice = f"make room, and begin again with: distsgd train {run}/config.toml --out ANOTHER\n"
    assert capsys.readouterr().err.endswith(advice)
    no_room_for_models.undo()
    assert main(["train", str(run / "config.toml"), "--out", str(again)]) == 0


def test_other_or_missing_images_are_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other, embedded = tmp_path / "other.h5", data.locate("fashion-mnist-small")
    with data.writing(other, (28, 28, 1), "some", ["class"] * 10) as writer:
        for split in ("train", "test"):
            rows = np.arange(500)
            writer.append(
                split, data.read_rows(embedded, split, rows), data.read_labels(embedded, split)[rows]
            )
    assert "has other images than the run began with" in refused(stopped, capsys, f"data.path={other}")
    assert "is not a file" in refused(stopped, capsys, f"data.path={tmp_path / 'none.h5'}")
    moved = tmp_path / "moved.h5"
    moved.write_bytes(embedded.read_bytes())
    assert resume(stopped, f"data.path={moved}") == 0


def test_a_run_in_use_is_refused(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock(stopped):
        assert f"{stopped} is in use by process {os.getpid()} on " in refused(stopped, capsys)
    with pytest.raises(InputError, match="in use"), lock(stopped), lock(stopped):
        pass
    assert resume(stopped) == 0


def test_folders_that_hold_no_run_to_go_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert "there is no run" in refused(run, capsys)
    assert main(["train", *options(*QUICK, "train.epochs=1", "checkpoint.every=0"), "--out", str(run)]) == 0
    (run / "run.json").unlink()
    capsys.readouterr()
    assert "has no checkpoint to go on from; begin again with" in refused(run, capsys)
    assert main(["train", "--out", str(run)]) == 2
    assert "which ended before its first checkpoint, so there is nothing" in capsys.readouterr().err
    (run / "run.json").write_text('{"outcome": "diverged"}')
    assert "has diverged, and would again" in refused(run, capsys)
    assert main(["train", "--resume", str(run), "--out", str(run)]) == 2
    assert "leave CONFIG.toml and --out out" in capsys.readouterr().err


def test_a_new_run_into_a_stopped_ones_folder(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(stopped)]) == 2
    assert "which is not finished: go on with --resume" in capsys.readouterr().err


def test_a_full_disk_is_told_once_and_training_goes_on(
    stopped: Path, whole_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    good = checkpoint.saved(stopped / "checkpoints")
    before = [path.read_bytes() for path in good]
    with room(200_000):  # the model has 110 kB, a checkpoint three times as many
        assert resume(stopped) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"distsgd: cannot write {stopped / 'checkpoints'}: {os.strerror(errno.EFBIG)}; "
        f"training goes on, the last good checkpoint is {good[0]}"
    ]
    assert [path.read_bytes() for path in good] == before
    assert summary(stopped)["weights_sha256"] == whole_run["weights_sha256"]
