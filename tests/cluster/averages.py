"""What ranks on emulated hosts run: `averages.py calibrate|held-out FILE SECONDS SEED [RANKS]`; rank 0 writes the file."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.comm import Ranks, world
from distsgd.machine.averaging import CALLS, measure, on_these


def held_out(ranks: Ranks, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Averages of random sizes on these ranks: what each was, and seconds of its calls."""
    return [
        {**vars(one.way), "values": values, "ranks": one.layout.ranks, "hosts": one.layout.hosts}
        | {"last": last, **dict(zip(CALLS, map(float, mean), strict=True))}
        for one in on_these(ranks, seconds, np.random.default_rng([seed, 1000]))
        for values, mean, last in zip(one.values, one.mean, one.last, strict=True)
    ]


def main(what: str, file: str, seconds: str, seed: str) -> None:
    ranks = world(os.environ)
    work = measure if what == "calibrate" else held_out
    found = work(ranks, float(seconds), int(seed))
    if ranks.rank == 0:
        Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
