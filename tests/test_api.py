"""distsgd from Python: nothing printed, nothing ended, the same files and weights as the command's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import room

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
    """What does not depend on the machine or its speed, nor on when a run was stopped."""
    changing = ("images_per_second", "peak_memory_bytes", "seconds", "seconds_by_rank", "machine", "ranks")
    changing += ("first_rounds", "rounds_timed", "slow_ranks")
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


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The folder of a run that saved at every round and was left after its second epoch."""

    def say(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise Interrupted

    often = {"train": {"epochs": 5}, "checkpoint": {"every": 1e-9}, "averaging": {"workers": 3, "period": 1}}
    with pytest.raises(Interrupted):
        distsgd.train({**SETTINGS, **often}, out=tmp_path / "run", say=say)
    return tmp_path / "run"


def test_a_resumed_run_is_as_if_it_had_not_stopped(
    interrupted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    longer = {**SETTINGS, "train": {"epochs": 5}, "averaging": {"workers": 3, "period": 1}}
    whole, lines = distsgd.train(longer), list[str]()
    shorter = distsgd.resume(interrupted, {"train": {"epochs": 3}}, say=lines.append)
    assert [line.partition(":")[0] for line in lines] == ["epoch 2/3", "epoch 3/3"]
    assert shorter.summary["weights_sha256"] != whole.summary["weights_sha256"]
    made = distsgd.resume(str(interrupted), {"train": {"epochs": 5}})
    assert {**facts(made.summary), "resumed": []} == facts(whole.summary)
    assert made.model.parameters.tobytes() == whole.model.parameters.tobytes()
    recorded = json.loads((interrupted / "run.json").read_text())
    assert facts(made.summary) == facts(recorded)
    assert [end["epoch"] for end in made.epochs] == [1, 2, 3, 4, 5]
    assert [end["test"] for end in made.epochs] == [end["test"] for end in whole.epochs]
    assert len(made.summary["resumed"]) == 2
    assert capfd.readouterr() == ("", "")


def test_what_can_not_go_on_is_an_error(interrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(distsgd.InputError, match="there is no run to go on with"):
        distsgd.resume(tmp_path / "none")
    with pytest.raises(distsgd.InputError) as caught:
        distsgd.resume(interrupted, {"train": {"seed": 1, "batch": 3}, "nosection": {}})
    assert "nosection: there is no such setting" in str(caught.value)
    with pytest.raises(distsgd.InputError, match=r"train\.seed = 1: the run was begun with 0"):
        distsgd.resume(interrupted, {"train": {"seed": 1}})
    assert distsgd.resume(interrupted).summary["epochs"] == 5
    with pytest.raises(distsgd.InputError, match="is finished; to train longer"):
        distsgd.resume(interrupted)


def test_a_model_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    with room(40_000), pytest.raises(OSError, match=r"cannot write the model to .*File too large"):
        distsgd.train(SETTINGS, out=tmp_path / "run", say=print)
    assert not (tmp_path / "run" / "run.json").exists()


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
def test_ranks_go_on_together(mpi_ranks: int, comm: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = Path(comm.bcast(str(tmp_path_factory.mktemp("together"))))
    settings = {**SETTINGS, "checkpoint": {"every": 1e-9}}
    short = distsgd.train({**settings, "train": {"epochs": 1}}, communicator=comm, out=run)
    assert short.folder == run
    made = distsgd.resume(run, SETTINGS, communicator=comm)
    whole = distsgd.train(settings, communicator=type(comm)(comm.Split(comm.rank)))
    assert {**facts(made.summary), "resumed": []} == facts(whole.summary)
    assert made.model.parameters.tobytes() == whole.model.parameters.tobytes()
    with pytest.raises(distsgd.InputError, match="is finished"):
        distsgd.resume(run, communicator=comm)


@pytest.mark.mpi(ranks=2)
def test_what_is_wrong_on_one_rank_is_raised_on_all(mpi_ranks: int, comm: Any) -> None:
    settings: Any = {"train": {"epochs": 0}} if comm.rank == 0 else SETTINGS
    with pytest.raises(distsgd.InputError, match=r"train\.epochs = 0"):
        distsgd.train(settings, communicator=comm)
    with pytest.raises(distsgd.Diverged):
        distsgd.train({**SETTINGS, "optimizer": {"name": "sgd", "learning_rate": 1e35}}, communicator=comm)
    assert distsgd.train({**SETTINGS, "train": {"epochs": 1}}, communicator=comm).summary["ranks"] == 2
