"""Averages over several ranks: each has other data, computes what all should have, asserts it itself."""

import hashlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from distsgd.comm import (
    OF_ALL,
    OF_MASTER,
    Allreduce,
    Average,
    Exact,
    Fast,
    Master,
    Ranks,
    Single,
    Verdict,
    shared,
    wrap,
)
from distsgd.comm.shared import mean_bytes
from distsgd.machine.nearness import nearness

if TYPE_CHECKING:
    from mpi4py import MPI

SEGMENTS = (3000, 70, 1)
WEIGHTS = (23, 64, 1, 17, 5, 64, 30)
WORKERS = len(WEIGHTS)


def start() -> NDArray[np.float32]:
    """Return what all ranks hold at the start of the round."""
    return np.random.default_rng(0).normal(size=sum(SEGMENTS)).astype(np.float32)


def state(worker: int) -> NDArray[np.float32]:
    """Return one worker's state after its steps."""
    return np.random.default_rng([1, worker]).normal(size=sum(SEGMENTS)).astype(np.float32)


def hosted(ranks: Ranks) -> list[int]:
    """Return this rank's block of workers."""
    blocks = np.array_split(np.arange(WORKERS), ranks.size)
    return [int(worker) for worker in blocks[ranks.rank]]


GIVEN = np.zeros(0, np.float32)


def one_round(
    average: Average,
    ranks: Ranks,
    state: Callable[[int], NDArray[np.float32]] = state,
    reference: NDArray[np.float32] | None = GIVEN,
) -> tuple[Verdict, NDArray[np.float32]]:
    """Return the verdict and the average of a round, from `start` if nothing else is said."""
    out = start()
    average.begin(out if reference is GIVEN else reference, sum(WEIGHTS))
    mine = [(state(worker), WEIGHTS[worker]) for worker in hosted(ranks)]
    for number, (vector, weight) in enumerate(mine):
        average.add(vector, weight, last=number + 1 == len(mine))
    average.exchange()
    return average.finish(out), out


def exact_averages(ranks: Ranks) -> list[Average]:
    """Every way to the same bits but for algorithms."""
    return [Exact(Allreduce(ranks), SEGMENTS), Exact(Master(ranks), SEGMENTS)]


def in_python_integers() -> NDArray[np.float32]:
    """Return the average with sums of Python's integers: scales as Exact's docstring has them."""
    parts = np.split(start(), np.cumsum(SEGMENTS)[:-1])
    exponents = [62 - 8 - int(np.frexp(np.abs(part).max())[1]) - 8 for part in parts]  # 204 weighs 8 bits
    scale = np.repeat(2.0 ** np.array(exponents), SEGMENTS)
    total = [0] * sum(SEGMENTS)
    for worker, weight in enumerate(WEIGHTS):
        fixed = np.rint(np.float64(state(worker)) * weight * scale).tolist()
        total = [number + int(more) for number, more in zip(total, fixed, strict=True)]
    return np.float32(np.array([float(number) for number in total]) / scale / sum(WEIGHTS))


def digest(array: NDArray[np.float32]) -> str:
    """Return the SHA-256 of an array's bytes."""
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.mpi(ranks=[1, 2, 3, 4])
def test_exact_average_has_the_same_bits_on_any_number_of_ranks(
    mpi_ranks: int, comm: "MPI.Intracomm"
) -> None:
    assert comm.size == mpi_ranks
    expected = digest(in_python_integers())
    ranks = wrap(comm)
    seen = []
    for average in exact_averages(ranks):
        for _ in range(2):  # the second round shows what the first left behind
            verdict, out = one_round(average, ranks)
            seen.append((verdict, digest(out)))
    assert seen == [(Verdict.OK, expected)] * 4


@pytest.mark.mpi(ranks=[1, 2, 3, 4])
def test_a_round_begins_from_the_last_average_without_being_given_it(
    mpi_ranks: int, comm: "MPI.Intracomm"
) -> None:
    """Also after one that overflowed, which is none."""
    ranks = wrap(comm)
    for average in exact_averages(ranks):
        _, last = one_round(average, ranks)
        expected, seen = [], []
        for again in (False, True):
            for reference, digests in ((last, expected), (None, seen)):
                if again:
                    assert one_round(average, ranks, with_a_value(1e6, 5), reference)[0] is Verdict.OVERFLOW
                verdict, out = one_round(average, ranks, reference=reference)
                digests.append((verdict, digest(out)))
                one_round(average, ranks)
        assert seen[0][0] is Verdict.OK
        assert seen == expected


@pytest.mark.mpi(ranks=[2, 3])
def test_a_rank_whose_workers_saw_nothing_adds_nothing(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    """Whatever the round before left in its memory."""
    ranks, digests = wrap(comm), set()
    for average in exact_averages(ranks):
        one_round(average, ranks)
        out = start()
        average.begin(out, 10)
        if ranks.rank == 1:
            average.add(state(0), 10)
        average.exchange()
        assert average.finish(out) is Verdict.OK
        digests.add(digest(out))
    assert len(digests) == 1


@pytest.mark.mpi(ranks=[2, 3])
def test_parts_of_any_segments_are_averaged_in_shared_memory_as_in_messages(
    mpi_ranks: int, comm: "MPI.Intracomm"
) -> None:
    """Fewer values than ranks, segments without values, one that lies in the parts of several ranks; one vector and two."""
    ranks = wrap(comm)
    for segments in ((1,), (0, 5, 0), (1,) * 40, (2, 700, 0, 3), (0,)):
        reference = np.random.default_rng(0).normal(size=sum(segments)).astype(np.float32)
        own = np.random.default_rng([1, ranks.rank]).normal(size=(2, sum(segments))).astype(np.float32)
        for vectors in (own[:1], own):
            digests = []
            one_each = Allreduce(ranks, several=len(vectors) > 1)
            for average in (Exact(one_each, segments), Exact(Master(ranks), segments)):
                out = np.zeros_like(reference)
                average.begin(reference, 7 * len(vectors) * mpi_ranks)
                for number, vector in enumerate(vectors):
                    average.add(vector, 7, last=number + 1 == len(vectors))
                average.exchange()
                assert average.finish(out) is Verdict.OK
                digests.append(digest(out))
            assert digests[0] == digests[1], segments
    ranks.close()


@pytest.mark.mpi(ranks=2)
def test_where_one_vector_was_said_there_is_no_room_for_several(
    mpi_ranks: int, comm: "MPI.Intracomm"
) -> None:
    ranks, (size, state) = wrap(comm), (1000, np.ones(1000, np.float32))
    average = Exact(Allreduce(ranks, several=False), [size])
    average.begin(state, 4)
    with pytest.raises(ValueError, match="said that it would add one"):
        average.add(state, 1)
    assert mean_bytes(2, [size]) - mean_bytes(2, [size], several=False) > 2 * 8 * size
    ranks.close()


def by_algorithm(ranks: Ranks) -> dict[str, Allreduce | Master]:
    """Return a topology for each algorithm of our own."""
    return {name: Allreduce(ranks, name) for name in OF_ALL} | {
        name: Master(ranks, name) for name in OF_MASTER
    }


@pytest.mark.mpi(ranks=[1, 2, 3, 6])
def test_every_algorithm_gives_the_same_bits(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks, expected = wrap(comm), digest(in_python_integers())
    for name, topology in by_algorithm(ranks).items():
        average = Exact(topology, SEGMENTS)
        for _ in range(2):
            verdict, out = one_round(average, ranks)
            assert (name, verdict, digest(out)) == (name, Verdict.OK, expected)
        assert topology.ran == name
    ranks.close()


@pytest.mark.mpi(ranks=[3, 4])
def test_every_algorithm_adds_arrays_of_any_length(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    """Empty parts, less values than ranks, several segments of a message, the last one shorter; float32 alike on all ranks."""
    ranks = wrap(comm)
    for size in (0, 1, 2, 5, 4096 * mpi_ranks, 50001):
        for name, topology in by_algorithm(ranks).items():
            for kind in (np.int64, np.float32):
                mine, total = topology.room(size, kind)
                values = [
                    np.random.default_rng([rank, size]).integers(-99, 99, size) / 7
                    for rank in range(mpi_ranks)
                ]
                mine[:] = np.rint(7 * values[ranks.rank]) if kind == np.int64 else values[ranks.rank]
                wanted = sum(np.rint(7 * part) if kind == np.int64 else part for part in values).astype(kind)
                topology.sum()
                np.testing.assert_allclose(
                    total, wanted, rtol=0, atol=1e-3 * (kind == np.float32), err_msg=name
                )
                hashes = ranks.gather_bytes(hashlib.sha256(total.tobytes()).digest())
                assert len(set(hashes)) <= 1, name
    ranks.close()


@pytest.mark.mpi(ranks=3)
def test_a_shout_does_not_get_into_a_sum(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks = wrap(comm)
    topologies = by_algorithm(ranks)
    ranks.shout()
    ranks.barrier()
    for topology in topologies.values():
        assert one_round(Exact(topology, SEGMENTS), ranks)[0] is Verdict.OK
    heard = 0
    while heard < 2:
        heard += ranks.hears()
    ranks.close()


@pytest.mark.mpi(ranks=3)
def test_the_first_ranks_work_without_the_others(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks = wrap(comm)
    part = ranks.first(2)
    assert (part is None) == (ranks.rank == 2)
    if part:
        verdict, out = one_round(Exact(Allreduce(part, "ring"), SEGMENTS), part)
        assert (part.size, verdict, digest(out)) == (2, Verdict.OK, digest(in_python_integers()))
        part.close()
    ranks.close()


@pytest.mark.mpi(ranks=[2, 3, 4])
def test_ranks_of_a_node_add_in_memory_that_they_share(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks, numbers = wrap(comm), np.arange(1001)
    memory = ranks.shared(1001, np.int64)
    assert memory is not None
    for turn in range(3):  # the next turn's values come while others may still read
        memory.of_ranks[ranks.rank][:] = numbers * (ranks.rank + turn)
        memory.meet()
        memory.add_part()
        memory.meet()
        wanted = numbers * sum(rank + turn for rank in range(mpi_ranks))
        np.testing.assert_array_equal(memory.total, wanted)
    ranks.close()


@pytest.mark.mpi(ranks=2)
def test_shared_memory_is_taken_at_once(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    """Otherwise another process may take it, and a sum much later ends in a bus error."""
    ranks, size = wrap(comm), 1 << 23
    before = os.statvfs(shared.FOLDER)
    ranks.barrier()
    assert ranks.shared(size, np.int64) is not None
    ranks.barrier()
    between = os.statvfs(shared.FOLDER)
    ranks.barrier()
    assert ranks.mean_memory([size]) is not None
    ranks.barrier()
    after = os.statvfs(shared.FOLDER)
    first, second = (
        (free.f_bavail - left.f_bavail) * left.f_frsize
        for free, left in ((before, between), (between, after))
    )
    assert first > 2.75 * size * 8  # of three; others may give some back at the same time
    assert second > 2.75 / 3 * mean_bytes(2, [size])
    ranks.barrier()
    ranks.close()


@pytest.mark.mpi(ranks=3)
def test_without_room_to_share_on_one_rank_all_send_messages(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    if comm.rank == 1:
        monkeypatch.setattr("distsgd.comm.ranks.there_is_room", lambda *wanted: False)
    ranks = wrap(comm)
    assert ranks.shared(10, np.int64) is None
    verdict, out = one_round(Exact(Allreduce(ranks), SEGMENTS), ranks)
    assert (verdict, digest(out)) == (Verdict.OK, digest(in_python_integers()))


@pytest.mark.mpi(ranks=3)
def test_fast_average_is_the_mean_within_float32(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    mean = np.average(np.float64([state(worker) for worker in range(WORKERS)]), axis=0, weights=WEIGHTS)
    ranks = wrap(comm)
    results = [one_round(Fast(topology, SEGMENTS), ranks) for topology in (Allreduce(ranks), Master(ranks))]
    all_hashes = [ranks.gather_bytes(digest(out).encode()) for _, out in results]
    for verdict, out in results:
        assert verdict is Verdict.OK
        np.testing.assert_allclose(out, mean, rtol=0, atol=2e-6)
    for hashes in all_hashes:
        assert len(set(hashes)) == (1 if ranks.rank == 0 else 0)


@pytest.mark.mpi(ranks=4)
def test_an_average_over_a_part_of_the_ranks(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    half = comm.Split(comm.rank % 2, -comm.rank)
    ranks = wrap(half)
    verdict, out = one_round(Exact(Master(ranks), SEGMENTS), ranks)
    ranks.close()
    half.Free()
    assert ranks.size == 2
    assert (verdict, digest(out)) == (Verdict.OK, digest(in_python_integers()))


def with_a_value(bad: float, of_worker: int, place: int = 2999) -> Callable[[int], NDArray[np.float32]]:
    """Return the function `state` with one other value in one worker."""

    def changed(worker: int) -> NDArray[np.float32]:
        result = state(worker)
        result[place] = bad if worker == of_worker else result[place]
        return result

    return changed


@pytest.mark.mpi(ranks=[2, 3])
def test_every_rank_sees_what_one_worker_has(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks = wrap(comm)
    expected, seen = [], []
    for topology in (Allreduce(ranks), Master(ranks)):
        for bad, finite in (
            (np.nan, False),
            (-np.nan, False),
            (np.inf, False),
            (-np.inf, False),
            (1e6, True),
        ):
            for worker in (0, 3, 6):
                changed = with_a_value(bad, worker)
                seen.append(one_round(Exact(topology, SEGMENTS), ranks, changed)[0])
                seen.append(one_round(Fast(topology, SEGMENTS), ranks, changed)[0])
                expected += [Verdict.OVERFLOW, Verdict.OK] if finite else [Verdict.NOT_FINITE] * 2
    assert seen == expected


def alone_on_ranks(average: Average, ranks: Ranks, state: Callable[[int], NDArray[np.float32]]) -> Verdict:
    """Return the verdict of a round in which each rank adds the state of one worker, and where it is OK check the average."""
    out, others = start(), Exact(Master(ranks), SEGMENTS)
    expected = np.empty_like(out)
    verdicts = []
    for each, result in ((average, out), (others, expected)):
        each.begin(start(), sum(WEIGHTS))
        each.add(state(ranks.rank), WEIGHTS[ranks.rank], last=each is average)
        each.exchange()
        verdicts.append(each.finish(result))
    assert verdicts[0] == verdicts[1]
    assert digest(out) == digest(expected if verdicts[0] is Verdict.OK else start())
    return verdicts[0]


@pytest.mark.mpi(ranks=[2, 3, 4])
def test_a_rank_that_adds_one_vector_adds_the_same(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    """And what no scale holds is seen by whoever averages it."""
    ranks = wrap(comm)
    average, expected, seen = Exact(Allreduce(ranks), SEGMENTS), [], []
    for worker in range(mpi_ranks):
        for place in (0, 800, 1600, 2999, 3070):
            for bad, verdict in (
                *((1e6, Verdict.OVERFLOW), (np.nan, Verdict.NOT_FINITE), (-np.inf, Verdict.NOT_FINITE)),
                (2.5, Verdict.OK),
            ):
                seen.append(alone_on_ranks(average, ranks, with_a_value(bad, worker, place)))
                expected.append(verdict)
    assert seen == expected


@pytest.mark.mpi(ranks=[1, 2, 3])
def test_an_average_in_its_own_arrays_is_the_same(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    """It is there until the next exchange, whatever is written meanwhile to where the next vector will be."""
    ranks, one = wrap(comm), np.float32([1])
    kinds = [
        Exact(Allreduce(ranks), SEGMENTS),
        Exact(Master(ranks), SEGMENTS),
        Fast(Allreduce(ranks), SEGMENTS),
    ]
    for average in [*kinds, *([Single(SEGMENTS)] if mpi_ranks == 1 else [])]:
        for turn in range(3):
            vectors = [state(worker + turn) for worker in range(mpi_ranks)]
            mean = np.average(np.float64(vectors), axis=0, weights=WEIGHTS[:mpi_ranks])
            average.own[:] = vectors[ranks.rank]
            average.begin(start(), sum(WEIGHTS[:mpi_ranks]))
            average.add(average.own, WEIGHTS[ranks.rank], last=True)
            average.exchange()
            assert average.finish(average.mean) is Verdict.OK
            if average.mean is not average.own:
                average.own[:] = np.nan
            ranks.maximum(one)
            np.testing.assert_allclose(average.mean, mean, rtol=1e-6, atol=1e-7)


@pytest.mark.mpi(ranks=[1, 2])
def test_a_round_done_again_begins_from_the_last_average(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    """And not from what a refused one left where it is made; so does another object that was told how large it was."""
    ranks, found = wrap(comm), []
    for average in exact_averages(ranks):
        one_round(average, ranks)
        told = Exact(Allreduce(ranks), SEGMENTS)
        told.magnitudes[:] = average.magnitudes
        for each, widened in ((average, False), (average, True), (told, True)):
            if widened:
                each.widen()
            each.begin(None, sum(WEIGHTS))
            each.own[:] = with_a_value(1e6, 0)(ranks.rank)
            each.add(each.own, WEIGHTS[ranks.rank], last=True)
            each.exchange()
            verdict = each.finish(each.mean)
            found.append((verdict, digest(each.mean) if verdict is Verdict.OK else ""))
    assert [verdict for verdict, _ in found] == 2 * [Verdict.OVERFLOW, Verdict.OK, Verdict.OK]
    assert len({bits for _, bits in found}) == 2


@pytest.mark.mpi(ranks=3)
def test_overflow_in_several_ranks_does_not_hide_nan_in_one(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks = wrap(comm)

    def all_wrong(worker: int) -> NDArray[np.float32]:
        return with_a_value(np.nan, 3)(worker) * np.float32(1e9)

    for average in exact_averages(ranks):
        verdict, _ = one_round(average, ranks, all_wrong)
        overflow, _ = one_round(average, ranks, lambda worker: state(worker) * 1000)
        assert (verdict, overflow) == (Verdict.NOT_FINITE, Verdict.OVERFLOW)


@pytest.mark.mpi(ranks=2)
def test_after_a_widening_every_rank_has_the_average(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks = wrap(comm)
    changed = with_a_value(1e6, 5)
    mean = np.average(np.float64([changed(worker) for worker in range(WORKERS)]), axis=0, weights=WEIGHTS)
    for average in exact_averages(ranks):
        first, _ = one_round(average, ranks, changed)
        average.widen()
        second, out = one_round(average, ranks, changed)
        assert (first, second) == (Verdict.OVERFLOW, Verdict.OK)
        np.testing.assert_allclose(out, mean, rtol=1e-6, atol=1e-9)


@pytest.mark.mpi(ranks=[1, 3])
def test_ranks_do_what_they_say(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks: Ranks = wrap(comm)
    own = np.array([ranks.rank + 1, -ranks.rank, 2**40 + ranks.rank])
    sums = [own.astype(kind) for kind in (np.float32, np.float64, np.int64)]
    for array in sums:
        ranks.sum(array)
    to_master, most, sent = own.copy(), own.copy(), own.copy()
    ranks.sum_to_master(to_master)
    ranks.maximum(most)
    ranks.broadcast(sent)
    text = ranks.broadcast_bytes(b"from %d" % ranks.rank * (1 if ranks.rank else 1000))
    gathered = ranks.gather_bytes(b"x" * ranks.rank)
    nothing = ranks.broadcast_bytes(b"")
    place = ranks.on_node()
    ranks.barrier()

    total = sum(np.array([rank + 1, -rank, 2**40 + rank]) for rank in range(mpi_ranks))
    for array in sums:
        np.testing.assert_array_equal(array, np.asarray(total).astype(array.dtype))
    np.testing.assert_array_equal(to_master, total if ranks.rank == 0 else own)
    np.testing.assert_array_equal(most, [mpi_ranks, 0, 2**40 + mpi_ranks - 1])
    np.testing.assert_array_equal(sent, [1, 0, 2**40])
    assert (text, nothing) == (b"from 0" * 1000, b"")
    assert gathered == ([b"x" * rank for rank in range(mpi_ranks)] if ranks.rank == 0 else [])
    assert place == (ranks.rank, mpi_ranks)
    assert "MPI" in ranks.mpi_library()
    assert len(ranks.mpi_library()) < 60


@pytest.mark.mpi(ranks=[1, 3])
def test_a_shout_is_heard_by_all_others_once(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    ranks: Ranks = wrap(comm)
    assert not ranks.hears()
    ranks.barrier()
    last = ranks.size - 1
    if ranks.rank == last:
        ranks.shout()
    end = time.monotonic() + 10
    while ranks.rank != last and not ranks.hears():
        assert time.monotonic() < end
    ranks.barrier()
    assert not ranks.hears()
    total = np.array([ranks.rank])
    ranks.sum(total)  # and what all do together is as it was
    assert total[0] == last * ranks.size / 2


@pytest.mark.mpi(ranks=[1, 2, 3])
def test_ranks_agree_on_how_near_they_lie(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are as many cores: else what an exchange takes is another's turn."""
    ranks = wrap(comm)
    monkeypatch.setattr("distsgd.machine.nearness.BUSY", 1.0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    found = nearness(ranks)
    assert comm.allgather(found) == [found] * ranks.size
    assert (found is not None and found > 0) == (ranks.size == 2)
    monkeypatch.setattr("distsgd.machine.nearness.BUSY", 0.0)
    assert nearness(ranks) is None
    monkeypatch.setattr(type(ranks), "on_node", lambda self: (0, 1))
    monkeypatch.setattr("distsgd.machine.nearness.BUSY", 1.0)
    assert nearness(ranks) is None
