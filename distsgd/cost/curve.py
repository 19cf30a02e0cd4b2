"""Seconds between sizes that were measured."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np


def between(sizes: Sequence[float], seconds: Sequence[float], size: float) -> float:
    """Seconds at a size: on the line through its neighbours, beyond the last one on the line through the last two.

    sizes: ascending; of those that are equal the mean counts. Below the first, seconds fall with the size, to no less than half.
    """
    sizes, seconds = _distinct(sizes, seconds)
    if len(sizes) == 1 or size <= sizes[0]:
        return (
            seconds[0] * max(0.5, min(1.0, size / sizes[0]))
            if size < sizes[0]
            else seconds[0] * size / sizes[0]
        )
    right = min(bisect_left(sizes, size), len(sizes) - 1)
    left = right - 1
    share = (size - sizes[left]) / (sizes[right] - sizes[left])
    return max(0.0, seconds[left] + share * (seconds[right] - seconds[left]))


def among(places: Sequence[tuple[float, float]], values: Sequence[float], at: tuple[float, float]) -> float:
    """What `values`, all above 0, are at a place: read off between the second coordinates of each first one, then between those,
    on lines in their logarithms; beyond the outermost as there. Of those at one place the geometric mean counts.

    Coordinates are sizes, above 0.
    """
    logs: dict[float, dict[float, list[float]]] = {}
    for (first, second), value in zip(places, values, strict=True):
        logs.setdefault(first, {}).setdefault(second, []).append(math.log(value))
    lines = {first: {second: fmean(same) for second, same in line.items()} for first, line in logs.items()}
    return math.exp(_on_line({first: _on_line(line, at[1]) for first, line in lines.items()}, at[0]))


def _on_line(logs: Mapping[float, float], size: float) -> float:
    sizes = sorted(logs)
    return float(np.interp(math.log(size), np.log(sizes), [logs[one] for one in sizes]))


def _distinct(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[list[float], list[float]]:
    found: dict[float, list[float]] = {}
    for size, one in zip(sizes, seconds, strict=True):
        found.setdefault(size, []).append(one)
    return list(found), [fmean(same) for same in found.values()]
