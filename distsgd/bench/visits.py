"""Configurations that are run by turns, so that what passes by slows one visit and not all; and again where cores lay elsewhere."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from distsgd.comm import Ranks
from distsgd.machine.nearness import alike, nearness

VISITS = 3
"""Of each configuration."""
PATIENCE = 60.0
"""Seconds, at most, for visits that are repeated."""
PAUSE = 0.2

Rounds = dict[str, np.ndarray]
"""Seconds of each phase of a round, one a round, in the mean over ranks."""


@dataclass(frozen=True)
class Run:
    """One visit of a configuration; all ranks call it."""

    measured: Callable[[], Rounds]
    by_all: bool
    """Whether all ranks take part: of fewer it is not known how near they lie."""


@dataclass
class Visits:
    """Rounds by a configuration's number. All ranks do the same, and rank 0 has what was measured."""

    ranks: Ranks
    near: float | None
    """How near ranks lay at calibration; None: not known, or of other ranks."""
    say: Callable[[str], None]
    there: dict[int, list[Rounds]] = field(default_factory=dict)
    """While they lay like that."""
    elsewhere: dict[int, list[Rounds]] = field(default_factory=dict)

    def make(self, name: str, runs: Mapping[int, Run]) -> None:
        """Visit all, several times; then those again that lacked cores which lie as they should, as far as patience goes."""
        for visit in range(VISITS):
            self.say(f"{len(runs)} {name}, {visit + 1} of {VISITS}")
            for number, run in runs.items():
                self._visit(number, run)
        missing, until = self._missing(), time.monotonic() + PATIENCE
        if missing:
            self.say(f"{len(missing)} {name}, once more: cores lay elsewhere than at calibration")
        while missing and self._patient(until):
            for number in missing if alike(self.near, nearness(self.ranks)) else ():
                self._visit(number, runs[number])
            missing = self._missing()

    def rounds(self) -> dict[int, list[Rounds]]:
        """Those that count: where cores never lay as they should, those there are."""
        numbers = sorted({*self.there, *self.elsewhere})
        return {number: self.there.get(number) or self.elsewhere[number] for number in numbers}

    def left(self) -> int:
        """Configurations that were never run while cores lay as they should."""
        return len(set(self.elsewhere) - set(self.there))

    def repeated(self) -> int:
        """Visits while they lay elsewhere."""
        return len(list(chain(*self.elsewhere.values())))

    def _visit(self, number: int, run: Run) -> None:
        near = self.near if run.by_all else None
        before = nearness(self.ranks) if near else None
        rounds = run.measured()
        there = not near or alike(near, before, nearness(self.ranks))
        (self.there if there else self.elsewhere).setdefault(number, []).append(rounds)

    def _missing(self) -> list[int]:
        return [number for number in self.elsewhere if len(self.there.get(number, ())) < VISITS]

    def _patient(self, until: float) -> bool:
        """Whether to go on, as rank 0's clock says; a little later where cores lie elsewhere."""
        left = np.array([until - time.monotonic()])
        self.ranks.broadcast(left)
        if left[0] > 0 and not alike(self.near, nearness(self.ranks)):
            time.sleep(PAUSE)
        return bool(left[0] > 0)
