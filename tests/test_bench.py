"""The benchmark beside PyTorch: both sides compute the same before they are timed. No test looks at a timing."""

import json
import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from distsgd import network
from distsgd.bench import pytorch, training
from distsgd.bench.training import NETWORKS, Images, Ours, Task
from distsgd.comm import Alone, Ranks, wrap
from distsgd.config import InputError
from distsgd.layers import Convolution, Dense, Dropout, MaxPool, Rectifier, ResponseNormalization
from distsgd.network import Stage
from distsgd.zoo import Layers

if TYPE_CHECKING:
    from mpi4py import MPI

EMBEDDED = "fashion-mnist-small"
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="NOT COMPARED WITH PYTORCH: it is not installed (pip install torch)"
)


def task(name: str, ranks: Ranks | None = None) -> Task:
    return training._tasks([name], EMBEDDED, 23, ranks or Alone())[0]


def every_second() -> Callable[[], int]:
    """A clock that shows one second more at every look."""
    seconds = count()
    return lambda: next(seconds) * 10**9


def measure(
    ranks: Ranks, networks: list[str], against: bool, json_path: Path | None, batch: int = 23
) -> list[str]:
    """What is said, with a clock by which every leg takes a second."""
    said: list[str] = []
    training.training(ranks, networks, batch, against, EMBEDDED, json_path, said.append, every_second())
    return said


def test_json_holds_what_the_issue_names(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    said = measure(Alone(), ["rendon", "garg", "rendon"], False, path)
    content = json.loads(path.read_text())
    assert {name: content[name] for name in ("batch", "ranks", "threads", "torch_version")} == {
        "batch": 23,
        "ranks": 1,
        "threads": 1,
        "torch_version": None,
    }
    assert content["vector_lanes"] in (4, 8, 16)
    assert content["processor"]
    # The warm-up shows half a second a step, so legs are of one step, which by this clock takes a second.
    alone = {"images_per_second": 23, "torch_images_per_second": None, "ratio": None, "torch_layout": None}
    alone |= {"times_one_thread": None}
    assert content["networks"] == {name: {"images": EMBEDDED, **alone} for name in ("rendon", "garg")}
    assert os.listdir(tmp_path) == ["bench.json"]
    assert [line.split() for line in said[1:]] == [[name, "23", EMBEDDED] for name in ("rendon", "garg")]


def test_json_of_two_threads_beside_one(tmp_path: Path) -> None:
    path, said = tmp_path / "bench.json", list[str]()
    training.training(Alone(), ["rendon"], 23, False, EMBEDDED, path, said.append, every_second(), 2)
    content = json.loads(path.read_text())
    assert content["threads"] == 2
    assert content["networks"]["rendon"]["images_per_second"] == 23
    assert content["networks"]["rendon"]["times_one_thread"] == 1
    assert "1 rank of 2 threads" in said[0]
    assert said[1].split() == ["rendon", "23", "1.00x", EMBEDDED]
    with pytest.raises(InputError, match="--threads 2: are measured beside one thread"):
        training.training(Alone(), ["rendon"], 23, True, EMBEDDED, None, print, every_second(), 2)


@needs_torch
def test_json_beside_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    said = measure(Alone(), ["rendon"], True, path)
    content = json.loads(path.read_text())
    import torch

    assert content["torch_version"] == torch.__version__
    assert content["networks"]["rendon"].pop("torch_layout") in pytorch.LAYOUTS
    both = {"images_per_second": 23, "torch_images_per_second": 23, "ratio": 1, "times_one_thread": None}
    assert content["networks"] == {"rendon": {"images": EMBEDDED, **both}}
    assert f"PyTorch {torch.__version__}" in said[0]


def odd(layers: Layers) -> Task:
    """A task of these layers for images 9 x 9 in three colours, of four classes."""
    chance = np.random.default_rng(5)
    images = Images(chance.integers(0, 256, (46, 9, 9, 3), np.uint8), chance.integers(0, 4, 46), 4, "")
    return Task("odd", network.plan(layers, images.shape), images, 23, Alone())


@needs_torch
@pytest.mark.parametrize("name", [*NETWORKS, "fer", "alexnet-small"])
def test_pytorch_computes_the_same(name: str) -> None:
    one = task(name).checked()
    with pytorch.process_group(Alone()):
        pytorch.check(name, one.stages, one.ours, one.peer, Alone())


@needs_torch
def test_pytorch_computes_the_same_with_layers_that_no_network_has_by_default() -> None:
    first: Layers = [Convolution(5, 3, 1), Rectifier(), MaxPool(2), Convolution(6, 2, "same")]
    one = odd([*first, Dense(7, bias=False), Rectifier(), Dropout(0.0), Dense(4)])
    with pytorch.process_group(Alone()):
        pytorch.check("odd", one.stages, one.ours, one.peer, Alone())
    kinds = [type(module).__name__ for module in pytorch.modules(one.stages)]
    assert kinds == re.split(
        " ", "Conv2d ReLU MaxPool2d ZeroPad2d Conv2d Flatten Linear ReLU Dropout Flatten Linear"
    )


@needs_torch
@pytest.mark.parametrize("size", [3, 4])
def test_pytorch_computes_the_same_with_groups_and_normalization(size: int) -> None:
    normalized: Layers = [Rectifier(), ResponseNormalization(size, 0.7, 0.6, 1.3), MaxPool(3, 2)]
    one = odd([Convolution(9, 3, "same", groups=3), *normalized, Convolution(6, 2, groups=3), Dense(4)])
    with pytorch.process_group(Alone()):
        pytorch.check("odd", one.stages, one.ours, one.peer, Alone())
    start = one.start(0)
    peer = one.peer(0, "NCHW")
    np.testing.assert_array_equal(peer.parameters, start)
    weights = next(peer._model.parameters()).detach().numpy()
    np.testing.assert_array_equal(weights[5, 0], start[: 9 * 9].reshape(3, 1, 3, 3, 3)[1, 0, ..., 2])


@needs_torch
@pytest.mark.parametrize("wrong", ["weights", "scaling", "momentum", "NaN"])
def test_what_differs_is_found(wrong: str) -> None:
    one = task("rendon")

    def ours(seed: int) -> Ours:
        side = one.ours(seed)
        if wrong == "weights":
            side.parameters[-300] += 0.05
        elif wrong == "scaling":
            side._scaling[1] *= 1.01
        elif wrong == "momentum":
            side._optimizer._rates[1] = 0.8
        else:
            side.parameters[-300] = np.nan
        return side

    with (
        pytorch.process_group(Alone()),
        pytest.raises(ArithmeticError, match=r"^rendon, NCHW: the .*PyTorch"),
    ):
        pytorch.check("rendon", one.stages, ours, one.peer, Alone())


def test_embedded_images_go_where_they_fit_and_random_ones_are_named() -> None:
    garg, cifar = training._tasks(["garg", "cifar"], EMBEDDED, 64, Alone())
    assert (garg.images.source, garg.images.shape) == (EMBEDDED, (1, 28, 28))
    assert cifar.images.shape == (3, 32, 32)
    assert "random" in cifar.images.source
    assert len(np.unique(cifar.images.labels)) == 10
    assert len(garg.images.labels) == len(cifar.images.labels) == 16 * 64


def test_batches_for_pytorch_are_what_the_network_is_filled_with() -> None:
    one = task("cifar")
    ours = one.ours(0)
    ours.step(1)
    images, labels = one.images.batches(23)
    filled = ours._network.images.rows.reshape(3, 32, 32, -1)[..., :23]
    np.testing.assert_allclose(filled.transpose(3, 0, 1, 2), images[1], rtol=1e-5, atol=1e-6)
    assert ours._network.labels[:23].tolist() == labels[1].tolist()


def test_each_rank_has_images_of_its_own() -> None:
    def rows(rank: int, name: str) -> set[bytes]:
        ranks = Alone()
        ranks.rank, ranks.size = rank, 2
        return {image.tobytes() for image in task(name, ranks).images.images}

    for name in ("rendon", "cifar"):
        assert len(rows(0, name)) == len(rows(1, name)) == 16 * 23
        assert not rows(0, name) & rows(1, name)


def test_sides_take_turns_and_the_slowest_rank_counts() -> None:
    class Slower(Alone):
        def maximum(self, array: np.ndarray) -> None:
            array += 2 * 10**9

    class Side:
        def __init__(self, name: str) -> None:
            self.name = name

        def step(self, number: int) -> None:
            order.append((self.name, number))

    order: list[tuple[str, int]] = []
    sides = [Side("a"), Side("b")]
    seconds = training._race(sides, 2, 2, Slower(), every_second())  # type: ignore[arg-type]
    assert order == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("b", 3), ("a", 2), ("a", 3)]
    assert seconds.tolist() == [[1.5, 1.5], [1.5, 1.5]]


@needs_torch
def test_dropout_is_at_rate_zero_in_the_check_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    small = odd([Convolution(5, 3), Rectifier(), Dropout(0.4), Dense(7), Rectifier(), Dense(4)])
    checked: list[float] = []
    timed: list[tuple[Ours, pytorch.Peer]] = []

    def check(name: str, stages: list[Stage], *sides: object) -> None:
        checked.extend(stage.layer.rate for stage in stages if isinstance(stage.layer, Dropout))
        real(name, stages, *sides)  # type: ignore[arg-type]

    def interleaved(sides: tuple[Ours, pytorch.Peer], *rest: object) -> np.ndarray:
        timed.append(sides)
        return np.ones((1, 2))

    real = pytorch.check
    monkeypatch.setattr(pytorch, "check", check)
    monkeypatch.setattr(training, "_interleaved", interleaved)
    with pytorch.process_group(Alone()):
        training._measure(small, True, every_second())
    ((ours, peer),) = timed
    dropped = [module for module in peer._model.modules() if type(module).__name__ == "Dropout"]
    assert [(module.p, module.training) for module in dropped] == [(0.4, True)]
    assert [stage.layer for stage in ours._network.stages][1] == Dropout(0.4)
    assert checked == [0.0]


def test_few_enough_values_are_checked_by_the_kernels_of_the_whole_batch() -> None:
    (big,) = training._tasks(["fer"], EMBEDDED, 32, Alone())
    few = big.checked()
    values = sum(np.prod(stage.output) for stage in big.stages)
    assert few.batch * values <= training.CHECKED_VALUES < 2 * few.batch * values
    assert few.ours(0)._network.lanes == big.ours(0)._network.lanes == 32
    (small,) = training._tasks(["rendon"], EMBEDDED, 64, Alone())
    assert small.checked().batch == 64


def test_wrong_input_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_measure", lambda *given: pytest.fail("measured"))
    with pytest.raises(InputError, match="resnet"):
        measure(Alone(), ["garg", "resnet"], False, None)
    with pytest.raises(InputError, match=r"--json .*nowhere/bench\.json: there is no folder"):
        measure(Alone(), ["garg"], False, tmp_path / "nowhere" / "bench.json")
    with pytest.raises(InputError, match=r"nothing\.h5"):
        training.training(Alone(), None, 64, False, "nothing.h5", None, print)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"--against torch: this Python finds no PyTorch .*install it"):
        measure(Alone(), ["garg"], True, None)


@pytest.mark.mpi(ranks=2)
def test_two_ranks_average_exactly(mpi_ranks: int, comm: "MPI.Intracomm", tmp_path: Path) -> None:
    ranks = wrap(comm)
    one = task("rendon", ranks)
    ours, alone = one.ours(0), Task("rendon", one.stages, one.images, 23, Alone()).ours(0)
    ours.step(0)
    alone.step(0)
    mean = alone.gradient.astype(np.float64)
    ranks.sum(mean)
    np.testing.assert_allclose(ours.gradient, mean / 2, rtol=1e-6, atol=1e-9)
    path = tmp_path / "bench.json"
    said = measure(ranks, ["rendon"], False, path)
    assert said[0].startswith("batch 23, 2 ranks of one thread")
    if ranks.rank == 0:
        content = json.loads(path.read_text())
        assert content["ranks"] == 2
        assert content["networks"]["rendon"]["images_per_second"] == 46


@needs_torch
@pytest.mark.mpi(ranks=2)
def test_two_ranks_beside_distributed_data_parallel(
    mpi_ranks: int, comm: "MPI.Intracomm", monkeypatch: pytest.MonkeyPatch
) -> None:
    said = measure(wrap(comm), ["rendon"], True, None)
    assert said[1].split()[:4] == ["rendon", "46", "46", "1.00"]
    ours = Ours._meet
    monkeypatch.setattr(Ours, "_meet", lambda self: (ours(self), self.gradient.__imul__(1.01)))
    with pytest.raises(ArithmeticError, match="rendon, NCHW: the first gradient"):
        measure(wrap(comm), ["rendon"], True, None)
