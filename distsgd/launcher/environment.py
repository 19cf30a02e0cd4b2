"""What an environment says of its ranks: how many a launcher started, which speaks, their threads."""

from collections.abc import Mapping

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
TERMINAL = "DISTSGD_TERMINAL"
"""The columns of the terminal that what ranks print ends up on; not there where it ends up elsewhere."""
STARTED = {
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
    "JSM_NAMESPACE_SIZE": "JSM_NAMESPACE_RANK",
}
"""Number and rank of processes as set by Open MPI's mpirun; by MPICH, Intel MPI and `srun --mpi=pmi2`; by MVAPICH; by jsrun.

They go before Slurm's own: mpirun inside a Slurm job starts its daemons by srun, and the ranks inherit the daemons' variables.
"""


def launched(environ: Mapping[str, str]) -> int | None:
    """Say how many processes an MPI launcher started this one among, or None where none did.

    Against the size of MPI's world this shows ranks that do not find each other (each of them alone).
    """
    for size in STARTED:
        if environ.get(size, "").isdecimal():
            return int(environ[size])
    return _srun_tasks(environ)


def is_first(environ: Mapping[str, str]) -> bool:
    """Whether this process speaks for all that were started together, known before MPI is."""
    for size, rank in STARTED.items():
        if environ.get(size, "").isdecimal():
            return environ.get(rank, "0") == "0"
    return _srun_tasks(environ) is None or environ["SLURM_PROCID"] == "0"


def _srun_tasks(environ: Mapping[str, str]) -> int | None:
    # SLURM_NTASKS and SLURM_PROCID are also there in a batch script, which nobody started as a rank; only
    # srun sets SLURM_STEP_NUM_TASKS. A step of one task is a shell (`srun --pty`, or salloc's) as often as a
    # rank, and as a rank it is alone anyway: either way there are no others to miss.
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "")
    if "SLURM_PROCID" in environ and tasks.isdecimal() and int(tasks) > 1:
        return int(tasks)
    return None


def single_thread(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the thread counts to set before numpy is imported: one each, where the user set none."""
    return {name: "1" for name in THREADS if name not in environ}
