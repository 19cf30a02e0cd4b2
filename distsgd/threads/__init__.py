"""Threads inside a rank: they share out every kernel of a step, or take pieces of it whole. One thread runs lists of kernels too.

The bits do not depend on how many there are.
"""

from distsgd.threads.team import Team, whole

__all__ = ["Team", "whole"]
