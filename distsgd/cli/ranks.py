"""A command on the ranks there are, or on ranks that it starts itself."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from distsgd import launcher
from distsgd.clock import Clock
from distsgd.config import InputError

if TYPE_CHECKING:
    from distsgd.comm import Ranks

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def complain(message: str) -> int:
    """Print what is wrong with the input as one message; returns the exit code."""
    lines = message.splitlines()
    several = [f"{len(lines)} things are wrong:", *(f"  {line}" for line in lines)]
    print(f"distsgd: {message if len(lines) == 1 else chr(10).join(several)}", file=sys.stderr, flush=True)
    return BAD_INPUT


def run(ranks: int | None, arguments: list[str], clock: Clock, command: "Callable[[Ranks], int]") -> int:
    """Call `command` on every rank. Without an MPI launcher, start `ranks` ranks of `distsgd ARGUMENTS`, or be the only one."""
    started = launcher.launched(os.environ)
    if ranks and started and ranks != started:
        raise InputError(f"--ranks {ranks}, but an MPI launcher has started {started}: leave --ranks out")
    if (ranks or 1) > 1 and not started:
        _become_launcher(ranks or 1, arguments)
    with clock.phase("compile"):
        import distsgd.kernels  # noqa: F401  compiled by one rank of a node, loaded from its cache by the others
    from distsgd import comm

    world = comm.world(os.environ)
    try:
        return command(world)
    except Exception as error:
        if world.size == 1:
            raise
        world.abort(complain(str(error)) if isinstance(error, InputError) else _show_traceback())
        raise  # not reached: abort ends all ranks, which would wait for this one for ever


def _show_traceback() -> int:
    traceback.print_exc()
    return FAILED


def _become_launcher(ranks: int, arguments: list[str]) -> None:
    found = launcher.find(os.environ)
    line, added = launcher.command(found, ranks, arguments, launcher.cores(), os.environ, os.geteuid())
    sys.stdout.flush()
    os.execvpe(line[0], line, {**os.environ, **added})
