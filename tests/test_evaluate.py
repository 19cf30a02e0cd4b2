"""`distsgd evaluate`: the same on any number of ranks, readable, and one message where something is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch

import distsgd
from distsgd import data, report
from distsgd.cli import main

EMBEDDED = "fashion-mnist-small"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> distsgd.Run:
    settings = {"data": {"train_images": 300}, "network": {"name": "rendon"}, "train": {"epochs": 1}}
    return distsgd.train(settings, out=tmp_path_factory.mktemp("evaluate") / "run")


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_same_on_any_number_of_ranks(
    ranks: int, mpiexec: Launch, run: distsgd.Run, tmp_path: Path
) -> None:
    where = ("--ranks", str(ranks), "--json", tmp_path / "found.json")
    done = mpiexec.alone("-m", "distsgd", "evaluate", run.folder or "", EMBEDDED, *where)
    assert done.rc == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    same = (
        "mean_recall",
        "mean_precision",
        "recall",
        "precision",
        "confusion",
        "top5_accuracy",
        "class_names",
    )
    assert {key: found[key] for key in same} == {key: run.summary[key] for key in same}
    for key, own in (("accuracy", "test_accuracy"), ("loss", "test_loss"), ("data_sha256", "data_sha256")):
        assert found[key] == run.summary[own]
    assert found["weights_sha256"] == run.summary["weights_sha256"]
    assert (found["split"], found["images"]) == ("test", 1000)
    assert f"  accuracy        {found['accuracy']:.2%}" in done.stdout
    assert f"1,000 images of fashion_mnist_small.h5, split test; {ranks} rank" in done.stdout


def test_another_split(run: distsgd.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run.folder), EMBEDDED, "--split", "train"]) == 0
    assert "6,000 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["RUN", EMBEDDED, "--split", "validation"], "has no split 'validation'; it has"),
        (["RUN", "none.h5"], "'none.h5' is not a file"),
        (["none", EMBEDDED], "none holds no model.h5; wanted: the folder of a run"),
        (["RUN", EMBEDDED, "--json", "none/x.json"], "--json none/x.json: there is no folder none"),
    ],
)
def test_one_message(
    arguments: list[str], text: str, run: distsgd.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *(str(run.folder) if part == "RUN" else part for part in arguments)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert text in output.err
    assert output.err.count("distsgd: ") == len(output.err.splitlines()) == 1


def test_ranks_say_it_once(openmpi: Launch, run: distsgd.Run, tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with data.writing(path, (8, 9, 3), "made up", ["one", "two"]) as writer:
        for split in ("train", "test"):
            writer.append(split, np.zeros((4, 8, 9, 3), np.uint8), np.array([0, 1, 0, 1]))
    done = openmpi(3, "-m", "distsgd", "evaluate", run.folder or "", path)
    assert done.rc == 2
    assert done.stderr.count("has images of 8x9x3; the network takes 28x28x1") == 1
    assert "Traceback" not in done.stderr


def found(matrix: np.ndarray, names: list[str]) -> dict[str, Any]:
    images = matrix.sum(1)
    shares = [float(right) / max(count, 1) for right, count in zip(matrix.diagonal(), images, strict=True)]
    return {
        "accuracy": 0.75,
        "loss": None,
        "top5_accuracy": None,
        "mean_recall": 0.5,
        "mean_precision": 0.25,
        "class_names": names,
        "recall": shares,
        "precision": shares,
        "confusion": matrix.tolist(),
        "images_by_class": images.tolist(),
    }


def test_tables_of_few_classes() -> None:
    shown = report.evaluation(
        found(np.array([[9, 1], [0, 1234]]), ["cat", "a name that is far too long for it"])
    )
    lines = shown.splitlines()
    assert "  loss            not finite" in lines
    assert "top-5" not in shown
    assert "  0 cat                           10    90.00%     90.00%" in lines
    assert lines[-3:] == [
        "                              0    1",
        "  0 cat                       9    1",
        "  1 a name that is far to…    . 1234",
    ]


@pytest.mark.parametrize(("classes", "rows"), [(20, 20), (21, 21), (300, 20)])
def test_tables_of_many_classes(classes: int, rows: int) -> None:
    matrix = np.eye(classes, dtype=int) * 5
    matrix[3, 4] = 7
    lines = report.evaluation(found(matrix, [])).splitlines()
    assert max(len(line) for line in lines) <= 100
    assert sum(line.endswith("100.00%    100.00%") or "41.67%" in line for line in lines) == rows
    assert any(line.endswith("3 taken for 4") for line in lines) == (classes > 20)
    assert any("least recall" in line for line in lines) == (classes > 100)
