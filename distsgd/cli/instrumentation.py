"""`distsgd bench instrumentation`: the options of the benchmark."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd.cli import ranks as cli_ranks
from distsgd.cli.options import add_ranks
from distsgd.clock import Clock

if TYPE_CHECKING:
    from distsgd.comm import Ranks


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `distsgd bench instrumentation`."""
    parser.set_defaults(command=run)
    parser.description = (
        "What it costs that a run tells where its time goes: trains the networks with the shortest steps, a few rounds with "
        "clock and watch, without, and without again, in shuffled order. Takes a minute."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    add_ranks(parser)


def run(given: argparse.Namespace, clock: Clock) -> int:
    """Measure and print."""
    arguments = ["bench", "instrumentation"]
    arguments += ["--json", str(given.json.absolute())] if given.json else []

    def command(world: "Ranks") -> int:
        from distsgd.bench.instrumentation import instrumentation

        instrumentation(world, given.json, cli_ranks.voice(world))
        return 0

    return cli_ranks.run(given.ranks, arguments, clock, command, given.hostfile)
