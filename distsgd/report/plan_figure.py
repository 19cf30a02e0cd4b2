"""A plan as a picture: time, speed-up, efficiency and what training is made of, against ranks."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distsgd.cost import Estimate
from distsgd.plan.curve import Point
from distsgd.plan.planned import Planned
from distsgd.report.figures import PHASE_COLOURS, new_figure
from distsgd.report.measured import Measured
from distsgd.report.speed_up import CROWDED, IDEAL, MEASURED, PREDICTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

KNEE = "#009E73"
GREY: dict[str, Any] = {"color": "#f0f0f0", "zorder": 0}
MOST_TICKS, ROOM = 8, 1.2
WIDE = 3
"""Decades: of more, only powers of ten are named."""
LINE: Mapping[str, Any] = {"color": PREDICTED, "markersize": 4, "linewidth": 1.2}
SHARES = ("shuffle", "data", "compute", "average", "wait")

Value = Callable[[Point], Estimate]


def figure(planned: Planned, measured: Sequence[Measured]) -> "Figure":
    """Predicted with intervals, hollow and dashed on grey where extrapolated; measured with their spread; ideal; the knee."""
    points, curve = planned.curve.points, planned.curve
    base = next((one.seconds.median for one in measured if one.ranks == 1), 0.0)
    over_one = measured if base else []  # a speed-up over what was only predicted would be no measured one
    drawn = new_figure(9.6, 7.2)
    (time, speed), (efficiency, shares) = drawn.subplots(2, 2)
    _predicted(time, points, lambda point: point.training)
    _predicted(speed, points, curve.speed_up)
    _predicted(efficiency, points, lambda point: curve.speed_up(point).times(100 / point.job.ranks))
    _measured(time, measured, lambda one, seconds: seconds)
    _measured(speed, over_one, lambda one, seconds: base / seconds)
    _measured(efficiency, over_one, lambda one, seconds: 100 * base / seconds / one.ranks)
    _ideal(planned, time, speed, efficiency)
    _shares(shares, points)
    _titles(time, speed, efficiency, shares)
    for axes in (time, speed, efficiency, shares):
        _axis(axes, planned)
    _extrapolated(planned, time, speed, efficiency)
    _extrapolated(planned, shares, over=True)
    _knee(planned, time, speed, efficiency)
    drawn.suptitle(_about(planned), x=0.01, ha="left", fontsize=10, color="#444444")
    handles, labels = speed.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    return drawn


def _predicted(axes: "Axes", points: Sequence[Point], value: Value) -> None:
    """A line with its band; the part that leads to an extrapolated point is dashed, the point hollow."""
    told = [(point.job.ranks, value(point)) for point in points]
    places = [ranks for ranks, _ in told]
    low, high = zip(*(estimate.interval for _, estimate in told), strict=True)
    axes.fill_between(places, low, high, color=PREDICTED, alpha=0.18, linewidth=0)
    axes.vlines(places, low, high, color=PREDICTED, linewidth=1, alpha=0.5)
    first = _first_beyond(points)
    middles = [estimate.seconds for _, estimate in told]
    axes.plot(places[:first], middles[:first], "D-", **LINE, label="predicted, 90 % of runs")
    if first < len(points):
        axes.plot(
            places[first - 1 :],
            middles[first - 1 :],
            "D--",
            **LINE,
            markerfacecolor="white",
            markevery=slice(1, None),
            label="extrapolated",
        )


def _measured(axes: "Axes", measured: Sequence[Measured], value: Callable[[Measured, float], float]) -> None:
    """Points with their spread; hollow and grey where ranks share cores."""
    for crowded, colour, label in ((False, MEASURED, "measured"), (True, CROWDED, "more ranks than cores")):
        some = [one for one in measured if one.oversubscribed == crowded]
        middles = [value(one, one.seconds.median) for one in some]
        ends = [[value(one, end) for end in (one.seconds.least, one.seconds.most)] for one in some]
        if some:
            below = [middle - min(pair) for middle, pair in zip(middles, ends, strict=True)]
            above = [max(pair) - middle for middle, pair in zip(middles, ends, strict=True)]
            axes.errorbar(
                [one.ranks for one in some],
                middles,
                [below, above],
                fmt="o",
                color=colour,
                markerfacecolor="white" if crowded else colour,
                capsize=3,
                label=label,
                zorder=3,
            )


def _ideal(planned: Planned, time: "Axes", speed: "Axes", efficiency: "Axes") -> None:
    points = planned.curve.points
    places = [point.job.ranks for point in points]
    one = points[0].training.seconds
    for axes, ideal in ((time, [one / ranks for ranks in places]), (speed, places)):
        axes.plot(places, ideal, ":", color=IDEAL, label="ideal")
    efficiency.axhline(100, color=IDEAL, linestyle=":")


def _shares(axes: "Axes", points: Sequence[Point]) -> None:
    places = [point.job.ranks for point in points]
    parts = [[100 * point.share(name) for point in points] for name in SHARES]
    axes.stackplot(places, parts, labels=SHARES, colors=[PHASE_COLOURS[name] for name in SHARES], linewidth=0)
    axes.set_ylim(0, 100)
    axes.legend(loc="lower right", fontsize=9, reverse=True, frameon=True, framealpha=0.9)


def _titles(time: "Axes", speed: "Axes", efficiency: "Axes", shares: "Axes") -> None:
    time.set(title="Time of training", ylabel="seconds")
    speed.set(title="Speed-up over one rank")
    efficiency.set(title="Efficiency", ylabel="speed-up / ranks (%)")
    efficiency.set_ylim(bottom=0)
    shares.set(title="What training is made of", ylabel="%")
    for axes in (time, speed):
        _logarithmic(axes)


def _axis(axes: "Axes", planned: Planned) -> None:
    places = [point.job.ranks for point in planned.curve.points]
    axes.set_xscale("log", base=2)
    axes.set_xticks(places if len(places) <= MOST_TICKS else places[::2])
    axes.minorticks_off()
    _plain(axes.xaxis)
    axes.set_xlabel("ranks")
    axes.set_xlim(places[0] / ROOM, places[-1] * ROOM)
    axes.grid(axis="y")


def _extrapolated(planned: Planned, *panels: "Axes", over: bool = False) -> None:
    """Grey from between the last point that was measured and the first one beyond; over what is drawn, or behind it."""
    points = planned.curve.points
    first = _first_beyond(points)
    for axes in panels if first < len(points) else ():
        left = (points[first - 1].job.ranks * points[first].job.ranks) ** 0.5
        right = points[-1].job.ranks * ROOM
        look: dict[str, Any] = {"color": "white", "alpha": 0.45, "zorder": 3} if over else GREY
        axes.axvspan(left, right, linewidth=0, **look)


def _first_beyond(points: Sequence[Point]) -> int:
    """The place of the first extrapolated point: never that of one rank; beyond all where there is none."""
    return next((number for number, point in enumerate(points) if point.beyond), len(points))


def _knee(planned: Planned, *panels: "Axes") -> None:
    place = planned.curve.knee.job.ranks
    for axes in panels:
        axes.axvline(
            place, color=KNEE, linestyle="-.", linewidth=1, label=f"knee, {place} rank{'s' * (place > 1)}"
        )


def _about(planned: Planned) -> str:
    where = planned.machine.where
    workers = planned.job.config.averaging.workers
    dealt = f"{workers} workers" if workers else "one worker a rank"
    threads = f", ranks of {where.threads} threads" if where.threads > 1 else ""
    return f"plan of {planned.job.config.network.name}, {dealt}{threads}, for machines with {where.processor}"


def _logarithmic(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    decades = math.log10(axes.get_ylim()[1] / axes.get_ylim()[0])
    axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5) if decades < WIDE else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    _plain(axes.yaxis)


def _plain(axis: "Axis") -> None:
    """Numbers as people write them, not powers."""
    axis.set_major_formatter("{x:g}")
