"""The one model of a run's settings: the same for a TOML file, for `--set section.key=value` and for Python."""

from distsgd.config.network import CHAVAN, ZOO, ListedLayer, Network, check_name
from distsgd.config.optimizer import Adam, Optimizer, Sgd
from distsgd.config.reading import read, read_table
from distsgd.config.section import InputError
from distsgd.config.settings import Config, Data
from distsgd.config.writing import differences, to_toml

__all__ = [
    "CHAVAN",
    "ZOO",
    "Adam",
    "Config",
    "Data",
    "InputError",
    "ListedLayer",
    "Network",
    "Optimizer",
    "Sgd",
    "check_name",
    "differences",
    "read",
    "read_table",
    "to_toml",
]
