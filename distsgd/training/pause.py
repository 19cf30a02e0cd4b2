"""When a run saves itself and when it stops: ranks agree on it where they wait for each other anyway.

One that is asked to stop tells the others at once, as the end of a round may be far: those who were not asked leave it as well.
"""

import enum
import time
from collections.abc import Callable

import numpy as np

from distsgd.comm import Ranks

PATIENCE_SECONDS = 4.0
"""How long a rank that is asked to stop works on for the end of its round."""
LISTEN_SECONDS = 0.1
"""How often, within a round, a rank listens for another one that was asked."""


class Stopped(Exception):
    """The run was asked to stop, and is where it can go on from; every rank raises it at the same place."""


class Wish(enum.IntEnum):
    """What a rank wants; the largest of all ranks is done."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    """At the end of this round."""
    ABANDON = 3
    """Now: this rank has left its round, which is to be done again when the run goes on."""


class Pause:
    """What this rank wants, and what all agreed on when they met last."""

    def __init__(
        self, ranks: Ranks, every: float = 0.0, asked: Callable[[], float | None] = lambda: None
    ) -> None:
        """`every`: seconds between two checkpoints, 0 for none. `asked`: seconds since this process was asked to stop, or None."""
        self._ranks, self._every, self._asked = ranks, every, asked
        self._saved, self._left = time.monotonic(), False
        self._wish = np.zeros(1, np.int64)
        self._told, self._listened = False, float("-inf")
        self._heard: float | None = None
        self.agreed = Wish.GO_ON

    def impatient(self) -> bool:
        """Whether to leave what this rank does, as it or another one was asked to stop a while ago."""
        self._left = self._left or self._asked_seconds() > PATIENCE_SECONDS
        return self._left

    def _asked_seconds(self) -> float:
        """Since this rank was asked to stop, or heard that another was; 0 if neither."""
        now, own = time.monotonic(), self._asked()
        if own is not None and not self._told:
            self._told = True
            self._ranks.shout()
        if now - self._listened >= LISTEN_SECONDS:
            self._listened = now
            if self._ranks.hears() and self._heard is None:
                self._heard = now
        return max(own or 0.0, now - self._heard if self._heard else 0.0)

    def meet(self, told: np.ndarray | None = None) -> None:
        """Return when all ranks have called. Raises Stopped, on all of them, where one has left its round.

        `told` (int64, or None on every rank) becomes the element-wise maximum over ranks; its first element is room for the wish.
        """
        message = self._wish if told is None else told
        message[0] = self._own()
        self._ranks.maximum(message)
        self.agreed = Wish(int(message[0]))
        if self.agreed == Wish.ABANDON:
            raise Stopped

    def _own(self) -> Wish:
        if self._left:
            return Wish.ABANDON
        if self._asked() is not None:
            return Wish.STOP
        due = self._ranks.rank == 0 and self._every and time.monotonic() - self._saved >= self._every
        return Wish.SAVE if due else Wish.GO_ON

    def at_end(self, save: Callable[[], None]) -> None:
        """Save when all steps are done: for a run that is made longer, or whose last files can't be written."""
        if self._every:
            save()

    def after_round(self, save: Callable[[], None]) -> None:
        """Save where that was agreed on, and raise Stopped where stopping was."""
        if self.agreed == Wish.STOP:
            raise Stopped
        if self.agreed == Wish.SAVE:
            save()
            self._saved = time.monotonic()
