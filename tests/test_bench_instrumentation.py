"""What instrumentation costs: that it is on and off when it is said to be, and what is made of the seconds."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from distsgd.bench import instrumentation as bench
from distsgd.bench.instrumentation import WARM, WAYS, Blind, Either, Full, Still, Turns
from distsgd.cli import main
from distsgd.clock import Clock
from distsgd.comm import Alone, wrap
from distsgd.machine.networks import images_of
from distsgd.machine.rounds import IMAGES, made_up
from distsgd.machine.steps import experiment
from distsgd.training import EpochEnd

if TYPE_CHECKING:
    from mpi4py import MPI


@pytest.fixture
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "FEWEST", 2)


def test_what_is_off_is_off(few_turns: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases of the real clock, and batches that the watch counts, by epoch: every reading of the time begins or ends one."""
    readings, entered, given, counted = [0], {}, {}, {}

    class Counting(Clock):
        def phase(self, name: str) -> AbstractContextManager[None]:
            entered.setdefault(readings[0], []).append(name)
            return super().phase(name)

        def give(self, name: str, seconds: float) -> None:
            given[readings[0]] = given.get(readings[0], 0) + 1
            super().give(name, seconds)

    class Seeing(bench.Watch):
        def learned(self, images: int) -> None:
            counted[readings[0]] = counted.get(readings[0], 0) + images

    def now() -> float:
        readings[0] += 1
        return float(readings[0])

    monkeypatch.setattr(bench, "Clock", Counting)
    monkeypatch.setattr(bench, "Watch", Seeing)
    with made_up(images_of("rendon")) as path:
        seconds, steps = bench.trained(
            experiment(path, "rendon", 256, {"workers": 1, "period": 2}), Alone(), now
        )
    assert (steps, {way: len(each) for way, each in seconds.items()}) == (
        IMAGES // 256,
        dict.fromkeys(WAYS, 2),
    )
    epochs = WARM + 2 * len(WAYS)
    on = [epoch for epoch in range(epochs) if entered.get(2 * epoch + 1, [])]
    orders = [np.random.default_rng(turn).permutation(list(WAYS)).tolist()[::-1] for turn in range(2)]
    assert on == [*range(WARM), *(WARM + n for n, way in enumerate(orders[0] + orders[1]) if way == "with")]
    assert (
        set(given) - {0} == set(counted) - {0} == {2 * epoch + 1 for epoch in on}
    )  # 0: before the first epoch
    for epoch in on[WARM:]:
        assert given[2 * epoch + 1] == steps // 2
        assert entered[2 * epoch + 1].count("wait") >= steps // 2
        assert counted[2 * epoch + 1] == IMAGES


def test_instruments_that_are_off_do_nothing() -> None:
    clock = Still()
    with clock.phase("compute"), clock.phase("data"):
        assert clock.running == ["start"]
    assert clock.spent("compute") == 0
    watch, timeline = Blind(Alone(), clock, False), Full(clock, 1)
    watch.learned(64)
    timeline.begin()
    timeline.end()
    assert (watch.images, watch.look(), timeline.rounds) == (0, None, [])


def test_either_is_one_or_the_other() -> None:
    one, other = [1, 2, 2], [2]
    either = Either(one, other, "count")
    assert either.count(2) == 2
    either.turn(False)
    assert either.count(2) == 1


def test_every_turn_has_each_way_once_and_the_first_epochs_do_not_count(few_turns: None) -> None:
    times: Iterator[float] = iter(np.cumsum(np.arange(1000) % 2 * 1.0))
    turns = Turns(Alone(), [], lambda: next(times))
    end = cast(EpochEnd, None)
    for _ in range(WARM + 2 * len(WAYS) - 1):
        turns.after_epoch(end)
    with pytest.raises(bench._Enough):
        turns.after_epoch(end)
    assert turns.seconds == {way: [1.0, 1.0] for way in WAYS}


def test_what_is_made_of_the_seconds() -> None:
    chance = np.random.default_rng(0)
    without = 0.02 * chance.uniform(1, 1.5, 201)
    seconds = {"without": without, "with": without * 1.007 * chance.normal(1, 0.01, 201), "again": without}
    found = bench.concluded("rendon", 8, {way: each.tolist() for way, each in seconds.items()}, 128)
    assert found.step == pytest.approx(np.median(without) / 128)
    assert found.cost == pytest.approx(0.007, abs=0.002)
    ends = found.quartiles[0], found.interval[0], found.cost, found.interval[1], found.quartiles[1]
    assert list(ends) == sorted(set(ends))
    assert (found.nothing, found.nothing_interval) == (0, (0, 0))
    assert bench.line(found).split()[:5] == [
        "rendon",
        "8",
        f"{1e6 * found.step:.0f}",
        "µs",
        f"{100 * found.cost:+.2f}%",
    ]


def test_nine_of_ten_intervals_hold_the_median() -> None:
    chance = np.random.default_rng(1)
    ends = [bench.of_median(chance.exponential(size=60)) for _ in range(2000)]
    held = [low <= np.log(2) <= high for low, high in ends]
    assert np.mean(held) == pytest.approx(0.9, abs=0.04)
    assert bench.of_median(np.array([3.0, 1.0])) == (1.0, 3.0)


def test_the_table_and_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"with": [1.02, 1.02], "without": [1.0, 1.0], "again": [1.0, 1.0]}
    monkeypatch.setattr(bench, "trained", lambda *given: (seconds, 128))
    path = tmp_path / "cost.json"
    assert main(["bench", "instrumentation", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [
        [network, str(period)] for network in ("rendon", "garg") for period in (8, 1)
    ]
    assert all("+2.00%" in line for line in lines[2:])
    content = json.loads(path.read_text())
    assert (content["bar"], content["ranks"], len(content["found"])) == (0.01, 1, 4)
    assert content["found"][0]["cost"] == pytest.approx(0.02)


def test_a_file_that_can_not_be_written_is_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "trained", lambda *given: pytest.fail("measured"))
    assert main(["bench", "instrumentation", "--json", str(tmp_path / "nowhere" / "cost.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.mpi(ranks=2)
def test_ranks_turn_together(mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "FEWEST", 2)
    ranks = wrap(comm)
    with made_up(images_of("rendon")) as path:
        seconds, steps = bench.trained(experiment(path, "rendon", 256, {"workers": 2, "period": 2}, 2), ranks)
    assert (steps, {way: len(each) for way, each in seconds.items()}) == (
        IMAGES // 512,
        dict.fromkeys(WAYS, 2),
    )
