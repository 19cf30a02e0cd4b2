"""From measured averagings to constants: what a file holds, and an estimate reads."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distsgd.comm import Ranks
from distsgd.cost.algorithms import FORMULAS, Layout, Terms
from distsgd.cost.averaging import BYTES
from distsgd.cost.fit import Fit, Point, fit

if TYPE_CHECKING:
    from distsgd.machine.averaging import Measured, Way

FORMAT = 1
LIKE = ("recursive-doubling", "ring", "rabenseifner", "binomial", "linear")
"""What a library's unknown algorithm is compared with, where it ran on several layouts."""
ALIKE = 0.15
"""The largest spread with which it counts as one of them."""


def agreed(ranks: Ranks, measured: list["Measured"], adding: dict[str, float]) -> dict[str, Any]:
    """What rank 0, which was in all of them, makes of them; on every rank."""
    content = b""
    if ranks.rank == 0:
        content = json.dumps(constants(measured, adding, ranks.mpi_library())).encode()
    return dict(json.loads(ranks.broadcast_bytes(content)))


def constants(measured: list["Measured"], adding: dict[str, float], library: str) -> dict[str, Any]:
    """All that an estimate needs, and the points that it comes from."""
    all_ways = list(dict.fromkeys(one.way for one in measured))
    return {
        "format": FORMAT,
        "mpi": library,
        "layouts": sorted({(one.layout.ranks, one.layout.hosts) for one in measured}),
        "adding": adding,
        "exchanges": [_entry(way, [one for one in measured if one.way == way], adding) for way in all_ways],
    }


def _entry(way: "Way", measured: list["Measured"], adding: dict[str, float]) -> dict[str, Any]:
    gamma = adding[way.reduction]
    fits = [found for one in measured if one.layout.ranks > 1 for found in _fits_alone(one)]
    for several_hosts in (False, True):
        alike = [one for one in measured if one.layout.ranks > 1 and (one.layout.hosts > 1) == several_hosts]
        fits += _fits_together(way, alike, gamma)
    return {
        **vars(way),
        "ran": _ran(measured, fits),
        "latest": float(np.median([late for one in measured for late in one.latest])),
        "conversion": _conversion(measured),
        "fits": fits,
        "points": [
            [one.layout.ranks, one.layout.hosts, values, *map(float, seconds)]
            for one in measured
            for values, seconds in zip(one.values, one.mean, strict=True)
        ],
    }


def _ran(measured: list["Measured"], fits: list[dict[str, Any]]) -> str:
    """Pinned, if it is one of ours; otherwise what the library's is like, if that could be seen."""
    ran = measured[-1].ran
    like = [found["formula"] for found in fits if found["formula"] not in ("whole", "shared")]
    return f"library, like {like[-1]}" if ran == "library" and like else ran


def _fits_alone(one: "Measured") -> list[dict[str, Any]]:
    """The library's way on one layout, whatever it is. Ours are known."""
    return [_fit("whole", [one], 0.0)] if one.ran == "library" else []


def _fits_together(way: "Way", measured: list["Measured"], gamma: float) -> list[dict[str, Any]]:
    """One for all layouts, by the formula of what ran, or by the one that a library's is most like."""
    if not measured:
        return []
    ran = measured[0].ran
    if ran != "library":
        return [_fit(ran, measured, gamma)]
    if len(measured) < 2:
        return []
    best = min((_fit(name, measured, gamma) for name in LIKE), key=lambda found: float(found["spread"]))
    return [best] if best["spread"] < ALIKE else []


def _fit(formula: str, measured: Sequence["Measured"], gamma: float) -> dict[str, Any]:
    points = []
    for one in measured:
        for values, seconds in zip(one.values, one.mean, strict=True):
            size = values * BYTES[one.way.reduction]
            terms = FORMULAS[formula](size, one.layout)
            points.append(Point(terms, float(seconds[3]), gamma * terms.added))
    sizes = [values * BYTES[one.way.reduction] for one in measured for values in one.values]
    return {
        "formula": formula,
        "layouts": [[one.layout.ranks, one.layout.hosts] for one in measured],
        "bytes": [min(sizes), max(sizes)],
        **fit(points).to_json(),
    }


def _conversion(measured: Sequence["Measured"]) -> dict[str, Any]:
    return {
        name: _conversion_fit(measured, call).to_json()
        for call, name in ((0, "begin"), (1, "add"), (2, "again"), (4, "finish"))
    }


def _conversion_fit(measured: Sequence["Measured"], call: int) -> Fit:
    points = []
    for one in measured:
        for values, seconds in zip(one.values, one.mean, strict=True):
            points.append(Point(Terms(1.0, values, 0.0), max(float(seconds[call]), 1e-8)))
    return fit(points)


__all__ = ["FORMAT", "Layout", "agreed", "constants"]
