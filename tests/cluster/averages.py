"""What ranks on emulated hosts run: `averages.py calibrate|held-out FILE SECONDS SEED [RANKS...]`; rank 0 writes the file.

Averages of other sizes, on the first so many of the ranks, are measured by turns with those of the calibration: what a machine is
slower in some minutes than in others, in all that it does, is not taken for an error of what is predicted.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.comm import world
from distsgd.machine.averaging import Sizes, by_turns, concluded, of_layouts, sizes_of
from distsgd.machine.timed import CALLS

SIZES = 8


def averages(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """What each was, seconds of its calls, and `twice`, the seconds of all calls by every other repeat and by the rest."""
    found = sizes.found(), sizes.found(slice(None, None, 2)), sizes.found(slice(1, None, 2))
    for one, *halves in zip(*found, strict=True):
        for number, values in enumerate(one.values):
            yield {
                **vars(one.way),
                "values": values,
                "ranks": one.layout.ranks,
                "hosts": one.layout.hosts,
                "last": one.last[number],
                **dict(zip(CALLS, one.mean[number].tolist(), strict=True)),
                "twice": [float(half.mean[number][:-1].sum()) for half in halves],
            }


def main(what: str, file: str, seconds: str, seed: str, *counts: str) -> None:
    ranks = world(os.environ)
    calibrated = of_layouts(ranks, float(seconds), int(seed)) if what == "calibrate" else []
    each = float(seconds) / 2 / len(counts)
    held_out = [
        sizes_of(ranks, int(count), each, np.random.default_rng([int(seed), 1000, int(count)]), SIZES)
        for count in counts
    ]
    by_turns(ranks, [*calibrated, *held_out])
    found = [average for sizes in held_out if sizes for average in averages(sizes)]
    messages = concluded(ranks, calibrated) if calibrated else {}
    if ranks.rank == 0:
        Path(file).write_text(json.dumps({"messages": messages, "averages": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
