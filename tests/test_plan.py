"""Predictions from made-up constants: what is known is found again, what is not is put together from its parts."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distsgd import cli, data
from distsgd.clock import PHASES
from distsgd.config import Config
from distsgd.cost.algorithms import FORMULAS, Layout
from distsgd.cost.averaging import averaging_estimate
from distsgd.cost.curve import between
from distsgd.cost.estimate import Estimate, total
from distsgd.cost.machine import Copying, Filling, InPlace, Machine, Operation, Step, Where, Whole
from distsgd.kernels import rows
from distsgd.machine.where import write
from distsgd.plan import layers
from distsgd.plan.compute import computing, whole
from distsgd.plan.curve import curve, point_of, remedies
from distsgd.plan.ladder import peak, printed, rungs
from distsgd.plan.rounds import asked_of, predict_round
from distsgd.plan.runs import predict_run
from distsgd.plan.work import Job, Link, network_text
from distsgd.training import check
from distsgd.training.algorithm import asked

LANES = (16, 32, 64)
PER_FLOP, START, WHOLE = 1e-11, 2e-6, 1.1
"""Of the made-up machine: every pass takes START + PER_FLOP * flops * lanes, and a step WHOLE times as long as its passes."""


def job(name: str = "chavan-3-16-100", ranks: int = 1, **averaging: Any) -> Job:
    sections = {"network": {"name": name}, "train": {"batch": 32}, "averaging": averaging}
    experiment = check(Config.model_validate(sections), ranks, [])
    stages = tuple(experiment.stages)
    return Job(stages, experiment.config, experiment.images, experiment.workers, ranks, ranks)


def passes(name: str, together: int = 1) -> list[Operation]:
    found = []
    for one in layers.operations(job(name)):
        seconds = tuple(START + PER_FLOP * one.flops * lanes for lanes in LANES)
        found.append(Operation(**vars(one), together=together, lanes=LANES, seconds=seconds))
    return found


def updates() -> list[Operation]:
    made = [layers.update_of(size, name) for size in (1000, 1_000_000) for name in ("sgd", "adam")]
    slow = {"sgd": 1.0, "adam": 2.0}
    return [
        Operation(**vars(one), together=1, lanes=(16,), seconds=(slow[one.kind] * one.weights * 1e-10,))
        for one in made
    ]


def fit(per_value: float) -> dict[str, Any]:
    piece = {
        "up_to": None,
        "alpha": 1e-6,
        "beta": per_value,
        "alpha_error": 0.0,
        "beta_error": 0.0,
        "once": 0.0,
        "once_error": 0.0,
    }
    return {"pieces": [piece], "spread": 0.05}


def machine(*networks: str, steps: tuple[Step, ...] = ()) -> Machine:
    where = Where(processor="one", cores=2, vector_lanes=16, ranks=2, ranks_per_node=2, mpi="none")
    return Machine(
        version="0",
        where=where,
        steps=steps or (step("garg"),),
        operations=tuple([one for name in networks for one in passes(name)] + updates()),
        filling=(
            Filling(channels=1, windows=False, together=1, start=1e-6, per_byte=1e-10),
            Filling(channels=1, windows=True, together=1, start=2e-6, per_byte=2e-10),
        ),
        wholes=(Whole(together=1, parameters=100_000, lanes=32, factor=WHOLE),),
        once=dict.fromkeys(("open", "read", "deal", "file", "byte", "start", "compile"), 1e-9),
        copying=(
            Copying(values=100_000, flops=1e7, seconds=1e-5),
            Copying(values=1_000_000, flops=1e7, seconds=1e-4),
        ),
        in_place=(),
        averaging={},
    )


def step(name: str, together: int = 1, seconds: tuple[float, ...] = (1e-3, 2e-3, 4e-3)) -> Step:
    one = job(name)
    return Step(
        network=network_text(one.stages),
        optimizer="adam",
        together=together,
        parameters=one.parameters,
        lanes=LANES,
        compute=seconds,
        data=(1e-5, 2e-5, 4e-5),
        deviation=0.02,
        turn=1e-4,
        passing=0.1,
        lasting=0.01,
    )


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(16, 1.0), (24, 1.5), (32, 2.0), (48, 4.0), (64, 6.0), (128, 14.0), (8, 0.5), (1, 0.5)],
)
def test_seconds_between_sizes_lie_on_lines(size: int, wanted: float) -> None:
    assert between((16, 32, 64), (1.0, 2.0, 6.0), size) == pytest.approx(wanted)


def test_one_size_alone_is_proportional() -> None:
    assert between((10.0,), (2.0,), 30.0) == pytest.approx(6.0)


def test_independent_errors_add_in_squares() -> None:
    both = total([Estimate(1.0, 0.3), Estimate(2.0, 0.4)])
    assert (both.seconds, both.deviation) == (3.0, pytest.approx(0.5))
    low, high = Estimate(1.0, 0.1).interval
    assert (low, high) == (pytest.approx(1 - 0.16449), pytest.approx(1 + 0.16449))


def test_a_measured_network_is_read_off() -> None:
    found = computing(machine("garg", steps=(step("garg"),)), job("garg"))
    assert found.known
    assert found.step.seconds == pytest.approx(2e-3)


def test_another_optimizer_exchanges_the_update() -> None:
    plain = job("garg")
    sgd = Job(
        plain.stages,
        plain.config.model_copy(
            update={"optimizer": Config.model_validate({"optimizer": {"name": "sgd"}}).optimizer}
        ),
        plain.images,
        1,
        1,
        1,
    )
    made = machine("garg", steps=(step("garg"),))
    wanted = 2e-3 - 4 * plain.parameters * 1e-10
    assert computing(made, sgd).step.seconds == pytest.approx(wanted)


def test_the_nearest_number_of_ranks_is_taken() -> None:
    both = machine("garg", steps=(step("garg"), step("garg", 2, (3e-3, 5e-3, 9e-3))))
    assert computing(both, job("garg", 2)).step.seconds == pytest.approx(5e-3)
    assert computing(both, job("garg", 8)).step.seconds == pytest.approx(5e-3)
    assert computing(both, job("garg", 1)).step.seconds == pytest.approx(2e-3)


def test_an_unknown_network_of_known_layers_is_their_sum() -> None:
    found = computing(machine("chavan-3-16-100"), job())
    wanted = sum(START + PER_FLOP * one.flops * 32 for one in layers.operations(job()))
    wanted = WHOLE * (wanted + 2 * 4 * job().parameters * 1e-10)
    assert not found.known
    assert found.step.seconds == pytest.approx(wanted)


def test_unknown_layers_are_told_from_layers_like_theirs() -> None:
    names = [f"chavan-{k}-{f}-{h}" for k in (3, 5, 7) for f in (8, 16, 32, 48) for h in (50, 100, 200)]
    found = computing(machine(*names), job("chavan-4-24-140"))
    one = job("chavan-4-24-140")
    wanted = sum(START + PER_FLOP * part.flops * 32 for part in layers.operations(one))
    wanted = WHOLE * (wanted + 2 * 4 * one.parameters * 1e-10)
    assert found.step.seconds == pytest.approx(wanted, rel=0.05)
    assert found.step.deviation > 0.02 * wanted


def test_a_pass_that_nothing_resembles_is_not_guessed() -> None:
    with pytest.raises(LookupError, match="Convolution"):
        computing(
            machine("garg", steps=(step("garg"),)).model_copy(update={"operations": tuple(updates())}), job()
        )


def test_a_round_of_one_worker() -> None:
    one = job("garg", period=8)
    found = predict_round(machine("garg"), one)
    assert found.phases["compute"].seconds == pytest.approx(8 * 2e-3 + 1e-4)
    assert found.phases["data"].seconds == pytest.approx(8 * 2e-5)
    assert found.phases["wait"].seconds == 0
    assert found.whole.seconds == pytest.approx(sum(part.seconds for part in found.phases.values()))


@pytest.mark.parametrize(("each", "waited"), [(2e-5, 0.0), (5e-3, 3e-3)])
def test_a_batch_that_a_thread_fills_is_waited_for_once_the_step_is_done(each: float, waited: float) -> None:
    slow = step("garg").model_copy(update={"data": (each, each, each)})
    one = job("garg", period=8)
    chosen = one.config.data.model_copy(update={"prefetch": True})
    found = predict_round(
        machine("garg", steps=(slow,)),
        replace(one, config=one.config.model_copy(update={"data": chosen})),
    )
    assert found.phases["data"].seconds == pytest.approx(8 * waited)


def averages(ranks: int) -> dict[str, Any]:
    one = {
        **{"topology": "allreduce", "algorithm": "library", "reduction": "exact", "ran": "shared"},
        "shares": [(ranks, 1, 1.0)],
        "conversion": {
            **{name: fit(1e-10) for name in ("begin", "add", "again", "finish", "kept")},
            "several": fit(0.0),
        },
        "fits": [{"formula": "whole", "layouts": [[ranks, 1]], "bytes": [1e3, 1e8], **fit(2e-10)}],
        "points": [],
    }
    return {
        "format": 2,
        "mpi": "none",
        "layouts": [[ranks, 1]],
        "adding": {"exact": 0.0, "fast": 0.0},
        "exchanges": [one],
    }


def test_ranks_with_fewer_workers_wait_for_those_with_more() -> None:
    made = machine("garg").model_copy(update={"averaging": averages(2)})
    even, odd = (predict_round(made, job("garg", 2, workers=w, period=4)) for w in (4, 3))
    assert odd.phases["compute"].seconds == pytest.approx(0.75 * even.phases["compute"].seconds)
    turn = 4 * 2e-3 + 1e-4 + 4 * 2e-5
    assert odd.phases["wait"].seconds - even.phases["wait"].seconds == pytest.approx(turn / 2, rel=1e-6)
    assert even.phases["wait"].seconds > 0
    assert even.phases["average"].seconds > 3 * 2e-10 * 8 * even.computing.step.seconds


def test_gradients_are_averaged_before_the_update() -> None:
    made = machine("garg").model_copy(update={"averaging": averages(2)})
    found = predict_round(made, job("garg", 2, workers=4, what="gradients"))
    update = 2 * 4 * job("garg").parameters * 1e-10
    assert found.phases["compute"].seconds == pytest.approx(2 * (2e-3 - update) + update)


@pytest.mark.parametrize("what", ["gradients", "parameters"])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 2), (2, 5)])
def test_a_plan_asks_for_the_average_that_a_run_makes(what: str, ranks: int, workers: int) -> None:
    averaging = {"what": what, "workers": workers}
    sections = {"network": {"name": "garg"}, "train": {"batch": 32}, "averaging": averaging}
    made = asked(check(Config.model_validate(sections), ranks, []), ranks, 1)
    assert made == asked_of(job("garg", ranks, **averaging))
    assert made.kept == (what == "gradients")


@pytest.mark.parametrize("other", [{"topology": "master"}, {"algorithm": "ring"}])
def test_alone_it_makes_no_difference_how_ranks_would_add(other: dict[str, str]) -> None:
    """It is told by what was measured of one rank; only of several by their own."""
    assert asked_of(job("garg", 1, workers=2, **other)) == asked_of(job("garg", 1, workers=2))
    assert asked_of(job("garg", 2, workers=2, **other)) != asked_of(job("garg", 2, workers=2))


def test_only_an_average_of_parameters_is_copied() -> None:
    def seconds(what: str, ranks: int, copy: float) -> float:
        messages = averages(2)
        messages["exchanges"][0]["conversion"]["finish"] = fit(copy)
        made = machine("garg").model_copy(update={"averaging": messages})
        one = job("garg", ranks, what=what, workers=ranks, period=1)
        return predict_round(made, one).phases["average"].seconds

    assert seconds("gradients", 1, 1e-10) == 0 < seconds("parameters", 1, 1e-10)
    assert seconds("gradients", 2, 1e-10) == seconds("gradients", 2, 2e-10)
    assert seconds("parameters", 2, 1e-10) < seconds("parameters", 2, 2e-10)


def test_one_worker_s_gradient_is_looked_through_and_not_copied() -> None:
    """A large network's takes a twentieth of a step; files that do not tell of it foretell nothing."""
    one, made = job("garg", workers=1, what="gradients", period=1), machine("garg")
    looked = Copying(values=50_000, flops=1e7, seconds=1e-6, kept=True)
    told = made.model_copy(update={"copying": (*made.copying, looked)})
    assert predict_round(made, one).phases["average"].seconds == 0
    assert predict_round(told, one).phases["average"].seconds == pytest.approx(2e-11 * one.parameters)
    copied = replace(one, config=job("garg", workers=1).config)
    assert predict_round(told, copied) == predict_round(made, copied)


def test_what_is_read_off_between_sizes_is_less_sure() -> None:
    one, made = job("garg"), machine("garg")

    def of_batch(batch: int) -> Estimate:
        train = one.config.train.model_copy(update={"batch": batch})
        return computing(made, replace(one, config=one.config.model_copy(update={"train": train}))).step

    there, between_two = of_batch(30), of_batch(40)
    assert there.deviation / there.seconds == pytest.approx(made.steps[0].deviation)
    assert between_two.deviation / between_two.seconds > made.steps[0].deviation


def test_all_images_are_read_to_keep_some() -> None:
    """Files of earlier versions tell only of what is kept."""
    one = job("garg", 2, workers=4)
    made = machine("garg").model_copy(update={"averaging": averages(2)})
    told = made.model_copy(update={"once": {**made.once, "scan": 1e-6}})
    images = one.train_images + one.images.counts["test"] / 2
    more = predict_run(told, one).phases["load"].seconds - predict_run(made, one).phases["load"].seconds
    assert more == pytest.approx(1e-6 * 28 * 28 * images)


def test_of_networks_the_middle_one_tells_how_much_longer_a_step_takes_than_its_passes() -> None:
    """Of one passes were disturbed."""
    factors = {16: (1.1, 0.8, 1.2), 64: (1.0, 1.05, 5.0)}
    wholes = tuple(
        Whole(together=together, parameters=1000 * (1 + number), lanes=lanes, factor=factor * together)
        for lanes, some in factors.items()
        for number, factor in enumerate(some)
        for together in (1, 4)
    )
    made = machine("garg").model_copy(update={"wholes": wholes})

    def of(batch: int) -> float:
        one = job("garg")
        train = one.config.train.model_copy(update={"batch": batch})
        return whole(made, replace(one, config=one.config.model_copy(update={"train": train})))

    assert (of(16), of(64), of(200)) == pytest.approx((1.1, 1.05, 1.05))
    assert 1.05 < of(32) < 1.1


def test_every_deal_reads_anew() -> None:
    """In ten epochs, dealt anew every three: four times."""

    def phases(every: int) -> Any:
        one = job("garg", workers=1)
        changed = one.config.data.model_copy(update={"reshuffle": every})
        one = replace(one, config=one.config.model_copy(update={"data": changed}))
        costs = {**machine("garg").once, "scan": 1e-6, "deal": 1e-3}
        return predict_run(machine("garg").model_copy(update={"once": costs}), one, 10).phases

    once, often, size = phases(0), phases(3), 28 * 28 * job("garg").train_images
    assert often["shuffle"].seconds - once["shuffle"].seconds == pytest.approx(3e-3 * size / 28 / 28)
    assert often["load"].seconds - once["load"].seconds == pytest.approx(3 * (1e-6 + 1e-9) * size)


def test_checkpoints_are_written_all_along_a_run() -> None:
    one = job("garg", workers=1)
    made = machine("garg").model_copy(update={"once": {**machine("garg").once, "file": 0.25}})

    def checkpoints(every: float) -> float:
        changed = one.config.checkpoint.model_copy(update={"every": every})
        return (
            predict_run(made, replace(one, config=one.config.model_copy(update={"checkpoint": changed})))
            .phases["checkpoint"]
            .seconds
        )

    whole = predict_run(made, one).whole.seconds
    assert checkpoints(0.0) == checkpoints(2 * whole)
    assert checkpoints(whole / 3.5) - checkpoints(0.0) == pytest.approx(3 * 0.25, abs=0.01)


def test_a_run_has_the_phases_of_the_clock() -> None:
    one = job("garg", workers=1)
    run = predict_run(machine("garg"), one)
    assert tuple(run.phases) == PHASES
    epoch = one.steps * 2e-3 + one.rounds * 1e-4
    assert run.phases["compute"].seconds == pytest.approx(one.config.train.epochs * epoch)
    facts = run.facts
    assert set(facts["predicted_seconds"]) == {"total", *PHASES} == set(facts["predicted_interval"])
    assert facts["predicted_seconds"]["total"] == pytest.approx(sum(p.seconds for p in run.phases.values()))


def with_threads(one: Job, threads: int) -> Job:
    train = one.config.train.model_copy(update={"threads": threads})
    return replace(one, config=one.config.model_copy(update={"train": train}))


def of_threads(made: Machine, threads: int) -> Machine:
    """With cores for two such ranks."""
    where = made.where.model_copy(update={"threads": threads, "cores": 2 * threads})
    return made.model_copy(update={"where": where})


def test_ranks_are_predicted_by_those_of_as_many_threads_alone() -> None:
    one, made = job("garg", workers=1), machine("garg")
    two = with_threads(one, 2)
    with pytest.raises(LookupError, match=r"of 1 thread were measured, and train.threads = 2"):
        predict_run(made, two)
    with pytest.raises(LookupError, match=r"of 2 threads were measured, and train.threads = 1"):
        predict_run(of_threads(made, 2), one)
    assert predict_run(of_threads(made, 2), two) == predict_run(made, one)


def measured_machine() -> Machine:
    return machine("garg", steps=(step("garg"), step("garg", 2))).model_copy(
        update={"averaging": averages(2)}
    )


def test_a_curve_ends_where_nothing_is_known() -> None:
    found = curve(measured_machine(), job("garg"), 8, 2)
    assert [point.job.ranks for point in found.points] == [1, 2]
    assert "4 ranks" in found.end
    assert [point.beyond for point in found.points] == [False, False]


def test_a_link_that_is_told_carries_a_curve_on() -> None:
    fast, slow = (replace(job("garg"), link=Link(1e-6, per_byte)) for per_byte in (1e-11, 1e-7))
    quick, lame = (curve(measured_machine(), one, 8, 2) for one in (fast, slow))
    assert [(point.job.ranks, point.job.nodes) for point in quick.points] == [(1, 1), (2, 1), (4, 2), (8, 4)]
    assert quick.points[-1].beyond
    assert quick.speed_up(quick.points[-1]).seconds > 4 > lame.speed_up(lame.points[-1]).seconds
    assert quick.fastest is quick.points[-1]
    assert lame.fastest is not lame.points[-1]
    assert lame.points[-1].share("average") > 0.5
    helps = dict(remedies(measured_machine(), lame.points[-1]))
    assert helps["a network ten times as fast"] > 2
    assert all(gain > 1 for gain in helps.values())


def test_a_network_that_was_measured_may_be_faster_too() -> None:
    told = averages(2)
    found = [{**fit, "layouts": [(2, 2)]} for fit in told["exchanges"][0]["fits"]]
    entries = [{**each, "fits": found, "shares": [(2, 2, 1.0)]} for each in told["exchanges"]]
    there = {**told, "layouts": [(2, 2)], "exchanges": entries}
    made = measured_machine().model_copy(update={"averaging": there})
    one = job("garg").on(2, 2, 1)
    slow, fast = (
        predict_round(made, each).phases["average"] for each in (one, replace(one, network_times=10.0))
    )
    asked = asked_of(one)
    exchange = averaging_estimate(there, asked).exchange.seconds
    adding = (
        there["adding"]["exact"]
        * FORMULAS[entries[0]["fits"][0]["formula"]](8 * one.state, Layout(2, 2)).added
    )
    assert slow.seconds - fast.seconds == pytest.approx(0.9 * (exchange - adding))
    slower = replace(
        one,
        config=one.config.model_copy(
            update={"averaging": one.config.averaging.model_copy(update={"period": 1})}
        ),
    )
    helps = dict(remedies(made, point_of(made, slower)))
    assert helps["a network ten times as fast"] > 1
    alone = dict(remedies(measured_machine(), point_of(measured_machine(), job("garg").on(2, 2, 2))))
    assert "a network ten times as fast" not in alone  # ranks of one node have none between them


def test_steps_that_sleep_are_foretold_by_what_they_take() -> None:
    seconds = tuple(np.random.default_rng(0).uniform(0.01, 0.03, 400).tolist())
    one = replace(job("garg", workers=4, period=3), slept=seconds).on(2, 4, 2)
    found = predict_round(measured_machine(), one)
    assert found.phases["compute"].seconds == pytest.approx(2 * 3 * np.mean(seconds))
    assert found.phases["data"].seconds == 0
    chance = np.random.default_rng(1).choice(seconds, (20000, 2, 6)).sum(axis=2)
    waited = (chance.max(axis=1) - chance.mean(axis=1)).mean()
    assert found.phases["wait"].seconds == pytest.approx(waited, rel=0.1)


@pytest.mark.parametrize("algorithm", ["ring", "recursive-doubling", "rabenseifner", "auto", "library"])
def test_over_a_link_the_named_algorithm_is_what_counts(algorithm: str) -> None:
    """A slow network: what a message's bytes take is all there is, and our best sends the fewest."""
    one = replace(job("garg", algorithm=algorithm), link=Link(1e-9, 1e-3)).on(8, 8, 2)
    own = ["ring", "recursive-doubling", "rabenseifner"]
    sent = {name: FORMULAS[name](8 * one.state, Layout(8, 4)).sent for name in own}
    wanted = 1e-3 * sent.get(algorithm, min(sent.values()))
    found = predict_round(measured_machine(), one).phases["average"].seconds
    assert found == pytest.approx(wanted, rel=1e-3)


def test_each_rung_of_the_ladder_adds_a_term() -> None:
    one = job("garg", 2, workers=2, period=4)
    found = rungs(measured_machine(), one)
    assert len(found) == 5
    *_, tree, averages, ours = found.values()
    full = predict_round(measured_machine(), one)
    assert ours == pytest.approx(full.whole.seconds)
    assert averages == pytest.approx(ours - full.phases["wait"].seconds)
    message = 1e-6 + 8 * 3 * one.parameters * 2e-10
    assert tree == pytest.approx(averages - full.phases["average"].seconds + 2 * message)


def test_the_printed_equations_are_summed_over_convolutions() -> None:
    made, one = measured_machine(), job("garg", 2, workers=2, period=4)
    images, t_c = 2 * 4 * 32, 1 / peak(made)
    wanted = 0.0
    for side in (28, 24):  # two convolutions of 8 filters, 5x5
        wanted += images * 8 * (t_c * 51 * side**2 / 2 + 2e-6 + 2e-10 * side * 4)
    assert printed(made, one) == pytest.approx(wanted)


def test_the_peak_is_the_core_s_or_the_fastest_pass_of_an_older_file() -> None:
    made = measured_machine()
    assert peak(made) == pytest.approx(1 / PER_FLOP, rel=0.2)
    assert peak(made.model_copy(update={"peak": 3e11})) == 3e11


def test_a_deadline_takes_the_fewest_ranks() -> None:
    found = curve(measured_machine(), replace(job("garg"), link=Link(1e-6, 1e-11)), 8, 2)
    one, two = (point.training.interval[1] for point in found.points[:2])
    assert found.within(one) is found.points[0]
    assert found.within((one + two) / 2) is found.points[1]
    assert found.within(1e-9) is None


def test_workers_and_images_limit_ranks() -> None:
    few = job("garg", workers=2)
    assert "averaging.workers" in curve(measured_machine(), few, 8, 2).end
    assert [point.job.workers for point in curve(measured_machine(), few, 2, 2).points] == [2, 2]


def test_a_plan_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "machine.json"
    write(measured_machine(), path)
    arguments = ["plan", "--set", f"prediction.machine={path}", "--set", "network.name=garg", "--most", "4"]
    arguments += ["--set", "network.dropout=0.25", "--deadline", "1e-9"]
    assert cli.main([*arguments, "--link", "25,10000"]) == 0
    said = capsys.readouterr().out
    rows = {words[0]: words for line in said.splitlines() if (words := line.split())}
    assert (rows["4"][1], rows["4"][-1]) == ("2", "extrapolated")
    assert rows["2"][-1] != "extrapolated"
    assert "beyond what was measured (2 ranks)" in said
    assert "nothing that can be predicted" in said
    for link in ("fast", "nan,nan", "1e999,5", "0,5"):
        assert cli.main([*arguments, "--link", link]) == 2
        assert "MICROSECONDS" in capsys.readouterr().err
    for wrong in (["--deadline", "nan"], ["--deadline", "-5"]):
        assert cli.main([*arguments, *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    for name in ("--ranks-per-node", "--most"):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*arguments, name, "0"])
        assert f"{name}: '0': must be a whole number, at least 1" in capsys.readouterr().err


def test_as_many_ranks_as_workers_are_a_point_of_their_own() -> None:
    linked = replace(job("garg", workers=3), link=Link(1e-6, 1e-10))
    found = curve(measured_machine(), linked, 64, 1)
    assert [point.job.ranks for point in found.points] == [1, 2, 3]
    assert found.end == "there are 3 workers (averaging.workers), and each rank wants one"
    assert not curve(measured_machine(), linked, 3, 1).end


def test_a_point_that_nothing_tells_of_is_left_out_and_said() -> None:
    made = measured_machine().model_copy(update={"averaging": averages(1)})
    found = curve(made, replace(job("garg"), link=Link(1e-6, 1e-10)), 8, 2)
    assert [point.job.ranks for point in found.points] == [1, 4, 8]
    assert list(found.gaps) == [2]
    assert "2 ranks on 1 host: measured were" in found.gaps[2]


@pytest.mark.parametrize(("most", "knee"), [(5, 5), (3, 3)])
def test_a_knee_goes_by_how_much_more_ranks_there_are(most: int, knee: int) -> None:
    found = curve(measured_machine(), replace(job("garg"), link=Link(1e-9, 1e-12)), most, 1)
    assert found.points[-1].job.ranks == most
    assert found.knee.job.ranks == knee


@pytest.mark.parametrize(("workers", "ranks"), [(1, 1), (3, 1), (3, 2), (3, 3), (7, 1), (7, 2), (7, 3)])
def test_a_job_counts_as_training_does(workers: int, ranks: int) -> None:
    one = job("garg", ranks, workers=workers)
    labels = data.read_labels(one.images.path, "train")
    sizes = [len(shard) for shard in data.deal(labels, workers, 0, 0)]
    assert one.shard == max(sizes)
    assert one.steps == math.ceil(max(sizes) / 32)
    spans = [data.contiguous(workers, ranks, rank) for rank in range(ranks)]
    assert one.hosted == Counter(last - first for first, last in spans)


def test_the_process_goes_through_what_it_knows() -> None:
    rng = np.random.default_rng(3)
    points = [((a, b, 1.0, 2.0), 0.5 * a + 0.2 * math.sin(b)) for a, b in rng.uniform(0, 4, (40, 2))]
    process = layers._Process(points)
    for features, value in points[::7]:
        assert math.log(process.at(features).seconds) == pytest.approx(value, abs=0.05)
    near, far = process.at(points[0][0]), process.at((30.0, 30.0, 1.0, 2.0))
    assert near.deviation / near.seconds < far.deviation / far.seconds


@pytest.mark.parametrize("what", ["parameters", "gradients"])
def test_the_first_turn_after_an_average_takes_longer(what: str) -> None:
    """By what was measured between steps, in place of what a turn takes more on one rank; further turns as there."""
    one, cooled, turn = machine("garg"), 5e-3, 2e-3
    sizes = {"hosted": 1, "ranks": 2, "values": 1000, "flops": 1e6}
    kept = what == "gradients"
    measured = InPlace(topology="allreduce", reduction="exact", kept=kept, **sizes, factor=1.0, cooled=cooled)
    steps = tuple(step.model_copy(update={"turn": turn}) for step in one.steps)
    before = one.model_copy(update={"steps": steps, "averaging": averages(2)})
    after = before.model_copy(update={"in_place": (measured,)})

    def computed(of: Machine, ranks: int, workers: int) -> float:
        settings = job("garg", ranks, workers=workers, what=what, period=1)
        return predict_round(of, settings).phases["compute"].seconds

    instead = turn if what == "parameters" else 0.0
    for workers in (2, 4):
        assert computed(after, 2, workers) - computed(before, 2, workers) == pytest.approx(cooled - instead)
    assert computed(after, 1, 2) == computed(before, 1, 2)


def test_averages_between_steps_are_as_those_of_their_kind() -> None:
    """States, which are copied, or gradients; of one worker a rank, or of several. Where one was not measured, as the other."""
    one = machine("garg").model_copy(update={"averaging": averages(2)})
    factors = {("parameters", 1): 2.0, ("gradients", 1): 3.0, ("parameters", 2): 5.0, ("gradients", 2): 7.0}

    def times_as_long(measured: tuple[InPlace, ...], what: str, hosted: int) -> float:
        settings = job("garg", 2, workers=2 * hosted, what=what, period=1)
        machines = one, one.model_copy(update={"in_place": measured})
        before, after = (predict_round(each, settings).phases["average"].seconds for each in machines)
        return after / before

    way = {"topology": "allreduce", "reduction": "exact", "ranks": 2, "values": 100_000, "flops": 1e8}
    measured = tuple(
        InPlace(**way, kept=what == "gradients", hosted=hosted, factor=factor)
        for (what, hosted), factor in factors.items()
    )
    for (what, hosted), factor in factors.items():
        assert times_as_long(measured, what, hosted) == pytest.approx(factor)
    assert times_as_long(measured[:2], "parameters", 2) == pytest.approx(2.0)


def test_ranks_wait_for_those_that_leave_an_average_last() -> None:
    """By what an average between steps took the last of them longer, if that is more than its exchange by itself tells."""
    told = averages(2)
    told["exchanges"][0]["shares"] = [(2, 1, 0.8)]
    one = machine("garg").model_copy(update={"averaging": told})
    way = {"topology": "allreduce", "reduction": "exact", "ranks": 2, "values": 100_000, "flops": 1e8}
    settings = job("garg", 2, workers=2, period=1)
    own = (1 / 0.8 - 1) * averaging_estimate(told, asked_of(settings)).exchange.seconds

    def waits(latest: float) -> float:
        measured = InPlace(**way, kept=False, hosted=1, factor=2.0, latest=latest)
        return (
            predict_round(one.model_copy(update={"in_place": (measured,)}), settings).phases["wait"].seconds
        )

    average = 2 * averaging_estimate(told, asked_of(settings)).whole.seconds
    assert waits(1.0) == pytest.approx(waits(1.0 + 0.9 * own / average))
    assert waits(1.5) - waits(1.0) == pytest.approx(0.5 * average - own)


@pytest.mark.parametrize("units", [16, 20, 32, 40, 48, 64, 80, 100, 112, 128, 300])
def test_registers_are_as_many_as_kernels_take(units: int) -> None:
    computed = sum(registers for _, registers in rows.strips(units)) * rows.VECTOR
    assert layers._registers(units, rows.VECTOR) == pytest.approx(math.log(units / computed))


def test_units_that_fill_registers_take_less_than_their_neighbours() -> None:
    def columns(what: str, units: int, lanes: int = 64) -> float:
        passed = layers.Operation("", what, "Dense", 1e5, 1e3, 1e4, 100, units)
        return layers._features(passed, lanes, 1, 16)[-2]

    assert columns(layers.TO_WEIGHTS, 100) < columns(layers.TO_WEIGHTS, 128) == 0
    assert columns(layers.TO_WEIGHTS, 10) == columns(layers.FORWARD, 100) == 0  # few units are rows


def test_layers_that_are_computed_in_registers_are_told_from_their_like() -> None:
    names = [f"chavan-{size}-{filters}-64" for size in (2, 4, 5, 6) for filters in (8, 32, 64)]
    measured = {(one.key, one.what): one for name in names for one in passes(name)}
    faster = [
        one.model_copy(update={"seconds": tuple(0.5 * each for each in one.seconds)}) if one.shallow else one
        for one in measured.values()
    ]
    known, told = (
        machine().model_copy(update={"operations": tuple(found)}) for found in (measured.values(), faster)
    )
    for name, times in (("chavan-5-20-64", 0.5), ("chavan-4-20-64", 1.0), ("chavan-3-20-64", 1.0)):
        for one in layers.operations(job(name)):
            if one.kind == "Convolution":
                assert one.shallow == (times == 0.5)
                before, after = (layers.seconds(each, one, job(name), 1).seconds for each in (known, told))
                assert after / before == pytest.approx(times, rel=0.03)
