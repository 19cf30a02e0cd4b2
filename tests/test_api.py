"""distsgd from Python: nothing printed, nothing ended, the same files and weights as the command's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import distsgd
from distsgd.cli import main
from distsgd.config import Config, to_toml

SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"train_images": 300},
    "network": {"name": "rendon"},
    "train": {"epochs": 2},
    "averaging": {"workers": 3},
}


def facts(summary: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the machine or its speed."""
    changing = ("images_per_second", "peak_memory_bytes", "seconds", "seconds_by_rank", "machine", "ranks")
    return {key: value for key, value in summary.items() if key not in (*changing, "format", "sha256")}


@pytest.fixture(scope="module")
def run() -> distsgd.Run:
    return distsgd.train(SETTINGS)


def test_a_run_says_what_it_came_to_and_no_word(run: distsgd.Run, capfd: pytest.CaptureFixture[str]) -> None:
    again = distsgd.train(SETTINGS)
    assert capfd.readouterr() == ("", "")
    assert facts(again.summary) == facts(run.summary)
    assert [end["epoch"] for end in run.epochs] == [1, 2]
    assert run.epochs[-1]["test"]["accuracy"] == run.summary["test_accuracy"]
    assert run.folder is None


def test_settings_may_be_a_config_a_file_or_mappings(run: distsgd.Run, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(Config.model_validate(SETTINGS)))
    before = json.dumps(SETTINGS)
    for settings in (Config.model_validate(SETTINGS), path, str(path), SETTINGS):
        assert facts(distsgd.train(settings).summary) == facts(run.summary)
    assert json.dumps(SETTINGS) == before


def test_the_folder_is_that_of_the_command(run: distsgd.Run, tmp_path: Path) -> None:
    lines: list[str] = []
    made = distsgd.train(SETTINGS, out=tmp_path / "python", say=lines.append)
    assert made.folder == tmp_path / "python"
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    config = str(tmp_path / "python" / "config.toml")
    assert main(["train", config, "--out", str(tmp_path / "command")]) == 0
    summaries = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("python", "command")]
    assert facts(summaries[0]) == facts(summaries[1]) == facts(run.summary)
    assert list(summaries[0]) == list(summaries[1])
    models = [(tmp_path / name / "model.h5").read_bytes() for name in ("python", "command")]
    assert len(models[0]) == len(models[1])
    with pytest.raises(distsgd.InputError, match="holds a run already"):
        distsgd.train(SETTINGS, out=tmp_path / "python")


def test_all_that_is_wrong_is_one_error() -> None:
    wrong = {"train": {"epochs": 0}, "nosection": 1, "network": {"name": "garg9"}}
    with pytest.raises(distsgd.InputError) as caught:
        distsgd.train(wrong)
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(distsgd.InputError, match="cannot read the config"):
        distsgd.train("none.toml")


def test_diverging_is_raised_and_recorded(tmp_path: Path) -> None:
    wild = {**SETTINGS, "optimizer": {"name": "sgd", "learning_rate": 1e35}}
    with pytest.raises(distsgd.Diverged):
        distsgd.train(wild, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["outcome"] == "diverged"


def test_the_name_train_stays_a_function() -> None:
    code = "import distsgd, distsgd.training, distsgd.cli.training; from distsgd.training import Training; "
    code += "assert callable(distsgd.train) and callable(distsgd.load); from distsgd import train, Model"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = distsgd.nosuch


@pytest.mark.mpi(ranks=3)
def test_every_rank_of_a_communicator_has_the_run(
    mpi_ranks: int, comm: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = distsgd.train(SETTINGS, communicator=comm)
    alone = distsgd.train(SETTINGS, communicator=type(comm)(comm.Split(comm.rank)))
    assert run.summary["ranks"] == 3
    assert facts(run.summary) == facts(alone.summary)
    assert run.model.parameters.tobytes() == alone.model.parameters.tobytes()


@pytest.mark.mpi(ranks=2)
def test_what_is_wrong_on_one_rank_is_raised_on_all(mpi_ranks: int, comm: Any) -> None:
    settings: Any = {"train": {"epochs": 0}} if comm.rank == 0 else SETTINGS
    with pytest.raises(distsgd.InputError, match=r"train\.epochs = 0"):
        distsgd.train(settings, communicator=comm)
    with pytest.raises(distsgd.Diverged):
        distsgd.train({**SETTINGS, "optimizer": {"name": "sgd", "learning_rate": 1e35}}, communicator=comm)
    assert distsgd.train({**SETTINGS, "train": {"epochs": 1}}, communicator=comm).summary["ranks"] == 2
