"""Parallel SGD on one rank against plain loops written out here; tests/mpi holds what needs several ranks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distsgd import data, network
from distsgd.clock import PHASES, Clock
from distsgd.comm import Alone, World
from distsgd.config import Config, InputError
from distsgd.network import Network, aligned
from distsgd.optim import Steps
from distsgd.training import Diverged, Experiment, Result, Training, check
from distsgd.training.rounds import Local
from distsgd.training.workers import Worker, Workers

# Shards of 70 and 69 images for seven workers: an epoch's fourth step has one image or none.
TRAIN, TEST, BATCH, WORKERS = 487, 101, 23, 7
ADAM = {"name": "adam", "learning_rate": 0.002}
SGD = {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9}
PERIODS = (1, 3, "epoch", "once")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the first images of the embedded set."""
    embedded, path = data.locate("fashion-mnist-small"), tmp_path_factory.mktemp("images") / "few.h5"
    with data.writing(path, (28, 28, 1), "the embedded set", ["class"] * 10) as writer:
        for split, count in (("train", TRAIN), ("test", TEST)):
            rows = np.arange(count) * 9 if split == "test" else np.arange(count) * 12
            pixels = data.read_rows(embedded, split, rows)
            writer.append(split, pixels, data.read_labels(embedded, split)[rows])
    return path


@dataclass
class Run:
    """A run of an experiment on this rank, and what it told on its way."""

    experiment: Experiment
    training: Training
    result: Result
    rounds: list[Any]
    epochs: list[Any]


@pytest.fixture
def run(images: Path) -> Callable[..., Run]:
    """Return a function that trains with settings by section."""

    def trained(**sections: dict[str, Any]) -> Run:
        experiment = check(settings(images, **sections), 1, [])
        rounds: list[Any] = []
        epochs: list[Any] = []
        training = Training(experiment, Alone(), Clock())
        result = training.run(rounds.append, epochs.append)
        return Run(experiment, training, result, rounds, epochs)

    return trained


def settings(images: Path, **sections: dict[str, Any]) -> Config:
    """Return the settings of a small experiment, changed section by section."""
    usual: dict[str, dict[str, Any]] = {
        "data": {"path": str(images)},
        "network": {"name": "chavan-5-4-16", "dropout": 0.0},
        "optimizer": SGD,
        "averaging": {"workers": WORKERS},
        "train": {"epochs": 2, "batch": BATCH, "seed": 3},
    }
    changed = {name: {**section, **sections.get(name, {})} for name, section in usual.items()}
    return Config.model_validate({**changed, "optimizer": sections.get("optimizer", SGD)})


class Learner:
    """A network and an optimizer on a state of their own, as a plain loop uses them."""

    def __init__(self, run: Run, batch: int = BATCH) -> None:
        experiment = run.experiment
        self.size = sum(experiment.segments)
        self.state = aligned(self.size * (1 + experiment.optimizer.moments))
        network.initialize(self.state[: self.size], experiment.stages, experiment.config.train.seed)
        self.network = Network(experiment.stages, batch, self.state[: self.size])
        self.optimizer: Steps = experiment.optimizer.bind(self.state, self.network.gradient)
        self.seed, self.scaling = experiment.config.train.seed, run.training.scaling
        path = experiment.images.path
        self.labels = data.read_labels(path, "train")[: experiment.train_images]
        self.images = data.read_rows(path, "train", np.arange(len(self.labels)))

    def learn(self, rows: np.ndarray, worker: int, step: int) -> None:
        """Write the gradient of these images; `step` counted from 0 through all epochs."""
        self.network.fill(self.images, self.labels, rows, 0, len(rows), self.scaling)
        self.network.learn(self.seed, worker, step)

    def shards(self, deal: int = 0) -> list[np.ndarray]:
        return data.deal(self.labels, WORKERS, self.seed, deal)

    def rows(self, shard: np.ndarray, worker: int, epoch: int, step: int) -> np.ndarray:
        """The images of one step of a worker; none where its shard is used up."""
        order: np.ndarray = shard[data.shuffled(len(shard), self.seed, worker, epoch)]
        return order[step * BATCH : (step + 1) * BATCH]


def spans(period: int | str, steps: int) -> Iterator[range]:
    """The steps of an epoch, round by round."""
    length = period if isinstance(period, int) else steps
    for first in range(0, steps, length):
        yield range(first, min(first + length, steps))


def averaged_by_hand(run: Run, period: int | str, reshuffle: int = 0, momenta: bool = True) -> np.ndarray:
    """The parameters of the same experiment: each average in float64, weighted by the images seen since the last."""
    learner, epochs, steps = Learner(run), run.experiment.config.train.epochs, 4
    states, weights = [learner.state.copy() for _ in range(WORKERS)], np.zeros(WORKERS)
    for epoch in range(epochs):
        shards = learner.shards(epoch // reshuffle if reshuffle else 0)
        for span in spans(period, steps):
            for worker, shard in enumerate(shards):
                learner.state[:] = states[worker]
                for step in span:
                    rows = learner.rows(shard, worker, epoch, step)
                    if len(rows):
                        learner.learn(rows, worker, epoch * steps + step)
                        learner.optimizer.step(epoch * steps + step + 1)
                    weights[worker] += len(rows)
                states[worker] = learner.state.copy()
            if period != "once" or (epoch, span.stop) == (epochs - 1, steps):
                kept = [state[learner.size :].copy() for state in states]
                mean = np.average(np.array(states, np.float64), axis=0, weights=weights).astype(np.float32)
                states, weights = [mean.copy() for _ in states], np.zeros(WORKERS)
                for state, own in zip(states, kept, strict=True):
                    state[learner.size :] = state[learner.size :] if momenta else own
    return states[0][: learner.size]


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("period", PERIODS)
def test_workers_are_averaged_as_by_hand(
    period: int | str, optimizer: dict[str, Any], run: Callable[..., Run]
) -> None:
    seen = run(averaging={"period": period}, optimizer=optimizer, network={"dropout": 0.5})
    by_hand = averaged_by_hand(seen, period)
    np.testing.assert_allclose(seen.result.parameters, by_hand, rtol=0, atol=2e-6)
    assert np.abs(by_hand - Learner(seen).state[: len(by_hand)]).max() > 0.01  # it did learn


@pytest.mark.parametrize("period", [1, "epoch"])
def test_momenta_are_averaged_too(period: int | str, run: Callable[..., Run]) -> None:
    seen = run(averaging={"period": period})
    left_apart = averaged_by_hand(seen, period, momenta=False)
    assert np.abs(seen.result.parameters - left_apart).max() > 1e-4


@pytest.mark.parametrize(("period", "reshuffle"), [(3, 1), ("once", 2)])
def test_images_are_dealt_anew(period: int | str, reshuffle: int, run: Callable[..., Run]) -> None:
    sections = {"averaging": {"period": period}, "train": {"epochs": 3}}
    seen = run(data={"reshuffle": reshuffle}, **sections)
    by_hand = averaged_by_hand(seen, period, reshuffle)
    np.testing.assert_allclose(seen.result.parameters, by_hand, rtol=0, atol=2e-6)
    assert np.abs(run(**sections).result.parameters - by_hand).max() > 1e-3


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_averaged_gradients_are_those_of_the_joined_batch(
    optimizer: dict[str, Any], run: Callable[..., Run]
) -> None:
    seen = run(averaging={"what": "gradients"}, optimizer=optimizer)
    joined = Learner(seen, batch=WORKERS * BATCH)
    shards = joined.shards()
    for epoch in range(2):
        for step in range(4):
            parts = [joined.rows(shard, worker, epoch, step) for worker, shard in enumerate(shards)]
            joined.learn(np.concatenate(parts), 0, 0)
            joined.optimizer.step(epoch * 4 + step + 1)
    tolerance = 1e-6 if optimizer is SGD else 1e-3  # Adam divides by gradients near zero
    np.testing.assert_allclose(seen.result.parameters, joined.state[: joined.size], rtol=0, atol=tolerance)


def test_equal_workers_without_momentum_are_sgd_on_the_joined_batch(run: Callable[..., Run]) -> None:
    # Seven times two batches: every worker has as many images, in every step.
    sections = {"data": {"train_images": WORKERS * 2 * BATCH}, "optimizer": {**SGD, "momentum": 0.0}}
    seen = run(averaging={"period": 1}, **sections)
    joined = Learner(seen, batch=WORKERS * BATCH)
    shards = joined.shards()
    for epoch in range(2):
        for step in range(2):
            parts = [joined.rows(shard, worker, epoch, step) for worker, shard in enumerate(shards)]
            assert {len(part) for part in parts} == {BATCH}
            joined.learn(np.concatenate(parts), 0, 0)
            joined.optimizer.step(1)
    np.testing.assert_allclose(seen.result.parameters, joined.state[: joined.size], rtol=0, atol=1e-6)


# Fixed point keeps few bits of Adam's smallest second moments: a hundredth of a step for a handful of parameters.
@pytest.mark.parametrize(("optimizer", "close"), [(SGD, 1e-7), (ADAM, 2e-5)])
@pytest.mark.parametrize("period", PERIODS)
def test_workers_with_the_same_images_are_as_one(
    period: int | str,
    optimizer: dict[str, Any],
    close: float,
    run: Callable[..., Run],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels, labels = data.read_rows(images, "train", np.arange(70)), data.read_labels(images, "train")[:70]
    with data.writing(tmp_path / "seven.h5", (28, 28, 1), "70 images seven times", ["class"] * 10) as writer:
        writer.append("train", np.tile(pixels, (WORKERS, 1, 1, 1)), np.tile(labels, WORKERS))
        writer.append("test", pixels, labels)
    shuffled = data.shuffled
    monkeypatch.setattr(data, "deal", lambda labels, workers, *_: np.split(np.arange(len(labels)), workers))
    monkeypatch.setattr(data, "shuffled", lambda count, seed, worker, epoch: shuffled(count, seed, 0, epoch))
    path, averaging = {"path": str(tmp_path / "seven.h5")}, {"period": period}
    one = run(data={**path, "train_images": 70}, averaging={**averaging, "workers": 1}, optimizer=optimizer)
    seven = run(data=path, averaging=averaging, optimizer=optimizer)
    np.testing.assert_allclose(seven.result.parameters, one.result.parameters, rtol=0, atol=close)


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("averaging", [*({"period": period} for period in PERIODS), {"what": "gradients"}])
def test_one_worker_is_a_plain_loop_to_the_bit(
    averaging: dict[str, Any], optimizer: dict[str, Any], run: Callable[..., Run]
) -> None:
    sections = {"network": {"dropout": 0.5}, "data": {"train_images": 100}}
    seen = run(averaging={"workers": 1, **averaging}, optimizer=optimizer, **sections)
    plain = Learner(seen)
    shard, step = data.deal(plain.labels, 1, plain.seed, 0)[0], 0
    for epoch in range(2):
        order = shard[data.shuffled(100, plain.seed, 0, epoch)]
        for first in range(0, 100, BATCH):
            plain.learn(order[first : first + BATCH], 0, step)
            plain.optimizer.step(step + 1)
            step += 1
    assert seen.result.parameters.tobytes() == plain.state[: plain.size].tobytes()
    assert seen.result.steps == step == 10


@pytest.mark.parametrize("averaging", [{"period": 1}, {"period": "once"}, {"what": "gradients"}])
def test_fast_reduction_is_the_exact_one_within_float32(
    averaging: dict[str, Any], run: Callable[..., Run]
) -> None:
    fast, exact = (run(averaging={**averaging, "reduction": kind}).result for kind in ("fast", "exact"))
    np.testing.assert_allclose(fast.parameters, exact.parameters, rtol=0, atol=5e-6)
    assert fast.parameters.tobytes() != exact.parameters.tobytes()


@pytest.mark.parametrize(
    ("averaging", "spans", "rounds"),
    [
        ({"period": 1}, [1, 2, 3, 4], 8),
        ({"period": 3}, [3, 4], 4),
        ({"period": 4}, [4], 2),
        ({"period": "epoch"}, [4], 2),
        ({"period": "once"}, [4], 1),
        ({"what": "gradients"}, [1, 2, 3, 4], 8),
    ],
)
def test_rounds(averaging: dict[str, Any], spans: list[int], rounds: int, run: Callable[..., Run]) -> None:
    seen = run(averaging=averaging)
    assert [(p.epoch, p.steps_done) for p in seen.rounds] == [(e, s) for e in (1, 2) for s in spans]
    assert [progress.round for progress in seen.rounds] == list(range(1, 2 * len(spans) + 1))
    assert {progress.steps for progress in seen.rounds} == {4}
    assert (seen.result.rounds, seen.result.steps) == (rounds, 8)
    assert seen.result.last is seen.epochs[-1]


def test_scores_are_those_of_the_images_each_counted_once(run: Callable[..., Run], images: Path) -> None:
    seen = run(averaging={"period": 3}, train={"epochs": 3}, network={"dropout": 0.5})
    assert [end.train.samples for end in seen.epochs] == [TRAIN] * 3
    assert [end.test.samples for end in seen.epochs] == [TEST] * 3
    judge, labels = Learner(seen, batch=TEST), data.read_labels(images, "test")
    judge.state[: judge.size] = seen.result.parameters
    pixels = data.read_rows(images, "test", np.arange(TEST))
    judge.network.fill(pixels, labels, np.arange(TEST), 0, TEST, judge.scaling)
    judge.network.judge()
    scores = np.float64(judge.network.scores.units[:, :TEST])
    logarithms = scores - np.log(np.exp(scores - scores.max(0)).sum(0)) - scores.max(0)
    assert seen.result.last.test.accuracy == (scores.argmax(0) == labels).mean()
    assert seen.result.last.test.loss == pytest.approx(-logarithms[labels, np.arange(TEST)].mean(), abs=1e-5)


def test_losses_of_rounds_make_the_loss_of_the_epoch(run: Callable[..., Run]) -> None:
    seen = run(averaging={"period": 3}, train={"epochs": 1})
    counts = (7 * 3 * BATCH, 4)  # three full steps of all, one image of four of them
    mean = sum(p.loss * n for p, n in zip(seen.rounds, (counts[0], 4), strict=True)) / TRAIN
    assert sum(counts) == TRAIN
    assert seen.epochs[0].train.loss == pytest.approx(mean, rel=1e-6)
    assert seen.epochs[0].images_per_second == pytest.approx(seen.rounds[1].images_per_second, rel=0.01)


def test_scaling_is_that_of_the_images_used(run: Callable[..., Run], images: Path) -> None:
    for count in (100, TRAIN):
        pixels = np.float64(data.read_rows(images, "train", np.arange(count)))
        seen = run(data={"train_images": count}, train={"epochs": 1}).training.scaling
        np.testing.assert_allclose(seen[:, 0], [pixels.mean(), 1 / pixels.std()], rtol=1e-6)


def test_phases_of_a_run_sum_to_its_seconds(images: Path) -> None:
    clock = Clock()
    training = Training(check(settings(images), 1, []), Alone(), clock)
    before = clock.seconds()
    training.run(lambda progress: None, lambda end: None)
    after = clock.seconds()
    spent = {phase: after[phase] - before[phase] for phase in PHASES}
    assert sum(after[phase] for phase in PHASES) == pytest.approx(after["total"], rel=0.01)
    assert all(spent[phase] > 0 for phase in ("load", "shuffle", "compute", "average", "wait", "evaluate"))
    assert spent["compute"] == max(spent.values())
    assert spent["start"] < 0.1 * (after["total"] - before["total"])
    assert before["load"] > 0


class AsOneOf(Alone):
    """A rank of three, and what it would see if the others had nothing to add."""

    size = 3

    def __init__(self, rank: int) -> None:
        self.rank = rank


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_reads_its_share_only(rank: int, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[np.ndarray] = []
    original = data.read_rows

    def reading(path: Path, split: str, rows: np.ndarray) -> np.ndarray:
        read.append(rows)
        return original(path, split, rows)

    monkeypatch.setattr(data, "read_rows", reading)
    experiment = check(settings(images), 3, [])
    workers = Workers(experiment, AsOneOf(rank), Clock())
    blocks = ([0, 1], [2, 3], [4, 5, 6])
    assert [worker.number for worker in workers.hosted] == blocks[rank]
    shards = data.deal(data.read_labels(images, "train"), WORKERS, 3, 0)
    np.testing.assert_array_equal(np.concatenate(read), np.concatenate([shards[n] for n in blocks[rank]]))
    for worker in workers.hosted:
        pixels = original(images, "train", shards[worker.number])
        np.testing.assert_array_equal(worker.images, pixels)


def test_seen_counts_images_up_to_the_end_of_each_shard(images: Path) -> None:
    workers = Workers(check(settings(images), 1, []), Alone(), Clock())
    assert workers.sizes == [70, 70, 70, 70, 69, 69, 69]
    assert workers.steps == 4
    assert [workers.seen(3, step, step + 1) for step in range(5)] == [23, 23, 23, 1, 0]
    assert [workers.seen(4, step, step + 1) for step in range(5)] == [23, 23, 23, 0, 0]
    assert [workers.all_seen(first, last) for first, last in ((0, 4), (3, 4), (2, 4))] == [
        TRAIN,
        4,
        7 * 23 + 4,
    ]


@pytest.mark.parametrize("averaging", [*({"period": period} for period in PERIODS), {"what": "gradients"}])
@pytest.mark.parametrize("workers", [1, WORKERS])
def test_diverging_is_told(workers: int, averaging: dict[str, Any], run: Callable[..., Run]) -> None:
    with pytest.raises(Diverged):
        run(averaging={"workers": workers, **averaging}, optimizer={**SGD, "learning_rate": 1e35})


def test_a_worker_that_is_used_up_adds_nothing(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, original = run(averaging={"period": 1}), Local.run

    def run_and_spoil(self: Local, worker: Worker, first: int, last: int) -> None:
        original(self, worker, first, last)
        if self.workers.seen(worker.number, first, last) == 0:
            self.state[:] = np.nan

    monkeypatch.setattr(Local, "run", run_and_spoil)
    spoiled = run(averaging={"period": 1})
    assert spoiled.result.parameters.tobytes() == usual.result.parameters.tobytes()


def test_a_round_done_again_is_counted_once(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    original, attempts = Local.run, []

    def run_and_grow(self: Local, worker: Worker, first: int, last: int) -> None:
        original(self, worker, first, last)
        if worker.number == 2 and self.number(first) == 6:
            attempts.append(self.state[:50].copy())
            self.state[7] = 1e5

    monkeypatch.setattr(Local, "run", run_and_grow)
    seen = run(averaging={"period": 2})
    assert len(attempts) == 2
    assert attempts[0].tobytes() == attempts[1].tobytes()
    assert [end.train.samples for end in seen.epochs] == [TRAIN, TRAIN]
    assert len(seen.rounds) == 4
    # Of the last round's 7 * 23 + 4 images worker 2 has seen 24.
    assert seen.result.parameters[7] == pytest.approx(
        1e5 * 24 / (7 * BATCH + 4), rel=1e-4
    )  # the other workers add their own


def problems(config: Config, ranks: int = 1, before: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(InputError) as caught:
        check(config, ranks, list(before))
    return str(caught.value).splitlines()


def test_check_tells_everything_at_once(images: Path) -> None:
    sections: dict[str, Any] = {
        "data": {"train_images": TRAIN + 1},
        "averaging": {"workers": 2},
        "network": {"name": "lenet"},
    }
    said = problems(settings(images, **sections), 3, ("first",))
    assert said[0] == "first"
    assert len(said) == 4
    assert "averaging.workers = 2: must be at least the number of ranks, 3" in said[1]
    assert f"data.train_images = {TRAIN + 1}: {images} has {TRAIN}" in said[2]
    assert said[3].startswith("network.name = 'lenet': must be one of garg, rendon, ")


def test_check_names_more_workers_than_images(images: Path) -> None:
    few = settings(images, data={"train_images": 6})
    assert problems(few) == ["averaging.workers = 7: must be at most the number of training images, 6"]
    assert check(settings(images, data={"train_images": 7}), 1, []).workers == 7


def test_check_names_a_network_that_does_not_fit(images: Path) -> None:
    (said,) = problems(settings(images, network={"name": "chavan-29-4-16"}))
    assert said.startswith("network.name = 'chavan-29-4-16' does not fit images of 28x28x1: layer 1: ")


def test_check_names_data_and_network_both_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.h5"
    wrong.write_text("no images")
    for path, text in (
        (tmp_path / "none.h5", "is not a file"),
        (wrong, "damaged or not HDF5"),
        (tmp_path, "not a file"),
    ):
        said = problems(settings(path, network={"name": "lenet"}))
        assert len(said) == 2
        assert str(path) in said[0]
        assert text in said[0]
        assert "network.name = 'lenet'" in said[1]


def test_as_many_workers_as_ranks_where_none_are_given(images: Path) -> None:
    given = settings(images)
    config = given.model_copy(update={"averaging": given.averaging.model_copy(update={"workers": None})})
    assert [check(config, ranks, []).workers for ranks in (1, 3)] == [1, 3]
    assert replace(check(config, 1, []), workers=2).train_images == TRAIN


@pytest.mark.mpi(ranks=3)
def test_fewer_test_images_than_ranks(
    mpi_ranks: int, comm: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ranks, folder = World(comm), tmp_path_factory.mktemp("tiny")
    path = Path(ranks.broadcast_bytes(str(folder / "tiny.h5").encode()).decode())
    if ranks.rank == 0:
        pixels = data.read_rows(data.locate("fashion-mnist-small"), "train", np.arange(40))
        with data.writing(path, (28, 28, 1), "the embedded set", ["class"] * 10) as writer:
            writer.append("train", pixels[2:], np.arange(38) % 10)
            writer.append("test", pixels[:2], np.array([1, 2]))
    ranks.barrier()
    training = Training(check(settings(path), 3, []), ranks, Clock())
    result = training.run(lambda progress: None, lambda end: None)
    assert (result.last.test.samples, result.last.train.samples) == (2, 38)
