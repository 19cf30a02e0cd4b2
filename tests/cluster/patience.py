"""Ranks that wait without using a core, so that more hosts than cores can be emulated, each with a core of its own so to speak.

An MPI library waits by looking again and again; told to yield, it calls sched_yield. Here that sleeps for 20 microseconds, and who
wakes up goes before what else the machine does. Without it ranks take turns of milliseconds, and so do their messages.
"""

import shutil
import subprocess
from pathlib import Path

YIELD = """
#include <time.h>
int sched_yield(void) { struct timespec moment = {0, 20000}; nanosleep(&moment, 0); return 0; }
"""
FIRST = """
import os, sys
os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Starts Python anew with its other arguments, before all processes that are not as urgent."""


def build(folder: Path) -> Path | None:
    """A library to be loaded before others, in this folder; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "yield.c", folder / "yield.so"
    source.write_text(YIELD)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return library
