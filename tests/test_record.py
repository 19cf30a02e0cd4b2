"""What a run leaves behind: read back, checked against its hashes, and never half written."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from distsgd import config
from distsgd.config import Config, InputError
from distsgd.record import Record, make_folder, weights_sha256

PARAMETERS = np.linspace(-1, 1, 1000, dtype=np.float32)
TENSORS = [{"name": "1.weights", "shape": [990]}, {"name": "1.bias", "shape": [10]}]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, Config())


def whole(record: Record) -> dict[str, Any]:
    """Write every file of a run; return what run.json holds."""
    record.epoch({"epoch": 1, "loss": 0.5})
    record.epoch({"epoch": 2, "loss": None})
    record.model(PARAMETERS, TENSORS, {"network": "garg"})
    record.finish({"outcome": "finished", "epochs": 2})
    content: dict[str, Any] = json.loads((record.folder / "run.json").read_text())
    return content


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_weights_hash_is_that_of_little_endian_float32() -> None:
    expected = hashlib.sha256(b"\x00\x00\x80\x3f\x00\x00\x00\xc0").hexdigest()
    for same in (
        np.array([1, -2], np.float32),
        np.array([1, -2], ">f4"),
        np.array([1, 9, -2, 9], np.float32)[::2],
    ):
        assert weights_sha256(same) == expected
    assert weights_sha256(np.array([1, np.nextafter(np.float32(-2), 0)], np.float32)) != expected
    assert weights_sha256(np.array([-0.0], np.float32)) != weights_sha256(np.array([0.0], np.float32))


def test_files_are_as_their_hashes_say(record: Record) -> None:
    run = whole(record)
    assert run["format"] == "distsgd-run-1"
    assert run["outcome"] == "finished"
    written = files(record.folder)
    assert set(written) == {"config.toml", "metrics.jsonl", "model.h5", "run.json"}
    assert run["sha256"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in written.items() if name != "run.json"
    }


def test_metrics_have_a_line_an_epoch_at_once(record: Record) -> None:
    path = record.folder / "metrics.jsonl"
    for epoch in (1, 2, 3):
        record.epoch({"epoch": epoch})
        assert [json.loads(line) for line in path.read_text().splitlines()] == [
            {"epoch": number + 1} for number in range(epoch)
        ]


def test_model_is_the_parameters_and_what_they_are(record: Record) -> None:
    whole(record)
    with h5py.File(record.folder / "model.h5") as file:
        np.testing.assert_array_equal(file["parameters"][:], PARAMETERS)
        assert file["parameters"].dtype == np.dtype("<f4")
        assert file["parameters"].fletcher32
        assert file.attrs["weights_sha256"] == weights_sha256(PARAMETERS)
        assert json.loads(file.attrs["tensors"]) == TENSORS
        assert json.loads(file.attrs["about"]) == {"network": "garg"}


def test_config_is_there_before_anything_else(record: Record) -> None:
    assert set(files(record.folder)) == {"config.toml"}
    assert config.read(record.folder / "config.toml") == (Config(), [])


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


WRITES: dict[str, Callable[[Record], None]] = {
    "metrics.jsonl": lambda record: record.epoch({"epoch": 3}),
    "model.h5": lambda record: record.model(PARAMETERS * 2, TENSORS, {}),
    "run.json": lambda record: record.finish({"outcome": "another"}),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(
    name: str, fails: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(record)
    before = files(record.folder)
    with monkeypatch.context() as patched:
        patched.setattr(os, fails, refuse)
        with pytest.raises(OSError, match="No space left"):
            WRITES[name](record)
    assert files(record.folder) == before
    WRITES[name](record)
    assert files(record.folder)[name] != before[name]


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json"])
def test_a_write_that_stops_half_way_leaves_the_old_file_whole(
    name: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(record)
    before, write = files(record.folder), Path.write_bytes

    def half(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2])
        refuse()

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        WRITES[name](record)
    assert files(record.folder) == before


def test_a_model_that_cannot_be_written_leaves_the_old_one(record: Record) -> None:
    whole(record)
    before = files(record.folder)
    with pytest.raises(TypeError):
        record.model(PARAMETERS, TENSORS, {"network": object()})
    assert files(record.folder) == before


def noted(calls: list[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        calls.append(name)
        return function(*given)

    return call


def test_content_is_on_the_disk_before_it_has_its_name(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(calls, name, getattr(os, name)))
    record.finish({})
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(number: float, record: Record) -> None:
    for write in (record.epoch, record.finish):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write({"loss": number})
    assert set(files(record.folder)) == {"config.toml"}


def test_folder_of_a_new_run(tmp_path: Path) -> None:
    make_folder(tmp_path / "deep" / "run")
    make_folder(tmp_path / "deep" / "run")  # still empty
    assert (tmp_path / "deep" / "run" / "logs").is_dir()


@pytest.mark.parametrize("name", ["run.json", "config.toml"])
def test_folder_with_a_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("a run")
    with pytest.raises(InputError, match=f"{tmp_path} holds a run already[;,] .*--out"):
        make_folder(tmp_path)
    assert set(files(tmp_path)) == {name}


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot make the run's folder .*file/run: Not a directory"):
        make_folder(tmp_path / "file" / "run")
