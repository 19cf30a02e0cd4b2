"""Speed-up, efficiency and Karp and Flatt's fraction, against numbers worked out by hand."""

import pytest

from distsgd.cost import scaling
from distsgd.cost.scaling import Gain, Spread


def test_spread_has_the_middle_and_both_ends() -> None:
    assert scaling.spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert scaling.spread([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_strong_scaling() -> None:
    gain = scaling.strong(4, 12.0, Spread(4.0, 3.0, 6.0))
    assert gain == Gain(4, Spread(3.0, 2.0, 4.0), 0.75, pytest.approx(1 / 9))


def test_as_many_ranks_gain_nothing_and_tell_of_no_serial_part() -> None:
    assert scaling.strong(1, 2.0, Spread(2.0, 1.0, 4.0)) == Gain(1, Spread(1.0, 0.5, 2.0), 1.0, None)


def test_weak_scaling_counts_the_work_that_grew() -> None:
    gain = scaling.weak(4, 10.0, Spread(12.5, 10.0, 20.0))
    assert gain == Gain(4, Spread(3.2, 2.0, 4.0), 0.8, None)


@pytest.mark.parametrize("serial", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("ranks", [2, 16, 1000])
def test_karp_flatt_finds_the_fraction_of_amdahls_law(serial: float, ranks: int) -> None:
    assert scaling.karp_flatt(1 / (serial + (1 - serial) / ranks), ranks) == pytest.approx(serial)


def test_karp_flatt_of_more_than_the_ideal_is_below_zero() -> None:
    assert scaling.karp_flatt(5, 4) < 0


@pytest.mark.parametrize(
    ("workers", "ranks", "most"), [(4, 1, 1), (4, 2, 2), (4, 3, 2), (4, 4, 4), (7, 3, 7 / 3)]
)
def test_whole_workers_limit_what_can_be_gained(workers: int, ranks: int, most: float) -> None:
    assert scaling.dealt(workers, ranks) == pytest.approx(most)
