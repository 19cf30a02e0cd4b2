"""The grid of configurations that predictions are scored on, and the drawing of some of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCHES = (16, 20, 24, 40, 56, 72, 90, 100, 120, 150, 190, 220, 240)
"""90, 150, 220 and 240 have room for as many as calibration does not measure, between sizes that it does; the others are as large
as one of those, most of them not full. Of large networks calibration measures fewer sizes.
"""
PERIODS = (1, 2, 3, 4, 6, 12, 16)
UNSEEN = (
    *("chavan-3-20-80", "chavan-4-10-120", "chavan-5-24-60", "chavan-5-16-300", "chavan-6-12-90"),
    *("chavan-7-10-150", "chavan-2-32-100", "chavan-3-48-40"),
)
"""Networks that calibration never measures by itself."""

TRIES = 20
"""Draws for each configuration that is wanted: of a grid that is nearly drawn most are known already."""


@dataclass(frozen=True)
class Draw:
    """One configuration."""

    network: str
    batch: int
    workers: int
    period: int
    topology: str
    reduction: str
    what: str
    optimizer: str
    ranks: int
    unseen: bool = False
    threads: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """Sections of a config, but for the data."""
        averaging = {name: getattr(self, name) for name in ("workers", "topology", "reduction", "what")}
        return {
            "network": {"name": self.network},
            "optimizer": {"name": self.optimizer, "learning_rate": 1e-4},
            "train": {"batch": self.batch, "epochs": 1_000_000, "threads": self.threads},
            "averaging": {**averaging, "period": self.period},
            "checkpoint": {"every": 0.0},
        }


def draw(
    seed: int, count: int, networks: Sequence[str], unseen: Sequence[str], ranks: int, threads: int = 1
) -> list[Draw]:
    """So many configurations, and a fourth as many with networks that were not measured; no two are the same.

    Fewer where there are hardly as many.
    """
    chance = np.random.default_rng(seed)
    drawn: dict[Draw, None] = {}
    for names, wanted, new in ((networks, count, False), (unseen, count + count // 4, True)):
        for _ in range(TRIES * wanted if names else 0):
            if len(drawn) == wanted:
                break
            drawn[_one(chance, names, ranks, new, threads)] = None
    return list(drawn)


def _one(chance: np.random.Generator, names: Sequence[str], ranks: int, unseen: bool, threads: int) -> Draw:
    on = int(chance.integers(1, ranks + 1))
    what = str(chance.choice(["parameters", "parameters", "gradients"]))
    return Draw(
        network=str(chance.choice(list(names))),
        batch=int(chance.choice(BATCHES)),
        workers=on * int(chance.integers(1, 4)),
        period=1 if what == "gradients" else int(chance.choice(PERIODS)),
        topology=str(chance.choice(["allreduce", "master"])),
        reduction=str(chance.choice(["exact", "fast"])),
        what=what,
        optimizer=str(chance.choice(["sgd", "adam"])),
        ranks=on,
        unseen=unseen,
        threads=threads,
    )
