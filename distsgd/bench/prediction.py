"""How well a machine file predicts rounds: configurations that calibration never saw, run and scored."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.bench.draws import UNSEEN, Draw, draw
from distsgd.bench.output import check_file
from distsgd.bench.visits import Configured, Rounds, Visits
from distsgd.comm import Alone, Ranks
from distsgd.config import Config, InputError
from distsgd.cost.machine import Machine
from distsgd.machine import where
from distsgd.machine.calibrate import sleep_until
from distsgd.machine.job import job_of
from distsgd.machine.networks import NETWORKS, images_of
from distsgd.machine.rounds import ROUND, made_up, timed_rounds
from distsgd.plan.ladder import rungs
from distsgd.plan.rounds import predict_round
from distsgd.record import as_json, write_whole
from distsgd.training import Experiment, check

Predicted = tuple[float, tuple[float, float], dict[str, float], dict[str, float]]
SECONDS = 0.1
"""For which a configuration is run, each time."""
LARGE_SHARE = 0.05
"""Of a round, from which on a phase is scored by itself."""


@dataclass(frozen=True)
class Scored:
    """A configuration: seconds of a round as predicted and as measured (medians over rounds), in all and by phase."""

    draw: Draw
    predicted: float
    interval: tuple[float, float]
    measured: float
    predicted_phases: Mapping[str, float]
    measured_phases: Mapping[str, float]
    ladder: Mapping[str, float]
    """Predicted by simpler models."""
    repeated: float | None = None
    """The same, measured a second time."""
    repeated_phases: Mapping[str, float] | None = None

    @property
    def error(self) -> float:
        """Relative."""
        return self.predicted / self.measured - 1


def prediction(
    ranks: Ranks,
    machine: Machine,
    seed: int,
    count: int,
    json_path: Path | None,
    say: Callable[[str], None],
) -> None:
    """Predict and run `count` configurations, and a fourth as many of unseen networks; say a table, write the same to `json_path`.

    All ranks call this. InputError before anything is run.
    """
    check_file("--json", json_path)
    draws = draw(seed, count, NETWORKS, UNSEEN, ranks.size, machine.where.threads)
    kinds = dict.fromkeys((images_of(each.network), each.ranks) for each in draws)
    with ExitStack() as stack:
        files = {kind: stack.enter_context(made_up(*kind)) for kind in kinds}
        paths = [files[images_of(each.network), each.ranks] for each in draws]
        predicted = [_predicted(machine, each, paths[number], ranks) for number, each in enumerate(draws)]
        repeats = np.random.default_rng(seed).permutation(len(draws))[: len(draws) // 3].tolist()
        near = where.comparable(machine.where, where.where(ranks, machine.where.threads))
        near = json.loads(ranks.broadcast_bytes(json.dumps(near).encode()))
        first, again = Visits(ranks, near, say), Visits(ranks, near, say)
        configured = {
            number: Configured(partial(_measured, one, paths[number], ranks), one.ranks == ranks.size)
            for number, one in enumerate(draws)
        }
        first.make("runs", configured)
        again.make("runs again", {number: configured[number] for number in repeats})
    if ranks.rank == 0:
        scored, all_scored = (
            [_scored(one, predicted[n], once[n], twice.get(n)) for n, one in enumerate(draws)]
            for once, twice in (
                (_medians(first.that_count()), _medians(again.there)),  # of another place is no repetition
                (_medians(first.all()), _medians(again.all())),
            )
        )
        wherever = summarized(all_scored)
        visits = {"first": first.counts(), "again": again.counts()}
        summary = {**summarized(scored), "visits": visits, "wherever_cores_lay": wherever}
        for line in table(summary):
            say(line)
        if json_path:
            write_whole(json_path, as_json({**summary, "runs": [asdict(each) for each in scored]}))


def _predicted(machine: Machine, drawn: Draw, path: Path, ranks: Ranks) -> Predicted:
    job = job_of(_experiment(drawn, path), drawn.ranks, min(drawn.ranks, ranks.on_node()[1]))
    try:
        found, ladder = predict_round(machine, job), rungs(machine, job)
    except LookupError as error:
        raise InputError(
            f"this machine file can not predict {drawn}: {error}; calibrate on {ranks.size} ranks"
        ) from None
    phases = {name: part.seconds for name, part in found.phases.items()}
    return found.whole.seconds, found.whole.interval, phases, ladder


def _experiment(drawn: Draw, path: Path) -> Experiment:
    return check(Config.model_validate({**drawn.settings, "data": {"path": str(path)}}), drawn.ranks, [])


def _measured(drawn: Draw, path: Path, ranks: Ranks) -> Rounds:
    """On rank 0; ranks that have no part sleep meanwhile."""
    ranks.barrier()
    part = _part(drawn.ranks, ranks)
    found: Rounds = {}
    if part is None:
        sleep_until(ranks.hears)
        return found
    rounds = timed_rounds(_experiment(drawn, path), part, SECONDS)
    own = json.dumps({name: seconds.tolist() for name, seconds in rounds.items()})
    of_ranks = [json.loads(each) for each in part.gather_bytes(own.encode())]
    if of_ranks:
        found = {name: np.mean([rank[name] for rank in of_ranks], axis=0) for name in ROUND}
    if part.size < ranks.size:
        ranks.shout()
    if part is not ranks and part.size > 1:
        part.close()
    return found


def _medians(visits: Mapping[int, Sequence[Rounds]]) -> dict[int, dict[str, float]]:
    """By a configuration's number, over the rounds of all its visits: of each phase, and of the whole round."""
    return {number: _median_round(found) for number, found in visits.items()}


def _median_round(visits: Sequence[Rounds]) -> dict[str, float]:
    rounds = {name: np.concatenate([visit[name] for visit in visits]) for name in ROUND}
    rounds["round"] = np.sum(list(rounds.values()), axis=0)
    return {name: float(np.median(seconds)) for name, seconds in rounds.items()}


def _part(count: int, ranks: Ranks) -> Ranks | None:
    """The ranks that run a configuration, None on the others; all call this."""
    if count == 1:
        return Alone() if ranks.rank == 0 else None
    return ranks if count == ranks.size else ranks.first(count)


def _scored(
    drawn: Draw, predicted: Predicted, run: Mapping[str, float], again: Mapping[str, float] | None
) -> Scored:
    seconds, interval, phases, ladder = predicted
    measured = {name: run[name] for name in ROUND}
    one = Scored(drawn, seconds, interval, run["round"], phases, measured, ladder)
    if not again:
        return one
    return replace(one, repeated=again["round"], repeated_phases={name: again[name] for name in ROUND})


def summarized(scored: Sequence[Scored]) -> dict[str, Any]:
    """Errors (relative, absolute) of known networks' rounds and of unseen ones'.

    And the noise floor: how wrong a run is that is predicted by itself, measured at another time.
    """
    known = [each for each in scored if not each.draw.unseen]
    unseen = [each for each in scored if each.draw.unseen]
    again = [each.repeated / each.measured - 1 for each in scored if each.repeated]
    floor = {"noise_floor": float(np.median(np.abs(again))), "again": _quantiles(again)} if again else {}
    return {
        "configurations": len(scored),
        "round_time": {**_errors(known), "noise_floor": None, **floor},
        "unseen_network": _errors(unseen) if unseen else {},
        "phases": {name: _phase(known, name) for name in ROUND},
        "ladder": {
            name: _median([abs(e.ladder[name] / e.measured - 1) for e in known]) for name in known[0].ladder
        },
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _order(seconds: np.ndarray) -> float:
    """Spearman's correlation of ranks between predicted and measured, (configurations, 2)."""
    if len(seconds) < 2:
        return 1.0
    return float(np.array(np.corrcoef(seconds.argsort(axis=0).argsort(axis=0).T))[0, 1])


def _quantiles(relative: Sequence[float]) -> dict[str, float]:
    """Of relative errors: `bias` with their signs, all else without."""
    errors = np.abs(relative)
    return {
        "median": float(np.median(errors)),
        "mean": float(errors.mean()),
        "p90": float(np.quantile(errors, 0.9)),
        "p95": float(np.quantile(errors, 0.95)),
        "bias": float(np.median(relative)),
    }


def _errors(scored: Sequence[Scored]) -> dict[str, float]:
    inside = [each.interval[0] <= each.measured <= each.interval[1] for each in scored]
    seconds = np.array([[each.predicted, each.measured] for each in scored])
    return {
        **_quantiles([each.error for each in scored]),
        "coverage": float(np.mean(inside)),
        "rank_correlation": _order(seconds),
    }


def _phase(scored: Sequence[Scored], name: str) -> dict[str, float | None]:
    """Of the rounds in which the phase is more than a small part: of predictions, and of the same run again."""
    large = [each for each in scored if each.measured_phases[name] > LARGE_SHARE * each.measured]
    errors = [abs(each.predicted_phases[name] / each.measured_phases[name] - 1) for each in large]
    again = [
        abs(each.repeated_phases[name] / each.measured_phases[name] - 1)
        for each in large
        if each.repeated_phases
    ]
    return {"rounds": len(large), "median": _median(errors), "noise_floor": _median(again)}


def table(summary: Mapping[str, Any]) -> Iterator[str]:
    """The summary as lines."""
    known, unseen = summary["round_time"], summary["unseen_network"]
    count = summary["configurations"]
    yield f"{count} configuration{'s' * (count > 1)}; relative errors of a round's predicted seconds"
    yield f"{'':22}{'median':>8}{'mean':>8}{'90 %':>8}{'95 %':>8}{'bias':>8}{'inside 90 %':>13}{'rank corr.':>12}"
    yield from _rows(known, unseen)
    if known.get("again"):
        yield f"{'the same run again':22}{_line(known['again'])}"
    for name, error in summary["ladder"].items():
        yield f"{name:34}{100 * error:>7.1f}%"
    for name, phase in summary["phases"].items():
        if phase["rounds"]:
            floor = phase["noise_floor"]
            again = "" if floor is None else f"; the same run again {100 * floor:.1f}%"
            rounds = f"in {phase['rounds']} configurations{again}"
            yield f"{name + ', where it counts':22}{100 * phase['median']:>7.1f}%  {rounds}"
    if summary.get("visits", {}).get("first", {}).get("elsewhere"):
        yield from _wherever(summary)


def _wherever(summary: Mapping[str, Any]) -> Iterator[str]:
    """What was left out, and what errors are with it."""
    visits, every = summary["visits"]["first"], summary["wherever_cores_lay"]
    yield (
        f"of {visits['all']} visits {visits['elsewhere']} are left out, as cores lay elsewhere than at calibration; "
        f"they count for {visits['never_there']} configurations, which have no others. With all of them:"
    )
    yield from _rows(every["round_time"], every["unseen_network"])


def _rows(known: Mapping[str, float], unseen: Mapping[str, float]) -> Iterator[str]:
    for name, found in (("measured networks", known), ("unseen networks", unseen)):
        if found:
            yield f"{name:22}{_line(found)}{100 * found['coverage']:>12.0f}%{found['rank_correlation']:>12.4f}"


def _line(found: Mapping[str, float]) -> str:
    return "".join(f"{100 * found[name]:>7.1f}%" for name in ("median", "mean", "p90", "p95", "bias"))
