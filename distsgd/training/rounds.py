"""What a round is: local steps of every worker from the same start, then one average over all of them.

A round is run inside one of the clock: what is not added to another phase is computing.

Three kinds, for what is averaged and when. Each leaves in `state` what all ranks hold: parameters, and the optimizer's moments.
`arrays` is all that a round leaves for the next, by name, whole on rank 0; `restore` takes it back, on any number of ranks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from distsgd.clock import Clock
from distsgd.comm import MOST_WIDENINGS, Average, Ranks, Verdict
from distsgd.kernels.fixedpoint import largest_magnitudes
from distsgd.kernels.vector import aligned
from distsgd.training.local import Local
from distsgd.training.pause import Pause, Stopped
from distsgd.training.watch import Watch

Take = Callable[[str, np.ndarray], None]
"""Fills the array, on every rank, with what was saved under that name."""


class Diverged(Exception):
    """Parameters became infinite or no numbers; every rank raises it in the same round."""


@dataclass
class Meeting:
    """Where ranks meet: the average, and the clock that tells waiting from transfer."""

    average: Average
    pause: Pause
    clock: Clock
    watch: Watch
    expected: np.ndarray | None = None
    """(segments,) the magnitude to expect of what is zero at a round's start."""
    unseen: int = 0
    """Rounds since the watch's last look."""
    _added: float = 0.0
    """When the last vector was added: to read the time takes longer than all that lies between that and waiting."""

    def begin(self, reference: np.ndarray | None, total_weight: int) -> None:
        """Begin a round from what all ranks hold; None: from the last average."""
        began = self.clock.now()
        self.average.begin(reference, total_weight, self.expected)
        self.clock.average += self.clock.now() - began

    def add(self, vector: np.ndarray, weight: int, last: bool) -> None:
        """Add a worker's vector. last: of this rank; it stays as it is until the average is there."""
        began = self.clock.now()
        if weight:
            self.average.add(vector, weight, last)
        self._added = self.clock.now()
        self.clock.average += self._added - began

    def end(self, out: np.ndarray) -> bool:
        """Write the average to `out`. False if values outgrew their scale: the round is to be done again, with wider ones.

        Raises Stopped where a rank has left the round.
        """
        met = self.wait(self._added)
        self.average.exchange()
        verdict = self.average.finish(out)
        self.clock.average += self.clock.now() - met
        if verdict == Verdict.NOT_FINITE:
            raise Diverged
        if verdict == Verdict.OVERFLOW:
            self.average.widen()
        return verdict == Verdict.OK

    def wait(self, began: float) -> float:
        """Return when all ranks are there, and what the time is then; raises Stopped where one has left the round.

        began: when this rank came.
        """
        try:
            told, self.unseen = None, self.unseen + 1
            if self.watch.on and self.unseen >= self.watch.together:
                told, self.unseen = self.watch.look(), 0
            self.pause.meet(told)
            if told is not None:
                self.watch.judge()
        finally:
            met = self.clock.now()
            self.clock.wait += met - began
        return met


class ParameterRounds:
    """Parameters and moments averaged at the end of every round."""

    def __init__(self, local: Local, meeting: Meeting) -> None:
        self._local, self._meeting, self.state = local, meeting, local.state.copy()
        self._reference: np.ndarray | None = self.state

    def round(self, first: int, last: int) -> None:
        """The steps first..last of the epoch, and the average."""
        totals = self._local.network.totals.copy()
        for _ in range(MOST_WIDENINGS + 1):
            try:
                if self._attempt(first, last):
                    self._reference = None
                    return
            except Stopped:
                np.copyto(self._local.network.totals, totals)
                raise
            np.copyto(self._local.network.totals, totals)
        raise Diverged

    def _attempt(self, first: int, last: int) -> bool:
        workers = self._local.workers
        self._meeting.begin(self._reference, workers.all_seen(first, last))
        for worker in workers.hosted:
            np.copyto(self._local.state, self.state)
            self._local.run(worker, first, last)
            weight = workers.seen(worker.number, first, last)
            self._meeting.add(self._local.state, weight, worker is workers.hosted[-1])
        return self._meeting.end(self.state)

    def settle(self) -> None:
        """The state is the average already."""

    def arrays(self, ranks: Ranks) -> Iterator[tuple[str, np.ndarray]]:
        """The state."""
        yield "state", self.state

    def restore(self, take: Take) -> None:
        """The state."""
        take("state", self.state)
        self._reference = self.state


class OneRound:
    """Parameters and moments averaged only at the end; an epoch's average is for its metrics, and then thrown away."""

    def __init__(self, local: Local, meeting: Meeting) -> None:
        self._local, self._meeting, self._start = local, meeting, local.state.copy()
        self._states = {worker.number: local.state.copy() for worker in local.workers.hosted}
        self._seen = np.zeros(len(local.workers.sizes), np.int64)
        self._steps = np.zeros_like(self._seen)  # done by the hosted workers, in all epochs
        self.state = local.state.copy()

    def round(self, first: int, last: int) -> None:
        """The steps first..last of the epoch, every worker from where it was: a round that was left goes on there."""
        workers, before = self._local.workers, self._local.number(0)
        for worker in workers.hosted:
            np.copyto(self._local.state, self._states[worker.number])
            self._local.run(worker, max(first, int(self._steps[worker.number]) - before), last)
            np.copyto(self._states[worker.number], self._local.state)
            self._steps[worker.number] = self._local.number(self._local.reached)
        self._meeting.wait(self._local.clock.now())
        self._seen += [workers.seen(worker, first, last) for worker in range(len(self._seen))]

    def settle(self) -> None:
        """Average what the workers have so far."""
        for _ in range(MOST_WIDENINGS + 1):
            self._meeting.begin(self._start, int(self._seen.sum()))
            for worker in self._local.workers.hosted:
                state, weight = self._states[worker.number], int(self._seen[worker.number])
                self._meeting.add(state, weight, worker is self._local.workers.hosted[-1])
            if self._meeting.end(self.state):
                return
        raise Diverged

    def arrays(self, ranks: Ranks) -> Iterator[tuple[str, np.ndarray]]:
        """Every worker's state, how far it is and how many images it had in whole rounds; one worker at a time."""
        steps = self._steps.copy()
        ranks.maximum(steps)
        yield "seen", self._seen
        yield "steps", steps
        for worker in range(len(self._seen)):
            state = self._states.get(worker)
            parts = ranks.gather_bytes(b"" if state is None else state.tobytes())
            yield f"worker-{worker:05d}", np.frombuffer(b"".join(parts), np.float32)

    def restore(self, take: Take) -> None:
        """What `arrays` gave; a rank keeps its own workers'."""
        steps, other = np.zeros_like(self._steps), np.empty_like(self.state)
        take("seen", self._seen)
        take("steps", steps)
        for worker in range(len(self._seen)):
            take(f"worker-{worker:05d}", self._states.get(worker, other))
        for worker in self._states:
            self._steps[worker] = steps[worker]


class GradientRounds:
    """Gradients averaged at every step, and one update everywhere: synchronous SGD."""

    def __init__(self, local: Local, meeting: Meeting) -> None:
        self._local, self._meeting, self.state = local, meeting, local.state
        self._mean = meeting.average.mean
        """Of the last step: what the optimizer is bound to."""

    def round(self, first: int, last: int) -> None:
        """The steps first..last of the epoch."""
        for step in range(first, last):
            self._step(step)

    def _step(self, step: int) -> None:
        totals = self._local.network.totals.copy()
        for _ in range(MOST_WIDENINGS + 1):
            if self._attempt(step):
                self._local.update(step)
                return
            np.copyto(self._local.network.totals, totals)
        raise Diverged

    def _attempt(self, step: int) -> bool:
        self._meeting.begin(None, self._local.workers.all_seen(step, step + 1))
        workers = self._local.workers.hosted
        for worker in workers:
            count = self._local.learn(worker, step)
            self._meeting.add(self._local.network.gradient, count, worker is workers[-1])
        return self._meeting.end(self._mean)

    def settle(self) -> None:
        """The state is the same everywhere already."""

    def arrays(self, ranks: Ranks) -> Iterator[tuple[str, np.ndarray]]:
        """The state, and how large the last gradient was, from which the next one's scales come."""
        yield "state", self.state
        yield "magnitudes", self._meeting.average.magnitudes

    def restore(self, take: Take) -> None:
        """The state, and how large the last gradient was."""
        take("state", self.state)
        take("magnitudes", self._meeting.average.magnitudes)


Rounds = ParameterRounds | OneRound | GradientRounds


def gradient_magnitudes(local: Local, segments: list[int], ranks: Ranks, clipped: bool) -> np.ndarray:
    """The largest magnitude in each tensor of worker 0's first gradient, clipped or as it is, on every rank.

    It tells what moments that start at zero come to.
    """
    largest = aligned(len(segments))
    if ranks.rank == 0:
        local.learn(local.workers.hosted[0], 0)
        local.clock.data = 0.0  # no round's
        largest_magnitudes(local.network.gradient, np.array(segments, np.int64), largest)
        largest *= np.float32(local.optimizer.clipping.share() if clipped else 1)
        local.network.totals[:] = 0
    ranks.broadcast(largest)
    return largest
