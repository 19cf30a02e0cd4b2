"""A rank's threads, and the memory that each of them works in."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from distsgd.kernels import threads as native
from distsgd.threads.parts import parts
from distsgd.threads.turns import calls, steps

if TYPE_CHECKING:
    from distsgd.threads.turns import Call, Room

LINE = 64
"""Bytes of a line of the cache: memory begins where that which it stands for does in one."""


class Team:
    """The thread that makes it, and so many more while its context is open; programs that are bound before run in all of them.

    With one thread, or while the context is not open, a program's kernels run one after another in the thread that calls, as a
    list as well: the interpreter has no part between two of them, and Ctrl-C is seen when the list ends.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._others: list[threading.Thread] = []
        self._lists: list[np.ndarray] = []
        self._rooms = [Rooms() for _ in range(threads - 1)]
        self._error: BaseException | None = None
        self._words = np.zeros(native.OWN + threads * native.LINE, np.int64)
        self._wakes = [threading.Semaphore(0) for _ in range(threads)]

    @property
    def memory(self) -> int:
        """Bytes that threads work in beside what one would."""
        return sum(rooms.memory for rooms in self._rooms)

    def bound(self, program: "Sequence[Call]") -> Callable[[], None]:
        """What runs a list of kernels with their arguments."""
        alone = _Alone(program)
        if self.threads == 1 or not program:
            return alone
        rooms: list[Room] = [lambda memory: memory, *self._rooms]
        shared = list(zip(*steps(program, self.threads, rooms, parts), strict=True))
        lists = [native.written(of_thread) for of_thread in shared]
        self._lists += lists
        places = np.array([words.ctypes.data for words in lists])
        return partial(self._run, alone, int(places[0]), places, shared)

    def _run(self, alone: Callable[[], None], first: int, places: np.ndarray, kept: object) -> None:
        """Run the list at each of the places in a thread. kept: what holds the memory that the lists name."""
        if not self._others:
            alone()
            return
        self._words[native.OWN + native.LIST :: native.LINE] = places
        if native.ask(self._words):
            self._wake()
        if not native.run(self._words, 0, first):
            raise RuntimeError(f"a thread of this rank has failed: {self._what_failed()}") from self._error

    def _wake(self) -> None:
        for thread in range(1, self.threads):
            asleep = native.OWN + thread * native.LINE + native.ASLEEP
            if self._words[asleep]:
                self._words[asleep] = 0
                self._wakes[thread].release()

    def _what_failed(self) -> str:
        if self._error:
            return repr(self._error)
        entry = int(self._words[native.FAILED])
        held = (own for own in self._lists if 0 <= entry - own.ctypes.data < own.nbytes)
        return next((f"kernel {native.name(entry, own)}" for own in held), "it was stopped")

    def __enter__(self) -> "Team":
        if self.threads > 1:
            self._words[:], self._error = 0, None
            self._others = [
                threading.Thread(target=self._serve, args=(thread,), name=f"thread {thread}", daemon=True)
                for thread in range(1, self.threads)
            ]
        try:
            for thread in self._others:
                thread.start()
        except RuntimeError:  # the system has no more
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        others, self._others = self._others, []
        if others:
            native.stop(self._words, native.STOPPED)
        for thread, wake in zip(others, self._wakes[1:] if others else [], strict=True):
            wake.release()
            if thread.ident is not None:
                thread.join()

    def _serve(self, thread: int) -> None:
        try:
            while native.serve(self._words, thread):
                self._wakes[thread].acquire()
        except BaseException as error:
            self._error = error
            native.stop(self._words, native.STOPPED)


class _Alone:
    """A program as a list that the thread that calls it runs by itself; written when it is first asked for."""

    def __init__(self, program: "Sequence[Call]") -> None:
        self._program = list(calls(program))
        self._words = np.zeros(native.OWN + native.LINE, np.int64)
        self._list: np.ndarray | None = None
        self._place = 0

    def __call__(self) -> None:
        if self._list is None:
            self._list = native.written([self._program])
            self._place = self._list.ctypes.data
        if not native.run(self._words, 0, self._place):
            failed = native.name(int(self._words[native.FAILED]), self._list)
            raise RuntimeError(f"a kernel has failed: {failed}")


def whole(view: np.ndarray) -> np.ndarray:
    """The memory that a view is a part of."""
    while isinstance(view.base, np.ndarray):
        view = view.base
    return view


class Rooms:
    """A thread's own memory, in place of some that kernels work in: for each whole one as large, touched only where it is used."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._used: dict[int, tuple[int, int]] = {}

    def __call__(self, memory: np.ndarray) -> np.ndarray:
        """The same place in the copy of all the memory that `memory` is a part of."""
        if memory.size == 0:
            return memory
        base = whole(memory)
        _, copy = self._copies.setdefault(id(base), (base, _like(base)))
        first = memory.ctypes.data - base.ctypes.data
        last = np.lib.array_utils.byte_bounds(memory)[1] - base.ctypes.data
        low, high = self._used.get(id(base), (first, last))
        self._used[id(base)] = min(low, first), max(high, last)
        return np.ndarray(memory.shape, memory.dtype, copy, first, memory.strides)

    @property
    def memory(self) -> int:
        """Bytes that are used."""
        return sum(high - low for low, high in self._used.values())


def _like(memory: np.ndarray) -> np.ndarray:
    """Bytes, as many and as far from the beginning of a line."""
    room = np.zeros(memory.nbytes + LINE, np.uint8)
    first = (memory.ctypes.data - room.ctypes.data) % LINE
    return room[first : first + memory.nbytes]
