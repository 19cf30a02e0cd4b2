"""A file that names the hosts to run on: each launcher has its own way to write one, and says little of a wrong one."""

import re
from pathlib import Path

from distsgd.config import InputError
from distsgd.launcher.find import Kind, Launcher

_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_LINES: dict[Kind, re.Pattern[str]] = {
    "openmpi": re.compile(
        rf"(?:{_HOST}@)?{_HOST}(?:\s+(?:(?:slots|max[-_]slots|port)\s*=\s*\d+|username=\S+))*"
    ),
    "mpich": re.compile(rf"{_HOST}(?::\d+)?(?:\s+(?:binding|ifname|user)=\S+)*"),
}
_WANTED: dict[Kind, str] = {
    "openmpi": "Open MPI wants lines like `node1 slots=4`",
    "mpich": "MPICH wants lines like `node1:4`",
}
MOST_LINES_SHOWN = 5


def check(path: Path, launcher: Launcher, ranks: int) -> None:
    """Raise InputError, all in one message, where the launcher could not start so many ranks from this file."""
    if launcher.kind is None:
        raise InputError(
            f"--hostfile {path}: how {launcher.path} takes one is not known; "
            f"start the ranks by hand: {launcher.path} OPTIONS python -m distsgd ..."
        )
    lines = _lines(path)
    wrong = [
        f"--hostfile {path}, line {number}: {line!r}; {_WANTED[launcher.kind]}"
        for number, line in lines
        if not _LINES[launcher.kind].fullmatch(line)
    ]
    if wrong:
        more = [f"--hostfile {path}: {len(wrong) - MOST_LINES_SHOWN} more lines like these"]
        raise InputError("\n".join(wrong[:MOST_LINES_SHOWN] + more * (len(wrong) > MOST_LINES_SHOWN)))
    slots = [_slots(line) for _, line in lines]
    if launcher.kind == "openmpi" and ranks > sum(slots) > 0 and all(slots):
        raise InputError(
            f"--ranks {ranks}, but the hosts of --hostfile {path} have room for {sum(slots)}: "
            "give them more slots, or start fewer ranks"
        )


def _lines(path: Path) -> list[tuple[int, str]]:
    """What is written on each line, comments and empty lines left out, by the line's number."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"--hostfile {path}: can't be read: {reason}") from None
    parts = ((number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1))
    lines = [(number, line) for number, line in parts if line]
    if not lines:
        raise InputError(f"--hostfile {path} names no host; write one a line")
    return lines


def _slots(line: str) -> int:
    """The slots that a line of Open MPI's gives its host; 0 where it leaves them to Open MPI."""
    found = re.search(r"\sslots\s*=\s*(\d+)", line)
    return int(found[1]) if found else 0


def first(path: Path, launcher: Launcher, nodes: int, ranks_per_node: int) -> str:
    """The text of another such file: the first so many hosts of this one, each with room for so many ranks.

    Raises InputError where the file is wrong or names fewer hosts.
    """
    check(path, launcher, 0)
    names = [re.split(r"[\s:]", line)[0] for _, line in _lines(path)]
    hosts = list(dict.fromkeys(names))
    if len(hosts) < nodes:
        raise InputError(f"--nodes {nodes}, but --hostfile {path} names {len(hosts)} hosts")
    room = f":{ranks_per_node}" if launcher.kind == "mpich" else f" slots={ranks_per_node}"
    return "".join(f"{host}{room}\n" for host in hosts[:nodes])
