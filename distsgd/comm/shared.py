"""Memory that all ranks of a node read and write, from MPI's windows."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distsgd.kernels import together

if TYPE_CHECKING:
    from mpi4py import MPI

FOLDER = "/dev/shm"
"""Where MPI libraries put such memory. Where it is full, a process dies of a bus error: half of what is free is left alone."""
_LINE = 64


def _allocated(communicator: "MPI.Intracomm", size: int) -> tuple["MPI.Win", list[Any]]:
    """A window with so many bytes of this rank's, and the memory of each rank."""
    from mpi4py import MPI

    window = MPI.Win.Allocate_shared(size, 1, comm=communicator)
    window.Lock_all()
    return window, [window.Shared_query(rank)[0] for rank in range(communicator.size)]


def _joined(parts: Sequence[Any]) -> Any:
    """The memory of all ranks: MPI lays each behind that of the rank before it."""
    from mpi4py import MPI

    first, last = parts[0].address, parts[-1].address + parts[-1].nbytes
    return MPI.buffer.fromaddress(first, last - first)


class SharedMemory:
    """An array for each rank and one more for their sum, seen by all ranks of a communicator: several, on one node.

    What a rank wrote before `meet` the others see after it.
    """

    def __init__(self, communicator: "MPI.Intracomm", size: int, kind: DTypeLike) -> None:
        length = size * np.dtype(kind).itemsize
        room = -(-length // _LINE) * _LINE
        parts = 2 if communicator.rank == 0 else 1  # whoever touches a page first has it near: each its own
        self._window, memory = _allocated(communicator, parts * room)
        self._communicator = communicator
        self.of_ranks: list[NDArray[Any]] = [np.frombuffer(part, kind, size) for part in memory]
        self.total: NDArray[Any] = np.frombuffer(memory[0], kind, size, room)
        ranks, rank = communicator.size, communicator.rank
        self._part = slice(size * rank // ranks, size * (rank + 1) // ranks)
        self.of_ranks[rank][:] = 0  # the memory is there from now on, whoever fills the rest of it
        self.total[self._part] = 0

    def meet(self) -> None:
        """Return when all ranks have called."""
        self._window.Sync()
        self._communicator.Barrier()
        self._window.Sync()

    def add_part(self) -> None:
        """Write this rank's part of the sum of all ranks' arrays."""
        first, second, *others = (array[self._part] for array in self.of_ranks)
        total = self.total[self._part]
        np.add(first, second, total)
        for array in others:
            total += array

    def close(self) -> None:
        """Give the memory back, together with all other ranks; the arrays may not be used any more."""
        self._window.Unlock_all()
        self._window.Free()


class MeanMemory:
    """What ranks of a node average in: a row of words each, as `kernels.together` has them, and the average.

    What a rank wrote before `meet` the others see after it.
    """

    def __init__(self, communicator: "MPI.Intracomm", segments: Sequence[int], several: bool = True) -> None:
        """several: whether a rank may add more than one vector; else there is no room for sums."""
        rank, ranks, size = communicator.rank, communicator.size, sum(segments)
        sums_at, width, average = _places(segments, several)
        own = width + average * (rank == ranks - 1)
        self._window, parts = _allocated(communicator, 8 * own)
        whole = np.frombuffer(_joined(parts), np.int64)
        self.words: NDArray[np.int64] = whole[: ranks * width].reshape(ranks, width)
        self.mean: NDArray[np.float32] = whole[ranks * width :].view(np.float32)[:size]
        values = np.array([size * each // ranks for each in range(ranks + 1)])
        first, last = np.minimum(_lines(values), size)[rank : rank + 2].tolist()
        self.part = first, last, sums_at, 2 * (width - average)
        """Values of the average that this rank writes; where in a row sums begin, and float32 values."""
        self.rows = self.words, self.words.view(np.float32), rank
        self._own = self.words[rank]
        self.sums = self._own[sums_at : sums_at + size * several]
        self.own: NDArray[np.float32] = self._own[width - average :].view(np.float32)[:size]
        self._meetings = 0
        self._own[:], self.mean[first:last] = 0, 0  # there from now on, whoever fills the rest
        communicator.Barrier()  # before anybody is counted

    def adds(self, kind: int, weight: int) -> None:
        """This rank adds sums, or float32 values of some weight, or nothing."""
        self._own[together.KIND], self._own[together.WEIGHT] = kind, weight

    def show(self, vector: NDArray[np.float32]) -> None:
        """Let the other ranks see their parts of a vector, which they do where it is `own`."""
        if vector is not self.own:
            first, last, *_ = self.part
            self.own[:first], self.own[last:] = vector[:first], vector[last:]

    def meet(self) -> None:
        """Return when all ranks have called: what each wrote before, the others see now.

        MPI is not called: of messages that are on their way none may be needed for another rank to come here.
        """
        self._meetings += 1
        together.arrive(self.words)
        while not together.all_there(self.words, self._meetings * len(self.words)):
            pass  # a signal is seen here

    def close(self) -> None:
        """Give the memory back, together with all other ranks; the arrays may not be used any more."""
        self._window.Unlock_all()
        self._window.Free()


def _places(segments: Sequence[int], several: bool) -> tuple[int, int, int]:
    """Where in a row of words its sums begin, all its words, and those of the average."""
    largest, values = _lines(np.array([len(segments), sum(segments)])).tolist()
    sums_at = together.LARGEST + largest
    return sums_at, sums_at + values * several + values // 2, values // 2


def _lines(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """So many float32 values, and those that they share their last line of the cache with."""
    each = _LINE // 4
    return -(-counts // each) * each


def mean_bytes(ranks: int, segments: Sequence[int], several: bool = True) -> int:
    """How much so many ranks share to average such vectors, see MeanMemory."""
    _, width, average = _places(segments, several)
    return 8 * (ranks * width + average)


def there_is_room(size: int) -> bool:
    """Whether the node has so many bytes to share."""
    try:
        space = os.statvfs(FOLDER)
    except OSError:
        return False
    return size < space.f_bavail * space.f_frsize // 2
