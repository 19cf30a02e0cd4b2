"""Seconds between sizes that were measured."""

from bisect import bisect_left
from collections.abc import Sequence


def between(sizes: Sequence[float], seconds: Sequence[float], size: float) -> float:
    """Seconds at a size: on the line through its neighbours, beyond the last one on the line through the last two.

    Below the first they fall with the size, to no less than half of the first.
    """
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
