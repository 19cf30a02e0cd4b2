"""By which algorithm sums over ranks are made: the one that the settings name, or the one predicted to be the fastest here."""

import json
from collections.abc import Mapping
from typing import Any

from distsgd.comm import Allreduce, Average, Exact, Fast, Master, Ranks, Single, hosts
from distsgd.cost.averaging import Asked, fastest
from distsgd.training.experiment import Experiment


def chosen(experiment: Experiment, ranks: Ranks, messages: Mapping[str, Any] | None) -> tuple[str, str]:
    """The algorithm's name, on every rank that of rank 0, and why where "auto" chose it, else "".

    messages: what `distsgd.machine.averaging.measure` gave, or None where nobody measured.
    """
    averaging = experiment.config.averaging
    if averaging.algorithm != "auto":
        return averaging.algorithm, ""
    hosted = hosts(ranks)
    content = json.dumps(_fastest(experiment, ranks.size, hosted, messages)).encode()
    name, why = json.loads(ranks.broadcast_bytes(content))
    return name, why


def averaging(
    experiment: Experiment, ranks: Ranks, algorithm: str, segments: list[int]
) -> tuple[Average, str]:
    """The experiment's average over all workers, of vectors of such segments, and what adds."""
    if experiment.workers == 1:
        return Single(segments), algorithm
    settings = experiment.config.averaging
    several = experiment.workers > ranks.size
    by_master = settings.topology == "master"
    topology = Master(ranks, algorithm) if by_master else Allreduce(ranks, algorithm, several)
    average = (Exact if settings.reduction == "exact" else Fast)(topology, segments)
    return average, topology.ran


def asked(experiment: Experiment, ranks: int, hosts: int) -> Asked:
    """What an averaging of this experiment is, on so many ranks."""
    averaging = experiment.config.averaging
    kept = averaging.what == "gradients"
    values = sum(experiment.segments) * (1 if kept else 1 + len(experiment.optimizer.powers))
    way = averaging.topology, averaging.algorithm, averaging.reduction
    return Asked(*way, values, ranks, hosts, experiment.workers / ranks, kept)


def _fastest(
    experiment: Experiment, ranks: int, hosts: int, messages: Mapping[str, Any] | None
) -> tuple[str, str]:
    if ranks == 1:
        return "library", ""
    if messages is None:
        return "library", (
            "averaging.algorithm = 'auto': nobody measured this machine (distsgd calibrate does), so it is 'library'"
        )
    try:
        choice = fastest(messages, asked(experiment, ranks, hosts))
    except LookupError as error:
        return "library", f"averaging.algorithm = 'auto': {error}, so it is 'library'"
    milliseconds = 1e3 * choice.seconds.seconds
    return choice.algorithm, (
        f"averaging.algorithm = 'auto': it is {choice.algorithm!r}, predicted to average in {milliseconds:.3g} ms"
    )
