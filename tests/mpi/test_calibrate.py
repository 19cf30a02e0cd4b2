"""Calibration on several ranks: it ends however they are spread over nodes, and what it finds predicts other networks."""

from typing import TYPE_CHECKING, Any

import pytest

from distsgd.comm import Ranks, wrap
from distsgd.config import Config
from distsgd.machine import between as in_place
from distsgd.machine.calibrate import Calibration
from distsgd.plan.runs import predict_run
from distsgd.plan.work import Job
from distsgd.training import check
from tests.test_machine import SMALL

if TYPE_CHECKING:
    from mpi4py import MPI


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration is short."""
    for name, value in SMALL.items():
        monkeypatch.setattr(f"distsgd.machine.{name}", value)


@pytest.mark.mpi(ranks=[3], timeout=300)
def test_ranks_on_unequal_nodes_measure_the_same(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ranks are two on a node and one on another."""
    ranks = wrap(comm)
    place = (0, 1) if ranks.rank == 2 else (ranks.rank, 2)
    monkeypatch.setattr(type(ranks), "on_node", lambda self: place)
    machine = Calibration(ranks, ["rendon", "rendon"], lambda line: None, 2).machine(0)
    assert (machine is None) == (ranks.rank > 0)
    if machine is None:
        return
    assert (
        len({step.deviation for step in machine.steps}) == 1
    )  # alone, a moment's strangers would be all that counts
    assert sorted((step.network, step.together) for step in machine.steps) == sorted(
        {(step.network, together) for step in machine.steps for together in (1, 2)}
    )
    for count, workers in ((1, 1), (1, 2), (2, 2), (3, 4)):
        assert predict_run(machine, larger(count, workers), 1).whole.seconds > 0


@pytest.mark.mpi(ranks=[3], timeout=300)
def test_steps_are_measured_of_any_number_of_ranks_of_a_node(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of some while the others sleep."""
    monkeypatch.setattr(Calibration, "_between", lambda *_: {})  # others test what is between steps
    machine = Calibration(wrap(comm), ["rendon"], lambda line: None, 2).machine(0)
    assert (machine is None) == (comm.rank > 0)
    if machine is None:
        return
    assert sorted(step.together for step in machine.steps) == [1, 2, 3]
    assert {filling.together for filling in machine.filling} == {1, 2, 3}
    assert {operation.together for operation in machine.operations} == {1, 3}
    for count in (1, 2):
        assert predict_run(machine, larger(count, 3), 1).whole.seconds > 0


@pytest.mark.mpi(ranks=[2], timeout=300)
def test_each_of_several_nodes_with_one_rank_measures_its_steps(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their speeds differ, which is what ranks wait for."""
    ranks = wrap(comm)
    monkeypatch.setattr(type(ranks), "on_node", lambda self: (0, 1))
    machine = Calibration(ranks, ["rendon"], lambda line: None, 2).machine(0)
    assert (machine is None) == (ranks.rank > 0)
    if machine:
        assert [step.together for step in machine.steps] == [1]
        assert machine.steps[0].lasting > 0
        assert {(one.ranks, one.hosted, one.kept) for one in machine.in_place} == {
            (1, 2, False),
            (1, 2, True),
        }


@pytest.mark.mpi(ranks=[2], timeout=300)
def test_averages_between_steps_are_of_all_kinds(mpi_ranks: int, comm: "MPI.Intracomm") -> None:
    """Of one rank and of both, of states and of gradients, of one worker a rank and of several, after little and much."""
    machine = Calibration(wrap(comm), ["rendon"], lambda line: None, 2).machine(0)
    assert (machine is None) == (comm.rank > 0)
    if machine is None:
        return
    kinds = {(1, 2), (2, 1), (2, 2)}
    found = [(one.ranks, one.hosted, one.kept, one.flops) for one in machine.in_place]
    assert {of[:3] for of in found} == {(*kind, kept) for kind in kinds for kept in (False, True)}
    all_ways = [(count, way) for count in (1, 2) for way in in_place._ways_of("rendon", count, 3 * 2048)]
    wanted = {(count, way.hosted, way.what, way.level) for count, way in all_ways}
    assert len(set(found)) == len(wanted) >= 2 * 2 * len(kinds)
    assert len(found) == len(all_ways)
    cooled = {(one.ranks, one.hosted, one.kept) for one in machine.in_place if one.cooled}
    assert cooled == {(2, 1, False), (2, 1, True)}


@pytest.mark.mpi(ranks=[2], timeout=300)
def test_what_cores_elsewhere_took_is_measured_again(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie near while steps are measured, apart while averages between them are, all but one."""
    near, apart, looks, said = 7e-7, 9e-7, 0, list[str]()

    def lies(ranks: Ranks) -> float | None:
        moved = "averages between steps, 2 of 2" in said
        return None if ranks.size == 1 else apart if moved else near

    def between(ranks: Ranks) -> float | None:
        nonlocal looks
        looks += ranks.size > 1
        return None if ranks.size == 1 else near if looks == 2 else apart

    for module, found in (("steps", lies), ("between", between), ("nearness", lies)):
        monkeypatch.setattr(f"distsgd.machine.{module}.nearness", found)
    made: list[Any] = []
    one = in_place._one
    monkeypatch.setattr(in_place, "_one", lambda *given: made.append(given) or one(*given))
    machine = Calibration(wrap(comm), ["rendon"], said.append, 2).machine(0)
    of_both = [given[1:3] for given in made if given[-1].size == 2]
    assert len(of_both) == len(set(of_both)) + 1
    assert said.count("some steps of training once more, as cores lay elsewhere") == 1
    assert not any("of cores that lay" in line for line in said)
    if machine:
        assert machine.where.nearness == apart
        assert any(each.latest > 1 for each in machine.in_place)


def larger(ranks: int, workers: int) -> Job:
    """A network that is larger than all that is measured."""
    settings = {"network": {"name": "chavan-5-100-500"}, "averaging": {"workers": workers}}
    made = check(Config.model_validate(settings), ranks, [])
    return Job(made.stages, made.config, made.images, workers, ranks, 2)
