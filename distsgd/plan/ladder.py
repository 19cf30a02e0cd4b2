"""A round's seconds by simpler and simpler models, so that it shows which term buys which error."""

import math
from statistics import median

from distsgd.cost.averaging import BYTES
from distsgd.cost.machine import Machine
from distsgd.layers import Convolution, Dense
from distsgd.plan.rounds import predict_round
from distsgd.plan.work import Job


def rungs(machine: Machine, job: Job) -> dict[str, float]:
    """Seconds of a round by each model, by name, from the simplest to ours. LookupError as in `predict_round`."""
    full = predict_round(machine, job)
    computed = sum(full.phases[name].seconds for name in ("data", "compute"))
    without_waiting = computed + full.phases["average"].seconds
    return {
        "S1, equations 5 to 8": printed(machine, job),
        "operations over the peak": _counted(machine, job) + _tree(machine, job),
        "measured steps, a textbook tree": computed + _tree(machine, job),
        "measured steps and averages": without_waiting,
        "and waiting: ours": full.whole.seconds,
    }


def printed(machine: Machine, job: Job) -> float:
    """Chavan and Kulkarni's T = t_c (2 m^2 + 1) N^2 K / p + 2 t_s K + t_b K S N (m - 1), summed over convolutions and images.

    N: side of the layer's image, m of its K filters, p: ranks, S: messages at once, one here, t_b: of a byte. It tells of images
    cut in parts that exchange their borders: neither channels nor the way back nor dense layers are in it. (5) and (6) are its
    terms, (8), the speed-up, is T on one rank over T.
    """
    t_c, (t_s, t_b) = 1 / peak(machine), _message(machine)
    images, total = job.workers * job.period * job.batch, 0.0
    for stage in job.stages:
        if isinstance(stage.layer, Convolution):
            side, size, filters = stage.shape[1], stage.layer.size, stage.layer.filters
            total += t_c * (2 * size**2 + 1) * side**2 * filters * images / job.ranks
            total += (2 * t_s * filters + t_b * filters * side * (size - 1)) * images
    return total


def peak(machine: Machine) -> float:
    """Floating-point operations a second that a core can do; of a file without it, those of the fastest pass that was measured."""
    rates = (
        o.flops * n / s for o in machine.operations for n, s in zip(o.lanes, o.seconds, strict=True) if s > 0
    )
    return machine.peak or max(rates)


def _counted(machine: Machine, job: Job) -> float:
    """A step is three times the operations forward (Qi et al. 2017, Paleo)."""
    forward = sum(
        stage.layer.flops(stage.shape) for stage in job.stages if isinstance(stage.layer, Convolution | Dense)
    )
    return max(job.hosted) * job.period * 3 * job.batch * forward / peak(machine)


def _tree(machine: Machine, job: Job) -> float:
    """All values to a master and back, in log2 p rounds each way: alpha + n beta for every one (S1's averaging)."""
    averaging = job.config.averaging
    values = job.parameters if averaging.what == "gradients" else job.state
    start, per_byte = _message(machine)
    return 2 * math.ceil(math.log2(job.ranks)) * (start + values * BYTES[averaging.reduction] * per_byte)


def _message(machine: Machine) -> tuple[float, float]:
    """Seconds to begin a message and of a byte: medians over the exchanges that were measured; nothing for one rank."""
    pieces = [fit["pieces"][-1] for entry in machine.averaging["exchanges"] for fit in entry["fits"]]
    if not pieces:
        return 0.0, 0.0
    return max(median(p["alpha"] for p in pieces), 0.0), max(median(p["beta"] for p in pieces), 0.0)
