#!/usr/bin/env bash
#SBATCH --job-name=garg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=3
#SBATCH --threads-per-core=1
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# 8 ranks of 3 threads, a core for each thread. Submit with: sbatch THIS-FILE
# (--before puts lines here, such as: module load openmpi)
set -u
run="runs/garg-$SLURM_JOB_ID"
if [ -d "$run" ]; then
    start=(train --resume "$run")
else
    start=(train 'configs/a b'"'"'s.toml' --out "$run")
fi
export OMP_NUM_THREADS=1
# Kernels are compiled once a node. Where the site gives a job a folder on the node, there; else in a folder of yours in /tmp.
if [ -n "${SLURM_TMPDIR:-}" ]; then
    export DISTSGD_CACHE="$SLURM_TMPDIR/distsgd"
fi

# Slurm sends USR1 to this script 120 s before the time is up, and before preemption where the site lets it. The ranks get
# TERM (scancel signals the steps, not this script; srun itself would kill them), save a checkpoint and end.
stopped=
trap 'stopped=1
    echo "$SLURM_JOB_NAME: time is nearly up: saving a checkpoint"
    scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# --wait: how many seconds ranks outlive the first that ends. `srun --mpi=list` shows what --mpi may be here.
srun --mpi=pmix --ntasks=8 --cpus-per-task=3 --cpu-bind=cores --wait=120 \
    /opt/env/bin/python -m distsgd "${start[@]}" &
step=$!
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do # a signal ends `wait`, not the step
    wait "$step"
    status=$?
done

# Only what has a checkpoint to go on from, and has not finished, goes back into the queue.
if [ -n "$stopped" ] && [ -d "$run/checkpoints" ] && [ ! -e "$run/run.json" ]; then
    echo "$SLURM_JOB_NAME: back into the queue, to go on from $run"
    trap - EXIT # it has not ended
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
