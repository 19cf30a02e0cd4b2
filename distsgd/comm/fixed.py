"""How sums in fixed point come together: in one message that a topology carries, or in memory that ranks share."""

import enum
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distsgd.comm.shared import MeanMemory
from distsgd.kernels import fixedpoint, together
from distsgd.kernels.fixedpoint import Doubles, Floats, Integers


class Topology(Protocol):
    """The way a sum travels."""

    def room(self, size: int, kind: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return an array of zeros for what this rank adds, and the one in which the sum will be: perhaps the same."""

    def sum(self) -> None:
        """Put the sum over ranks of the one array in the other of every rank."""

    def memory(self, segments: Sequence[int]) -> MeanMemory | None:
        """Return memory in which ranks average such vectors without a message; None where they share none."""


class Verdict(enum.IntEnum):
    """What became of an average, the same on all ranks; the numbers are what one rank adds to the message."""

    OK = 0
    OVERFLOW = 1
    """Some value is finite, but too large for its scale: widen, and do the round again."""
    NOT_FINITE = 2**32
    """Some value is infinity or NaN."""


def _verdict(refused: int) -> Verdict:
    """Of the largest magnitude that was refused; 0: none."""
    if refused == 0:
        return Verdict.OK
    return Verdict.NOT_FINITE if refused >= fixedpoint.INFINITY else Verdict.OVERFLOW


class Scales:
    """By what values become integers, segment by segment, in this round."""

    def __init__(self, segments: Sequence[int]) -> None:
        self.segments: Integers = np.array(segments, np.int64)
        self.limits: Doubles = np.ones(len(segments))
        self.scales: Doubles = np.ones(len(segments))
        self.total_weight = 1

    def set(self, largest: Floats, headroom: int, total_weight: int) -> None:
        """Those of segments with these largest magnitudes."""
        bits, self.total_weight = (total_weight - 1).bit_length(), total_weight
        fixedpoint.set_scales(largest, headroom, bits, self.limits, self.scales)

    def add(self, vector: Floats, weight: int, fresh: bool, sums: Integers) -> Verdict:
        """Add weight times a vector to `sums`, which begin here if `fresh`; what was seen of it."""
        scaling = self.segments, self.limits, self.scales
        return _verdict(fixedpoint.add_fixed(vector, weight, *scaling, fresh, sums))


class Sums(Protocol):
    """The sums of a round."""

    def begin(self, seen: Verdict) -> None:
        """Begin a round, of which something may be seen already."""

    def add(self, vector: Floats, weight: int, last: bool) -> None:
        """Add a vector; the last one stays as it is until the exchange has ended."""

    def exchange(self) -> None:
        """Add up what all ranks have."""

    def finish(self, out: Floats, largest: Floats) -> Verdict:
        """Write the average and, next to it, its segments' largest magnitudes, unless something was seen that is not OK."""


class Message:
    """An int64 a value in a topology's message; its last element carries the verdict."""

    def __init__(self, topology: Topology, scales: Scales) -> None:
        self._topology, self._scales, self._fresh = topology, scales, True
        self._message, self._sum = topology.room(int(scales.segments.sum()) + 1, np.int64)

    def begin(self, seen: Verdict) -> None:
        """See Sums."""
        self._message[-1], self._fresh = seen, True

    def add(self, vector: Floats, weight: int, last: bool) -> None:
        """See Sums."""
        seen = self._scales.add(vector, weight, self._fresh, self._message)
        self._message[-1], self._fresh = max(int(self._message[-1]), seen), False

    def exchange(self) -> None:
        """One message."""
        if self._fresh:  # this rank's workers saw nothing in this round
            self._message[:-1] = 0
        self._topology.sum()

    def finish(self, out: Floats, largest: Floats) -> Verdict:
        """See Sums."""
        if self._sum[-1] > 0:
            return Verdict.NOT_FINITE if self._sum[-1] >= Verdict.NOT_FINITE else Verdict.OVERFLOW
        s = self._scales
        fixedpoint.divide_fixed(self._sum, s.total_weight, s.segments, s.scales, largest, out)
        return Verdict.OK


class SharedSums:
    """Each rank leaves what it adds in shared memory, and there averages a part of the vector for all."""

    def __init__(self, memory: MeanMemory, scales: Scales) -> None:
        self._memory, self._scales = memory, scales
        self._chunk = np.zeros(together.CHUNK, np.int64)
        self._vector, self._kind, self._refused = memory.mean, together.NOTHING, 0
        self._weight = 0

    def begin(self, seen: Verdict) -> None:
        """See Sums."""
        self._kind, self._weight, self._refused = together.NOTHING, 0, _MAGNITUDES[seen]

    def add(self, vector: Floats, weight: int, last: bool) -> None:
        """A single vector as it is, several as their sums. ValueError where there was to be only one."""
        fresh = self._kind == together.NOTHING
        if fresh and last:
            self._vector, self._kind, self._weight = vector, together.FLOATS, weight
            self._memory.show(vector)
            return
        if self._memory.sums.size < vector.size:
            raise ValueError("a rank adds several vectors, and said that it would add one")
        seen = self._scales.add(vector, weight, fresh, self._memory.sums)
        self._kind, self._refused = together.SUMS, max(self._refused, _MAGNITUDES[seen])

    def exchange(self) -> None:
        """Average this rank's part, when all have added."""
        memory, s = self._memory, self._scales
        memory.adds(self._kind, self._weight)
        memory.meet()
        how = s.segments, s.limits, s.scales, s.total_weight, self._refused
        together.average_part(*memory.rows, self._vector, *how, *memory.part, self._chunk, memory.mean)
        memory.meet()

    def finish(self, out: Floats, largest: Floats) -> Verdict:
        """Copy what all have averaged, but to where it is."""
        mean = self._memory.mean
        return _verdict(together.take(self._memory.words, mean, largest, out[:0] if out is mean else out))


_MAGNITUDES = {Verdict.OK: 0, Verdict.OVERFLOW: 1, Verdict.NOT_FINITE: int(fixedpoint.INFINITY)}
"""Of values that were refused, as ranks tell them in shared memory."""
