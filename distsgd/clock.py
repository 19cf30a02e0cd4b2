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
    """Seconds inside belong to it. One object a name: to make one takes longer than to enter it."""

    __slots__ = ("_clock", "_name")

    def __init__(self, clock: "Clock", name: str) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._clock.switch()
        self._clock.running.append(self._name)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._clock.switch()
        self._clock.running.pop()


class Clock:
    """Phases may nest: the inner one stops the outer one's seconds.

    What there is in every step is no phase to be entered, which takes longer than to read the time: who does it reads `now` before
    and after, and adds the seconds to `data`, `average` or `wait` within a round, or to `checkpoint` between two.
    """

    def __init__(self, age: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.running = now, ["start"]
        """Reads the time; the names of the phases that were entered and not left, outermost first."""
        self.data, self.average, self.wait, self.checkpoint = 0.0, 0.0, 0.0, 0.0
        self._rounds, self._round_began, self.ended = 0.0, 0.0, 0.0
        """ended: when the last round did."""
        self._began = self._since = now() - age
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phases = {name: _Phase(self, name) for name in PHASES}

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Seconds inside belong to `name`."""
        return self._phases[name]

    def begin_round(self) -> None:
        """From now on all is "compute", but what is added to others."""
        self._round_began = self.now()

    def end_round(self) -> float:
        """Until now; returns the seconds of the round."""
        self.ended = self.now()
        seconds = self.ended - self._round_began
        self._rounds += seconds
        self._round_began = 0.0
        return seconds

    def computed(self) -> float:
        """Seconds of "compute" and "data" so far, those of a round that goes on with them."""
        unfinished = self.now() - self._round_began if self._round_began else 0.0
        unasked = self._rounds + unfinished - self.average - self.wait
        return self._seconds["compute"] + self._seconds["data"] + unasked

    def switch(self) -> None:
        """Give the seconds until now to the phase that runs, but what rounds and `checkpoint` had of them."""
        now, seconds = self.now(), self._seconds
        seconds[self.running[-1]] += now - self._since - self._rounds - self.checkpoint
        seconds["compute"] += self._rounds - self.data - self.average - self.wait
        seconds["data"] += self.data
        seconds["average"] += self.average
        seconds["wait"] += self.wait
        seconds["checkpoint"] += self.checkpoint
        self._since, self._rounds = now, 0.0
        self.data, self.average, self.wait, self.checkpoint = 0.0, 0.0, 0.0, 0.0

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase so far, and "total", their sum: the wall clock."""
        self.switch()
        return {"total": self._since - self._began, **self._seconds}
