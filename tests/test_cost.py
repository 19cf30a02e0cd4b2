"""Formulas against a count of what each algorithm sends, and fits against constants that are known."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from distsgd.cost.algorithms import FORMULAS, Layout, Terms, ended
from distsgd.cost.averaging import Asked, advice, averaging_estimate, choices, fastest
from distsgd.cost.curve import among, between
from distsgd.cost.estimate import Estimate, total
from distsgd.cost.fit import Fit, Point, fit
from distsgd.machine.averaging import Measured
from distsgd.machine.constants import constants as written
from distsgd.machine.timed import Way


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 64])
def test_algorithms_cost_what_their_authors_say(ranks: int) -> None:
    rounds, share, size = int(np.log2(ranks)), (ranks - 1) / ranks, 1000.0
    layout = Layout(ranks, ranks)
    assert FORMULAS["recursive-doubling"](size, layout) == Terms(rounds, rounds * size, rounds * size)
    assert FORMULAS["rabenseifner"](size, layout) == Terms(2 * rounds, 2 * share * size, share * size)
    assert FORMULAS["ring"](size, layout) == Terms(2 * (ranks - 1), 2 * share * size, share * size)
    assert FORMULAS["binomial"](size, layout) == Terms(2 * rounds, 2 * rounds * size, rounds * size)
    others = ranks - 1
    assert FORMULAS["linear"](size, layout) == Terms(2 * others, 2 * others * size, others * size)


def test_ranks_of_a_host_share_its_cable() -> None:
    """Four on each of two hosts: pairs that swap everything all do so at once, the others send what one rank would."""
    size, layout = 1000.0, Layout(8, 2)
    assert FORMULAS["recursive-doubling"](size, layout).sent == 4 * size
    assert FORMULAS["rabenseifner"](size, layout).sent == size
    assert FORMULAS["binomial"](size, layout).sent == 2 * size
    assert FORMULAS["ring"](size, layout).sent == 2 * 7 / 8 * size


def test_ranks_that_fold_end_later_than_the_others() -> None:
    """Three ranks: of 3 messages one by one the last goes back to the neighbour; of a tree's 4 rank 2 has what it needs after 3."""
    assert ended("recursive-doubling", Layout(3, 3)) == pytest.approx((3 + 3 + 2) / 3 / 3)
    assert ended("binomial", Layout(3, 3)) == pytest.approx((4 + 3 + 4) / 3 / 4)
    assert (
        ended("binomial", Layout(2, 2))
        == ended("rabenseifner", Layout(8, 8))
        == ended("ring", Layout(3, 3))
        == 1
    )


def points(alpha: float, beta: float, knee: float | None = None, noise: float = 0.0) -> list[Point]:
    """Rings of 2 and 4 ranks, log-uniform sizes; after the knee a byte takes three times as long and a start-up twenty times."""
    rng, found = np.random.default_rng(3), []
    for ranks in (2, 4):
        for size in np.exp(rng.uniform(np.log(1e4), np.log(1e7), 25)):
            terms = FORMULAS["ring"](size, Layout(ranks, ranks))
            beyond = knee is not None and terms.sent / terms.startups > knee
            seconds = terms.startups * alpha * (20 if beyond else 1) + terms.sent * beta * (
                3 if beyond else 1
            )
            found.append(Point(terms, seconds * (1 + noise * rng.normal()), 0.0))
    return found


def test_a_fit_finds_the_constants() -> None:
    (piece,) = fit(points(3e-5, 8e-9)).pieces
    assert piece.up_to is None
    assert (piece.alpha, piece.beta) == (pytest.approx(3e-5, rel=1e-6), pytest.approx(8e-9, rel=1e-6))


def test_a_fit_finds_where_the_protocol_changes() -> None:
    found = fit(points(3e-5, 8e-9, knee=2e5))
    first, second = found.pieces
    assert 1e5 < (first.up_to or 0) < 4e5
    assert (first.beta, second.beta) == (pytest.approx(8e-9, rel=1e-4), pytest.approx(24e-9, rel=1e-4))
    assert found.spread < 0.05


def test_errors_and_spread_are_those_of_the_noise() -> None:
    found = fit(points(3e-5, 8e-9, noise=0.03))
    (piece,) = found.pieces
    assert abs(piece.beta - 8e-9) < 4 * piece.beta_error < 1e-9
    assert 0.015 < found.spread < 0.06


def test_an_outlier_weighs_little() -> None:
    measured = points(3e-5, 8e-9, noise=0.01)
    measured[7] = dataclasses.replace(measured[7], seconds=measured[7].seconds * 9)
    assert fit(measured).pieces[0].beta == pytest.approx(8e-9, rel=0.02)


def test_what_is_known_is_not_fitted() -> None:
    with_adding = [
        dataclasses.replace(point, seconds=point.seconds + 1e-3, known=1e-3) for point in points(0, 8e-9)
    ]
    assert fit(with_adding).pieces[0].beta == pytest.approx(8e-9, rel=1e-6)


def test_a_network_that_lets_the_first_bytes_pass_at_once_takes_no_less_than_nothing() -> None:
    early = [dataclasses.replace(point, seconds=point.seconds - 3e-5) for point in points(0, 8e-9)]
    found = fit(early)
    assert found.pieces[0].once == pytest.approx(-3e-5, rel=1e-3)
    assert found.seconds(Terms(2, 100, 0)) == pytest.approx(0.5 * 100 * 8e-9)


def test_one_layout_does_not_tell_once_from_startups() -> None:
    alone = [point for point in points(3e-5, 8e-9) if point.terms.startups == 2]
    (piece,) = fit(alone).pieces
    assert (piece.once, piece.alpha) == (0, pytest.approx(3e-5, rel=1e-6))


def test_few_points_have_a_fit_and_none_have_not() -> None:
    assert fit(points(3e-5, 8e-9)[:2]).seconds(Terms(2, 1e6, 0)) == pytest.approx(6e-5 + 8e-3, rel=1e-6)
    with pytest.raises(ValueError, match="no points"):
        fit([])


def test_a_fit_is_kept_as_text() -> None:
    found = fit(points(3e-5, 8e-9, knee=2e5, noise=0.02))
    assert Fit.from_json(json.loads(json.dumps(found.to_json()))) == found


def constants(alpha: float, beta: float) -> dict[str, Any]:
    """A fit of one piece, as in a file."""
    piece = {"up_to": None, "once": 0.0, "alpha": alpha, "beta": beta}
    return {"pieces": [{**piece, "once_error": 0.0, "alpha_error": 0.0, "beta_error": 0.0}], "spread": 0.03}


def entry(algorithm: str, topology: str, beta: float, fits: list[dict[str, Any]]) -> dict[str, Any]:
    conversion = {name: constants(0, 1e-9) for name in ("begin", "add", "again", "finish", "kept", "several")}
    way = {"topology": topology, "algorithm": algorithm, "reduction": "exact"}
    return {**way, "shares": [[2, 2, 1.0], [4, 4, 0.5]], "conversion": conversion, "fits": fits}


def fitted(formula: str, layouts: list[list[int]], beta: float) -> dict[str, Any]:
    return {"formula": formula, "layouts": layouts, "bytes": [1e4, 1e6], **constants(1e-5, beta)}


BOTH = [[2, 2], [4, 4]]
MESSAGES = {
    "adding": {"exact": 1e-10, "fast": 1e-10},
    "exchanges": [
        entry("library", "allreduce", 2e-8, [fitted("whole", [[4, 4]], 4e-8), fitted("linear", BOTH, 2e-8)]),
        entry("ring", "allreduce", 1e-8, [fitted("ring", BOTH, 1e-8)]),
        entry("binomial", "master", 1e-8, [fitted("binomial", BOTH, 1e-8)]),
    ],
}


def test_an_algorithm_that_was_not_measured_is_told_from_others() -> None:
    """By its own formula, with what messages took in the middle one of the others."""
    others = [entry(name, "allreduce", beta, [fitted(name, BOTH, beta)]) for name, beta in
              (("ring", 9e-8), ("recursive-doubling", 1e-8), ("binomial", 2e-8))]  # fmt: skip
    layout = Layout(3, 3)
    found = averaging_estimate(
        {**MESSAGES, "exchanges": others}, asked(algorithm="rabenseifner", ranks=3, hosts=3)
    )
    terms = FORMULAS["rabenseifner"](80000, layout)
    last = terms.startups * 1e-5 + terms.sent * 2e-8 + terms.added * 1e-10
    assert found.exchange.seconds * found.latest == pytest.approx(last)
    share = 0.5 * ended("rabenseifner", layout) / ended("binomial", Layout(4, 4))
    assert found.exchange.seconds == pytest.approx(share * last)
    assert found.exchange.deviation > 0.1 * found.exchange.seconds


def asked(**other: Any) -> Asked:
    return Asked(
        **{
            **dict(topology="allreduce", algorithm="ring", reduction="exact", values=10000, ranks=4, hosts=4),
            **other,
        }
    )


def test_an_estimate_is_made_of_conversion_and_exchange() -> None:
    found = averaging_estimate(MESSAGES, asked(workers_per_rank=3))
    for workers, calls in ((1, 3), (2, 5), (3, 6)):  # with several workers there is one call more
        conversion = averaging_estimate(MESSAGES, asked(workers_per_rank=workers)).conversion
        assert conversion.seconds == pytest.approx(calls * 10000 * 1e-9)
    terms = FORMULAS["ring"](80000, Layout(4, 4))
    last = terms.startups * 1e-5 + terms.sent * 1e-8 + terms.added * 1e-10
    assert (found.exchange.seconds * found.latest, found.latest) == (pytest.approx(last), 2.0)
    assert found.exchange.deviation == pytest.approx(0.03 * found.exchange.seconds)
    assert found.whole == total([found.conversion, found.exchange])


def test_an_average_that_is_kept_costs_no_copy() -> None:
    measured = entry("ring", "allreduce", 1e-8, [fitted("ring", BOTH, 1e-8)])
    measured["conversion"]["kept"] = constants(0, 1e-10)
    messages = {**MESSAGES, "exchanges": [measured]}
    copied, kept = (averaging_estimate(messages, asked(kept=kept)) for kept in (False, True))
    assert copied.finish.seconds == pytest.approx(10000 * 1e-9)
    assert kept.finish.seconds == pytest.approx(10000 * 1e-10)
    assert dataclasses.replace(kept, finish=copied.finish) == copied


def test_ranks_that_were_measured_have_their_own_fit() -> None:
    own = averaging_estimate(MESSAGES, asked(algorithm="library"))
    assert own.exchange.seconds == pytest.approx((1e-5 + 80000 * 4e-8) / 2)
    other = averaging_estimate(MESSAGES, asked(algorithm="library", ranks=2, hosts=2))
    assert other.exchange.deviation == pytest.approx(0.3 * other.exchange.seconds)


def test_further_ranks_and_bytes_are_less_sure() -> None:
    near, far = (averaging_estimate(MESSAGES, asked(ranks=n, hosts=n)).exchange for n in (4, 16))
    assert far.deviation / far.seconds == pytest.approx(2 * near.deviation / near.seconds)


def test_alone_nothing_is_exchanged() -> None:
    assert averaging_estimate(MESSAGES, asked(ranks=1, hosts=1)).exchange == Estimate(0.0)


def test_what_was_not_measured_is_told() -> None:
    without = {**MESSAGES, "exchanges": MESSAGES["exchanges"][:1]}
    with pytest.raises(LookupError, match="rabenseifner, exact was not measured"):
        averaging_estimate(without, asked(algorithm="rabenseifner"))
    with pytest.raises(
        LookupError, match=r"4 ranks on 1 host: measured were \(ranks, hosts\) \(2, 2\), \(4, 4\)"
    ):
        averaging_estimate(MESSAGES, asked(hosts=1))


def test_the_fastest_is_advised() -> None:
    order = [(choice.topology, choice.algorithm) for choice in choices(MESSAGES, asked())]
    assert order == [("allreduce", "ring"), ("allreduce", "library"), ("master", "binomial")]
    assert fastest(MESSAGES, asked(topology="master", algorithm="auto")).algorithm == "binomial"
    assert advice(MESSAGES, asked()) is None
    line = advice(MESSAGES, asked(algorithm="library"))
    assert line is not None
    assert "averaging.algorithm=ring" in line
    assert "times as fast" in line
    with pytest.raises(LookupError):
        fastest({**MESSAGES, "exchanges": []}, asked())


def test_seconds_between_sizes_that_were_measured() -> None:
    sizes, seconds = [10.0, 20.0, 20.0, 40.0, 40.0], [1.0, 2.0, 4.0, 4.0, 6.0]
    assert [between(sizes, seconds, size) for size in (4, 5, 15, 20, 30, 60)] == [
        0.5,
        0.5,
        2.0,
        3.0,
        4.0,
        7.0,
    ]
    assert between([5.0, 5.0], [1.0, 3.0], 50) == 20.0


def test_what_is_among_places_lies_on_lines() -> None:
    places, values = [(1e3, 1.0), (1e6, 1e4), (1e6, 1.0)], [1.0, 9.0, 4.0]
    assert among(places, values, (1e3, 1.0)) == pytest.approx(1.0)
    assert among(places, values, (1.0, 1e9)) == pytest.approx(1.0)
    assert among(places, values, (1e9, 1e9)) == pytest.approx(9.0)
    assert among(places, values, (1e6, 1e2)) == pytest.approx(6.0)
    assert among(places, values, (10**4.5, 1e2)) == pytest.approx(6.0**0.5)
    assert among([*places, (1e6, 1.0)], [*values, 1.0], (1e6, 0.1)) == pytest.approx(2.0)


def test_a_conversion_takes_as_long_whichever_of_our_algorithms_runs() -> None:
    """Each is measured at six sizes with each reduction: all their points make one fit."""
    chance = np.random.default_rng(3)
    measured = []
    for algorithm in ("library", "ring", "recursive-doubling", "rabenseifner"):
        one = Measured(
            Way("allreduce", algorithm, "exact"),
            Layout(2, 1),
            "library" if algorithm == "library" else algorithm,
        )
        for values in np.exp(chance.uniform(np.log(2e3), np.log(4e6), 6)).astype(int).tolist():
            times = np.full(7, values * (1e-9 if values < 1e5 else 2e-9)) * chance.normal(1, 0.02, 7)
            one.values.append(values)
            one.mean.append(times)
            one.last.append(float(times[3]))
        measured.append(one)
    library, *ours = written(measured, {"exact": 1e-10, "fast": 1e-10}, "an MPI")["exchanges"]
    assert ours[0]["conversion"] == ours[1]["conversion"] == ours[2]["conversion"] != library["conversion"]
