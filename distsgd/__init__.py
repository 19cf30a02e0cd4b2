"""Data-parallel SGD for convolutional networks over MPI: the same weights on any number of ranks.

`distsgd.train({"train": {"epochs": 3}})` trains, `distsgd.resume(RUN)` goes on, `distsgd.load(RUN).predict(images)` classifies.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distsgd.api import Config, Diverged, Evaluation, InputError, Model, Run, load, resume, train

__version__ = "0.1.0"
__all__ = ["Config", "Diverged", "Evaluation", "InputError", "Model", "Run", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    """What is behind the names comes in when it is first asked for: the command line sets thread counts before."""
    if name in __all__:
        from distsgd import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
