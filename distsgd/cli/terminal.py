"""The terminal that a person looks at: this process's own, or that of the process that started its ranks."""

import os
import shutil
import sys
from collections.abc import Mapping
from typing import TextIO

from distsgd.launcher import TERMINAL, launched

SHOW_CURSOR = "\x1b[?25h"


def draws(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a bar can be drawn there.

    Among ranks only if who started them says so: Open MPI gives them a terminal of its own making, whatever it writes to itself.
    """
    if launched(environ):
        return environ.get(TERMINAL, "").isdecimal()
    return stream.isatty() and environ.get("TERM", "dumb") not in ("dumb", "unknown")


def columns(environ: Mapping[str, str]) -> int | None:
    """How wide it is, as it was when ranks were started; None where this process sees for itself."""
    return int(environ[TERMINAL]) if launched(environ) else None


def described(environ: Mapping[str, str]) -> dict[str, str]:
    """What ranks to be started are told of the terminal, if there is one."""
    return {TERMINAL: str(shutil.get_terminal_size().columns)} if draws(sys.stdout, environ) else {}


def restore() -> None:
    """Show the cursor again after a bar that was ended before it could."""
    if draws(sys.stdout, os.environ) and not launched(os.environ):
        print(SHOW_CURSOR, end="", flush=True)
