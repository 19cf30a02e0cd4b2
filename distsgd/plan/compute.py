"""Seconds of a worker's step: from the same network's steps, or put together from those of its layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev

from distsgd.cost import Estimate
from distsgd.cost.curve import among, between
from distsgd.cost.machine import Machine, Step
from distsgd.plan import layers
from distsgd.plan.measured import nearest
from distsgd.plan.work import STATES, Job

READ = 0.02
"""Relative deviation of what is read off between sizes that were measured."""
COMPOSED = 0.05
"""Relative deviation of what is put together from layers that were measured in other networks."""


@dataclass(frozen=True)
class Computing:
    """What is known of a network's steps: `step` is all of one, and `update` the part of it that changes parameters."""

    step: Estimate
    update: Estimate
    turn: Estimate
    passing: float
    lasting: float
    known: bool
    """Whether the network itself was measured."""


def computing(machine: Machine, job: Job) -> Computing:
    """What a worker's step takes where as many ranks of a node compute as the job has there."""
    if job.slept:
        return _slept(job.slept)
    update = layers.update(machine, job, job.together)
    same = nearest([step for step in machine.steps if step.network == job.network], job.together)
    if not same:
        return _composed(machine, job, update)
    step = same[0]
    seconds = between(step.lanes, step.compute, job.lanes)
    if step.optimizer != job.config.optimizer.name:
        seconds += update.seconds - layers.update(machine, job, job.together, step.optimizer).seconds
    deviation = math.hypot(step.deviation, 0.0 if job.lanes in step.lanes else READ)
    return _told(job, step, Estimate(seconds, deviation * seconds), update, True)


def _slept(seconds: Sequence[float]) -> Computing:
    """Steps that sleep: draws of their seconds are independent, and no rank differs from another for good."""
    step, nothing = fmean(seconds), Estimate(0.0)
    passing = pstdev(seconds)
    known = Estimate(step, passing / math.sqrt(len(seconds)))
    return Computing(known, nothing, nothing, passing / step if step else 0.0, 0.0, True)


def _composed(machine: Machine, job: Job, update: Estimate) -> Computing:
    """A network that was not measured: its layers one by one, and what a step takes more than they."""
    parts = [layers.seconds(machine, operation, job, job.together) for operation in layers.operations(job)]
    seconds = whole(machine, job) * (sum(part.seconds for part in parts) + update.seconds)
    like = _like(nearest(machine.steps, job.together), job.parameters)
    deviation = math.hypot(COMPOSED * seconds, like.deviation * seconds, *(part.deviation for part in parts))
    return _told(job, like, Estimate(seconds, deviation), update, False)


def whole(machine: Machine, job: Job) -> float:
    """How many times as long a step takes as its operations together: on batches as large, in the middle one of the networks.

    Networks show no order in that, and of one its passes or its steps may have been disturbed.
    """
    near = nearest(machine.wholes, job.together)
    sizes = sorted({one.lanes for one in near})
    middle = [median(one.factor for one in near if one.lanes == lanes) for lanes in sizes]
    return among([(lanes, 1.0) for lanes in sizes], middle, (job.lanes, 1.0))


def _like(steps: Sequence[Step], parameters: int) -> Step:
    """The network with the nearest number of parameters."""
    return min(steps, key=lambda step: abs(math.log(step.parameters / parameters)))


def _told(job: Job, like: Step, step: Estimate, update: Estimate, known: bool) -> Computing:
    turn = like.turn * job.state / (like.parameters * STATES[like.optimizer])  # it copies the state
    return Computing(step, update, Estimate(turn, 0.3 * turn), like.passing, like.lasting, known)
