"""`distsgd scale`: which runs, in which order, what they come to, what is kept; with made-up runs, and with real ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from conftest import Launch, clean_environment, end

from distsgd import launcher, record
from distsgd.bench import scaling, sweep
from distsgd.bench.sweep import Point, Repeat, Sweep
from distsgd.cli import main
from distsgd.cli import scale as cli_scale
from distsgd.clock import PHASES, TRAINING
from distsgd.config import Config, InputError
from distsgd.launcher import Launcher
from distsgd.report import scaling as tables
from distsgd.report import speed_up

GOLDEN = Path(__file__).parent / "golden_report"
SMALL = ["--set", "network.name=rendon", "--set", "data.train_images=60", "--set", "train.epochs=1"]


def study(out: Path, counts: str = "1 2 4", repeats: int = 2, **averaging: Any) -> Sweep:
    config = Config.model_validate({"averaging": averaging, "network": {"name": "garg"}})
    return sweep.strong(config, [(int(count), None) for count in counts.split()], repeats, out)


def run_json(point: Point, training: float, **changes: Any) -> dict[str, Any]:
    """What a run of so many seconds of training leaves; each phase of it takes the same."""
    seconds = {phase: training / len(TRAINING) if phase in TRAINING else 1.0 for phase in PHASES}
    return {
        "format": "distsgd-run-1",
        "outcome": "finished",
        "ranks": point.ranks,
        "workers": 4,
        "images_per_second": 1000.0 / training,
        "weights_sha256": "ab" * 32,
        "test_accuracy": 0.9,
        "resumed": [],
        "seconds": {"total": sum(seconds.values()), **seconds},
        "machine": {"oversubscribed": point.ranks > 2},
        **changes,
    }


def ran(run: Repeat, training: float, **changes: Any) -> None:
    run.folder.mkdir(parents=True)
    (run.folder / "run.json").write_text(json.dumps(run_json(run.point, training, **changes)))


PREDICTED = {
    "predicted_seconds": {"total": 13.0, "compute": 3.0, "average": 0.5, "start": 9.0},
    "predicted_interval": {"total": [10, 16], "compute": [2.7, 3.3], "average": [0.1, 0.9], "start": [6, 12]},
}
TIMES = {1: [8.0, 8.2], 2: [4.5, 4.1], 4: [3.0, 2.6]}


def made_up(out: Path, **changes: Any) -> Sweep:
    found = study(out)
    for point in found.points:
        for run, training in zip(found.of(point), TIMES[point.ranks], strict=True):
            ran(run, training, **changes)
    return found


def collected(found: Sweep, codes: dict[Path, int] | None = None) -> tables.Scale:
    (found.out / "scale.json").write_bytes(record.as_json(scaling.collect(found, codes or {})))
    return tables.read_scale(found.out)


def test_every_point_is_the_same_experiment(tmp_path: Path) -> None:
    points = study(tmp_path).points
    assert [point.settings.averaging.workers for point in points] == [4, 4, 4]
    assert len({point.settings.model_dump_json() for point in points}) == 1
    assert study(tmp_path, workers=8).points[0].settings.averaging.workers == 8
    with pytest.raises(InputError, match="workers = 3: must be at least the largest number of ranks, 4"):
        study(tmp_path, workers=3)


def test_weak_scaling_grows_images_with_the_ranks(tmp_path: Path) -> None:
    found = sweep.weak(Config(), [(4, 2), (1, 1)], 1001, 1, tmp_path)
    assert [(point.ranks, point.settings.averaging.workers) for point in found.points] == [(1, 1), (4, 4)]
    assert [point.settings.data.train_images for point in found.points] == [250, 1000]
    with pytest.raises(InputError, match="a worker a rank"):
        sweep.weak(Config.model_validate({"averaging": {"workers": 4}}), [(4, 2)], 1001, 1, tmp_path)
    with pytest.raises(InputError, match="too few"):
        sweep.weak(Config(), [(4, 2)], 3, 1, tmp_path)


def test_repeats_are_interleaved_in_another_order_each(tmp_path: Path) -> None:
    found = study(tmp_path, "1 2 3 4 5 6", 3)
    runs = list(found.runs())
    assert [run.number for run in runs] == [1] * 6 + [2] * 6 + [3] * 6
    orders = [[run.point.ranks for run in runs[first : first + 6]] for first in (0, 6, 12)]
    assert all(sorted(order) == [1, 2, 3, 4, 5, 6] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert runs == list(found.runs())


def test_what_a_study_comes_to(tmp_path: Path) -> None:
    one, two, four = collected(made_up(tmp_path)).points
    assert one.seconds
    assert one.gain
    assert two.gain
    assert four.gain
    assert one.seconds.median == pytest.approx(8.1)
    assert two.gain.speed_up.median == pytest.approx(8.1 / 4.3)
    assert two.gain.speed_up.least == pytest.approx(8.1 / 4.5)
    assert two.gain.speed_up.most == pytest.approx(8.1 / 4.1)
    assert four.gain.efficiency == pytest.approx(8.1 / 2.8 / 4)
    assert four.gain.serial_fraction == pytest.approx((2.8 / 8.1 - 0.25) / 0.75)
    assert one.gain.serial_fraction is None
    assert [point.oversubscribed for point in (one, two, four)] == [False, False, True]


def test_predicted_intervals_hold_what_their_parts_hold(tmp_path: Path) -> None:
    """Of training alone; phases err by themselves, and so do the two runs of a speed-up, but for the first point's own."""
    found = study(tmp_path)
    for point, factor in zip(found.points, (1.0, 0.5, 0.4), strict=True):
        said = {name: 1.0 * factor for name in ("compute", "average", "start")}
        ends = {"compute": [0.7 * factor, 1.3 * factor], "average": [0.6 * factor, 1.4 * factor]}
        for run in found.of(point):
            ran(run, 2.0, predicted_seconds=said, predicted_interval={**ends, "start": [0.1, 9.0]})
    one, two, four = collected(found).points
    assert (one.predicted_seconds, one.predicted_interval) == (2.0, pytest.approx([1.5, 2.5]))
    assert two.predicted_interval == pytest.approx([0.75, 1.25])
    assert one.predicted_gain
    assert four.predicted_gain
    assert one.predicted_gain.speed_up == tables.Spread(median=1.0, least=1.0, most=1.0)
    away = np.exp(np.hypot(0.25, 0.25))
    faster = four.predicted_gain
    assert [faster.speed_up.least, faster.speed_up.most] == pytest.approx([2.5 / away, 2.5 * away])
    assert faster.efficiency_range == pytest.approx([2.5 / away / 4, 2.5 * away / 4])
    assert faster.serial_range == pytest.approx([(away**s / 2.5 - 0.25) / 0.75 for s in (-1, 1)])


def test_weak_scaling_has_predicted_intervals_as_well(tmp_path: Path) -> None:
    found = sweep.weak(Config(), [(1, 1), (4, 2)], 1000, 1, tmp_path)
    for point in found.points:
        ran(found.of(point)[0], 2.0, **PREDICTED)
    last = collected(found).points[1]
    assert last.predicted_gain
    assert last.predicted_gain.speed_up.median == pytest.approx(4)
    assert last.predicted_gain.efficiency_range == pytest.approx(
        [np.exp(-0.5 / 3.5 * 2**0.5), np.exp(0.5 / 3.5 * 2**0.5)]
    )
    assert "100.0% (81.7 to 122.4)" in tables.table(collected(found))


def test_a_prediction_without_an_interval_is_none(tmp_path: Path) -> None:
    found = made_up(tmp_path, predicted_seconds=PREDICTED["predicted_seconds"])
    assert [point.predicted_seconds for point in collected(found).points] == [None] * 3
    assert "predicted" not in tables.table(collected(found))


def test_start_compile_and_evaluation_do_not_count(tmp_path: Path) -> None:
    point = study(tmp_path).points[0]
    found = scaling.Measured.model_validate(run_json(point, 5.0))
    assert found.training == pytest.approx(5.0)
    assert found.seconds["total"] > 9


def test_golden_study(tmp_path: Path) -> None:
    """Where a change is meant: DISTSGD_TEST_GOLDEN=write writes the files anew, and the diff is to be read."""
    found = made_up(tmp_path, **PREDICTED)
    table = tables.table(collected(found)) + "\n"
    for name, text in (("scale.json", (tmp_path / "scale.json").read_text()), ("scale.txt", table)):
        if os.environ.get("DISTSGD_TEST_GOLDEN") == "write":
            (GOLDEN / name).write_text(text)
        assert text == (GOLDEN / name).read_text()


def test_one_rank_need_not_be_among_the_points(tmp_path: Path) -> None:
    found = study(tmp_path, "2 4")
    for point, training in zip(found.points, (4.0, 2.5), strict=True):
        ran(found.of(point)[0], training)
    scale = collected(found)
    assert scale.points[1].gain
    assert scale.points[1].gain.times == 2
    assert scale.points[1].gain.efficiency == pytest.approx(0.8)
    assert "speed-up: over 2 ranks, the fewest that were measured" in tables.table(scale)
    assert "2 runs have not ended yet" in tables.table(scale)


def test_weights_that_differ_are_told(tmp_path: Path) -> None:
    found = made_up(tmp_path)
    assert "weights: the same bits after every run" in tables.table(collected(found))
    run = found.of(found.points[1])[0]
    (run.folder / "run.json").write_text(json.dumps(run_json(run.point, 4.0, weights_sha256="cd" * 32)))
    assert "WARNING: weights differ" in tables.table(collected(found))


def test_weights_that_may_differ(tmp_path: Path) -> None:
    found = study(tmp_path, reduction="fast")
    for number, point in enumerate(found.points):
        ran(found.of(point)[0], 4.0, weights_sha256=str(number))
    said = tables.table(collected(found))
    assert "WARNING" not in said
    assert "averaging.reduction = fast" in said


def test_a_point_that_failed_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    found = study(tmp_path)
    for point in found.points[:2]:
        ran(found.of(point)[0], 4.0)
    codes = {run.folder: 1 for run in found.of(found.points[2])}
    scale = collected(found, codes)
    assert scale.points[2].seconds is None
    assert scale.points[1].gain
    assert "failed: ranks-00004/repeat-1, exit code 1" in tables.table(scale)


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "diverged"},
        {"resumed": [{"epoch": 1}]},
        {"ranks": 3},
        {"seconds": {"total": 1.0}},
        {"seconds": None},
    ],
)
def test_a_run_that_is_not_whole_does_not_count(changes: dict[str, Any], tmp_path: Path) -> None:
    run = study(tmp_path).of(study(tmp_path).points[0])[0]
    ran(run, 1.0, **changes)
    assert scaling.finished(run) is None


def test_workers_that_can_not_be_dealt_evenly_are_told(tmp_path: Path) -> None:
    found = study(tmp_path, "1 3", workers=4)
    for point in found.points:
        ran(found.of(point)[0], 4.0)
    assert "3 ranks: 4 workers can't be dealt evenly, so a speed-up of 2.00 is the most" in tables.table(
        collected(found)
    )


def test_the_picture_shows_the_numbers(tmp_path: Path) -> None:
    scale = collected(made_up(tmp_path, **PREDICTED))
    with matplotlib.rc_context():
        time, speed, efficiency, serial = speed_up.figure(scale).axes
    np.testing.assert_allclose(time.lines[0].get_ydata(), [8.1, 4.3, 2.8])
    np.testing.assert_allclose(speed.lines[0].get_ydata(), [1, 8.1 / 4.3, 8.1 / 2.8])
    labels = time.get_legend_handles_labels()[1]
    assert sorted(labels) == [
        "90 % of runs, predicted",
        "ideal",
        "measured, least and most",
        "more ranks than cores",
        "predicted",
    ]
    low, high = scale.points[1].predicted_interval or []
    bands = [drawn for drawn in time.collections if drawn.get_label() == "90 % of runs, predicted"]
    edges = bands[0].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((low, high))
    assert len(serial.lines[0].get_xdata()) == 2
    assert efficiency.get_ylim()[0] == 0


@pytest.mark.parametrize("content", ["[]", "{", '{"format": "distsgd-scale-2"}', "[" * 9999])
def test_a_study_that_can_not_be(content: str, tmp_path: Path) -> None:
    (tmp_path / "scale.json").write_text(content)
    with pytest.raises(InputError, match=r"scale\.json: "):
        tables.read_scale(tmp_path)


def test_another_study_is_not_mixed_in(tmp_path: Path) -> None:
    sweep.prepare(study(tmp_path))
    sweep.prepare(study(tmp_path, repeats=5))
    sweep.prepare(study(tmp_path, "1 2 6"))  # as nothing has run
    first = study(tmp_path)
    sweep.prepare(first)
    first.of(first.points[0])[0].log.touch()
    with pytest.raises(InputError, match=r"averaging\.workers was 4, now 6; give another folder"):
        sweep.prepare(study(tmp_path, "1 2 6"))


def test_an_interrupted_run_is_put_aside(tmp_path: Path) -> None:
    run = study(tmp_path).of(study(tmp_path).points[0])[0]
    sweep.clear(run)
    for number in (1, 2):
        run.folder.mkdir(parents=True)
        sweep.clear(run)
        assert not run.folder.exists()
        assert run.folder.with_name(f"repeat-1-unfinished-{number}").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes", "1,2"], "--nodes: wants --ranks-per-node as well"),
        (["--nodes", "1,2", "--ranks-per-node", "2"], "--nodes: wants --hostfile"),
        (["--ranks", "1", "--ranks-per-node", "2"], "--ranks-per-node: is for --nodes"),
        (["--ranks", "1", "--scheduler", "slurm"], "--scheduler: wants --nodes"),
        (["--ranks", "1", "--submit"], "--submit: wants --scheduler"),
        (["--ranks", "1", "--time", "1:00:00", "--queue", "x"], "--queue: wants --scheduler"),
        (["--ranks", "1,2", "--set", "data.train_images=1"], "averaging.workers = 2"),
        (["--ranks", "1", "--set", "network.name=alexnet"], "alexnet"),
        (["--ranks", "1", "--set", "train.batch=0"], "train.batch = 0"),
        (["--ranks", "4", "--set", "averaging.workers=2"], "averaging.workers = 2"),
        (["--ranks", "1", "--set", "data.path=none.h5"], "none.h5"),
    ],
)
def test_wrong_options(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scale", *options, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("counts", ["0", "a", "1,,2", "-1", ""])
def test_wrong_counts(counts: str) -> None:
    with pytest.raises(SystemExit):
        main(["scale", f"--ranks={counts}"])


def test_nodes_get_the_first_hosts_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("a slots=9\n# b\nb slots=9\nb slots=1\nc\n")
    assert launcher.first(path, Launcher("mpiexec", "openmpi"), 2, 3) == "a slots=3\nb slots=3\n"
    with pytest.raises(InputError, match=r"--nodes 4, but --hostfile .* names 3 hosts"):
        launcher.first(path, Launcher("mpiexec", "openmpi"), 4, 3)
    path.write_text("a:9\nb\n")
    assert launcher.first(path, Launcher("mpiexec", "mpich"), 2, 3) == "a:3\nb:3\n"


BATCH = [
    "--nodes",
    "1,2",
    "--ranks-per-node",
    "2",
    "--repeat",
    "2",
    "--scheduler",
    "slurm",
    "--mpi",
    "openmpi",
]


def test_batch_jobs_are_written_once_and_what_has_run_is_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["scale", *BATCH, *SMALL, "--time", "1:00:00", "--out", str(out)]
    assert main(command) == 0
    jobs = sorted(out.glob("*/*.job"))
    assert [job.relative_to(out).as_posix() for job in jobs] == [
        f"nodes-0000{nodes}/repeat-{number}.job" for nodes in (1, 2) for number in (1, 2)
    ]
    text = jobs[2].read_text()
    for part in (
        "--nodes=2",
        "--ntasks-per-node=2",
        "--ntasks=4 ",
        "--time=01:00:00",
        f"run={out}/nodes-00002/repeat-1\n",
    ):
        assert part in text
    assert f"train {out}/nodes-00002/config.toml --out" in text
    assert "4 runs have not ended yet" in capsys.readouterr().out
    jobs[0].write_text("mine")
    config = Config()
    for nodes in (1, 2):
        point = Point(2 * nodes, nodes, config)
        ran(Repeat(point, 1, out / point.name / "repeat-1"), 4.0 / nodes, **PREDICTED)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2 runs have not ended yet" in said
    assert " 2.00 " in said
    assert "3.500 (3.000 to 4.000)  1.00 (0.82 to 1.22)" in said
    assert jobs[0].read_text() == "mine"
    assert (out / "scale.svg").exists()
    assert tables.read_scale(out).axis == "nodes"


def test_batch_jobs_have_a_core_for_each_thread(tmp_path: Path) -> None:
    assert main(["scale", *BATCH, *SMALL, "--set", "train.threads=3", "--out", str(tmp_path / "out")]) == 0
    jobs = [job.read_text() for job in tmp_path.glob("out/*/*.job")]
    assert [text.count("--cpus-per-task=3") for text in jobs] == [2] * 4


def test_jobs_are_submitted_once(openmpi: Launch, tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\ncat >> got\necho Submitted batch job 7\n")
    (tmp_path / "sbatch").chmod(0o755)
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ("-m", "distsgd", "scale", *BATCH, "--submit", "--out", "out")
    first = openmpi.alone(*command, cwd=tmp_path, environment=where)
    assert (first.rc, first.stdout.count("Submitted batch job 7")) == (0, 4)
    again = openmpi.alone(*command, cwd=tmp_path, environment=where)
    assert (again.rc, again.stdout.count("was submitted before")) == (0, 4)
    assert (tmp_path / "got").read_text().count("#SBATCH --nodes=2") == 2


def test_a_job_that_was_interrupted_and_resumed_is_submitted_anew(openmpi: Launch, tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\ncat > got\necho Submitted batch job 7\n")
    (tmp_path / "sbatch").chmod(0o755)
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ("-m", "distsgd", "scale", *BATCH, "--submit", "--out", "out")
    openmpi.alone(*command, cwd=tmp_path, environment=where)
    point = Point(2, 1, Config())
    run = Repeat(point, 1, tmp_path / "out" / point.name / "repeat-1")
    ran(run, 4.0, resumed=[{"epoch": 1}])
    again = openmpi.alone(*command, cwd=tmp_path, environment=where)
    assert again.stdout.count("Submitted batch job 7") == 1
    assert not run.folder.exists()


def test_a_job_that_failed_is_told_and_submitted_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "find", lambda _: launcher.Launcher("mpiexec", None))
    submit, launched = tmp_path / "qsub", tmp_path / "mpiexec"
    submit.write_text(f"#!/bin/sh\ncat >> {tmp_path}/got\n")
    launched.write_text("#!/bin/sh\nexit 3\n")
    for program in (submit, launched):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    out = tmp_path / "it's out"
    command = ["scale", *BATCH, *SMALL, "--scheduler", "pbs", "--mpi", "mpich", "--out", str(out)]
    assert main([*command, "--submit"]) == 0
    capsys.readouterr()
    environ = {**os.environ, "PBS_O_WORKDIR": str(tmp_path), "PBS_NODEFILE": "/dev/null"}
    job = out / "nodes-00001" / "repeat-2.job"
    assert subprocess.run(["bash", str(job)], env=environ, check=False).returncode == 3
    job.with_suffix("").mkdir()
    (tmp_path / "got").unlink()
    assert main([*command, "--submit"]) == 1
    said = capsys.readouterr().out
    assert "1 node, 2 ranks, run 2 (failed with exit code 3):" in said
    assert "failed: nodes-00001/repeat-2, exit code 3" in said
    assert "3 runs have not ended yet" in said
    assert (tmp_path / "got").read_text().count("#PBS -N") == 1
    assert not job.with_suffix("").exists()  # put aside
    assert main([*command, "--submit"]) == 0
    assert "4 runs have not ended yet" in capsys.readouterr().out
    assert main([*command, "--before", "module load it"]) == 0
    assert f"{job} stays as it is" in capsys.readouterr().out


def test_a_job_whose_first_line_fails_says_so_too(tmp_path: Path) -> None:
    out, first = tmp_path / "out", ["--before", "false || exit 9"]
    assert main(["scale", *BATCH, *SMALL, *first, "--out", str(out)]) == 0
    job = out / "nodes-00001" / "repeat-1.job"
    assert subprocess.run(["bash", str(job)], check=False).returncode == 9
    assert job.with_suffix(".ended").read_text() == "9\n"


def test_hosts_that_are_too_few_are_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hosts").write_text("a\nb\n")
    options = ["--nodes", "1,4", "--ranks-per-node", "2", "--hostfile", str(tmp_path / "hosts")]
    assert main(["scale", *options, "--out", str(tmp_path / "out")]) == 2
    assert "--nodes 4, but --hostfile" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_point_runs_on_its_hosts(tmp_path: Path) -> None:
    point = Point(4, 2, Config())
    found = Sweep("strong", (point,), 1, tmp_path)
    given = cli_scale.Namespace(hostfile=Path("mine"))
    command = cli_scale._command(given, found, found.of(point)[0])
    assert command[-4:] == ["--ranks", "4", "--hostfile", str(tmp_path / "nodes-00002" / "hosts")]


def test_a_sweep_on_this_machine_and_again(openmpi: Launch, tmp_path: Path) -> None:
    command = ("-m", "distsgd", "scale", "--ranks", "1,2", "--repeat", "1", *SMALL, "--out", "out")
    first = openmpi.alone(*command, cwd=tmp_path, timeout=120)
    assert (first.rc, first.stderr) == (0, "")
    assert first.stdout.count(" s of training, ") == 2
    assert "weights: the same bits after every run" in first.stdout
    scale = json.loads((tmp_path / "out" / "scale.json").read_text())
    assert [point["ranks"] for point in scale["points"]] == [1, 2]
    assert {point["runs"][0]["weights_sha256"] for point in scale["points"]} == {
        scale["points"][0]["runs"][0]["weights_sha256"]
    }
    run = json.loads((tmp_path / "out" / "ranks-00002" / "repeat-1" / "run.json").read_text())
    assert (run["ranks"], run["workers"]) == (2, 2)
    again = openmpi.alone(*command, cwd=tmp_path, timeout=60)
    assert again.rc == 0
    assert "of training, " not in again.stdout
    assert (tmp_path / "out" / "scale.png").exists()
    more = openmpi.alone(*command[:6], "2", *command[7:], cwd=tmp_path, timeout=120)
    assert more.rc == 0
    assert more.stdout.count(" s of training, ") == 2


def test_a_run_that_fails_is_told_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = cli_scale._command
    broken = [sys.executable, "-c", "print('one\\ntwo'); raise SystemExit(7)"]
    monkeypatch.setattr(cli_scale, "_command", lambda *given: broken)
    command = ["scale", "--ranks", "1", "--repeat", "1", *SMALL, "--out", str(tmp_path)]
    assert main(command) == 1
    said = capsys.readouterr().out
    log = tmp_path / "ranks-00001" / "repeat-1.log"
    assert f"1 rank, run 1: failed with exit code 7: two (all of it: {log})" in said
    assert "failed: ranks-00001/repeat-1, exit code 7" in said
    assert log.read_text() == "one\ntwo\n"
    monkeypatch.setattr(cli_scale, "_command", wanted)
    monkeypatch.setenv("PYTHONPATH", clean_environment({})["PYTHONPATH"])
    assert main(command) == 0


def test_an_interrupted_sweep_ends_its_run_and_goes_on(tmp_path: Path) -> None:
    settings = ["--set", "network.name=rendon", "--set", "train.epochs=100000"]
    line = [
        sys.executable,
        "-m",
        "distsgd",
        "scale",
        "--ranks",
        "1",
        "--repeat",
        "1",
        *settings,
        "--out",
        "out",
    ]
    job = subprocess.Popen(
        line,
        cwd=tmp_path,
        env=clean_environment({}),
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "out" / "ranks-00001" / "repeat-1" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    try:
        while not metrics.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGINT)
        _, said = job.communicate(timeout=30)
    finally:
        import psutil

        with_children = psutil.Process(job.pid) if job.poll() is None else None
        if with_children:
            end([*with_children.children(recursive=True), with_children])
    assert job.returncode == 130
    assert "the same command goes on" in said
    assert "stopped after" in (metrics.parent.with_suffix(".log")).read_text()
