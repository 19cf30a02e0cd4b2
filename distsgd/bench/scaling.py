"""What the runs of a scaling study came to, as scale.json holds it.

format, version, network, reduction; kind: "strong" (one experiment) or "weak" (work grows with the ranks); axis: "ranks" or
"nodes"; repeats asked for; seconds_are: which seconds these are; same_weights: whether all runs ended with the same bits (null: not
to be compared). points, by rising ranks, each with
- ranks, nodes (or null), workers, train_images (or null: all), oversubscribed: more ranks than cores (null: not known);
- seconds, total_seconds, images_per_second: {median, least, most} over its repeats;
- predicted_seconds and predicted_interval, [low, high], which nine of ten runs lie in: medians of what its repeats said, or null;
- gain over the first point that was measured: {times as many ranks, speed_up {median, least, most}, efficiency, serial_fraction
  (Karp and Flatt's; null for the first and in weak scaling)}, efficiency_range and serial_range: what least and most come to;
  predicted_gain: the same of predictions, least and most holding 90 % of runs;
- most_speed_up: what whole workers allow over one rank;
- runs: {folder, outcome: "finished", "failed" (with exit_code) or "missing"}, and of the finished seconds, seconds_by_phase,
  predicted_seconds, predicted_interval, images_per_second, test_accuracy, weights_sha256, machine.
A point without finished runs has seconds null and no gain.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distsgd import __version__
from distsgd.bench.sweep import Point, Repeat, Sweep
from distsgd.clock import TRAINING
from distsgd.config import InputError
from distsgd.cost import Estimate, scaling
from distsgd.cost.estimate import total
from distsgd.record import read_summary

FORMAT = "distsgd-scale-1"
MEANING = f"{' + '.join(TRAINING)}, mean over ranks: without start, compile, load, evaluate and checkpoint"

Seconds = Annotated[float, Field(ge=0, lt=1e9)]


class Measured(BaseModel):
    """Of a run's run.json what is compared."""

    model_config = ConfigDict(strict=True)

    outcome: str
    ranks: int
    workers: int
    images_per_second: float
    weights_sha256: str
    test_accuracy: float
    resumed: list[Any]
    seconds: dict[str, Seconds]
    predicted_seconds: dict[str, Seconds] | None = None
    predicted_interval: dict[str, Annotated[list[Seconds], Field(min_length=2, max_length=2)]] | None = None
    machine: dict[str, Any] = {}

    @property
    def training(self) -> float:
        """Seconds of training."""
        return math.fsum(self.seconds[phase] for phase in TRAINING)

    @property
    def predicted(self) -> Estimate | None:
        """Those that were predicted before it began, each phase erring by itself."""
        if not self.predicted_seconds or not self.predicted_interval:
            return None
        ends = {phase: ends[1] for phase, ends in self.predicted_interval.items()}
        said = {phase: seconds for phase, seconds in self.predicted_seconds.items() if phase in TRAINING}
        found = total(Estimate.within(said[phase], ends.get(phase, said[phase])) for phase in said)
        return found if found.seconds else None


def finished(run: Repeat) -> Measured | None:
    """What a run came to; None where it is not there, did not end, or was resumed, so that its seconds are not whole."""
    try:
        found = Measured.model_validate(read_summary(run.folder))
    except (InputError, ValidationError):
        return None
    whole = found.outcome == "finished" and not found.resumed and set(TRAINING) <= set(found.seconds)
    return found if whole and found.ranks == run.point.ranks and found.training > 0 else None


def collect(sweep: Sweep, codes: Mapping[Path, int]) -> dict[str, Any]:
    """All that scale.json holds. `codes`: exit codes of the runs that failed, by folder."""
    found = {run.folder: finished(run) for point in sweep.points for run in sweep.of(point)}
    points = [_point(sweep, point, found, codes) for point in sweep.points]
    _compare(sweep, points)
    return {
        "format": FORMAT,
        "version": __version__,
        "kind": sweep.kind,
        "axis": "ranks" if sweep.points[0].nodes is None else "nodes",
        "network": sweep.points[0].settings.network.name,
        "reduction": sweep.points[0].settings.averaging.reduction,
        "repeats": sweep.repeats,
        "seconds_are": MEANING,
        "same_weights": _same_weights(sweep, list(found.values())),
        "points": points,
    }


def _same_weights(sweep: Sweep, runs: Sequence[Measured | None]) -> bool | None:
    """Whether all runs of the same experiment ended with the same bits; None where there are no two to compare."""
    if sweep.kind == "weak":
        return None
    hashes = [run.weights_sha256 for run in runs if run]
    return len(set(hashes)) == 1 if len(hashes) > 1 else None


def _point(
    sweep: Sweep, point: Point, found: Mapping[Path, Measured | None], codes: Mapping[Path, int]
) -> dict[str, Any]:
    repeats = sweep.of(point)
    runs = [run for repeat in repeats if (run := found[repeat.folder])]
    crowded = [run.machine["oversubscribed"] for run in runs if "oversubscribed" in run.machine]
    about = {
        "ranks": point.ranks,
        "nodes": point.nodes,
        "workers": point.settings.averaging.workers,
        "train_images": point.settings.data.train_images,
        "oversubscribed": any(crowded) if crowded else None,
        "most_speed_up": scaling.dealt(point.settings.averaging.workers or point.ranks, point.ranks),
        "runs": [_run(repeat, found[repeat.folder], codes) for repeat in repeats],
    }
    if not runs:
        return {**about, "seconds": None, **_prediction(None)}
    return {
        **about,
        "seconds": asdict(scaling.spread([run.training for run in runs])),
        "total_seconds": asdict(scaling.spread([run.seconds["total"] for run in runs])),
        "images_per_second": asdict(scaling.spread([run.images_per_second for run in runs])),
        **_prediction(_middle([run.predicted for run in runs if run.predicted])),
    }


def _middle(said: Sequence[Estimate]) -> Estimate | None:
    """Repeats are predicted alike, unless the machine was measured anew between them."""
    if not said:
        return None
    seconds, deviations = zip(*((one.seconds, one.deviation) for one in said), strict=True)
    return Estimate(statistics.median(seconds), statistics.median(deviations))


def _prediction(said: Estimate | None) -> dict[str, Any]:
    if said is None:
        return {"predicted_seconds": None, "predicted_interval": None}
    return {"predicted_seconds": said.seconds, "predicted_interval": list(said.interval)}


def _run(repeat: Repeat, found: Measured | None, codes: Mapping[Path, int]) -> dict[str, Any]:
    about: dict[str, Any] = {"folder": f"{repeat.point.name}/{repeat.folder.name}"}
    if found is None:
        code = codes.get(repeat.folder)
        return {**about, "outcome": "missing" if code is None else "failed", "exit_code": code}
    return {
        **about,
        "outcome": "finished",
        "seconds": found.training,
        "seconds_by_phase": found.seconds,
        **_prediction(found.predicted),
        "images_per_second": found.images_per_second,
        "test_accuracy": found.test_accuracy,
        "weights_sha256": found.weights_sha256,
        "machine": found.machine,
    }


def _compare(sweep: Sweep, points: Sequence[dict[str, Any]]) -> None:
    """Give every point what it gains over the first that has been measured, and what was predicted that it would."""
    gain = scaling.strong if sweep.kind == "strong" else scaling.weak
    known = [point for point in points if point["seconds"]]
    for point in known:
        base, times = known[0], point["ranks"] / known[0]["ranks"]
        faster = scaling.measured(base["seconds"]["median"], scaling.Spread(**point["seconds"]))
        point["gain"] = asdict(gain(times, faster))
        if base["predicted_seconds"] and point["predicted_seconds"]:
            point["predicted_gain"] = asdict(gain(times, _foreseen(base, point)))


def _foreseen(base: dict[str, Any], point: dict[str, Any]) -> scaling.Spread:
    before, after = _estimate(base), _estimate(point)
    return scaling.ratio(before, after) if point is not base else scaling.Spread(1.0, 1.0, 1.0)


def _estimate(point: dict[str, Any]) -> Estimate:
    return Estimate.within(point["predicted_seconds"], point["predicted_interval"][1])
