"""Seconds between sizes that were measured, and near them."""

from bisect import bisect_left
from collections.abc import Sequence
from statistics import fmean

import numpy as np

REACH = 0.8
"""Of the logarithm of a size: what is so near counts for 1/sqrt(e) of what is just there."""


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


def nearby(places: Sequence[Sequence[float]], values: Sequence[float], at: Sequence[float]) -> float:
    """What `values`, all above 0, are near a place: their geometric mean, weighted by how near each is (Nadaraya 1964).

    Coordinates are sizes, above 0: it is their ratios that count.
    """
    away = ((np.log(places) - np.log(at)) ** 2).sum(axis=1) / REACH**2
    weights = np.exp((away.min() - away) / 2)
    return float(np.exp(weights @ np.log(values) / weights.sum()))


def _distinct(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[list[float], list[float]]:
    found: dict[float, list[float]] = {}
    for size, one in zip(sizes, seconds, strict=True):
        found.setdefault(size, []).append(one)
    return list(found), [fmean(same) for same in found.values()]
