#!/usr/bin/env bash
#PBS -N garg
#PBS -l select=2:ncpus=4:mpiprocs=4
#PBS -l place=scatter
#PBS -j oe
#PBS -r y
#PBS -l walltime=04:00:30
#PBS -A p1
#PBS -q long
# One rank of one thread on each of 8 cores, for PBS Pro and OpenPBS. Submit with: qsub THIS-FILE
cd "$PBS_O_WORKDIR" || exit
module load openmpi/5.0
export NAME="a b"
set -u
run='runs/it'"'"'s mine'
if [ -d "$run" ]; then
    start=(train --resume "$run")
else
    start=(train 'configs/a b'"'"'s.toml' --set train.seed=3 --set 'data.path=$HOME/my images.h5' --out "$run")
fi
export OMP_NUM_THREADS=1
# Kernels are compiled once a node, in a folder of yours in the node's /tmp; DISTSGD_CACHE names another.

# The batch system's signals are for the ranks, which save a checkpoint and end; this script ends after them, with their status.
trap : HUP INT TERM USR1 USR2
/opt/mpi/bin/mpirun -n 8 --hostfile "$PBS_NODEFILE" --map-by ppr:4:node --bind-to core -x PATH ${LD_LIBRARY_PATH:+-x LD_LIBRARY_PATH} \
    /opt/env/bin/python -m distsgd "${start[@]}"
