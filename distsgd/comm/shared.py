"""Memory that all ranks of a node read and write, from MPI's windows."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from mpi4py import MPI

FOLDER = "/dev/shm"
"""Where MPI libraries put such memory. Where it is full, a process dies of a bus error: half of what is free is left alone."""
_LINE = 64


class SharedMemory:
    """An array for each rank and one more for their sum, seen by all ranks of a communicator: several, on one node.

    What a rank wrote before `meet` the others see after it.
    """

    def __init__(self, communicator: "MPI.Intracomm", size: int, kind: DTypeLike) -> None:
        from mpi4py import MPI

        length = size * np.dtype(kind).itemsize
        room = -(-length // _LINE) * _LINE
        parts = 2 if communicator.rank == 0 else 1  # whoever touches a page first has it near: each its own
        self._window = MPI.Win.Allocate_shared(parts * room, 1, comm=communicator)
        self._window.Lock_all()
        self._communicator = communicator
        memory: list[Any] = [self._window.Shared_query(rank)[0] for rank in range(communicator.size)]
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


def there_is_room(ranks: int, size: int, kind: DTypeLike) -> bool:
    """Whether the node has memory to share for so many ranks."""
    try:
        space = os.statvfs(FOLDER)
    except OSError:
        return False
    return (ranks + 1) * size * np.dtype(kind).itemsize < space.f_bavail * space.f_frsize // 2
