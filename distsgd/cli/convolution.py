"""`distsgd bench convolution`: the options of the benchmark."""

import argparse
from functools import partial
from pathlib import Path

from distsgd.clock import Clock


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `distsgd bench convolution`."""
    parser.set_defaults(command=run)
    parser.description = (
        "Seconds a training iteration of the networks of the source documents, by loops, matrix operations, unrolled windows "
        "(one process and several), ours and PyTorch, beside what the documents printed. Takes some minutes."
    )
    parser.add_argument(
        "--data", default="fashion-mnist-small", metavar="FILE", help="images (default: the embedded set)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture, .png or .svg ('.[plot]')")


def run(given: argparse.Namespace, clock: Clock) -> int:
    """Measure and print."""
    from distsgd.bench.convolution.benchmark import convolution

    convolution(given.data, given.json, given.plot, partial(print, flush=True))
    return 0
