"""`distsgd calibrate`: measure this machine, and write down what was found."""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from distsgd import config
from distsgd.cli import ranks as cli_ranks
from distsgd.cli.options import add_ranks, count
from distsgd.clock import Clock
from distsgd.config import InputError, check_name

if TYPE_CHECKING:
    from distsgd.comm import Ranks
    from distsgd.cost.machine import Machine

SWEEPS = 2
UNSTEADY = 0.06
"""Deviation of the logarithm of a step's seconds, as a machine file has it, from which on other work must have gone on."""

SLOW = 0.1
"""Of that logarithm, what a rank takes for good more than the middle one, from which on it is named."""


def add(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--sweeps",
        type=count,
        default=SWEEPS,
        metavar="N",
        help=f"how often steps are measured (default, and at least: {SWEEPS}): more where others use the machine too",
    )
    parser.add_argument(
        "--threads",
        type=count,
        default=1,
        metavar="N",
        help="of a rank (default: 1): runs with train.threads = N have machine files of their own",
    )
    add_ranks(parser)


def _calibrate(given: argparse.Namespace, clock: Clock) -> int:
    for name in given.network:
        check_name(name)
    if given.sweeps < SWEEPS:
        raise InputError(
            f"--sweeps {given.sweeps}: wanted are {SWEEPS} or more: what sweeps differ by tells how sure predictions are"
        )
    _, problems = config.read(None, [f"train.threads={given.threads}"])
    if problems:
        raise InputError("\n".join(problems))
    if given.out:
        check_writable(given.out)
    arguments = ["calibrate", *(part for name in given.network for part in ("--network", name))]
    arguments += ["--out", str(given.out.absolute())] if given.out else []
    arguments += ["--sweeps", str(given.sweeps), "--threads", str(given.threads)]

    def command(world: "Ranks") -> int:
        from distsgd import doctor
        from distsgd.machine.calibrate import Calibration
        from distsgd.machine.where import own_path, write

        voice = cli_ranks.voice(world)
        for warning in doctor.warnings(world, os.environ, given.threads):
            print(f"distsgd: {warning}", file=sys.stderr, flush=True)
        so_far, how = clock.seconds(), (given.sweeps, given.threads)
        calibration = Calibration(world, given.network, lambda line: voice(f"{line} ..."), *how)
        machine = calibration.machine(so_far["start"])
        if machine:
            path = given.out or own_path(machine.where)
            write(machine, path)
            print("\n".join(_summary(machine, clock.seconds()["total"], path)))
        world.barrier()
        return 0

    return cli_ranks.run(given.ranks, arguments, clock, command, given.hostfile, given.threads)


def _summary(machine: "Machine", seconds: float, path: Path) -> Iterator[str]:
    networks = len({step.network for step in machine.steps})
    yield (
        f"{networks} network{'s' * (networks != 1)}, {len(machine.operations)} passes of layers and "
        f"{len(machine.averaging['exchanges'])} ways to average, in {seconds:.0f} s: {path}"
    )
    unsteady = median(step.deviation for step in machine.steps)
    if unsteady > UNSTEADY:
        yield (
            f"this machine was busy, the same steps took longer one time than another: predictions of them are unsure by "
            f"{unsteady:.0%}; measure again when it is idle"
        )
    for one in machine.jitter:
        if one.lasting > SLOW:
            yield f"rank {one.rank} on {one.host} computes {math.expm1(one.lasting):.0%} more slowly than the middle one"


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
