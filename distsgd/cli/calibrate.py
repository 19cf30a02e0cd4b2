"""`distsgd calibrate`: measure this machine, and write down what was found."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd.cli import ranks as cli_ranks
from distsgd.clock import Clock
from distsgd.config import check_name

if TYPE_CHECKING:
    from distsgd.comm import Ranks


def add(parser: argparse.ArgumentParser, add_ranks: Callable[[argparse.ArgumentParser], None]) -> None:
    """Its options."""
    parser.set_defaults(command=_calibrate)
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME",
        help="a network to measure whole; may be repeated (default: the small ones of the zoo)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the machine file (default: one of this user's, found again by itself)",
    )
    add_ranks(parser)


def _calibrate(given: argparse.Namespace, clock: Clock) -> int:
    for name in given.network:
        check_name(name)
    arguments = ["calibrate", *(part for name in given.network for part in ("--network", name))]
    arguments += ["--out", str(given.out.absolute())] if given.out else []

    def command(world: "Ranks") -> int:
        from distsgd.machine.calibrate import Calibration
        from distsgd.machine.where import own_path, write

        say = _told if world.rank == 0 else _nothing
        so_far = clock.seconds()
        machine = Calibration(world, given.network, say).machine(
            {name: so_far[name] for name in ("start", "compile")}
        )
        if machine:
            path = given.out or own_path(machine.where)
            write(machine, path)
            print(
                f"{len(machine.steps)} networks, {len(machine.operations)} passes of layers and "
                f"{len(machine.averaging['exchanges'])} ways to average, in {clock.seconds()['total']:.0f} s: {path}"
            )
        world.barrier()
        return 0

    return cli_ranks.run(given.ranks, arguments, clock, command, given.hostfile)


def _told(line: str) -> None:
    print(f"{line} ...", flush=True)


def _nothing(line: str) -> None:
    """What other ranks than 0 say."""
