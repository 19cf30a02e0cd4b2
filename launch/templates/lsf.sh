#!/usr/bin/env bash
#BSUB -J @{name}
#BSUB -o @{name}-%J.out
#BSUB -r
@{directives}# @{what}. Submit with: bsub < THIS-FILE
@{before}
set -u
run=@{run}
@{start}
export OMP_NUM_THREADS=1
# Kernels are compiled once a node, in a folder of yours in the node's /tmp; DISTSGD_CACHE names another.

# The batch system's signals are for the ranks, which save a checkpoint and end; this script ends after them, with their status.
trap : HUP INT TERM USR1 USR2
@{launcher} \
    @{python} -m distsgd "${start[@@]}"
