"""What it costs that a run knows where its time goes: the same training with its clock and its watch, and with none.

One training, a few rounds with them, without, and without once more, so that all find the same arrays in the same places and the
same machine. Without: a clock that stands still, a watch that is not on and a timeline that is full already are in their places:
calls that return 0.0 are left. Either way reads the time twice a round, which images/s come from.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from distsgd.bench.output import check_file
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.machine.networks import images_of
from distsgd.machine.rounds import made_up
from distsgd.machine.steps import experiment
from distsgd.record import as_json, write_whole
from distsgd.training import EpochEnd, Experiment, Progress, Timeline, Training, Watch

NETWORKS, PERIODS, BATCH = ("rendon", "garg"), (8, 1), 32
"""The shortest steps there are, and what trains by default; a period of 1 has the most phases for a step."""
BAR = 0.01
"""Of a run."""
SECONDS, FEWEST, WARM = 15.0, 10, 4
"""Of a configuration, about; turns at least; epochs before those that count."""
BLOCK = 0.02
"""Seconds of the rounds between two turns, about: shorter than what else a machine does lasts, longer than from one exchange of the
watch to the next.
"""
WAYS = {"with": True, "without": False, "again": False}


class Still(Clock):
    """A clock that does nothing; but what images/s come from."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Nothing begins, nothing ends."""
        return _NOTHING

    def begin_round(self) -> None:
        """Read the time."""
        self._round_began = time.perf_counter()

    def end_round(self) -> float:
        """Read the time."""
        return time.perf_counter() - self._round_began

    def switch(self) -> None:
        """Nobody gets any."""


_NOTHING = nullcontext()


class Either:
    """Has what one of two objects has, and then the other's: what training holds on to stays the same."""

    def __init__(self, on: Any, off: Any, *names: str) -> None:
        self._on, self._off, self._names = on, off, names
        self.turn(True)

    def turn(self, on: bool) -> None:
        """Be one of them from now on."""
        chosen = self._on if on else self._off
        self.__dict__.update({name: getattr(chosen, name) for name in self._names})


class Watching:
    """Whether a watch is on, where it can be."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._can = watch, watch.on

    def turn(self, on: bool) -> None:
        """See Either."""
        self._watch.on = on and self._can


class _Enough(Exception):
    """There were as many epochs as were wanted."""


class Turns:
    """Called after rounds and epochs: keeps the seconds of blocks of rounds, and turns the instruments on or off for the next one.

    What lies between epochs, and rounds of an epoch that fill no block, count for nobody.
    """

    def __init__(
        self, ranks: Ranks, instruments: Sequence[Either | Watching], now: Callable[[], float]
    ) -> None:
        self._ranks, self._instruments, self._now = ranks, instruments, now
        self._began, self._epochs, self._rounds, self._done = now(), 0, 0, 0
        self._length, self._wanted = 0, 0
        self._order: list[str] = []
        self.seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        self.steps = 0
        """Of a block."""

    def after_round(self, progress: Progress) -> None:
        """End a block, if it is one. Raises _Enough, on all ranks together."""
        self._rounds += 1
        if self._epochs < WARM or self._rounds % self._length:
            return
        took = self._now() - self._began
        self.seconds[self._order.pop()].append(took)
        self.steps, self._done = progress.steps_done - self._done, progress.steps_done
        self._next_block()

    def after_epoch(self, _: EpochEnd) -> None:
        """Begin with the next epoch's first block."""
        took, self._epochs = self._now() - self._began, self._epochs + 1
        if self._epochs == WARM:
            self._agree(took, self._rounds)
        self._rounds, self._done = 0, 0
        self._next_block()

    def _next_block(self) -> None:
        if self._epochs >= WARM and not self._order:
            turn = len(self.seconds["with"])
            if turn == self._wanted:
                raise _Enough
            self._order = np.random.default_rng(turn).permutation(list(WAYS)).tolist()
        for instrument in self._instruments:
            instrument.turn(not self._order or WAYS[self._order[-1]])
        self._began = self._now()

    def _agree(self, seconds: float, rounds: int) -> None:
        """How many rounds a block has, and how many turns there is time for."""
        length = int(np.clip(BLOCK * rounds / seconds, 1, rounds))
        turns = SECONDS * rounds / (len(WAYS) * length * seconds)
        agreed = np.array([length, max(FEWEST, turns)]).astype(np.int64)
        self._ranks.broadcast(agreed)
        self._length, self._wanted = agreed.tolist()


@dataclass(frozen=True)
class Found:
    """What a configuration came to. Costs are medians over turns of a block's seconds over those of one without, less 1."""

    network: str
    period: int
    turns: int
    step: float
    """Seconds, without."""
    cost: float
    interval: tuple[float, float]
    """Holds the median in nine of ten such measurements."""
    quartiles: tuple[float, float]
    """Of single turns."""
    nothing: float
    """The same where both are without: what the measurement makes of nothing."""
    nothing_interval: tuple[float, float]


def instrumentation(ranks: Ranks, json_path: Path | None, say: Callable[[str], None]) -> None:
    """Measure and say a table; all ranks call this, and rank 0 writes the same to `json_path`. InputError before it begins."""
    check_file("--json", json_path)
    found = list(_all(ranks, say))
    if ranks.rank == 0 and json_path:
        facts = {"bar": BAR, "ranks": ranks.size, "batch": BATCH, "found": [asdict(one) for one in found]}
        write_whole(json_path, as_json(facts))


def _all(ranks: Ranks, say: Callable[[str], None]) -> Iterator[Found]:
    say(
        f"{ranks.size} rank{'s' * (ranks.size > 1)}, batch {BATCH}: rounds with clock and watch, over rounds without"
    )
    say(
        f"{'':8}{'period':>7}{'step':>10}{'cost':>9}{'90 % sure':>18}{'half of turns':>18}{'nothing':>9}{'90 % sure':>18}"
    )
    for network in NETWORKS:
        with made_up(images_of(network)) as path:
            for period in PERIODS:
                averaging = {"workers": ranks.size, "period": period}
                seconds, steps = trained(experiment(path, network, BATCH, averaging, ranks.size), ranks)
                one = concluded(network, period, seconds, steps)
                say(line(one))
                yield one


def trained(
    chosen: Experiment, ranks: Ranks, now: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, list[float]], int]:
    """Seconds of blocks by way, and how many steps each has."""
    on, off = Clock(), Still(now=float)
    clock = Either(on, off, "now", "phase", "begin_round", "end_round", "switch", "seconds")
    # What training reads of a clock and adds to it: here only `computed` asks, for two of these.
    clock.__dict__ |= dict.fromkeys(("data", "average", "wait", "checkpoint", "ended"), 0.0)
    own = vars(clock)
    own["computed"] = lambda: on.computed() - own["average"] - own["wait"]
    watch = Watch(ranks, cast(Clock, clock), True)
    training = Training(chosen, ranks, cast(Clock, clock), watch=watch)
    full = Timeline(off, ranks.size)
    full.full = True
    timeline = Either(training.timeline, full, "full", "begin", "end")
    training.timeline = cast(Timeline, timeline)
    turns = Turns(ranks, (clock, Watching(watch), timeline), now)
    with suppress(_Enough):
        training.run(turns.after_round, turns.after_epoch)
    return turns.seconds, turns.steps


def concluded(network: str, period: int, seconds: dict[str, list[float]], steps: int) -> Found:
    """From seconds of blocks of so many steps."""
    taken, without, again = (np.array(seconds[way]) for way in ("with", "without", "again"))
    cost, nothing = taken / without - 1, again / without - 1
    first, third = np.quantile(cost, [0.25, 0.75]).tolist()
    return Found(
        network=network,
        period=period,
        turns=len(cost),
        step=float(np.median(without)) / steps,
        cost=float(np.median(cost)),
        interval=of_median(cost),
        quartiles=(first, third),
        nothing=float(np.median(nothing)),
        nothing_interval=of_median(nothing),
    )


def of_median(values: np.ndarray) -> tuple[float, float]:
    """Between which of its values nine of ten samples have the median of all, however they are spread (a sign test)."""
    count = len(values)
    below = max(0, int(np.floor(count / 2 - 1.6449 * np.sqrt(count) / 2)))
    ordered = np.sort(values).tolist()
    return ordered[below], ordered[count - 1 - below]


def line(one: Found) -> str:
    """A row of the table."""
    sure, half, same = (
        f"{100 * low:+.2f} to {100 * high:+.2f} %"
        for low, high in (one.interval, one.quartiles, one.nothing_interval)
    )
    about = (
        f"{one.network:8}{one.period:>7}{1e6 * one.step:>7.0f} µs{100 * one.cost:>+8.2f}%{sure:>18}{half:>18}"
    )
    return f"{about}{100 * one.nothing:>+8.2f}%{same:>18}"
