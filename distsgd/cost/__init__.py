"""What things cost, as pure arithmetic: sizes, ranks and a machine's constants in, seconds and bytes out. Nothing is run here."""

from distsgd.cost.estimate import Estimate

__all__ = ["Estimate"]
