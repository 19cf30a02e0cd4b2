"""The pictures: loss and accuracy by epoch, what was taken for what, seconds by phase; in Okabe and Ito's colours."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from distsgd.clock import PHASES
from distsgd.report.reading import Epoch, Part, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = {
    "train": ("training", "#0072B2", "o", "-"),
    "validation": ("validation", "#009E73", "^", "-."),
    "test": ("test", "#D55E00", "s", "--"),
}
PHASE_COLOURS = dict(
    zip(
        PHASES,
        (
            "#bbbbbb",
            "#555555",
            "#E69F00",
            "#F0E442",
            "#8C510A",
            "#0072B2",
            "#D55E00",
            "#CC79A7",
            "#009E73",
            "#56B4E9",
        ),
        strict=True,
    )
)
MOST_MARKED = 40
"""More points than these lie upon one another."""
MOST_NAMED = 20
"""Classes whose names and numbers of images can be read in a matrix."""
MOST_BARS = 40
"""Ranks with a bar of their own; of more an outline is drawn."""
LONGEST_NAME = 18


def epochs(summary: Summary, ends: list[Epoch]) -> "Figure":
    """Loss and accuracy of each epoch, side by side."""
    figure = new_figure(9, 3.6)
    loss, accuracy = figure.subplots(1, 2, gridspec_kw={"wspace": 0.08})
    _curves(loss, ends, lambda part: np.nan if part.loss is None else part.loss)
    _curves(accuracy, ends, lambda part: 100 * part.accuracy)
    loss.set(title="Loss", ylabel="mean loss of an image")
    accuracy.set(title="Accuracy", ylabel="images judged rightly (%)")
    figure.suptitle(_about(summary, ends[-1]), x=0.01, ha="left", fontsize=10, color="#444444")
    return figure


def _about(summary: Summary, last: Epoch) -> str:
    """Which run it is and how far it came; with validation images, what is kept is tested at the end alone."""
    about = f"{summary.network or 'run'}, epoch {last.epoch}"
    name, part = ("test", last.test) if last.test else ("validation", last.validation)
    about += f": {part.accuracy:.2%} of {name} images are judged rightly" if part else ""
    if last.test is None and summary.test_accuracy is not None:
        about += f"; what is kept: {summary.test_accuracy:.2%} of test images"
    return about


def _curves(axes: "Axes", ends: list[Epoch], value: Callable[[Part], float]) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = [end.epoch for end in ends]
    for name, (label, colour, marker, line) in PARTS.items():
        parts: list[Part | None] = [getattr(end, name) for end in ends]
        if any(parts):
            values = [np.nan if part is None else value(part) for part in parts]
            label += ": not finite" if np.isnan(values).all() else ""
            marked = marker if len(ends) <= MOST_MARKED else None
            axes.plot(numbers, values, line, color=colour, marker=marked, markersize=4, label=label)
    room = max(0.5, 0.02 * (numbers[-1] - numbers[0]))
    axes.set_xlim(numbers[0] - room, numbers[-1] + room)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.grid(axis="y")
    axes.margins(y=0.1)
    axes.legend()


def confusion(summary: Summary) -> "Figure":
    """The matrix: a row a class, its shares coloured; the square root of a share, so that few mistakes are seen as well."""
    from matplotlib.colors import PowerNorm

    counts = np.array(summary.confusion, np.int64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(0.47 * len(counts), 2.6), 8.5)
    figure = new_figure(side + 2.4, side + 1.2)
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("share of the class's images (%)")
    bar.outline.set_visible(False)
    axes.set(title="Confusion matrix, test images", xlabel="taken for", ylabel="class")
    axes.spines[:].set_visible(False)
    _name_classes(axes, summary, len(counts))
    if len(counts) <= MOST_NAMED:
        _write_counts(axes, counts, shares)
    return figure


def _name_classes(axes: "Axes", summary: Summary, classes: int) -> None:
    """Names where there is room for them, else every so many a number."""
    from matplotlib.ticker import MaxNLocator

    if classes > MOST_NAMED:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(11, integer=True, steps=[1, 2, 5, 10]))
        return
    names = summary.class_names or [str(number) for number in range(classes)]
    short = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in names]
    slanted = max(len(name) for name in short) > 2
    axes.set_yticks(range(classes), short)
    axes.set_xticks(
        range(classes),
        short,
        rotation=45 * slanted,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.tick_params(length=0)


def _write_counts(axes: "Axes", counts: np.ndarray, shares: np.ndarray) -> None:
    size = 9 if len(str(counts.max())) <= 4 else 6
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.3 else "#222222"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=colour)


def seconds(summary: Summary) -> "Figure":
    """A bar a rank, its phases one after another as they sum to the wall clock."""
    from matplotlib.ticker import MaxNLocator

    ranks = len(summary.seconds_by_rank)
    table = np.array([[rank[phase] for phase in PHASES] for rank in summary.seconds_by_rank])
    unit, length = _unit(table.sum(1).max())
    table /= length
    figure = new_figure(9, min(max(2.9, 1.4 + 0.32 * ranks), 7.5))
    axes = figure.subplots()
    (_bars if ranks <= MOST_BARS else _outlines)(axes, table, unit)
    axes.set(title=f"Time by phase, {ranks} rank{'s' * (ranks > 1)}", xlabel=f"time ({unit})", ylabel="rank")
    axes.set_ylim(ranks - 0.5, -0.5)
    axes.set_xlim(0, (table.sum(1).max() or 1) * 1.1)
    axes.yaxis.set_major_locator(MaxNLocator(min(ranks, 20), integer=True, min_n_ticks=1))
    axes.grid(axis="x")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        title="mean over ranks",
        alignment="left",
    )
    return figure


def _unit(most: float) -> tuple[str, float]:
    """In what so many seconds are told."""
    return ("s", 1.0) if most < 600 else ("min", 60.0) if most < 6 * 3600 else ("h", 3600.0)


def _labels(table: np.ndarray, unit: str) -> list[str]:
    means = table.mean(0)
    whole = means.sum() or 1.0
    return [
        f"{phase}  {mean:.2f} {unit}, {mean / whole:.1%}" for phase, mean in zip(PHASES, means, strict=True)
    ]


def _bars(axes: "Axes", table: np.ndarray, unit: str) -> None:
    left, ranks = np.zeros(len(table)), np.arange(len(table))
    for phase, label, widths in zip(PHASES, _labels(table, unit), table.T, strict=True):
        axes.barh(ranks, widths, 0.7, left, color=PHASE_COLOURS[phase], label=label)
        left = left + widths
    for rank, whole in enumerate(left):
        axes.text(whole, rank, f" {whole:.2f} {unit}", va="center", fontsize=8, color="#444444")


def _outlines(axes: "Axes", table: np.ndarray, unit: str) -> None:
    edges = np.cumsum(np.concatenate([np.zeros((len(table), 1)), table], 1), 1)
    ranks = np.repeat(np.arange(len(table) + 1), 2)[1:-1] - 0.5
    for number, (phase, label) in enumerate(zip(PHASES, _labels(table, unit), strict=True)):
        left, right = (np.repeat(edges[:, side], 2) for side in (number, number + 1))
        axes.fill_betweenx(ranks, left, right, color=PHASE_COLOURS[phase], label=label, linewidth=0)


def new_figure(width: float, height: float) -> "Figure":
    """A figure in inches; it belongs to no window."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")
