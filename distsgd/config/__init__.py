"""The one model of a run's settings: the same for a TOML file, for `--set section.key=value` and for Python."""

from distsgd.config.network import ListedLayer, Network
from distsgd.config.optimizer import Adam, Optimizer, Sgd
from distsgd.config.reading import read, read_table
from distsgd.config.section import InputError
from distsgd.config.settings import Config, Data
from distsgd.config.writing import differences, to_toml

__all__ = [
    "Adam",
    "Config",
    "Data",
    "InputError",
    "ListedLayer",
    "Network",
    "Optimizer",
    "Sgd",
    "differences",
    "read",
    "read_table",
    "to_toml",
]
