"""The loop: epochs of rounds, and after each epoch a look at the test images."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from distsgd import network
from distsgd.clock import Clock
from distsgd.comm import Average, Ranks
from distsgd.kernels.vector import aligned
from distsgd.metrics import ByClass, Score, Tally, by_class, score
from distsgd.network import Network
from distsgd.threads import Team
from distsgd.training.algorithm import averaging, chosen
from distsgd.training.evaluation import Best, EpochEnd, Part, for_test, for_validation
from distsgd.training.experiment import Experiment
from distsgd.training.local import Local
from distsgd.training.pause import Pause, Stopped
from distsgd.training.prefetch import Prefetch, prefetching
from distsgd.training.replay import read as read_replay
from distsgd.training.rounds import (
    GradientRounds,
    Meeting,
    OneRound,
    ParameterRounds,
    Rounds,
    Take,
    gradient_magnitudes,
)
from distsgd.training.timeline import Timeline
from distsgd.training.watch import Slow, Watch
from distsgd.training.windows import Windows
from distsgd.training.workers import Workers


@dataclass(frozen=True)
class Progress:
    """Where a run is after a round: epoch and round counted from 1, its loss on this rank, images/s of all ranks in this round."""

    epoch: int
    round: int
    steps_done: int
    steps: int
    loss: float | None
    images_per_second: float


@dataclass(frozen=True)
class Result:
    """What a run came to: the parameters of its best epoch where there are validation images, else of its last."""

    parameters: np.ndarray
    rounds: int
    steps: int
    last: EpochEnd
    best: EpochEnd
    test: Score
    by_class: ByClass


class Training:
    """A run of an experiment on the ranks there are."""

    def __init__(
        self,
        experiment: Experiment,
        ranks: Ranks,
        clock: Clock,
        pause: Pause | None = None,
        messages: Mapping[str, Any] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`messages`: what distsgd.machine.averaging measured, for averaging.algorithm "auto" to choose by. `watch`: looks for slow
        ranks; not given, nobody does.
        """
        self.experiment, self._ranks, self._clock = experiment, ranks, clock
        self._pause = pause or Pause(ranks)
        self._watch = watch or Watch(ranks, clock, on=False)
        self.timeline = Timeline(clock, ranks.size)
        self.slow: list[Slow] = []
        """Ranks that were found slow, the same on every rank."""
        self._workers = Workers(experiment, ranks, clock)
        with clock.phase("load"):
            self._test = for_test(experiment, ranks)
            self._validation = for_validation(experiment, ranks, self._workers.held_out)
            self.scaling = self._workers.scaling(ranks)
        self._best = Best()
        segments, optimizer = experiment.segments, experiment.optimizer
        self._size = sum(segments)
        self.algorithm, self.why_algorithm = chosen(experiment, ranks, messages)
        """By which sums over ranks are made; and what to tell of that, if anything."""
        gradients = experiment.config.averaging.what == "gradients"
        powers = (0,) if gradients else (0, *optimizer.powers)
        average, self.algorithm = averaging(experiment, ranks, self.algorithm, segments * len(powers))
        state = aligned(self._size * (1 + optimizer.moments)) if gradients else average.own
        network.initialize(state[: self._size], experiment.stages, experiment.config.train.seed)
        self._prefetches = prefetching(experiment, ranks.on_node()[1])
        batches = 1 + self._prefetches
        self._team = Team(experiment.config.train.threads)
        parameters = state[: self._size]
        own = average.own if gradients else None
        self._network = Network(experiment.stages, self._workers.batch, parameters, batches, self._team, own)
        self._network.class_weights[:] = self._workers.class_weights()
        gradient = average.mean if gradients else self._network.gradient
        changing = state, gradient, experiment.decayed, self.learning_rate
        steps = optimizer.bind(*changing, self._team)
        seed = experiment.config.train.seed
        windows = Windows(experiment, self._workers.batch)
        working = self._network, state, steps, self._workers, self.scaling, windows, seed, clock, self._pause
        self._local = Local(*working, self._watch)
        self._rounds = self._kind_of_rounds(average, powers)
        replay = experiment.config.train.replay
        self._local.replay = read_replay(replay, seed) if replay else None
        self._tally = Tally(experiment.images.classes)
        self._step, self._samples, self._seconds = 0, 0, 0.0
        self.rounds_done, self.rounds_before = 0, 0
        """Of the whole run, and before it was resumed."""

    def learning_rate(self, number: int) -> float:
        """That of the step of that number in the experiment, counted from 1."""
        return self.experiment.learning_rate(number, self._workers.steps)

    def _kind_of_rounds(self, average: Average, powers: tuple[int, ...]) -> Rounds:
        averaging, segments = self.experiment.config.averaging, self.experiment.segments
        self._workers.begin(0)
        exact, states = averaging.reduction == "exact", averaging.what == "parameters"
        of = self._local, segments, self._ranks, states
        gradient = gradient_magnitudes(*of) if exact else np.ones(len(segments))
        # Parameters that start at zero, the biases, are expected around one.
        of_states = [gradient**power if power else 0 * gradient for power in powers]
        expected = np.concatenate(of_states if states else [gradient]).astype(np.float32)
        meeting = Meeting(average, self._pause, self._clock, self._watch, expected)
        if not states:
            return GradientRounds(self._local, meeting)
        return (OneRound if averaging.rounds_of == "once" else ParameterRounds)(self._local, meeting)

    def place(self) -> dict[str, Any]:
        """Where the run is: epochs, steps of the next one and rounds done, this epoch's totals over all ranks, the best epoch."""
        totals = self._network.totals.copy()
        self._ranks.sum(totals)
        place = {"epoch": self._local.epoch, "step": self._step, "rounds": self.rounds_done}
        return {**place, "totals": totals.tolist(), "best": self._best.facts()}

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """All numbers that the run goes on from, by name, whole on rank 0. Every rank is to take all of them."""
        yield from self._rounds.arrays(self._ranks)
        if self._best.kept:
            yield "best", self._best.kept[1]

    def restore(self, place: dict[str, Any], take: Take) -> None:
        """Go on from another run's place and arrays, on every rank. Random numbers are keyed by the place: they have no state."""
        self._local.epoch, self._step = place["epoch"], place["step"]
        self.rounds_done = self.rounds_before = place["rounds"]
        if self._ranks.rank == 0:
            self._network.totals[:] = place["totals"]
        self._rounds.restore(take)
        if place["best"]:
            parameters = np.empty(self._size, np.float32)
            take("best", parameters)
            self._best.restore(place["best"], parameters)

    def run(
        self,
        after_round: Callable[[Progress], None],
        after_epoch: Callable[[EpochEnd], None],
        save: Callable[[], None] = lambda: None,
    ) -> Result:
        """All epochs, or less with train.patience. Raises Diverged, and Stopped when it was asked to stop and has saved.

        Calls back after each round and, with the same numbers on every rank, after each epoch and to save.
        """
        try:
            with (
                self._team,
                Prefetch(self._network) if self._prefetches else nullcontext() as self._local.prefetch,
            ):
                return self._run(after_round, after_epoch, save)
        except Stopped:
            with self._clock.phase("checkpoint"):
                save()
            raise

    def _run(
        self,
        after_round: Callable[[Progress], None],
        after_epoch: Callable[[EpochEnd], None],
        save: Callable[[], None],
    ) -> Result:
        epochs = self.experiment.config.train.epochs
        self._watch.begin()
        for epoch in range(self._local.epoch, epochs):
            self._local.epoch = epoch
            self._workers.begin(epoch)
            for first, last in self._spans():
                progress = self._round(epoch, first, last)
                after_round(progress)
                self._pause.after_round(save)
                self._clock.checkpoint += self._clock.now() - self._clock.ended
            if epoch + 1 == epochs:
                with self._clock.phase("checkpoint"):
                    self._pause.at_end(save)
            end = self._end_epoch(epoch)
            with self._clock.phase("checkpoint"):
                after_epoch(end)
            self._step = 0
            if self._best.waited(end.epoch) == self.experiment.config.train.patience:
                break
        return self._result(end)

    def _result(self, last: EpochEnd) -> Result:
        rounds = 1 if self.experiment.config.averaging.rounds_of == "once" else self.rounds_done
        steps = last.epoch * self._workers.steps
        if self._best.kept is None:
            assert last.test, "without validation images every epoch looks at the test images"
            state, classes = self._rounds.state[: self._size], by_class(self._tally, last.test.samples)
            return Result(state, rounds, steps, last, last, last.test, classes)
        best, parameters = self._best.kept
        with self._clock.phase("evaluate"):
            np.copyto(self._local.state[: self._size], parameters)
            # The end is near: a run that is told to stop gets there.
            test = self._judged(self._test, lambda: False)
        return Result(parameters, rounds, steps, last, best, test, by_class(self._tally, test.samples))

    def _spans(self) -> Iterator[tuple[int, int]]:
        """The rounds of an epoch that are not done, as steps first..last; the last may be short."""
        steps, period = self._workers.steps, self.experiment.config.averaging.rounds_of
        length = steps if isinstance(period, str) else period
        for first in range(self._step, steps, length):
            yield first, min(first + length, steps)

    def _round(self, epoch: int, first: int, last: int) -> Progress:
        if not self.timeline.full:
            self.timeline.begin()
        before = self._network.totals.copy()
        self._clock.begin_round()
        try:
            self._rounds.round(first, last)
        finally:
            seconds = self._clock.end_round()
        samples = self._workers.all_seen(first, last)
        if not self.timeline.full:
            self.timeline.end()
        self.rounds_done, self._step = self.rounds_done + 1, last
        if len(self._watch.slow) > len(self.slow):
            found = list(self._watch.slow.items())[len(self.slow) :]
            self.slow += [Slow(rank, self.rounds_done, times) for rank, times in found]
        if self.rounds_done - self.rounds_before == 2:
            # the first round also warms caches up: it counts only while it is the only one
            self._samples, self._seconds = 0, 0.0
        self._samples, self._seconds = self._samples + samples, self._seconds + seconds
        loss = score(self._network.totals - before).loss
        return Progress(epoch + 1, self.rounds_done, last, self._workers.steps, loss, samples / seconds)

    def _end_epoch(self, epoch: int) -> EpochEnd:
        self._clock.begin_round()
        try:
            self._rounds.settle()
        finally:
            self._seconds += self._clock.end_round()
        totals = self._network.totals.copy()
        try:
            with self._clock.phase("evaluate"):
                train = self._summed_score()
                if self._rounds.state is not self._local.state:
                    np.copyto(self._local.state, self._rounds.state)
                judged = self._judged(self._validation or self._test, self._pause.impatient)
        except Stopped:
            np.copyto(self._network.totals, totals)
            raise
        speed, state = self._samples / max(self._seconds, 1e-9), self._rounds.state[: self._size]
        rate = self.learning_rate((epoch + 1) * self._workers.steps)
        if not self._validation:
            return EpochEnd(epoch + 1, self.rounds_done, train, judged, speed, rate)
        end = EpochEnd(epoch + 1, self.rounds_done, train, None, speed, rate, judged)
        self._best.consider(end, state)
        return end

    def _judged(self, part: Part, impatient: Callable[[], bool]) -> Score:
        """The score of the images of which each rank has a part, with the parameters that all hold; the tally is theirs."""
        self._tally.counts[:] = 0
        part.judge(self._network, self.scaling, self._tally, impatient)
        judged = self._summed_score()
        self._ranks.sum(self._tally.counts)
        return judged

    def _summed_score(self) -> Score:
        with self._clock.phase("wait"):
            self._pause.meet()
        totals = self._network.totals.copy()
        self._network.totals[:] = 0
        self._ranks.sum(totals)
        return score(totals)
