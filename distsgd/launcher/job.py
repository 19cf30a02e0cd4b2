"""What a batch job is asked to be, checked: nothing of it may become a command or a directive of its own."""

import re
from dataclasses import dataclass
from typing import Literal

from distsgd.config import InputError

Scheduler = Literal["slurm", "pbs", "lsf", "kubernetes"]
Mpi = Literal["openmpi", "mpich", "cray"]

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/+-]{0,254}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
"""Kubernetes appends to it, and 63 letters are the most."""
_ONLY_FOR = {"image": "kubernetes", "claim": "kubernetes", "jsrun": "lsf"}


@dataclass(frozen=True)
class Job:
    """A run as a batch job. config, run, python and launcher are paths on the nodes; seconds: its time limit.

    queue: Slurm's partition. before: shell lines, as given. run: "" for a folder named for the job. threads: of a rank, a core
    for each.
    """

    scheduler: Scheduler
    config: str
    nodes: int
    ranks_per_node: int
    name: str
    mpi: Mpi
    launcher: str
    python: str
    changes: tuple[str, ...] = ()
    run: str = ""
    seconds: int | None = None
    account: str = ""
    queue: str = ""
    image: str = ""
    claim: str = ""
    jsrun: bool = False
    before: tuple[str, ...] = ()
    threads: int = 1

    @property
    def ranks(self) -> int:
        """Of all nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def cores_per_node(self) -> int:
        """One for each thread of each rank."""
        return self.ranks_per_node * self.threads


def check(job: Job) -> None:
    """Raise InputError with all that is wrong with a job."""
    wrong = [*_words(job), *_texts(job), *_choices(job)]
    if wrong:
        raise InputError("\n".join(wrong))


def _words(job: Job) -> list[str]:
    """Directives are not shell: nothing there can be quoted, so only plain words may stand in them."""
    is_label = job.scheduler == "kubernetes"
    pattern = _LABEL if is_label else _NAME
    wanted = (
        "small letters, digits and -, at most 40" if is_label else "letters, digits, _, . and -, at most 63"
    )
    wrong = [] if pattern.fullmatch(job.name) else [f"--name {job.name!r}: must be {wanted}, a letter first"]
    given = {name: getattr(job, name) for name in ("account", "queue", "image", "claim")}
    return wrong + [
        f"--{name} {value!r}: must be of letters, digits and _ . : @ / + -"
        for name, value in given.items()
        if value and not _WORD.fullmatch(value)
    ]


def _texts(job: Job) -> list[str]:
    """What is quoted may hold anything but what ends a line."""
    texts = [("CONFIG", job.config), ("--run", job.run), ("--python", job.python)]
    texts += [("--set", change) for change in job.changes] + [("--before", line) for line in job.before]
    return [
        f"{name} {text!r}: must be one line without control characters"
        for name, text in texts
        if not _is_line(text)
    ]


def _is_line(text: str) -> bool:
    return all(letter.isprintable() or letter == "\t" for letter in text)


def _choices(job: Job) -> list[str]:
    wrong = [
        f"--{name}: only for --scheduler {scheduler}"
        for name, scheduler in _ONLY_FOR.items()
        if getattr(job, name) and job.scheduler != scheduler
    ]
    if job.scheduler == "kubernetes":
        wrong += [
            f"--scheduler kubernetes: wants --{name} as well"
            for name in ("image", "claim")
            if not getattr(job, name)
        ]
        wrong += [
            f"--{name}: not for --scheduler kubernetes" for name in ("account", "queue") if getattr(job, name)
        ]
    if job.mpi == "cray" and job.scheduler in ("lsf", "kubernetes"):
        wrong.append(f"--mpi cray: not for --scheduler {job.scheduler}")
    return wrong


def seconds(text: str) -> int:
    """The seconds of HH:MM:SS. Raises ValueError where it is something else, or nothing."""
    found = re.fullmatch(r"(\d{1,4}):([0-5]\d):([0-5]\d)", text)
    total = (
        sum(int(part) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True))
        if found
        else 0
    )
    if total == 0:
        raise ValueError(f"{text!r}: must be HH:MM:SS, for example 04:00:00")
    return total
