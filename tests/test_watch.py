"""Which ranks are named slow, from made-up seconds."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from distsgd.clock import Clock
from distsgd.comm import Alone, Average, Ranks
from distsgd.kernels.extremes import extremes
from distsgd.training.local import Local
from distsgd.training.pause import Pause
from distsgd.training.rounds import Meeting
from distsgd.training.timeline import MOST_ROUNDS, Timeline
from distsgd.training.watch import SHORTEST, Watch
from distsgd.training.workers import Worker

LONG = 0.02


class Several(Alone):
    """One of several ranks, as far as a watch sees."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def clock_of(times: list[float]) -> Clock:
    return cast(Clock, type("Told", (), {"computed": lambda self: times[0]})())


class Group:
    """The watches of several ranks, which meet after every round as `Pause` makes them."""

    def __init__(self, size: int) -> None:
        self.unseen, self.times = 0, [[0.0] for _ in range(size)]
        self.watches = [
            Watch(cast(Ranks, Several(rank, size)), clock_of(self.times[rank]), True) for rank in range(size)
        ]

    def round(self, seconds: Sequence[float], images: Sequence[int]) -> None:
        """A round that takes each rank so many seconds for so many images."""
        for watch, time, took, seen in zip(self.watches, self.times, seconds, images, strict=True):
            time[0] += took
            watch.images += seen
        self.unseen += 1
        if self.unseen < self.watches[0].together:
            return
        told, self.unseen = [watch.look() for watch in self.watches], 0
        arrays = [table for table in told if table is not None]
        assert len(arrays) in (0, len(told)), "either all have something to tell, or none"
        if arrays:
            most = np.max(arrays, 0)
            for watch, table in zip(self.watches, arrays, strict=True):
                table[:] = most
                watch.judge()
        assert len({(watch.together, *watch.slow) for watch in self.watches}) == 1

    @property
    def slow(self) -> dict[int, float]:
        return self.watches[0].slow


def rounds(group: Group, number: int, seconds: Callable[[int], Sequence[float]]) -> list[int]:
    """So many rounds; returns after each how many are named."""
    named = []
    for at in range(number):
        group.round(seconds(at), [64] * len(group.watches))
        named.append(len(group.slow))
    return named


@pytest.mark.parametrize("size", [2, 3, 4, 17])
@pytest.mark.parametrize("begins", [0, 1, 2, 3, 10, 11])
def test_a_rank_slowed_by_two_is_named_within_five_rounds(size: int, begins: int) -> None:
    group, slow = Group(size), size - 1
    named = rounds(
        group,
        begins + 5,
        lambda at: [LONG * (2 if rank == slow and at >= begins else 1) for rank in range(size)],
    )
    assert named[:begins] == [0] * begins
    assert list(group.slow) == [slow]
    assert group.slow[slow] == pytest.approx(2)


def test_noise_raises_no_alarm() -> None:
    group, generator = Group(4), np.random.default_rng(0)
    rounds(group, 500, lambda at: LONG * generator.uniform(0.85, 1.2, 4))
    assert not group.slow


def test_it_is_the_middle_rank_that_others_are_held_against() -> None:
    group = Group(3)
    rounds(group, 20, lambda at: [LONG / 2, LONG, LONG])
    assert not group.slow


def test_a_look_takes_in_as_much_of_the_rank_that_computes_least() -> None:
    short = SHORTEST / 1e9 / 8
    group = Group(3)
    for _ in range(100):
        group.round([short, 4 * short, 4 * short], [16, 64, 64])
    assert group.watches[0].together == pytest.approx(8, abs=1)


def test_two_slow_rounds_of_five_are_no_alarm_and_three_are() -> None:
    for often, named in ((2, False), (3, True)):
        group = Group(2)
        rounds(group, 20, lambda at, often=often: [LONG, LONG * (3 if at % 5 < often else 1)])
        assert bool(group.slow) == named


def test_a_slow_first_round_is_no_sign() -> None:
    group = Group(2)
    rounds(group, 30, lambda at: [LONG * (50 if at == 0 else 1.6 if at < 3 else 1), LONG])
    assert not group.slow


def test_a_rank_with_more_images_may_take_longer() -> None:
    group = Group(2)
    for _ in range(10):
        group.round([2 * LONG, LONG], [128, 64])
    assert not group.slow
    for _ in range(10):
        group.round([LONG, LONG], [128, 64])
    assert list(group.slow) == [1]


def test_a_round_without_images_on_a_rank_says_nothing() -> None:
    group = Group(2)
    for _ in range(20):
        group.round([LONG, 10 * LONG], [64, 0])
    assert not group.slow


def test_short_rounds_are_looked_at_together() -> None:
    short = SHORTEST / 1e9 / 100
    group = Group(2)
    named = rounds(group, 1000, lambda at: [short, 2 * short])
    assert 200 < named.index(1) < 600
    group = Group(2)  # a spike in every tenth round is a tenth of a look
    rounds(group, 1000, lambda at: [short, short * (4 if at % 10 == 0 else 1)])
    assert not group.slow


def test_a_batch_costs_whole_vectors() -> None:
    watch = Watch(cast(Ranks, Several(0, 2)), Clock(), True)
    for count in (17, 16):
        network = SimpleNamespace(learn=lambda *step: None)
        local = SimpleNamespace(watch=watch, network=network, clock=Clock(), replay=None, seed=0)
        local.workers = SimpleNamespace(seen=lambda *batch, count=count: count)
        local.number, local._load = int, lambda *batch: None
        assert Local.learn(cast(Local, local), cast(Worker, SimpleNamespace(number=0)), 0) == count
    assert watch.images == 48


@pytest.mark.parametrize(("size", "on"), [(2, False), (1, True)])
def test_where_it_is_off_nothing_is_told(size: int, on: bool) -> None:
    watch = Watch(cast(Ranks, Several(0, size)), Clock(), on)
    told: list[object] = []
    pause = SimpleNamespace(meet=told.append)
    Meeting(cast(Average, None), cast(Pause, pause), Clock(), watch).wait(0.0)
    assert told == [None]
    assert not watch._looks


def test_extremes_are_what_numpy_finds() -> None:
    generator = np.random.default_rng(0)
    told, found = generator.integers(1, 1000, (2, 2, 17)), np.zeros((2, 4))
    extremes(told, found)
    each = told[0] / told[1]
    np.testing.assert_array_equal(found.T, [told[0].min(1), told[1].min(1), each.min(1), each.max(1)])


def test_what_is_noted_of_rounds_ends() -> None:
    timeline = Timeline(Clock(), 1)
    for number in range(MOST_ROUNDS + 2):
        assert timeline.full == (number >= MOST_ROUNDS)
        timeline.begin()
        timeline.end()
