"""Seconds by named phase on a monotonic clock: at any moment exactly one phase runs, so that the phases sum to the wall clock."""

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable

PHASES = (
    *("start", "compile", "load", "shuffle", "data", "compute", "average", "wait", "evaluate"),
    "checkpoint",
)
"""start: until the first round, what is not another phase. load: reading images. shuffle: dealing and ordering. data: filling the
batches of training, or waiting for the thread that does.
average: converting, transferring and dividing. wait: until the last rank is there. checkpoint: writing the run's files."""
TRAINING = ("shuffle", "data", "compute", "wait", "average")
"""The phases of training itself: what more ranks are to make shorter."""


def process_age() -> float:
    """Seconds since this process began, where the system tells (Linux); else 0."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stat:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, AttributeError):
        return 0.0


def peak_memory() -> int:
    """The most bytes of memory that this process has held at once."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        # Linux: what getrusage tells there began with the parent's.
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class _Phase:
    """Seconds inside belong to it.

    One object a name, as it is entered at every step: to make one takes longer than to switch, and so would calls of `switch`.
    """

    __slots__ = ("_clock", "_name")

    def __init__(self, clock: "Clock", name: str) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        clock = self._clock
        now = clock.now()
        clock._seconds[clock.running[-1]] += now - clock._since
        clock._since = now
        clock.running.append(self._name)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        clock = self._clock
        now = clock.now()
        clock._seconds[clock.running.pop()] += now - clock._since
        clock._since = now


class Clock:
    """Phases may nest: the inner one stops the outer one's seconds."""

    def __init__(self, age: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.running = now, ["start"]
        """Reads the time; the names of the phases that were entered and not left, outermost first."""
        self._began = self._since = now() - age
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phases = {name: _Phase(self, name) for name in PHASES}

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Seconds inside belong to `name`."""
        return self._phases[name]

    def give(self, name: str, seconds: float) -> None:
        """Seconds that the phase which runs has had belong to `name`: for what is too short and too often to be entered."""
        self._seconds[self.running[-1]] -= seconds
        self._seconds[name] += seconds

    def switch(self) -> None:
        """Give the seconds until now to the phase that runs."""
        now = self.now()
        self._seconds[self.running[-1]] += now - self._since
        self._since = now

    def spent(self, *names: str) -> float:
        """Seconds of these phases so far."""
        self.switch()
        return sum(self._seconds[name] for name in names)

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase so far, and "total", their sum: the wall clock."""
        self.switch()
        return {"total": self._since - self._began, **self._seconds}
