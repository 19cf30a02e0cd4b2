"""What a scaling study came to: scale.json, trusted in nothing, and as a table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from distsgd.config import InputError
from distsgd.record import read_bounded
from distsgd.report.reading import Count, Read, Seconds, Text, checked

MOST_POINTS = 1000

Ratio = Annotated[float, Field(gt=-1e9, lt=1e9)]
Range = Annotated[list[Ratio], Field(min_length=2, max_length=2)]
"""The least and the most."""


class Spread(Read):
    """The middle of several measurements, the least and the most; or a prediction, and what 90 % of runs lie between."""

    median: Ratio
    least: Ratio
    most: Ratio


class Gain(Read):
    """What a point gains over the first."""

    times: Ratio
    speed_up: Spread
    efficiency: Ratio
    efficiency_range: Range | None = None
    serial_fraction: Ratio | None
    serial_range: Range | None = None

    @property
    def efficiencies(self) -> Spread:
        """The efficiency, in percent."""
        return _percents(self.efficiency, self.efficiency_range)

    @property
    def serial_parts(self) -> Spread | None:
        """The serial fraction, in percent, where there is one."""
        if self.serial_fraction is None:
            return None
        return _percents(self.serial_fraction, self.serial_range)


def _percents(middle: float, ends: Sequence[float] | None) -> Spread:
    least, most = ends or (middle, middle)
    return Spread(median=100 * middle, least=100 * least, most=100 * most)


class Run(Read):
    """One of a point's runs."""

    folder: Text
    outcome: Literal["finished", "failed", "missing"]
    exit_code: int | None = None


class Point(Read):
    """A number of ranks."""

    ranks: Annotated[int, Field(ge=1, lt=2**31)]
    nodes: Annotated[int, Field(ge=1, lt=2**31)] | None
    workers: Count
    oversubscribed: bool | None
    most_speed_up: Ratio
    seconds: Spread | None
    total_seconds: Spread | None = None
    images_per_second: Spread | None = None
    predicted_seconds: Seconds | None
    predicted_interval: Annotated[list[Seconds], Field(min_length=2, max_length=2)] | None = None
    gain: Gain | None = None
    predicted_gain: Gain | None = None
    runs: Annotated[list[Run], Field(max_length=MOST_POINTS)]

    @property
    def predicted(self) -> Spread | None:
        """Seconds of training as they were predicted, and what 90 % of runs lie between."""
        if self.predicted_seconds is None:
            return None
        low, high = self.predicted_interval or (self.predicted_seconds, self.predicted_seconds)
        return Spread(median=self.predicted_seconds, least=low, most=high)

    @property
    def finished(self) -> int:
        """How many of its runs came to an end."""
        return sum(run.outcome == "finished" for run in self.runs)


class Scale(Read):
    """What scale.json holds of what is shown."""

    format: Literal["distsgd-scale-1"]
    kind: Literal["strong", "weak"]
    axis: Literal["ranks", "nodes"]
    network: Text
    reduction: Text
    seconds_are: Text
    same_weights: bool | None
    points: Annotated[list[Point], Field(min_length=1, max_length=MOST_POINTS)]

    def place(self, point: Point) -> int:
        """Where on the axis a point is."""
        return point.nodes or point.ranks if self.axis == "nodes" else point.ranks


def read_scale(folder: Path) -> Scale:
    """The study in a folder. Raises InputError where it is not there, or can't be one."""
    path = folder / "scale.json"
    if not path.exists():
        raise InputError(f"{folder} holds no scale.json; wanted: the folder of `distsgd scale`")
    found: Scale = checked(path, Scale, read_bounded(path))
    return found


def _place(point: Point) -> dict[str, str]:
    return {
        "nodes": str(point.nodes or ""),
        "ranks": f"{point.ranks}{'*' * bool(point.oversubscribed)}",
    }


def _measured(point: Point) -> dict[str, str]:
    """What there is to say of a point's runs, by column."""
    gain, rate = point.gain, point.images_per_second
    return {
        "runs": f"{point.finished}/{len(point.runs)}",
        "seconds": f"{point.seconds.median:.3f}" if point.seconds else "none",
        "least": f"{point.seconds.least:.3f}" if point.seconds else "",
        "most": f"{point.seconds.most:.3f}" if point.seconds else "",
        "speed-up": f"{gain.speed_up.median:.2f}" if gain else "",
        "efficiency": f"{gain.efficiency:.1%}" if gain else "",
        "serial part": "" if gain is None or gain.serial_fraction is None else f"{gain.serial_fraction:.2%}",
        "images/s": f"{rate.median:,.0f}" if rate else "",
    }


def _predicted(point: Point) -> dict[str, str]:
    """What was predicted of it, and what 90 % of runs were to lie between."""
    gain = point.predicted_gain
    return {
        "predicted s": _within(point.predicted, ".3f"),
        "predicted speed-up": _within(gain.speed_up if gain else None, ".2f"),
        "predicted efficiency": _within(gain.efficiencies if gain else None, ".1f", "%"),
        "predicted serial part": _within(gain.serial_parts if gain else None, ".1f", "%"),
    }


def _within(value: Spread | None, form: str, unit: str = "") -> str:
    if value is None:
        return ""
    return f"{value.median:{form}}{unit} ({value.least:{form}} to {value.most:{form}})"


Cells = Callable[[Point], dict[str, str]]


def _rows(scale: Scale, *parts: Cells) -> list[list[str]]:
    cells = [{name: cell for part in parts for name, cell in part(point).items()} for point in scale.points]
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    return [names, *([row[name] for name in names] for row in cells)]


def rows(scale: Scale) -> list[list[str]]:
    """The table's cells, its head first; a column that says nothing anywhere is left out."""
    return _rows(scale, _place, _measured, _predicted)


def _text(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    return ["".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]


def table(scale: Scale) -> str:
    """Text for a terminal, and what is to be known of it; what was predicted by itself, as lines get long."""
    lines = [f"  {heading(scale)}", "", *_text(_rows(scale, _place, _measured)), ""]
    if any(point.predicted for point in scale.points):
        lines += [*_text(_rows(scale, _place, _predicted)), ""]
    return "\n".join([*lines, *(f"  {note}" for note in notes(scale))])


def heading(scale: Scale) -> str:
    """Which study it is."""
    if scale.kind == "strong":
        return f"strong scaling of {scale.network}: the same experiment, {scale.points[0].workers} workers, on every point"
    return (
        f"weak scaling of {scale.network}: a worker a rank, images grow with the ranks: "
        "every point is another experiment"
    )


def notes(scale: Scale) -> list[str]:
    """What a reader of the table must know, a line each."""
    said = [f"seconds: {scale.seconds_are}; medians of the runs"]
    base = next((point for point in scale.points if point.gain), None)
    if base and base.ranks > 1:
        said.append(f"speed-up: over {base.ranks} ranks, the fewest that were measured")
    if any(point.predicted for point in scale.points):
        said.append(
            "predicted: before each run, from the machine's file; in brackets what 90 % of runs were to lie between"
        )
    if scale.kind == "weak":
        said.append("speed-up: scaled, by the work that grew (Gustafson)")
    else:
        said.append(
            "serial part: Karp and Flatt's e = (1/S - 1/P) / (1 - 1/P); where it grows, messages and waiting limit"
        )
    if any(point.oversubscribed for point in scale.points):
        said.append("*: more ranks than cores: they take turns, and say nothing of as many cores")
    said += [line for point in scale.points if (line := _uneven(scale, point))]
    return [*said, *_lost(scale), *_weights(scale)]


def _uneven(scale: Scale, point: Point) -> str:
    if point.workers % point.ranks == 0:
        return ""
    most = f"{point.most_speed_up:.2f}"
    return f"{point.ranks} ranks: {point.workers} workers can't be dealt evenly, so a speed-up of {most} is the most"


def _lost(scale: Scale) -> list[str]:
    lost = [run for point in scale.points for run in point.runs if run.outcome != "finished"]
    failed = [f"failed: {run.folder}, exit code {run.exit_code}" for run in lost if run.outcome == "failed"]
    missing = len(lost) - len(failed)
    there = f"{missing} run{'s have' if missing > 1 else ' has'} not ended yet: the same command goes on with them"
    return failed + ([there] if missing else [])


def _weights(scale: Scale) -> list[str]:
    if scale.same_weights is None:
        return []
    if scale.same_weights:
        return ["weights: the same bits after every run"]
    if scale.reduction == "fast":
        return ["weights: not the same bits, as averaging.reduction = fast adds in whatever order"]
    return ["WARNING: weights differ between runs of the same experiment: they must be the same bits"]
