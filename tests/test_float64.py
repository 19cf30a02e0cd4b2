"""Every kernel in float64 (DISTSGD_FLOAT=64): gradients are the slopes of the loss, to far more digits than float32 has."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import oracle
import pytest
import test_network
from test_network import CLASSES, DRAW, NETWORKS, Data, built, in_pytorch, split, start

from distsgd import optim, zoo
from distsgd.network import Network, plan

BATCH, STEP = 23, 1e-7
LARGE = ("vgg11", "alexnet-small")  # in float32 some of their many maxima and zeros are too close to tell


def main() -> None:
    """Print a line of JSON for every network and optimizer; called where the kernels are float64."""
    for name in NETWORKS:
        network, data, layers = built(name, BATCH)
        assert network.gradient.dtype == np.float64
        data.fill(network, 3, BATCH)
        difference, slopes = against_oracle(network, data, layers), list(against_slopes(network, name))
        print(json.dumps({"name": name, "oracle": difference, "slopes": slopes}))
    for settings in (optim.Sgd(0.1, 0.9), optim.Adam(0.01, 0.9, 0.999, 1e-8)):
        print(json.dumps({"name": type(settings).__name__, "oracle": one_step(settings), "slopes": []}))


def against_oracle(network: Network, data: Data, layers: test_network.Layers) -> float:
    """The largest relative difference from the oracle's gradients."""
    network.learn(*DRAW)
    x, labels = data.exact(3, BATCH)
    given = split(network.parameters, network.stages)
    _, wanted, _ = oracle.learn(layers, given, x, labels, draw=DRAW, lanes=network.lanes)
    found = zip(split(network.gradient, network.stages), wanted, strict=True)
    return max(float(abs(got - exact).max() / (abs(exact).max() + 1e-12)) for got, exact in found)


def against_slopes(network: Network, name: str) -> Iterator[float]:
    """For each tensor the relative difference from the slope of the kernels' own loss along a random direction."""
    rng, kept, first = np.random.default_rng(len(name)), network.parameters.copy(), 0
    network.learn(*DRAW)
    gradient = network.gradient.copy()
    for part in split(kept, network.stages):
        direction = np.zeros(kept.size)
        direction[first : first + part.size] = rng.normal(size=part.size)
        first += part.size
        losses = []
        for sign in (1, -1):
            network.parameters[:] = kept + sign * STEP * direction
            network.learn(*DRAW)
            losses.append(loss(network))
        network.parameters[:] = kept
        slope = (losses[0] - losses[1]) / (2 * STEP)
        yield abs(slope - gradient @ direction) / (abs(slope) + 1e-3)


def loss(network: Network) -> float:
    """The mean loss of the batch whose scores the network holds: its own totals are rounded to 2^-30."""
    scores, labels = network.scores.units[:, :BATCH], network.labels[:BATCH]
    return float(oracle.softmax_cross_entropy(scores, labels)[0].mean())


def one_step(settings: optim.Sgd | optim.Adam) -> float:
    """The largest difference between two steps of the kernel and of the oracle."""
    rng = np.random.default_rng(1)
    state = np.zeros(50 * (1 + settings.moments))
    state[:50] = rng.normal(size=50)
    p, moments, gradient = state[:50].copy(), [np.zeros(50)] * settings.moments, np.zeros(50)
    steps = settings.bind(state, gradient)
    for number in (1, 2):
        gradient[:] = rng.normal(size=50)
        steps.step(number)
        if isinstance(settings, optim.Sgd):
            p, *moments = oracle.sgd(p, *moments, gradient, 0.1, 0.9)
        else:
            p, *moments = oracle.adam(p, *moments, gradient, number, (0.01, 0.9, 0.999, 1e-8))
    return float(abs(state[:50] - p).max())


def against_pytorch() -> None:
    """Print a line of JSON for every large network: the largest relative difference from PyTorch's gradients."""
    import torch

    for name in LARGE:
        layers, shape = zoo.layers(name, CLASSES), zoo.MADE_FOR[name]
        stages, data = plan(layers, shape), Data(shape, 5)
        network = Network(stages, 4, start(stages))
        data.fill(network, 1, 4)
        network.learn(*DRAW)
        x, labels = data.exact(1, 4)
        given = [torch.tensor(part, requires_grad=True) for part in split(network.parameters, stages)]
        scores = in_pytorch(torch.nn.functional, layers, given, torch.tensor(x.transpose(3, 0, 1, 2)))
        torch.nn.functional.cross_entropy(scores, torch.tensor(labels)).backward()
        wanted = [tensor.grad.numpy() for tensor in given]
        found = zip(split(network.gradient, stages), wanted, strict=True)
        print(
            json.dumps([name, max(float(abs(got - exact).max() / abs(exact).max()) for got, exact in found)])
        )


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """A function that calls one of these functions where the kernels are float64, and returns the lines that it prints."""
    cache = str(tmp_path_factory.mktemp("float64"))
    surroundings = {**os.environ, "DISTSGD_FLOAT": "64", "DISTSGD_CACHE": cache}
    here = str(Path(__file__).parent)
    surroundings["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])

    def lines(function: str) -> list[str]:
        command = [sys.executable, "-c", f"import test_float64; test_float64.{function}()"]
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return lines


def test_large_networks_are_pytorchs_to_many_digits(said: Callable[[str], list[str]]) -> None:
    pytest.importorskip("torch", reason="NO SECOND OPINION: PyTorch is not installed")
    found = [json.loads(line) for line in said("against_pytorch")]
    assert [name for name, _ in found] == list(LARGE)
    assert all(difference < 1e-10 for _, difference in found), found


def test_gradients_are_slopes_to_many_digits(said: Callable[[str], list[str]]) -> None:
    lines = said("main")
    assert len(lines) == len(NETWORKS) + 2
    for line in lines:
        found = json.loads(line)
        assert found["oracle"] < 1e-7, line  # the oracle takes dropout's rate as float32
        assert all(difference < 2e-6 for difference in found["slopes"]), line
