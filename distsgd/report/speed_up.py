"""A scaling study as a picture: execution time against nodes, as in Fig. 4 of Chavan and Kulkarni, and what follows from it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distsgd.report.scaling import Gain, Point, Scale, Spread, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURED, PREDICTED, CROWDED, IDEAL = "#0072B2", "#D55E00", "#888888", "#999999"
MOST_TICKS = 12


def figure(scale: Scale) -> "Figure":
    """Execution time, speed-up, efficiency and serial part against ranks or nodes; measured with its spread, predicted, ideal."""
    from matplotlib.figure import Figure

    shown = [point for point in scale.points if point.seconds and point.gain]
    drawn = Figure((9, 6.6), layout="constrained")
    (time, speed), (efficiency, serial) = drawn.subplots(2, 2)
    _time(time, scale, shown)
    _speed_up(speed, scale, shown)
    _percents(efficiency, scale, shown, lambda gain: gain.efficiencies, 100.0)
    _percents(serial, scale, shown, lambda gain: gain.serial_parts, 0.0)
    efficiency.set(title="Efficiency", ylabel="speed-up / ideal (%)")
    efficiency.set_ylim(bottom=0)
    serial.set(title="Serial part (Karp and Flatt)", ylabel="e (%)")
    if scale.kind == "weak":
        serial.set_visible(False)
    for axes in (time, speed, efficiency, serial):
        _axis(axes, scale)
    drawn.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    drawn.suptitle(heading(scale), x=0.01, ha="left", fontsize=10, color="#444444")
    return drawn


def _time(axes: "Axes", scale: Scale, shown: list[Point]) -> None:
    spreads = [point.seconds for point in shown if point.seconds]
    _measured(axes, scale, shown, spreads)
    _predicted(axes, [(scale.place(point), point.predicted) for point in shown if point.predicted])
    if shown:
        first = spreads[0].median
        grows = scale.kind == "weak"
        ideal = [first if grows else first / point.gain.times for point in shown if point.gain]
        axes.plot([scale.place(point) for point in shown], ideal, ":", color=IDEAL, label="ideal")
    _logarithmic(axes)
    axes.set(title="Execution time of training", ylabel="s")


def _speed_up(axes: "Axes", scale: Scale, shown: list[Point]) -> None:
    gains = [point.gain for point in shown if point.gain]
    _measured(axes, scale, shown, [gain.speed_up for gain in gains])
    said = [(scale.place(point), point.predicted_gain.speed_up) for point in shown if point.predicted_gain]
    _predicted(axes, said)
    axes.plot(
        [scale.place(point) for point in shown],
        [gain.times for gain in gains],
        ":",
        color=IDEAL,
        label="ideal",
    )
    axes.set(title="Speed-up" + ", scaled" * (scale.kind == "weak"))
    _logarithmic(axes)


def _percents(
    axes: "Axes", scale: Scale, shown: list[Point], value: "Callable[[Gain], Spread | None]", ideal: float
) -> None:
    known = [(point, told) for point in shown if point.gain and (told := value(point.gain))]
    _measured(axes, scale, [point for point, _ in known], [told for _, told in known])
    foreseen = [(point, value(point.predicted_gain)) for point in shown if point.predicted_gain]
    _predicted(axes, [(scale.place(point), told) for point, told in foreseen if told])
    axes.axhline(ideal, color=IDEAL, linestyle=":")


def _measured(axes: "Axes", scale: Scale, points: list[Point], values: list[Spread]) -> None:
    """A line of points with their spread; hollow and grey where ranks share cores."""
    places = [scale.place(point) for point in points]
    axes.plot(places, [value.median for value in values], "-", color=MEASURED, linewidth=1)
    for crowded, colour, label in (
        (False, MEASURED, "measured, least and most"),
        (True, CROWDED, "more ranks than cores"),
    ):
        some = [(place, value) for place, point, value in zip(places, points, values, strict=True)
                if bool(point.oversubscribed) == crowded]  # fmt: skip
        if some:
            below, above = (
                [abs(value.median - getattr(value, end)) for _, value in some] for end in ("least", "most")
            )
            axes.errorbar(
                [place for place, _ in some],
                [value.median for _, value in some],
                [below, above],
                fmt="o",
                color=colour,
                markerfacecolor="white" if crowded else colour,
                capsize=3,
                label=label,
            )


def _predicted(axes: "Axes", told: list[tuple[int, Spread]]) -> None:
    """A broken line, and around it a band that holds 90 % of runs; wide where something was predicted, as one point has no band."""
    if told:
        places, values = zip(*told, strict=True)
        low, high = ([getattr(value, end) for value in values] for end in ("least", "most"))
        axes.plot(
            places,
            [value.median for value in values],
            "D--",
            color=PREDICTED,
            markersize=4,
            label="predicted",
        )
        axes.fill_between(
            places, low, high, color=PREDICTED, alpha=0.18, linewidth=0, label="90 % of runs, predicted"
        )
        axes.vlines(places, low, high, color=PREDICTED, alpha=0.25, linewidth=7)


def _axis(axes: "Axes", scale: Scale) -> None:
    places = sorted({scale.place(point) for point in scale.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(places if len(places) <= MOST_TICKS else places[:: -(-len(places) // MOST_TICKS)])
    axes.minorticks_off()
    _plain(axes.xaxis)
    axes.set_xlabel(scale.axis)
    axes.set_xlim(places[0] / 1.15, places[-1] * 1.15)
    axes.grid(axis="y")


def _plain(axis: Any) -> None:
    """Numbers as people write them, not powers."""
    axis.set_major_formatter("{x:g}")


def _logarithmic(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 3, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    _plain(axes.yaxis)
