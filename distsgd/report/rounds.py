"""Pictures of rounds: what one is made of, measured beside predicted, and the first ones rank by rank."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distsgd.report.figures import PHASE_COLOURS, new_figure
from distsgd.report.prediction import Beside, of_a_round
from distsgd.report.reading import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

MOST_RANKS = 40
"""Ranks with a row of their own in a timeline; of more, evenly chosen ones and those that are slow."""
FIRST_SHOWN, MOST_SHOWN = 1, 20
"""Rounds of a timeline: not the very first, in which caches are cold, where there are others."""


def waterfall(summary: Summary) -> "Figure":
    """The phases of a round one below the other, each beginning where the one before ends; a prediction below what was measured."""
    parts = of_a_round(summary)
    unit, length = _unit(sum(part.measured for part in parts))
    figure = new_figure(9, 1.2 + 0.55 * (len(parts) + 1))
    axes = figure.subplots()
    told = any(part.predicted is not None for part in parts)
    height = 0.36 if told else 0.6
    ends = [_fall(axes, parts, length, height, told, predicted) for predicted in (False, True)[: 1 + told]]
    axes.set_yticks(range(len(parts) + 1), [*(part.phase for part in parts), "round"])
    axes.set_ylim(len(parts) + 0.5, -0.5)
    axes.set_xlim(0, (max(ends) or 1) * 1.15)
    axes.set(title="What a round is made of, mean over rounds and ranks", xlabel=f"time ({unit})")
    axes.grid(axis="x")
    if told:
        axes.legend(handles=_keys(), loc="upper right")
    return figure


def _unit(most: float) -> tuple[str, float]:
    """In what so many seconds are told."""
    return ("µs", 1e-6) if most < 1e-3 else ("ms", 1e-3) if most < 1 else ("s", 1.0)


def _fall(
    axes: "Axes", parts: Sequence[Beside], length: float, height: float, told: bool, predicted: bool
) -> float:
    """The bars of what was measured, or of what was predicted; returns where they end."""
    shift = (0.2 if predicted else -0.2) if told else 0.0
    left = 0.0
    for row, part in enumerate(parts):
        width = ((part.predicted or 0.0) if predicted else part.measured) / length
        right = left + width
        if predicted and part.interval:
            ends = [left + end / length for end in part.interval]
            axes.plot(ends, [row + shift] * 2, "-|", color="#222222", linewidth=1, markersize=6, zorder=3)
            right = max(right, ends[1])
        _bar(axes, row + shift, left, width, height, PHASE_COLOURS[part.phase], predicted)
        _amount(axes, row + shift, right, width)
        left += width
    _bar(axes, len(parts) + shift, 0.0, left, height, "#444444", predicted)
    _amount(axes, len(parts) + shift, left, left)
    return left


def _bar(
    axes: "Axes", row: float, left: float, width: float, height: float, colour: str, predicted: bool
) -> None:
    edge: dict[str, Any] = (
        {"edgecolor": colour, "facecolor": "white", "hatch": "////"} if predicted else {"color": colour}
    )
    axes.barh(row, width, height, left, **edge)


def _amount(axes: "Axes", row: float, right: float, amount: float) -> None:
    axes.text(right, row, f" {amount:.3g}", va="center", fontsize=8, color="#444444")


def _keys() -> "list[Patch]":
    from matplotlib.patches import Patch

    told = "predicted, with its 90 % interval"
    hatched = Patch(edgecolor="#444444", facecolor="white", hatch="////", label=told)
    return [Patch(color="#444444", label="measured"), hatched]


def timeline(summary: Summary) -> "Figure":
    """Some of the first rounds, a row a rank: computing, waiting for the last rank, and what averaging itself takes."""
    found = summary.first_rounds
    rounds = min(len(rank) for rank in found.seconds_by_rank)
    first = FIRST_SHOWN if rounds > FIRST_SHOWN else 0
    table = np.array([rank[first : min(rounds, first + MOST_SHOWN)] for rank in found.seconds_by_rank])
    unit, length = _unit(float(table.sum((1, 2)).max()))
    ranks = _chosen(len(table), [slow.rank for slow in summary.slow_ranks])
    figure = new_figure(9, min(1.7 + 0.32 * len(ranks), 9))
    axes = figure.subplots()
    _segments(axes, table[ranks] / length, found.phases)
    last = first + table.shape[1]
    axes.set(title=f"Rounds {first + 1} to {last}, rank by rank", xlabel=f"time ({unit})", ylabel="rank")
    axes.set_ylim(len(ranks) - 0.5, -0.5)
    _name_ranks(axes, ranks, [slow.rank for slow in summary.slow_ranks])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35 if len(ranks) < 6 else -0.12), ncols=4)
    return figure


def _chosen(size: int, slow: Sequence[int]) -> list[int]:
    every = range(0, size, -(-size // MOST_RANKS))
    return sorted({*every, *(rank for rank in slow[:MOST_RANKS] if rank < size)})


def _segments(axes: "Axes", table: np.ndarray, phases: Sequence[str]) -> None:
    """`table` (ranks, rounds, phases): all ranks end waiting for the last one at the same moment; before it what they had done."""
    left = _places(table, phases.index("wait") + 1)
    for number, phase in enumerate(phases):
        for row in range(len(table)):
            spans = np.stack([left[row, :, number], table[row, :, number]], 1)
            label = phase if row == 0 else None
            axes.broken_barh(
                spans.tolist(), (row - 0.4, 0.8), color=PHASE_COLOURS.get(phase), linewidth=0, label=label
            )
    axes.set_xlim(0, max(float((left + table).max()), 1e-12))


def _places(table: np.ndarray, before: int) -> np.ndarray:
    """Where each piece begins; the first `before` phases of a round come before all ranks have met, the others after."""
    own, rest = table[:, :, :before].sum(2), table[:, :, before:].sum(2)
    apart = own.copy()
    apart[:, 1:] += rest[:, :-1]
    met = np.cumsum(apart.max(0))
    begins = np.stack([met - own, np.broadcast_to(met, own.shape)], 2)
    inside = np.concatenate([np.cumsum(part, 2) - part for part in np.split(table, [before], 2)], 2)
    places: np.ndarray = inside + np.repeat(begins, [before, table.shape[2] - before], 2)
    return places


def _name_ranks(axes: "Axes", ranks: Sequence[int], slow: Sequence[int]) -> None:
    names = [f"{rank} slow" if rank in slow else str(rank) for rank in ranks]
    axes.set_yticks(range(len(ranks)), names)
    for label, rank in zip(axes.get_yticklabels(), ranks, strict=True):
        if rank in slow:
            label.set(color="#b00020", fontweight="bold")
