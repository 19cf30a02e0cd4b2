#!/usr/bin/env bash
#PBS -N @{name}
#PBS -l select=@{nodes}:ncpus=@{cores_per_node}:mpiprocs=@{ranks_per_node}
#PBS -l place=scatter
#PBS -j oe
#PBS -r y
@{directives}# @{what}, for PBS Pro and OpenPBS. Submit with: qsub THIS-FILE
cd "$PBS_O_WORKDIR" || exit
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
