"""The ranks of a run that is one process: no MPI."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distsgd.comm.links import Links
from distsgd.comm.shared import MeanMemory, SharedMemory

if TYPE_CHECKING:
    from distsgd.comm.ranks import Ranks


class Alone:
    """The only rank, without MPI."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Nobody to wait for."""

    def sum(self, array: NDArray[Any]) -> None:
        """The array is the sum."""

    def sum_to_master(self, array: NDArray[Any]) -> None:
        """The array is the sum."""

    def maximum(self, array: NDArray[np.int64]) -> None:
        """The array is the maximum."""

    def broadcast(self, array: NDArray[Any]) -> None:
        """The array is rank 0's."""

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Return the bytes."""
        return data

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the bytes as a list of one."""
        return [data]

    def on_node(self) -> tuple[int, int]:
        """Return (0, 1)."""
        return 0, 1

    def shared(self, size: int, kind: DTypeLike) -> SharedMemory | None:
        """Return None: there is nobody to share with."""
        return None

    def mean_memory(self, segments: Sequence[int], several: bool = True) -> MeanMemory | None:
        """Return None: there is nobody to share with."""
        return None

    def links(self) -> Links | None:
        """Return None: there is nobody at the other end."""
        return None

    def first(self, count: int) -> "Ranks":
        """Return this one."""
        return self

    def mpi_library(self) -> str:
        """Return "none"."""
        return "none"

    def shout(self) -> None:
        """Nobody hears."""

    def hears(self) -> bool:
        """Nobody shouts."""
        return False

    def close(self) -> None:
        """Nothing is held."""

    def abort(self, code: int) -> None:
        """End this process at once with exit status `code`."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
