"""Options that several commands have."""

import argparse
from pathlib import Path


def add_set(parser: argparse.ArgumentParser) -> None:
    """Settings one by one."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one setting; may be repeated",
    )


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """Ranks to be started."""
    parser.add_argument(
        "--ranks", type=count, metavar="N", help="start N ranks with the MPI launcher of this machine"
    )
    parser.add_argument(
        "--hostfile", type=Path, metavar="FILE", help="with --ranks: the hosts to start them on, a line each"
    )


def count(text: str, most: int | None = None) -> int:
    """A number of things, for argparse to read."""
    if not text.isdecimal() or int(text) < 1 or (most and int(text) > most):
        wanted = f"from 1 to {most}" if most else "at least 1"
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, {wanted}")
    return int(text)


def batch(text: str) -> int:
    """Images of a step, as many as train.batch may be."""
    return count(text, 65536)


def threads(text: str) -> int:
    """Threads of a rank, as many as train.threads may be."""
    return count(text, 256)
