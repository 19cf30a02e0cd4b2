"""Phases on a clock that the test turns, and the age of a real process."""

import contextlib
import shlex
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from distsgd.clock import PHASES, Clock, process_age

NAMED = {
    "start",
    "compile",
    "load",
    "shuffle",
    "data",
    "compute",
    "average",
    "wait",
    "evaluate",
    "checkpoint",
}


class Turned:
    """A clock's hands, turned by the test."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def spent(clock: Clock) -> dict[str, float]:
    """Return the phases that took time, and their total."""
    return {phase: seconds for phase, seconds in clock.seconds().items() if seconds}


def test_phases_are_those_of_the_design() -> None:
    assert set(PHASES) == NAMED
    assert set(Clock().seconds()) == {"total", *NAMED}


def test_inner_phase_stops_the_outer_one() -> None:
    now = Turned()
    clock = Clock(now=now)
    now.at += 1
    with clock.phase("compute"):
        now.at += 2
        with clock.phase("load"):
            now.at += 4
            with clock.phase("compute"):
                now.at += 8
        now.at += 16
    now.at += 32
    assert spent(clock) == {"start": 33, "compute": 26, "load": 4, "total": 63}


def test_seconds_may_be_asked_for_at_any_time() -> None:
    now = Turned()
    clock = Clock(age=5, now=now)
    assert spent(clock) == {"start": 5, "total": 5}
    with clock.phase("wait"):
        now.at += 0.5
        assert spent(clock) == {"start": 5, "wait": 0.5, "total": 5.5}
        now.at += 0.25
    assert spent(clock) == spent(clock) == {"start": 5, "wait": 0.75, "total": 5.75}


def test_a_round_computes_but_for_what_is_added_to_others() -> None:
    now = Turned()
    clock = Clock(now=now)
    for _ in range(2):
        now.at += 1
        clock.begin_round()
        now.at += 8
        clock.data += 2
        clock.average += 1
        now.at += 4
        clock.wait += 3
        assert clock.end_round() == 12
        now.at += 16
        clock.checkpoint += 16
    parts = {"start": 2, "compute": 12, "data": 4, "average": 2, "wait": 6, "checkpoint": 32}
    assert spent(clock) == spent(clock) == {**parts, "total": 58}
    with clock.phase("evaluate"):
        now.at += 1
    assert spent(clock) == {**parts, "evaluate": 1, "total": 59}


def test_whoever_asks_within_a_round_changes_nothing() -> None:
    now = Turned()
    clock = Clock(now=now)
    clock.begin_round()
    now.at += 8
    clock.average += 1
    assert clock.seconds()["total"] == 8
    now.at += 4
    clock.end_round()
    assert spent(clock) == {"compute": 11, "average": 1, "total": 12}


def test_seconds_computed_so_far() -> None:
    now = Turned()
    clock = Clock(now=now)
    for done in (0, 7, 14):
        assert clock.computed() == done
        clock.begin_round()
        now.at += 8
        clock.data += 2
        clock.wait += 1
        assert clock.computed() == done + 7
        clock.end_round()
        if done:
            clock.switch()
        now.at += 100


def test_a_phase_ends_when_its_block_raises() -> None:
    now = Turned()
    clock = Clock(now=now)
    with contextlib.suppress(KeyError), clock.phase("average"), clock.phase("wait"):
        now.at += 1
        raise KeyError
    now.at += 2
    assert spent(clock) == {"wait": 1, "start": 2, "total": 3}


def test_phases_sum_to_the_total_on_a_real_clock() -> None:
    began = time.perf_counter()
    clock = Clock()
    for _ in range(1000):
        with clock.phase("compute"), clock.phase("load"):
            pass
    time.sleep(0.05)
    seconds, elapsed = clock.seconds(), time.perf_counter() - began
    assert sum(seconds[phase] for phase in PHASES) == pytest.approx(seconds["total"], rel=1e-6)
    assert seconds["total"] == pytest.approx(elapsed, abs=0.02)
    assert seconds["start"] >= 0.05


def test_age_counts_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.5); from distsgd.clock import peak_memory, process_age; print(process_age())"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert 0.5 <= float(done.stdout) <= time.perf_counter() - began + 0.02
    assert process_age() > 0


def test_peak_memory_is_in_bytes_and_stays() -> None:
    code = "from distsgd.clock import peak_memory as p; print(p()); len(bytearray(200_000_000)); print(p())"
    # A shell between: what a process has held before it became Python counts on Linux, and pytest holds much.
    line = f"{shlex.join([sys.executable, '-c', code])}; true"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=ROOT, check=True)
    before, after = map(int, done.stdout.split())
    assert 5e6 < before < 100e6
    assert 195e6 < after - before < 220e6


def test_peak_memory_is_this_program_s_own() -> None:
    held = bytearray(400_000_000)
    code = "from distsgd.clock import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(done.stdout) < 100e6 < len(held)
