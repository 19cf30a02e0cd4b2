"""Messages from one rank to another, and sums that are built of them: known algorithms, whatever the MPI library would choose.

A library's own pairwise exchanges announce each long message and wait for the answer, which waits behind what goes the other way:
over TCP they ran at half a cable's speed. Here a message goes in segments short enough to be sent unannounced. All ranks get the
same bits from each algorithm; in integers, also the same from all of them.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mpi4py import MPI

Array = NDArray[Any]

SEGMENT = 32768
"""Bytes of a segment: under the 64 KiB up to which Open MPI sends unannounced over TCP, and long beside what a call costs."""


class Links:
    """From this rank to every other one of a communicator, for one array's sum at a time; on a duplicate, where nobody shouts."""

    def __init__(self, communicator: "MPI.Intracomm") -> None:
        self._communicator = communicator.Dup()
        self._scratch = np.zeros(0, np.uint8)
        self.rank, self.size = communicator.rank, communicator.size

    def close(self) -> None:
        """Free the duplicate, together with all other ranks."""
        self._communicator.Free()

    def send(self, to: int, sent: Array) -> None:
        """Send an array, and return when it is there: otherwise it shares its way with what is sent next."""
        *parts, last = _segments(sent)
        going = [self._communicator.Isend(part, to) for part in parts]
        for request in [*going, self._communicator.Issend(last, to)]:
            request.Wait()

    def receive(self, source: int, place: Array, add: bool) -> None:
        """Receive an array, or add it."""
        self._take(source, place, add, lambda: [])

    def swap(self, to: int, sent: Array, source: int, place: Array, add: bool) -> None:
        """Send an array to one rank while another's comes into its place, or is added to what is there: the same array perhaps."""
        self._take(
            source, place, add, lambda: [self._communicator.Isend(part, to) for part in _segments(sent)]
        )

    def _take(self, source: int, place: Array, add: bool, send: Callable[[], list[Any]]) -> None:
        into = self._beside(place) if add else place
        coming = [self._communicator.Irecv(part, source) for part in _segments(into)]
        going = send()
        parts = zip(coming, _segments(into), _segments(place), strict=True)
        for number, (request, part, mine) in enumerate(parts):
            request.Wait()
            if add:
                for sent in going[number : number + 1]:
                    sent.Wait()  # what is not sent yet must not change
                mine += part
        for sent in going:
            sent.Wait()

    def _beside(self, place: Array) -> Array:
        if self._scratch.nbytes < place.nbytes:
            self._scratch = np.empty(place.nbytes, np.uint8)
        return self._scratch[: place.nbytes].view(place.dtype)


def _segments(array: Array) -> Iterator[Array]:
    """One at least, empty if the array is."""
    length = SEGMENT // array.itemsize
    return (array[first : first + length] for first in range(0, max(len(array), 1), length))


def ring(links: Links, array: Array) -> None:
    """Put the sum in every rank's array: each part travels around twice, once to be added to and once to be known."""
    ranks, rank = links.size, links.rank
    ends = [len(array) * number // ranks for number in range(ranks + 1)]
    parts = [array[first:last] for first, last in itertools.pairwise(ends)]
    after, before = (rank + 1) % ranks, (rank - 1) % ranks
    for step in range(2 * (ranks - 1)):
        sent, place = parts[(rank - step) % ranks], parts[(rank - step - 1) % ranks]
        links.swap(after, sent, before, place, add=step < ranks - 1)


def recursive_doubling(links: Links, array: Array) -> None:
    """Put the sum in every rank's array: partners at distance 1, 2, 4, ... swap all they have."""

    def among(place: int, places: int, rank_of: Callable[[int], int]) -> None:
        distance = 1
        while distance < places:
            partner = rank_of(place ^ distance)
            links.swap(partner, array, partner, array, add=True)
            distance *= 2

    _folded(links, array, among)


def rabenseifner(links: Links, array: Array) -> None:
    """Put the sum in every rank's array: partners swap and add halves, then quarters, ..., and then all that they know.

    Near ones first: what leaves a node that has several ranks is the least.
    """

    def among(place: int, places: int, rank_of: Callable[[int], int]) -> None:
        mine, before, distance = array, list[tuple[int, Array, Array]](), 1
        while distance < places:
            halves = mine[: len(mine) // 2], mine[len(mine) // 2 :]
            upper = bool(place & distance)
            partner, mine, other = rank_of(place ^ distance), halves[upper], halves[not upper]
            links.swap(partner, other, partner, mine, add=True)
            before.append((partner, mine, other))
            distance *= 2
        for partner, mine, other in reversed(before):
            links.swap(partner, mine, partner, other, add=False)

    _folded(links, array, among)


def _folded(links: Links, array: Array, among: Callable[[int, int, Callable[[int], int]], None]) -> None:
    """Let `among` work for a power of two of places; further ranks give their array to a neighbour first, and get it back."""
    places = 1 << (links.size.bit_length() - 1)
    extra = links.size - places  # of the first 2 * extra ranks only the even ones have a place
    if links.rank < 2 * extra and links.rank % 2:
        links.send(links.rank - 1, array)
        links.receive(links.rank - 1, array, add=False)
        return
    folds = links.rank < 2 * extra
    if folds:
        links.receive(links.rank + 1, array, add=True)
    place = links.rank // 2 if folds else links.rank - extra

    def rank_of(other: int) -> int:
        return 2 * other if other < extra else other + extra

    if (
        extra and places > 1
    ):  # a partner waits for one who folds: together with what is folded it would come slower
        partner = rank_of(place ^ 1)
        links.swap(partner, array[:0], partner, array[:0], add=False)
    among(place, places, rank_of)
    if folds:
        links.send(links.rank + 1, array)


def binomial(links: Links, array: Array) -> None:
    """Put the sum in every rank's array: collected by rank 0 along a tree, in log2(ranks) rounds, and sent back along it."""
    rank, distance = links.rank, 1
    while distance < links.size and not rank & distance:
        if rank + distance < links.size:
            links.receive(rank + distance, array, add=True)
        distance *= 2
    if rank:
        links.send(rank - distance, array)
        links.receive(rank - distance, array, add=False)
    while distance > 1:
        distance //= 2
        if rank + distance < links.size:
            links.send(rank + distance, array)


Sum = Callable[[Links, Array], None]
"""Puts the sum over ranks in every rank's array."""

OF_ALL: dict[str, Sum] = {
    "ring": ring,
    "recursive-doubling": recursive_doubling,
    "rabenseifner": rabenseifner,
}
"""By name: those in which all ranks add."""
OF_MASTER: dict[str, Sum] = {"binomial": binomial}
"""By name: those in which rank 0 collects and sends back."""
