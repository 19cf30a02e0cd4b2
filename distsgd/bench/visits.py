"""Configurations that are run by turns, so that what passes by slows one visit and not all; and again where cores lay elsewhere."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from distsgd.comm import Ranks
from distsgd.machine.nearness import alike, nearness, return_to

VISITS = 3
"""Of each configuration."""
PATIENCE = 60.0
"""Seconds in which visits are repeated; the last may end later."""

Rounds = dict[str, np.ndarray]
"""Seconds of each phase of a round, one a round, in the mean over ranks."""


@dataclass(frozen=True)
class Configured:
    """How a configuration is visited; all ranks call it."""

    measured: Callable[[], Rounds]
    by_all: bool
    """Whether all ranks take part: of fewer it is not known how near they lie."""


@dataclass
class Visits:
    """Rounds by a configuration's number. All ranks do the same, and rank 0 has what was measured."""

    ranks: Ranks
    near: float | None
    """How near ranks lay at calibration, the same on all of them; None: not known, or of other ranks."""
    say: Callable[[str], None]
    there: dict[int, list[Rounds]] = field(default_factory=dict)
    """While they lay like that."""
    elsewhere: dict[int, list[Rounds]] = field(default_factory=dict)

    def make(self, name: str, configured: Mapping[int, Configured]) -> None:
        """Visit all, several times; then those again that lacked cores which lie as they should, as far as patience goes."""
        if not configured:
            return
        for visit in range(VISITS):
            self.say(f"{len(configured)} {name}, {visit + 1} of {VISITS}")
            for number, one in configured.items():
                self._visit(number, one)
        until = time.monotonic() + PATIENCE
        if self._missing():
            self.say(f"{len(self._missing())} {name}, once more: cores lay elsewhere than at calibration")
        while (missing := self._missing()) and return_to(self.ranks, self.near, until):
            number = min(missing, key=lambda one: len(self.there.get(one, ())))  # in turn
            self._visit(number, configured[number])

    def that_count(self) -> dict[int, list[Rounds]]:
        """While cores lay as they should; where they never did, those there are."""
        return {number: self.there.get(number) or self.elsewhere[number] for number in self._numbers()}

    def all(self) -> dict[int, list[Rounds]]:
        """Wherever cores lay."""
        return {n: self.there.get(n, []) + self.elsewhere.get(n, []) for n in self._numbers()}

    def counts(self) -> dict[str, int]:
        """How many visits were made, how many of them elsewhere, and of how many configurations there are no others."""
        visits = {place: sum(map(len, getattr(self, place).values())) for place in ("there", "elsewhere")}
        never = len(set(self.elsewhere) - set(self.there))
        return {"all": sum(visits.values()), "elsewhere": visits["elsewhere"], "never_there": never}

    def _numbers(self) -> list[int]:
        return sorted({*self.there, *self.elsewhere})

    def _visit(self, number: int, one: Configured) -> None:
        near = self.near if one.by_all else None
        before = nearness(self.ranks) if near else None
        rounds = one.measured()
        there = not near or alike(near, before, nearness(self.ranks))
        (self.there if there else self.elsewhere).setdefault(number, []).append(rounds)

    def _missing(self) -> list[int]:
        return [number for number in self.elsewhere if len(self.there.get(number, ())) < VISITS]
