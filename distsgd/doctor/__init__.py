"""Looks at the machine as a run would see it: what is there, what prevents a run, what to type against it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd.doctor import meeting, place, processor, software, storage
from distsgd.doctor.finding import Check, Finding, lines, look, summary
from distsgd.doctor.mpi import Mpi, several

if TYPE_CHECKING:
    from distsgd.comm import Ranks

__all__ = ["Finding", "alone", "lines", "strangers", "summary", "together", "warnings"]


def alone(environ: Mapping[str, str]) -> list[Finding]:
    """All there is to see without a launcher: it starts two ranks of its own."""
    return [*look(_machine(environ)), *_mpi(environ)]


def _mpi(environ: Mapping[str, str]) -> list[Finding]:
    """The MPI here, and whether two ranks meet."""
    try:
        mpi = Mpi(environ)
    except Exception as error:
        return [Finding("MPI", "note", f"could not look: {type(error).__name__}: {error}")]
    checks: dict[str, Check] = {
        "MPI library": mpi.finding,
        "MPI launcher": mpi.launcher_finding,
        "MPIs": lambda: several(environ),
        "user": mpi.root,
        "fault tolerance": mpi.fault_tolerance,
    }
    if mpi.found and mpi.launcher:
        checks["ranks"] = lambda: meeting.self_test(environ)
    return look(checks)


def together(ranks: "Ranks", environ: Mapping[str, str]) -> list[Finding]:
    """What rank 0 sees among the ranks of a launcher; an empty list on the others. All ranks call this."""
    places, met = place.places(ranks), meeting.gathered(ranks)
    if ranks.rank > 0:
        return []
    checks: dict[str, Check] = {
        **_machine(environ),
        "MPI library": lambda: Finding("MPI library", "ok", met[0].name),
        "MPIs": lambda: several(environ),
        "ranks": lambda: meeting.judged(met, ranks.size, "by your launcher"),
        "binding": lambda: place.binding(places),
        "oversubscription": lambda: place.crowding(places),
    }
    return look(checks)


def strangers(why: str, environ: Mapping[str, str]) -> list[Finding]:
    """What is left to see where a launcher's ranks do not meet."""
    checks: dict[str, Check] = {**_machine(environ), "MPIs": lambda: several(environ)}
    return [*look(checks), *look({"ranks": lambda: meeting.strangers(why, environ)})]


def _machine(environ: Mapping[str, str]) -> dict[str, Check]:
    return {
        "python": software.python,
        "packages": software.packages,
        "cores": place.cores,
        "threads": lambda: processor.threads(environ),
        "kernel cache": storage.kernel_cache,
        "arithmetic": lambda: processor.arithmetic(environ),
        "shared memory": storage.shared_memory,
        "file locking": lambda: storage.locking(environ),
        "space for runs": lambda: storage.space(
            Path("runs"), "space for runs", "distsgd train --out /a/folder/of/yours"
        ),
    }


def warnings(ranks: "Ranks", environ: Mapping[str, str], threads: int = 1) -> list[str]:
    """The few findings that a run should begin with, a line each, on rank 0. All ranks call this; it takes milliseconds."""
    places = place.places(ranks) if ranks.size * threads > 1 else []
    if ranks.rank > 0:
        return []
    checks: dict[str, Check] = {"arithmetic": lambda: processor.arithmetic(environ)}
    if places:
        checks["binding"] = lambda: place.binding(places, threads)
        checks["oversubscription"] = lambda: place.crowding(places, threads)
    if ranks.size > 1:
        checks["shared memory"] = storage.shared_memory
    found = [finding for finding in look(checks) if finding.level != "ok"]
    return [f"{finding.seen} ({finding.cure})" if finding.cure else finding.seen for finding in found]
