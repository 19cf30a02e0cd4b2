"""What a person reads and looks at: lines while a run goes on, tables at its end, pictures of it."""

from distsgd.report.evaluation import evaluation
from distsgd.report.lines import epoch_line, number, opening, round_line, slow_line, stop_line, table

__all__ = ["epoch_line", "evaluation", "number", "opening", "round_line", "slow_line", "stop_line", "table"]
