"""The command line: the only place where things are wired together.

Nothing heavy is imported until a command needs it: thread counts must be set before numpy, and a message must not wait for Numba.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd import __version__, launcher
from distsgd.cli import bench as cli_bench
from distsgd.cli import calibrate as cli_calibrate
from distsgd.cli import data as cli_data
from distsgd.cli import doctor as cli_doctor
from distsgd.cli import launch as cli_launch
from distsgd.cli import plan as cli_plan
from distsgd.cli import ranks as cli_ranks
from distsgd.cli import scale as cli_scale
from distsgd.cli.options import add_ranks, add_set, count
from distsgd.clock import Clock, process_age
from distsgd.config import InputError

if TYPE_CHECKING:
    from distsgd.comm import Ranks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 where a run failed, 2 with one message where the input is wrong."""
    clock = Clock(process_age())
    os.environ.update(launcher.single_thread(os.environ))
    with contextlib.nullcontext() if launcher.is_first(os.environ) else _silence():
        given = _parser().parse_args(arguments)
    try:
        return int(given.command(given, clock))
    except InputError as error:
        if launcher.is_first(os.environ):
            return cli_ranks.complain(str(error))
        time.sleep(cli_ranks.PATIENCE_SECONDS)
        return cli_ranks.BAD_INPUT
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return cli_ranks.FAILED
    except KeyboardInterrupt:
        print("distsgd: interrupted", file=sys.stderr)
        return cli_ranks.INTERRUPTED


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What the parser says, one rank says for all."""
    try:
        with (
            open(os.devnull, "w") as sink,
            contextlib.redirect_stderr(sink),
            contextlib.redirect_stdout(sink),
        ):
            yield
    except SystemExit:
        time.sleep(cli_ranks.PATIENCE_SECONDS)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distsgd", description="Parallel SGD for convolutional networks over MPI."
    )
    parser.add_argument("--version", action="version", version=f"distsgd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train a network", description="Train a network."))
    _add_evaluate(commands.add_parser("evaluate", help="what a trained network says of a set of images"))
    _add_report(commands.add_parser("report", help="runs in one page and in pictures"))
    cli_data.add(commands.add_parser("data", help="import images, or look at a file of them"))
    _add_networks(commands.add_parser("networks", help="layers, parameters, costs and memory of networks"))
    cli_bench.add(commands.add_parser("bench", help="measure this machine, alone or against a peer"))
    cli_calibrate.add(
        commands.add_parser("calibrate", help="measure this machine, so that runs can be predicted")
    )
    cli_plan.add(commands.add_parser("plan", help="what more ranks would gain, before there are any"))
    cli_scale.add(
        commands.add_parser("scale", help="the same training on more and more ranks: what do they gain?")
    )
    cli_launch.add(commands.add_parser("launch", help="write a batch job for a run, or submit it"))
    cli_doctor.add(commands.add_parser("doctor", help="look at this machine as a run would see it"))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_train)
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings (default: all defaults)"
    )
    add_set(parser)
    parser.add_argument(
        "--out", type=Path, metavar="RUN", help="folder of the run (default: in runs/, named for the time)"
    )
    parser.add_argument(
        "--mpi-algorithm",
        metavar="NAME",
        help="the same as --set averaging.algorithm=NAME; auto: the one predicted to be the fastest here",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with the run in this folder, from its last checkpoint",
    )
    add_ranks(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_evaluate)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("data", metavar="DATA", help="a file of images, or the name of an embedded set")
    parser.add_argument("--split", choices=["test", "train", "validation"], default="test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    add_ranks(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_report)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or of `distsgd scale`"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where page and pictures go (default: report in the first RUN)",
    )
    parser.add_argument(
        "--format", choices=["png", "svg"], default="png", help="of the pictures (default: png)"
    )
    parser.add_argument(
        "--link", metavar=cli_plan.LINK, help="plan for such a network between nodes, where none was measured"
    )


def _add_networks(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_networks)
    parser.add_argument(
        "network", nargs="?", metavar="NAME|CONFIG.toml", help="one network (default: all of the zoo)"
    )
    add_set(parser)
    parser.add_argument(
        "--ranks", type=count, default=1, metavar="N", help="memory of one of N ranks (default: 1)"
    )


def _networks(given: argparse.Namespace, clock: Clock) -> int:
    from distsgd.cli import networks

    print(networks.one(given.network, given.set, given.ranks) if given.network else networks.overview())
    return 0


def _train(given: argparse.Namespace, clock: Clock) -> int:
    if given.mpi_algorithm:
        given.set = [*given.set, f"averaging.algorithm={given.mpi_algorithm}"]
    arguments = ["train", *([str(given.config)] if given.config else [])]
    arguments += [part for change in given.set for part in ("--set", change)]
    arguments += ["--out", str(given.out)] if given.out else []
    arguments += ["--resume", str(given.resume)] if given.resume else []
    if given.resume and (given.config or given.out):
        raise InputError(
            "--resume RUN goes on in its folder with its settings: leave CONFIG.toml and --out out"
        )

    threads = 1 if launcher.launched(os.environ) else _look_first(given)

    def command(world: "Ranks") -> int:
        from distsgd.cli.training import train

        return train(given.config, given.set, given.out, given.resume, world, clock)

    return cli_ranks.run(given.ranks, arguments, clock, command, given.hostfile, threads)


def _look_first(given: argparse.Namespace) -> int:
    """Tell of wrong settings and bad images before kernels are compiled, which may take longer than a person waits for an answer.

    Returns how many threads a rank will have.

    What shows only when a network is laid out for its images, or dealt to ranks, is told later. Not for the ranks of a launcher:
    one that ends before it has joined the others leaves MPICH's waiting for ever.
    """
    from distsgd import config, data

    path = given.resume / "config.toml" if given.resume else given.config
    if given.resume and not path.is_file():  # told when the run is looked for
        return 1
    settings, problems = config.read(path, given.set)
    try:
        data.describe(data.locate(settings.data.path))
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return settings.train.threads


def _evaluate(given: argparse.Namespace, clock: Clock) -> int:
    arguments = ["evaluate", str(given.run), given.data, "--split", given.split]
    arguments += ["--json", str(given.json)] if given.json else []
    if not launcher.launched(os.environ):  # before kernels are compiled, as in training
        from distsgd import data, record

        record.model_path(given.run)
        data.describe(data.locate(given.data))

    def command(world: "Ranks") -> int:
        from distsgd.cli.evaluate import evaluate

        return evaluate(given.run, given.data, given.split, given.json, world)

    return cli_ranks.run(given.ranks, arguments, clock, command, given.hostfile)


def _report(given: argparse.Namespace, clock: Clock) -> int:
    from distsgd.report import pictures

    out, link = given.out or given.runs[0] / "report", cli_plan.link_of(given.link)
    for path in pictures.report(given.runs, out, given.format, link):
        print(path)
    return 0
