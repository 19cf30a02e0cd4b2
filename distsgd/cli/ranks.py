"""A command on the ranks there are, or on ranks that it starts itself."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd import launcher
from distsgd.cli import terminal
from distsgd.clock import Clock
from distsgd.config import InputError

if TYPE_CHECKING:
    from distsgd.comm import Ranks

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
EXIT_CODE = "DISTSGD_EXIT_CODE"
"""The file that tells the exit code to who started the ranks with `--ranks`."""
PATIENCE_SECONDS = 1.0
"""How long a silent rank waits before it fails: a launcher ends all ranks with the first, and one has a message to get out."""


def complain(message: str) -> int:
    """Print what is wrong with the input as one message; returns the exit code."""
    lines = message.splitlines()
    several = [f"{len(lines)} things are wrong:", *(f"  {line}" for line in lines)]
    print(f"distsgd: {message if len(lines) == 1 else chr(10).join(several)}", file=sys.stderr, flush=True)
    return BAD_INPUT


def run(
    ranks: int | None,
    arguments: list[str],
    clock: Clock,
    command: "Callable[[Ranks], int]",
    hosts: Path | None = None,
    threads: int = 1,
) -> int:
    """Call `command` on every rank. Without an MPI launcher, start `ranks` ranks of `distsgd ARGUMENTS`, or be the only one.

    threads: how many a rank will have.
    """
    started = launcher.launched(os.environ)
    if hosts and (started or not ranks):
        raise InputError(
            f"--hostfile {hosts}: is for the launcher that --ranks N starts; "
            + ("an MPI launcher has started this already" if started else "give both")
        )
    if ranks and started and ranks != started:
        raise InputError(f"--ranks {ranks}, but an MPI launcher has started {started}: leave --ranks out")
    if ((ranks or 1) > 1 or hosts) and not started:
        return _launch(ranks or 1, arguments, hosts, threads)
    if started:
        signal.signal(signal.SIGUSR1, signal.default_int_handler)  # what `_launch` passes Ctrl-C on as
    world = _world(clock)
    if world is None:
        return BAD_INPUT
    try:
        return _handed_over(command(world), world.rank)
    except Exception as error:
        if world.size == 1:
            raise
        world.abort(complain(str(error)) if isinstance(error, InputError) else _show_traceback())
        raise  # not reached: abort ends all ranks, which would wait for this one for ever
    except KeyboardInterrupt:
        if world.size > 1:
            world.abort(INTERRUPTED)
        raise


def voice(world: "Ranks") -> Callable[[str], None]:
    """What prints a line at once, on rank 0 for all."""

    def say(line: str) -> None:
        if world.rank == 0:
            print(line, flush=True)

    return say


def _handed_over(code: int, rank: int) -> int:
    """0 where who started the ranks reads the code from a file: of any other Open MPI's launcher says a lot that misleads."""
    told = os.environ.get(EXIT_CODE)
    if not code or not told:
        return code
    if rank == 0:
        try:
            Path(told).write_text(str(code))
        except OSError:
            return code
    return 0


def _world(clock: Clock) -> "Ranks | None":
    """The kernels, then the ranks; None, after a message, where there is no joining them."""
    try:
        with clock.phase("compile"):
            import distsgd.kernels  # noqa: F401  compiled by one rank of a node, loaded from its cache by the others
        from distsgd import comm

        return comm.world(os.environ)
    except OSError as error:
        message = (
            f"no place for compiled kernels ({error}): set DISTSGD_CACHE to a folder that you can write to"
        )
    except InputError as error:
        message = str(error)
    if not launcher.is_first(os.environ):
        time.sleep(
            PATIENCE_SECONDS
        )  # if the first rank has the same to say, its launcher ends this one meanwhile
    complain(message)
    return None


def _show_traceback() -> int:
    traceback.print_exc()
    return FAILED


def _launch(ranks: int, arguments: list[str], hosts: Path | None, threads: int) -> int:
    """Run the launcher; returns its exit code, or that of the signal which was passed on to it."""
    found = launcher.identified(launcher.find(os.environ))
    environ = {**os.environ, **terminal.described(os.environ)}
    where = launcher.cores(), environ, os.geteuid(), hosts
    line, added = launcher.command(found, ranks, arguments, *where, threads)
    sys.stdout.flush()
    # In a group of its own: of a Ctrl-C that it gets itself, Open MPI's launcher leaves its ranks a quarter of a second.
    with tempfile.TemporaryDirectory(prefix="distsgd-ranks-") as folder:
        told = Path(folder, "exit-code")
        surroundings = {**environ, **added, EXIT_CODE: str(told)}
        job = subprocess.Popen(
            line, env=surroundings, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=following_parent()
        )
        passed = _pass_signals_on(job)
        code = job.wait() or (int(told.read_text()) if told.exists() else 0)
        if (
            passed and code and not told.exists()
        ):  # what launchers say of it is long, and none of it says this
            print(f"distsgd: stopped by {signal.Signals(passed[0]).name}", file=sys.stderr, flush=True)
    if code:
        terminal.restore()
    return 128 + passed[0] if code and passed else code % 256


PR_SET_PDEATHSIG = 1


def following_parent() -> Callable[[], None] | None:
    """For a new process to call: when this one ends, in whatever way, it is told to save and end. None elsewhere than on Linux."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        return None
    parent = os.getpid()

    def follow() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
        if os.getppid() != parent:  # it has ended already
            os._exit(FAILED)

    return follow


def _pass_signals_on(job: "subprocess.Popen[bytes]") -> list[int]:
    """The signals that this process gets from now on, each passed on in a firmer way: the ranks may save, end, are killed."""
    passed: list[int] = []
    ways = [signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL]

    def pass_on(number: int, frame: object) -> None:
        job.send_signal(ways[min(len(passed), 2)])
        passed.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    return passed
