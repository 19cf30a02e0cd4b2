"""`distsgd bench`: this machine, alone or against a peer."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd import launcher
from distsgd.cli import convolution, instrumentation
from distsgd.cli import ranks as cli_ranks
from distsgd.cli.options import add_ranks, add_set, batch, threads
from distsgd.clock import Clock
from distsgd.config import InputError

if TYPE_CHECKING:
    from distsgd.comm import Ranks

MOST = 5000
"""Configurations to draw: there are some twenty thousand on one rank."""


def add(parser: argparse.ArgumentParser) -> None:
    """The benchmarks, each with its options."""
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")
    training = commands.add_parser("training", help="images/s of whole training steps")
    training.set_defaults(command=_bench_training)
    training.add_argument(
        "--against", choices=["torch"], help="the same steps in PyTorch, in interleaved pairs"
    )
    training.add_argument(
        "--networks", metavar="NAME,...", help="(default: garg, rendon, chavan-5-50-100, lenet5, cifar)"
    )
    training.add_argument(
        "--batch", type=batch, default=64, metavar="N", help="images a step and rank (default: 64)"
    )
    training.add_argument(
        "--data", default="fashion-mnist-small", metavar="FILE", help="images (default: the embedded set)"
    )
    training.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    training.add_argument(
        "--threads", type=threads, default=1, metavar="N", help="of a rank, measured beside one (default: 1)"
    )
    add_ranks(training)
    kernels = commands.add_parser(
        "kernels",
        help="every pass of every layer: of this core's limits, of PyTorch",
    )
    kernels.set_defaults(command=_bench_kernels)
    kernels.add_argument("--networks", metavar="NAME,...", help="(default: those of the zoo)")
    kernels.add_argument("--batch", type=batch, default=64, metavar="N", help="images (default: 64)")
    kernels.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    kernels.add_argument("--plot", type=Path, metavar="FILE", help="a picture, .png or .svg ('.[plot]')")
    prediction = commands.add_parser(
        "prediction", help="how well a machine file predicts runs that it was not made from"
    )
    _add_prediction(prediction)
    instrumentation.add(
        commands.add_parser("instrumentation", help="what it costs that a run tells where its time goes")
    )
    convolution.add(commands.add_parser("convolution", help="ways to convolve, as the sources compared them"))


def _add_prediction(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_bench_prediction)
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


def _bench_prediction(given: argparse.Namespace, clock: Clock) -> int:
    from distsgd import config

    settings, problems = config.read(None, given.set)
    if problems:
        raise InputError("\n".join(problems))
    if given.seed < 0:
        raise InputError(f"--seed {given.seed}: must be 0 or more")
    if not 1 <= given.count <= MOST:
        raise InputError(f"--count {given.count}: must be 1 to {MOST}")
    threads = settings.train.threads
    arguments = ["bench", "prediction", "--seed", str(given.seed), "--count", str(given.count)]
    arguments += ["--json", str(given.json.absolute())] if given.json else []
    arguments += [part for change in given.set for part in ("--set", change)]

    def command(world: "Ranks") -> int:
        from distsgd.bench.prediction import prediction
        from distsgd.machine.where import chosen, outdated

        machine = chosen(settings.prediction.machine, world, threads)
        if world.rank == 0 and (old := outdated(machine.where)):
            print(f"distsgd: {old}", file=sys.stderr, flush=True)
        prediction(world, machine, given.seed, given.count, given.json, cli_ranks.voice(world))
        return 0

    room = max(1, (os.cpu_count() or 1) // threads)
    ranks = given.ranks or (None if launcher.launched(os.environ) else min(2, room))
    return cli_ranks.run(ranks, arguments, clock, command, given.hostfile, threads)


def _bench_training(given: argparse.Namespace, clock: Clock) -> int:
    arguments = ["bench", "training", "--batch", str(given.batch), "--data", given.data]
    for option in ("against", "networks", "json", "threads"):
        value = getattr(given, option)
        arguments += [f"--{option}", str(value)] if value else []

    def command(world: "Ranks") -> int:
        from distsgd import doctor
        from distsgd.bench.training import training

        for warning in doctor.warnings(world, os.environ, given.threads):
            print(f"distsgd: {warning}", file=sys.stderr, flush=True)
        networks = given.networks.split(",") if given.networks else None
        wanted = networks, given.batch, given.against == "torch", given.data, given.json
        training(world, *wanted, cli_ranks.voice(world), threads=given.threads)
        return 0

    return cli_ranks.run(given.ranks, arguments, clock, command, given.hostfile, given.threads)


def _bench_kernels(given: argparse.Namespace, clock: Clock) -> int:
    from distsgd.bench.kernels import kernels

    networks = given.networks.split(",") if given.networks else None
    kernels(networks, given.batch, given.json, given.plot, print)
    return 0
