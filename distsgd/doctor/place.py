"""Where ranks are: hosts, cores they may use, and whether they are in each other's way."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd import launcher
from distsgd.doctor.finding import Finding

if TYPE_CHECKING:
    from distsgd.comm import Ranks

MOST_SHOWN = 8
"""Ranks shown one by one."""


@dataclass(frozen=True)
class Place:
    """A rank's host, the physical cores it may run on, and how many processors' worth of time its container gives it."""

    host: str
    cores: tuple[str, ...]
    quota: float | None


def place() -> Place:
    """Where this process is."""
    return Place(platform.node(), tuple(sorted(launcher.physical(launcher.processors()))), quota())


def places(ranks: "Ranks") -> list[Place]:
    """Where every rank is, on rank 0; an empty list on the others. All ranks call this."""
    parts = ranks.gather_bytes(json.dumps(asdict(place())).encode())
    return [Place(part["host"], tuple(part["cores"]), part["quota"]) for part in map(json.loads, parts)]


def quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """The processors' worth of time that this process's control groups give it (both kinds of them); None: as much as there is."""
    try:
        groups = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return None
    limits = []
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers
        folder = base / path.lstrip("/")
        limits += [
            limit for at in (folder, *folder.parents) if at.is_relative_to(base) and (limit := _limit(at))
        ]
    return min(limits, default=None)


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            most, period = (folder / "cpu.max").read_text().split()
        else:
            most, period = (
                (folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
    except OSError:
        return None
    return int(most) / int(period) if most.isdecimal() else None  # "max" and -1: no limit


def crowding(places: Sequence[Place], threads: int = 1) -> Finding:
    """Whether a host has more ranks, of so many threads each, than cores for them, or ranks that are bound to too few of them."""
    for host, here in _by_host(places).items():
        room, wanted, least = _room(here), len(here) * threads, min(len(rank.cores) for rank in here)
        if wanted > room or threads > least:
            seen = f"{_ranks(len(here), threads)} on {host} share {_cores(room)}: they take turns, and averages wait"
            if wanted <= room:
                seen = f"a rank of {threads} threads on {host} is bound to {_cores(least)}: they take turns"
            bound = all(len(rank.cores) <= threads for rank in here) and launcher.cores().machine >= wanted
            cure = _looser(threads) if bound else f"mpirun {_fewer(len(here), threads, room)}"
            return Finding("oversubscription", "note", seen, cure)
    return Finding("oversubscription", "ok", "no host has more ranks than cores")


def _by_host(places: Sequence[Place]) -> dict[str, list[Place]]:
    hosts: dict[str, list[Place]] = defaultdict(list)
    for rank in places:
        hosts[rank.host].append(rank)
    return hosts


def _room(here: Sequence[Place]) -> float:
    """How many ranks have a core of their own at once."""
    cores = len(set[str]().union(*(rank.cores for rank in here)))
    return min([float(cores), *(rank.quota for rank in here if rank.quota)])


def _ranks(count: int, threads: int) -> str:
    ranks = f"{count} rank{'s' * (count > 1)}"
    return ranks if threads == 1 else f"{ranks} of {threads} threads"


def _fewer(ranks: int, threads: int, room: float) -> str:
    if threads > 1:
        return f"... --set train.threads={max(1, int(room / ranks))}"
    return f"-n {max(1, int(room))} ..."


def _looser(threads: int) -> str:
    if threads == 1:
        return "mpirun --bind-to none ..."
    return f"mpirun --bind-to none ..., or --map-by slot:PE={threads}; srun --cpus-per-task={threads} ..."


def _cores(count: float) -> str:
    return f"{count:g} core{'s' * (count != 1)}"


def binding(places: Sequence[Place], threads: int = 1) -> Finding:
    """Which cores each rank is bound to; a note where ranks of one thread fill a host and none has a core of its own."""
    loose = [host for host, here in _by_host(places).items() if len(here) > 1 and _is_loose(here)]
    if loose and threads == 1:
        seen = f"the ranks on {loose[0]} fill its cores, but the system may move them between these"
        return Finding("binding", "note", seen, "mpirun --bind-to core ... (srun: --cpu-bind=cores)")
    shown = [f"rank {rank} on {at.host}: {_named(at.cores)}" for rank, at in enumerate(places[:MOST_SHOWN])]
    more = [f"{len(places) - MOST_SHOWN} more ranks"] if len(places) > MOST_SHOWN else []
    return Finding("binding", "ok", "; ".join([*shown, *more]))


def _is_loose(here: Sequence[Place]) -> bool:
    """As `--ranks` sees it: only ranks that fill a host gain by being bound, others may share it with another job."""
    return len(here) == _room(here) and all(len(rank.cores) > 1 for rank in here)


def _named(cores: Sequence[str]) -> str:
    return f"core {cores[0]}" if len(cores) == 1 else f"any of {len(cores)} cores"


def cores() -> Finding:
    """How many ranks this machine, the cores given to this process and its container have room for."""
    machine, mine = launcher.cores(), place()
    seen = f"{machine.machine} cores, {os.cpu_count()} hardware threads"
    if mine.quota is not None and mine.quota < machine.usable:
        seen += f"; the container gives {mine.quota:g} cores' worth of time: more ranks would be stopped and started"
        return Finding("cores", "note", seen, f"distsgd train --ranks {max(1, int(mine.quota))}")
    if machine.usable < machine.machine:
        seen += f"; this process may use {machine.usable} of them (affinity)"
    return Finding("cores", "ok", seen)
