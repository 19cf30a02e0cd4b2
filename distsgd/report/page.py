"""Runs and scaling studies as one HTML page that needs nothing but itself: no network, no scripts, pictures inside."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from distsgd.report import plan, prediction, scaling
from distsgd.report.lines import number
from distsgd.report.planning import Planning
from distsgd.report.prediction import Beside
from distsgd.report.reading import Summary
from distsgd.report.scaling import Scale

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
CAPTIONS = {
    "epochs": "Loss and accuracy by epoch",
    "confusion": "Confusion matrix of the test images",
    "round": "A round, measured beside predicted",
    "timeline": "The first rounds, rank by rank",
    "seconds": "Seconds by phase, rank by rank",
    "scale": "Execution time and speed-up",
    "plan": "Plan: the same training on more and more ranks",
}


@dataclass(frozen=True)
class Shown:
    """A run: its folder, what it came to, its settings, and SVG pictures by name."""

    folder: Path
    summary: Summary
    settings: str
    pictures: Mapping[str, bytes]
    plan: Planning | str = ""
    """Or why there is none."""


@dataclass(frozen=True)
class Study:
    """A scaling study: its folder, what it came to, and SVG pictures by name."""

    folder: Path
    scale: Scale
    pictures: Mapping[str, bytes]
    plan: Planning | str = ""


def page(runs: Sequence[Shown], studies: Sequence[Study]) -> str:
    """The whole page."""
    names = [*(run.folder.name for run in runs), *(study.folder.name for study in studies)]
    title = escape(", ".join(names))
    parts = [_beside_each_other(runs)] if len(runs) > 1 else []
    parts += [_run(run) for run in runs] + [_study(study) for study in studies]
    style = STYLE.read_text(encoding="utf-8")
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{title} - distsgd</title><style>{style}</style>'
    )
    body = "\n".join([f"<h1>{title}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _beside_each_other(runs: Sequence[Shown]) -> str:
    heads = ["run", "network", "ranks", "workers", "test accuracy", "images/s", "seconds", "weights"]
    rows = []
    for run in runs:
        found = run.summary
        rows.append(
            [
                run.folder.name,
                found.network,
                str(found.ranks),
                str(found.workers),
                _percent(found.test_accuracy),
                _count(found.images_per_second),
                _number(found.seconds.get("total")),
                found.weights_sha256[:12],
            ]
        )
    return _table([heads, *rows], "the runs of this page")


def _run(run: Shown) -> str:
    parts = [f"<h2>{escape(run.folder.name)}</h2>", *_alarms(run.summary), _facts(run.summary)]
    for name in ("epochs", "confusion", "round"):
        parts.append(_picture(name, run.pictures))
    parts.append(_phases(run.summary))
    for name in ("timeline", "seconds"):
        parts.append(_picture(name, run.pictures))
    parts.append(_plan(run.plan, run.pictures))
    if run.settings:
        parts.append(f"<details><summary>settings</summary><pre>{escape(run.settings)}</pre></details>")
    return "\n".join(part for part in parts if part)


def _alarms(found: Summary) -> list[str]:
    said = [] if found.outcome == "finished" else [f"outcome: {found.outcome}"]
    said += [
        f"rank {slow.rank} was slow: {slow.times:.1f} times as long for an image as the others, seen after round {slow.round}"
        for slow in found.slow_ranks
    ]
    if found.machine.oversubscribed:
        said.append("there were more ranks than cores: they took turns")
    return [f'<p class="alarm">{escape(line)}</p>' for line in said]


def _facts(found: Summary) -> str:
    hosts = found.machine.hosts or [found.machine.host]
    facts = [
        ("network", f"{found.network}, {found.parameters:,} parameters"),
        ("test", f"accuracy {_percent(found.test_accuracy)}, loss {number(found.test_loss)}"),
        ("images/s", _count(found.images_per_second)),
        ("ranks, workers", f"{found.ranks}, {found.workers}"),
        ("epochs, rounds", f"{found.epochs_done:,}, {found.rounds:,}"),
        ("ranks lost", str(found.ranks_lost)),
        ("peak memory", f"{found.peak_memory_bytes / 1e6:,.0f} MB a rank"),
        ("hosts", ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")),
        ("MPI", found.machine.mpi),
        ("weights", f"sha256 {found.weights_sha256}"),
        ("images", f"sha256 {found.data_sha256}"),
        ("distsgd", found.version),
    ]
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts if value
    )
    return f'<table class="facts">{rows}</table>'


def _phases(found: Summary) -> str:
    """Every phase, and where there was a prediction, what it erred by."""
    rows = prediction.phases(found)
    if not rows:
        return ""
    told = any(row.predicted is not None for row in rows)
    heads = ["phase", "measured (s)", "share"] + ["predicted (s)", "error", "90 % interval", "inside"] * told
    total = found.seconds.get("total") or 1.0
    cells = [
        [row.phase, _number(row.measured), _percent(row.measured / total), *_told(row, told)] for row in rows
    ]
    about = "seconds of the whole run, mean over ranks"
    about += "; error: predicted over measured, less one" if told else "; there was no prediction"
    return "<h3>Seconds by phase</h3>" + _table([heads, *cells], about)


def _told(row: Beside, told: bool) -> list[str]:
    if not told:
        return []
    interval = f"{row.interval[0]:.3f} to {row.interval[1]:.3f}" if row.interval else ""
    inside = "" if row.inside is None else "yes" if row.inside else "no"
    error = "" if row.error is None else f"{row.error:+.1%}"
    return [_number(row.predicted), error, interval, inside]


def _study(study: Study) -> str:
    found = study.scale
    picture = _picture("scale", study.pictures)
    notes = "".join(
        f"<p{' class=alarm' * note.startswith(('WARNING', 'failed'))}>{escape(note)}</p>"
        for note in scaling.notes(found)
    )
    against = f"<h2>{escape(study.folder.name)}: speed-up against {found.axis}</h2>"
    return "\n".join(
        [
            against,
            f"<p>{escape(scaling.heading(found))}</p>",
            picture,
            _table(scaling.rows(found)),
            notes + _plan(study.plan, study.pictures),
        ]
    )


def _plan(planning: Planning | str, pictures: Mapping[str, bytes]) -> str:
    """What it would be on other numbers of ranks, what limits it, and what to run."""
    if isinstance(planning, str):
        return f"<p>{escape(planning)}</p>" if planning else ""
    planned = planning.planned
    limit, changes = plan.limit(planned)
    said = [*plan.notes(planned), plan.knee(planned), limit]
    heading = _picture("plan", pictures) or f"<h3>{CAPTIONS['plan']}</h3>"
    lines = [heading, f"<p>{escape(plan.heading(planned))}</p>"]
    lines += [_table(plan.rows(planned, planning.measured))]
    lines += [f"<p{' class=alarm' * line.startswith('WARNING')}>{escape(line)}</p>" for line in said]
    lines += ["<ul>", *(f"<li>{escape(change)}</li>" for change in changes), "</ul>"] if changes else []
    advice = [told for one in planned.recommended for told in plan.advice(planned, one)]
    lines += ["<h4>What to run: distsgd train with the settings of this run, and</h4>", "<dl>"]
    lines += [f"<dt>{escape(line)}</dt><dd><code>{escape(options)}</code></dd>" for line, options in advice]
    return "\n".join([*lines, "</dl>"])


def _picture(name: str, pictures: Mapping[str, bytes]) -> str:
    if name not in pictures:
        return ""
    data = base64.b64encode(pictures[name]).decode()
    title = escape(CAPTIONS[name])
    return f'<h3>{title}</h3><figure><img alt="{title}" src="data:image/svg+xml;base64,{data}"></figure>'


def _table(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table>{about}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"
