"""The limits of this core: arithmetic, and the memory that is as far away as an operation's numbers are many (a roofline)."""

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distsgd.kernels import probe
from distsgd.kernels.vector import STRIP, aligned
from distsgd.machine.peak import best, peak

SIZES = tuple(1 << power for power in range(14, 31))
"""Bytes of what is copied, both sides together, from inside the first level's cache on."""
BEYOND = 2
"""Times as much as the last cache holds: the largest that is copied."""


@dataclass(frozen=True)
class Limits:
    """peak: floating-point operations a second. bandwidths: bytes read and written a second, of the first of SIZES on."""

    peak: float
    bandwidths: tuple[float, ...]

    def bandwidth(self, held: float) -> float:
        """Bytes a second of a working set of that size: between those of the sizes that were measured."""
        sizes = SIZES[: len(self.bandwidths)]
        return float(np.interp(np.log(held), np.log(sizes), self.bandwidths))

    def arithmetic_binds(self, flops: float, moved: float, held: float) -> bool:
        """Whether computing takes longer than moving so many bytes of a working set."""
        return flops / self.peak >= moved / self.bandwidth(held)

    def seconds(self, flops: float, moved: float, held: float) -> float:
        """The least that an operation takes."""
        return max(flops / self.peak, moved / self.bandwidth(held))


def measured(now: Callable[[], int] = time.perf_counter_ns) -> Limits:
    """Those of the core that this process runs on; takes a second or two."""
    return Limits(peak(now), tuple(_bandwidth(size, now) for size in copied(last_cache())))


def last_cache(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes that the largest cache holds, 0 where the system does not tell (it is Linux that does)."""
    sizes = [file.read_text().strip() for file in caches.glob("index*/size")]
    return max((int(size[:-1]) << {"K": 10, "M": 20}.get(size[-1:], 0) for size in sizes), default=0)


def copied(cache: int) -> tuple[int, ...]:
    """Those of SIZES that are copied where the last cache holds so many bytes: up to what lies beyond it, and 64 MB."""
    most = max(BEYOND * cache, 1 << 26)
    return SIZES[: bisect_left(SIZES, most) + 1]


def _bandwidth(size: int, now: Callable[[], int]) -> float:
    values = size // 2 // 4 // STRIP * STRIP
    x, y = aligned(values), aligned(values)
    x.fill(1)  # pages that nobody has written to are all the same one, which is always near
    return 8 * values / best(lambda times: probe.copy(x, y, times), now)
