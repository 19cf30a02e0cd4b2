"""The recipe for AlexNet in small, cut to a few images: the same weights on any number of ranks, and its memory as foretold."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from distsgd.data import import_images

if TYPE_CHECKING:
    from conftest import Launch

RECIPE = Path(__file__).resolve().parents[2] / "launch" / "recipes" / "alexnet-small.toml"
SETTINGS = ("averaging.workers=3", "averaging.period=2", "train.epochs=1", "train.batch=6")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """The recipe, on 44 random images of its size."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(5)
    arrays = {}
    for split, count in (("train", 44), ("test", 20)):
        arrays[f"x_{split}"] = random.integers(0, 256, (count, 128, 128, 3), np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(folder / "images.npz", **arrays)
    import_images(folder / "images.npz", folder / "images.h5")
    changes = (*SETTINGS, f"data.path={folder / 'images.h5'}")
    return [RECIPE, *(word for change in changes for word in ("--set", change))]


@pytest.fixture(scope="module")
def alone(
    openmpi: "Launch", options: list[str | Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """run.json of one rank."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = openmpi.alone("-m", "distsgd", "train", *options, "--out", folder, timeout=180)
    assert done.rc == 0, done.stderr
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_same_weights_on_any_number_of_ranks(
    ranks: int, openmpi: "Launch", options: list[str | Path], alone: dict[str, Any], tmp_path: Path
) -> None:
    done = openmpi(ranks, "-m", "distsgd", "train", *options, "--out", tmp_path / "run", timeout=180)
    assert done.rc == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    same = ("weights_sha256", "workers", "rounds", "test_accuracy", "test_loss", "train_loss", "confusion")
    assert {key: run[key] for key in same} == {key: alone[key] for key in same}
    assert (run["ranks"], run["rounds"], run["parameters"]) == (ranks, 2, 3_206_346)


def test_its_memory_was_foretold(openmpi: "Launch", options: list[str | Path], alone: dict[str, Any]) -> None:
    done = openmpi.alone("-m", "distsgd", "networks", *options)
    assert done.rc == 0, done.stderr
    foretold = float(done.stdout.split("together")[1].split()[0].replace(",", ""))
    assert foretold * 1e6 == pytest.approx(alone["peak_memory_bytes"], rel=0.1)
