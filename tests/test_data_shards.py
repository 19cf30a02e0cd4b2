"""Shards: complete, disjoint, balanced, and the same numbers for ever."""

import numpy as np
import pytest

from distsgd.config import InputError
from distsgd.data import contiguous, deal, hold_out, shuffled

# Recorded once. They change only if every experiment's results may change.
GOLDEN_DEAL = [[9, 2, 3, 7], [0, 5, 6, 4], [8, 1, 10]]
GOLDEN_HELD_OUT = [0, 1, 5, 6, 7, 9]
GOLDEN_SHUFFLE = [8, 5, 6, 10, 4, 11, 3, 7, 2, 1, 0, 9]
GOLDEN_LAST_SEED = [9, 10, 5, 2, 3, 7, 0, 6, 8, 1, 11, 4]


def uneven_labels(count: int, classes: int) -> np.ndarray:
    """Return labels with classes of very different sizes, in no order."""
    random = np.random.default_rng(3)
    return np.minimum(random.geometric(0.3, count) - 1, classes - 1).astype(np.int64)


@pytest.mark.parametrize("workers", [1, 2, 7, 16])
@pytest.mark.parametrize(("count", "classes"), [(101, 10), (16, 3), (9973, 7), (250, 250)])
def test_shards_are_disjoint_complete_and_balanced(count: int, classes: int, workers: int) -> None:
    labels = uneven_labels(count, classes) if classes < count else np.arange(count)
    shards = deal(labels, workers, seed=11, deal=0)
    assert len(shards) == workers
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(count))
    assert np.ptp([len(shard) for shard in shards]) <= 1
    counts = [np.bincount(labels[shard], minlength=classes) for shard in shards]
    assert np.ptp(counts, axis=0).max() <= 1
    assert all(shard.dtype == np.int64 for shard in shards)


def test_remainders_rotate_from_class_to_class() -> None:
    shards = deal(np.repeat(np.arange(7), 8), 7, seed=0, deal=0)
    assert [len(shard) for shard in shards] == [8] * 7


def test_dealing_gives_the_numbers_it_always_gave() -> None:
    labels = np.array([0, 1, 0, 1, 2, 0, 1, 2, 0, 0, 1])
    assert [shard.tolist() for shard in deal(labels, 3, seed=42, deal=1)] == GOLDEN_DEAL


def test_shuffling_gives_the_numbers_it_always_gave() -> None:
    assert shuffled(12, seed=42, worker=1, epoch=2).tolist() == GOLDEN_SHUFFLE
    assert shuffled(12, seed=2**64 - 1, worker=0, epoch=0).tolist() == GOLDEN_LAST_SEED


@pytest.mark.parametrize("other", [(6, 2, 3), (5, 3, 2), (5, 2, 4), (5, 3, 3)])
def test_every_seed_worker_and_epoch_has_its_own_order(other: tuple[int, int, int]) -> None:
    order = shuffled(500, 5, 2, 3)
    assert np.array_equal(np.sort(order), np.arange(500))
    assert np.array_equal(order, shuffled(500, 5, 2, 3))
    assert np.mean(order == shuffled(500, *other)) < 0.05


@pytest.mark.parametrize("other", [(6, 0), (5, 1)])
def test_every_seed_and_deal_deals_anew(other: tuple[int, int]) -> None:
    labels = np.arange(1000) % 10
    first, second = deal(labels, 2, 5, 0)[0], deal(labels, 2, *other)[0]
    assert 0.4 < np.isin(first, second).mean() < 0.6


def test_dealing_and_shuffling_share_no_stream() -> None:
    (only,) = deal(np.zeros(500, np.int64), 1, seed=5, deal=0)
    assert np.mean(only == shuffled(500, seed=5, worker=0, epoch=0)) < 0.05


def test_every_order_is_as_likely_as_any_other() -> None:
    places = [shuffled(10, 1, 0, epoch).tolist().index(3) for epoch in range(2000)]
    assert np.abs(np.bincount(places) - 200).max() < 60


@pytest.mark.parametrize("workers", [0, -1, 12])
def test_as_many_workers_as_samples_at_most(workers: int) -> None:
    with pytest.raises(InputError, match=f"{workers} workers for 11 training images"):
        deal(np.zeros(11, np.int64), workers, 0, 0)


@pytest.mark.parametrize(("count", "ranks"), [(10, 1), (10, 3), (101, 7), (2, 5), (0, 4)])
def test_contiguous_parts_cover_everything_once(count: int, ranks: int) -> None:
    parts = [contiguous(count, ranks, rank) for rank in range(ranks)]
    assert [number for start, stop in parts for number in range(start, stop)] == list(range(count))
    assert np.ptp([stop - start for start, stop in parts]) <= 1


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(("count", "classes"), [(101, 10), (16, 3), (9973, 7)])
def test_held_out_is_a_part_of_each_class(count: int, classes: int, part: float) -> None:
    labels = uneven_labels(count, classes)
    rest, held = hold_out(labels, part, seed=5)
    assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(count))
    assert rest.dtype == held.dtype == np.int64
    assert np.array_equal(np.sort(rest), rest)
    assert np.array_equal(np.sort(held), held)
    there, out = (np.bincount(chosen, minlength=classes) for chosen in (labels, labels[held]))
    assert np.array_equal(out, np.minimum(np.floor(there * part + 0.5), np.maximum(there - 1, 0)))


def test_held_out_are_others_with_another_seed_and_not_the_first() -> None:
    labels = np.arange(1000) % 10
    held = [hold_out(labels, 0.2, seed)[1] for seed in (0, 1)]
    assert 10 < len(np.intersect1d(*held)) < 100
    assert 60 < np.count_nonzero(held[0] < 500) < 140


def test_held_out_are_no_start_of_the_deal() -> None:
    # The same numbers drawn for both would put images side by side in a shard that the hold-out had side by side.
    labels = np.zeros(1000, np.int64)
    held = set(hold_out(labels, 0.1, 3)[1].tolist())
    assert set(deal(labels, 10, 3, 0)[0].tolist()) != held


def test_a_class_of_one_image_is_learnt_from() -> None:
    labels = np.array([3, 0, 0, 0, 0, 7])
    rest, held = hold_out(labels, 0.9, 0)
    assert set(labels[rest].tolist()) == {0, 3, 7}
    assert labels[held].tolist() == [0, 0, 0]


def test_holding_out_gives_the_numbers_it_always_gave() -> None:
    labels = np.array([0, 1, 0, 1, 2, 0, 1, 2, 0, 0, 1])
    assert hold_out(labels, 0.5, seed=7)[1].tolist() == GOLDEN_HELD_OUT
