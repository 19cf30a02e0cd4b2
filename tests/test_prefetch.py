"""Prefetching: the same weights with it and without, on any number of ranks; and a thread that ends."""

import random
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distsgd.batch import Batch
from distsgd.clock import Clock
from distsgd.comm import Alone, Ranks, World
from distsgd.config import Config
from distsgd.plan.memory import memory
from distsgd.plan.work import Job
from distsgd.record import checkpoint, weights_sha256
from distsgd.training import Pause, Stopped, Training, check, prefetch
from distsgd.training.local import Local
from distsgd.training.prefetch import Prefetch, prefetching
from distsgd.training.workers import Worker

# 487 images for seven workers: an epoch's fourth step has one image or none.
SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"train_images": 487},
    "augment": {"shift": 2, "mirror": True, "crop": 26},
    "network": {"name": "rendon", "dropout": 0.5},
    "averaging": {"workers": 7},
    "train": {"epochs": 3, "batch": 23, "seed": 11},
}
KINDS: dict[str, dict[str, Any]] = {
    "1": {"averaging": {"period": 1}},
    "3": {"averaging": {"period": 3}},
    "once": {"averaging": {"period": "once"}},
    "gradients": {"averaging": {"what": "gradients"}},
    "dealt anew, whole": {"data": {"reshuffle": 1}, "augment": {"shift": 0, "mirror": False, "crop": None}},
}
EPOCHS, STEPS = 3, 4 * 7 - 3  # three of the workers have no image left for the fourth


def settings(kind: str, prefetching: bool) -> Config:
    changed = {name: {**section, **KINDS[kind].get(name, {})} for name, section in SECTIONS.items()}
    return Config.model_validate({**changed, "data": {**changed["data"], "prefetch": prefetching}})


def start(kind: str, prefetching: bool, ranks: Ranks, **options: Any) -> Training:
    return Training(check(settings(kind, prefetching), ranks.size, []), ranks, Clock(), **options)


def trained(kind: str, prefetching: bool, ranks: Ranks) -> str:
    result = start(kind, prefetching, ranks).run(lambda progress: None, lambda end: None)
    return weights_sha256(result.parameters)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Generator[None, None, None]:
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each batch was the one that the thread had filled."""
    seen: list[bool] = []
    original = Prefetch.take

    def take(self: Prefetch, place: tuple[int, int, int]) -> bool:
        seen.append(original(self, place))
        return seen[-1]

    monkeypatch.setattr(Prefetch, "take", take)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_same_and_batches_foreseen(kind: str, taken: list[bool]) -> None:
    without = trained(kind, False, Alone())
    assert taken == []
    assert trained(kind, True, Alone()) == without
    assert taken == [step > 0 for _ in range(EPOCHS) for step in range(STEPS)]


def all_the_same(ranks: Ranks, taken: list[bool]) -> None:
    for kind in KINDS:
        taken.clear()
        assert trained(kind, True, ranks) == trained(kind, False, Alone()), kind
        assert taken.count(False) == EPOCHS
        assert len(taken) > 2 * EPOCHS


@pytest.mark.mpi(ranks=2)
def test_weights_are_the_same_on_two_ranks(mpi_ranks: int, comm: Any, taken: list[bool]) -> None:
    all_the_same(World(comm), taken)


@pytest.mark.mpi(ranks=3)
def test_weights_are_the_same_on_three_ranks(mpi_ranks: int, comm: Any, taken: list[bool]) -> None:
    all_the_same(World(comm), taken)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_pieces_comes_to_the_same(kind: str, tmp_path: Path) -> None:
    chance, parts, parameters = random.Random(kind), 0, None
    while parameters is None:
        parameters, parts = part(kind, tmp_path, chance.randrange(25 + 10 * parts)), parts + 1
    assert parts > 2
    assert weights_sha256(parameters) == trained(kind, False, Alone())


def part(kind: str, folder: Path, calls: int) -> np.ndarray | None:
    """Train from the last checkpoint, told to leave its round after so many questions: the parameters, or None."""
    left = iter(range(calls))
    training = start(
        kind, True, Alone(), pause=Pause(Alone(), 0, lambda: 100.0 if next(left, None) is None else None)
    )
    for path in checkpoint.saved(folder)[:1]:
        with checkpoint.reading(path) as take:
            training.restore(checkpoint.read_facts(path), take)

    def save() -> None:
        checkpoint.write(folder, 2, training.place(), training.arrays())

    try:
        return training.run(lambda progress: None, lambda end: None, save).parameters
    except Stopped:
        return None


def test_a_round_done_again_comes_to_the_same(monkeypatch: pytest.MonkeyPatch, taken: list[bool]) -> None:
    original = Local.run

    def run_and_grow(self: Local, worker: Worker, first: int, last: int) -> None:
        original(self, worker, first, last)
        if worker.number == 2 and self.number(first) == 7:
            self.state[7] = 1e5

    monkeypatch.setattr(Local, "run", run_and_grow)
    assert trained("3", True, Alone()) == trained("3", False, Alone())
    assert taken.count(False) > EPOCHS  # what came next was not what was foreseen


@pytest.mark.parametrize("fill", [3, 30])
def test_an_exception_in_the_thread_is_the_loops_own(fill: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original, fills = Batch.fill, [fill]

    def fill_and_fail(self: Batch, *arguments: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            fills[0] -= 1
            if not fills[0]:
                raise ArithmeticError("the thread's")
        original(self, *arguments)

    monkeypatch.setattr(Batch, "fill", fill_and_fail)
    with pytest.raises(ArithmeticError, match="the thread's"):
        trained("3", True, Alone())
    assert threading.active_count() == 1


def test_an_exception_in_the_loop_ends_the_thread() -> None:
    def fail(progress: Any) -> None:
        assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start("3", True, Alone()).run(fail, lambda end: None)
    assert threading.active_count() == 1


@pytest.mark.parametrize(
    ("chosen", "batch", "ranks", "expected"),
    [
        ("auto", 2000, 3, True),
        ("auto", 2000, 4, False),  # no core is spare
        ("auto", 1500, 1, False),  # small: a megabyte is 1,552 images of 26 x 26
        (True, 23, 9, True),
        (False, 2000, 1, False),
    ],
)
def test_prefetching_wants_a_spare_core_and_large_batches(
    chosen: bool | str, batch: int, ranks: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "processors", lambda: {0, 1, 5, 7})
    config = settings("3", True)
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"prefetch": chosen}),
            "train": config.train.model_copy(update={"batch": batch}),
        }
    )
    assert prefetching(check(config, 1, []), ranks) is expected


def test_memory_counts_both_batches() -> None:
    experiments = [check(settings("3", chosen), 1, []) for chosen in (False, True)]
    jobs = [Job(tuple(one.stages), one.config, one.images, one.workers, 1, 1) for one in experiments]
    one, two = (memory(job, 2, 0).network for job in jobs)
    training = start("3", True, Alone())
    size = training._network.images.buffer.nbytes
    assert size <= two - one < 1.1 * size  # and the lists of what the first layer reads there
    assert two == training._network.memory


def test_what_follows_is_what_the_epoch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[tuple[int, int]] = []
    original: Callable[..., int] = Local.learn

    def learn(self: Local, worker: Worker, step: int) -> int:
        count = original(self, worker, step)
        if count:
            learnt.append((worker.number, step))
        return count

    training = start("3", False, Alone())
    monkeypatch.setattr(Local, "learn", learn)
    training.run(lambda progress: None, lambda end: None)
    workers, epoch = training._workers, learnt[:STEPS]
    assert learnt == epoch * EPOCHS
    for (worker, step), following in zip(epoch, [*epoch[1:], None], strict=True):
        told = workers.following(workers.hosted[worker], step)
        assert (told and (told[0].number, told[1])) == following
