"""A rank's threads, and the memory that each of them works in."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from distsgd.kernels.compiled import filled_once

if TYPE_CHECKING:
    from distsgd.threads.parts import Call

LINE = 64
"""Bytes of a line of the cache: memory begins where that which it stands for does in one."""


class Team:
    """The thread that makes it, and so many more while its context is open; programs that are bound before run in all of them.

    With one thread, or while the context is not open, a program's kernels run one after another in the thread that calls.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._others: list[threading.Thread] = []
        self._lists: list[np.ndarray] = []
        self._rooms: list[dict[int, tuple[np.ndarray, np.ndarray]]] = [{} for _ in range(threads - 1)]
        self._error: BaseException | None = None
        if threads > 1:
            with filled_once("threads", mark="threads"):  # only where it is wanted
                from distsgd.kernels import threads as native

            self._native = native
            self._words = np.zeros(native.OWN + threads * native.LINE, np.int64)
            self._wakes = [threading.Semaphore(0) for _ in range(threads)]

    @property
    def memory(self) -> int:
        """Bytes that threads work in beside what one would."""
        return sum(room.nbytes for rooms in self._rooms for _, room in rooms.values())

    def bound(self, program: "Sequence[Call]") -> Callable[[], None]:
        """What runs a list of kernels with their arguments."""
        alone = partial(_one_after_another, program)
        if self.threads == 1 or not program:
            return alone
        from distsgd.threads.parts import parts

        rooms: list[Any] = [lambda memory: memory, *(partial(_room, rooms) for rooms in self._rooms)]
        shared = [parts(call, self.threads, rooms) for call in program]
        each = [
            [part for call in shared for part in (call[t], self._native.MEET)] for t in range(self.threads)
        ]
        lists = [self._native.written([part for part in own if part is not None]) for own in each]
        self._lists += lists
        return partial(
            self._run, alone, lists[0].ctypes.data, np.array([own.ctypes.data for own in lists]), each
        )

    def _run(self, alone: Callable[[], None], first: int, places: np.ndarray, kept: object) -> None:
        """Run the list at each of the places in a thread. kept: what holds the memory that the lists name."""
        if not self._others:
            alone()
            return
        self._words[self._native.OWN + self._native.LIST :: self._native.LINE] = places
        if self._native.ask(self._words):
            self._wake()
        if not self._native.run(self._words, 0, first):
            raise RuntimeError(f"a thread of this rank has failed: {self._what_failed()}") from self._error

    def _wake(self) -> None:
        for thread in range(1, self.threads):
            asleep = self._native.OWN + thread * self._native.LINE + self._native.ASLEEP
            if self._words[asleep]:
                self._words[asleep] = 0
                self._wakes[thread].release()

    def _what_failed(self) -> str:
        if self._error:
            return repr(self._error)
        entry = int(self._words[self._native.FAILED])
        held = (own for own in self._lists if 0 <= entry - own.ctypes.data < own.nbytes)
        return next((f"kernel {self._native.name(entry, own)}" for own in held), "it was stopped")

    def __enter__(self) -> "Team":
        if self.threads > 1:
            self._words[:] = 0
            self._others = [
                threading.Thread(target=self._serve, args=(thread,), name=f"thread {thread}", daemon=True)
                for thread in range(1, self.threads)
            ]
        for thread in self._others:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        others, self._others = self._others, []
        if others:
            self._native.stop(self._words, self._native.STOPPED)
        for thread, wake in zip(others, self._wakes[1:] if others else [], strict=True):
            wake.release()
            thread.join()

    def _serve(self, thread: int) -> None:
        try:
            while self._native.serve(self._words, thread):
                self._wakes[thread].acquire()
        except BaseException as error:
            self._error = error
            self._native.stop(self._words, self._native.STOPPED)


def _one_after_another(program: "Sequence[Call]") -> None:
    for kernel, arguments in program:
        kernel(*arguments)


def whole(view: np.ndarray) -> np.ndarray:
    """The memory that a view is a part of."""
    while isinstance(view.base, np.ndarray):
        view = view.base
    return view


def _room(rooms: dict[int, tuple[np.ndarray, np.ndarray]], memory: np.ndarray) -> np.ndarray:
    """The same place in a copy of all the memory that `memory` is a part of; each is made once, and touched where it is used."""
    if memory.size == 0:
        return memory
    base = whole(memory)
    if id(base) not in rooms:
        rooms[id(base)] = base, _like(base)
    place = memory.ctypes.data - base.ctypes.data
    return np.ndarray(memory.shape, memory.dtype, rooms[id(base)][1], place, memory.strides)


def _like(memory: np.ndarray) -> np.ndarray:
    """Bytes, as many and as far from the beginning of a line."""
    room = np.zeros(memory.nbytes + LINE, np.uint8)
    first = (memory.ctypes.data - room.ctypes.data) % LINE
    return room[first : first + memory.nbytes]
