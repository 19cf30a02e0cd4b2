"""Texts for batch systems, from the templates in launch/templates: pure text, nothing is run."""

import json
import re
import shlex
import string
import textwrap
from pathlib import Path

from distsgd.config import InputError
from distsgd.launcher.job import Job, Scheduler, check

TEMPLATES: dict[Scheduler, str] = {
    "slurm": "slurm.sh",
    "pbs": "pbs.sh",
    "lsf": "lsf.sh",
    "kubernetes": "kubernetes.yaml",
}
SUBMIT: dict[Scheduler, list[str]] = {
    "slurm": ["sbatch"],
    "pbs": ["qsub"],
    "lsf": ["bsub"],
    "kubernetes": ["kubectl", "apply", "-f", "-"],
}
"""What takes each text from its standard input."""
NOTICE_SECONDS = 120
"""How long before its end a job on Slurm is told: a checkpoint takes 10 s, and Slurm may be a minute late."""
_JOB_NUMBERS = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "lsf": "LSB_JOBID"}
_HOST_FILES = {"pbs": '"$PBS_NODEFILE"', "lsf": '"$LSB_DJOB_HOSTFILE"', "kubernetes": "/etc/mpi/hostfile"}
_SRUN = {"openmpi": "--mpi=pmix ", "mpich": "--mpi=pmi2 ", "cray": "--mpi=cray_shasta "}


class _Template(string.Template):
    """A shell is full of $."""

    delimiter = "@"


def render(job: Job) -> str:
    """The text of a job. Raises InputError with all that is wrong with it."""
    check(job)
    words = {
        "name": job.name,
        "nodes": job.nodes,
        "ranks_per_node": job.ranks_per_node,
        "ranks": job.ranks,
        "threads": job.threads,
        "cores_per_node": job.cores_per_node,
        "what": _what(job),
        "notice": NOTICE_SECONDS,
        "run": _run(job),
        "start": _start(job),
        "python": shlex.quote(job.python),
        "before": "\n".join(job.before) or "# (--before puts lines here, such as: module load openmpi)",
        "directives": "".join(f"{line}\n" for line in _directives(job)),
        "mpi": _SRUN[job.mpi],
        "launcher": _launcher(job),
        "implementation": "OpenMPI" if job.mpi == "openmpi" else "MPICH",
        "image": json.dumps(job.image),
        "claim": job.claim,
        "script": textwrap.indent(_script(job), " " * 18),
    }
    return _Template(_template(TEMPLATES[job.scheduler])).substitute(words)


def _what(job: Job) -> str:
    if job.threads == 1:
        return f"One rank of one thread on each of {job.ranks} cores"
    return f"{job.ranks} ranks of {job.threads} threads, a core for each thread"


def _template(name: str) -> str:
    """From the installed package, or from beside it where that is a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "templates", package.parent / "launch" / "templates"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise InputError(
        f"the template {name} is missing from this installation; wanted: launch/templates/{name}"
    )


def _run(job: Job) -> str:
    """The folder of the run as a shell reads it: the same when a job starts again, another for another job."""
    if job.run:
        return shlex.quote(job.run)
    number = f"-${_JOB_NUMBERS[job.scheduler]}" if job.scheduler in _JOB_NUMBERS else ""
    return f'"runs/{job.name}{number}"'


def _start(job: Job) -> str:
    """A run that is there goes on; the folder of a run holds its settings."""
    changes = [part for change in job.changes for part in ("--set", change)]
    return (
        'if [ -d "$run" ]; then\n'
        '    start=(train --resume "$run")\n'
        "else\n"
        f'    start=(train {shlex.join([job.config, *changes])} --out "$run")\n'
        "fi"
    )


def _directives(job: Job) -> list[str]:
    """Lines that are there only where something was asked for."""
    return {"slurm": _slurm, "pbs": _pbs, "lsf": _lsf, "kubernetes": _kubernetes}[job.scheduler](job)


def _slurm(job: Job) -> list[str]:
    lines = [f"#SBATCH --time={_clock(job.seconds)}"] if job.seconds else []
    lines += [f"#SBATCH --account={job.account}"] if job.account else []
    return lines + ([f"#SBATCH --partition={job.queue}"] if job.queue else [])


def _pbs(job: Job) -> list[str]:
    lines = [f"#PBS -l walltime={_clock(job.seconds)}"] if job.seconds else []
    lines += [f"#PBS -A {job.account}"] if job.account else []
    return lines + ([f"#PBS -q {job.queue}"] if job.queue else [])


def _lsf(job: Job) -> list[str]:
    # A slot is a core, at any site; affinity[core(N)] would want one that schedules by it.
    lines = [f"#BSUB -n {job.nodes * job.cores_per_node}", f'#BSUB -R "span[ptile={job.cores_per_node}]"']
    if job.jsrun:
        lines = [f"#BSUB -nnodes {job.nodes}"]
    lines += [f"#BSUB -W {_clock(job.seconds + 59)[:-3]}"] if job.seconds else []  # whole minutes
    lines += [f"#BSUB -P {job.account}"] if job.account else []
    return lines + ([f"#BSUB -q {job.queue}"] if job.queue else [])


def _kubernetes(job: Job) -> list[str]:
    return [f"    activeDeadlineSeconds: {job.seconds}"] if job.seconds else []


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _launcher(job: Job) -> str:
    """The launcher's words, for a shell. Slurm has srun."""
    if job.scheduler == "slurm":
        return ""
    if job.jsrun:
        return f"jsrun -n {job.ranks} -r {job.ranks_per_node} -a 1 -c {job.threads} -b packed:{job.threads}"
    program, hosts, count = shlex.quote(job.launcher), _HOST_FILES[job.scheduler], job.ranks_per_node
    if job.mpi == "cray":
        bind = "--cpu-bind core" if job.threads == 1 else f"--depth {job.threads} --cpu-bind depth"
        return f"{program} -n {job.ranks} --ppn {count} {bind}"
    # A pod's share of a node's cores is time, not cores: ranks bound in two pods would share some.
    bind = "none" if job.scheduler == "kubernetes" else "core"
    cores = "" if bind == "none" or job.threads == 1 else str(job.threads)
    if job.mpi == "mpich":
        return f"{program} -n {job.ranks} -ppn {count} -f {hosts} -bind-to {bind}{cores and ':' + cores}"
    # Open MPI refuses, and says so, where some rank's cores would lie in two processors.
    placed = f"--map-by ppr:{count}:node{cores and ':PE=' + cores} --bind-to {bind}"
    carried = "-x PATH ${LD_LIBRARY_PATH:+-x LD_LIBRARY_PATH}"
    return f"{program} -n {job.ranks} --hostfile {hosts} {placed} {carried}"


def _script(job: Job) -> str:
    """What a container's shell runs. Kubernetes would take $$ and $( for its own."""
    command = f'exec {_launcher(job)} \\\n    {shlex.quote(job.python)} -m distsgd "${{start[@]}}"'
    lines = [*job.before, "set -u", f"run={_run(job)}", _start(job), command]
    return re.sub(r"\$(?=[$(])", "$$", "\n".join(lines))
