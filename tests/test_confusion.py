"""Counting classes against NumPy and plain loops, ties and scores that are no numbers included."""

import numpy as np
import pytest

from distsgd.kernels.confusion import NEAR, confuse


def counted(z: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """Return what is added to counters that do not start at zero."""
    confusion, near = np.full((len(z), len(z) + 1), 3, np.int64), np.array([7])
    confuse(z, labels, count, confusion, near)
    return confusion - 3, int(near[0]) - 7


def by_hand(z: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    confusion, near = np.zeros((len(z), len(z) + 1), np.int64), 0
    for n in range(count):
        scores = z[:, n].tolist()
        if any(np.isnan(scores)):
            confusion[labels[n], len(z)] += 1
            continue
        order = sorted(range(len(scores)), key=lambda k: (-scores[k], k))
        confusion[labels[n], order[0]] += 1
        near += int(labels[n]) in order[:NEAR]
    return confusion, near


@pytest.mark.parametrize(
    ("classes", "batch", "count"), [(1, 16, 16), (2, 16, 1), (10, 48, 33), (101, 64, 64)]
)
@pytest.mark.parametrize("values", [3, 1000])
def test_counts_are_those_of_plain_loops(classes: int, batch: int, count: int, values: int) -> None:
    random = np.random.default_rng(classes)
    z = random.integers(0, values, (classes, batch)).astype(np.float32)  # of three values: mostly ties
    z[random.random(z.shape) < 0.005] = np.nan
    z[random.random(z.shape) < 0.02] = np.inf
    labels = random.integers(0, classes, batch)
    found, expected = counted(z, labels, count), by_hand(z, labels, count)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert found[0].sum() == count


def test_without_rows_only_the_nearness_is_counted() -> None:
    near = np.zeros(1, np.int64)
    confuse(np.ones((7, 16), np.float32), np.arange(16) % 7, 14, np.zeros((0, 8), np.int64), near)
    assert near[0] == 10  # of equal scores the five lowest numbers


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_no_number_is_no_choice(place: int) -> None:
    z = np.zeros((3, 16), np.float32)
    z[place] = np.nan
    confusion, near = counted(z, np.zeros(16, np.int64), 16)
    assert confusion.tolist() == [[0, 0, 0, 16], [0] * 4, [0] * 4]
    assert near == 0
