#!/usr/bin/env bash
#BSUB -J garg
#BSUB -o garg-%J.out
#BSUB -r
#BSUB -n 8
#BSUB -R "span[ptile=4]"
#BSUB -W 04:01
#BSUB -P p1
#BSUB -q long
# One rank of one thread on each of 8 cores. Submit with: bsub < THIS-FILE
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
/opt/mpi/bin/mpirun -n 8 --hostfile "$LSB_DJOB_HOSTFILE" --map-by ppr:4:node --bind-to core -x PATH ${LD_LIBRARY_PATH:+-x LD_LIBRARY_PATH} \
    /opt/env/bin/python -m distsgd "${start[@]}"
