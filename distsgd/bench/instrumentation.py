"""What it costs that a run knows where its time goes: the same training with its clock and its watch, and with none.

One training, epoch by epoch with them, without, and without once more, so that all find the same arrays in the same places.
Without: a clock that stands still, a watch that sees nothing and a timeline that is full already are in their places. Either way
reads the time twice a round, which images/s come from.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from distsgd.bench.training import as_json, check_folder
from distsgd.clock import Clock
from distsgd.comm import Ranks
from distsgd.machine.networks import images_of
from distsgd.machine.rounds import made_up
from distsgd.machine.steps import experiment
from distsgd.record import write_whole
from distsgd.training import EpochEnd, Experiment, Timeline, Training, Watch

NETWORKS, PERIODS, BATCH = ("rendon", "garg"), (8, 1), 32
"""The shortest steps there are, and what trains by default; a period of 1 has the most phases for a step."""
BAR = 0.01
"""Of a run."""
SECONDS, FEWEST, WARM = 12.0, 10, 4
"""Of a configuration, about; turns at least; epochs before those that count."""
WAYS = {"with": True, "without": False, "again": False}


class Still(Clock):
    """A clock that does nothing."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Nothing begins, nothing ends."""
        return _NOTHING

    def give(self, name: str, seconds: float) -> None:
        """Nobody has any."""

    def spent(self, *names: str) -> float:
        """No time passes."""
        return 0.0


def _never() -> float:
    return 0.0


_NOTHING = nullcontext()


class Blind(Watch):
    """A watch that sees nothing."""

    def learned(self, images: int) -> None:
        """Nothing is counted."""

    def begin(self) -> None:
        """Nothing begins."""

    def look(self) -> None:
        """Nothing is told."""


class Full(Timeline):
    """A timeline that notes nothing."""

    def begin(self) -> None:
        """No room."""

    def end(self) -> None:
        """No room."""


class Either:
    """Has the calls of one of two objects, and then of the other: what training holds on to stays the same."""

    def __init__(self, on: Any, off: Any, *calls: str) -> None:
        self._on, self._off, self._calls = on, off, calls
        self.turn(True)

    def turn(self, on: bool) -> None:
        """Be one of them from now on."""
        chosen = self._on if on else self._off
        self.__dict__.update({call: getattr(chosen, call) for call in self._calls})


class _Enough(Exception):
    """There were as many epochs as were wanted."""


class Turns:
    """Called after every epoch: keeps its seconds, and turns the instruments on or off for the next one."""

    def __init__(self, ranks: Ranks, instruments: Sequence[Either], now: Callable[[], float]) -> None:
        self._ranks, self._instruments, self._now = ranks, instruments, now
        self._began, self._epochs, self._wanted = now(), 0, 0
        self._order: list[str] = []
        self.seconds: dict[str, list[float]] = {way: [] for way in WAYS}

    def after_epoch(self, _: EpochEnd) -> None:
        """Raises _Enough, on all ranks together."""
        took, self._epochs = self._now() - self._began, self._epochs + 1
        if self._epochs == WARM:
            self._wanted = self._agreed(took)
        if self._epochs > WARM:
            self.seconds[self._order.pop()].append(took)
        if self._epochs >= WARM and not self._order:
            self._next_turn()
        for instrument in self._instruments:
            instrument.turn(not self._order or WAYS[self._order[-1]])
        self._began = self._now()

    def _next_turn(self) -> None:
        turn = len(self.seconds["with"])
        if turn == self._wanted:
            raise _Enough
        self._order = np.random.default_rng(turn).permutation(list(WAYS)).tolist()

    def _agreed(self, epoch_seconds: float) -> int:
        """How many turns there is time for."""
        turns = np.array([max(FEWEST, SECONDS / (len(WAYS) * epoch_seconds))]).astype(np.int64)
        self._ranks.broadcast(turns)
        return int(turns[0])


@dataclass(frozen=True)
class Found:
    """What a configuration came to. Costs are medians over turns of an epoch's seconds over those of one without, less 1."""

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
    check_folder("--json", json_path)
    found = list(_all(ranks, say))
    if ranks.rank == 0 and json_path:
        facts = {"bar": BAR, "ranks": ranks.size, "batch": BATCH, "found": [asdict(one) for one in found]}
        write_whole(json_path, as_json(facts))


def _all(ranks: Ranks, say: Callable[[str], None]) -> Iterator[Found]:
    say(
        f"{ranks.size} rank{'s' * (ranks.size > 1)}, batch {BATCH}: an epoch with clock and watch, over one without"
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
    """Seconds of epochs by way, and how many steps each has."""
    on, off = Clock(), Still(now=_never)
    clock = Either(on, off, "now", "phase", "give", "spent")
    watch = Either(
        Watch(ranks, on, True), Blind(ranks, off, False), "learned", "begin", "look", "judge", "slow"
    )
    training = Training(chosen, ranks, cast(Clock, clock), watch=cast(Watch, watch))
    timeline = Either(training.timeline, Full(off, ranks.size), "begin", "end")
    training.timeline = cast(Timeline, timeline)
    turns = Turns(ranks, (clock, watch, timeline), now)
    steps: list[int] = []
    with suppress(_Enough):
        training.run(lambda progress: steps.append(progress.steps) if not steps else None, turns.after_epoch)
    return turns.seconds, steps[0]


def concluded(network: str, period: int, seconds: dict[str, list[float]], steps: int) -> Found:
    """From seconds of epochs of so many steps."""
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
