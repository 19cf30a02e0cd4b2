"""The ranks of a run, and the average of a state over all workers: the only home of mpi4py."""

from distsgd.comm.alone import Alone
from distsgd.comm.average import MOST_WIDENINGS, Allreduce, Average, Exact, Fast, Master, Single
from distsgd.comm.fixed import Topology, Verdict
from distsgd.comm.links import OF_ALL, OF_MASTER
from distsgd.comm.ranks import Ranks, World, hosts, world, wrap

__all__ = [
    "MOST_WIDENINGS",
    "OF_ALL",
    "OF_MASTER",
    "Allreduce",
    "Alone",
    "Average",
    "Exact",
    "Fast",
    "Master",
    "Ranks",
    "Single",
    "Topology",
    "Verdict",
    "World",
    "hosts",
    "world",
    "wrap",
]
