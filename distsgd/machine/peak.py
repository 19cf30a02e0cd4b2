"""The most that a core computes: multiply-adds in registers, of numbers that lie in the nearest cache."""

import time
from collections.abc import Callable

import numpy as np

from distsgd.kernels import probe
from distsgd.kernels.vector import STRIP, aligned

TRIES, SECONDS = 7, 0.004
"""The best of so many, each so long at least: whatever disturbs makes it slower."""


def peak(now: Callable[[], int] = time.perf_counter_ns) -> float:
    """Floating-point operations a second of the core that this process runs on; takes 0.05 s."""
    x, weights, places = aligned(STRIP), aligned(probe.ROWS), np.zeros(1, np.int64)
    y = aligned(probe.ROWS * STRIP)
    return 2 * y.size / best(lambda times: probe.multiply_adds(x, places, weights, y, times), now)


def best(call: Callable[[int], object], now: Callable[[], int] = time.perf_counter_ns) -> float:
    """Seconds a time of call(times): the best of TRIES, of code that is loaded."""
    call(1)
    times, nanoseconds = 1, 0
    while (nanoseconds := _elapsed(call, times, now)) < SECONDS * 1e9 / 2:
        times *= 2
    return min(nanoseconds, *(_elapsed(call, times, now) for _ in range(TRIES))) / times * 1e-9


def _elapsed(call: Callable[[int], object], times: int, now: Callable[[], int]) -> int:
    began = now()
    call(times)
    return now() - began
