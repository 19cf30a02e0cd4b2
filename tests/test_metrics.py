"""Scores from totals, and totals from what a network said of its images."""

import numpy as np
import pytest

from distsgd.kernels.loss import LOSS_LIMIT, LOSS_UNIT, TOTALS, count_losses
from distsgd.metrics import MOST_CONFUSED, Score, Tally, by_class, mean, score


def totals(samples: int, correct: int, loss: float, not_finite: int = 0) -> np.ndarray:
    assert TOTALS == ("samples", "correct", "loss", "not_finite")
    return np.array([samples, correct, round(loss / LOSS_UNIT), not_finite], np.int64)


def test_score_is_the_mean() -> None:
    assert score(totals(8, 6, 4.0)) == Score(8, 0.75, 0.5)


def test_no_loss_where_one_was_not_finite() -> None:
    assert score(totals(8, 6, 4.0, 1)) == Score(8, 0.75, None)


def test_no_images_have_no_errors() -> None:
    assert score(totals(0, 0, 0.0)) == Score(0, 0.0, 0.0)


def test_scores_do_not_depend_on_how_images_are_parted() -> None:
    random = np.random.default_rng(0)
    z, labels = random.normal(size=(10, 64)).astype(np.float32) * 3, random.integers(0, 10, 64)
    work = np.ones((4, 64), np.float32)
    exponentials = np.exp(np.float64(z) - z.max(0))
    work[0], work[1], work[2] = z.max(0), exponentials.sum(0), z[labels, np.arange(64)]
    whole, parts = np.zeros(4, np.int64), np.zeros(4, np.int64)
    count_losses(z, labels, 61, work, whole)
    for first, last in ((0, 7), (7, 60), (60, 61)):
        columns = [np.ascontiguousarray(array[:, first:last]) for array in (z, work)]
        count_losses(columns[0], labels[first:last].copy(), last - first, columns[1], parts)
    losses = np.log(exponentials.sum(0)) - (z[labels, np.arange(64)] - z.max(0))
    assert score(parts) == score(whole)
    assert score(whole).samples == 61
    assert score(whole).accuracy == (z.argmax(0) == labels)[:61].mean()
    assert score(whole).loss == pytest.approx(losses[:61].mean(), rel=1e-6)


def test_a_loss_that_is_not_finite_is_counted_and_a_huge_one_limited() -> None:
    z = np.array([[1e5, np.nan, np.inf, 0.0], [0.0, 0.0, 0.0, 1.0]], np.float32)
    work = np.stack([z[0], np.array([1, np.nan, np.nan, 1], np.float32), z[1], np.ones(4, np.float32)])
    seen = np.zeros(4, np.int64)
    count_losses(z, np.ones(4, np.int64), 1, work, seen)
    assert score(seen) == Score(1, 0.0, LOSS_LIMIT)
    count_losses(z, np.ones(4, np.int64), 3, work, seen)
    assert (score(seen).samples, score(seen).loss, int(seen[3])) == (4, None, 2)


def tallied(matrix: list[list[int]], near: int = 0) -> Tally:
    """A tally of this confusion matrix; its last column is of images without a choice."""
    tally = Tally(len(matrix))
    tally.confusion[:], tally.near[:] = matrix, near
    return tally


def test_recall_and_precision() -> None:
    found = by_class(tallied([[6, 2, 0, 0], [1, 3, 0, 1], [0, 0, 0, 0]]), 13)
    assert found.confusion == [[6, 2, 0], [1, 3, 0], [0, 0, 0]]
    assert found.images_by_class == [8, 5, 0]
    assert found.recall == [6 / 8, 3 / 5, None]  # one of the second class's five has no choice
    assert found.precision == [6 / 7, 3 / 5, None]
    assert mean(found.recall) == pytest.approx((6 / 8 + 3 / 5) / 2)
    assert found.top5_accuracy is None


def test_a_class_that_nothing_is_taken_for_has_no_precision_to_boast_of() -> None:
    found = by_class(tallied([[0, 4, 0], [0, 4, 0]]), 8)
    assert found.precision == [0.0, 0.5]
    assert found.recall == [0.0, 1.0]
    assert mean([None, None]) is None


def test_top_five_of_more_than_five_classes() -> None:
    assert by_class(tallied([[0] * 7] * 6, near=9), 12).top5_accuracy == 0.75
    assert by_class(tallied([[0] * 6] * 5, near=9), 12).top5_accuracy is None


def test_of_very_many_classes_there_is_no_matrix() -> None:
    tally = Tally(MOST_CONFUSED + 1)
    assert tally.counts.shape == (1,)
    tally.near[:] = 3
    found = by_class(tally, 4)
    assert (found.confusion, found.recall, found.precision) == ([], [], [])
    assert found.top5_accuracy == 0.75
    assert Tally(MOST_CONFUSED).counts.size == MOST_CONFUSED * (MOST_CONFUSED + 1) + 1
