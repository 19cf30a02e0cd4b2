"""The benchmark of kernels: what is timed is the step, what is told is what was counted. No test looks at a timing."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from distsgd import cli
from distsgd.bench import kernels, limits, roofline
from distsgd.bench.limits import SIZES, Limits
from distsgd.bench.pytorch_layers import alike
from distsgd.bench.timed import Timed
from distsgd.config import InputError
from distsgd.kernels import probe
from distsgd.kernels.vector import STRIP
from distsgd.machine import peak
from distsgd.machine.operations import operations
from distsgd.plan.layers import FORWARD, LOSS, TO_DATA, TO_WEIGHTS, UPDATE

LIMITS = Limits(100.0, tuple(float(1000 - place) for place in range(len(SIZES))))
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="NOT COMPARED WITH PYTORCH: it is not installed (pip install torch)"
)


def every_second() -> Callable[[], int]:
    """A clock that shows one second more at every look."""
    seconds = count()
    return lambda: next(seconds) * 10**9


def test_a_probe_adds_and_copies_what_it_says() -> None:
    x, weights = np.arange(STRIP, dtype=np.float32), np.arange(1, 5, dtype=np.float32)
    y = np.empty((probe.ROWS, STRIP), np.float32)
    probe.multiply_adds(x, np.zeros(1, np.int64), weights, y.reshape(-1), 3)
    np.testing.assert_array_equal(y, 3 * weights[:, None] * x)
    twice = np.empty(2 * STRIP, np.float32)
    probe.copy(np.tile(x, 2), twice, 1)
    np.testing.assert_array_equal(twice, np.tile(x, 2))


def test_limits_are_those_of_the_working_set() -> None:
    assert LIMITS.bandwidth(1) == 1000
    assert LIMITS.bandwidth(SIZES[1]) == 999
    assert LIMITS.bandwidth((SIZES[1] * SIZES[2]) ** 0.5) == pytest.approx(998.5)
    assert LIMITS.bandwidth(SIZES[-1] * 2) == LIMITS.bandwidths[-1]
    assert LIMITS.seconds(500, 1000, 1000) == 5
    assert LIMITS.arithmetic_binds(500, 1000, 1000)
    assert LIMITS.seconds(500, 10000, 1000) == 10
    assert not LIMITS.arithmetic_binds(500, 10000, 1000)


def test_operations_are_of_the_images_that_there_are_and_not_of_the_room_for_them() -> None:
    """A batch of one has room for sixteen."""
    at_work = [kernels._at_work(kernels._plan("garg"), batch) for batch in (1, 16)]
    one, many = (list(operations(*each)) for each in at_work)
    assert [16 * each.flops for each in one] == [each.flops for each in many]
    weights = 4 * (5 * 5 * 8 + 8)
    assert 16 * (one[0].moved - weights) == many[0].moved - weights
    update = many[-1]
    parameters = at_work[1][0].parameters.nbytes
    assert (update.moved, update.held) == (5 * parameters, 3 * parameters)


def test_what_is_copied_is_more_than_the_last_cache_holds(tmp_path: Path) -> None:
    for number, size in enumerate(("48K", "2048K", "260M")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(f"{size}\n")
    assert limits.last_cache(tmp_path) == 260 << 20
    assert limits.last_cache(tmp_path / "nothing") == 0
    assert limits.copied(0)[-1] == limits.copied(32 << 20)[-1] == 64 << 20
    assert limits.copied(260 << 20)[-1] == 1 << 30
    assert limits.copied(1 << 40) == SIZES


def test_measured_limits_count_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "last_cache", lambda: 40 << 20)
    found = limits.measured(every_second())
    assert found.bandwidths[-1] == (128 << 20) // 8 // STRIP * STRIP * 8
    assert len(found.bandwidths) == 14
    assert found.peak == 2 * probe.ROWS * STRIP
    assert found.bandwidths[0] == SIZES[0] // 8 // STRIP * STRIP * 8


def test_what_a_kernel_takes_to_load_is_not_timed() -> None:
    elapsed, loaded = 0, False

    def call(times: int) -> None:
        nonlocal elapsed, loaded
        elapsed, loaded = elapsed + times * 100 + (0 if loaded else 10**9), True

    assert peak.best(call, lambda: elapsed) == pytest.approx(100e-9)
    assert elapsed > 10**9 + peak.TRIES * peak.SECONDS * 0.5e9  # many times, as one is short


def test_what_is_copied_was_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(limits.probe, "copy", lambda x, y, times: seen.append(x.all()))
    limits.measured(every_second())
    assert len(seen) >= len(SIZES)
    assert all(seen)


@pytest.fixture(scope="module")
def moved() -> dict[tuple[str, str], int]:
    """Bytes by an operation's layer and pass."""
    at_work, steps = kernels._at_work(kernels._plan("alexnet-small"), 16)
    return {(each.layer.split()[0], each.what): each.moved for each in operations(at_work, steps)}


def test_a_normalization_reads_x_on_its_way_back(moved: dict[tuple[str, str], int]) -> None:
    values = 48 * 55 * 55 * 16
    assert (moved["2", FORWARD], moved["2", TO_DATA]) == (4 * 2 * values, 4 * 3 * values)


def test_a_pooling_moves_winners_and_looks_at_what_was_rectified(moved: dict[tuple[str, str], int]) -> None:
    values, maxima, last = 48 * 55 * 55 * 16, 48 * 27 * 27 * 16, 128 * 6 * 6 * 16
    assert moved["3", FORWARD] == moved["3", TO_DATA] == 4 * (values + maxima) + maxima
    assert moved["10", TO_DATA] == moved["10", FORWARD] + 4 * last


@pytest.mark.parametrize(
    "name", [name for name in kernels.NETWORKS if name != "alexnet"]
)  # 2 GB, no other layers
def test_operations_are_the_step(name: str) -> None:
    at_work, steps = kernels._at_work(kernels._plan(name), 16)
    found = list(operations(at_work, steps))
    calls = [call[0] for each in found for call in each.program if each.what not in (LOSS, UPDATE)]
    program = at_work._programs[0]
    step = [call[0] for call in program.learning + program.returning]
    assert sorted(map(str, calls)) == sorted(map(str, step))
    whole = sum(stage.layer.flops(stage.shape) for stage in at_work.stages if stage.tensors) * at_work.lanes
    assert sum(each.flops for each in found if each.what == FORWARD) == whole
    assert sum(each.flops for each in found if each.what == TO_WEIGHTS) == whole
    first = at_work.stages[0]
    assert sum(each.flops for each in found if each.what == TO_DATA) == whole - (
        first.layer.flops(first.shape) * at_work.lanes
    )
    for each in found:
        each.run(1)


def test_what_is_said_and_written(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "kernels.json"
    kernels.kernels(["rendon", "rendon"], 16, path, None, said.append, every_second())
    facts = json.loads(path.read_text())
    assert facts["peak_gflops"] > 0
    assert len(facts["kernels"]) == len(said) - 2
    assert {"network", "layer", "pass", "gflops", "share_of_limit", "torch_ratio"} <= set(facts["kernels"][0])
    assert {each["pass"] for each in facts["kernels"]} == {FORWARD, LOSS, TO_WEIGHTS, TO_DATA, UPDATE}
    assert set(facts["summary"]) == {"forward_share_of_peak", "backward_share_of_peak"}
    assert all(value > 0 for value in facts["summary"].values())
    shares = {each["pass"]: each["share_of_limit"] for each in facts["kernels"]}
    assert [what for what, share in shares.items() if share is None] == [LOSS]


def timed(what: str, gflops: float, convolves: bool = True) -> Timed:
    return Timed("n", "1 l", what, 1e-3, gflops, 1.0, 0.5, "arithmetic", convolves, 1e6)


def test_the_summary_is_the_geometric_mean_over_convolutions() -> None:
    found = Limits(100e9, LIMITS.bandwidths)
    seen = [timed(FORWARD, 20), timed(FORWARD, 80), timed(TO_DATA, 50), timed(FORWARD, 1, convolves=False)]
    assert kernels.share_of_peak(seen, found, FORWARD) == pytest.approx(0.4)
    assert kernels.share_of_peak(seen, found, TO_DATA, TO_WEIGHTS) == pytest.approx(0.5)
    assert kernels.share_of_peak(seen[3:], found, FORWARD) is None


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="NOT DRAWN: matplotlib is not installed")
    seen = [timed(FORWARD, 20), timed(TO_DATA, 30), timed(UPDATE, 0, convolves=False)]
    roofline.draw(tmp_path / "roof.svg", LIMITS, seen)
    drawn = (tmp_path / "roof.svg").read_text()
    assert all(
        f"<!-- {text} -->" in drawn for text in ("operations per byte", "bytes that it works in", "update")
    )
    with pytest.raises(InputError, match="--plot"):
        roofline.draw(tmp_path / "roof.nothing", LIMITS, [])


@needs_torch
@pytest.mark.parametrize("name", ["rendon", "fer", "alexnet-small"])
def test_pytorch_does_every_operation(name: str) -> None:
    at_work, steps = kernels._at_work(kernels._plan(name), 16)
    for operation in operations(at_work, steps):
        flat = operation.stage is None or operation.stage.shape[1:] == (1, 1)
        assert len(alike(operation, at_work)) == (1 if flat else 2)
        for repeat in alike(operation, at_work):
            repeat(1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--networks", "nothing"],
        ["--json", "."],
        ["--json", "no/folder/k.json"],
        ["--plot", "no/folder/k.png"],
        ["--plot", "k.nothing"],
    ],
)
def test_mistakes_are_told_before_anything_is_timed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "kernels", *arguments]) == 2
    assert arguments[1].split("/")[0] in capsys.readouterr().err
