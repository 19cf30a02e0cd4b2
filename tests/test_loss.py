"""Softmax cross-entropy against float64, and its exponential against the C library's in float64."""

import math

import numpy as np
import pytest
from oracle import slopes, softmax_cross_entropy

from distsgd.kernels import loss

CANARY = np.float32(-12345.678)


def run(
    z: np.ndarray, labels: np.ndarray, count: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradient, the work array, and totals as they grow from (1, 2, 3, 4)."""
    memory = np.full((len(z) + 2, z.shape[1]), CANARY)
    work, totals = np.full((4, z.shape[1]), CANARY), np.array([1, 2, 3, 4])
    weights = np.ones(len(z), np.float32) if weights is None else weights
    loss.softmax_cross_entropy(z, labels, count, weights, work, memory[1:-1])
    loss.count_losses(z, labels, count, work, totals)
    assert (memory[[0, -1]] == CANARY).all()
    return memory[1:-1], work, totals - [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("classes", "batch", "count"), [(1, 16, 16), (2, 16, 1), (10, 32, 23), (10, 64, 64), (101, 48, 33)]
)
@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0, 1000.0])
def test_gradient_and_loss(spread: float, classes: int, batch: int, count: int) -> None:
    rng = np.random.default_rng(count)
    z = (spread * rng.normal(size=(classes, batch))).astype(np.float32)
    labels = rng.integers(0, classes, batch)
    dz, _, totals = run(z, labels, count)
    losses, wanted = softmax_cross_entropy(z[:, :count].astype(np.float64), labels[:count])
    np.testing.assert_allclose(dz[:, :count], wanted, atol=1e-6 / count)
    assert not dz[:, count:].any()
    assert totals[0] == count
    assert totals[1] == (z[:, :count].argmax(0) == labels[:count]).sum()
    np.testing.assert_allclose(totals[2] * loss.LOSS_UNIT, losses.sum(), rtol=3e-7, atol=1e-6 * count)
    assert totals[3] == 0


def test_classes_weigh() -> None:
    rng = np.random.default_rng(8)
    z, labels = rng.normal(size=(7, 48)).astype(np.float32), rng.integers(0, 7, 48)
    weights = rng.uniform(0, 3, 7).astype(np.float32)
    weights[4] = 0
    dz, work, totals = run(z, labels, 37, weights)
    losses, wanted = softmax_cross_entropy(
        z[:, :37].astype(np.float64), labels[:37], weights.astype(np.float64)
    )
    np.testing.assert_allclose(dz[:, :37], wanted, atol=1e-6 / 37)
    assert not dz[:, 37:].any()
    np.testing.assert_array_equal(work[3], weights[labels])
    np.testing.assert_allclose(totals[2] * loss.LOSS_UNIT, losses.sum(), rtol=3e-7)
    assert totals[1] == (z[:, :37].argmax(0) == labels[:37]).sum()  # an answer is right or not


def test_weights_of_one_change_no_bit() -> None:
    z = np.random.default_rng(9).normal(size=(7, 48)).astype(np.float32)
    once, twice = (run(z, np.arange(48) % 7, 48, np.full(7, weight, np.float32)) for weight in (1, 2))
    np.testing.assert_array_equal(2 * once[0], twice[0])
    losses = -np.log(np.exp(z - z.max(0)) / np.exp(z - z.max(0)).sum(0))[np.arange(48) % 7, np.arange(48)]
    assert once[2][2] * loss.LOSS_UNIT == pytest.approx(losses.sum(), rel=1e-6)


def test_weighted_loss_is_pytorchs_summed_and_divided_by_the_images() -> None:
    # PyTorch's own mean divides by the sum of weights: a batch of rare classes would count as one of frequent ones.
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(10)
    z, labels = rng.normal(size=(7, 48)).astype(np.float32), rng.integers(0, 7, 48)
    weights = rng.uniform(0.1, 3, 7).astype(np.float32)
    scores = torch.tensor(z.T.copy(), requires_grad=True)
    summed = torch.nn.functional.cross_entropy(
        scores, torch.tensor(labels), torch.tensor(weights), reduction="sum"
    )
    (summed / 48).backward()
    dz, _, totals = run(z, labels, 48, weights)
    np.testing.assert_allclose(dz.T, scores.grad.numpy(), atol=1e-8)
    assert totals[2] * loss.LOSS_UNIT == pytest.approx(summed.item(), rel=1e-6)


def test_no_images_give_no_gradient() -> None:
    dz, _, totals = run(np.ones((3, 16), np.float32), np.zeros(16, np.int64), 0)
    assert not dz.any()
    assert not totals.any()


def test_small_gradients_keep_their_digits() -> None:
    # Of a class whose share is tiny: an absolute bound would not see that it is lost.
    z = np.repeat(np.float32([[0], [-20], [-50]]), 16, 1)
    dz, _, _ = run(z, np.zeros(16, np.int64), 16)
    shares = np.exp([-20.0, -50.0]) / (1 + np.exp(-20.0) + np.exp(-50.0))
    np.testing.assert_allclose(dz[1:], np.repeat(shares[:, None] / 16, 16, 1), rtol=4e-7)


def test_work_holds_greatest_sum_and_label() -> None:
    z = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    labels = np.arange(16) % 5
    _, work, _ = run(z, labels, 16)
    np.testing.assert_array_equal(work[0], z.max(0))
    np.testing.assert_allclose(work[1], np.exp(z - z.max(0).astype(np.float64)).sum(0), rtol=1e-6)
    np.testing.assert_array_equal(work[2], z[labels, np.arange(16)])


def test_huge_scores_do_not_overflow_and_a_loss_counts_at_most_the_limit() -> None:
    z = np.zeros((2, 16), np.float32)
    z[0] = 3e38
    dz, _, totals = run(z, np.ones(16, np.int64), 16)
    np.testing.assert_array_equal(dz, np.repeat(np.float32([[1 / 16], [-1 / 16]]), 16, 1))
    assert totals.tolist() == [16, 0, 16 * loss.LOSS_LIMIT / loss.LOSS_UNIT, 0]


def test_a_million_losses_at_the_limit_can_be_summed() -> None:
    assert 2**20 * loss.LOSS_LIMIT / loss.LOSS_UNIT <= 2**63


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible_in_its_image_only(bad: float, place: int, label: int) -> None:
    z = np.random.default_rng(2).normal(size=(3, 16)).astype(np.float32)
    labels = np.full(16, label)
    clean, _, before = run(z, labels, 16)
    z[place, 5] = bad
    dz, _, totals = run(z, labels, 16)
    assert np.isnan(dz[place, 5])
    np.testing.assert_array_equal(np.delete(dz, 5, 1), np.delete(clean, 5, 1))
    assert totals[3] == 1
    assert 0 < totals[2] < before[2]
    assert totals[0] == 16


def test_a_score_of_minus_infinity_is_a_share_of_zero() -> None:
    z = np.zeros((3, 16), np.float32)
    z[1] = -np.inf
    dz, _, totals = run(z, np.arange(16) % 2, 16)
    np.testing.assert_array_equal(dz[1], np.where(np.arange(16) % 2, -1 / 16, 0).astype(np.float32))
    assert totals[3] == 8
    np.testing.assert_allclose(totals[2] * loss.LOSS_UNIT, 8 * math.log(2), rtol=1e-6)
    assert np.isnan(run(np.full((2, 16), -np.inf, np.float32), np.zeros(16, np.int64), 16)[0]).all()


def test_the_first_of_equal_scores_is_the_answer() -> None:
    _, _, totals = run(np.zeros((4, 16), np.float32), np.repeat([0, 1, 2, 3], [7, 4, 3, 2]), 16)
    assert totals[1] == 7


def test_the_exponential_is_within_two_units_in_the_last_place() -> None:
    rng = np.random.default_rng(3)
    tried = np.concatenate([-rng.uniform(0, 64, 20000), -(2.0 ** rng.uniform(-30, 6, 20000)), [0.0, -64.0]])
    tried = tried.astype(np.float32)
    got = np.array([loss.exponential(x) for x in tried], np.float32)
    exact = np.exp(tried.astype(np.float64))
    assert (abs(got - exact) / np.spacing(exact.astype(np.float32))).max() <= 2
    assert loss.exponential(np.float32(0)) == 1


def test_the_exponential_of_very_little_is_zero_and_of_nan_is_nan() -> None:
    below = np.nextafter(np.float32(-64), np.float32(-65))
    assert loss.exponential(np.float32(-64)) > 0
    for x in (below, -100, -1e30, -np.inf):
        assert loss.exponential(np.float32(x)) == 0
    assert math.isnan(loss.exponential(np.float32(np.nan)))


def test_the_oracles_gradient_is_its_slope() -> None:
    rng = np.random.default_rng(4)
    z, labels = rng.normal(size=(4, 5)), rng.integers(0, 4, 5)
    for weights in (None, rng.uniform(0, 2, 4)):
        wanted = slopes(lambda z, w=weights: float(softmax_cross_entropy(z, labels, w)[0].mean()), z)
        np.testing.assert_allclose(softmax_cross_entropy(z, labels, weights)[1], wanted, atol=1e-9)
    wanted = slopes(lambda z: float(softmax_cross_entropy(z, labels)[0].mean()), z)
    np.testing.assert_allclose(softmax_cross_entropy(z, labels)[1], wanted, atol=1e-9)


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_no_number_is_never_right(place: int, label: int) -> None:
    z = np.zeros((3, 16), np.float32)
    z[place], z[label, :8] = np.nan, np.nan
    _, _, totals = run(z, np.full(16, label), 16)
    assert totals[1] == 0
    _, _, totals = run(np.full((3, 16), np.nan, np.float32), np.full(16, label), 16)
    assert totals.tolist() == [16, 0, 0, 16]
