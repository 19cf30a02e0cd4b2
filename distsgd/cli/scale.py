"""`distsgd scale`: the same training on more and more ranks, and what they gain."""

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from distsgd import config, launcher
from distsgd.cli import launch
from distsgd.cli.options import add_set, count
from distsgd.cli.ranks import FAILED, following_parent
from distsgd.clock import Clock
from distsgd.config import Config, InputError

if TYPE_CHECKING:
    from distsgd.bench.sweep import Repeat, Sweep

RUNS = {"slurm", "pbs", "lsf"}
MOST_SAID = 300
"""Letters of the last line of a run that failed."""


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `distsgd scale`."""
    parser.set_defaults(command=run)
    parser.description = (
        "The same training on several numbers of ranks, each several times in shuffled order: execution time, speed-up, "
        "efficiency and Karp and Flatt's serial fraction. The same command again goes on where it was."
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings, as for train")
    add_set(parser)
    points = parser.add_mutually_exclusive_group(required=True)
    points.add_argument("--ranks", type=_counts, metavar="N,...", help="such as 1,2,4")
    points.add_argument("--nodes", type=_counts, metavar="N,...", help="with --ranks-per-node")
    parser.add_argument("--ranks-per-node", type=count, metavar="R", help="on each, with --nodes")
    parser.add_argument("--hostfile", type=Path, metavar="FILE", help="the hosts to run on, a line each")
    parser.add_argument("--repeat", type=count, default=3, metavar="N", help="runs a point (default: 3)")
    parser.add_argument(
        "--weak", action="store_true", help="a worker a rank, images grow with them (default: one experiment)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="(default: in scaling/, named for CONFIG)")
    parser.add_argument("--scheduler", choices=sorted(RUNS), help="write a batch job a run, run nothing here")
    parser.add_argument("--submit", action="store_true", help="hand these to the scheduler")
    launch.add_site(parser)


def _counts(text: str) -> list[int]:
    return sorted({count(part.strip()) for part in text.split(",")})


def run(given: Namespace, clock: Clock) -> int:
    """Run what has not run, or write it as batch jobs; then tell of all that has. Returns 1 where a run failed."""
    from distsgd import record
    from distsgd.bench import sweep as sweeps

    if launcher.launched(os.environ):
        raise InputError("scale starts the ranks itself: run it without an MPI launcher")
    settings, problems = config.read(given.config, given.set)
    problems += _about_options(given)
    if problems:
        raise InputError("\n".join(problems))
    sweep = _sweep(given, settings)
    _check(sweep)
    hosts = _hosts(given, sweep) if given.nodes and not given.scheduler else {}
    with contextlib.ExitStack() as held:
        _make(sweep.out)
        held.enter_context(record.lock(sweep.out))
        sweeps.prepare(sweep)
        for path, text in hosts.items():
            record.write_whole(path, text.encode())
        return _batch(given, sweep) if given.scheduler else _here(given, sweep)


def _about_options(given: Namespace) -> list[str]:
    problems = []
    if given.nodes and not given.ranks_per_node:
        problems.append("--nodes: wants --ranks-per-node as well")
    if given.ranks and given.ranks_per_node:
        problems.append("--ranks-per-node: is for --nodes")
    if given.scheduler and not given.nodes:
        problems.append("--scheduler: wants --nodes and --ranks-per-node")
    if given.scheduler and given.hostfile:
        problems.append("--hostfile: a batch job has its own")
    problems += [f"{name}: wants --scheduler" for name in _for_jobs(given) if not given.scheduler]
    if given.nodes and not given.scheduler and not given.hostfile:
        problems.append("--nodes: wants --hostfile FILE with their names, or --scheduler")
    return problems


def _for_jobs(given: Namespace) -> list[str]:
    """Options that were given and are for batch jobs alone."""
    names = ("submit", "time", "account", "queue", "before", "python", "mpi", "jsrun")
    return [f"--{name}" for name in names if getattr(given, name)]


def _check(sweep: "Sweep") -> None:
    """InputError where a point's experiment can't be: said once, before anything is run or left in a folder."""
    from distsgd.training import check

    for point in sweep.points:
        check(point.settings, point.ranks, [])


def _sweep(given: Namespace, settings: Config) -> "Sweep":
    from distsgd import data
    from distsgd.bench import sweep as sweeps

    images = data.describe(data.locate(settings.data.path))
    counts = [(ranks, None) for ranks in given.ranks or []]
    counts += [(nodes * given.ranks_per_node, nodes) for nodes in given.nodes or []]
    name = (given.config.stem if given.config else "default") + "-weak" * given.weak
    out = given.out or Path("scaling") / name
    if given.weak:
        used = settings.data.train_images or images.counts["train"]
        return sweeps.weak(settings, counts, used, given.repeat, out)
    return sweeps.strong(settings, counts, given.repeat, out)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None


def _here(given: Namespace, sweep: "Sweep") -> int:
    """Run by the MPI launcher of this machine."""
    from distsgd.bench import scaling

    codes: dict[Path, int] = {}
    runs = list(sweep.runs())
    for number, repeat in enumerate(runs, 1):
        if scaling.finished(repeat) is None:
            print(f"{number} of {len(runs)}: {_done(given, sweep, repeat, codes)}", flush=True)
            _write(sweep, codes)
    _tell(sweep, codes)
    return FAILED if codes else 0


def _done(given: Namespace, sweep: "Sweep", repeat: "Repeat", codes: dict[Path, int]) -> str:
    """Run one of a point's runs; returns what there is to say of it."""
    from distsgd.bench import scaling
    from distsgd.bench import sweep as sweeps

    sweeps.clear(repeat)
    code = _finish(_command(given, sweep, repeat), repeat.log)
    where, found = f"{repeat.point.title}, run {repeat.number}", scaling.finished(repeat)
    if found:
        return f"{where}: {found.training:.3f} s of training, {found.seconds['total']:.3f} s in all"
    codes[repeat.folder] = code
    return f"{where}: failed with exit code {code}: {_last_line(repeat.log)} (all of it: {repeat.log})"


def _hosts(given: Namespace, sweep: "Sweep") -> dict[Path, str]:
    """For each point, what is to be in the file of the hosts that are its nodes. InputError where they are too few."""
    found = launcher.identified(launcher.find(os.environ))
    return {
        sweep.hosts_path(point): launcher.first(given.hostfile, found, point.nodes, given.ranks_per_node)
        for point in sweep.points
        if point.nodes
    }


def _command(given: Namespace, sweep: "Sweep", repeat: "Repeat") -> list[str]:
    point = repeat.point
    hosts = sweep.hosts_path(point) if point.nodes else given.hostfile
    on = ["--ranks", str(point.ranks), *(["--hostfile", str(hosts)] if hosts else [])]
    what = ["train", str(sweep.config_path(point)), "--out", str(repeat.folder)]
    return [sys.executable, "-m", "distsgd", *what, *on]


def _finish(command: list[str], log: Path) -> int:
    """Run a command to its end, what it says in a file; of a Ctrl-C it hears itself, and is waited for."""
    with open(log, "wb") as said:
        job = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=following_parent(),
        )
        try:
            return job.wait()
        except KeyboardInterrupt:
            print("the same command goes on with what is left", file=sys.stderr, flush=True)
            job.wait()
            raise


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:MOST_SAID] if said else "it said nothing"


def _batch(given: Namespace, sweep: "Sweep") -> int:
    """A batch job for each run that is not there yet, handed over where that is asked for and was not done before.

    One that failed is told, put aside, and begun anew. Returns 1 where there was one.
    """
    from distsgd.bench import scaling

    code, failed = 0, _failed(sweep)
    for repeat in sweep.runs():
        if scaling.finished(repeat) is None:
            if (repeat.folder / "run.json").exists() or repeat.folder in failed:
                _put_aside(repeat)
            script = _script(given, sweep, repeat)
            why = f" (failed with exit code {failed[repeat.folder]})" if repeat.folder in failed else ""
            print(f"{repeat.point.title}, run {repeat.number}{why}: {script}", flush=True)
            code = max(code, _submitted(given, script) if given.submit else 0)
    _write(sweep, failed)
    _tell(sweep, failed)
    return max(code, FAILED if failed else 0)


def _failed(sweep: "Sweep") -> dict[Path, int]:
    """With which status jobs ended that left no result, by the folder of their run: see `_telling`."""
    from distsgd.bench import scaling

    codes = {}
    for repeat in sweep.runs():
        if scaling.finished(repeat) is None:
            # Not begun, not ended, or killed before it could write.
            with contextlib.suppress(OSError, ValueError):
                codes[repeat.folder] = int(repeat.ended.read_text(encoding="utf-8"))
    return {folder: code for folder, code in codes.items() if code}


def _put_aside(repeat: "Repeat") -> None:
    """What a run left that failed, diverged, or was interrupted and resumed: a job may begin it anew."""
    from distsgd.bench import sweep as sweeps

    sweeps.clear(repeat)
    repeat.folder.with_suffix(".submitted").unlink(missing_ok=True)
    repeat.ended.unlink(missing_ok=True)


def _script(given: Namespace, sweep: "Sweep", repeat: "Repeat") -> Path:
    """The text of a run's job, in a file; one that is there may have been changed by hand: it stays."""
    point, path = repeat.point, repeat.folder.with_suffix(".job")
    asked: dict[str, object] = {
        "config": str(sweep.config_path(point)),
        "set": [],
        "nodes": point.nodes,
        "run": str(repeat.folder),
        "image": "",
        "claim": "",
        "name": f"{point.name}-{repeat.number}",
        "before": [*_telling(repeat), *given.before],
    }
    wanted = launch.job(Namespace(**{**vars(given), **asked}), point.settings.train.threads)
    text = launcher.render(wanted)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        if path.read_text(encoding="utf-8") != text:
            print(
                f"{path} stays as it is, which is not as these options have it: remove it to have it made anew"
            )
    return path


def _telling(repeat: "Repeat") -> list[str]:
    """What a job says, in shell, of its end; it unsays that when it begins again."""
    return [
        f"ended={shlex.quote(str(repeat.ended))}",
        'rm -f "$ended"',
        """trap 'echo "$?" > "$ended"' EXIT""",
    ]


def _submitted(given: Namespace, script: Path) -> int:
    """Hand a job over, once: a file beside it says that it was."""
    mark = script.with_suffix(".submitted")
    if mark.exists():
        print(f"  was submitted before; to do it again, remove {mark}")
        return 0
    code = launch.submit(launcher.SUBMIT[given.scheduler], script.read_text(encoding="utf-8"))
    if code == 0:
        mark.touch()
    return code


def _write(sweep: "Sweep", codes: dict[Path, int]) -> None:
    from distsgd import record
    from distsgd.bench import scaling

    record.write_whole(sweep.out / "scale.json", record.as_json(scaling.collect(sweep, codes)))


def _tell(sweep: "Sweep", codes: dict[Path, int]) -> None:
    """The table, and pictures of it."""
    from distsgd.report import scaling

    _write(sweep, codes)
    found = scaling.read_scale(sweep.out)
    print(f"\n{scaling.table(found)}\n\n  {sweep.out / 'scale.json'}")
    if not any(point.seconds for point in found.points):
        return
    try:
        from distsgd.report import pictures

        paths = pictures.draw_scale(sweep.out)
    except InputError as error:  # the numbers are there without matplotlib
        paths = []
        print(f"  {error}")
    for path in paths:
        print(f"  {path}")
