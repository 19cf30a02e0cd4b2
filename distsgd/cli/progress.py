"""What rank 0 shows while a run goes on: a bar where people look at a terminal, plain lines where a file or a pipe listens."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from distsgd import report
from distsgd.cli import terminal
from distsgd.clock import Clock
from distsgd.training import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

QUIET_SECONDS = 2.0
"""In a file a line a round is read by people: at most one in so many seconds, however short rounds are."""
DRAW_SECONDS, MOST_SHARE = 0.125, 0.008
"""A bar is drawn at most so often, and as seldom as it takes to cost no larger share of a run."""


class Lines:
    """A line a round (`always`: of each), for files, pipes and terminals that can not draw."""

    def __init__(self, say: Callable[[str], None], always: bool) -> None:
        self.say, self._always, self._spoke = say, always, float("-inf")

    def after_round(self, progress: Progress) -> None:
        """Say how far the run is."""
        now = time.monotonic()
        if self._always or now - self._spoke >= QUIET_SECONDS:
            self._spoke = now
            self.say(report.round_line(progress))


class Bar:
    """Two lines that stay at the bottom of a terminal: the bar, and what the run does."""

    def __init__(self, live: "Live", epochs: int, clock: Clock) -> None:
        self._live, self._epochs, self._clock, self._start = live, epochs, clock, clock.seconds()
        self._lines: list[str] = []
        self._began, self._due = time.monotonic(), float("-inf")

    def say(self, line: str) -> None:
        """Print a line above the bar, when that is drawn next or closed."""
        self._lines.append(line)

    def after_round(self, progress: Progress) -> None:
        """Show how far the run is, if it is time to."""
        began = time.monotonic()
        if began < self._due:
            return
        self._live.update(self._drawing(progress, began - self._began))
        self._live.refresh()
        self.close()
        done = time.monotonic()
        self._due = done + max(DRAW_SECONDS, (done - began) / MOST_SHARE)

    def close(self) -> None:
        """Print what was said since the last drawing."""
        if self._lines:
            lines, self._lines = "\n".join(self._lines), []
            self._live.console.print(lines, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _drawing(self, progress: Progress, seconds: float) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done = (progress.epoch - 1 + progress.steps_done / progress.steps) / self._epochs
        left = duration(seconds * (1 - done) / done)
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        grid.add_row(
            f"epoch {progress.epoch}/{self._epochs}", ProgressBar(1.0, done), f"{done:4.0%} {left} left"
        )
        return Group(grid, Text(fitting(self._facts(progress), self._live.console.width)))

    def _facts(self, progress: Progress) -> list[str]:
        spent = {phase: now - self._start[phase] for phase, now in self._clock.seconds().items()}
        whole = spent["total"] or 1.0
        return [
            f"round {progress.round:,}",
            f"loss {report.number(progress.loss)}",
            f"{progress.images_per_second:,.0f} images/s",
            f"averaging {spent['average'] / whole:.1%}",
            f"waiting {spent['wait'] / whole:.1%}",
        ]


def fitting(facts: list[str], width: int) -> str:
    """As many facts as a line of that width has room for, the first ones before the others."""
    line = facts[0]
    for fact in facts[1:]:
        if len(line) + 2 + len(fact) < width:
            line += f"  {fact}"
    return line[: width - 1]


def duration(seconds: float) -> str:
    """So many seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def shown(say: Callable[[str], None], rank: int, epochs: int, clock: Clock) -> Iterator[Lines | Bar]:
    """What shows a run's progress; on a way out by an exception, too, the terminal is left as it was."""
    if rank > 0 or not terminal.draws(sys.stdout, os.environ):
        yield Lines(say, always=rank > 0)
        return
    import rich.progress_bar  # noqa: F401  so that the first drawing costs what the others do
    from rich.console import Console
    from rich.live import Live

    console = Console(
        file=sys.stdout, highlight=False, force_terminal=True, width=terminal.columns(os.environ)
    )
    with Live(console=console, auto_refresh=False, transient=True) as live:
        bar = Bar(live, epochs, clock)
        try:
            yield bar
        finally:
            bar.close()
