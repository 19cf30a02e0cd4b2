"""The benchmark of kernels in a picture: what computes under the roof of this core, and what moves numbers under its bandwidths."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distsgd.bench.limits import SIZES, Limits
from distsgd.bench.timed import Timed
from distsgd.config import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

COLOURS = {"forward": "#0072B2", "to weights": "#D55E00", "to data": "#009E73", "update": "#CC79A7"}
ROOFS = (1 << 14, 1 << 20, SIZES[-1])
"""Bytes: in a core's nearest cache, in its last own one, and what was copied of most."""
TICKS = tuple(digit * 10**power for power in range(4) for digit in (1, 2, 5))
GREY = "#888888"


def draw(path: Path, limits: Limits, timed: Sequence[Timed]) -> None:
    """Write the picture, of the kind that the file's name ends with. InputError where that can't be."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    computing, moving = figure.subplots(1, 2)
    _computing(computing, limits, [each for each in timed if each.gflops])
    _moving(moving, limits, [each for each in timed if not each.gflops and each.share_of_limit])
    handles, labels = _legend(computing, moving)
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(COLOURS))
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {path}: {error}") from None


def _computing(axes: "Axes", limits: Limits, timed: Sequence[Timed]) -> None:
    """Speed against operations per byte."""
    intensities = np.geomspace(0.25, 2048, 60)
    sizes = SIZES[: len(limits.bandwidths)]
    for size in sorted({min(size, sizes[-1]) for size in ROOFS}):
        roof = np.minimum(limits.peak, intensities * limits.bandwidth(size)) / 1e9
        axes.plot(intensities, roof, color=GREY, linewidth=1)
        axes.annotate(_size(size), (intensities[2], roof[2]), color="#555555", fontsize=8)
    _points(axes, timed, [each.gflops / each.gigabytes for each in timed], [each.gflops for each in timed])
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s")
    _plain(axes.xaxis, (1, 10, 100, 1000))
    _plain(axes.yaxis, TICKS)
    axes.set_title("Convolutions (operations as defined), dense layers; this core's roof", fontsize=10)


def _moving(axes: "Axes", limits: Limits, timed: Sequence[Timed]) -> None:
    """Bytes a second against what is worked in."""
    sizes = SIZES[: len(limits.bandwidths)]
    axes.plot(sizes, np.array(limits.bandwidths) / 1e9, color=GREY, linewidth=1)
    axes.annotate("a copy", (sizes[2], limits.bandwidths[2] / 1e9), color="#555555", fontsize=8)
    _points(axes, timed, [each.held for each in timed], [each.gigabytes for each in timed])
    axes.set(xscale="log", yscale="log", xlabel="bytes that it works in", ylabel="GB/s")
    places = [size for size in sizes if size.bit_length() % 4 == 3]
    axes.xaxis.set_ticks(places, list(map(_size, places)))
    axes.xaxis.set_ticks([], minor=True)
    _plain(axes.yaxis, TICKS)
    axes.set_title("Poolings, normalizations, dropout and updates; this core's bandwidths", fontsize=10)


def _points(axes: "Axes", timed: Sequence[Timed], x: Sequence[float], y: Sequence[float]) -> None:
    for what, colour in COLOURS.items():
        mine = [place for place, each in enumerate(timed) if each.what == what]
        seen = [x[place] for place in mine], [y[place] for place in mine]
        if mine:
            axes.plot(*seen, "o", color=colour, label=what, markersize=5, alpha=0.8)


def _legend(*panels: "Axes") -> tuple[list["Artist"], list[str]]:
    """Each colour once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return list(found.values()), list(found)


def _plain(axis: "Axis", ticks: Sequence[int]) -> None:
    """Numbers as people write them, as far as the axis goes."""
    low, high = axis.get_view_interval()
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(shown, [str(tick) for tick in shown])
    axis.set_ticks([], minor=True)


def _size(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} kB"
