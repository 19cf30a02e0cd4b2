"""Every kernel at the shapes of every network of the zoo: how near it is to this core's limits, and to PyTorch."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from distsgd import network, zoo
from distsgd.bench import limits, pytorch, roofline
from distsgd.bench.images import MADE_FOR
from distsgd.bench.limits import Limits
from distsgd.bench.output import check_file, check_picture
from distsgd.bench.pytorch_layers import alike
from distsgd.bench.timed import Timed
from distsgd.bench.training import SGD
from distsgd.comm import Alone
from distsgd.kernels.vector import VECTOR, aligned
from distsgd.machine.operations import Operation, operations
from distsgd.machine.peak import best
from distsgd.machine.where import processor
from distsgd.network import Network, Stage
from distsgd.optim import SgdSteps
from distsgd.plan.layers import FORWARD, LOSS, TO_DATA, TO_WEIGHTS
from distsgd.record import as_json, write_whole

NETWORKS = (
    "garg",
    "rendon",
    "chavan-5-50-100",
    "lenet5",
    "cifar",
    "fer",
    "vgg11",
    "alexnet-small",
    "alexnet",
)
OTHERS = 28, 28, 1
"""Images (height, width, channels) of networks that take any."""
CLASSES = 10
"""Of networks that are for any number."""


def kernels(
    names: Sequence[str] | None,
    batch: int,
    json_path: Path | None,
    plot_path: Path | None,
    say: Callable[[str], None],
    now: Callable[[], int] = time.perf_counter_ns,
) -> None:
    """Time all operations of the networks (None: NETWORKS) for a batch; say a table, write JSON and a picture where wanted.

    Beside PyTorch where that is installed. InputError before anything is timed where a name or a folder is wrong.
    """
    plans = {name: _plan(name) for name in dict.fromkeys(names or NETWORKS)}
    check_file("--json", json_path)
    check_picture(plot_path)
    against = find_spec("torch") is not None
    about = {"batch": batch, "processor": processor(), "vector_lanes": VECTOR}
    about["torch_version"] = pytorch.version(Alone()) if against else None
    found = limits.measured(now)
    say(_heading(about, found))
    timed = []
    with pytorch.process_group(Alone()) if against else contextlib.nullcontext():
        for name, stages in plans.items():
            for operation in _timed(name, stages, batch, found, against, now):
                say(_line(operation))
                timed.append(operation)
    summary = {
        "forward_share_of_peak": share_of_peak(timed, found, FORWARD),
        "backward_share_of_peak": share_of_peak(timed, found, TO_DATA, TO_WEIGHTS),
    }
    say(_closing(summary))
    if json_path:
        facts = {**about, "peak_gflops": found.peak / 1e9, "kernels": [_facts(each) for each in timed]}
        write_whole(json_path, as_json({**facts, "summary": summary}))
    if plot_path:
        roofline.draw(plot_path, found, timed)


def _plan(name: str) -> list[Stage]:
    height, width, channels = MADE_FOR.get(name, OTHERS)
    return network.plan(zoo.layers(name, zoo.CLASSES.get(name, CLASSES)), (channels, height, width))


def _timed(
    name: str, stages: list[Stage], batch: int, found: Limits, against: bool, now: Callable[[], int]
) -> Iterator[Timed]:
    """The operations of one network, on random numbers."""
    at_work, steps = _at_work(stages, batch)
    for operation in operations(at_work, steps):
        seconds = best(operation.run, now)
        ratio = None
        if against:
            ratio = min(best(repeat, now) for repeat in alike(operation, at_work)) / seconds
        yield _judged(name, operation, seconds, found, ratio)


def _at_work(stages: list[Stage], batch: int) -> tuple[Network, SgdSteps]:
    """A network that has taken a step on random images: its values and gradients are ordinary numbers."""
    random, size = np.random.default_rng(0), sum(tensor.size for tensor in network.tensors(stages))
    state = aligned(2 * size)
    network.initialize(state[:size], stages, 0)
    at_work = Network(stages, batch, state[:size])
    at_work.images.rows[:] = random.standard_normal(at_work.images.rows.shape)
    at_work.batches[0].count = batch
    at_work.labels[:] = random.integers(0, len(at_work.scores.units), at_work.lanes)
    at_work.learn(0, 0, 0)
    return at_work, SGD.bind(state, at_work.gradient)


def _judged(name: str, operation: Operation, seconds: float, found: Limits, ratio: float | None) -> Timed:
    amounts = operation.flops, operation.moved, operation.held
    share = None if operation.what == LOSS else found.seconds(*amounts) / seconds
    bound = "arithmetic" if operation.what == LOSS or found.arithmetic_binds(*amounts) else "memory"
    speeds = operation.flops / seconds / 1e9, operation.moved / seconds / 1e9
    what = operation.layer, operation.what, seconds
    return Timed(name, *what, *speeds, share, bound, operation.convolves, operation.held, ratio)


def share_of_peak(timed: Sequence[Timed], found: Limits, *passes: str) -> float | None:
    """The geometric mean over these passes of convolutions of their speed over the peak; None where there are none."""
    shares = [each.gflops * 1e9 / found.peak for each in timed if each.convolves and each.what in passes]
    return math.exp(sum(map(math.log, shares)) / len(shares)) if shares else None


def _facts(timed: Timed) -> dict[str, Any]:
    facts = asdict(timed)
    return {"pass": facts.pop("what"), **facts}


def _heading(about: dict[str, Any], found: Limits) -> str:
    lines = (
        f"batch {about['batch']}, one thread, {about['vector_lanes']} vector lanes, {about['processor']}\n"
    )
    near, far = found.bandwidths[0] / 1e9, found.bandwidths[-1] / 1e9
    lines += f"peak {found.peak / 1e9:.0f} GFLOP/s; copying {near:.0f} GB/s in the nearest cache, {far:.0f} GB/s from memory\n\n"
    columns = f"{'network':<17}{'layer':<46}{'pass':<12}{'us':>8}{'GFLOP/s':>9}{'GB/s':>7}{'of limit':>10}"
    return (
        lines + columns + (f"   time of PyTorch {about['torch_version']}" if about["torch_version"] else "")
    )


def _line(timed: Timed) -> str:
    speed = f"{timed.gflops:>9.0f}" if timed.gflops else f"{'':>9}"
    line = f"{timed.network:<17}{timed.layer:<46}{timed.what:<12}{timed.seconds * 1e6:>8.1f}{speed}"
    share = f"{timed.share_of_limit:>9.0%}" if timed.share_of_limit else f"{'':>9}"
    line += f"{timed.gigabytes:>7.0f}{share} {timed.bound[0]}"
    return line + (f"{timed.torch_ratio:>15.2f}" if timed.torch_ratio else "")


def _closing(summary: dict[str, float | None]) -> str:
    shares = [f"{key.split('_')[0]} {value:.0%}" for key, value in summary.items() if value]
    return (
        f"\nconvolutions, geometric mean of their speed over the peak: {', '.join(shares)}\n"
        "a: arithmetic is the limit, m: moving numbers. Fewer multiplications than the definition's count as speed."
    )
