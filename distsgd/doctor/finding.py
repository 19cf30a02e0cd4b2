"""What a check comes to, and how it is shown."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH = 110
Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. problem: prevents a run. note: a run goes on, with less than it could have. cure: a command to type."""

    name: str
    level: Level
    seen: str
    cure: str = ""


Check = Callable[[], Finding]


def look(checks: dict[str, Check]) -> list[Finding]:
    """Make every check; one that fails itself says why, and ends none of the others."""
    return [_look(name, check) for name, check in checks.items()]


def _look(name: str, check: Check) -> Finding:
    try:
        return check()
    except Exception as error:  # whatever it is: a machine that is odd is what this command is for
        return Finding(
            name, "note", f"could not look: {type(error).__name__}: {' '.join(str(error).split())}"
        )


def lines(findings: Sequence[Finding]) -> list[str]:
    """A line or more for each finding, and one that sums up."""
    shown = [line for finding in findings for line in _lines(finding)]
    return [*shown, "", summary(findings)]


def _lines(finding: Finding) -> list[str]:
    head = f"  {finding.level:<8}{finding.name:<18}"
    seen = textwrap.wrap(finding.seen, WIDTH - len(head), break_long_words=False, break_on_hyphens=False)
    cure = [f"cure: {finding.cure}"] if finding.cure else []  # whole: it is copied
    return [
        (head if row == 0 else " " * len(head)) + text for row, text in enumerate([*(seen or [""]), *cure])
    ]


def summary(findings: Sequence[Finding]) -> str:
    """How many of which level, in one line."""
    problems, notes = (sum(finding.level == level for finding in findings) for level in ("problem", "note"))
    counted = f"{notes} note{'s' * (notes != 1)}"
    if problems:
        return f"{problems} problem{'s' * (problems > 1)}, {counted}: what prevents a run is marked problem"
    return f"nothing prevents a run; {counted}"
