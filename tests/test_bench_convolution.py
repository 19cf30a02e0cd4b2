"""Ways to convolve agree, contestants train alike, tables, JSON and picture hold what was measured. No test looks at a timing."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from oracle import slopes
from test_imports import imported

from distsgd import cli, data, network, zoo
from distsgd.bench import pytorch
from distsgd.bench.convolution import benchmark, contestants, measuring, printed, steps, tables, ways
from distsgd.bench.convolution.measuring import Measured, Way
from distsgd.bench.convolution.trainers import Processes, one_process
from distsgd.bench.images import Images
from distsgd.bench.training import Task
from distsgd.comm import Alone
from distsgd.config import InputError
from distsgd.layers import Border
from distsgd.optim import Adam

WAYS = [ways.naive, ways.matrix, ways.unrolled, ways.scalar]
TORCH = find_spec("torch") is not None
ADAM = Adam(0.01, 0.95, 0.99, 1e-4)
"""With a smaller epsilon a gradient that is zero but for rounding would be a step as large as any other."""
STEPS = 3


def whole(seed: int, *shape: int) -> np.ndarray:
    """Whole numbers so small that no sum here is rounded."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def task(name: str, batch: int, size: tuple[int, int] = (13, 12)) -> Task:
    """Training that network on small random images."""
    chance = np.random.default_rng(1)
    images = Images(
        chance.integers(0, 256, (5 * batch, *size, 1), np.uint8), chance.integers(0, 4, 5 * batch), 4, ""
    )
    stages = network.plan(zoo.layers(name, 4), images.shape)
    return Task(name, stages, images, batch, Alone(), ADAM)


def every_second() -> Callable[[], int]:
    """A clock that shows one second more at every look."""
    seconds = count()
    return lambda: next(seconds) * 10**9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (3, 6, 6, 1), (2, 9, 4, 5)])
@pytest.mark.parametrize("filters", [(1, 1, 1), (3, 2, 4), (4, 3, 2), (5, 4, 1)])
def test_every_way_is_the_definition(
    filters: tuple[int, int, int], shape: tuple[int, ...], way: ways.Convolve
) -> None:
    x, weights = whole(1, *shape), whole(2, shape[0], *filters)
    before = x.copy(), weights.copy()
    wanted = np.einsum("crsijn,crsk->kijn", ways.windows(x, *filters[:2]), weights)
    y = way(x, weights)
    np.testing.assert_array_equal(y, wanted)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(weights, before[1])


@pytest.mark.parametrize("way", WAYS)
def test_every_way_shows_a_nan_where_it_was_seen(way: ways.Convolve) -> None:
    x = whole(1, 2, 5, 5, 3)
    x[1, 0, 0, 2] = np.nan
    y = way(x, whole(2, 2, 2, 2, 4))
    assert np.isnan(y[:, 0, 0, 2]).all()
    assert np.isnan(y).sum() == 4


@pytest.mark.parametrize("way", WAYS[:-1])  # compiled for float32
@pytest.mark.parametrize("zeros", [Border(), Border(0, 1, 2, 1)])
def test_gradients_by_every_way_are_slopes(zeros: Border, way: ways.Convolve) -> None:
    rng = np.random.default_rng(3)
    x, weights, bias = rng.normal(size=(2, 4, 3, 2)), rng.normal(size=(2, 2, 3, 2)), np.zeros(2)
    dy = rng.normal(size=steps.convolve(way, x, weights, bias, zeros).shape)

    def total(x: np.ndarray, weights: np.ndarray) -> float:
        return float((steps.convolve(way, x, weights, bias, zeros) * dy).sum())

    dx = steps.convolve_to_data(way, weights, dy, zeros)
    np.testing.assert_allclose(dx, slopes(lambda x: total(x, weights), x), atol=1e-7)
    dw = steps.convolve_to_weights(way, x, dy, zeros)
    np.testing.assert_allclose(dw, slopes(lambda weights: total(x, weights), weights), atol=1e-7)


def test_passes_by_compiled_loops_are_those_of_matrices() -> None:
    x, weights, dy = whole(1, 3, 6, 5, 4), whole(2, 3, 2, 2, 5), whole(3, 5, 6, 5, 4)
    zeros = Border(0, 0, 1, 1)
    for one, other in zip(
        (
            steps.convolve_to_data(ways.scalar, weights, dy, zeros),
            steps.convolve_to_weights(ways.scalar, x, dy, zeros),
        ),
        (
            steps.convolve_to_data(ways.matrix, weights, dy, zeros),
            steps.convolve_to_weights(ways.matrix, x, dy, zeros),
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def trained(way: Way, given: Task) -> np.ndarray:
    """The parameters after some steps."""
    with ExitStack() as stack:
        one = way.begin(given, stack)
        for number in range(STEPS):
            one.step(number)
        return one.parameters.copy()


def all_ways() -> Iterator[tuple[str, Way]]:
    """Every way with a network that it is fast enough for."""
    for way in contestants.of_garg(2, TORCH):
        yield "chavan-3-4-6" if way.name == printed.NAIVE else "garg", way
    for way in contestants.of_rendon(TORCH):
        yield "rendon", way


@pytest.mark.parametrize(
    ("name", "way"), [pytest.param(*each, id=" ".join([each[0], each[1].name])) for each in all_ways()]
)
def test_every_contestant_comes_to_our_parameters(name: str, way: Way) -> None:
    # 7 images for 2 processes: parts of different sizes. Rates are so high that steps show.
    given = task(name, 7)
    start = given.start(0)
    wanted = trained(Way(printed.OURS, contestants._ours), given)
    change = np.linalg.norm(wanted - start)
    assert change > 0.01 * np.linalg.norm(start)
    with pytorch.process_group(Alone()) if TORCH else ExitStack():
        found = trained(way, given)
    assert found.dtype == np.float32
    assert np.linalg.norm(found - wanted) <= 1e-3 * change


@pytest.mark.parametrize("number", [1, 2, 9])
def test_parts_of_a_batch_are_the_batch(number: int) -> None:
    given = task("chavan-3-4-6", 5)
    images, labels = given.images.batches(5)
    batch = given.start(0), images[0].transpose(1, 2, 3, 0), labels[0]
    one = one_process(given, ways.unrolled)
    with ThreadPoolExecutor(2) as pool:
        loss, gradient = Processes(one, pool, number)(*batch)
    wanted_loss, wanted = one(*batch)
    assert abs(loss - wanted_loss) < 1e-6
    assert abs(gradient - wanted).max() < 1e-5 * abs(wanted).max()


def test_training_does_not_know_the_plain_loops() -> None:
    assert "distsgd.kernels.scalar" not in imported("import distsgd.kernels, distsgd.api")
    from distsgd.kernels import scalar

    assert not scalar.convolve.stats.cache_path  # compiled anew by each that asks: no stale code


def counting(taken: list[int], images: int) -> Way:
    """A way that notes the batches of its steps."""

    class Counting:
        parameters = task("chavan-3-4-6", 4).start(0)

        def step(self, number: int) -> None:
            taken.append(number)

    return Way("counting", lambda task, stack: Counting(), most_images=images)  # type: ignore[arg-type, return-value]


def test_few_images_are_scaled_and_too_long_an_epoch_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    given = task("chavan-3-4-6", 4)
    found = measuring.measured(counting(taken, 1), given, given.images, every_second())
    assert taken == list(range(20))
    assert (found.images, found.batch, found.seconds, found.steps) == (1, 4, 4, 20)
    assert (found.epoch_images, found.epoch_seconds, found.finished) == (20, 20, True)
    assert found.test_accuracy is None  # it has learnt from smaller batches
    whole = measuring.measured(counting([], 4), given, given.images, every_second())
    assert whole.test_accuracy is not None
    monkeypatch.setattr(measuring, "LONGEST_EPOCH", 19)
    found = measuring.measured(counting(taken, 1), given, given.images, every_second())
    assert taken[20:] == [0, 1, 2]
    assert (found.seconds, found.epoch_seconds, found.finished) == (4, 20, False)
    assert found.test_accuracy is None


def row(way: str, batch: int, seconds: float, images: int = 0) -> Measured:
    return Measured("garg", way, batch, 1, images or batch, 3, seconds, 3 * batch, 9.0, 0.5)


def test_speedups_are_over_the_same_batch() -> None:
    found = [
        row(printed.NAIVE, 64, 100),
        row(printed.UNROLLED, 64, 10),
        row(printed.UNROLLED_PARALLEL, 64, 5),
    ]
    found += [row(printed.NAIVE, 32, 60), row(printed.UNROLLED_PARALLEL, 32, 6)]
    assert [tables.over_naive(found, one) for one in found] == [1, 10, 20, 1, 10]
    assert [tables.over_serial(found, one) for one in found] == [None, None, 2, None, None]


def test_a_table_has_what_was_printed_beside_what_was_measured() -> None:
    found = [row(printed.NAIVE, 64, 131, 2), row(printed.NAIVE, 32, 77, 2), row(printed.PYTORCH, 64, 0.001)]
    found.append(row(printed.PYTORCH, 32, 0.0005))
    text = [" ".join(line.split()) for line in tables.garg(found).splitlines()]
    assert "naive loops 131 77.0 | 262 154" in text
    assert "PyTorch 0.00100 0.000500 | 0.6 0.45 Keras" in text
    assert "PyTorch 131,000 154,000 | 437 342 Keras" in text
    assert "PyTorch 50.00% 50.00% | 98.70% 98.80% Keras" in text
    assert "naive loops: 3 steps of 2 images, times batch / 2" in text
    assert "naive loops: not finished, an epoch would take 9.00 s" in text
    assert max(map(len, tables.garg(found).splitlines())) <= 132


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a few small images, and a benchmark that is content with them."""
    path, chance = tmp_path / "small.h5", np.random.default_rng(5)
    with data.writing(path, (12, 12, 1), "made up", ["one", "two"]) as writer:
        for split, many in (("train", 21), ("test", 6)):
            writer.append(split, chance.integers(0, 256, (many, 12, 12, 1), np.uint8), np.arange(many) % 2)
    for name, value in {
        "GARG_BATCHES": (4, 2),
        "RENDON_BATCH": 4,
        "CHAVAN_BATCH": 4,
        "KERNELS": (3,),
        "FILTERS": (2, 3),
        "UNITS": (4, 5),
        "processors": lambda: {0},
    }.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(measuring, "LONGEST_EPOCH", 9.5)  # of the naive loops' ten steps three are taken
    return path


def test_what_is_said_and_written(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="NOT DRAWN: matplotlib is not installed")
    said: list[str] = []
    path, picture = tmp_path / "found.json", tmp_path / "found.svg"
    benchmark.convolution(str(small), path, picture, said.append, every_second())
    facts = json.loads(path.read_text())
    assert len(facts["garg"]) == 2 * (6 + TORCH)
    assert len(facts["rendon"]) == 3 + TORCH
    assert len(facts["chavan"]) == 4 * (1 + TORCH)
    assert len(said) == 1 + sum(len(facts[name]) for name in ("garg", "rendon", "chavan")) + 3
    naive, matrix, parallel = facts["garg"][:3]
    assert (naive["way"], naive["images"], naive["steps"], naive["seconds"]) == ("naive loops", 2, 3, 2)
    assert naive["test_accuracy"] is None
    assert (matrix["seconds"], matrix["speedup_over_naive"], matrix["speedup_over_serial"]) == (1, 2, None)
    assert parallel["speedup_over_serial"] == 1
    assert all(one["test_accuracy"] is not None for one in [matrix, parallel, *facts["rendon"]])
    assert facts["printed"]["garg"]["naive loops"][0]["seconds"] == {"64": 262, "32": 154}
    assert "naive loops: not finished" in said[-3]
    assert "chavan-3-3-5" in said[-1]
    assert "seconds a training iteration" in picture.read_text()


def test_too_few_images_are_told(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "GARG_BATCHES", (22, 2))
    with pytest.raises(InputError, match=r"small\.h5 has 21 training images; wanted are two batches, 44"):
        benchmark.convolution(str(small), None, None, [].append, every_second())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "nothing.h5"],
        ["--json", "no/folder/k.json"],
        ["--plot", "no/folder/k.png"],
        ["--plot", "k.nothing"],
        ["--plot", "k"],
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "convolution", *arguments]) == 2
    assert arguments[1].split("/")[0] in capsys.readouterr().err
