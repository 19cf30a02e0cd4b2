"""Speed-up, efficiency and Karp and Flatt's fraction, against numbers worked out by hand."""

import numpy as np
import pytest

from distsgd.cost import Estimate, scaling
from distsgd.cost.scaling import Gain, Spread


def test_spread_has_the_middle_and_both_ends() -> None:
    assert scaling.spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert scaling.spread([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_strong_scaling() -> None:
    gain = scaling.strong(4, scaling.measured(12.0, Spread(4.0, 3.0, 6.0)))
    ninth = pytest.approx(1 / 9)
    assert gain == Gain(4, Spread(3.0, 2.0, 4.0), 0.75, (0.5, 1.0), ninth, (0.0, pytest.approx(1 / 3)))


def test_as_many_ranks_gain_nothing_and_tell_of_no_serial_part() -> None:
    gain = scaling.strong(1, scaling.measured(2.0, Spread(2.0, 1.0, 4.0)))
    assert gain == Gain(1, Spread(1.0, 0.5, 2.0), 1.0, (0.5, 2.0))


def test_weak_scaling_counts_the_work_that_grew() -> None:
    gain = scaling.weak(4, scaling.measured(10.0, Spread(12.5, 10.0, 20.0)))
    assert gain == Gain(4, Spread(3.2, 2.0, 4.0), 0.8, (0.5, 1.0))


def test_nine_of_ten_ratios_lie_in_the_interval_of_a_predicted_speed_up() -> None:
    before, after = Estimate(12.0, 0.6), Estimate(4.0, 0.4)
    found, chance = scaling.ratio(before, after), np.random.default_rng(0)
    ratios = chance.normal(12.0, 0.6, 100_000) / chance.normal(4.0, 0.4, 100_000)
    assert found.median == 3.0
    assert np.mean((found.least < ratios) & (ratios < found.most)) == pytest.approx(0.9, abs=0.01)
    assert np.quantile(ratios, [0.05, 0.95]) == pytest.approx([found.least, found.most], rel=0.02)


def test_predictions_that_err_together_lie_closer() -> None:
    found, chance = scaling.ratio(Estimate(12.0, 1.2), Estimate(4.0, 0.4)), np.random.default_rng(0)
    same = chance.normal(0.0, 0.08, 100_000)
    ratios = 12.0 * (1 + same + chance.normal(0, 0.06, same.size))
    ratios /= 4.0 * (1 + same + chance.normal(0, 0.06, same.size))
    assert np.mean((found.least < ratios) & (ratios < found.most)) > 0.95


def test_a_prediction_that_knows_nothing_has_an_interval_all_the_same() -> None:
    found = scaling.ratio(Estimate(1.0, 100.0), Estimate(1.0, 1.0))
    assert 0 < found.least < 1e-4
    assert 1e4 < found.most < 1e5


def test_an_interval_tells_what_it_was_made_from() -> None:
    for known in (Estimate(3.0, 0.5), Estimate(3.0, 5.0), Estimate(0.0, 0.5), Estimate(2.0)):
        found = Estimate.within(known.seconds, known.interval[1])
        assert (found.seconds, found.deviation) == pytest.approx((known.seconds, known.deviation))


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
