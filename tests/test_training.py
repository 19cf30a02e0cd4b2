"""Parallel SGD on one rank against plain loops written out here; tests/mpi holds what needs several ranks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest

from distsgd import data, network
from distsgd.clock import PHASES, Clock
from distsgd.comm import Alone, Exact, Single, Verdict, World
from distsgd.config import Config, InputError
from distsgd.kernels.vector import aligned
from distsgd.metrics import Score
from distsgd.network import Network
from distsgd.optim import Steps
from distsgd.plan.memory import memory
from distsgd.plan.work import Job
from distsgd.training import Diverged, EpochEnd, Experiment, Result, Training, check
from distsgd.training.evaluation import Best
from distsgd.training.rounds import Local
from distsgd.training.workers import Worker, Workers

# Shards of 70 and 69 images for seven workers: an epoch's fourth step has one image or none.
TRAIN, TEST, BATCH, WORKERS = 487, 101, 23, 7
# With a smaller epsilon, a gradient that is zero but for rounding is a step as large as any other.
ADAM = {"name": "adam", "learning_rate": 0.002, "epsilon": 1e-5}
SGD = {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9}
COSINE = {"schedule": "cosine", "warmup": 0.75, "final": 0.1, "scale": "sqrt"}
NESTEROV = {**SGD, **COSINE, "nesterov": True, "weight_decay": 0.02, "clip": 0.7}
ADAMW = {**ADAM, "schedule": "step", "step_epochs": 1, "step_factor": 0.6, "weight_decay": 0.2, "clip": 0.7}
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
        "augment": {},
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
        changing = self.state, self.network.gradient, experiment.decayed, run.training.learning_rate
        self.optimizer: Steps = experiment.optimizer.bind(*changing)
        self.seed, self.scaling = experiment.config.train.seed, run.training.scaling
        path = experiment.images.path
        self.labels = data.read_labels(path, "train")[: experiment.train_images]
        self.images = data.read_rows(path, "train", np.arange(len(self.labels)))

    def learn(self, rows: np.ndarray, worker: int, step: int, windows: Any = None) -> None:
        """Write the gradient of these images; `step` counted from 0 through all epochs."""
        seen = None if windows is None else np.array(windows, np.int64)
        self.network.batches[0].fill(self.images, self.labels, rows, 0, len(rows), self.scaling, seen)
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


@pytest.mark.parametrize("optimizer", [SGD, ADAM, NESTEROV, ADAMW])
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


def balanced(labels: np.ndarray) -> np.ndarray:
    """Weights of ten classes in inverse proportion to how often they are, one in the mean over these images."""
    inverse = 1 / np.bincount(labels, minlength=10)
    return inverse / inverse[labels].mean()


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("optimizer", [SGD, ADAM, NESTEROV, ADAMW])
def test_averaged_gradients_are_those_of_the_joined_batch(
    optimizer: dict[str, Any], weights: str, run: Callable[..., Run]
) -> None:
    train = {"class_weights": weights}
    seen = run(averaging={"what": "gradients"}, optimizer=optimizer, train=train)
    joined = Learner(seen, batch=WORKERS * BATCH)
    if weights == "balanced":
        joined.network.class_weights[:] = balanced(joined.labels)
        assert np.ptp(joined.network.class_weights) > 0.1
    shards = joined.shards()
    for epoch in range(2):
        for step in range(4):
            parts = [joined.rows(shard, worker, epoch, step) for worker, shard in enumerate(shards)]
            joined.learn(np.concatenate(parts), 0, 0)
            joined.optimizer.step(epoch * 4 + step + 1)
    tolerance = 1e-6 if optimizer["name"] == "sgd" else 1e-3  # Adam divides by gradients near zero
    np.testing.assert_allclose(seen.result.parameters, joined.state[: joined.size], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "change", [*({key: NESTEROV[key]} for key in ("nesterov", "weight_decay", "clip")), COSINE]
)
def test_every_option_changes_what_is_learnt(change: dict[str, Any], run: Callable[..., Run]) -> None:
    usual, changed = (run(optimizer=options).result.parameters for options in (SGD, {**SGD, **change}))
    assert np.abs(usual - changed).max() > 1e-3


def test_a_strong_clip_leaves_the_first_average_its_bits(run: Callable[..., Run]) -> None:
    # Adam's second moments are then a hundred million times smaller than the first gradient makes them expected.
    seen = run(averaging={"period": 1}, optimizer={**ADAM, "clip": 1e-4}, train={"epochs": 1})
    np.testing.assert_allclose(seen.result.parameters, averaged_by_hand(seen, 1), rtol=0, atol=2e-6)


def test_weights_decay_and_biases_do_not(run: Callable[..., Run]) -> None:
    experiment = run(train={"epochs": 1}).experiment
    names = [tensor.name.split(".")[1] for tensor in network.tensors(experiment.stages)]
    assert [decays for _, decays in experiment.decayed] == [name == "weights" for name in names]
    assert [length for length, _ in experiment.decayed] == experiment.segments
    assert set(names) == {"weights", "bias"}


def test_an_epoch_tells_its_last_learning_rate(run: Callable[..., Run]) -> None:
    seen = run(optimizer={**SGD, **COSINE}, train={"epochs": 3})
    final = 0.02 * WORKERS**0.5 * 0.1
    told = [end.learning_rate for end in seen.epochs]
    assert told == [seen.training.learning_rate(number) for number in (4, 8, 12)]
    assert final < told[2] < told[1] < told[0] == 0.02 * WORKERS**0.5
    assert [end.learning_rate for end in run().epochs] == [0.02, 0.02]


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


@pytest.mark.parametrize("optimizer", [SGD, ADAM, NESTEROV, ADAMW])
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
    judge.network.batches[0].fill(pixels, labels, np.arange(TEST), 0, TEST, judge.scaling)
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


@pytest.mark.parametrize(
    "augment",
    [{"shift": 2}, {"mirror": True}, {"crop": 21}, {"shift": 3, "mirror": True, "crop": 26}],
)
def test_one_worker_with_augmentation_is_a_plain_loop_to_the_bit(
    augment: dict[str, Any], run: Callable[..., Run]
) -> None:
    sections = {
        "augment": augment,
        "data": {"train_images": 100, "reshuffle": 1},
        "network": {"dropout": 0.5},
    }
    seen = run(averaging={"workers": 1, "period": 3}, **sections)
    plain, room = Learner(seen), 28 - augment.get("crop", 28)
    for epoch in range(2):
        shard = data.deal(plain.labels, 1, plain.seed, epoch)[0]
        order = shard[data.shuffled(100, plain.seed, 0, epoch)]
        moved = (room, room), augment.get("shift", 0), augment.get("mirror", False)
        windows = oracle.windows((plain.seed, 0, epoch), 0, 100, *moved)
        for step, first in enumerate(range(0, 100, BATCH)):
            part = slice(first, first + BATCH)
            plain.learn(order[part], 0, 5 * epoch + step, windows[part])
            plain.optimizer.step(5 * epoch + step + 1)
    assert seen.result.parameters.tobytes() == plain.state[: plain.size].tobytes()
    assert plain.network.images.shape == (1, *[augment.get("crop", 28)] * 2)


def test_augmented_workers_are_averaged_as_by_hand(run: Callable[..., Run]) -> None:
    # Period 1 and no momentum: an average of states is a step along the average of gradients.
    augment, plain = {"shift": 2, "mirror": True}, {**SGD, "momentum": 0.0}
    count = WORKERS * 2 * BATCH
    seen = run(augment=augment, data={"train_images": count}, averaging={"period": 1}, optimizer=plain)
    joined = Learner(seen, batch=WORKERS * BATCH)
    for epoch in range(2):
        for step in range(2):
            rows, windows = [], []
            for worker, shard in enumerate(joined.shards()):
                rows.append(joined.rows(shard, worker, epoch, step))
                draw = joined.seed, worker, epoch
                windows += oracle.windows(draw, step * BATCH, BATCH, (0, 0), 2, True)
            joined.learn(np.concatenate(rows), 0, 0, windows)
            joined.optimizer.step(1)
    np.testing.assert_allclose(seen.result.parameters, joined.state[: joined.size], rtol=0, atol=1e-6)


def scored(seen: Run, pixels: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Accuracy, and every image's loss, of the run's parameters."""
    judge = Learner(seen, batch=len(labels))
    judge.state[: judge.size] = seen.result.parameters
    judge.network.batches[0].fill(pixels, labels, np.arange(len(labels)), 0, len(labels), judge.scaling)
    judge.network.judge()
    scores = np.float64(judge.network.scores.units[:, : len(labels)])
    logarithms = scores - np.log(np.exp(scores - scores.max(0)).sum(0)) - scores.max(0)
    return (scores.argmax(0) == labels).mean(), -logarithms[labels, np.arange(len(labels))]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of images whose labels mean nothing: the more is learnt, the worse others are judged."""
    path, random = tmp_path_factory.mktemp("noise") / "noise.h5", np.random.default_rng(5)
    with data.writing(path, (28, 28, 1), "noise", ["class"] * 10) as writer:
        pixels = data.read_rows(data.locate("fashion-mnist-small"), "train", np.arange(600))
        for split, first, last in (("train", 0, 500), ("test", 500, 600)):
            writer.append(split, pixels[first:last], random.integers(0, 10, last - first))
    return path


AVERAGINGS = [{"period": 3}, {"period": "once"}, {"what": "gradients"}, {"workers": 1}]


@pytest.mark.parametrize("averaging", AVERAGINGS)
def test_the_best_epoch_is_kept_and_judged_on_the_test_images(
    averaging: dict[str, Any], run: Callable[..., Run], noise: Path
) -> None:
    sections = {"averaging": averaging, "data": {"path": str(noise), "validation": 0.2}}
    seen = run(train={"epochs": 7}, **sections)
    losses = [end.validation.loss for end in seen.epochs]
    best = int(np.argmin(losses)) + 1
    assert best < 7  # or this shows nothing
    assert (seen.result.best.epoch, seen.result.last.epoch) == (best, 7)
    shorter = run(train={"epochs": best}, **sections)
    assert seen.result.parameters.tobytes() == shorter.result.parameters.tobytes()
    accuracy, every = scored(
        seen, data.read_rows(noise, "test", np.arange(100)), data.read_labels(noise, "test")
    )
    assert [end.test for end in seen.epochs] == [None] * 7
    assert seen.result.test.accuracy == accuracy
    assert seen.result.test.loss == pytest.approx(every.mean(), abs=1e-5)


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_validation_images_are_held_out_and_judged(
    weights: str, run: Callable[..., Run], images: Path
) -> None:
    seen = run(data={"validation": 0.2, "train_images": 400}, train={"epochs": 1, "class_weights": weights})
    labels = data.read_labels(images, "train")[:400]
    rest, held = data.hold_out(labels, 0.2, 3)
    score = seen.epochs[0].validation
    assert (seen.epochs[0].train.samples, score.samples) == (len(rest), len(held))
    accuracy, every = scored(seen, data.read_rows(images, "train", held), labels[held])
    assert score.accuracy == accuracy
    counted = balanced(labels[rest])[labels[held]] if weights == "balanced" else np.ones(len(held))
    assert score.loss == pytest.approx((counted * every).mean(), abs=1e-5)
    plain = scored(seen, data.read_rows(images, "test", np.arange(TEST)), data.read_labels(images, "test"))[1]
    assert seen.result.test.loss == pytest.approx(plain.mean(), abs=1e-5)  # whatever is minimised


@pytest.mark.parametrize("workers", [1, 3, WORKERS])
def test_workers_have_all_images_that_are_not_held_out(workers: int, images: Path) -> None:
    config = settings(images, data={"validation": 0.3}, averaging={"workers": workers})
    found = Workers(check(config, 1, []), Alone(), Clock())
    rest, held = data.hold_out(data.read_labels(images, "train"), 0.3, 3)
    assert found.held_out.tolist() == held.tolist()  # whatever the workers
    own = np.concatenate([worker.images.reshape(-1, 784) for worker in found.hosted])
    wanted = data.read_rows(images, "train", rest).reshape(-1, 784)
    np.testing.assert_array_equal(np.unique(own, axis=0), np.unique(wanted, axis=0))
    assert len(own) == len(rest) == sum(found.sizes)


@pytest.mark.parametrize("averaging", AVERAGINGS)
def test_patience_ends_a_run(averaging: dict[str, Any], run: Callable[..., Run], noise: Path) -> None:
    sections = {"averaging": averaging, "data": {"path": str(noise), "validation": 0.2}}
    whole = run(train={"epochs": 9}, **sections)
    seen = run(train={"epochs": 9, "patience": 2}, **sections)
    losses, best = [end.validation.loss for end in whole.epochs], 0
    ended = next(epoch for epoch in range(9) if (best := int(np.argmin(losses[: epoch + 1]))) == epoch - 2)
    assert ended < 8
    assert (seen.result.best.epoch, seen.result.last.epoch) == (best + 1, ended + 1)
    assert [replace(end, images_per_second=0) for end in seen.epochs] == [
        replace(end, images_per_second=0) for end in whole.epochs[: ended + 1]
    ]
    assert seen.result.steps == (ended + 1) * seen.rounds[0].steps


def test_a_files_own_validation_images_are_used(
    run: Callable[..., Run], images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands in for a file that has some: the last thirty test images.
    described, rows, labels = data.describe, data.read_rows, data.read_labels
    shown = data.describe(images)
    counts = {**shown.counts, "validation": 30}

    def other(split: str) -> str:
        return "test" if split == "validation" else split

    monkeypatch.setattr(data, "describe", lambda path: replace(described(path), counts=counts))
    monkeypatch.setattr(
        data,
        "read_rows",
        lambda path, split, own: rows(path, other(split), own + 71 * (split == "validation")),
    )
    monkeypatch.setattr(
        data,
        "read_labels",
        lambda path, split: labels(path, other(split))[71 if split == "validation" else 0 :],
    )
    seen = run(train={"epochs": 2, "patience": 1})
    monkeypatch.undo()
    assert [end.train.samples for end in seen.epochs] == [TRAIN, TRAIN]
    best = seen.result.best.validation
    accuracy, every = scored(
        seen, data.read_rows(images, "test", np.arange(71, 101)), data.read_labels(images, "test")[71:]
    )
    assert (best.samples, best.accuracy) == (30, accuracy)
    assert best.loss == pytest.approx(every.mean(), abs=1e-5)


def test_a_loss_that_is_not_finite_is_never_the_best() -> None:
    scores = [
        Score(9, 0.9, None),
        Score(9, 0.1, 5.0),
        Score(9, 0.9, None),
        Score(9, 0.9, 5.0),
        Score(9, 0, 4.9),
    ]
    best, kept = Best(), []
    for epoch, score in enumerate(scores):
        best.consider(EpochEnd(epoch, 1, score, None, 1.0, 0.1, score), np.full(2, epoch))
        kept.append((best.kept[0].epoch, best.kept[1].tolist(), best.waited(epoch)))
    assert kept == [(0, [0, 0], 0), (1, [1, 1], 0), (1, [1, 1], 1), (1, [1, 1], 2), (4, [4, 4], 0)]


def test_check_names_what_is_wrong_with_validation_and_augmentation(images: Path) -> None:
    for sections, text in (
        (
            {"train": {"patience": 3}},
            "train.patience = 3: there are no validation images to wait for; hold some",
        ),
        (
            {"data": {"validation": 0.001}},
            f"data.validation = 0.001: holds out none of {TRAIN} training images",
        ),
        (
            {"data": {"validation": 0.9}, "averaging": {"workers": 60}},
            "data.validation = 0.9: leaves 46 images to train on for 60 workers",
        ),
        ({"augment": {"crop": 29}}, "augment.crop = 29: must fit into the images, 28x28 pixels"),
        ({"augment": {"shift": 28}}, "augment.shift = 28: must be below 28, "),
        ({"augment": {"shift": 20, "crop": 20}}, "augment.shift = 20: must be below 20, "),
        ({"augment": {"crop": 3}}, "network.name = 'chavan-5-4-16' does not fit images of 3x3x1: layer 1: "),
    ):
        (said,) = problems(settings(images, **sections))
        assert said.startswith(text)


def test_check_refuses_to_hold_out_where_a_file_has_validation_images(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = data.describe(images)
    monkeypatch.setattr(data, "describe", lambda _: replace(shown, counts={**shown.counts, "validation": 5}))
    (said,) = problems(settings(images, data={"validation": 0.1}))
    assert said == f"data.validation = 0.1: {images} has validation images of its own; leave it out"


def test_scaling_is_that_of_the_images_used(run: Callable[..., Run], images: Path) -> None:
    for count in (100, TRAIN):
        pixels = np.float64(data.read_rows(images, "train", np.arange(count)))
        seen = run(data={"train_images": count}, train={"epochs": 1}).training.scaling
        np.testing.assert_allclose(seen[:, 0], [pixels.mean(), 1 / pixels.std()], rtol=1e-6)


def test_phases_of_a_run_sum_to_its_seconds(images: Path) -> None:
    elsewhere = []
    for _ in range(
        5
    ):  # what else the machine does may fall into any phase of a run that is over in milliseconds
        clock = Clock()
        training = Training(check(settings(images), 1, []), Alone(), clock)
        before = clock.seconds()
        training.run(lambda progress: None, lambda end: None)
        after = clock.seconds()
        spent = {phase: after[phase] - before[phase] for phase in PHASES}
        assert sum(after[phase] for phase in PHASES) == pytest.approx(after["total"], rel=0.01)
        assert all(
            spent[phase] > 0 for phase in ("data", "shuffle", "compute", "average", "wait", "evaluate")
        )
        assert before["load"] > 0
        elsewhere.append(spent["start"] / (after["total"] - before["total"]))
    assert min(elsewhere) < 0.1


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
@pytest.mark.parametrize("options", [{}, {"clip": 1.0}])
def test_diverging_is_told(
    options: dict[str, Any], workers: int, averaging: dict[str, Any], run: Callable[..., Run]
) -> None:
    with pytest.raises(Diverged):
        run(averaging={"workers": workers, **averaging}, optimizer={**SGD, "learning_rate": 1e35, **options})


@pytest.mark.parametrize("averaging", [*({"period": period} for period in PERIODS), {"what": "gradients"}])
@pytest.mark.parametrize("options", [NESTEROV, ADAMW])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_told_through_clipping(
    bad: float,
    options: dict[str, Any],
    averaging: dict[str, Any],
    run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Local.learn

    def learn_and_spoil(self: Local, worker: Worker, step: int) -> int:
        count = original(self, worker, step)
        if (worker.number, self.number(step)) == (4, 5):
            self.network.gradient[3] = bad
        return count

    monkeypatch.setattr(Local, "learn", learn_and_spoil)
    with pytest.raises(Diverged):
        run(averaging=averaging, optimizer=options)


def test_a_first_gradient_that_is_not_finite_is_told(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Local.learn

    def learn_and_spoil(self: Local, worker: Worker, step: int) -> int:
        count = original(self, worker, step)
        self.network.gradient[3] = np.inf
        return count

    monkeypatch.setattr(Local, "learn", learn_and_spoil)
    with pytest.raises(Diverged):
        run(optimizer=NESTEROV)


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


@pytest.mark.parametrize("what", ["gradients", "parameters"])
@pytest.mark.parametrize(("workers", "kind"), [(1, Single), (3, Exact)])
def test_workers_compute_where_the_average_wants_their_vectors(
    run: Callable[..., Run],
    workers: int,
    kind: type[Single | Exact],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is copied on the way there; and of gradients nothing on the way back."""
    places: list[tuple[bool, bool]] = []
    add, finish = kind.add, kind.finish

    def adding(average: Any, vector: np.ndarray, weight: int, last: bool = False) -> None:
        places.append((vector is average.own, True))
        add(average, vector, weight, last)

    def finishing(average: Any, out: np.ndarray) -> Verdict:
        places.append((True, (out is average.mean) == (what == "gradients")))
        return finish(average, out)

    monkeypatch.setattr(kind, "add", adding)
    monkeypatch.setattr(kind, "finish", finishing)
    run(averaging={"what": what, "workers": workers, "period": 1}, train={"epochs": 1})
    assert len(places) > 3
    assert set(places) == {(True, True)}


def job(experiment: Experiment, ranks: int) -> Job:
    stages = tuple(experiment.stages)
    return Job(stages, experiment.config, experiment.images, experiment.workers, ranks, ranks)


@pytest.mark.parametrize(
    ("what", "ranks", "workers", "reduction", "wanted"),
    [
        # Parameters and momentum; where nothing is said of it a gradient is the network's.
        ("gradients", 1, 1, "exact", 4 * 2),
        ("gradients", 1, 2, "exact", 4 * 2 + 4 + 8),  # the average, and its message
        ("gradients", 2, 2, "exact", 4 * 2 + 4 + 4 / 2),  # no sums, and the part of the other's gradient
        ("gradients", 2, 4, "exact", 4 * 2 + 4 + 8 + 8 / 2),  # its sums, and the part of the other's
        ("gradients", 2, 2, "fast", 4 * 2 + 4 + 4 * 2 + 4 / 2),
        ("parameters", 1, 1, "exact", 2 * 4 * 2),  # the worker's, and those at the round's start
        ("parameters", 1, 2, "exact", 2 * (4 * 2 + 8)),
        ("parameters", 2, 2, "exact", 2 * (4 * 2 + 4 + 4 / 2)),
        ("parameters", 2, 4, "exact", 2 * (4 * 2 + 4 + 8 + 8 / 2)),
    ],
)
def test_memory_of_a_parameter(
    images: Path, what: str, ranks: int, workers: int, reduction: str, wanted: float
) -> None:
    averaging = {"what": what, "workers": workers, "reduction": reduction}
    experiment = check(settings(images, averaging=averaging, optimizer={"name": "sgd"}), ranks, [])
    assert memory(job(experiment, ranks), 2, 0).state == wanted * sum(experiment.segments)


@pytest.mark.parametrize(("topology", "arrays"), [("allreduce", 2 - 1 / 2), ("master", 1)])
def test_memory_counts_the_sum_that_ranks_share(images: Path, topology: str, arrays: float) -> None:
    experiment = check(settings(images, averaging={"what": "gradients", "topology": topology}), 1, [])
    alone, together = (memory(job(experiment, ranks), 2, 0).state for ranks in (1, 2))
    assert together - alone == 8 * sum(experiment.segments) * (arrays - 1)
