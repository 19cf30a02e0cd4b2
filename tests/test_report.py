"""Lines and the table, as a person reads them."""

import re
from typing import Any

import numpy as np
import pytest

from distsgd import report
from distsgd.clock import PHASES
from distsgd.config import Config
from distsgd.metrics import ByClass, Score
from distsgd.training import EpochEnd, Progress, Result


def seconds(scale: float) -> dict[str, float]:
    """Phases of scale, 2 scale, 3 scale, ... seconds, and their total."""
    every = {phase: scale * (number + 1) for number, phase in enumerate(PHASES)}
    return {"total": sum(every.values()), **every}


def summary(*ranks: dict[str, float], **changes: Any) -> dict[str, Any]:
    mean = {phase: sum(rank[phase] for rank in ranks) / len(ranks) for phase in ranks[0]}
    usual = {"test_accuracy": 0.98765, "test_loss": 0.0432, "images_per_second": 12345.6, "network": "garg"}
    more = {
        "parameters": 105496,
        "ranks": 2,
        "workers": 7,
        "epochs": 9,
        "epochs_done": 5,
        "best_epoch": 5,
        "validation_accuracy": None,
        "validation_loss": None,
        "rounds": 40,
        "weights_sha256": "ab" * 32,
        "peak_memory_bytes": 123_456_789,
    }
    return {**usual, **more, "seconds": mean, "seconds_by_rank": list(ranks), **changes}


def opening(workers: int = 7, **averaging: Any) -> str:
    sections = {"network": {"name": "garg"}, "train": {"batch": 32}, "averaging": averaging}
    return report.opening(Config.model_validate(sections), "images.h5", 1 if workers == 1 else 3, workers)


def test_opening_says_what_is_trained_how() -> None:
    assert opening(period=16) == (
        "garg on images.h5: 7 workers on 3 ranks, batch 32, adam; "
        "parameters averaged every 16 steps (allreduce, exact)"
    )


def test_opening_says_how_it_is_averaged() -> None:
    assert "gradients averaged every step (" in opening(what="gradients")
    assert "averaged every epoch (master, fast)" in opening(
        period="epoch", topology="master", reduction="fast"
    )
    assert "averaged every 3 steps" in opening(period=3)
    assert "once" in opening(period="once")
    assert "1 worker on 1 rank, " in opening(workers=1)


def test_line_of_a_round() -> None:
    line = report.round_line(Progress(2, 9, 48, 94, 0.12345, 12345.6))
    assert line == "epoch 2  step 48/94  round 9  loss 0.1235  12,346 images/s"
    assert "loss not finite" in report.round_line(Progress(2, 9, 48, 94, None, 1.0))


def test_line_of_an_epoch() -> None:
    end = EpochEnd(3, 18, Score(100, 0.9, 0.25), Score(50, 0.8765, 0.5), 999.6, 0.001)
    assert report.epoch_line(end, 12) == (
        "epoch 3/12: train loss 0.2500; test loss 0.5000, accuracy 87.65%; 1,000 images/s"
    )
    lost = EpochEnd(3, 18, Score(100, 0.9, None), Score(50, 0.8765, None), 999.6, 0.001)
    assert report.epoch_line(lost, 12).count("not finite") == 2


def test_line_of_an_epoch_with_validation_images() -> None:
    end = EpochEnd(3, 18, Score(100, 0.9, 0.25), None, 999.6, 0.1, Score(50, 0.8765, 0.5))
    assert report.epoch_line(end, 12) == (
        "epoch 3/12: train loss 0.2500; validation loss 0.5000, accuracy 87.65%; 1,000 images/s"
    )


def test_line_of_a_run_that_stopped() -> None:
    score = Score(50, 0.8765, 0.5)
    ends = [EpochEnd(epoch, epoch, score, None, 1.0, 0.1, score) for epoch in (3, 5)]
    said = report.stop_line(Result(np.zeros(1), 5, 5, ends[1], ends[0], score, ByClass([], [], [], [], None)))
    assert said == "stopped: no better validation loss for 2 epochs (train.patience); epoch 3 is kept"


def test_table_names_the_best_epoch_of_those_done() -> None:
    found = {"validation_accuracy": 0.9123, "validation_loss": 0.321, "best_epoch": 3}
    shown = report.table(summary(seconds(1.0), **found))
    assert re.search(r"validation +accuracy 91\.23%, loss 0\.3210\n", shown)
    assert re.search(r"best epoch +3 of 5: ", shown)
    assert "best epoch" not in report.table(summary(seconds(1.0)))


def test_table_has_the_result() -> None:
    shown = report.table(summary(seconds(1.0)))
    for fact in (
        "98.77%",
        "0.0432",
        "12,346",
        "garg, 105,496 parameters",
        "2, 7",
        "5, 40",
        "sha256 abababab",
        "123 MB a rank",
    ):
        assert fact in shown


@pytest.mark.parametrize("ranks", [1, 2])
def test_table_has_every_phase_once_and_shares_that_sum(ranks: int) -> None:
    every = [seconds(1.0), seconds(3.0)][:ranks]
    rows = [
        line.split() for line in report.table(summary(*every)).splitlines() if "%" in line and "." in line
    ]
    table = {row[0]: row[1:] for row in rows if row[0] in (*PHASES, "total")}
    assert list(table) == [*PHASES, "total"]
    shares = [float(row[1].rstrip("%")) for row in table.values()]
    assert sum(shares[:-1]) == pytest.approx(100, abs=0.5)
    assert shares[-1] == 100
    middle = "2.000" if ranks == 2 else "1.000"
    assert table["start"][0] == middle
    assert table["start"][2:] == (["1.000", "3.000"] if ranks == 2 else [])
    assert float(table["total"][0]) == pytest.approx(sum(float(table[phase][0]) for phase in PHASES))


def test_table_of_several_ranks_names_its_columns() -> None:
    assert re.search(r"seconds +mean +share +least +most", report.table(summary(seconds(1.0), seconds(3.0))))
    assert "least" not in report.table(summary(seconds(1.0)))


def test_table_without_a_loss() -> None:
    assert re.search(r"test loss +not finite", report.table(summary(seconds(1.0), test_loss=None)))


def test_opening_line_is_english() -> None:
    for averaging, bad in (({"period": "once"}, "every once"), ({"period": 1}, "every 1 steps")):
        assert bad not in report.opening(Config.model_validate({"averaging": averaging}), "x.h5", 1, 2)


BY_CLASS = {"recall": [0.9, None, 0.25], "mean_recall": 0.575, "mean_precision": 0.5, "top5_accuracy": 0.99}


def test_table_has_the_means_over_classes_and_the_worst() -> None:
    shown = report.table(summary(seconds(1.0), **BY_CLASS, class_names=["cat", "dog", "cow"])).splitlines()
    assert "  top-5 accuracy  99.00%" in shown
    assert "  mean recall     57.50%, precision 50.00%; worst class 2 cow, 25.00%" in shown
    unnamed = report.table(summary(seconds(1.0), **{**BY_CLASS, "top5_accuracy": None}, class_names=[]))
    assert "worst class 2, 25.00%" in unnamed
    assert "top-5" not in unnamed
    assert "recall" not in report.table(summary(seconds(1.0), recall=[], class_names=[]))
