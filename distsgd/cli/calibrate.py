"""`distsgd calibrate`: measure this machine, and write down what was found."""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from distsgd import launcher
from distsgd.cli import ranks as cli_ranks
from distsgd.clock import Clock
from distsgd.config import InputError, check_name

if TYPE_CHECKING:
    from distsgd.comm import Ranks
    from distsgd.cost.machine import Machine

UNSTEADY = 0.1
"""Deviation of the logarithm of a step's seconds from one time to another: other work went on."""
MOST = 5000
"""Configurations to draw: there are some twenty thousand on one rank."""


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
    if given.out:
        check_writable(given.out)
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
            print("\n".join(_summary(machine, clock.seconds()["total"], path)))
        world.barrier()
        return 0

    return cli_ranks.run(given.ranks, arguments, clock, command, given.hostfile)


def _summary(machine: "Machine", seconds: float, path: Path) -> Iterator[str]:
    networks = len({step.network for step in machine.steps})
    yield (
        f"{networks} network{'s' * (networks != 1)}, {len(machine.operations)} passes of layers and "
        f"{len(machine.averaging['exchanges'])} ways to average, in {seconds:.0f} s: {path}"
    )
    unsteady = median(step.deviation for step in machine.steps)
    if unsteady > UNSTEADY:
        yield (
            f"this machine was busy: the same steps differed by {unsteady:.0%} from one time to another; "
            "measure again when it is idle"
        )


def check_writable(path: Path) -> None:
    """InputError where no file can be written there: said before anything is measured."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"--out {path}: can't be written: {error.strerror or error}") from None
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder, wanted is a file")


def add_bench(
    parser: argparse.ArgumentParser,
    add_set: Callable[[argparse.ArgumentParser], None],
    add_ranks: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Options of `distsgd bench prediction`."""
    parser.set_defaults(command=_bench)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the configurations' draw (default: 0)"
    )
    parser.add_argument(
        "--count",
        type=int,
        default=100,
        metavar="N",
        help="configurations of measured networks (default: 100)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    add_set(parser)
    add_ranks(parser)


def _bench(given: argparse.Namespace, clock: Clock) -> int:
    from distsgd import config

    settings, problems = config.read(None, given.set)
    if problems:
        raise InputError("\n".join(problems))
    if not 1 <= given.count <= MOST:
        raise InputError(f"--count {given.count}: must be 1 to {MOST}")
    arguments = ["bench", "prediction", "--seed", str(given.seed), "--count", str(given.count)]
    arguments += ["--json", str(given.json.absolute())] if given.json else []
    arguments += [part for change in given.set for part in ("--set", change)]

    def command(world: "Ranks") -> int:
        from distsgd.bench.prediction import prediction
        from distsgd.machine.where import chosen

        machine = chosen(settings.prediction.machine, world)
        prediction(
            world, machine, given.seed, given.count, given.json, print if world.rank == 0 else _nothing
        )
        return 0

    ranks = given.ranks or (None if launcher.launched(os.environ) else min(2, os.cpu_count() or 1))
    return cli_ranks.run(ranks, arguments, clock, command, given.hostfile)


def _told(line: str) -> None:
    print(f"{line} ...", flush=True)


def _nothing(line: str) -> None:
    """What other ranks than 0 say."""
