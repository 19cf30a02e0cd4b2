"""What an averaging costs, from constants that `distsgd.machine.averaging` measured: conversion and exchange apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, pstdev
from typing import Any

from distsgd.cost.algorithms import FORMULAS, OURS, Layout, ended
from distsgd.cost.estimate import Estimate, total
from distsgd.cost.fit import Fit

BYTES = {"exact": 8, "fast": 4}
"""Of a value on its way, by reduction."""
LAUNCHES = 0.02
"""The least relative deviation: between launches, which one calibration does not see."""
GUESSED = 0.3
"""The least where a library's own choice on other ranks is guessed from what it chose on some."""
ANOTHER = 0.1
"""The least of an algorithm that was not measured, told from what messages took in another one."""
FURTHER = 0.5
"""The relative deviation grows by this part of it with every doubling of ranks or bytes beyond what was measured."""


@dataclass(frozen=True)
class Asked:
    """One averaging: how it is done, how many values, on what, and how many workers' states a rank adds.

    kept: the average stays where it is made, as a gradient's does, and nothing is copied. network_times: how many times as fast
    messages are as those that were measured.
    """

    topology: str
    algorithm: str
    reduction: str
    values: int
    ranks: int
    hosts: int
    workers_per_rank: float = 1.0
    kept: bool = False
    network_times: float = 1.0


@dataclass(frozen=True)
class Averaging:
    """Seconds of one averaging, in the mean over ranks, as the phase `average` shows them.

    begin, add, finish: of one call each; a rank adds its first worker's state (`add`) and each further one (`again`). several: what
    it takes longer where a rank has more than one. exchange: from when all ranks are there. latest: by what factor the exchange of
    the last rank to end is longer: others wait for it.
    """

    begin: Estimate
    add: Estimate
    again: Estimate
    exchange: Estimate
    finish: Estimate
    several: Estimate
    workers_per_rank: float = 1.0
    latest: float = 1.0

    @property
    def conversion(self) -> Estimate:
        """All but the exchange."""
        more = max(self.workers_per_rank - 1, 0.0)
        further = [self.again.times(more), self.several.times(min(more, 1.0))]
        return total([self.begin, self.add, *further, self.finish])

    @property
    def whole(self) -> Estimate:
        """Everything."""
        return total([self.conversion, self.exchange])


def averaging_estimate(messages: Mapping[str, Any], asked: Asked) -> Averaging:
    """Predict one averaging. LookupError where nothing like it was measured: it says what was."""
    entries = _entries(messages, asked)
    entry = entries[0]
    calls = {name: name for name in ("begin", "add", "again", "finish", "several")}
    calls["finish"] = "kept" if asked.kept else "finish"
    conversion = {name: _conversion(entry["conversion"][call], asked.values) for name, call in calls.items()}
    exchange, last = _exchanged(messages, entries, asked)
    latest = last / exchange.seconds if exchange.seconds else 1.0
    return Averaging(exchange=exchange, workers_per_rank=asked.workers_per_rank, latest=latest, **conversion)


@dataclass(frozen=True)
class Choice:
    """An algorithm, and what one averaging with it takes."""

    topology: str
    algorithm: str
    seconds: Estimate


def choices(messages: Mapping[str, Any], asked: Asked) -> list[Choice]:
    """All topologies and algorithms that were measured, the fastest first; `asked` tells all else."""
    found = []
    for entry in messages["exchanges"]:
        if entry["reduction"] != asked.reduction:
            continue
        one = replace(asked, topology=entry["topology"], algorithm=entry["algorithm"])
        try:
            exchange = averaging_estimate(messages, one)
        except LookupError:
            continue
        late = exchange.exchange.times(exchange.latest)  # what a round waits for
        found.append(Choice(one.topology, one.algorithm, total([exchange.conversion, late])))
    return sorted(found, key=lambda choice: choice.seconds.seconds)


def fastest(messages: Mapping[str, Any], asked: Asked) -> Choice:
    """The fastest algorithm of the topology that is asked for. LookupError where none was measured."""
    for choice in choices(messages, asked):
        if choice.topology == asked.topology:
            return choice
    raise LookupError(f"no {asked.topology} was measured on ranks like these")


def advice(messages: Mapping[str, Any], asked: Asked) -> str | None:
    """What would average faster and by how much, in a line; None where nothing is, by a tenth and for sure."""
    mine = next(
        (
            c
            for c in choices(messages, asked)
            if (c.topology, c.algorithm) == (asked.topology, asked.algorithm)
        ),
        None,
    )
    best = next(iter(choices(messages, asked)), None)
    if not mine or not best or best.seconds.interval[1] > 0.9 * mine.seconds.interval[1]:
        return None
    if best.seconds.seconds > 0.9 * mine.seconds.seconds:
        return None
    way = f"averaging.algorithm={best.algorithm}"
    way += f" averaging.topology={best.topology}" * (best.topology != asked.topology)
    times = mine.seconds.seconds / best.seconds.seconds
    return (
        f"an average takes {_shown(mine.seconds)}; with {way} it would take {_shown(best.seconds)}, "
        f"{times:.1f} times as fast"
    )


def _shown(estimate: Estimate) -> str:
    return f"{1e3 * estimate.seconds:.3g} ± {1e3 * estimate.deviation:.1g} ms"


def _entries(messages: Mapping[str, Any], asked: Asked) -> list[Mapping[str, Any]]:
    """What was measured of that; or else, for an algorithm of ours, the others told as if they were it."""
    wanted = asked.topology, asked.algorithm, asked.reduction
    for entry in messages["exchanges"]:
        if (entry["topology"], entry["algorithm"], entry["reduction"]) == wanted:
            return [dict(entry)]
    known = [entry for entry in messages["exchanges"] if entry["reduction"] == asked.reduction]
    known = [entry for entry in known if entry["algorithm"] in OURS]
    if asked.algorithm not in OURS or not known:
        raise LookupError(f"{', '.join(wanted)} was not measured")
    return [_as_another(asked.algorithm, entry) for entry in known]


def _exchanged(
    messages: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], asked: Asked
) -> tuple[Estimate, float]:
    """Seconds in the mean over ranks, and of the last rank: of several entries that tell of it the middle, as unsure as they are
    apart. LookupError where none does.
    """
    found: list[tuple[Estimate, float]] = []
    for entry in entries:
        try:
            found.append((_exchange(messages, entry, asked), _share(entry, Layout(asked.ranks, asked.hosts))))
        except LookupError:
            if len(entries) == 1:
                raise
    if not found:
        raise LookupError(f"{asked.algorithm} was not measured, and nothing like it on {asked.ranks} ranks")
    each = [last.times(share) for last, share in found]
    apart = pstdev(one.seconds for one in each)
    deviation = math.hypot(fmean(one.deviation for one in each), apart)
    seconds = median(one.seconds for one in each)
    return Estimate(seconds, deviation), median(last.seconds for last, _ in found)


def _as_another(algorithm: str, other: Mapping[str, Any]) -> Mapping[str, Any]:
    """An algorithm that was not measured: its own formula, with what messages took in another one."""
    name, fits = other["algorithm"], [fit for fit in other["fits"] if fit["formula"] == other["algorithm"]]
    shares = [
        (
            ranks,
            hosts,
            share * ended(algorithm, Layout(ranks, hosts)) / ended(name, Layout(ranks, hosts)),
        )
        for ranks, hosts, share in other["shares"]
    ]
    fits = [{**fit, "formula": algorithm, "spread": max(fit["spread"], ANOTHER)} for fit in fits]
    return {**other, "algorithm": algorithm, "shares": shares, "fits": fits}


def _conversion(content: dict[str, Any], values: int) -> Estimate:
    fit = Fit.from_json(content)
    seconds = fit.seconds(FORMULAS["whole"](values, Layout(1, 1)))
    return Estimate(seconds, seconds * fit.spread)


def _share(entry: Mapping[str, Any], layout: Layout) -> float:
    """What part of the last rank's exchange all have in the mean: measured, or by the formula and what was measured near by."""
    near = min(entry["shares"], key=lambda one: abs(math.log(one[0] / layout.ranks)))
    if list(near[:2]) == [layout.ranks, layout.hosts]:
        return float(near[2])
    name = entry["algorithm"]
    return float(near[2]) * ended(name, layout) / ended(name, Layout(near[0], near[1]))


def _exchange(messages: Mapping[str, Any], entry: Mapping[str, Any], asked: Asked) -> Estimate:
    if asked.ranks == 1:
        return Estimate(0.0)
    layout, size = Layout(asked.ranks, asked.hosts), asked.values * BYTES[asked.reduction]
    content = _best_fit(entry["fits"], layout)
    fit, terms = Fit.from_json(content), FORMULAS[content["formula"]](size, layout)
    seconds = fit.seconds(terms) / asked.network_times + messages["adding"][asked.reduction] * terms.added
    guess = entry["algorithm"] == "library" and content["formula"] not in ("whole", "shared")
    deviation = max(fit.spread, GUESSED if guess else LAUNCHES) * _beyond(content, layout, size)
    return Estimate(seconds, seconds * deviation)


def _best_fit(fits: Sequence[Mapping[str, Any]], layout: Layout) -> Mapping[str, Any]:
    """The one that was made on these ranks, or else one whose formula reaches them, in memory or over a network as they are."""
    for fit in fits:
        if fit["formula"] == "whole" and [layout.ranks, layout.hosts] in [
            list(one) for one in fit["layouts"]
        ]:
            return fit
    for fit in fits:
        if fit["formula"] != "whole" and (fit["layouts"][0][1] > 1) == (layout.hosts > 1):
            return fit
    seen = sorted({place for fit in fits for place in map(tuple, fit["layouts"])})
    wanted = f"{layout.ranks} ranks on {layout.hosts} host{'s' * (layout.hosts > 1)}"
    if not seen:
        raise LookupError(f"{wanted}: one rank alone was measured; more: distsgd calibrate --ranks N")
    raise LookupError(f"{wanted}: measured were (ranks, hosts) {', '.join(map(str, seen))}")


def _beyond(content: Mapping[str, Any], layout: Layout, size: float) -> float:
    """By what the deviation grows for ranks and bytes beyond those measured."""
    most = max(ranks for ranks, _ in content["layouts"])
    factor = max(layout.ranks / most, 1.0) * max(size / content["bytes"][1], 1.0)
    return 1 + FURTHER * math.log2(factor)
