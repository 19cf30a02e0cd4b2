"""Starting ranks: what an environment says of them, the MPI launcher and its command line, texts for batch systems."""

from distsgd.launcher.batch import SUBMIT, render
from distsgd.launcher.command import CARRIED, ROOT, Cores, command, cores, physical, processors
from distsgd.launcher.environment import STARTED, TERMINAL, THREADS, is_first, launched, single_thread
from distsgd.launcher.find import Kind, Launcher, find, identified, kind
from distsgd.launcher.hostfile import first
from distsgd.launcher.job import Job, seconds

__all__ = [
    "CARRIED",
    "ROOT",
    "STARTED",
    "SUBMIT",
    "TERMINAL",
    "THREADS",
    "Cores",
    "Job",
    "Kind",
    "Launcher",
    "command",
    "cores",
    "find",
    "first",
    "identified",
    "is_first",
    "kind",
    "launched",
    "physical",
    "processors",
    "render",
    "seconds",
    "single_thread",
]
