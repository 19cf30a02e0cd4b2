"""What instrumentation costs: that it is on and off when it is said to be, and what is made of the seconds."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from distsgd.bench import instrumentation as bench
from distsgd.bench.instrumentation import WARM, WAYS, Either, Still, Turns
from distsgd.cli import main
from distsgd.clock import Clock
from distsgd.comm import Alone, Ranks, wrap
from distsgd.machine.networks import images_of
from distsgd.machine.rounds import IMAGES, made_up
from distsgd.machine.steps import experiment
from distsgd.training import EpochEnd, Progress

if TYPE_CHECKING:
    from mpi4py import MPI


@pytest.fixture
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "FEWEST", 2)
    monkeypatch.setattr("distsgd.machine.rounds.BYTES", 0)  # epochs of IMAGES


def test_what_is_off_is_off(few_turns: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings of the real clock, and batches that the watch counts, by block: every reading of the time begins or ends one."""
    blocks, read, counted = [0], dict[int, int](), dict[int, int]()

    def reading() -> float:
        read[blocks[0]] = read.get(blocks[0], 0) + 1
        return float(sum(read.values()))

    class Seeing(bench.Watch):
        def __init__(self, ranks: Ranks, clock: Clock, on: bool) -> None:
            super().__init__(ranks, clock, on)
            self.on = on  # of one rank as well

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "images" and value:
                counted[blocks[0]] = counted.get(blocks[0], 0) + value - self.images
            super().__setattr__(name, value)

        def look(self) -> None:
            return None

    def now() -> float:
        blocks[0] += 1
        return float(blocks[0])

    monkeypatch.setattr(bench, "Clock", lambda: Clock(now=reading))
    monkeypatch.setattr(bench, "Watch", Seeing)
    monkeypatch.setattr(bench, "BLOCK", 0.5)  # two seconds and a block are an epoch: a reading is a second
    with made_up(images_of("rendon")) as path:
        seconds, steps = bench.trained(
            experiment(path, "rendon", 256, {"workers": 1, "period": 2}), Alone(), now
        )
    assert (steps, seconds) == (4, {way: [1.0, 1.0] for way in WAYS})
    first = 2 * WARM + 1  # the reading that begins the first block that counts
    orders = [np.random.default_rng(turn).permutation(list(WAYS)).tolist()[::-1] for turn in range(2)]
    ways = orders[0] + orders[1]
    # An epoch has two blocks, and between two blocks lie two readings, between epochs one more that begins and one that ends.
    on = {block for block in read if block >= first and read[block] > 4}
    assert len(on) == ways.count("with") == 2
    assert set(counted) - {*range(first)} == on
    assert {counted[block] for block in on} == {IMAGES // 2}
    per_step, per_round = 2, 9 + 2  # the timeline asks twice
    assert {read[block] for block in on} == {4 * per_step + 2 * per_round}


def test_a_clock_that_stands_still_tells_a_round_s_seconds() -> None:
    clock = Still(now=float)
    with clock.phase("compute"), clock.phase("data"):
        assert clock.running == ["start"]
    clock.begin_round()
    time.sleep(0.01)
    assert clock.end_round() >= 0.01
    clock.switch()
    assert not any(clock._seconds.values())


def test_either_is_one_or_the_other() -> None:
    one, other = [1, 2, 2], [2]
    either = Either(one, other, "count")
    assert either.count(2) == 2
    either.turn(False)
    assert either.count(2) == 1


def test_every_turn_has_each_way_once_and_the_first_epochs_do_not_count(
    few_turns: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of epochs of three rounds, a second each: blocks are of two, and the third round is nobody's."""
    times = [0.0]
    turns = Turns(Alone(), [], lambda: times[0])
    monkeypatch.setattr(bench, "BLOCK", 2.0)

    def epoch() -> None:
        for round_number in range(3):
            times[0] += 1
            turns.after_round(Progress(1, 0, 8 * (round_number + 1), 24, None, 0.0))
        turns.after_epoch(cast(EpochEnd, None))
        times[0] += 100

    for number in range(WARM + 2 * len(WAYS)):
        times[0] -= 100 * bool(number)
        if number == WARM + 2 * len(WAYS) - 1:
            with pytest.raises(bench._Enough):
                epoch()
        else:
            epoch()
    assert (turns.seconds, turns.steps) == ({way: [2.0, 2.0] for way in WAYS}, 16)


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
    monkeypatch.setattr("distsgd.machine.rounds.BYTES", 0)  # epochs of IMAGES
    ranks = wrap(comm)
    with made_up(images_of("rendon")) as path:
        seconds, steps = bench.trained(experiment(path, "rendon", 256, {"workers": 2, "period": 2}, 2), ranks)
    assert (steps % 2, {way: len(each) for way, each in seconds.items()}) == (0, dict.fromkeys(WAYS, 2))
