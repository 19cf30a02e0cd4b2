"""The weighted average of a state over workers: how it travels (topology), how it is added (reduction).

A state is one flat float32 vector, a row of `segments`: one per tensor, the parameters and behind them the
optimizer's moments. At a round's start it is the same on all ranks. Each worker adds its state after its
local steps with an integer weight, the samples it saw; every rank gets sum(weight * state) / sum(weight)::

    begin(start, total weight)    add(state, weight, last) for each worker of this rank    exchange()    finish(out)

These are separate calls so that a caller can time conversion, waiting (its own barrier) and transfer apart.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distsgd.comm.fixed import Message, Scales, SharedSums, Sums, Topology, Verdict
from distsgd.comm.links import OF_ALL, OF_MASTER
from distsgd.comm.ranks import Ranks
from distsgd.comm.shared import MeanMemory, SharedMemory
from distsgd.kernels import fixedpoint
from distsgd.kernels.fixedpoint import Floats
from distsgd.kernels.vector import aligned

HEADROOM = 8
"""Bits by which a value may outgrow its segment's largest at the start before a round is done again."""
WIDER = 12
"""Bits of headroom that one widening adds."""
MOST_WIDENINGS = 4
"""After so many in one round a caller stops: values grew 2^56 times."""


class Allreduce:
    """All ranks add together, by an algorithm of OF_ALL or by "library".

    That is: in memory that they share where they are on one node, otherwise as the MPI library sees fit. several: whether a rank
    may add more than one vector to an exact average; where none does, the memory that they share has no room for sums.
    """

    def __init__(self, ranks: Ranks, algorithm: str = "library", several: bool = True) -> None:
        self._ranks, self._algorithm, self._several = ranks, algorithm, several
        self._links = ranks.links() if algorithm in OF_ALL else None
        self._shared: SharedMemory | None = None
        self._mean: MeanMemory | None = None
        self._array = np.zeros(0)

    @property
    def ran(self) -> str:
        """What adds: an algorithm's name, "shared" for memory, or "library"."""
        return "shared" if self._shared or self._mean else self._algorithm if self._links else "library"

    def room(self, size: int, kind: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return this rank's array, and that of the sum: the same but in shared memory."""
        self._shared = None if self._links else self._ranks.shared(size, kind)
        if self._shared:
            return self._shared.of_ranks[self._ranks.rank], self._shared.total
        self._array = np.zeros(size, kind)
        return self._array, self._array

    def memory(self, segments: Sequence[int]) -> MeanMemory | None:
        """Return memory where ranks share some, and no algorithm was asked for."""
        self._mean = None if self._links else self._ranks.mean_memory(segments, self._several)
        return self._mean

    def sum(self) -> None:
        """Add: in shared memory each rank a part, for all."""
        if self._shared:
            self._shared.meet()
            self._shared.add_part()
            self._shared.meet()
        elif self._links:
            OF_ALL[self._algorithm](self._links, self._array)
        else:
            self._ranks.sum(self._array)


class Master:
    """Rank 0 collects the sum and sends it to all, by an algorithm of OF_MASTER or, "library", as the MPI library sees fit."""

    def __init__(self, ranks: Ranks, algorithm: str = "library") -> None:
        self._ranks, self._algorithm = ranks, algorithm
        self._links = ranks.links() if algorithm in OF_MASTER else None
        self._array = np.zeros(0)

    @property
    def ran(self) -> str:
        """What adds: an algorithm's name, or "library"."""
        return self._algorithm if self._links else "library"

    def room(self, size: int, kind: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return one array, twice."""
        self._array = np.zeros(size, kind)
        return self._array, self._array

    def memory(self, segments: Sequence[int]) -> MeanMemory | None:
        """Return None: all is sent to rank 0."""
        return None

    def sum(self) -> None:
        """Collect and send."""
        if self._links:
            OF_MASTER[self._algorithm](self._links, self._array)
            return
        self._ranks.sum_to_master(self._array)
        self._ranks.broadcast(self._array)


class Average(Protocol):
    """A weighted average over all workers."""

    magnitudes: Floats
    """(segments,) The largest ones of the last average that was OK, if the next one asks for them; zeros before the first."""

    @property
    def own(self) -> Floats:
        """An array, zeros at first, for the state that a rank adds last: of another one other ranks would need a copy."""

    @property
    def mean(self) -> Floats:
        """An array, zeros at first, to `finish` into without a copy. An average stays in it until the next `exchange`, which may
        leave anything there; of one worker, whose state is the average, only until `own` is written: they are one array."""

    def begin(self, reference: Floats | None, total_weight: int, floor: Floats | None = None) -> None:
        """Begin a round.

        reference: a state that is equal on all ranks; it is not kept. None: one of the `magnitudes`, the last average of this
        object that was OK, which saves reading it. total_weight: of all workers of all ranks. floor: (segments,) the magnitude to
        expect where a segment of the reference is all zero, also equal on all ranks.
        """

    def add(self, vector: Floats, weight: int, last: bool = False) -> None:
        """Add weight times a worker's state. last: the rank adds no more, and the state stays as it is until `finish`."""

    def exchange(self) -> None:
        """Add up what all ranks have: one message through the topology, or in memory that they share."""

    def finish(self, out: Floats) -> Verdict:
        """Write the average to `out`, which holds nothing of use unless the verdict is OK."""

    def widen(self) -> None:
        """Let values be larger by a factor of 2^WIDER, until a round ends well."""


class Exact:
    """The average in int64 fixed point: the same bits for any order, any number of ranks, any MPI library.

    A scale per segment comes from the reference, so that no message is needed to agree on it. A value may be
    2^HEADROOM times as large as the power of two above the largest of its segment (1 above 0). The verdict travels with the sums.
    """

    def __init__(self, topology: Topology, segments: Sequence[int]) -> None:
        self._largest, self.magnitudes = np.zeros((2, len(segments)), np.float32)
        self._scales, self._headroom = Scales(segments), HEADROOM
        self._memory, self._size = topology.memory(segments), sum(segments)
        self._sums: Sums = (
            SharedSums(self._memory, self._scales) if self._memory else Message(topology, self._scales)
        )

    @cached_property
    def own(self) -> Floats:
        """See Average."""
        return self._memory.own if self._memory else aligned(self._size)

    @cached_property
    def mean(self) -> Floats:
        """See Average."""
        return self._memory.mean if self._memory else aligned(self._size)

    def begin(self, reference: Floats | None, total_weight: int, floor: Floats | None = None) -> None:
        """Set the scales; see Average.begin."""
        if reference is None:
            np.copyto(self._largest, self.magnitudes)
        else:
            fixedpoint.largest_magnitudes(reference, self._scales.segments, self._largest)
        if floor is not None:
            np.copyto(self._largest, floor, where=self._largest == 0)
        self._scales.set(self._largest, self._headroom, total_weight)
        finite = fixedpoint.all_finite(self._largest)
        self._sums.begin(Verdict.OK if finite else Verdict.NOT_FINITE)

    def add(self, vector: Floats, weight: int, last: bool = False) -> None:
        """Add weight times a worker's state, each value rounded to the scale of its segment."""
        self._sums.add(vector, weight, last)

    def exchange(self) -> None:
        """Add up what all ranks have."""
        self._sums.exchange()

    def finish(self, out: Floats) -> Verdict:
        """Write the average to `out` if all values were within limits; headroom is then HEADROOM again."""
        verdict = self._sums.finish(out, self._largest)
        if verdict != Verdict.OK:
            return verdict
        self._headroom = HEADROOM  # a round must not depend on what came before its start
        if not fixedpoint.all_finite(self._largest):
            return Verdict.NOT_FINITE
        np.copyto(self.magnitudes, self._largest)
        return Verdict.OK

    def widen(self) -> None:
        """Add WIDER bits of headroom, until a round ends well."""
        self._headroom += WIDER


class Fast:
    """The average in float32, added in whatever order MPI likes: half the bytes."""

    def __init__(self, topology: Topology, segments: Sequence[int]) -> None:
        self._topology = topology
        self._message, self._sum = topology.room(sum(segments), np.float32)
        self._total_weight, self.magnitudes = 1, np.zeros(len(segments), np.float32)

    @cached_property
    def own(self) -> Floats:
        """See Average."""
        return aligned(self._message.size)

    @cached_property
    def mean(self) -> Floats:
        """See Average."""
        return aligned(self._message.size)

    def begin(self, reference: Floats | None, total_weight: int, floor: Floats | None = None) -> None:
        """Zero the sum. Neither reference nor floor is needed."""
        self._message.fill(0)
        self._total_weight = total_weight

    def add(self, vector: Floats, weight: int, last: bool = False) -> None:
        """Add weight times a worker's state."""
        fixedpoint.add_weighted(vector, weight, self._message)

    def exchange(self) -> None:
        """Add up what all ranks have: one message of float32."""
        self._topology.sum()

    def finish(self, out: Floats) -> Verdict:
        """Write the average to `out`. All ranks got the same sum; one with infinity or NaN is not finite."""
        fixedpoint.divide(self._sum, self._total_weight, out)
        return Verdict.OK if fixedpoint.all_finite(out) else Verdict.NOT_FINITE

    def widen(self) -> None:
        """There is no scale, so no verdict asks for this."""


class Single:
    """The average over one worker: its state, to the bit. Fixed point would round it."""

    def __init__(self, segments: Sequence[int]) -> None:
        self.own = self.mean = aligned(sum(segments))
        self.magnitudes = np.zeros(len(segments), np.float32)

    def begin(self, reference: Floats | None, total_weight: int, floor: Floats | None = None) -> None:
        """Nothing to prepare."""

    def add(self, vector: Floats, weight: int, last: bool = False) -> None:
        """Take the worker's state."""
        if vector is not self.own:
            np.copyto(self.own, vector)

    def exchange(self) -> None:
        """Nobody to exchange with."""

    def finish(self, out: Floats) -> Verdict:
        """Write the state to `out`."""
        if out is not self.mean:
            np.copyto(out, self.mean)
        return Verdict.OK if fixedpoint.all_finite(out) else Verdict.NOT_FINITE

    def widen(self) -> None:
        """There is no scale, so no verdict asks for this."""
