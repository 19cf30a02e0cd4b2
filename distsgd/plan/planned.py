"""A plan: a run on more and more ranks, what each of them needs, what is best and what would help."""

from collections.abc import Sequence
from dataclasses import dataclass

from distsgd.clock import peak_memory
from distsgd.cost.machine import Machine
from distsgd.plan.curve import Curve, Point, curve, remedies
from distsgd.plan.memory import Memory, memory
from distsgd.plan.search import Recommendation, Space, recommend
from distsgd.plan.work import Job

MOST = 4096
"""Ranks, where nobody says otherwise."""


@dataclass(frozen=True)
class Planned:
    """What was found for a job as it was asked for, on a machine."""

    machine: Machine
    job: Job
    curve: Curve
    memory: Sequence[Memory]
    """Of a rank, for each point of the curve."""
    recommended: Sequence[Recommendation]
    remedies: Sequence[tuple[str, float]]
    """For `best`."""

    @property
    def best(self) -> Point:
        """What is recommended for the least time."""
        return self.recommended[0].best or self.curve.fastest

    def crowds(self, point: Point) -> bool:
        """Whether its ranks want more memory than a node has, as far as that is known."""
        there = self.machine.where.memory
        return there is not None and self.on_a_node(point) > there

    def on_a_node(self, point: Point) -> int:
        """Bytes that the ranks of a node want together."""
        return point.job.together * self.memory[self.curve.points.index(point)].total

    @property
    def known(self) -> bool:
        """Whether the network itself was measured, and not just layers like its own."""
        return self.curve.points[0].run.round.computing.known


def plan(
    machine: Machine, job: Job, most: int, per_node: int | None = None, deadline: float | None = None
) -> Planned:
    """Plan for up to `most` ranks, so many to a node. LookupError where not even one rank can be predicted.

    per_node: not given: as many as a node's cores have room for. deadline: seconds of training.
    """
    process, on_node = peak_memory(), per_node or max(1, machine.where.cores // machine.where.threads)
    found = curve(machine, job, most, on_node)
    if not found.points:
        raise LookupError(found.end)
    needs = [memory(point.job, machine.where.cores, process) for point in found.points]
    there = machine.where.memory

    def room(one: Job) -> bool:
        return there is None or one.together * memory(one, machine.where.cores, process).total <= there

    best = recommend(machine, found, job, Space(most, on_node, room), deadline)
    return Planned(machine, job, found, needs, best, remedies(machine, best[0].best or found.fastest))
