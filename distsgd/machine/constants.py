"""From measured averagings to constants: what a file holds, and an estimate reads."""

import json
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from distsgd.comm import Ranks
from distsgd.cost.algorithms import FORMULAS, Layout, Terms
from distsgd.cost.averaging import BYTES
from distsgd.cost.estimate import median_error
from distsgd.cost.fit import Fit, Point, fit
from distsgd.machine.timed import CALLS

if TYPE_CHECKING:
    from distsgd.machine.averaging import Measured
    from distsgd.machine.timed import Way

FORMAT = 2
LIKE = ("recursive-doubling", "ring", "rabenseifner", "binomial", "linear")
"""What a library's unknown algorithm is compared with, where it ran on several layouts."""
ALIKE = 0.15
"""The largest spread with which it counts as one of them."""


def agreed(ranks: Ranks, measured: list["Measured"], adding: dict[str, list[float]]) -> dict[str, Any]:
    """What rank 0, which was in all of them, makes of them; on every rank."""
    content = b""
    if ranks.rank == 0:
        added = {reduction: median(times) for reduction, times in adding.items()}
        errors = {reduction: median_error(times) for reduction, times in adding.items()}
        found = constants(measured, added, ranks.mpi_library()) | {"adding_errors": errors}
        content = json.dumps(found).encode()
    return dict(json.loads(ranks.broadcast_bytes(content)))


def constants(measured: list["Measured"], adding: dict[str, float], library: str) -> dict[str, Any]:
    """All that an estimate needs, and the points that it comes from."""
    all_ways = list(dict.fromkeys(one.way for one in measured))
    alike: dict[tuple[object, ...], list[Measured]] = {}
    for one in measured:
        alike.setdefault(_converts_like(one.way), []).append(one)
    conversions = {kind: _conversion(of_kind) for kind, of_kind in alike.items()}
    return {
        "format": FORMAT,
        "mpi": library,
        "layouts": sorted({(one.layout.ranks, one.layout.hosts) for one in measured}),
        "adding": adding,
        "exchanges": [
            {**_entry(way, measured, adding), "conversion": conversions[_converts_like(way)]}
            for way in all_ways
        ],
    }


def _entry(way: "Way", measured: list["Measured"], adding: dict[str, float]) -> dict[str, Any]:
    mine = [one for one in measured if one.way == way]
    same = [one for one in measured if _alike(one, mine[0])]
    fits = [_fit("whole", [one for one in same if one.layout == layout], adding) for layout in _several(mine)]
    for several_hosts in (False, True):
        there = [one for one in measured if one.layout.ranks > 1 and (one.layout.hosts > 1) == several_hosts]
        fits += _fits_together(way, there, adding)
    return {
        **vars(way),
        "ran": _ran(mine, fits),
        "shares": [(one.layout.ranks, one.layout.hosts, _share(one)) for one in mine],
        "fits": fits,
        "points": [
            [one.layout.ranks, one.layout.hosts, values, *map(float, seconds), last]
            for one in mine
            for values, seconds, last in zip(one.values, one.mean, one.last, strict=True)
        ],
    }


def _share(one: "Measured") -> float:
    """What part of the last rank's exchange that of all ranks in the mean is."""
    parts = [float(seconds[3]) / last for seconds, last in zip(one.mean, one.last, strict=True) if last]
    return float(np.median(parts)) if parts else 1.0


def _ran(measured: list["Measured"], fits: list[dict[str, Any]]) -> str:
    """Pinned, if it is one of ours; otherwise what the library's is like, if that could be seen."""
    ran = measured[-1].ran
    like = [found["formula"] for found in fits if found["formula"] not in ("whole", "shared")]
    if ran != "library":
        return ran
    return f"library, like {like[-1]}" if like else "library, by which algorithm is not seen"


def _converts_like(way: "Way") -> tuple[object, ...]:
    """The same for ways that take as long to turn numbers into what is sent: only a library's may lie in shared memory."""
    return ("own", way.reduction) if way.algorithm != "library" else (way,)


def _several(measured: list["Measured"]) -> list[Layout]:
    return [one.layout for one in measured if one.layout.ranks > 1]


def _alike(one: "Measured", other: "Measured") -> bool:
    """Whether two ways' messages take as long: ours do, whatever the numbers in them are."""
    if other.way.algorithm == "library":
        return one.way == other.way
    return (one.way.topology, one.way.algorithm) == (other.way.topology, other.way.algorithm)


def _fits_together(way: "Way", measured: list["Measured"], adding: dict[str, float]) -> list[dict[str, Any]]:
    """One for all layouts, by the formula of what ran, or by the one that a library's is most like."""
    mine = [one for one in measured if one.way == way]
    if not mine:
        return []
    if mine[0].ran != "library":
        return [_fit(mine[0].ran, [one for one in measured if _alike(one, mine[0])], adding)]
    if len(mine) < 2:
        return []
    best = min((_fit(name, mine, adding) for name in LIKE), key=lambda found: float(found["spread"]))
    return [best] if best["spread"] < ALIKE else []


def _fit(formula: str, measured: Sequence["Measured"], adding: dict[str, float]) -> dict[str, Any]:
    points = []
    for one in measured:
        for values, last in zip(one.values, one.last, strict=True):
            terms = FORMULAS[formula](values * BYTES[one.way.reduction], one.layout)
            points.append(Point(terms, last, adding[one.way.reduction] * terms.added))
    sizes = [values * BYTES[one.way.reduction] for one in measured for values in one.values]
    return {
        "formula": formula,
        "layouts": sorted({(one.layout.ranks, one.layout.hosts) for one in measured}),
        "bytes": [min(sizes), max(sizes)],
        **fit(points).to_json(),
    }


def _conversion(measured: Sequence["Measured"]) -> dict[str, Any]:
    names = [name for name in CALLS if name != "exchange"]
    return {name: _conversion_fit(measured, CALLS.index(name)).to_json() for name in names}


def _conversion_fit(measured: Sequence["Measured"], call: int) -> Fit:
    points = []
    for one in measured:
        for values, seconds in zip(one.values, one.mean, strict=True):
            points.append(Point(Terms(1.0, values, 0.0), max(float(seconds[call]), 1e-8)))
    return fit(points)
