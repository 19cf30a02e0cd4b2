"""Runs and scaling studies in pictures, as files and in a page."""

import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsgd.config import InputError
from distsgd.plan.work import Link
from distsgd.record import write_whole
from distsgd.report import figures, page, plan_figure, rounds, scaling, speed_up
from distsgd.report.planning import Planning, planning
from distsgd.report.reading import Epoch, Summary, read_run, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called $x$
    "svg.hashsalt": "distsgd",  # the same picture is the same file
}


def report(folders: Sequence[Path], out: Path, form: str, link: Link | None = None) -> list[Path]:
    """Tell of runs and scaling studies in one page, report.html, and in pictures ("png" or "svg") in the folder `out`.

    link: the network that plans are made for, where none was measured.

    Returns the paths. Raises InputError, and then has written nothing.
    """
    folders = list(dict.fromkeys(folders))
    studies = [folder for folder in folders if (folder / "scale.json").exists()]
    plans = _plans(folders, link)  # before matplotlib takes memory
    files: dict[str, bytes] = {}
    shown: list[page.Shown] = []
    for folder in (folder for folder in folders if folder not in studies):
        prefix = f"{len(shown) + 1}-" if len(folders) > 1 else ""
        run, drawn = _run(folder, plans[folder], form)
        files |= {f"{prefix}{name}": content for name, content in drawn.items()}
        shown.append(run)
    about = []
    for number, folder in enumerate(studies, len(shown) + 1):
        study, drawn = _study(folder, plans[folder], form)
        prefix = f"{number}-" if len(folders) > 1 else ""
        files |= {f"{prefix}{name}": content for name, content in drawn.items()}
        about.append(study)
    return written(out, {**files, "report.html": page.page(shown, about).encode()})


def _plans(folders: Sequence[Path], link: Link | None) -> dict[Path, Planning | str]:
    """Of each folder; of several that are the same the first."""
    found: dict[Path, Planning | str] = {}
    for folder in folders:
        one = planning(folder, folders, link)
        told = {other: before for other, before in found.items() if isinstance(before, Planning)}
        same = [
            other.name for other, before in told.items() if isinstance(one, Planning) and one.same(before)
        ]
        found[folder] = f"Its plan is that of {same[0]}." if same else one
    return found


def _run(folder: Path, plan: Planning | str, form: str) -> tuple[page.Shown, dict[str, bytes]]:
    """A run as the page shows it, and its pictures as files."""
    summary, epochs = read_run(folder)
    drawn = rendered(lambda: _figures(summary, epochs) | _plan(plan), dict.fromkeys(["svg", form]))
    if not drawn:
        raise InputError(
            f"{folder} has nothing to draw: its outcome is {summary.outcome!r}, before the first epoch's end"
        )
    inside, files = _apart(drawn, form)
    return page.Shown(folder, summary, read_settings(folder), inside, plan), files


def _study(folder: Path, plan: Planning | str, form: str) -> tuple[page.Study, dict[str, bytes]]:
    """A study as the page shows it, and its pictures as files."""
    found = scaling.read_scale(folder)
    drawn = rendered(lambda: {"scale": speed_up.figure(found)} | _plan(plan), dict.fromkeys(["svg", form]))
    inside, files = _apart(drawn, form)
    return page.Study(folder, found, inside, plan), files


def _apart(drawn: Mapping[str, bytes], form: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What goes into the page, by figure, and what becomes files."""
    inside = {Path(name).stem: content for name, content in drawn.items() if name.endswith(".svg")}
    return inside, {name: content for name, content in drawn.items() if name.endswith(form)}


def _plan(plan: Planning | str) -> "dict[str, Figure]":
    """A curve of one point, as that of a run with one worker, is no picture."""
    if isinstance(plan, str) or len(plan.planned.curve.points) == 1:
        return {}
    return {"plan": plan_figure.figure(plan.planned, plan.measured)}


def draw_scale(folder: Path) -> list[Path]:
    """Draw a scaling study in its folder, in both forms; returns the paths. Raises InputError."""
    found = scaling.read_scale(folder)
    return written(folder, rendered(lambda: {"scale": speed_up.figure(found)}, ["png", "svg"]))


def rendered(figures: "Callable[[], dict[str, Figure]]", forms: Iterable[str]) -> dict[str, bytes]:
    """The content of a file for each figure and form, by its name. Raises InputError where there is no matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("pictures are drawn by matplotlib: pip install 'distsgd[plot]'") from None
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in letters that the font has not
        drawn = figures()
        return {f"{name}.{form}": _rendered(drawn[name], form) for name in drawn for form in forms}


def written(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder, made if need be; returns the paths. Raises InputError."""
    _make_folder(out)
    for name, content in files.items():
        write_whole(out / name, content)
    return [out / name for name in files]


def _figures(summary: Summary, epochs: list[Epoch]) -> "dict[str, Figure]":
    """What there is to show: a run that ended early has less."""
    found = {}
    if epochs:
        found["epochs"] = figures.epochs(summary, epochs)
    if summary.confusion:
        found["confusion"] = figures.confusion(summary)
    if summary.seconds_by_rank:
        found["seconds"] = figures.seconds(summary)
    if summary.seconds and summary.rounds:
        found["round"] = rounds.waterfall(summary)
    if "wait" in summary.first_rounds.phases and all(summary.first_rounds.seconds_by_rank or [[]]):
        found["timeline"] = rounds.timeline(summary)
    return found


def _rendered(figure: "Figure", form: str) -> bytes:
    content = io.BytesIO()
    about = {"Date": None} if form == "svg" else {}
    figure.savefig(content, format=form, dpi=150, bbox_inches="tight", pad_inches=0.15, metadata=about)
    return content.getvalue()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror}") from None
