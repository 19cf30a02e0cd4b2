"""A round's seconds, phase by phase: what ranks compute, what they wait for each other, and their average."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from distsgd.cost import Estimate
from distsgd.cost.algorithms import FORMULAS, Layout
from distsgd.cost.averaging import BYTES, Asked, Averaging, averaging_estimate, fastest
from distsgd.cost.curve import among, between
from distsgd.cost.estimate import last_of, total
from distsgd.cost.machine import Filling, Machine
from distsgd.plan.compute import Computing, computing
from distsgd.plan.measured import check_threads, nearest
from distsgd.plan.work import Job, Link, flops_of

GUESSED = 0.3
"""Relative deviation of an exchange over a network that was not measured."""
AGAIN = 0.15
"""Relative deviation of an average's median from run to run."""
KNOWN = {"allreduce": ("ring", "recursive-doubling", "rabenseifner"), "master": ("binomial",)}
"""What a library, or "auto", would do over a network that was not measured."""
ALONE = "allreduce", "library"
"""The topology and the algorithm by which an average of one rank is told."""
PHASES = ("data", "compute", "average", "wait")


@dataclass(frozen=True)
class Round:
    """Seconds of a round of full length, in the mean over ranks; they sum to what it takes."""

    phases: dict[str, Estimate]
    computing: Computing

    @property
    def whole(self) -> Estimate:
        """Its seconds."""
        return total(self.phases.values())


def predict_round(machine: Machine, job: Job, steps: int | None = None) -> Round:
    """A round of so many steps (not given: the period). LookupError where the machine file has nothing of the kind."""
    check_threads(machine, job.config.train.threads)
    found, filling = computing(machine, job), fill(machine, job)
    cores = machine.where.cores
    # A thread that has no core of its own takes as much from the step.
    if job.spares(cores) and job.prefetches(cores):
        filling = replace(filling, seconds=max(filling.seconds - found.step.seconds, 0.0))
    length = job.period if steps is None else steps
    first = _cooled(machine, job, found)
    compute = {hosted: _computed(found, job, hosted, length, first) for hosted in job.hosted}
    data = {hosted: filling.times(hosted * length) for hosted in job.hosted}
    busy = {hosted: compute[hosted].seconds + data[hosted].seconds for hosted in job.hosted}
    average, late = _averaged(machine, job)
    phases = {
        "data": _mean(data, job),
        "compute": _mean(compute, job),
        "average": average,
        "wait": _waiting(busy, found, length, job, late),
    }
    return Round(phases, found)


def _computed(found: Computing, job: Job, hosted: int, length: int, first: Estimate) -> Estimate:
    if job.config.averaging.what == "gradients":
        learning = replace(found.step, seconds=max(found.step.seconds - found.update.seconds, 0.0))
        return total([learning.times(hosted), found.update, first])
    if not hosted:
        return Estimate(0.0)
    return total([found.step.times(hosted * length), first, found.turn.times(hosted - 1)])


def _cooled(machine: Machine, job: Job, found: Computing) -> Estimate:
    """What a round's first turn takes more than its steps, as the average before leaves it other caches."""
    if job.slept:
        return Estimate(0.0)
    gradients, asked = job.config.averaging.what == "gradients", asked_of(job)
    alike = [one for one in machine.in_place if one.cooled and one.ranks > 1 and one.kept == gradients]
    if job.ranks == 1 or not alike:
        return Estimate(0.0) if gradients else found.turn
    places = [(one.values, 1.0) for one in alike]
    seconds = among(places, [one.cooled or 0.0 for one in alike], (asked.values, 1.0))
    return Estimate(seconds, 0.3 * seconds)


def fill(machine: Machine, job: Job) -> Estimate:
    """Making a step's batch: as the network's own steps showed it, or by its bytes."""
    if job.slept:
        return Estimate(0.0)
    same = nearest([step for step in machine.steps if step.network == job.network], job.together)
    if same and not job.windows:
        seconds = between(same[0].lanes, same[0].data, job.lanes)
        return Estimate(seconds, 0.1 * seconds)
    near = nearest([f for f in machine.filling if f.windows == job.windows], job.together)
    channels = job.stages[0].shape[0]
    best: Filling = min(near, key=lambda entry: abs(entry.channels - channels))
    seconds = best.start + best.per_byte * job.image_bytes * job.batch
    return Estimate(seconds, 0.2 * seconds)


def _mean(parts: Mapping[int, Estimate], job: Job) -> Estimate:
    """Over ranks, which err together, of what those with so many workers take."""
    shares = [(part, job.hosted[hosted] / job.ranks) for hosted, part in parts.items()]
    return Estimate(sum(p.seconds * share for p, share in shares), sum(p.deviation * s for p, s in shares))


def _averaged(machine: Machine, job: Job) -> tuple[Estimate, float]:
    """The average, in the mean over ranks; and the seconds by which the last rank leaves it after the mean one."""
    asked = asked_of(job)
    computed = flops_of(job.stages) * job.batch * job.period * asked.workers_per_rank
    if job.workers == 1:
        single = _single(machine, asked, computed)
        return Estimate(single, 0.2 * single), 0.0
    found = _exchanged(machine, asked, job.link)
    whole, late = found.whole, (found.latest - 1) * found.exchange.seconds
    if job.nodes == 1:
        factor, latest = _in_place(machine, asked, computed)
        whole = whole.times(factor)
        late = max(late, (latest - 1) * whole.seconds)
    return Estimate(whole.seconds, math.hypot(whole.deviation, AGAIN * whole.seconds)), late


def asked_of(job: Job) -> Asked:
    """The average of a round."""
    averaging = job.config.averaging
    values = job.parameters if averaging.what == "gradients" else job.state
    # Alone it makes no difference, and one was measured between steps.
    topology, algorithm = (averaging.topology, averaging.algorithm) if job.ranks > 1 else ALONE
    way = topology, algorithm, averaging.reduction
    kept = averaging.what == "gradients"
    times = job.network_times if job.nodes > 1 else 1.0
    return Asked(*way, values, job.ranks, job.nodes, job.workers / job.ranks, kept, times)


def _exchanged(machine: Machine, asked: Asked, link: Link | None) -> Averaging:
    """As measured; over a network that was not, by the formula of the algorithm, or of the best that we know."""
    try:
        auto = asked.algorithm == "auto"
        named = replace(asked, algorithm=fastest(machine.averaging, asked).algorithm) if auto else asked
        return averaging_estimate(machine.averaging, named)
    except LookupError:
        if link is None or asked.hosts == 1:
            raise
    there = replace(asked, ranks=max(ranks for ranks, _ in machine.averaging["layouts"]), hosts=1)
    layout, size = Layout(asked.ranks, asked.hosts), asked.values * BYTES[asked.reduction]
    names = (asked.algorithm,) if asked.algorithm in FORMULAS else KNOWN[asked.topology]
    terms = [FORMULAS[name](size, layout) for name in names]
    added = machine.averaging["adding"][asked.reduction]
    start, per_byte = link.start / asked.network_times, link.per_byte / asked.network_times
    seconds = min(t.startups * start + t.sent * per_byte + t.added * added for t in terms)
    here = averaging_estimate(machine.averaging, replace(there, algorithm="library"))
    return replace(
        here,
        exchange=Estimate(seconds, GUESSED * seconds),
        workers_per_rank=asked.workers_per_rank,
        latest=1.0,
    )


def _in_place(machine: Machine, asked: Asked, flops: float) -> tuple[float, float]:
    """How much longer an average takes between steps, which leave it the caches as they need them, than one after another; and
    how much longer the last rank's takes than all in the mean.
    """
    wanted = asked.topology, asked.reduction, asked.kept
    alike = [f for f in machine.in_place if (f.topology, f.reduction, f.kept) == wanted]
    alike = [f for f in alike if (f.ranks > 1) == (asked.ranks > 1)]
    if not alike:
        return 1.0, 1.0
    several = asked.workers_per_rank > 1  # whose sums are added, and not a state as it is
    alike = [f for f in alike if (f.hosted > 1) == several] or alike
    few = min((abs(math.log(f.ranks / asked.ranks)), f.ranks) for f in alike)[1]
    near = [f for f in alike if f.ranks == few]
    places, here = [(f.values, f.flops) for f in near], (asked.values, flops)
    return among(places, [f.factor for f in near], here), among(places, [f.latest for f in near], here)


def _single(machine: Machine, asked: Asked, flops: float) -> float:
    """The average of one worker alone."""
    alike = [one for one in machine.copying if one.kept == asked.kept]
    if not alike:
        return 0.0
    places = [(one.values, one.flops) for one in alike]
    of_value = among(places, [one.seconds / one.values for one in alike], (asked.values, flops))
    return asked.values * of_value


def _waiting(busy: Mapping[int, float], found: Computing, length: int, job: Job, late: float) -> Estimate:
    """Until the last rank is there: for those that have more to do, and for chance.

    Of P ranks whose seconds differ by a standard deviation s, the last needs s times `last_of(P)` more than their mean.
    """
    if job.ranks == 1:
        return Estimate(0.0)
    last = max(busy.values())
    mean = sum(seconds * job.hosted[hosted] for hosted, seconds in busy.items()) / job.ranks
    steps = length * max(job.hosted)
    spread = math.hypot(found.passing / math.sqrt(max(steps, 1)), found.lasting) * last
    most = last_of(job.ranks)
    waits = last - mean + most * spread + late
    return Estimate(waits, 0.3 * most * spread)
