"""A rank that is slow is named by every rank, and changes no weight.

This file is also the program that mpiexec starts. Seconds are made up: a batch takes as long as it is told to. Ranks answer in a
file, as a launcher on a busy machine may lose the end of what they print, and have time: where others compute on the same cores,
each of some thousand messages waits until all ranks had their turn.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distsgd.clock import Clock
from distsgd.comm import Ranks, world
from distsgd.config import Config
from distsgd.network import Network
from distsgd.record import weights_sha256
from distsgd.training import Training, Watch, check

if TYPE_CHECKING:
    from conftest import Launch

EXPERIMENT: dict[str, dict[str, Any]] = {
    "data": {"train_images": 487},
    "network": {"name": "rendon"},
    "averaging": {"workers": 7, "period": 2},
    "train": {"epochs": 3, "batch": 16},
}
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "parameters": {},
    "gradients": {"averaging": {"workers": 7, "what": "gradients"}},
    "once": {"averaging": {"workers": 7, "period": "once"}, "train": {"epochs": 8, "batch": 16}},
}
USUAL = 0.02


def trained(config: Config, ranks: Ranks, slow: int | None, watched: bool) -> dict[str, Any]:
    """Train, a batch taking twice as long on one rank; what this rank says is slow, and its weights."""
    now, learn = [0.0], Network.learn

    def learning(network: Network, seed: int, worker: int, step: int) -> None:
        learn(network, seed, worker, step)
        now[0] += USUAL * (2 if ranks.rank == slow else 1)

    Network.learn = learning  # type: ignore[method-assign]
    try:
        clock = Clock(now=lambda: now[0])
        watch = Watch(ranks, clock, watched)
        training = Training(check(config, ranks.size, []), ranks, clock, watch=watch)
        result = training.run(lambda progress: None, lambda end: None)
    finally:
        Network.learn = learn  # type: ignore[method-assign]
    found = [asdict(slow) for slow in training.slow]
    return {"slow": found, "weights": weights_sha256(result.parameters), "rounds": training.timeline.rounds}


WAYS = {"healthy": (False, True), "slowed": (True, True), "unseen": (True, False)}
"""Whether the last rank is slow, and whether somebody watches."""


def main(file: str) -> None:
    """Write what every rank has of each kind and way; unseen only the first kind, as nothing of a kind is in that."""
    ranks, own = world(os.environ), {}
    for kind, change in KINDS.items():
        config = Config.model_validate({**EXPERIMENT, **change})
        ways = WAYS if not own else {name: way for name, way in WAYS.items() if name != "unseen"}
        own[kind] = {
            name: trained(config, ranks, ranks.size - 1 if slow else None, watched)
            for name, (slow, watched) in ways.items()
        }
    every = ranks.gather_bytes(json.dumps(own).encode())
    if ranks.rank == 0:
        Path(file).write_bytes(b"[" + b",".join(every) + b"]")


Found = list[dict[str, dict[str, Any]]]
"""Of each rank, by kind and way."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[["Launch", int], Found]:
    """What so many ranks find, run once."""
    known: dict[tuple[str, int], Found] = {}

    def run(launch: "Launch", ranks: int) -> Found:
        if (launch.name, ranks) not in known:
            file = tmp_path_factory.mktemp("slow") / "every.json"
            done = launch(ranks, Path(__file__), file, timeout=400)
            assert done.rc == 0, done.stderr
            known[launch.name, ranks] = json.loads(file.read_text())
        return known[launch.name, ranks]

    return run


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_slow_rank_is_named(ranks: int, mpiexec: "Launch", found: Callable[["Launch", int], Found]) -> None:
    every = found(mpiexec, ranks)
    assert len(every) == ranks
    for kind in KINDS:
        named = every[0][kind]["slowed"]["slow"]
        for own in every:
            assert all(own[kind][way]["slow"] == [] for way in own[kind] if way != "slowed")
            assert own[kind]["slowed"]["slow"] == named
            assert {own[kind][way]["weights"] for way in own[kind]} == {every[0][kind]["healthy"]["weights"]}
        assert [slow["rank"] for slow in named] == ([] if ranks == 1 else [ranks - 1])
        assert all(slow["round"] <= 5 for slow in named)
        assert all(slow["times"] == pytest.approx(2) for slow in named)


def test_rounds_one_by_one(openmpi: "Launch", found: Callable[["Launch", int], Found]) -> None:
    own = [rank["parameters"]["slowed"] for rank in found(openmpi, 2)]
    # Three workers on rank 0 and four on rank 1, which is slow; two steps a round, one batch each.
    assert own[0]["rounds"][0] == pytest.approx([0, 3 * 2 * USUAL, 0, 0])
    assert own[1]["rounds"][0] == pytest.approx([0, 4 * 2 * 2 * USUAL, 0, 0])
    assert len(own[0]["rounds"]) == len(own[1]["rounds"]) == 3 * 3


if __name__ == "__main__":
    main(*sys.argv[1:])
