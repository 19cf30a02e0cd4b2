"""The comparisons in one picture: seconds of each way here and as printed, and time over the sizes of a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsgd.bench.convolution import printed, tables
from distsgd.bench.convolution.measuring import Measured
from distsgd.bench.convolution.printed import Printed
from distsgd.config import CHAVAN, InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE, PRINTED = "#0072B2", "#BBBBBB"
COLOURS, DASHES = ("#0072B2", "#D55E00", "#009E73"), ("-", "--", ":")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "distsgd",
}


def draw(path: Path, found: Mapping[str, Sequence[Measured]]) -> None:
    """Write the picture, of the kind that the file's name ends with. InputError where that can't be."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 4), layout="constrained")
        panels = figure.subplots(1, 3)
        _garg(panels[0], [one for one in found["garg"] if one.batch == found["garg"][0].batch])
        _rendon(panels[1], found["rendon"])
        _chavan(panels[2], [one for one in found["chavan"] if one.way == printed.OURS])
        bars = panels[0].get_legend_handles_labels()  # the same in both
        figure.legend(*bars, loc="outside lower left", ncols=2)
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise InputError(f"--plot {path}: {error}") from None


def _garg(axes: "Axes", found: Sequence[Measured]) -> None:
    _bars(axes, found, [one.seconds for one in found], printed.GARG)
    axes.set_title(f"(a) garg, batch {found[0].batch}")
    axes.set_xlabel("seconds a training iteration")


def _rendon(axes: "Axes", found: Sequence[Measured]) -> None:
    _bars(axes, found, [tables.scaled(one) for one in found], printed.RENDON)
    axes.set_title("(b) rendon")
    axes.set_xlabel(f"seconds an epoch of {printed.RENDON_IMAGES:,} images")


def _bars(
    axes: "Axes", found: Sequence[Measured], seconds: Sequence[float], said: Mapping[str, Sequence[Printed]]
) -> None:
    """A bar a way, and under it what was printed of it, on the fewest cores."""
    places = range(len(found))
    theirs = [said.get(one.way, [Printed({})])[0].seconds.get(one.batch) for one in found]
    there = [place for place in places if theirs[place] is not None]
    bars = [axes.barh([place - 0.2 for place in places], seconds, 0.38, color=HERE, label="this machine")]
    shown = [value for value in theirs if value is not None]
    bars.append(
        axes.barh(
            [place + 0.2 for place in there],
            shown,
            0.38,
            color=PRINTED,
            label="as printed (parallel: 4 cores)",
        )
    )
    for those in bars:
        axes.bar_label(those, fmt=tables.in_seconds, padding=2, fontsize=7)
    axes.set_yticks(places, [one.way for one in found])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 5)


def _chavan(axes: "Axes", found: Sequence[Measured]) -> None:
    """A line for each size of filters and number of units."""
    points = {_size(one): one.seconds * 1e3 for one in found}
    kernels, filters, units = (sorted(set(those)) for those in zip(*points, strict=True))
    for kernel, colour in zip(kernels, COLOURS, strict=False):
        for unit, dash in zip(units, DASHES, strict=False):
            line = [points[kernel, each, unit] for each in filters]
            axes.plot(filters, line, dash, marker="o", markersize=3, color=colour, label=f"{kernel}-F-{unit}")
    axes.set_title(f"(c) chavan-K-F-H, batch {found[0].batch}, ours")
    axes.set_xlabel("filters F")
    axes.set_ylabel("milliseconds a training iteration")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, loc="upper left", handlelength=4)


def _size(one: Measured) -> tuple[int, int, int]:
    """K, F and H."""
    numbers = CHAVAN.fullmatch(one.network)
    assert numbers is not None
    kernel, filters, units = map(int, numbers.groups())
    return kernel, filters, units
