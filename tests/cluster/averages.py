"""What ranks on emulated hosts run: `averages.py calibrate|held-out FILE SECONDS SEED [RANKS...]`; rank 0 writes the file.

held-out: on the first so many of the ranks, one number after another.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.comm import Ranks, world
from distsgd.machine.averaging import CALLS, measure, on_these

SIZES = 8


def held_out(ranks: Ranks, seconds: float, seed: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Averages of random sizes on each of these numbers of ranks: what each was, and seconds of its calls."""
    found = []
    for count in counts:
        part = ranks.first(count)
        if part:
            found += _averages(part, seconds / len(counts), seed + count)
            part.close()
        ranks.barrier()
    return found


def _averages(ranks: Ranks, seconds: float, seed: int) -> list[dict[str, Any]]:
    return [
        {**vars(one.way), "values": values, "ranks": one.layout.ranks, "hosts": one.layout.hosts}
        | {"last": last, **dict(zip(CALLS, map(float, mean), strict=True))}
        for one in on_these(ranks, seconds, np.random.default_rng([seed, 1000]), SIZES)
        for values, mean, last in zip(one.values, one.mean, one.last, strict=True)
    ]


def main(what: str, file: str, seconds: str, seed: str, *counts: str) -> None:
    ranks = world(os.environ)
    if what == "calibrate":
        found: Any = measure(ranks, float(seconds), int(seed))
    else:
        found = held_out(ranks, float(seconds), int(seed), [int(count) for count in counts])
    if ranks.rank == 0:
        Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
