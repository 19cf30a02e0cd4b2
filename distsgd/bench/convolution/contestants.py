"""All ways to train that are compared, each behind the same interface."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from time import perf_counter_ns

from distsgd.bench.convolution import printed, ways
from distsgd.bench.convolution.measuring import Way
from distsgd.bench.convolution.trainers import InNumpy, Processes, one_process
from distsgd.bench.convolution.ways import Convolve
from distsgd.bench.pytorch import LAYOUTS, Contestant
from distsgd.bench.training import Ours, Task

FEW = 2
"""Images that the naive loops are timed on: they take about a second each."""
TRIED_STEPS = 4


def of_garg(processes: int, torch: bool) -> Iterator[Way]:
    """Garg, Joshi and Sahu's seven, less those that this machine has not got."""
    yield Way(printed.NAIVE, partial(_serial, ways.naive), most_images=FEW)
    yield Way(printed.MATRIX, partial(_serial, ways.matrix))
    yield Way(printed.MATRIX_PARALLEL, partial(_parallel, ways.matrix, processes), processes)
    yield Way(printed.UNROLLED, partial(_serial, ways.unrolled))
    yield Way(printed.UNROLLED_PARALLEL, partial(_parallel, ways.unrolled, processes), processes)
    yield from of_chavan(torch)


def of_rendon(torch: bool) -> Iterator[Way]:
    """Rendon and Sanseviero's."""
    yield Way(printed.MATRIX, partial(_serial, ways.matrix))
    yield Way(printed.SCALAR, partial(_serial, ways.scalar))
    yield from of_chavan(torch)


def of_chavan(torch: bool) -> Iterator[Way]:
    """Ours, and PyTorch where it is installed."""
    yield Way(printed.OURS, _ours)
    if torch:
        yield Way(printed.PYTORCH, _pytorch)


def _serial(way: Convolve, task: Task, stack: ExitStack) -> Contestant:
    return InNumpy(task, one_process(task, way))


def _parallel(way: Convolve, processes: int, task: Task, stack: ExitStack) -> Contestant:
    # Spawned: a fork would take over the threads' locks of whatever library has started some.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    stack.enter_context(pool)
    return InNumpy(task, Processes(one_process(task, way), pool, processes))


def _ours(task: Task, stack: ExitStack) -> Ours:
    return task.ours(0)


def _pytorch(task: Task, stack: ExitStack) -> Contestant:
    """In the faster of its layouts."""
    return task.peer(0, min(LAYOUTS, key=partial(_tried, task)))


def _tried(task: Task, layout: str) -> int:
    """Nanoseconds of a layout's fastest step."""
    tried, taken = task.peer(0, layout), []
    for number in range(TRIED_STEPS):
        began = perf_counter_ns()
        tried.step(number)
        taken.append(perf_counter_ns() - began)
    return min(taken)
