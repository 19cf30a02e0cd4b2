"""Pieces of work none of which needs what another makes: one after another in one thread, side by side in several."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Call = tuple[Callable[..., object], tuple[Any, ...]]
Room = Callable[[np.ndarray], np.ndarray]
"""Gives a thread memory of its own in place of some that kernels work in."""
FULL = 0.9
"""The part of the threads' time that pieces, which they take whole, must fill. Else each call is cut, and what it makes lies near
several cores.
"""


def in_turn(pieces: Sequence[Sequence[Call]], own: Sequence[np.ndarray], needed: Sequence[Call]) -> None:
    """Run all pieces, each a list of calls. own: the memory that they work in, in place of which every thread has its own.

    needed: what is made in such memory before any of them; a thread that takes pieces whole makes it for itself.
    """
    for piece in (needed, *pieces):
        for kernel, arguments in piece:
            kernel(*arguments)


def calls(program: Iterable[Call]) -> Iterator[Call]:
    """A program's calls of kernels, those of its pieces as well."""
    for kernel, arguments in program:
        if kernel is in_turn:
            pieces, _, needed = arguments
            for piece in (needed, *pieces):
                yield from calls(piece)
        else:
            yield kernel, arguments


def steps(
    program: Iterable[Call], threads: int, rooms: list[Room], cut: Callable[..., Any]
) -> Iterator[list[list[Call]]]:
    """What each thread calls until all meet, again and again. rooms: of each thread, the first leaves memory as it is. cut:
    `parts.parts`.
    """
    for call in program:
        kernel, arguments = call
        if kernel is not in_turn:
            yield [[part] if part else [] for part in cut(call, threads, rooms)]
            continue
        pieces, own, needed = arguments
        if -(-len(pieces) // threads) * threads * FULL <= len(pieces):
            ends = [len(pieces) * thread // threads for thread in range(threads + 1)]
            both = zip(ends, ends[1:], rooms, strict=False)
            yield [_with_room([needed, *pieces[first:last]], own, room) for first, last, room in both]
        else:
            yield from steps(calls([call]), threads, rooms, cut)


def _with_room(pieces: Iterable[Sequence[Call]], own: Sequence[np.ndarray], room: Room) -> list[Call]:
    """These one after another, in a thread's memory."""

    def moved(argument: Any) -> Any:
        inside = isinstance(argument, np.ndarray) and any(np.may_share_memory(argument, each) for each in own)
        return room(argument) if inside else argument

    return [(kernel, tuple(map(moved, arguments))) for piece in pieces for kernel, arguments in piece]
