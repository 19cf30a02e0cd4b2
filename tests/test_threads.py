"""Threads inside a rank: the same bits as one thread gives, in any order of the parts; and threads that end."""

import gc
import threading
import time
import weakref
from collections.abc import Generator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_network import CLASSES, DRAW, NETWORKS, Data, Layers, start

import distsgd
from distsgd import config, zoo
from distsgd.clock import Clock
from distsgd.comm import Alone, Ranks, World
from distsgd.config import Config, InputError
from distsgd.kernels import order, patch_filters, patches
from distsgd.kernels import threads as native
from distsgd.kernels.compiled import FLOAT
from distsgd.kernels.vector import aligned
from distsgd.layers import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    MaxPool,
    Rectifier,
    ResponseNormalization,
    Shape,
    convolution_patches,
)
from distsgd.network import Network, Stage, plan
from distsgd.optim import Adam, Optimizer, Sgd
from distsgd.plan.memory import memory
from distsgd.plan.work import Job
from distsgd.record import weights_sha256
from distsgd.threads import Team
from distsgd.threads import whole as memory_of
from distsgd.threads.parts import WAYS, Way, parts
from distsgd.threads.team import Rooms
from distsgd.threads.turns import Call, calls, in_turn, steps
from distsgd.training import Training, check

OPTIMIZERS: list[Optimizer] = [
    Sgd(0.1, 0.9),
    Sgd(0.1, 0.9, True, 0.01, 0.5),
    Adam(0.01, 0.9, 0.999, 1e-8),
    Adam(0.01, 0.9, 0.99, 1e-8, 0.1, 0.5),
]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Generator[None, None, None]:
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


def learned(stages: list[Stage], data: Data, batch: int, team: Team | None) -> list[bytes]:
    """Gradient, totals and scores of a step, and totals and scores of a look without dropout."""
    network = Network(stages, batch, start(stages), 1, team)
    found = []
    for count in (batch, max(1, batch - 3)):
        data.fill(network, 3, count)
        network.learn(*DRAW)
        found += [network.gradient.tobytes(), network.totals.tobytes(), network.scores.units.tobytes()]
        network.judge()
        found += [network.totals.tobytes(), network.scores.units.tobytes()]
    return found


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_bits_of_one_thread(name: str, threads: int) -> None:
    layers, shape = NETWORKS[name]
    stages, data = plan(layers, shape), Data(shape)
    with Team(threads) as several:
        assert learned(stages, data, 23, several) == learned(stages, data, 23, None)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_parts_in_any_order_are_the_whole(name: str, threads: int) -> None:
    # One thread runs the parts of each call, the last first: what a part left to another, or wrote over, would show.
    layers, shape = NETWORKS[name]
    stages, data = plan(layers, shape), Data(shape)
    one, cut = (Network(stages, 23, start(stages)) for _ in range(2))
    rooms: list[Any] = [lambda memory: memory, *(Rooms() for _ in range(threads - 1))]
    for network in (one, cut):
        data.fill(network, 3, 23)
    one.learn(*DRAW)
    cut.draw[:] = DRAW

    def run(program: Any) -> None:
        for step in steps(program, threads, rooms, parts):
            for kernel, arguments in chain(*reversed(step)):
                kernel(*arguments)

    run(cut._programs[0].learning)
    cut.lose(cut.class_weights)
    run(cut._programs[0].returning)
    assert cut.gradient.tobytes() == one.gradient.tobytes()


def written(call: Any) -> set[int]:
    """Run a kernel: the addresses of all values that it changed."""
    arrays = [array for array in call[1] if isinstance(array, np.ndarray)]
    before = [array.copy() for array in arrays]
    call[0](*call[1])
    found: set[int] = set()
    for array, old in zip(arrays, before, strict=True):
        changed = np.argwhere((array != old) & ((array == array) | (old == old)))
        found.update((array.ctypes.data + changed @ array.strides).tolist())
    return found


@pytest.mark.parametrize(("threads", "near"), [(3, 30_000), (2, 30_000), (2, 300_000)])
@pytest.mark.parametrize(
    ("shape", "of_layers"), [((20, 9, 10), 1), ((70, 5, 7), 1), ((9, 16, 17), 4), ((9, 8, 13), 2)]
)
def test_no_two_threads_write_to_the_same_place(
    shape: Shape, of_layers: int, threads: int, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What tests with few threads and a bit of luck do not see: working memory that they share.
    monkeypatch.setattr(convolution_patches, "cost", lambda *shapes: -1)
    monkeypatch.setattr(convolution_patches, "NEAR", near)
    if of_layers == 1:
        monkeypatch.setattr(convolution_patches, "LARGEST", 0)
    layers = [Convolution(70, 3, "same"), Rectifier(), Convolution(33, 5, "same"), Rectifier(), MaxPool(2)]
    stages, data = plan([*layers, Dense(CLASSES)], shape), Data(shape)
    cut_by_columns, cut_by_images = set[bool](), set[bool]()
    as_pieces, runs, for_themselves = set[bool](), set[int](), False
    network = Network(stages, 23, start(stages))
    data.fill(network, 3, 23)
    network.draw[:] = DRAW
    rooms: list[Any] = [lambda memory: memory, *(Rooms() for _ in range(threads - 1))]
    for program, then in (
        (network._programs[0].learning, network.lose),
        (network._programs[0].returning, lambda _: None),
    ):
        for step in steps(program, threads, rooms, parts):
            shared = [set[int]().union(*map(written, calls)) for calls in step]
            assert len(set().union(*shared)) == sum(map(len, shared)), step
            as_pieces.add(len(step[0]) > 1)
            spread = [call[1][3] for call in chain(*step) if call[0] is patch_filters.spread_filters]
            if len(step[0]) > 1 and spread:  # the values are the same, which `written` does not see
                assert len({id(memory_of(filters)) for filters in spread}) == threads
                for_themselves = True
        for kernel, arguments in program:
            if kernel is in_turn and any(
                patches.pair_points is each for each, _ in calls([(kernel, arguments)])
            ):
                runs.add(len(arguments[0]))
        for kernel, arguments in calls(program):
            if kernel is patches.spread_slopes:
                _, columns, _, slopes = arguments
                some = [part[1] for part in parts((kernel, arguments), threads, rooms) if part]
                cut_by_columns |= {columns > of for _, of, _, _ in some}
                cut_by_images |= {slopes.shape[2] > part.shape[2] for *_, part in some}
        then(network.class_weights)
    assert network.gradient.any()
    assert False in as_pieces
    if threads == 2 or of_layers == 1:
        assert for_themselves == (of_layers > 1)
    assert runs == {of_layers}
    several_bands = near == 300_000 and shape[0] == 20
    assert True in (cut_by_images if threads == 3 or several_bands else cut_by_columns)


def test_what_every_thread_repeats_makes_a_way_longer() -> None:
    given = {"y": np.zeros((4, 1))}
    assert Way({"y": 0}).largest(given, 2) == 0.5
    assert Way({"y": 0}, repeated=0.3).largest(given, 2) == pytest.approx(0.65)


@pytest.mark.parametrize("name", ["cifar", "alexnet-small"])
def test_every_call_is_shared_out(name: str) -> None:
    # Else all other tests here would pass with one thread that does the work of all.
    stages = plan(zoo.layers(name, CLASSES), zoo.MADE_FOR[name])
    network = Network(stages, 32, aligned(sum(tensor.size for stage in stages for tensor in stage.tensors)))
    for step in steps(
        network._programs[0].learning + network._programs[0].returning, 2, [lambda memory: memory] * 2, parts
    ):
        assert len(step) == 2
        assert all(step)


@pytest.mark.parametrize(
    ("pieces", "threads", "whole"),
    [(8, 2, True), (9, 2, True), (7, 2, False), (3, 3, True), (4, 3, False), (1, 2, False)],
)
def test_pieces_are_whole_where_they_keep_all_threads_at_work(pieces: int, threads: int, whole: bool) -> None:
    x, room = np.ones((2, 1, 1, 2, 16), np.float32), np.zeros((1, 1, 2, 16), np.float32)
    needed: list[Call] = [(order.copy, (room, x[0]))]
    y = np.zeros((pieces, 1, 1, 2, 16), np.float32)
    program: list[list[Call]] = [[(order.copy, (to, room)), (order.copy, (x[1], to))] for to in y]
    rooms: list[Any] = [lambda memory: memory, *(Rooms() for _ in range(threads - 1))]
    found = list(steps([(in_turn, (program, (room,), needed))], threads, rooms, parts))
    assert len(found) == (1 if whole else 1 + 2 * pieces)
    for kernel, arguments in chain(*chain(*found)):
        kernel(*arguments)
    assert y.all()
    copied = [tuple(id(memory_of(array)) for array in call[1]) for call in chain(*chain(*found))]
    made = [to for to, given in copied if given == id(x)]
    read = {given for to, given in copied if to == id(y)}
    assert set(made) == read
    assert len(made) == len(read) == (threads if whole else 1)


def test_what_is_shared_out_can_be_called() -> None:
    assert set(WAYS) == set(native.KERNELS)


def random_network(random: np.random.Generator) -> tuple[Layers, Shape]:
    """Layers that fit each other, more or less anything that a config may list."""
    shape: Shape = tuple(int(n) for n in random.integers([1, 6, 6], [5, 18, 18]))  # type: ignore[assignment]
    layers: list[Any] = []
    for _ in range(int(random.integers(1, 6))):
        more = [*layers, *_random_layer(random)]
        try:
            plan([*more, Dense(CLASSES)], shape)
        except InputError:
            continue
        layers = more
    return [*layers, Dense(CLASSES, bool(random.integers(2)))], shape


def _random_layer(random: np.random.Generator) -> list[Any]:
    def one(*choices: Any) -> Any:
        return choices[int(random.integers(len(choices)))]

    rectified = [Rectifier()] * int(random.integers(2))
    size, stride = int(random.integers(1, 6)), one(1, 1, 2, 3)
    convolution = Convolution(
        int(random.integers(1, 21)), size, one("same", "valid", "full"), stride, one(1, 1, 2, 3)
    )
    return one(
        [convolution, *rectified],
        [convolution, *rectified, MaxPool(one(2, 3))],
        [convolution, *rectified, ResponseNormalization(one(3, 4, 5), 0.3), MaxPool(3, 2)],
        [MaxPool(size, one(None, 1, 2))],
        [AveragePool(one(None, 2, 3), one(None, 1, 2))],
        [Dropout(0.4)],
        [Dense(int(random.integers(1, 40))), *rectified],
    )


def trained(layers: Layers, shape: Shape, batch: int, optimizer: Optimizer, team: Team | None) -> bytes:
    """The state after three steps."""
    stages, data = plan(layers, shape), Data(shape)
    begin = start(stages)
    state = aligned(begin.size * (1 + optimizer.moments))
    state[: begin.size] = begin
    network = Network(stages, batch, state[: begin.size], 2, team)
    tensors = [(tensor.size, tensor.fan_in > 0) for stage in stages for tensor in stage.tensors]
    steps = optimizer.bind(state, network.gradient, tensors, None, team)
    for number in range(3):
        network.turn()
        data.fill(network, number * 5, batch)
        network.learn(1, 2, number)
        steps.step(number + 1)
    return state.tobytes()


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_train_to_the_bits_of_one_thread(seed: int) -> None:
    random = np.random.default_rng(seed)
    layers, shape = random_network(random)
    batch, optimizer = int(random.integers(1, 50)), OPTIMIZERS[seed % len(OPTIMIZERS)]
    wanted = trained(layers, shape, batch, optimizer, None)
    with Team(2 + seed % 3) as several:
        assert trained(layers, shape, batch, optimizer, several) == wanted


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 15, 1000, 1023])
def test_updates_are_those_of_one_thread(optimizer: Optimizer, size: int) -> None:
    tensors = [(size // 2, True), (size // 3, False), (size - size // 2 - size // 3, True)]
    random, states = np.random.default_rng(size), []
    begin = abs(random.normal(size=size * (1 + optimizer.moments))).astype(FLOAT)
    gradient = random.normal(size=size).astype(FLOAT)
    for threads in (1, 2, 3, 4):
        states.append(begin.copy())
        with Team(threads) as several:
            steps = optimizer.bind(states[-1], gradient, tensors, None, several)
            for number in range(1, 4):
                steps.step(number)
    assert len({state.tobytes() for state in states}) == 1
    assert states[0].tobytes() != begin.tobytes()


def small(threads: int) -> tuple[Network, Team]:
    layers, shape = NETWORKS["garg"]
    several = Team(threads)
    network = Network(plan(layers, shape), 23, start(plan(layers, shape)), 1, several)
    Data(shape).fill(network, 0, 23)
    return network, several


def test_outside_of_its_context_a_team_is_one_thread() -> None:
    network, several = small(3)
    network.learn(*DRAW)
    before = network.gradient.copy()
    for _ in range(2):
        with several:
            assert threading.active_count() >= 3
            network.gradient[:] = 0
            network.learn(*DRAW)
        assert network.gradient.tobytes() == before.tobytes()
    network.gradient[:] = 0
    network.learn(*DRAW)
    assert network.gradient.tobytes() == before.tobytes()


def test_threads_that_nobody_asks_sleep_and_wake_up() -> None:
    network, several = small(3)
    network.learn(*DRAW)
    before = network.gradient.copy()
    asleep = several._words[native.OWN + native.ASLEEP :: native.LINE]
    with several:
        for _ in range(3):
            deadline = time.monotonic() + 60
            while not asleep[1:].all() and time.monotonic() < deadline:
                time.sleep(0.001)
            assert asleep[1:].all()
            network.gradient[:] = 0
            network.learn(*DRAW)
            assert network.gradient.tobytes() == before.tobytes()


@pytest.mark.parametrize("thread", [0, 1, 2])
def test_a_kernel_that_fails_ends_the_run_with_its_name(thread: int) -> None:
    network, several = small(3)
    several._lists[thread][0] = 99
    with several, pytest.raises(RuntimeError, match="a thread of this rank has failed: kernel s"):
        network.learn(*DRAW)


def test_a_kernel_that_fails_in_the_only_thread_ends_the_run_with_its_name() -> None:
    network, _ = small(1)
    network.learn(*DRAW)
    forward: Any = network._steps[0][0]
    forward._list[0] = 99
    with pytest.raises(RuntimeError, match="a kernel has failed: s"):
        network.learn(*DRAW)


def test_a_list_keeps_what_it_names() -> None:
    first, second = (np.full((2, 3, 1, 16), value, FLOAT) for value in (1, 2))
    run, kept = Team().bound([(order.copy, (second, first))]), weakref.ref(first)
    del first
    gc.collect()
    assert kept() is not None
    run()
    np.testing.assert_array_equal(second, 1)


def test_an_exception_in_a_thread_ends_the_run_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    network, several = small(2)

    def serve(*_: object) -> bool:
        raise MemoryError("no room for a thread")

    monkeypatch.setattr(native, "serve", serve)
    with several, pytest.raises(RuntimeError, match="no room for a thread"):
        network.learn(*DRAW)


def test_a_thread_that_is_interrupted_ends_the_others() -> None:
    network, several = small(4)

    def interrupted() -> None:
        with several:
            network.learn(*DRAW)
            native.ask(several._words)  # the others go to a meeting that this one does not come to
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_one_thread_runs_its_list_and_starts_no_other() -> None:
    first, second, third = (np.full((2, 3, 1, 16), value, FLOAT) for value in (1, 2, 3))
    team, before = Team(), threading.active_count()
    run = team.bound([(order.copy, (second, first)), (in_turn, ([[(order.copy, (third, second))]], (), []))])
    team.bound([])()
    with team:
        assert threading.active_count() == before
        run()
    for copied in (second, third):
        np.testing.assert_array_equal(copied, first)


EXPERIMENT: dict[str, dict[str, Any]] = {
    "data": {"train_images": 211},
    "network": {"name": "rendon", "dropout": 0.5},
    "averaging": {"workers": 3, "period": 2},
    "train": {"epochs": 2, "batch": 23, "seed": 11},
}


def run_of(ranks: Ranks, threads: int, prefetch: bool = False, **averaging: Any) -> str:
    """The SHA-256 of the weights."""
    changes = {
        "averaging": {**EXPERIMENT["averaging"], **averaging},
        "train": {**EXPERIMENT["train"], "threads": threads},
        "data": {**EXPERIMENT["data"], "prefetch": prefetch},
    }
    settings = Config.model_validate({**EXPERIMENT, **changes})
    training = Training(check(settings, ranks.size, []), ranks, Clock())
    result = training.run(lambda progress: None, lambda end: None)
    assert training._team.threads == threads
    return weights_sha256(result.parameters)


@pytest.mark.parametrize("averaging", [{}, {"period": "once"}, {"what": "gradients", "period": 1}])
def test_training_comes_to_the_weights_of_one_thread(averaging: dict[str, Any]) -> None:
    wanted = run_of(Alone(), 1, **averaging)
    assert run_of(Alone(), 2, **averaging) == wanted
    assert run_of(Alone(), 3, prefetch=True, **averaging) == wanted


@pytest.mark.mpi(ranks=2)
def test_two_ranks_of_two_threads_come_to_the_same_weights(mpi_ranks: int, comm: Any) -> None:
    assert run_of(World(comm), 2) == run_of(Alone(), 1)


def test_a_run_goes_on_with_other_threads_and_tells_how_many(tmp_path: Path) -> None:
    whole = distsgd.train({**EXPERIMENT, "train": {**EXPERIMENT["train"], "epochs": 3}})
    two = {**EXPERIMENT, "train": {**EXPERIMENT["train"], "threads": 2}}
    first = distsgd.train(two, out=tmp_path / "run")
    assert (first.summary["threads"], whole.summary["threads"]) == (2, 1)
    longer = distsgd.resume(tmp_path / "run", {"train": {"epochs": 3, "threads": 3}})
    assert longer.summary["threads"] == 3
    assert longer.summary["weights_sha256"] == whole.summary["weights_sha256"]


def test_an_exception_in_the_loop_ends_the_threads() -> None:
    def fail(progress: Any) -> None:
        assert any(thread.name == "thread 1" for thread in threading.enumerate())
        raise KeyboardInterrupt

    settings = Config.model_validate(
        {**EXPERIMENT, "train": {**EXPERIMENT["train"], "threads": 2}, "averaging": {"workers": 1}}
    )
    training = Training(check(settings, 1, []), Alone(), Clock())
    with pytest.raises(KeyboardInterrupt):
        training.run(fail, lambda end: None)


def test_memory_counts_what_other_threads_work_in() -> None:
    found = []
    for threads in (1, 2, 3):
        settings = Config.model_validate({**EXPERIMENT, "train": {**EXPERIMENT["train"], "threads": threads}})
        made = check(settings, 1, [])
        job = Job(tuple(made.stages), made.config, made.images, made.workers, 1, 1)
        found.append(memory(job, 2, 0).network)
    assert found[0] < found[1] < found[2] < 2 * found[0]


def test_a_team_that_the_system_has_no_thread_for_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        if thread.name == "thread 2":
            raise RuntimeError("can't start new thread")
        begin(thread)

    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"), Team(4):
        pass


@pytest.mark.parametrize("threads", [0, 257, True, "2"])
def test_a_number_of_threads_that_is_none_is_refused(threads: Any) -> None:
    _, problems = config.read_table({"train": {"threads": threads}})
    assert len(problems) == 1
    assert problems[0].startswith("train.threads = ")


@pytest.mark.parametrize(
    "argument", [np.zeros((4, 4)), np.zeros((4, 4, 4), FLOAT), np.zeros((4, 8), FLOAT)[:, ::2], None]
)
def test_an_argument_that_does_not_fit_is_refused(argument: Any) -> None:
    from distsgd.kernels import order

    with pytest.raises(TypeError, match="first_columns: an array does not fit"):
        native.written([[(order.first_columns, (np.zeros((4, 4), FLOAT), argument))]])
    with pytest.raises(TypeError, match="1 arguments, wanted 2"):
        native.written([[(order.first_columns, (np.zeros((4, 4), FLOAT),))]])
