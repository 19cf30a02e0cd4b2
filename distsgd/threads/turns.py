"""Programs none of which needs what another makes: one after another in one thread, side by side in several."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def in_turn(pieces: Sequence[Sequence[tuple[Callable[..., object], Any]]], own: Sequence[np.ndarray]) -> None:
    """Run all. own: the memory that they work in, in place of which every thread has its own."""
    for piece in pieces:
        for kernel, arguments in piece:
            kernel(*arguments)
