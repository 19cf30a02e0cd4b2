"""A plan as people and programs see it: table, picture, page, and which runs stand beside it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from test_page import Elements
from test_pictures import write
from test_plan import averages, job, measured_machine, of_threads, with_threads

from distsgd import cli, config
from distsgd.clock import PHASES, TRAINING
from distsgd.config import Config
from distsgd.cost.machine import Machine
from distsgd.cost.scaling import Spread
from distsgd.machine import where
from distsgd.plan.planned import Planned, plan
from distsgd.plan.work import Link
from distsgd.report import plan as told
from distsgd.report import plan_figure
from distsgd.report.measured import Measured, measured
from distsgd.training import check

SECONDS = {phase: 1.0 for phase in PHASES}


def planned(memory: int | None = None, **averaging: Any) -> Planned:
    """Of 1 to 8 ranks, two a node, measured on two ranks of one node."""
    made = measured_machine()
    made = made.model_copy(update={"where": made.where.model_copy(update={"memory": memory})})
    return plan(made, replace(job("garg", **averaging), link=Link(1e-6, 1e-10)), 8, 2)


def run(folder: Path, ranks: int = 2, seconds: float = 1.0, hosts: int = 1, **sections: Any) -> Path:
    """A run that never was, with the settings of `planned()`."""
    settings = Config.model_validate({"network": {"name": "garg"}, "averaging": {"workers": 8}, **sections})
    images = check(settings, 1, []).images
    parts = dict(SECONDS) | dict.fromkeys(TRAINING, seconds / len(TRAINING))
    facts = {"ranks": ranks, "workers": settings.averaging.workers, "epochs_done": 20, "seconds": parts}
    machine = {"hosts": [f"node{n}" for n in range(hosts)], "oversubscribed": False}
    write(folder)
    content = json.loads((folder / "run.json").read_text())
    content |= {**facts, "data_sha256": images.sha256, "machine": machine}
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "config.toml").write_text(config.to_toml(settings))
    return folder


def test_ranks_of_two_threads_keep_two_cores_busy_each() -> None:
    made, one = measured_machine(), job("garg", workers=8)
    single, double = (plan(of_threads(made, n), with_threads(one, n), 2) for n in (1, 2))
    assert [point.job.nodes for point in double.curve.points] == [1, 1]
    for before, after in zip(single.curve.points, double.curve.points, strict=True):
        assert after.training == before.training
        assert after.core_hours == pytest.approx(2 * before.core_hours)
    assert told.knee(double).startswith(f"knee: {double.curve.knee.job.ranks} rank")
    assert f"({double.curve.knee.job.cores} cores)" in told.knee(double)
    assert "ranks of 2 threads" in told.heading(double)
    table, points = told.rows(double), told.facts(double, [])["points"]
    assert [row[table[0].index("cores")] for row in table[1:]] == ["2", "4"]
    assert [point["cores"] for point in points] == [2, 4]
    assert "cores" not in told.rows(single)[0]


def lines(figure: Any, panel: int, label: str) -> list[Line2D]:
    return [line for line in figure.axes[panel].get_lines() if str(line.get_label()).startswith(label)]


@pytest.mark.parametrize("panel", range(3))
def test_extrapolated_points_are_marked_where_they_are(panel: int) -> None:
    figure = plan_figure.figure(planned(workers=8), [])
    (solid,), (dashed,) = lines(figure, panel, "predicted"), lines(figure, panel, "extrapolated")
    assert list(solid.get_xdata()) == [1, 2]
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    shown = np.asarray(dashed.get_xdata())[dashed.get_markevery()]
    assert list(shown) == [4, 8]
    assert to_rgba(dashed.get_markerfacecolor()) == to_rgba("white") != to_rgba(solid.get_markerfacecolor())
    (grey,) = [p for p in figure.axes[panel].patches if p.get_facecolor() == to_rgba("#f0f0f0")]
    left, right = grey.get_extents().transformed(figure.axes[panel].transData.inverted()).intervalx
    assert 2 < left < 4 < 8 < right


def test_nothing_is_marked_where_all_was_measured() -> None:
    figure = plan_figure.figure(plan(measured_machine(), job("garg"), 2, 2), [])
    assert not lines(figure, 0, "extrapolated")
    assert not figure.axes[0].patches


def test_the_picture_has_the_knee_the_ideal_line_the_interval_and_what_was_measured() -> None:
    found = planned(workers=8)
    runs = [
        Measured(1, 1, Spread(4.0, 3.0, 5.0), 3, False),
        Measured(2, 1, Spread(2.5, 2.0, 3.0), 3, False),
        Measured(4, 2, Spread(2.0, 2.0, 2.0), 1, True),
    ]
    figure = plan_figure.figure(found, runs)
    time, speed = figure.axes[:2]
    (knee,), (ideal,) = lines(figure, 1, "knee"), lines(figure, 1, "ideal")
    assert set(knee.get_xdata()) == {found.curve.knee.job.ranks}
    assert list(ideal.get_ydata()) == [1, 2, 4, 8]
    points = {container.get_label(): container.lines[0] for container in time.containers}
    assert list(points["measured"].get_ydata()) == [4.0, 2.5]
    assert to_rgba(points["more ranks than cores"].get_markerfacecolor()) == to_rgba("white")
    gains = {container.get_label(): container.lines[0] for container in speed.containers}
    assert list(gains["measured"].get_ydata()) == [1.0, 1.6]
    band = next(one for one in time.collections if isinstance(one, PolyCollection))
    ys = band.get_paths()[0].vertices[:, 1]
    assert ys.max() == pytest.approx(max(point.training.interval[1] for point in found.curve.points))


def test_a_speed_up_is_measured_only_over_a_run_of_one_rank() -> None:
    figure = plan_figure.figure(planned(workers=8), [Measured(2, 1, Spread(2.5, 2.0, 3.0), 3, False)])
    shown = [[one.get_label() for one in axes.containers] for axes in figure.axes[:3]]
    assert shown == [["measured"], [], []]


def test_more_ranks_than_cores_are_for_other_nodes() -> None:
    made, one = measured_machine(), replace(job("garg", workers=8), link=Link(1e-6, 1e-10))
    notes = [" ".join(told.notes(plan(made, one, 8, per_node))) for per_node in (2, 4)]
    assert ["has 2 cores, room for 2 ranks" in note for note in notes] == [False, True]


def test_steps_that_sleep_are_planned_as_they_sleep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace.json").write_text("[0.5]")
    path = tmp_path / "machine.json"
    where.write(measured_machine(), path)
    settings = [f"train.replay={tmp_path / 'trace.json'}", f"prediction.machine={path}", "train.epochs=1"]
    settings += ["data.train_images=640", "averaging.workers=2", "network.name=garg"]
    arguments = [part for one in settings for part in ("--set", one)]
    assert cli.main(["plan", *arguments, "--json", str(tmp_path / "plan.json")]) == 0
    points = json.loads((tmp_path / "plan.json").read_text())["points"]
    assert [one["seconds_by_phase"]["compute"] for one in points] == [pytest.approx(10), pytest.approx(5)]
    old = "the machine file is of another version's kernels"
    assert old in capsys.readouterr().out
    here = measured_machine().where.model_copy(update={"kernels": where.kernels()})
    where.write(measured_machine().model_copy(update={"where": here}), path)
    assert cli.main(["plan", *arguments]) == 0
    assert old not in capsys.readouterr().out


def test_much_of_a_speed_ups_error_cancels() -> None:
    curve = planned(workers=8).curve
    one, two = curve.points[:2]
    assert curve.speed_up(one).deviation == 0
    relative = [point.training.deviation / point.training.seconds for point in (one, two)]
    gain = curve.speed_up(two)
    assert 0 < gain.deviation / gain.seconds < np.hypot(*relative)


def test_memory_falls_with_the_share_of_images() -> None:
    found = planned(workers=8)
    images = [needs.images for needs in found.memory]
    assert images == sorted(images, reverse=True)
    assert images[0] == pytest.approx(8 * images[-1], rel=0.01)


@pytest.mark.parametrize(("gigabytes", "warned"), [(None, False), (0.001, True), (10_000, False)])
def test_more_memory_than_a_node_has_is_warned_of(gigabytes: float | None, warned: bool) -> None:
    found = planned(None if gigabytes is None else int(1e9 * gigabytes), workers=8)
    said = "\n".join(told.notes(found))
    assert ("WARNING: from 1 rank on" in said) is warned
    (_, *cells), column = told.rows(found), told.rows(found)[0].index("memory a rank")
    assert all(row[column].endswith("!") is warned for row in cells)
    assert all((one.best is None) is warned for one in found.recommended)
    points = told.facts(found, [])["points"]
    expected = None if gigabytes is None else warned
    assert {point["more_memory_than_a_node_has"] for point in points} == {expected}


def test_a_nodes_memory_is_the_least_of_what_there_is_and_what_is_given(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    whole = where.memory(tmp_path)
    assert whole is not None
    (tmp_path / "memory.max").write_text("1000\n")
    assert where.memory(tmp_path) == 1000 < whole == where.memory(tmp_path / "absent")


def test_runs_with_the_same_settings_stand_beside_a_plan(tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "ranks-00002").mkdir(parents=True)
    (study / "scale.json").write_text("{}")
    folders = [run(tmp_path / "one", 1, 4.0), run(tmp_path / "two", 2, 3.0), study]
    run(study / "ranks-00002" / "repeat-1", 2, 2.0, train={"seed": 9}, optimizer={"learning_rate": 0.1})
    run(study / "ranks-00002" / "repeat-2", 2, 2.5, averaging={"workers": 8, "period": 8})
    run(study / "ranks-00002" / "repeat-2-unfinished-1", 2, 9.0)
    found, others = measured(folders, planned(workers=8))
    assert [(one.ranks, one.runs, one.seconds) for one in found] == [
        (1, 1, Spread(4.0, 4.0, 4.0)),
        (2, 3, Spread(2.5, 2.0, 3.0)),
    ]
    assert not others


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"averaging": {"workers": 4}}, "averaging.workers = 4; the plan has 8"),
        ({"averaging": {"workers": 8, "period": 4}}, "averaging.period = 4; the plan has 8"),
        ({"train": {"batch": 64}}, "train.batch = 64"),
        ({"hosts": 2}, "on 2 nodes, in the plan they are on 1"),
    ],
)
def test_other_runs_are_named_with_what_is_other(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    found, (line,) = measured([run(tmp_path / "one", **changes)], planned(workers=8))
    assert not found
    assert fault in line


@pytest.mark.parametrize("key", ["outcome", "epochs_done", "data_sha256"])
def test_runs_that_did_something_else_are_not_shown(tmp_path: Path, key: str) -> None:
    path = run(tmp_path / "one") / "run.json"
    content = json.loads(path.read_text())
    content[key] = {"outcome": "stopped", "epochs_done": 3, "data_sha256": "ab"}[key]
    path.write_text(json.dumps(content))
    found, others = measured([tmp_path / "one"], planned(workers=8))
    assert (len(found), len(others)) == (0, 1)


def command(tmp_path: Path, *options: str, machine: Machine | None = None) -> list[str]:
    path = tmp_path / "machine.json"
    where.write(machine or measured_machine(), path)
    sets = [f"prediction.machine={path}", "network.name=garg", "averaging.workers=8"]
    given = ["plan", *(part for one in sets for part in ("--set", one))]
    return [*given, "--most", "8", "--link", "1,100000", *options]


def test_json_says_of_how_many_ranks_nothing_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = measured_machine().model_copy(update={"averaging": averages(1)})
    js = tmp_path / "plan.json"
    assert cli.main(command(tmp_path, "--ranks-per-node", "2", "--json", str(js), machine=alone)) == 0
    facts = json.loads(js.read_text())
    assert [point["ranks"] for point in facts["points"]] == [1, 4, 8]
    (gap,) = facts["gaps"]
    assert gap["ranks"] == 2
    assert gap["why"] in capsys.readouterr().out


def test_the_command_writes_a_picture_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, png, js = run(tmp_path / "one", 2, 3.0), tmp_path / "plan.png", tmp_path / "plan.json"
    options = ["--measured", str(folder), "--plot", str(png), "--json", str(js), "--deadline", "9"]
    assert cli.main(command(tmp_path, *options)) == 0
    said = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG")
    facts = json.loads(js.read_text())
    assert [point["ranks"] for point in facts["points"]] == [1, 2, 4, 8]
    assert [point["extrapolated"] for point in facts["points"]] == [False, False, True, True]
    assert facts["measured"] == [
        {"ranks": 2, "nodes": 1, "runs": 1, "oversubscribed": False}
        | {"seconds": dict.fromkeys(("median", "least", "most"), pytest.approx(3.0))}
    ]
    assert len(facts["recommended"]) == 3
    for one in facts["recommended"]:
        hosts = " --hostfile HOSTS" if one["best"]["nodes"] > 1 else ""
        assert f"--ranks {one['best']['ranks']}{hosts} --set {one['best']['set'][0]}" in said
    assert "HOSTS: a file with a node a line and its room, such as node1 slots=2 (Open MPI)" in said
    for point in facts["points"]:
        low, high = point["efficiency_interval"]
        assert low <= point["efficiency"] <= high
        assert point["memory_bytes"]["total"] == sum(
            size for name, size in point["memory_bytes"].items() if name != "total"
        )
    assert " 3 s" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "."], "--json .: is a folder, wanted is a file"),
        (["--plot", "plan.jpeg"], "must end with one of .png, .svg"),
        (["--json", "nowhere/plan.json"], "there is no folder"),
        (["--measured", "nothing"], "holds no run.json"),
    ],
)
def test_what_is_wrong_is_told(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command(tmp_path, *options)) == 2
    assert said in capsys.readouterr().err


def predicted(tmp_path: Path, name: str, ranks: int, **sections: Any) -> Path:
    """A run that a machine file had predicted."""
    folder, path = run(tmp_path / name, ranks, 3.0, **sections), tmp_path / "machine.json"
    where.write(measured_machine(), path)
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "machine_file": str(path)}))
    return folder


def test_the_page_has_the_plan_of_a_run_that_was_predicted(tmp_path: Path) -> None:
    one, two = predicted(tmp_path, "one", 1), predicted(tmp_path, "two", 2)
    assert cli.main(["report", str(one), str(two), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "1-plan.png").exists()
    assert Elements(text).open == []
    assert text.count("Plan: the same training on more and more ranks</h3>") == 1
    assert "Its plan is that of one." in text
    assert text.count("<td>3 s</td>") == 2  # both runs beside it
    assert "--ranks 2 --set averaging.workers=8" in text
    assert all(link.startswith("data:image/svg+xml;base64,") for link in Elements(text).links)


def test_a_page_plans_for_a_network_that_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = predicted(tmp_path, "one", 1)
    assert cli.main(["report", str(folder)]) == 0
    page = folder / "report" / "report.html"
    assert "no network was measured" in page.read_text()
    assert cli.main(["report", str(folder), "--link", "25,10000"]) == 0
    assert "no network was measured" not in page.read_text()
    assert cli.main(["report", str(folder), "--link", "fast"]) == 2
    assert "--link 'fast': must be MICROSECONDS,MBIT/S" in capsys.readouterr().err


def test_a_run_with_a_worker_a_rank_is_planned_so_on_more(tmp_path: Path) -> None:
    """Its workers are as many as its ranks: other numbers of ranks would have as many workers as they are."""
    folder = predicted(tmp_path, "one", 1, averaging={"workers": 1})
    assert cli.main(["report", str(folder)]) == 0
    text = (folder / "report" / "report.html").read_text()
    assert Elements(text).seen.count("img") == 6
    assert "each rank has one worker, so every line is another experiment" in text
    assert "--ranks 2 --set averaging.workers=2" in text
    assert text.count("<td>3 s</td>") == 1


@pytest.mark.parametrize("lost", ["machine", "config", "nothing"])
def test_a_plan_that_cannot_be_made_takes_nothing_else_away(tmp_path: Path, lost: str) -> None:
    folder = predicted(tmp_path, "one", 1)
    if lost == "machine":
        (tmp_path / "machine.json").write_text("<b>{")
    if lost == "config":
        (folder / "config.toml").write_text("[data]\npath = '/dev/zero'\n")
    assert cli.main(["report", str(folder)]) == 0
    text = (folder / "report" / "report.html").read_text()
    assert ("There is no plan: " in text) is (lost != "nothing")
    assert Elements(text).seen.count("img") == 5 + (lost == "nothing")
    assert "<b>" not in text
