"""`distsgd networks`, and the memory that it foretells beside what a run takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distsgd import config
from distsgd.cli import networks
from distsgd.config import InputError


def distsgd(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "distsgd", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=100).stdout


def test_every_network_of_the_zoo_has_a_line() -> None:
    said = networks.overview()
    for name in config.ZOO:
        assert f"\n{name}" in said
    assert "105,496" in said


def test_layers_add_up_to_the_network() -> None:
    lines = networks.one("garg", ["train.batch=64"], 1).splitlines()
    layers = [line.split() for line in lines if line[:2].strip().isdecimal()]
    assert [words[0] for words in layers] == ["1", "2", "4", "5", "6"]
    assert sum(int(words[-2].replace(",", "")) for words in layers) == 105_496
    (total,) = (line for line in lines if line.startswith("   total"))
    assert total.split()[1] == "105,496"
    assert float(total.split()[2]) == pytest.approx(sum(float(words[-1]) for words in layers), abs=0.002)
    # The first convolution by hand: 24 x 24 outputs of 8 filters, 25 multiplications and additions each.
    assert float(layers[0][-1]) == pytest.approx(2 * 24 * 24 * 8 * 25 / 1e6, abs=0.001)


def test_alexnet_fits_four_gigabytes_of_a_rank() -> None:
    said = networks.one("alexnet", ["optimizer.name=sgd", "train.batch=32"], 1)
    assert "images of 3x224x224, 1000 classes" in said
    assert said.split("   total")[1].split()[0] == "60,965,224"
    memory = {
        line.rsplit(None, 2)[0].strip(): line.split()[-2] for line in said.splitlines() if line[-2:] == "MB"
    }
    sizes = {what: float(size.replace(",", "")) for what, size in memory.items()}
    # Two states, in one of which the worker computes: it is its average. Four numbers a parameter.
    assert sizes["parameters, moments, average"] == pytest.approx(4 * 4 * 60.965224, abs=0.1)
    # Its gradient, once; the values between layers and their gradients, with their borders and what convolutions work in.
    assert 500 < sizes["activations, gradients (batch 32)"] < 850
    assert sizes["together"] < 4000
    assert sizes.pop("together") == pytest.approx(sum(sizes.values()), abs=0.3)


@pytest.mark.parametrize("changes", [["network.dropout=2"], ["train.nothing=3"], ["network.name=garg2"]])
def test_what_is_wrong_is_told(changes: list[str]) -> None:
    with pytest.raises(InputError, match=changes[0].split("=")[0]):
        networks.one("garg", changes, 1)


@pytest.mark.parametrize("network", ["chavan-5-50-100", "lenet5"])
def test_memory_is_foretold_within_a_tenth(tmp_path: Path, network: str) -> None:
    settings = ["--set", "train.batch=256", "--set", "train.epochs=1"]
    said = distsgd("networks", network, *settings, folder=tmp_path)
    foretold = float(said.split("together")[1].split()[0])
    distsgd("train", "--set", f"network.name={network}", *settings, "--out", "run", folder=tmp_path)
    taken = json.loads((tmp_path / "run" / "run.json").read_text())["peak_memory_bytes"] / 1e6
    assert abs(foretold - taken) < 0.1 * taken
