"""Passes of layers, measured within steps: each finds the caches as the one before it leaves them."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import numpy as np

from distsgd import network
from distsgd.cost.estimate import median_error
from distsgd.cost.machine import Operation
from distsgd.kernels.vector import aligned
from distsgd.machine.networks import CLASSES, plan_of
from distsgd.machine.operations import Operation as Pass
from distsgd.machine.operations import operations
from distsgd.machine.rounds import FEW, FEWEST, LONG, WARM
from distsgd.network import Network, Stage
from distsgd.optim import Adam, Optimizer, Sgd
from distsgd.plan import layers
from distsgd.plan.layers import LOSS, UPDATE
from distsgd.threads import Team

SECONDS = 0.008
"""For each network and batch, each time."""
OPTIMIZERS: dict[str, Optimizer] = {"sgd": Sgd(0.001, 0.9), "adam": Adam(0.001, 0.9, 0.999, 1e-8)}


def passes(
    name: str, sizes: Sequence[int], together: int, meet: Callable[[], None], threads: int = 1
) -> list[Operation]:
    """The operations of a network's steps on batches of these sizes; updates, which batches do not matter to, by each optimizer.

    Ranks, of so many threads, `meet` before each batch is measured.
    """
    stages, found = plan_of(name), []
    for optimizer in OPTIMIZERS:
        of = sizes if optimizer == "sgd" else sizes[:1]
        timed = [_stamped(stages, lanes, optimizer, meet, threads) for lanes in of]
        for number, (operation, _) in enumerate(timed[0]):
            if operation.what == UPDATE or optimizer == "sgd":
                times = [each[number][1] for each in timed]
                found.append(_measured(operation, stages, optimizer, of, times, together))
    return found


def _stamped(
    stages: Sequence[Stage], lanes: int, optimizer: str, meet: Callable[[], None], threads: int
) -> list[tuple[Pass, list[float]]]:
    """Each operation of a step, and its seconds in each."""
    size = sum(tensor.size for tensor in network.tensors(stages))
    state = aligned(size * (1 + OPTIMIZERS[optimizer].moments))
    network.initialize(state[:size], stages, 0)
    net, chance = Network(stages, lanes, state[:size]), np.random.default_rng(0)
    net.images.inside[:] = chance.standard_normal(net.images.inside.shape)
    net.batches[0].count, net.labels[:] = lanes, chance.integers(0, CLASSES, lanes)
    stamps: list[list[int]] = []
    with Team(threads) as team:
        order = list(operations(net, OPTIMIZERS[optimizer].bind(state, net.gradient, team=team)))
        runs = [_shared_out(operation, team) for operation in order]
        meet()
        began = time.perf_counter()
        stamps.append(_stamps(runs))
        warm, fewest = (1, FEW) if stamps[0][-1] - stamps[0][0] > LONG * 1e9 else (WARM, FEWEST)
        while len(stamps) < warm + fewest or time.perf_counter() - began < SECONDS:
            stamps.append(_stamps(runs))
    seconds = np.diff(stamps[warm:], axis=1).T * 1e-9
    return list(zip(order, seconds.tolist(), strict=True))


def _shared_out(operation: Pass, team: Team) -> Callable[[], None]:
    """What runs it as training does: an update was bound to the team, and a loss is one thread's."""
    if operation.what in (LOSS, UPDATE):
        return partial(operation.run, 1)
    return team.bound(operation.program)


def _stamps(runs: Sequence[Callable[[], None]]) -> list[int]:
    """Nanoseconds at the beginning and after each."""
    return [time.perf_counter_ns(), *(_after(run) for run in runs)]


def _after(run: Callable[[], None]) -> int:
    run()
    return time.perf_counter_ns()


def _measured(
    operation: Pass,
    stages: Sequence[Stage],
    optimizer: str,
    sizes: Sequence[int],
    times: Sequence[Sequence[float]],
    together: int,
) -> Operation:
    """times: for each size those of all steps."""
    if operation.what == LOSS:
        about = layers.loss_of(CLASSES)
    elif operation.what == UPDATE:
        about = layers.update_of(sum(tensor.size for tensor in network.tensors(stages)), optimizer)
    else:
        assert operation.stage is not None, "a pass of a layer"
        about = layers.of_stage(operation.stage, operation.what)
    return Operation(
        **vars(about),
        together=together,
        lanes=tuple(sizes),
        seconds=tuple(map(median, times)),
        errors=tuple(map(median_error, times)),
    )


def quietest(times: Sequence[Sequence[Operation]]) -> Iterator[Operation]:
    """The same operations as found at several times: what else a machine does makes some of them longer, and none shorter."""
    for same in zip(*times, strict=True):
        least = [
            min(of_size)
            for of_size in zip(*(zip(each.seconds, each.errors, strict=True) for each in same), strict=True)
        ]
        seconds, errors = zip(*least, strict=True)
        yield same[0].model_copy(update={"seconds": seconds, "errors": errors})


def merged(of_ranks: Iterator[list[Operation]]) -> list[Operation]:
    """The same operations as several ranks found them: means over ranks."""
    return [
        same[0].model_copy(
            update={
                part: tuple(np.mean([getattr(each, part) for each in same], axis=0).tolist())
                for part in ("seconds", "errors")
            }
        )
        for same in zip(*of_ranks, strict=True)
    ]
