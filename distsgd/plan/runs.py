"""A run's seconds, phase by phase, before it begins: the keys are those of `clock.PHASES`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distsgd.clock import PHASES
from distsgd.cost import Estimate
from distsgd.cost.estimate import total
from distsgd.cost.machine import Machine
from distsgd.kernels.vector import LANES
from distsgd.plan import layers
from distsgd.plan.compute import whole
from distsgd.plan.rounds import Round, fill, predict_round
from distsgd.plan.work import Job

ROUGH = 0.3
"""Relative deviation of what is done once: files, images, the start."""


@dataclass(frozen=True)
class Run:
    """A run's phases, in the mean over ranks, and its rounds of full length."""

    phases: Mapping[str, Estimate]
    round: Round

    @property
    def whole(self) -> Estimate:
        """From the start of its process to the end."""
        return total(self.phases.values())

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json has of it: seconds and intervals by phase and in all, and those of a round."""
        parts = {"total": self.whole, **self.phases}
        return {
            "predicted_seconds": {name: part.seconds for name, part in parts.items()},
            "predicted_interval": {name: list(part.interval) for name, part in parts.items()},
            "predicted_round_seconds": self.round.whole.seconds,
            "predicted_round_interval": list(self.round.whole.interval),
        }


def predict_run(machine: Machine, job: Job, epochs: float | None = None) -> Run:
    """So many epochs, or parts of one; not given: the config's. LookupError where the machine file has nothing of the kind."""
    count = job.config.train.epochs if epochs is None else epochs
    full = predict_round(machine, job)
    rounds = _rounds(machine, job, full)
    once = {name: _rough(seconds) for name, seconds in _once(machine, job, count).items()}
    phases = {**once, **{name: part.times(count) for name, part in rounds.items()}}
    phases["evaluate"] = _evaluate(machine, job).times(math.ceil(count))
    phases["checkpoint"] = total(
        [phases["checkpoint"], _checkpoints(machine, job, total(phases.values()).seconds)]
    )
    return Run({name: phases[name] for name in PHASES}, full)


def _rounds(machine: Machine, job: Job, full: Round) -> dict[str, Estimate]:
    """Those of an epoch; the last may be short."""
    whole, rest = divmod(job.steps, job.period)
    parts = [{name: part.times(whole) for name, part in full.phases.items()}]
    if rest:
        parts.append(dict(predict_round(machine, job, rest).phases))
    return {name: total(part[name] for part in parts) for name in full.phases}


def _rough(seconds: float) -> Estimate:
    return Estimate(seconds, ROUGH * seconds)


def _once(machine: Machine, job: Job, epochs: float) -> dict[str, float]:
    """Starting; reading (all training images, to keep its own) and dealing (O(images), on every rank), both at every new deal;
    ordering (its own, every epoch); writing at the end. Files of earlier versions have no "scan".
    """
    costs, images = machine.once, job.images
    size = images.height * images.width * images.channels
    own = -(-job.workers // job.ranks) * job.shard
    test = images.counts["test"] / job.ranks
    every, later = job.config.data.reshuffle, math.ceil(epochs) - 1
    deals = 1 + (later // every if every else 0)
    scan, read = costs.get("scan", 0.0), costs["read"]
    reading = deals * (scan * job.train_images + read * own) + (scan + read) * test
    saved = 4 * (job.parameters + job.state)
    return {
        "start": costs["start"],
        "compile": costs["compile"],
        "load": costs["open"] + size * reading,
        "shuffle": costs["deal"] * (deals * job.train_images + own * later / 2),
        "checkpoint": 5 * costs["file"] + costs["byte"] * saved,
    }


def _checkpoints(machine: Machine, job: Job, seconds: float) -> Estimate:
    """Those before the end of a run of so many seconds."""
    every, costs = job.config.checkpoint.every, machine.once
    count = int(seconds / every) if every else 0
    return _rough(count * (costs["file"] + costs["byte"] * 4 * job.state))


def _evaluate(machine: Machine, job: Job) -> Estimate:
    """A look at the test images, or those held out: forward only."""
    held = job.config.data.validation or 0.0
    count = job.images.counts.get("validation", 0) or held * job.train_images / (1 - held)
    images = (count or job.images.counts["test"]) / job.ranks
    forward = [o for o in layers.operations(job) if o.what in (layers.FORWARD, layers.LOSS)]
    step = sum(layers.seconds(machine, operation, job, job.together).seconds for operation in forward)
    step = whole(machine, job) * step + fill(machine, job).seconds
    return _rough(math.ceil(images / (-(-job.lanes // LANES) * LANES)) * step)
