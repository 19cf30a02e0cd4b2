"""Runs whose steps only take time, and the choice of an algorithm from what was measured."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cost import MESSAGES
from test_training import images, settings  # noqa: F401  images: the fixture

from distsgd import api
from distsgd.clock import Clock
from distsgd.comm import OF_ALL, OF_MASTER, Alone
from distsgd.config import InputError
from distsgd.config.settings import ALGORITHMS
from distsgd.training import Training, check
from distsgd.training.algorithm import asked, chosen
from distsgd.training.replay import Replay, read


def trace(folder: Path, content: Any) -> str:
    path = folder / "steps.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_draws_are_of_the_seed_the_worker_and_the_step() -> None:
    seconds = np.arange(1000.0)
    one, other = Replay(seconds, 3), Replay(seconds, 4)
    draws = {(worker, step): one.draw(worker, step) for worker in range(20) for step in range(20)}
    assert draws == {place: Replay(seconds, 3).draw(*place) for place in draws}
    assert len(set(draws.values())) > 300
    assert sum(draws[place] == other.draw(*place) for place in draws) < 10
    assert 400 < np.mean(list(draws.values())) < 600


def test_a_step_takes_as_long_as_it_was_drawn() -> None:
    replay = Replay(np.array([0.05]), 0)
    began = time.perf_counter()
    replay.sleep(0, 0)
    assert time.perf_counter() - began >= 0.05


@pytest.mark.parametrize("what", ["parameters", "gradients"])
def test_nothing_is_learned(images: Path, tmp_path: Path, what: str) -> None:  # noqa: F811
    path = trace(tmp_path, [0.001, 0.002])
    config = settings(images, train={"replay": path, "epochs": 1}, averaging={"what": what})
    training = Training(check(config, 1, []), Alone(), Clock())
    before = training._rounds.state.copy()
    result = training.run(lambda progress: None, lambda end: None)
    parameters = before[: result.parameters.size]
    np.testing.assert_allclose(result.parameters, parameters, rtol=1e-6)  # averaged, so rounded
    assert result.rounds == (4 if what == "gradients" else 1)
    assert training._clock.seconds()["compute"] >= 7 * 3 * 0.001


def trained(images: Path, folder: Path, **train: Any) -> Path:  # noqa: F811
    """The run.json of a run in that folder."""
    api.train(settings(images, averaging={"period": 3}, train={"epochs": 4, **train}), out=folder)
    return folder / "run.json"


def test_a_run_is_a_trace(images: Path, tmp_path: Path) -> None:  # noqa: F811
    first = json.loads(trained(images, tmp_path / "one").read_text())
    rounds = first["first_rounds"]["seconds_by_rank"][0]
    data, compute = (first["first_rounds"]["phases"].index(name) for name in ("data", "compute"))
    assert (len(rounds), first["steps"], first["workers"]) == (8, 16, 7)
    whole = rounds[2::2]  # in turn of three steps and of one; the very first is cold
    found = read(str(tmp_path / "one"), 0)
    np.testing.assert_allclose(found.seconds, [(spent[data] + spent[compute]) / 21 for spent in whole])
    second = json.loads(trained(images, tmp_path / "two", replay=str(tmp_path / "one")).read_text())
    assert second["replay"] == str(tmp_path / "one")
    assert second["seconds"]["compute"] >= 16 * 7 * min(found.seconds)
    with pytest.raises(InputError, match=r"two': does not tell what steps took \(its steps slept themselves"):
        read(str(tmp_path / "two"), 0)


@pytest.mark.parametrize(
    "damage", [{"first_rounds": None}, {"epochs_done": 0}, {"workers": 0}, {"steps": None}]
)
def test_a_damaged_run_is_no_trace(images: Path, tmp_path: Path, damage: dict[str, Any]) -> None:  # noqa: F811
    path = trained(images, tmp_path / "one")
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(InputError, match=r"train\.replay = .*does not tell what steps took"):
        read(str(tmp_path / "one"), 0)


@pytest.mark.parametrize("content", ["nothing", "[]", '{"a": 1}', "[1, -1]", "[1, null]", "[[1]]", "7"])
def test_a_bad_trace_is_told(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match=r"train\.replay = .*list of seconds"):
        read(trace(tmp_path, content), 0)


def test_algorithms_of_the_settings_are_those_there_are() -> None:
    assert set(ALGORITHMS["allreduce"]) == {"library", "auto", *OF_ALL}
    assert set(ALGORITHMS["master"]) == {"library", "auto", *OF_MASTER}


class Four(Alone):
    """Says that there are four ranks, each on its own host."""

    size = 4

    def sum(self, array: np.ndarray) -> None:
        array *= 4


@pytest.mark.parametrize(
    ("messages", "name", "why"),
    [
        (None, "library", "nobody measured this machine"),
        (MESSAGES, "ring", "it is 'ring', predicted to average in"),
        ({**MESSAGES, "exchanges": []}, "library", "no allreduce was measured"),
    ],
)
def test_auto_takes_the_fastest_that_was_measured(
    images: Path,  # noqa: F811
    messages: dict[str, Any] | None,
    name: str,
    why: str,
) -> None:
    experiment = check(settings(images, averaging={"algorithm": "auto"}), 4, [])
    found, line = chosen(experiment, Four(), messages)
    assert found == name
    assert why in line
    assert chosen(experiment, Alone(), messages) == ("library", "")
    pinned = check(settings(images, averaging={"algorithm": "rabenseifner"}), 4, [])
    assert chosen(pinned, Four(), messages) == ("rabenseifner", "")


def test_an_experiment_asks_for_what_travels(images: Path) -> None:  # noqa: F811
    state = asked(check(settings(images), 2, []), 2, 1)
    gradients = asked(
        check(settings(images, averaging={"what": "gradients", "reduction": "fast"}), 2, []), 2, 1
    )
    assert state.values == 2 * gradients.values  # parameters, and one moment
    assert (state.workers_per_rank, state.reduction, gradients.reduction) == (3.5, "exact", "fast")
