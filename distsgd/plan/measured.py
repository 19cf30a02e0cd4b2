"""Which of what was measured comes nearest to what is asked."""

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from distsgd.cost.machine import Machine


class _Measured(Protocol):
    @property
    def together(self) -> int: ...


UNTOLD = (LookupError, ValueError, ArithmeticError, TypeError)
"""What predicting raises where a machine file lacks something, or has what never was measured: anyone may have written it."""

Kind = TypeVar("Kind", bound=_Measured)


def nearest(entries: Sequence[Kind], together: int) -> list[Kind]:
    """Those measured with as many ranks computing at once, or with the nearest number of them."""
    counts = {entry.together for entry in entries}
    if not counts:
        return []
    best = min(counts, key=lambda count: (abs(math.log(count / together)), -count))
    return [entry for entry in entries if entry.together == best]


def check_threads(machine: Machine, threads: int) -> None:
    """LookupError where ranks of another number of threads were measured: each number has machine files of its own."""
    there = machine.where.threads
    if there != threads:
        raise LookupError(
            f"ranks of {there} thread{'s' * (there > 1)} were measured, and train.threads = {threads}"
        )
