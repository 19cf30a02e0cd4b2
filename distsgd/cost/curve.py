"""Seconds between sizes that were measured."""

from bisect import bisect_left
from collections.abc import Sequence
from statistics import fmean


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


def _distinct(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[list[float], list[float]]:
    found: dict[float, list[float]] = {}
    for size, one in zip(sizes, seconds, strict=True):
        found.setdefault(size, []).append(one)
    return list(found), [fmean(same) for same in found.values()]
