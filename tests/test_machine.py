"""Machine files: measured in small, written, found again, and what runs and benchmarks make of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import distsgd
from distsgd import cli
from distsgd.api.foreseen import _elsewhere
from distsgd.bench.draws import UNSEEN, draw
from distsgd.bench.prediction import Scored, prediction, summarized, table
from distsgd.bench.visits import VISITS, Configured, Visits
from distsgd.cli.calibrate import UNSTEADY, _summary
from distsgd.clock import PHASES
from distsgd.comm import Alone, Ranks
from distsgd.config import InputError
from distsgd.cost.estimate import median_error
from distsgd.cost.machine import Jitter, Machine, Operation
from distsgd.kernels import threads as native
from distsgd.machine import between, networks, where
from distsgd.machine.calibrate import Calibration
from distsgd.machine.jitter import jitter
from distsgd.machine.nearness import alike, commonest, nearness
from distsgd.machine.passes import quietest
from distsgd.machine.rounds import ROUND, made_up, timed_rounds
from distsgd.machine.steps import AS_MANY, BEFOREHAND, COPIED_AT, Seconds, apart, drift, experiment, quiet
from distsgd.threads import Team

SMALL = {
    "networks.LANES": (16, 32),
    "networks.SOME_LANES": (16, 32),
    "steps.WINDOWS_AT": (16, 32),
    "steps.COPIED_AT": (16, 32),
    "steps.SECONDS": 0.005,
    "passes.SECONDS": 0.002,
    "between.SECONDS": 0.005,
    "between.MUCH": 2e7,
    "between.MORE": 8e7,
    "calibrate.SOME_LANES": (16, 32),
    "calibrate.FEW_LANES": (16, 32),
    "calibrate.LAYERS_OF": ("chavan-3-8-32",),
    "calibrate.AVERAGING_SECONDS": 0.2,
    "calibrate.OVER_NETWORK": 0.2,
    "averaging.SIZES": 3,
    "averaging.REPEATS": 1,
    "averaging.MOST_REPEATS": 1,
}
"""What keeps a calibration in a test short."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine file of one rank."""
    path = tmp_path_factory.mktemp("machine") / "machine.json"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(f"distsgd.machine.{name}", value)
        names = ["rendon", "chavan-3-16-100"]
        found = Calibration(Alone(), names, lambda line: None, 2).machine(0.1)
    assert found
    where.write(found, path)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without machine files, in an empty folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("long", "kept"), [(60.0, 4), (0.0, 3)])
@pytest.mark.parametrize("period", [1, 3, 400, "epoch"])
def test_rounds_are_timed_whatever_their_length(
    period: int | str, long: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that take long fewer."""
    monkeypatch.setattr("distsgd.machine.rounds.LONG", long)
    monkeypatch.setattr("distsgd.machine.rounds.IMAGES", 200)
    monkeypatch.setattr("distsgd.machine.rounds.BYTES", 0)
    with made_up((8, 8, 1)) as path:
        made = experiment(path, "chavan-3-4-8", 16, {"workers": 2, "period": period})
        rounds = timed_rounds(made, Alone(), 0.0)
    assert set(rounds) == set(ROUND)
    assert {len(seconds) for seconds in rounds.values()} == {kept}
    assert (rounds["compute"] > 0).all()


def test_sweeps_that_something_disturbed_do_not_count() -> None:
    assert quiet([1.0, 9.0]) == 1.0
    assert quiet([1.04, 1.0]) == 1.0
    assert quiet([5.0, 1.0, 1.2]) == pytest.approx(1.1)


def test_drift_is_what_sweeps_differ_by_as_a_whole() -> None:
    """Sizes that are slow in different sweeps even out; a sweep that is slow as a whole does not."""
    bursts = Seconds(compute={f"lenet5 {n}": [1.2, 1.0] if n % 2 else [1.0, 1.2] for n in range(8)})

    def told(seen: float) -> float:
        return float(((AS_MANY * BEFOREHAND**2 + seen**2) / (AS_MANY + 1)) ** 0.5)

    assert drift([bursts]) == pytest.approx(told(0.0))
    slow = Seconds(compute={f"lenet5 {n}": [1.2 * n, 1.0 * n] for n in range(1, 9)})
    seen = 1.4826 * np.log(1.2) / 2**0.5 * (1 + 1 / 2) ** 0.5
    assert drift([slow, slow]) == pytest.approx(told(seen))
    assert drift([Seconds(compute={"lenet5 16": [1.0]})]) == pytest.approx(BEFOREHAND)
    assert drift([]) == pytest.approx(BEFOREHAND)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ranks_that_are_slower_in_turn_are_apart(ranks: int) -> None:
    """However much all of them differ from one sweep to the next, and though none is slower in the mean.

    Of few ranks the middle one of what the last takes longer is less than the mean, which `last_of` tells.
    """
    chance = np.random.default_rng(0)
    seconds = np.exp(0.05 * chance.standard_normal((ranks, 500, 2)) + chance.standard_normal((1, 500, 2)))
    assert apart(seconds) == pytest.approx({2: 0.0384, 3: 0.0446}.get(ranks, 0.05), rel=0.1)
    assert apart(np.stack([seconds[0]] * ranks)) == 0
    in_turn = np.array([[[1.0, 1.1]] * 3, [[1.1, 1.0]] * 3])
    assert apart(in_turn) == pytest.approx(0.5 * np.log(1.1) / 0.589, rel=0.01)
    assert apart(seconds[:1]) == 0


def test_cores_that_did_not_move_are_alike() -> None:
    assert alike(7e-7, 7.3e-7, 7.1e-7)
    assert not alike(7e-7, 7.1e-7, 9e-7)
    assert alike(7e-7, None)
    assert alike(7e-7, 7.9e-7)
    assert not alike(7e-7, 8.2e-7)
    assert alike(None, 7e-7)
    assert not alike(9e-7, None, 7e-7)


def test_one_rank_lies_nowhere() -> None:
    assert nearness(Alone()) is None


def test_where_cores_lay_most_of_the_time() -> None:
    there, elsewhere = [6.9e-7, 7e-7, 7.1e-7, 7e-7], [9e-7, 9.1e-7, 8.9e-7]
    assert commonest([None, *6 * [7e-7], 8.1e-7, 8.1e-7, *5 * [9.5e-7]]) == 7e-7  # not the middle one
    assert commonest([None, *5 * [7e-7], 8.1e-7, 8.1e-7, *6 * [9.5e-7]]) == 9.5e-7
    assert commonest([*elsewhere, 7e-7, 8.5e-7, 1e-5]) in elsewhere
    assert commonest([7.7e-7, *there, *there]) == 7e-7
    assert commonest([None, None]) is None
    assert commonest([]) is None


def test_sweeps_count_in_which_cores_lay_as_they_do_now() -> None:
    """Not those in which they moved; of a network that has none, all."""
    near, apart_ = 7e-7, 9e-7
    found = Seconds(
        compute={"garg 16": [1.0, 2.0, 3.0], "garg 32": [4.0, 5.0, 6.0], "lenet5 16": [7.0, 8.0]},
        data={"garg 16 False": [1.0, 2.0, 3.0]},
        turn={"garg": [1.0, 2.0, 3.0]},
        near={"garg": [(near, near), (near, apart_), (apart_, apart_)], "lenet5": [(near, near)] * 2},
    )
    there = found.there(apart_)
    assert there.compute == {"garg 16": [3.0], "garg 32": [6.0], "lenet5 16": [7.0, 8.0]}
    assert (there.data, there.turn) == ({"garg 16 False": [3.0]}, {"garg": [3.0]})
    assert found.there(near).compute["garg 16"] == [1.0]
    assert found.there(None).compute["garg 16"] == [1.0, 3.0]
    assert [found.lacking(of) for of in (near, apart_, None)] == [[], ["lenet5"], []]


class Two(Alone):
    """A rank that seems to be one of two."""

    size = 2


@pytest.mark.parametrize("back", [True, False])
def test_runs_are_repeated_where_cores_lay_elsewhere(back: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three is: its first visit began near and ended apart, and later ones lay apart until all were done."""
    near, apart_ = 7e-7, 9e-7
    first_turn, other_turns = [near] * 3 + [apart_], [near, near, apart_, apart_]
    places = iter(first_turn + other_turns * (VISITS - 1))
    for module in ("bench.visits", "machine.nearness"):
        monkeypatch.setattr(
            f"distsgd.{module}.nearness", lambda ranks: next(places, near if back else apart_)
        )
    monkeypatch.setattr("distsgd.bench.visits.PATIENCE", 0.3)
    counted = {number: iter(range(100)) for number in range(3)}
    said: list[str] = []

    def configured(number: int, by_all: bool) -> Configured:
        return Configured(lambda: {"compute": np.array([100.0 * number + next(counted[number])])}, by_all)

    made = Visits(Two(), near, said.append)
    made.make("runs", {0: configured(0, True), 1: configured(1, True), 2: configured(2, False)})
    found, every = (
        {n: [float(visit["compute"][0]) for visit in of] for n, of in rounds.items()}
        for rounds in (made.that_count(), made.all())
    )
    once = range(VISITS)
    assert found[0] == every[0] == [*once]
    assert found[2] == every[2] == [200.0 + n for n in once]  # it is of fewer ranks
    assert found[1] == [100.0 + n for n in (range(VISITS, 2 * VISITS) if back else once)]
    assert sorted(made.there) == ([0, 1, 2] if back else [0, 2])
    assert sorted(every[1]) == [100.0 + n for n in range(VISITS * (1 + back))]
    assert made.counts() == {"all": VISITS * (3 + back), "elsewhere": VISITS, "never_there": 1 - back}
    assert said[VISITS:] == ["1 runs, once more: cores lay elsewhere than at calibration"]


def test_a_network_is_measured_once_more_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    near, apart_ = 7e-7, 9e-7
    places = iter([apart_, apart_, near, near, apart_, apart_])
    rounds = {name: np.ones(4) for name in ROUND}
    for name, found in (
        ("nearness", lambda ranks: next(places)),
        ("experiment", lambda *given, **more: None),
        ("timed_rounds", lambda *given: rounds),
    ):
        monkeypatch.setattr(f"distsgd.machine.steps.{name}", found)
    one = Seconds()
    one.sweep(Path("none"), ["garg", "rendon"], Two(), 1)
    assert (one.lacking(near), one.lacking(apart_)) == (["garg"], ["rendon"])
    one.sweep(Path("none"), one.lacking(apart_), Two(), 1)
    assert one.lacking(apart_) == []
    assert {len(sweeps) for key, sweeps in one.data.items() if key.startswith("rendon")} == {2}
    assert {len(sweeps) for sweeps in one.there(apart_).data.values()} == {1}
    assert {key.split()[0] for key in one.data if key.endswith("True")} == {"garg"}


def test_averages_of_cores_that_stay_elsewhere_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first of all, and at the first four of the second visit."""
    near, apart_, looks, said = 7e-7, 9e-7, list[tuple[str, Any]](), list[str]()
    first: list[tuple[str, Any]] = []

    def lies(ranks: Ranks) -> float:
        return apart_ if len(looks) in {0, *range(len(first), len(first) + 4 if first else 0)} else near

    def one(make: object, name: str, way: Any, messages: object, ranks: Ranks) -> list[Any]:
        looks.append((name, way))
        return looks[-1:]

    for name, found in (("nearness", lies), ("_one", one), ("return_to", lambda *given: False)):
        monkeypatch.setattr(between, name, found)
    monkeypatch.setattr(between, "described", lambda path: SimpleNamespace(counts={"train": 6144}))
    made = between.Between(Path("none"), ["chavan-3-16-100", "rendon", "chavan-5-50-100"], {}, 1)
    made.visit(0, Two())
    first += looks
    made.visit(1, Two())
    assert made.found(Two(), said.append) == (looks, near)
    assert said == ["5 averages between steps are of cores that lay elsewhere; another time they may stay"]
    names = ("rendon", "chavan-3-16-100", "chavan-5-50-100")
    assert len(looks) == len(set(looks))
    assert set(looks) == {(name, way) for name in names for way in between._ways_of(name, 2, 6144)}
    for name in names:
        assert {way.level for of, way in looks if of == name} == ({0, 1} if name == "rendon" else {0, 1, 2})
    visits = [{(name, way.level) for name, way in some} for some in (first, looks[len(first) :])]
    assert {level for _, level in visits[1]} == {1, 2}


def test_averages_are_looked_at_after_as_much_as_there_are_images_for() -> None:
    """And not where one large batch computes far more."""
    assert {way.level for way in between._ways_of("cifar", 2, 6144)} == {0, 1}
    assert {way.level for way in between._ways_of("chavan-5-50-100", 2, 6144)} == {0, 1, 2}
    many = list(between._ways_of("rendon", 28, 6144))
    assert max(way.lanes for way in many if way.hosted == 2) == 110  # of the largest shard all
    assert all(way.lanes * way.period <= 110 for way in many if way.hosted == 2)


def test_a_run_says_where_cores_lie_now() -> None:
    there = where.where(Alone()).model_copy(update={"ranks": 2, "nearness": 9e-7, "kernels": where.kernels()})
    assert _elsewhere(there, there) == ""
    nearer = _elsewhere(there, there.model_copy(update={"nearness": 7e-7}))
    assert "cores lie nearer to each other" in nearer
    assert "takes 0.70 us, then 0.90): steps on large batches may take longer, averages shorter" in nearer
    assert "farther" in _elsewhere(there.model_copy(update={"nearness": 7e-7}), there)
    assert _elsewhere(there, there.model_copy(update={"nearness": None})) == ""
    assert _elsewhere(there, there.model_copy(update={"nearness": 7e-7, "ranks": 4})) == ""
    elsewhere = there.model_copy(update={"processor": "another", "nearness": 7e-7})
    assert "cores" not in _elsewhere(there, elsewhere)


def test_a_machine_file_is_read_as_it_was_written(measured: Path) -> None:
    found = where.read(measured)
    again = Machine.model_validate_json(found.model_dump_json(), strict=False)
    assert again == found
    older = json.loads(measured.read_bytes())
    del older["where"]["nearness"]
    for one in older["in_place"]:
        del one["latest"]
    assert Machine.model_validate(older, strict=False).where.nearness is None
    assert len(found.steps) == 2
    assert all(seconds > 0 for step in found.steps for seconds in step.compute)
    assert {operation.kind for operation in found.operations} >= {
        "Convolution",
        "Dense",
        "loss",
        "sgd",
        "adam",
    }
    assert all(len(one.errors) == len(one.seconds) and min(one.errors) >= 0 for one in found.operations)
    assert all(one.error is not None for one in (*found.filling, *found.copying, *found.in_place))
    assert set(found.averaging["adding_errors"]) == {"exact", "fast"}
    assert [(one.rank, one.lasting) for one in found.jitter] == [(0, 0.0)]
    assert found.jitter[0].passing > 0
    assert {(one.together, one.lanes) for one in found.wholes} == {(1, 16), (1, 32)}
    assert all(0.2 < one.factor < 5 for one in found.wholes)


def test_a_machine_file_is_found_again(measured: Path, home: Path) -> None:
    assert where.found(where.where(Alone())) is None
    machine = where.read(measured)
    where.write(machine, where.own_path(machine.where))
    found = where.found(where.where(Alone()))
    assert found
    assert found[1] == machine
    other = machine.where.model_copy(update={"processor": "another"})
    assert where.found(other) is None


def test_ranks_of_another_mpi_have_other_files_and_one_rank_takes_any(measured: Path, home: Path) -> None:
    machine = where.read(measured)
    two = machine.where.model_copy(update={"ranks": 2, "ranks_per_node": 2, "mpi": "one MPI"})
    where.write(machine.model_copy(update={"where": two}), where.own_path(two))
    alone, other = where.where(Alone()), two.model_copy(update={"mpi": "another MPI"})
    for here in (two, alone):
        found = where.found(here)
        assert found
        assert found[1].where == two
    assert where.found(other) is None
    where.write(machine, where.own_path(machine.where))
    nearest, largest = where.found(alone), where.found(alone, 4096)
    assert nearest
    assert largest
    assert (nearest[1].where.ranks, largest[1].where.ranks) == (1, 2)


def test_of_passes_the_quietest_time_counts() -> None:
    def of(seconds: tuple[float, float], errors: tuple[float, float]) -> list[Operation]:
        sizes = {"flops": 1.0, "moved": 1.0, "weights": 1.0, "inputs": 1.0, "outputs": 1.0}
        about = {"key": "k", "what": "w", "kind": "k", "together": 1, "lanes": (16, 32)}
        return [Operation(**about, seconds=seconds, errors=errors, **sizes)]

    found = quietest([of((1.0, 3.0), (0.1, 0.2)), of((2.0, 2.5), (0.3, 0.4))])
    assert list(found) == of((1.0, 2.5), (0.1, 0.4))


def test_ranks_are_held_against_the_middle_one() -> None:
    def rank(times: float, passing: float) -> Seconds:
        compute = {f"garg {lanes}": [times * lanes, times * lanes, 9.0 * lanes] for lanes in (16, 32, 64)}
        return Seconds(compute=compute, passing={key: [passing] for key in compute})

    found = jitter([[rank(1.0, 0.01), rank(1.2, 0.02), rank(1.0, 0.03)], []], ["a", "b", "b"])
    assert [(one.rank, one.host) for one in found] == [(0, "a"), (1, "b"), (2, "b")]
    assert [one.lasting for one in found] == pytest.approx([0.0, np.log(1.2), 0.0])
    assert [one.passing for one in found] == [0.01, 0.02, 0.03]


def test_the_error_of_a_median_is_as_medians_differ() -> None:
    values = np.random.default_rng(0).normal(10.0, 1.0, (1000, 41))
    told = np.mean([median_error(row.tolist()) for row in values])
    assert told == pytest.approx(np.median(values, axis=1).std() / 10, rel=0.1)
    assert median_error([3.0]) == median_error([0.0, 0.0]) == 0


def test_the_clock_is_read_where_the_system_tells(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: A Processor\ncpu MHz\t\t: 2899.998\n")
    assert where.megahertz(tmp_path / "cpuinfo") == 2899.998
    (tmp_path / "cpuinfo").write_text("CPU architecture: 8\n")
    assert where.megahertz(tmp_path / "cpuinfo") is where.megahertz(tmp_path / "nothing") is None


def test_ranks_of_one_node_are_told_of_by_ranks_of_one_node(measured: Path, home: Path) -> None:
    machine = where.read(measured)
    places = {}
    for layout in ((4, 1), (4, 2), (4, 4), (2, 2)):
        ranks, per_node = layout
        change = {"ranks": ranks, "ranks_per_node": per_node, "mpi": "an MPI"}
        places[layout] = machine.where.model_copy(update=change)
        if layout != (4, 4):
            where.write(machine.model_copy(update={"where": places[layout]}), where.own_path(places[layout]))

    def chosen(here: tuple[int, int]) -> tuple[int, int]:
        found = where.found(places[here])
        assert found
        return found[1].where.ranks, found[1].where.ranks_per_node

    assert chosen((4, 4)) == (2, 2)
    where.write(machine.model_copy(update={"where": places[4, 4]}), where.own_path(places[4, 4]))
    assert [chosen(layout) for layout in places] == list(places)


def test_a_file_of_another_version_stops_nobody(measured: Path, home: Path) -> None:
    path = where.own_path(where.where(Alone()))
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert where.found(where.where(Alone())) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("nothing", "no machine file"),
        ("{}", "no machine file"),
        (
            '{"format": "distsgd-machine-2"}',
            "this version: format: Input should be 'distsgd-machine-5'; make",
        ),
    ],
)
def test_what_is_no_machine_file_is_told(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=said):
        where.read(path)


def test_a_run_is_predicted_before_and_compared_after(
    measured: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--out", "RUN", "--set", f"prediction.machine={measured}"]
    arguments += ["--set", "train.epochs=1", "--set", "data.train_images=320"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("predicted: ")
    assert "kernels" not in lines[1]
    assert any("predicted" in line and "error" in line for line in lines[5:])
    before, after = (json.loads(Path("RUN", name).read_text()) for name in ("prediction.json", "run.json"))
    assert set(after["predicted_seconds"]) == set(after["seconds"]) == {"total", *PHASES}
    assert before["predicted_seconds"] == after["predicted_seconds"]
    total = sum(after["predicted_seconds"][phase] for phase in PHASES)
    assert after["predicted_seconds"]["total"] == pytest.approx(total)
    low, high = after["predicted_interval"]["compute"]
    assert low <= after["predicted_seconds"]["compute"] <= high


@pytest.fixture(scope="module")
def of_two_threads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """What `distsgd calibrate --threads 2` wrote, and by module how often each team's second thread came to the end of a kernel."""
    path, kernels = tmp_path_factory.mktemp("threads") / "machine.json", {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(f"distsgd.machine.{name}", value)
        for module in ("training.loop", "machine.passes"):
            patch.setattr(f"distsgd.{module}.Team", _counting(kernels.setdefault(module, [])))
        patch.setattr("distsgd.machine.once.loading", lambda: 0.25)
        arguments = ["calibrate", "--threads", "2", "--network", "rendon", "--network", "chavan-3-16-100"]
        assert cli.main([*arguments, "--out", str(path)]) == 0
    return path, kernels


def _counting(found: list[int]) -> type[Team]:
    class Counting(Team):
        def __exit__(self, *error: object) -> None:
            super().__exit__(*error)
            found.append(int(self._words[native.OWN + native.LINE + native.MET]) if self.threads == 2 else 0)

    return Counting


def test_ranks_of_two_threads_are_measured_in_two_threads(
    of_two_threads: tuple[Path, dict[str, list[int]]],
) -> None:
    path, kernels = of_two_threads
    found = where.read(path)
    assert found.where.threads == 2
    assert {(step.together, step.lanes) for step in found.steps} == {(1, (16, 32))}
    measured = len(found.steps) * len(SMALL["networks.LANES"])
    assert len(kernels["training.loop"]) >= 2 * measured
    # Twice: networks and LAYERS_OF, two sizes of sgd and one of adam.
    assert len(kernels["machine.passes"]) == 2 * (2 * 3 + 3)
    assert all(count > 50 for counts in kernels.values() for count in counts)


def test_kernels_that_calibration_compiles_are_only_loaded_by_runs(
    of_two_threads: tuple[Path, dict[str, list[int]]], measured: Path
) -> None:
    """By another process, as this one's own start may have taken half a minute."""
    assert where.read(of_two_threads[0]).once["compile"] == 0.25
    assert 0.05 < where.read(measured).once["compile"] < 20


def test_large_networks_are_measured_at_fewer_sizes() -> None:
    assert (networks.lanes_of("cifar"), networks.lanes_of("garg")) == (networks.SOME_LANES, networks.LANES)
    assert {*COPIED_AT} <= {*networks.SOME_LANES} <= {*networks.LANES}


def test_averages_of_one_worker_are_of_states_and_of_large_gradients(measured: Path) -> None:
    found = where.read(measured).copying
    large = max(one.values for one in found if one.kept)
    assert {one.values for one in found if not one.kept} > {3 * large}, "Adam's state of the same network"
    assert len({one.values for one in found if one.kept}) == 1, "rendon's gradient is small"


def test_a_busy_machine_is_told_so(measured: Path) -> None:
    machine = where.read(measured)

    def said(deviation: float) -> str:
        steps = tuple(step.model_copy(update={"deviation": deviation}) for step in machine.steps)
        return "\n".join(_summary(machine.model_copy(update={"steps": steps}), 60.0, measured))

    assert "this machine was busy" in said(UNSTEADY + 0.01)
    assert "unsure by 7%" in said(UNSTEADY + 0.01)
    assert "busy" not in said(BEFOREHAND)


def test_a_rank_that_computes_slowly_is_told(measured: Path) -> None:
    others = [
        Jitter(rank=rank, host="a", lasting=lasting, passing=0.1) for rank, lasting in enumerate((0.0, 0.05))
    ]
    slow = Jitter(rank=2, host="b", lasting=float(np.log(1.3)), passing=0.1)
    machine = where.read(measured).model_copy(update={"jitter": (*others, slow)})
    said = "\n".join(_summary(machine, 60.0, measured))
    assert "rank 2 on b computes 30% more slowly than the middle one" in said
    assert "rank 0" not in said
    assert "rank 1" not in said


def test_a_run_of_two_threads_is_predicted_by_a_file_of_two(
    measured: Path,
    of_two_threads: tuple[Path, dict[str, list[int]]],
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["train", "--set", "train.epochs=1", "--set", "data.train_images=64"]
    for run, path, threads, make in (("one", measured, 2, " --threads 2"), ("two", of_two_threads[0], 1, "")):
        wrong = [f"prediction.machine={path}", f"train.threads={threads}"]
        assert (
            cli.main([*arguments, "--out", run, *(part for each in wrong for part in ("--set", each))]) == 0
        )
        there = "1 thread" if threads == 2 else "2 threads"
        assert capsys.readouterr().out.splitlines()[1] == (
            f"not predicted: {path} does not tell: ranks of {there} were measured, and train.threads = {threads} "
            f"(make a new one: distsgd calibrate{make})"
        )
        assert not Path(run, "prediction.json").exists()
    right = [f"prediction.machine={of_two_threads[0]}", "train.threads=2"]
    assert (
        cli.main([*arguments, "--out", "three", *(part for each in right for part in ("--set", each))]) == 0
    )
    assert capsys.readouterr().out.splitlines()[1].startswith("predicted: ")
    assert json.loads(Path("three", "prediction.json").read_text())["predicted_seconds"]["compute"] > 0


def test_files_of_two_numbers_of_threads_lie_beside_each_other(measured: Path, home: Path) -> None:
    machine = where.read(measured)
    four = machine.where.model_copy(update={"threads": 4, "ranks": 8})
    two = machine.where.model_copy(update={"threads": 2})
    assert where.own_path(machine.where).name.endswith("-1x1.json")  # as before there were threads
    for there in (two, four):
        where.write(machine.model_copy(update={"where": there}), where.own_path(there))
    only_others = where.found(where.where(Alone()))
    assert only_others
    assert only_others[1].where.threads == 2
    where.write(machine, where.own_path(machine.where))
    assert len(list(where.folder().iterdir())) == 3
    for threads in (1, 2, 4):
        for ranks in (1, 8):
            found = where.found(where.where(Alone(), threads), ranks)
            assert found
            assert found[1].where.threads == threads


def test_a_file_from_before_there_were_threads_is_of_one(measured: Path, tmp_path: Path) -> None:
    content = json.loads(measured.read_text())
    del content["where"]["threads"]
    (tmp_path / "older.json").write_text(json.dumps(content))
    assert where.read(tmp_path / "older.json") == where.read(measured)


@pytest.mark.parametrize("command", [["plan"], ["bench", "prediction", "--ranks", "1"]])
def test_who_asks_for_other_threads_is_told_what_to_run(
    command: list[str], measured: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"prediction.machine={measured}", "train.threads=2"]
    assert cli.main([*command, *(part for each in given for part in ("--set", each))]) == 2
    said = capsys.readouterr().err
    assert f"{measured}: ranks of 1 thread were measured, and train.threads = 2" in said
    assert "distsgd calibrate --threads 2 --ranks N" in said
    assert len(said.splitlines()) == 1


def test_without_a_file_it_is_said_how_to_make_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["train", "--out", "RUN", "--set", "train.epochs=1", "--set", "data.train_images=64"]) == 0
    )
    assert "distsgd calibrate" in capsys.readouterr().out.splitlines()[1]
    assert not Path("RUN", "prediction.json").exists()


def test_what_a_file_can_not_tell_is_not_predicted(
    measured: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(measured.read_text())
    content["steps"][0]["lanes"] = content["steps"][0]["compute"] = []
    content["where"].update(processor="another one", kernels="others")
    Path("wrong.json").write_text(json.dumps(content))
    odd = json.loads(measured.read_text())
    odd["averaging"]["conversion"] = odd["averaging"]["exchanges"] = 5
    odd["once"] = {name: 1e308 for name in odd["once"]}
    Path("odd.json").write_text(json.dumps(odd))
    Path("trace.json").write_text("[0.001]")
    arguments = ["train", "--set", "train.epochs=1", "--set", "data.train_images=64", "--out"]
    for run, chosen, said in (
        (
            "one",
            ["prediction.machine=wrong.json", "network.name=rendon"],
            "not predicted: wrong.json does not tell",
        ),
        (
            "two",
            ["prediction.machine=wrong.json", "network.name=chavan-3-16-100"],
            "is of another one, here is",
        ),
        (
            "kernels",
            ["prediction.machine=wrong.json", "network.name=chavan-3-16-100"],
            "is of another version's kernels",
        ),
        (
            "odd",
            ["prediction.machine=odd.json", "network.name=rendon"],
            "not predicted: odd.json does not tell: ",
        ),
        (
            "three",
            [f"prediction.machine={measured}", "train.replay=trace.json"],
            "steps sleep for what trace.json tells",
        ),
    ):
        assert cli.main([*arguments, run, *(part for change in chosen for part in ("--set", change))]) == 0
        assert said in capsys.readouterr().out


def test_other_kernels_have_another_mark(tmp_path: Path) -> None:
    assert where.kernels(tmp_path) is None
    for room in ("kernels", "layers", "threads"):
        (tmp_path / room).mkdir()
    (tmp_path / "kernels" / "rows.py").write_text("a = 1")
    where.kernels.cache_clear()
    first = where.kernels(tmp_path)
    assert first
    (tmp_path / "threads" / "team.py").write_text("a = 2")
    where.kernels.cache_clear()
    assert where.kernels(tmp_path) not in (None, first, where.kernels())


def test_a_wrong_file_stops_a_run_before_it_begins(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--set", "prediction.machine=nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_run_from_python_is_predicted(measured: Path, home: Path) -> None:
    where.write(where.read(measured), where.own_path(where.read(measured).where))
    run = distsgd.train({"train": {"epochs": 1}, "data": {"train_images": 128}})
    assert run.summary["predicted_seconds"]["compute"] > 0


def test_an_unknown_network_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "--network", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["calibrate", "--out", "/proc/nowhere/m.json"], "--out /proc/nowhere/m.json: can't be written"),
        (["calibrate", "--out", "."], "is a folder, wanted is a file"),
        (["calibrate", "--sweeps", "1"], "--sweeps 1: wanted are 2 or more"),
        (["calibrate", "--threads", "257"], "train.threads = 257: must be less than or equal to 256"),
        (["bench", "prediction", "--count", "0"], "--count 0: must be 1 to 5000"),
    ],
)
def test_what_can_not_be_is_told_before_anything_is_measured(
    arguments: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_draws_follow_the_seed() -> None:
    first, again, other = (draw(seed, 40, ["garg", "rendon"], UNSEEN, 2) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 50
    assert sum(each.unseen for each in first) == 10
    assert all(each.workers >= each.ranks and each.workers % each.ranks == 0 for each in first)
    assert all(each.period == 1 for each in first if each.what == "gradients")
    assert [each.settings["train"]["threads"] for each in draw(1, 4, ["garg"], [], 2, 3)] == [3] * 4
    assert 2000 < len(draw(0, 5000, ["garg"], [], 1)) < 5000  # there are no more


def scored(predicted: float, measured: float, unseen: bool = False, repeated: float | None = None) -> Scored:
    one = draw(0, 1, ["garg"], [], 1)[0]
    one = type(one)(**{**vars(one), "unseen": unseen})
    phases = {"data": 0.01, "compute": 0.9, "average": 0.08, "wait": 0.01}
    parts = [{name: share * seconds for name, share in phases.items()} for seconds in (predicted, measured)]
    interval = 0.9 * predicted, 1.1 * predicted
    again = {name: share * repeated for name, share in phases.items()} if repeated else None
    ladder = {"simple": 2 * measured}
    return Scored(one, predicted, interval, measured, parts[0], parts[1], ladder, repeated, again)


def test_scores_are_what_they_say() -> None:
    found = summarized(
        [
            scored(1.1, 1.0, repeated=1.04),
            scored(0.98, 1.0, repeated=1.0),
            scored(4.0, 2.0),
            scored(3.0, 2.0, True),
        ]
    )
    known = found["round_time"]
    assert found["configurations"] == 4
    assert known["median"] == pytest.approx(0.1)
    assert known["mean"] == pytest.approx((0.1 + 0.02 + 1) / 3)
    assert known["coverage"] == pytest.approx(2 / 3)
    assert known["noise_floor"] == pytest.approx(0.02)
    assert known["again"]["p95"] == pytest.approx(0.04, rel=0.1)
    assert known["again"]["bias"] == pytest.approx(0.02)
    assert found["unseen_network"]["median"] == pytest.approx(0.5)
    average = found["phases"]["average"]
    assert (average["rounds"], average["median"]) == (3, pytest.approx(0.1))
    assert average["noise_floor"] == pytest.approx(0.02)
    assert any("in 3 configurations; the same run again 2.0%" in line for line in table(found))
    assert found["phases"]["wait"]["rounds"] == 0
    assert found["ladder"] == {"simple": pytest.approx(1.0)}


def test_what_is_left_out_is_said() -> None:
    counts, one = {"all": 30, "elsewhere": 7, "never_there": 2}, summarized([scored(1.1, 1.0)])
    every = summarized([scored(1.3, 1.0)])
    lines = list(table({**one, "visits": {"first": counts}, "wherever_cores_lay": every}))
    assert lines[-2].startswith("of 30 visits 7 are left out")
    assert "they count for 2 configurations" in lines[-2]
    assert lines[-1].split()[2] == "30.0%"
    none = {**counts, "elsewhere": 0}
    assert len([*table({**one, "visits": {"first": none}, "wherever_cores_lay": every})]) == len(lines) - 2


def test_predictions_are_scored_on_real_rounds(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distsgd.bench.prediction.SECONDS", 0.01)
    monkeypatch.setattr("distsgd.bench.prediction.NETWORKS", ("rendon",))
    monkeypatch.setattr("distsgd.bench.prediction.UNSEEN", ("chavan-4-6-20",))
    monkeypatch.setattr("distsgd.machine.rounds.IMAGES", 1000)
    said: list[str] = []
    prediction(Alone(), where.read(measured), 3, 4, tmp_path / "scores.json", said.append)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["configurations"] == 5 == len(found["runs"])
    assert {"median", "p95", "bias", "coverage", "noise_floor"} <= set(found["round_time"])
    assert found["unseen_network"]["median"] >= 0
    assert all(np.isfinite(run["predicted"]) and run["measured"] > 0 for run in found["runs"])
    assert any("measured networks" in line for line in said)
