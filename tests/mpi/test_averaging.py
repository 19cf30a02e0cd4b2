"""What is measured of averages: every way, on all ranks and on fewer, the same on every rank."""

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from distsgd.comm import wrap
from distsgd.config.settings import ALGORITHMS
from distsgd.cost.averaging import Asked, averaging_estimate, choices
from distsgd.machine.averaging import layouts, measure

if TYPE_CHECKING:
    from mpi4py import MPI


def test_ranks_are_measured_in_powers_of_two_and_all() -> None:
    assert [layouts(ranks) for ranks in (1, 2, 3, 4, 6, 8)] == [
        *([1], [2], [2, 3], [2, 4], [2, 4, 6], [2, 4, 8]),
    ]


def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """More ranks than cores take milliseconds for every message."""
    monkeypatch.setattr("distsgd.machine.averaging.SIZES", 3)
    monkeypatch.setattr("distsgd.machine.averaging.REPEATS", 1)
    monkeypatch.setattr("distsgd.machine.averaging.MOST_REPEATS", 1)


@pytest.mark.mpi(ranks=[1, 3])
def test_every_way_is_measured_and_estimated(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    briefly(monkeypatch)
    ranks = wrap(comm)
    found = measure(ranks, seconds=0.2)
    texts = ranks.gather_bytes(json.dumps(found).encode())
    assert len(set(texts)) <= 1
    ways = {(entry["topology"], entry["algorithm"], entry["reduction"]) for entry in found["exchanges"]}
    named = {(topology, name) for topology in ALGORITHMS for name in ALGORITHMS[topology] if name != "auto"}
    if mpi_ranks == 1:
        named = {(topology, "library") for topology in ALGORITHMS}
    assert ways == {(*name, reduction) for name in named for reduction in ("exact", "fast")}
    assert found["layouts"] == ([[1, 1]] if mpi_ranks == 1 else [[2, 1], [3, 1]])
    for way in ways:
        estimate = averaging_estimate(found, Asked(*way, 5000, mpi_ranks, 1, 2))
        assert estimate.whole.seconds > 0
        assert np.isfinite(estimate.whole.deviation)
    order = choices(found, Asked("allreduce", "auto", "exact", 5000, mpi_ranks, 1))
    assert [choice.seconds.seconds for choice in order] == sorted(choice.seconds.seconds for choice in order)
    assert len(order) == len(named)


@pytest.mark.mpi(ranks=2)
def test_the_algorithm_that_ran_is_told(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    briefly(monkeypatch)
    ran = {
        (entry["topology"], entry["algorithm"]): entry["ran"]
        for entry in measure(wrap(comm), seconds=0.1)["exchanges"]
    }
    assert ran["allreduce", "library"] == "shared"
    assert ran["allreduce", "ring"] == "ring"
    assert ran["master", "binomial"] == "binomial"
    assert ran["master", "library"].startswith("library")
