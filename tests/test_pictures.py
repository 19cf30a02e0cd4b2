"""`distsgd report`: what is drawn of which run, and files that are not what they say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import distsgd
from distsgd.cli import main
from distsgd.clock import PHASES, TRAINING
from distsgd.report import figures, rounds
from distsgd.report.reading import read_run

ROUND = ["data", "compute", "wait", "average"]
PNG = b"\x89PNG\r\n\x1a\n"


def epoch(number: int, loss: float | None = 0.5) -> dict[str, Any]:
    part = {"samples": 10, "accuracy": number / (number + 1), "loss": loss}
    return {"epoch": number, "rounds": number, "train": part, "test": part, "images_per_second": 1.0}


def write(folder: Path, classes: int = 10, epochs: int = 3, ranks: int = 2, **changes: Any) -> Path:
    """Write the two files of a run that never was."""
    folder.mkdir(exist_ok=True)
    seconds = {phase: 0.5 + number for number, phase in enumerate(PHASES)}
    summary = {
        "format": "distsgd-run-1",
        "outcome": "finished",
        "network": "garg",
        "confusion": (np.eye(classes, dtype=int) * 90 + 1).tolist(),
        "class_names": [f"class $x_{number}$ 猫" for number in range(classes)],
        "seconds_by_rank": [{"total": sum(seconds.values()), **seconds}] * ranks,
        "seconds": {"total": sum(seconds.values()), **seconds},
        "rounds": 7,
        "first_rounds": {"phases": ROUND, "seconds_by_rank": [[[0.1, 2.0, 0.5, 0.25]] * 3] * ranks},
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(epoch(n + 1)) + "\n" for n in range(epochs)))
    return folder


def drawn(folder: Path, *options: str) -> int:
    return main(["report", str(folder), *options])


@pytest.mark.parametrize(
    ("classes", "epochs", "ranks"), [(1, 1, 1), (2, 2, 2), (10, 100, 3), (21, 1, 41), (100, 10, 200)]
)
def test_pictures_of_runs_of_all_sizes(
    classes: int, epochs: int, ranks: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "run", classes, epochs, ranks)
    assert drawn(folder) == 0
    names = ("epochs", "confusion", "seconds", "round", "timeline")
    paths = [*(folder / "report" / f"{name}.png" for name in names), folder / "report" / "report.html"]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    assert all(path.read_bytes().startswith(PNG) for path in paths[:-1])
    assert sorted((folder / "report").iterdir()) == sorted(paths)


def test_pictures_of_a_run_that_was_judged_by_validation_images(tmp_path: Path) -> None:
    settings = {
        "data": {"train_images": 200, "validation": 0.2},
        "network": {"name": "rendon"},
        "train": {"epochs": 2},
    }
    run = distsgd.train(settings, out=tmp_path / "run")
    assert drawn(tmp_path / "run") == 0
    figure = figures.epochs(*read_run(tmp_path / "run"))
    assert [line.get_label() for line in figure.axes[0].lines] == ["training", "validation"]
    assert figure.get_suptitle() == (
        f"rendon, epoch 2: {run.epochs[-1]['validation']['accuracy']:.2%} of validation images are judged rightly; "
        f"what is kept: {run.summary['test_accuracy']:.2%} of test images"
    )


def test_svg_elsewhere_twice_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    for out in ("a", "b"):
        assert drawn(folder, "--format", "svg", "--out", str(tmp_path / "deep" / out)) == 0
    for name in ("epochs.svg", "confusion.svg", "seconds.svg", "round.svg", "timeline.svg"):
        content = (tmp_path / "deep" / "a" / name).read_bytes()
        assert ElementTree.fromstring(content).tag.endswith("svg")
        assert content == (tmp_path / "deep" / "b" / name).read_bytes()


def test_pictures_show_the_numbers(tmp_path: Path) -> None:
    summary, epochs = read_run(write(tmp_path / "run", classes=3, ranks=2))
    loss, accuracy = figures.epochs(summary, epochs).axes
    for line in accuracy.lines:
        np.testing.assert_allclose(line.get_ydata(), [50, 200 / 3, 75])
    assert [line.get_label() for line in loss.lines] == ["training", "test"]
    matrix = figures.confusion(summary).axes[0]
    assert [text.get_text() for text in matrix.texts] == ["91", "1", "1", "1", "91", "1", "1", "1", "91"]
    bars = figures.seconds(summary).axes[0]
    ends = {round(patch.get_x() + patch.get_width(), 6) for patch in bars.patches}
    assert max(ends) == round(sum(0.5 + number for number in range(len(PHASES))), 6)
    assert len(bars.patches) == 2 * len(PHASES)


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_run_that_diverged_has_what_there_is(
    epochs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"format": "distsgd-run-1", "outcome": "diverged", "ranks": 1}')
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(epoch(n + 1, None)) + "\n" for n in range(epochs))
    )
    assert drawn(tmp_path) == (0 if epochs else 2)
    output = capsys.readouterr()
    assert ("epochs.png" in output.out) == bool(epochs)
    assert ("nothing to draw: its outcome is 'diverged'" in output.err) == (not epochs)


def test_a_round_falls_from_phase_to_phase(tmp_path: Path) -> None:
    predicted = {phase: 7.0 for phase in TRAINING}
    folder = write(tmp_path / "run", predicted_seconds=predicted, predicted_interval={"compute": [1.4, 14.0]})
    summary, _ = read_run(folder)
    (axes,) = rounds.waterfall(summary).axes
    widths = [patch.get_width() for patch in axes.patches]
    measured, told = widths[: len(TRAINING) + 1], widths[len(TRAINING) + 1 :]
    np.testing.assert_allclose(measured[:-1], [summary.seconds[phase] / 7 for phase in TRAINING])
    assert measured[-1] == pytest.approx(sum(measured[:-1]))
    assert told == pytest.approx([1.0] * len(TRAINING) + [len(TRAINING)])
    (whisker,) = axes.lines
    place = TRAINING.index("compute")
    np.testing.assert_allclose(whisker.get_xdata(), [place + 0.2, place + 2.0])


def test_a_round_without_a_prediction(tmp_path: Path) -> None:
    (axes,) = rounds.waterfall(read_run(write(tmp_path / "run"))[0]).axes
    assert len(axes.patches) == len(TRAINING) + 1


def test_ranks_end_waiting_at_the_same_moment() -> None:
    table = np.array(
        [[[0.1, 1.0, 1.0, 0.3], [0.1, 1.0, 2.0, 0.2]], [[0.1, 2.0, 0.0, 0.4], [0.1, 2.8, 0.1, 0.2]]]
    )
    left = rounds._places(table, 3)
    waited = left[:, :, 2] + table[:, :, 2]
    np.testing.assert_allclose(waited, [[2.1, 2.1 + 3.4]] * 2)
    np.testing.assert_allclose(left[:, :, 3], waited)
    np.testing.assert_allclose(left[1, 0], [0, 0.1, 2.1, 2.1])


def test_a_slow_rank_is_shown_among_many(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", ranks=200, slow_ranks=[{"rank": 77, "round": 5, "times": 2.0}])
    (axes,) = rounds.timeline(read_run(folder)[0]).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert "77 slow" in labels
    assert len(labels) == rounds.MOST_RANKS + 1


RANK = dict.fromkeys(PHASES, 1.0)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": "x"}, "is not a run's"),
    "outcome": ({"outcome": 3}, "run.json: outcome: "),
    "ragged": ({"confusion": [[1, 2], [3]]}, "rows of other than 2"),
    "negative": ({"confusion": [[-1]], "class_names": []}, "confusion.0.0"),
    "beyond counting": ({"confusion": [[2**62]], "class_names": []}, "confusion.0.0"),
    "not a number": ({"confusion": [["x"]], "class_names": []}, "confusion.0.0"),
    "ragged rounds": (
        {"first_rounds": {"phases": ROUND, "seconds_by_rank": [[[1.0]]]}},
        "rows of other than 4",
    ),
    "interval": ({"predicted_interval": {"compute": [1.0]}}, "predicted_interval.compute"),
    "names": ({"class_names": ["x"]}, "1 class_names for 10 classes"),
    "long name": ({"class_names": ["x" * 1000] * 10}, "class_names.0"),
    "phases": ({"seconds_by_rank": [{"compute": 1.0}]}, "lacks a phase"),
    "endless": ({"seconds_by_rank": [{**RANK, "compute": 1e300}]}, "seconds_by_rank.0.compute"),
    "no seconds": ({"seconds_by_rank": [{**RANK, "compute": float("nan")}]}, "seconds_by_rank.0.compute"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_summary_that_can_not_be(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, text = WRONG[kind]
    folder = write(tmp_path / "run", **changes)
    assert drawn(folder) == 2
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"epoch": 1}',
        json.dumps({**epoch(1), "epoch": 0}),
        json.dumps(epoch(1, 1e300)),
        "[" * 9999,
    ],
)
def test_metrics_that_can_not_be(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    assert drawn(folder) == 2
    said = capsys.readouterr().err
    assert "metrics.jsonl: line 4: " in said
    assert len(said.splitlines()) == 1


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drawn(tmp_path) == 2
    wanted = "holds no run.json; wanted: the folder of a run that `distsgd train` ended"
    assert capsys.readouterr().err == f"distsgd: {tmp_path} {wanted}\n"


def test_places_that_can_not_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run")
    assert drawn(tmp_path / "none") == 2
    assert "holds no run.json" in capsys.readouterr().err
    assert drawn(folder, "--out", str(folder / "run.json" / "x")) == 2
    assert "cannot make the folder" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from distsgd.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "report", str(write(tmp_path / "run"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "distsgd: pictures are drawn by matplotlib: pip install 'distsgd[plot]'\n"
