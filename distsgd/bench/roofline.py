"""The benchmark of kernels in a picture: speed against operations per byte, under the roof of this core."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distsgd.bench.limits import SIZES, Limits
from distsgd.bench.timed import Timed
from distsgd.config import InputError

COLOURS = {"forward": "#0072B2", "to weights": "#D55E00", "to data": "#009E73"}
CACHES = (0, 6, -1)
"""Which of the sizes copied have a roof drawn."""


def draw(path: Path, limits: Limits, timed: Sequence[Timed]) -> None:
    """Write the picture, of the kind that the file's name ends with. InputError where that can't be."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    intensities = np.geomspace(0.25, 2048, 60)
    for place in CACHES:
        roof = np.minimum(limits.peak, intensities * limits.bandwidths[place]) / 1e9
        axes.plot(intensities, roof, color="#888888", linewidth=1)
        size = SIZES[: len(limits.bandwidths)][place]
        axes.annotate(_size(size), (intensities[2], roof[2]), color="#555555", fontsize=8)
    for what, colour in COLOURS.items():
        seen = [each for each in timed if each.what == what and each.gflops]
        points = [each.gflops / each.gigabytes for each in seen], [each.gflops for each in seen]
        axes.plot(*points, "o", color=colour, label=what, markersize=5, alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s")
    for axis, ticks in ((axes.xaxis, (1, 10, 100, 1000)), (axes.yaxis, (10, 20, 50, 100, 200, 500, 1000))):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_title(
        "Convolutions (by definition's operations) and dense layers, this core's roof",
        loc="left",
        fontsize=11,
    )
    axes.legend(frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {path}: {error}") from None


def _size(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} kB"
