"""Starting ranks: what an environment says of them, the MPI launcher and its command line, texts for batch systems."""

from distsgd.launcher.command import CARRIED, ROOT, Cores, command, cores, physical, processors
from distsgd.launcher.environment import STARTED, THREADS, is_first, launched, single_thread
from distsgd.launcher.find import Kind, Launcher, find, identified, kind

__all__ = [
    "CARRIED",
    "ROOT",
    "STARTED",
    "THREADS",
    "Cores",
    "Kind",
    "Launcher",
    "command",
    "cores",
    "find",
    "identified",
    "is_first",
    "kind",
    "launched",
    "physical",
    "processors",
    "single_thread",
]
