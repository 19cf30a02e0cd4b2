"""What is recommended, beside a search through everything."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_plan import averages, job, machine, step

from distsgd.cost.machine import Machine
from distsgd.plan.curve import Point, beyond, curve, with_averaging
from distsgd.plan.runs import predict_run
from distsgd.plan.search import ALIKE, FREE, Cost, Space, candidates, chosen, goals, recommend, settings
from distsgd.plan.work import Job, Link

WAYS = [("allreduce", "library"), ("allreduce", "ring"), ("master", "library"), ("master", "binomial")]
RANKS = (1, 2, 4, 8)
SPACE = Space(8, 8, lambda job: True)


def machine_of(ways: dict[tuple[str, str, str], float]) -> Machine:
    """Measured on up to 8 ranks of a node, where a way takes so many seconds a byte, and twice that on 8 ranks."""
    layouts = [[ranks, 1] for ranks in RANKS[1:]]
    plain = averages(2)["exchanges"][0]
    exchanges = []
    for (topology, algorithm, reduction), seconds in ways.items():
        fits: list[dict[str, Any]] = []
        for layout in layouts:
            piece = {**plain["fits"][0]["pieces"][0], "beta": seconds * (1 + (layout[0] == 8))}
            fits.append({**plain["fits"][0], "pieces": [piece], "layouts": [layout]})
        named = {"topology": topology, "algorithm": algorithm, "reduction": reduction}
        exchanges.append({**plain, **named, "fits": fits, "shares": [(*layout, 1.0) for layout in layouts]})
    told = {**averages(2), "layouts": layouts, "exchanges": exchanges}
    made = machine("garg", steps=tuple(step("garg", together) for together in RANKS))
    where = made.where.model_copy(update={"ranks": 8, "ranks_per_node": 8, "cores": 8})
    return made.model_copy(update={"averaging": told, "where": where})


def costs(seed: int) -> dict[tuple[str, str, str], float]:
    """Some ways nearly alike, some far apart."""
    rng = np.random.default_rng(seed)
    named = [(*way, reduction) for way in WAYS for reduction in ("exact", "fast")]
    return {way: float(10 ** rng.uniform(-10, -7.5)) for way in named}


def everything(made: Machine, own: Job) -> list[Point]:
    """All ranks, workers, periods, reductions and ways there are, one by one."""
    sizes = {(ranks, own.config.averaging.workers or ranks) for ranks in RANKS}
    sizes |= {(ranks, ranks) for ranks in RANKS}
    periods = [None, *(2**n for n in range(1, 12)), "epoch"]
    found = []
    for (ranks, workers), period, reduction, way in itertools.product(
        sizes, periods, ("exact", "fast"), WAYS
    ):
        one = with_averaging(
            own.on(ranks, workers, 8),
            period=period,
            reduction=reduction,
            **dict(zip(("topology", "algorithm"), way, strict=True)),
        )
        if period is None or (one.steps not in periods if period == "epoch" else 8 < period <= one.steps):
            found.append(Point(one, predict_run(made, one), False))
    return found


def facts(point: Point, own: Job) -> dict[str, Any]:
    """What of a point differs from the own job, written out."""
    there, here = point.job.config.averaging, own.config.averaging
    return {
        "workers": here.workers is not None and point.job.workers != here.workers,
        "period": there.period != here.period,
        "reduction": there.reduction != here.reduction,
        "way": (there.topology, there.algorithm) != (here.topology, here.algorithm),
    }


def brute(whole: list[Point], cost: Cost, own: Job, free: tuple[str, ...]) -> Point | None:
    """The rule as it is written: of what costs at most a twentieth more than the least, the one that changes the least."""
    fixed = {"workers", "period", "reduction"} - set(free)
    allowed = [p for p in whole if cost(p) < math.inf and not any(facts(p, own)[key] for key in fixed)]
    alike = [p for p in allowed if cost(p) <= ALIKE * min(map(cost, allowed))]
    for key in ("workers", "period"):  # the nearest number of workers, the shortest period
        own_value = own.config.averaging.workers or 1
        far = {
            id(p): abs(math.log(p.job.workers / own_value)) if key == "workers" else p.job.period
            for p in alike
            if facts(p, own)[key]
        }
        least = min((far.get(id(p), 0) for p in alike), default=0)
        alike = [p for p in alike if far.get(id(p), 0) == least]
    for key in ("reduction", "way"):
        alike = [p for p in alike if not facts(p, own)[key]] or alike
    return min(alike, key=lambda p: (p.job.ranks, p.training.seconds), default=None)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workers", [None, 8])
def test_the_search_finds_what_brute_force_finds(seed: int, workers: int | None) -> None:
    made, own = machine_of(costs(seed)), job("garg", workers=workers)
    whole = everything(made, own)
    known = list(candidates(made, curve(made, own, 8, 8), own, SPACE))
    assert len(known) < len(whole)
    for (_, cost), free in itertools.product(goals(4.0), [(), *((name,) for name in FREE), tuple(FREE)]):
        found, wanted = chosen(known, cost, own, free), brute(whole, cost, own, free)
        assert (found and found.job) == (wanted and wanted.job)


def test_what_gains_nothing_worth_it_is_left_as_it_is() -> None:
    even = dict.fromkeys(costs(0), 2e-10)
    even["allreduce", "ring", "exact"] = 1.99e-10
    own = job("garg", workers=8)
    made = machine_of(even)
    best = recommend(made, curve(made, own, 8, 8), own, SPACE)[0].best
    assert best is not None
    assert settings(best.job, own) == ["averaging.workers=8"]


def test_a_faster_way_is_recommended_with_what_to_copy() -> None:
    slow = dict.fromkeys(costs(0), 1e-8)
    slow["master", "binomial", "exact"] = 1e-11
    own = job("garg", workers=8)
    made = machine_of(slow)
    one = recommend(made, curve(made, own, 8, 8), own, SPACE)[0]
    assert one.best is not None
    assert settings(one.best.job, own) == [
        "averaging.workers=8",
        "averaging.topology=master",
        "averaging.algorithm=binomial",
    ]
    assert one.best.job.ranks == 8


def test_other_results_are_named_and_never_the_default() -> None:
    own = job("garg", workers=8)
    made = machine_of(dict.fromkeys(costs(0), 1e-8))
    for one in recommend(made, curve(made, own, 8, 8), own, SPACE, 2.0):
        assert one.best is None or not any(
            facts(one.best, own)[key] for key in ("workers", "period", "reduction")
        )
        for names, point in one.others:
            assert {key for key in ("workers", "period", "reduction") if facts(point, own)[key]} == set(names)
    fastest = dict(recommend(made, curve(made, own, 8, 8), own, SPACE)[0].others)
    assert ("period",) in fastest
    assert settings(fastest["period",].job, own)[1].startswith("averaging.period=")


def test_what_does_not_fit_is_not_recommended() -> None:
    own = job("garg", workers=8)
    made = machine_of(dict.fromkeys(costs(0), 1e-11))
    small = replace(SPACE, room=lambda one: one.together <= 2)
    best = recommend(made, curve(made, own, 8, 8), own, small)[0].best
    assert best is not None
    assert best.job.ranks == 2
    nothing = recommend(made, curve(made, own, 8, 8), own, replace(SPACE, room=lambda one: False))
    assert all(one.best is None and not one.others for one in nothing)


def test_gradients_have_no_longer_period() -> None:
    own = job("garg", workers=8, what="gradients")
    made = machine_of(costs(1))
    found = candidates(made, curve(made, own, 8, 8), own, SPACE)
    assert {point.job.config.averaging.period for point in found} == {None}


def test_workers_keep_images_for_a_round() -> None:
    own = job("garg")
    made = machine_of(costs(1))
    few = replace(
        own,
        config=own.config.model_copy(update={"train": own.config.train.model_copy(update={"batch": 256})}),
    )
    found = list(candidates(made, curve(made, few, 8, 8), few, SPACE))
    assert max(point.job.workers for point in found) == 2  # of 6,000 images: 4 workers have no 8 x 256 each
    assert own.fills
    assert not replace(own, workers=4096).fills


@pytest.mark.parametrize(
    ("ranks", "per_node", "expected"),
    [(1, 1, False), (2, 8, False), (3, 8, False), (8, 8, False), (16, 16, True), (16, 8, True), (2, 1, True)],
)
def test_what_is_beyond_the_layouts_that_were_measured(ranks: int, per_node: int, expected: bool) -> None:
    one = job("garg", workers=64).on(ranks, 64, per_node)
    assert beyond(machine_of(costs(0)), replace(one, link=Link(1e-6, 1e-9))) is expected


def test_nodes_beyond_those_measured_are_extrapolated() -> None:
    made = machine_of(costs(0))
    layouts = [[2, 1], [4, 2], [8, 4]]
    made = made.model_copy(
        update={
            "averaging": {**made.averaging, "layouts": layouts},
            "where": made.where.model_copy(update={"ranks_per_node": 2}),
        }
    )
    one = job("garg", workers=64)
    told = {
        (ranks, per): beyond(made, one.on(ranks, 64, per))
        for ranks, per in ((2, 2), (4, 2), (8, 2), (16, 2), (4, 4), (8, 1))
    }
    assert told == {(2, 2): False, (4, 2): False, (8, 2): False, (16, 2): True, (4, 4): True, (8, 1): True}
