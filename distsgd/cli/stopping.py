"""Signals that ask a run to stop: it is told, comes to a place where it can save itself, and ends."""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""SIGUSR1: what MPI launchers pass on to their ranks and leave them their time."""
SAME_SECONDS = 0.5
"""A launcher and a batch system may both pass one signal on: what comes so soon after the first is the first."""
MOST_SECONDS = 8.0
"""A run that has found no place to save itself by then ends without."""


class Stopping:
    """Whether this process was asked to stop. A second signal ends it at once, and so does the want of a place to stop."""

    def __init__(self, end: Callable[[int], None], speaks: bool) -> None:
        """`end` ends all ranks at once, from any thread, with an exit code; where this one speaks, `advice` is said before."""
        self._end, self._speaks = end, speaks
        self.advice: Callable[[], str] = str
        self._since: float | None = None
        self.number = 0
        """Of the first signal."""
        self._saving = False

    def asked(self) -> float | None:
        """Seconds since this process was asked to stop; None if it was not."""
        return None if self._since is None else time.monotonic() - self._since

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """While this is open the run takes the time that it needs; after it as well, if it is to stop."""
        self._saving = True
        yield
        self._saving = self.asked() is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals in. Only Python's main thread can; elsewhere they are left to whoever calls."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        mine = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, lambda *_: None) for number in mine}
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # The bytes come while the main thread waits inside MPI, where no handler written in Python would run.
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watch = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(writer)
            watch.join()
            os.close(reader)

    def _watch(self, reader: int) -> None:
        while True:
            ready = select.select([reader], [], [], None if self._since is None else 0.1)[0]
            numbers = os.read(reader, 64) if ready else None
            if numbers == b"":
                return
            for number in numbers or ():
                self._take(number)
            if not self._saving and (self.asked() or 0.0) > MOST_SECONDS + (not self._speaks):
                self._leave(
                    f"no place to stop within {MOST_SECONDS:.0f} s: what was saved last is what there is"
                )

    def _take(self, number: int) -> None:
        if number not in SIGNALS:
            return
        if self._since is None:
            self.number, self._since = number, time.monotonic()
        elif (self.asked() or 0.0) > SAME_SECONDS:
            self._leave("told to stop twice, and ends at once")

    def _leave(self, why: str) -> None:
        if self._speaks:
            print(f"distsgd: {why}; {self.advice()}", file=sys.stderr, flush=True)
        self._end(128 + self.number)
