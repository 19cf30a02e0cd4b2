"""The golden test: one experiment has the same weights, to the bit, whatever it runs on.

This file is also the program that mpiexec starts: it trains the experiment in every mode and prints what each
rank has in the end.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from distsgd.clock import Clock
from distsgd.comm import Ranks, world
from distsgd.config import Config
from distsgd.record import weights_sha256
from distsgd.training import Training, check

if TYPE_CHECKING:
    from conftest import Finished, Launch

# 487 is prime: four shards of 70 and three of 69. An epoch's fourth step has one image or none.
EXPERIMENT: dict[str, dict[str, Any]] = {
    "data": {"train_images": 487},
    "augment": {},
    "network": {"name": "rendon", "dropout": 0.5},
    "optimizer": {"name": "adam"},
    "averaging": {"workers": 7, "period": 1},
    "train": {"epochs": 2, "batch": 23, "seed": 11},
}
COSINE = {"schedule": "cosine", "warmup": 0.6, "final": 0.1, "scale": "sqrt"}
NESTEROV = {"name": "sgd", "nesterov": True, "weight_decay": 0.01, "clip": 0.8, **COSINE}
DECAY = {"weight_decay": 0.1, "clip": 0.8, "schedule": "step", "step_epochs": 1}
KINDS: dict[str, dict[str, Any]] = {
    "1": {"averaging": {"period": 1}},
    "3": {"averaging": {"period": 3}},
    "epoch": {"averaging": {"period": "epoch"}},
    "once": {"averaging": {"period": "once"}},
    "gradients": {"averaging": {"what": "gradients"}},
    "dealt anew": {"data": {"reshuffle": 1}},
    "nesterov": {"averaging": {"period": 3}, "optimizer": NESTEROV},
    "clipped gradients": {"averaging": {"what": "gradients"}, "optimizer": NESTEROV},
    "decay": {"averaging": {"period": "once"}, "optimizer": DECAY},
    "augmented": {"augment": {"shift": 2, "mirror": True, "crop": 26}},
    "weighted": {"train": {"class_weights": "balanced"}, "averaging": {"period": 3}},
    "validated": {
        "data": {"validation": 0.1},
        "averaging": {"what": "gradients"},
        "optimizer": {"learning_rate": 0.03},  # too much: it gets worse
        "train": {"epochs": 5, "patience": 2},
    },
}
TOPOLOGIES = ("allreduce", "master")
MODES = {
    f"{kind} {topology}": {**change, "averaging": {**change.get("averaging", {}), "topology": topology}}
    for kind, change in KINDS.items()
    for topology in TOPOLOGIES
}
OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"train": {"seed": 12}},
    "no dropout": {"network": {"dropout": 0.0}},
    "six workers": {"averaging": {"workers": 6}},
}
COMMAND_LINE = (
    *("--set", "network.name=garg", "--set", "network.dropout=0.5", "--set", "data.train_images=1501"),
    *("--set", "averaging.workers=7", "--set", "averaging.period=3", "--set", "optimizer.name=adam"),
    *("--set", "train.batch=23", "--set", "train.epochs=1"),
)


def changed(change: dict[str, dict[str, Any]]) -> Config:
    """Return the experiment with some settings replaced."""
    return Config.model_validate(
        {name: {**section, **change.get(name, {})} for name, section in EXPERIMENT.items()}
    )


def trained(config: Config, ranks: Ranks) -> list[Any]:
    """Return the hash of the weights and what every epoch came to, less its speed."""
    epochs: list[Any] = []
    result = Training(check(config, ranks.size, []), ranks, Clock()).run(lambda progress: None, epochs.append)
    facts = [{**asdict(end), "images_per_second": None} for end in epochs]
    kept = [result.best.epoch, asdict(result.test), asdict(result.by_class)]
    return [weights_sha256(result.parameters), result.rounds, result.steps, facts, *kept]


def main() -> None:
    """Print what every rank has in every mode."""
    ranks = world(os.environ)
    modes = MODES if ranks.size > 1 else {**MODES, **OTHERS}
    own = {mode: trained(changed(change), ranks) for mode, change in modes.items()}
    every = [json.loads(part) for part in ranks.gather_bytes(json.dumps(own).encode())]
    if ranks.rank == 0:
        print(json.dumps({mode: [rank[mode] for rank in every] for mode in own}))


def printed(done: "Finished") -> dict[str, list[list[Any]]]:
    assert done.rc == 0, done.stderr
    modes: dict[str, list[list[Any]]] = json.loads(done.stdout)
    return modes


@pytest.fixture(scope="module")
def reference(openmpi: "Launch") -> dict[str, list[Any]]:
    """What one process without any MPI has in every mode."""
    return {mode: ranks[0] for mode, ranks in printed(openmpi.alone(__file__)).items()}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_rank_has_the_same_weights_and_scores(
    ranks: int, mpiexec: "Launch", reference: dict[str, list[Any]]
) -> None:
    modes = printed(mpiexec(ranks, __file__))
    assert set(modes) >= set(MODES)
    for mode in MODES:
        assert modes[mode] == [reference[mode]] * ranks, mode


def test_topologies_agree_and_other_experiments_do_not(reference: dict[str, list[Any]]) -> None:
    hashes = {mode: result[0] for mode, result in reference.items()}
    for kind in KINDS:
        assert hashes[f"{kind} allreduce"] == hashes[f"{kind} master"]
    assert len(set(hashes.values())) == len(KINDS) + len(OTHERS)
    rounds = {kind: reference[f"{kind} allreduce"][1] for kind in KINDS}
    usual = {"1": 8, "3": 4, "epoch": 2, "once": 1, "gradients": 8, "dealt anew": 8}
    others = {
        "augmented": 8,
        "weighted": 4,
        "validated": 9,
        "nesterov": 4,
        "clipped gradients": 8,
        "decay": 1,
    }
    assert rounds == {**usual, **others}


def test_scores_count_every_image_once(reference: dict[str, list[Any]]) -> None:
    for mode, result in reference.items():
        validated = mode.startswith("validated")
        epochs = [1, 2, 3] if validated else [1, 2]
        assert [end["epoch"] for end in result[3]] == epochs
        assert {end["train"]["samples"] for end in result[3]} == {438 if validated else 487}
        judged = [end["validation"] if validated else end["test"] for end in result[3]]
        assert {score["samples"] for score in judged} == {49 if validated else 1000}
        assert result[4:6] == ([1, result[5]] if validated else [2, result[3][-1]["test"]])
        assert result[5]["samples"] == 1000


def run_folder(done: "Finished", folder: Path) -> dict[str, Any]:
    assert done.rc == 0, done.stderr
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


@pytest.fixture(scope="module")
def alone(openmpi: "Launch", tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """run.json of one rank."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return run_folder(openmpi.alone("-m", "distsgd", "train", *COMMAND_LINE, "--out", folder), folder)


@pytest.mark.parametrize(("ranks", "topology"), [(2, "allreduce"), (3, "master")])
def test_command_line_gives_the_same_weights(
    ranks: int, topology: str, mpiexec: "Launch", alone: dict[str, Any], tmp_path: Path
) -> None:
    options = (*COMMAND_LINE, "--set", f"averaging.topology={topology}", "--out", tmp_path / "run")
    run = run_folder(mpiexec(ranks, "-m", "distsgd", "train", *options), tmp_path / "run")
    same = ("weights_sha256", "workers", "rounds", "test_accuracy", "test_loss", "train_loss", "confusion")
    assert (run["ranks"], alone["ranks"], run["workers"]) == (ranks, 1, 7)
    assert {key: run[key] for key in same} == {key: alone[key] for key in same}
    with h5py.File(tmp_path / "run" / "model.h5") as file:
        parameters, said = file["parameters"][:], file.attrs["weights_sha256"]
    assert parameters.dtype == np.float32
    assert (parameters.size, len(np.unique(parameters)) > 100_000) == (105_496, True)
    assert hashlib.sha256(parameters.tobytes()).hexdigest() == run["weights_sha256"] == said


if __name__ == "__main__":
    main()
