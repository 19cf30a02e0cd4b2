#!/usr/bin/env bash
#PBS -N garg
#PBS -l select=2:ncpus=4:mpiprocs=4
#PBS -l place=scatter
#PBS -j oe
#PBS -r y
# One rank of one thread on each of 8 cores, for PBS Pro and OpenPBS. Submit with: qsub THIS-FILE
cd "$PBS_O_WORKDIR" || exit
# (--before puts lines here, such as: module load openmpi)
set -u
run="runs/garg-$PBS_JOBID"
if [ -d "$run" ]; then
    start=(train --resume "$run")
else
    start=(train 'configs/a b'"'"'s.toml' --out "$run")
fi
export OMP_NUM_THREADS=1
# Kernels are compiled once a node, in a folder of yours in the node's /tmp; DISTSGD_CACHE names another.

# The batch system's signals are for the ranks, which save a checkpoint and end; this script ends after them, with their status.
trap : HUP INT TERM USR1 USR2
mpiexec -n 8 -ppn 4 -f "$PBS_NODEFILE" -bind-to core \
    /opt/env/bin/python -m distsgd "${start[@]}"
