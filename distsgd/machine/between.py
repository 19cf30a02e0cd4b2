"""Averages between steps of training: not as fast or as slow as one after another, as steps leave them other caches."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.comm import Ranks
from distsgd.cost.averaging import Asked, averaging_estimate
from distsgd.cost.machine import InPlace
from distsgd.machine.rounds import timed_rounds
from distsgd.machine.steps import experiment

SECONDS = 0.05
WAYS = [(topology, reduction) for topology in ("allreduce", "master") for reduction in ("exact", "fast")]
LANES = 64


def in_place(path: Path, names: Sequence[str], messages: dict[str, Any], ranks: Ranks) -> list[InPlace]:
    """Every topology and reduction for states of these networks, and for gradients of one; what rank 0 returns counts."""
    found: list[InPlace] = []
    for name in names:
        for topology, reduction in WAYS:
            ranks.barrier()
            found += _one(path, name, {"topology": topology, "reduction": reduction}, messages, ranks)
    for topology, reduction in WAYS:
        ways = {"topology": topology, "reduction": reduction, "what": "gradients"}
        found += _one(path, names[0], ways, messages, ranks)
    return found


def _one(
    path: Path, name: str, way: dict[str, str], messages: dict[str, Any], ranks: Ranks
) -> Iterator[InPlace]:
    workers = max(2, ranks.size)
    made = experiment(
        path, name, LANES, {"workers": workers, "period": 1 if "what" in way else 2, **way}, ranks=ranks.size
    )
    rounds = timed_rounds(made, ranks, SECONDS)
    of_ranks = [
        json.loads(part)
        for part in ranks.gather_bytes(json.dumps(float(np.median(rounds["average"]))).encode())
    ]
    if of_ranks:
        tensors = 1 if way.get("what") == "gradients" else 1 + made.optimizer.moments
        values = tensors * sum(made.segments)
        asked = Asked(
            way["topology"], "library", way["reduction"], values, ranks.size, 1, workers / ranks.size
        )
        expected = averaging_estimate(messages, asked).whole.seconds
        yield InPlace(
            topology=way["topology"],
            reduction=way["reduction"],
            ranks=ranks.size,
            values=values,
            factor=float(np.mean(of_ranks)) / expected,
        )
