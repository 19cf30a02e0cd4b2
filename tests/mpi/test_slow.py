"""A rank that is slow is named by every rank, and changes no weight.

This file is also the program that mpiexec starts. Seconds are made up: a batch takes as long as it is told to.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distsgd.clock import Clock
from distsgd.comm import Ranks, world
from distsgd.config import Config
from distsgd.network import Network
from distsgd.record import weights_sha256
from distsgd.training import Training, check

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
        training = Training(check(config, ranks.size, []), ranks, clock, watched=watched)
        result = training.run(lambda progress: None, lambda end: None)
    finally:
        Network.learn = learn  # type: ignore[method-assign]
    found = [asdict(slow) for slow in training.slow]
    return {"slow": found, "weights": weights_sha256(result.parameters), "rounds": training.timeline.rounds}


def main() -> None:
    """Print what every rank has, healthy, with a slow rank, and with one that nobody watches."""
    ranks, own = world(os.environ), {}
    for kind, change in KINDS.items():
        config = Config.model_validate({**EXPERIMENT, **change})
        last = ranks.size - 1
        own[kind] = [trained(config, ranks, *how) for how in ((None, True), (last, True), (last, False))]
    every = [json.loads(part) for part in ranks.gather_bytes(json.dumps(own).encode())]
    if ranks.rank == 0:
        print(json.dumps(every))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_slow_rank_is_named(ranks: int, mpiexec: "Launch") -> None:
    done = mpiexec(ranks, Path(__file__), timeout=120)
    assert done.rc == 0, done.stderr
    every = json.loads(done.stdout)
    for kind in KINDS:
        for own in every:
            healthy, slowed, unseen = own[kind]
            assert healthy["slow"] == unseen["slow"] == []
            assert slowed["slow"] == every[0][kind][1]["slow"]
            assert healthy["weights"] == slowed["weights"] == unseen["weights"]
        named = every[0][kind][1]["slow"]
        assert [slow["rank"] for slow in named] == ([] if ranks == 1 else [ranks - 1])
        assert all(slow["round"] <= 5 for slow in named)
        assert all(slow["times"] == pytest.approx(2) for slow in named)


@pytest.mark.parametrize("ranks", [2])
def test_rounds_one_by_one(ranks: int, openmpi: "Launch") -> None:
    own = [rank["parameters"][1] for rank in json.loads(openmpi(ranks, Path(__file__), timeout=120).stdout)]
    # Three workers on rank 0 and four on rank 1, which is slow; two steps a round, one batch each.
    assert own[0]["rounds"][0] == pytest.approx([0, 3 * 2 * USUAL, 0, 0])
    assert own[1]["rounds"][0] == pytest.approx([0, 4 * 2 * 2 * USUAL, 0, 0])
    assert len(own[0]["rounds"]) == len(own[1]["rounds"]) == 3 * 3


if __name__ == "__main__":
    main()
